"""Memory, options and the clock on the paths that search images: what holds for a verdict holds there too."""

from __future__ import annotations

import json

import pytest
import torch

from tests.unit.semantic.semantic_helpers import network as small_network
from verifier.budget import Budget
from verifier.command import verify as command
from verifier.errors import OptionsError
from verifier.options import BoundOptions, Options, SearchOptions
from verifier.semantic import Coordinates, Perturbation, Range, cells, coverage, coverage_search, grid, network, prepare
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, cover
from verifier.semantic.family import Family, from_problems
from verifier.semantic.many import verify_family, verify_problems

RANGES = Perturbation((Range("contrast", 0.8, 1.2), Range("brightness", -0.1, 0.1)))


def problems(*tolerances: float) -> list:
    import numpy as np

    net = network.load(small_network("coordinates", size=8, points=3, seed=0))
    draw = np.random.default_rng(0)
    return [prepare(net, draw.random((1, 8, 8)), None, RANGES, Coordinates(t), reference="self") for t in tolerances]


def family(*tolerances: float) -> Family:
    return from_problems(problems(*tolerances), torch.device("cpu"))


@pytest.fixture
def pair(tmp_path):
    (problem,) = problems(0.1)
    (tmp_path / "a.onnx").write_bytes(problem.model().SerializeToString())
    (tmp_path / "a.vnnlib").write_text(problem.spec())
    return str(tmp_path / "a.onnx"), str(tmp_path / "a.vnnlib")


@pytest.fixture
def narrow(monkeypatch):
    """Bounds that never fit for more than 2 boxes at once; the sizes that were refused."""
    refused = []
    bound = cells.bound_cells

    def bound_cells(family, lower, *rest):
        if len(lower) > 2:
            refused.append(len(lower))
            raise MemoryError
        return bound(family, lower, *rest)

    for place in (cells, coverage_search):
        monkeypatch.setattr(place, "bound_cells", bound_cells)
    return refused


def test_areas_are_the_same_where_steps_have_to_be_smaller(narrow):
    members = family(0.1, 0.2)
    found = cover(members, CoverageLimits(0.0, depth=8), Budget.of(60), batch=32)
    assert narrow and not found.ended
    small = cover(members, CoverageLimits(0.0, depth=8), Budget.of(60), batch=1)
    for status in (CERTIFIED, REFUTED, OPEN):
        assert grid.area(found.of(status), 2) == grid.area(small.of(status), 2)
    assert all(total == 1 for total in grid.area(found.cells, 2))


def test_verdicts_are_the_same_where_steps_have_to_be_smaller(narrow):
    members = family(0.03, 0.6, 0.9, 1.5, 2.0)
    found = [
        r.verdict.value for r in verify_family(members, Budget.of(60), options=Options(search=SearchOptions(batch=16)))
    ]
    assert narrow and set(found) == {"sat", "unsat"}
    assert found == [
        r.verdict.value for r in verify_family(members, Budget.of(60), options=Options(search=SearchOptions(batch=1)))
    ]


def test_without_room_nothing_is_claimed():
    members = family(0.1)
    budget = Budget.of(60, memory_bytes=1)
    state = cover(members, CoverageLimits(), budget)
    assert state.shares(OPEN).tolist() == [1.0] and "--memory" in state.ended
    (result,) = verify_family(family(1.5), budget)
    assert result.verdict.value == "unknown" and result.reason.startswith("memory: ") and result.open_fraction == 1.0


def test_a_search_without_room_tells_so_and_is_open(pair, capsys):
    for run in (lambda: command.main([*pair, "--coverage", "--memory", "1e-9"]),
                lambda: coverage.main([*pair, "--memory", "1e-9"])):  # fmt: skip
        assert run() == 0
        out, err = capsys.readouterr()
        assert "open 1.000000" in out and "stopped: memory: " in err


def test_progress_tells_what_is_settled_and_how_long_is_left():
    seen: list = []
    cover(family(0.1), CoverageLimits(0.05), Budget.of(60), progress=seen.append)
    assert [p.boxes for p in seen] == sorted(p.boxes for p in seen) and seen[-1].settled >= 0.95
    assert all(0 < p.remaining <= 60 for p in seen)


@pytest.mark.parametrize(
    "line", ["dtype: float32", "bounds: {method: crown}", "attack: {restarts: 1}", "search: {max_depth: 3}"]
)
def test_options_that_coverage_cannot_honour_are_refused(line, pair, tmp_path, capsys):
    (tmp_path / "o.yaml").write_text(line)
    assert command.main([*pair, "--coverage", "--options", str(tmp_path / "o.yaml")]) == 2
    error = capsys.readouterr().err
    assert "--coverage does not use it" in error and error.count("\n") == 1


def test_options_that_coverage_honours(pair, tmp_path, capsys):
    (tmp_path / "o.yaml").write_text("{device: cpu, seed: 3, timeout: 60, memory: 4, search: {batch: 2}}")
    assert command.main([*pair, "--coverage", "--options", str(tmp_path / "o.yaml")]) == 0
    assert "open 0.00" in capsys.readouterr().out


def test_options_that_a_search_of_many_images_cannot_honour_are_refused():
    with pytest.raises(OptionsError, match=r"bounds\.method: found 'crown'"):
        verify_problems(problems(0.1), Options(bounds=BoundOptions(method="crown")), Budget.of(60))


def test_a_result_says_why_its_search_was_chosen(pair, tmp_path, capsys):
    assert command.main([*pair, "-v", "--json", str(tmp_path / "r.json")]) == 0
    told = json.loads((tmp_path / "r.json").read_text())["settings"]["strategy"]
    assert "2 inputs vary" in told and f"strategy = {told}" in capsys.readouterr().err
