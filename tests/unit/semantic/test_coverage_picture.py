"""What a coverage picture says: the claim, names and units, the mark at the unchanged image, a key for every mark."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import vnnlib
from tests.unit.semantic.semantic_helpers import network as small_network
from verifier.budget import Budget
from verifier.graph.onnx_import import load_model
from verifier.semantic import Coordinates, Perturbation, Range, coverage_picture, coverage_report, notes, prepare
from verifier.semantic import network as networks
from verifier.semantic.coverage_search import CoverageLimits, cover
from verifier.semantic.family import from_files, from_problems

CPU = torch.device("cpu")


NET = networks.load(small_network("coordinates", size=8, points=2, seed=3))
IMAGE = np.random.default_rng(3).random((1, 8, 8))


def study(tolerance=0.2, low=0.8):
    box = Perturbation((Range("contrast", low, 1.2), Range("brightness", -0.1, 0.1)))
    return prepare(NET, IMAGE, None, box, Coordinates(tolerance), reference="self")


def covered(family):
    return coverage_report.collect(family, cover(family, CoverageLimits(0.05), Budget()))


def of_pair(problem, text=None):
    text = problem.spec() if text is None else text
    spec = vnnlib.loads(text)
    model = load_model(problem.model().SerializeToString())
    return covered(from_files(model, vnnlib.normalise(spec), CPU, header=spec.header))


def drawn(monkeypatch, call, *arguments):
    """Every text of the figure that a call would have saved."""
    kept = []
    monkeypatch.setattr(coverage_picture, "_save", lambda figure, path: kept.append(figure))
    call(*arguments, None)
    figure = kept[0]
    FigureCanvasAgg(figure).draw()
    texts = [t.get_text() for t in figure.findobj(Text)]
    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()
    for legend in [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]:
        box = legend.get_window_extent(renderer)  # a legend that sticks out is cut off
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    return figure, "\n".join(texts)


def test_a_pair_of_files_has_the_names_the_claim_and_the_mark(monkeypatch):
    (found,) = of_pair(study())
    assert found.names == ("contrast", "brightness") and found.identity.tolist() == [1.0, 0.0]
    assert found.claim.startswith("key points 0-1 stay within 0.2 px") and found.rectangle is not None
    figure, text = drawn(monkeypatch, coverage_picture.picture, found)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "contrast (factor)" and axes.get_ylabel() == "brightness (added, 1 = white)"
    assert "Claim: key points 0-1 stay within 0.2 px" in text.replace("\n", " ")
    assert "unchanged image\n(contrast 1, brightness 0)" in text and "box 0" not in text and "X_0" not in text
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(float(c.get_xdata()[0]), float(c.get_ydata()[0])) for c in circles] == [(1.0, 0.0)]


def test_an_unchanged_image_outside_the_box_is_not_drawn(monkeypatch):
    (found,) = of_pair(study(low=1.1))
    figure, text = drawn(monkeypatch, coverage_picture.picture, found)
    assert "(contrast 1, brightness 0)" not in text and not [c for c in figure.axes[0].lines if c.get_marker() == "o"]


def test_another_specification_takes_the_names_but_never_the_claim():
    problem = study()
    text = "\n".join(line for line in problem.spec().splitlines() if not line.startswith(";"))
    (found,) = of_pair(problem, text)
    assert found.names == ("contrast", "brightness") and found.claim == ""


def test_strange_notes_change_nothing():
    read = notes.read(
        ["Inputs: X_0 = evil in [0, 1], X_7 = haze in [0, 1].", "Claim: " + "x" * 1000, "Claim: a\x1b[2J"]
    )
    assert read == notes.Notes("", ((7, "haze"),))
    assert read.name(0) == "X_0" and read.identity([0, 7]) is None and read.identity([7]) == [0.0]


def test_what_is_written_is_read():
    ranges = (Range("contrast", 0.8, 1.2), Range("gradient_x", -0.125, 1e-9))
    read = notes.read([notes.claim_line("c; d", "r"), notes.inputs_line(ranges)])
    assert read == notes.Notes("c; d; reference: r", ((0, "contrast"), (1, "gradient_x")))


@pytest.mark.parametrize("version", [1, 2])
def test_the_comments_of_a_specification_survive_reading_and_writing(version):
    text = study().spec(version)
    spec = vnnlib.loads(text)
    assert [f"; {line}" for line in spec.header] == [line for line in text.splitlines() if line.startswith(";")]
    assert vnnlib.loads(vnnlib.dumps(spec)).header == spec.header
    assert vnnlib.loads(text.replace("(assert", "; later\n(assert", 1)).header == spec.header


def test_a_contact_sheet_has_a_key_for_every_mark(monkeypatch):
    found = covered(from_problems([study(t) for t in (0.02, 0.2, 5.0)], CPU))
    assert any(len(c.examples) for c in found) and any(c.rectangle is not None for c in found)
    _, text = drawn(monkeypatch, coverage_picture.contact_sheet, found)
    for word in ("certified", "refuted", "open", "unchanged image", "counterexample", "largest certified rectangle"):
        assert word in text
    assert "across: contrast (factor) 0.8 to 1.2" in text and "Claim" not in text  # they differ


def test_a_shared_claim_stands_above_the_sheet(monkeypatch):
    found = covered(from_problems([study(), study()], CPU))
    _, text = drawn(monkeypatch, coverage_picture.contact_sheet, found)
    assert "Claim: visible key points stay within 0.2 px" in text.replace("\n", " ")
