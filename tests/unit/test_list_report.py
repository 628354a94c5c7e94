"""The page of a list: what is on it, in what words, and that nothing in a name is more than a name."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import vnnlib
from tests.unit.fake_workers import FakeWorker
from verifier.command import list_report, witness_picture
from verifier.command.instances import Outcomes, run_list
from verifier.command.list_report import Report
from verifier.command.worker import Job, JobOutcome, Note
from verifier.executors.processes import Processes
from verifier.options import Options, dotted

BAD = "<script>alert(1)</script>"
FACTS = [("Machine", "m")]


class Page(HTMLParser):
    """Elements, their text, and whether every one that opens closes in order."""

    VOID = frozenset({"meta", "br", "img", "input", "link", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


def job(onnx: str, spec: str, folder: Path = Path()) -> Job:
    return Job("bench", onnx, spec, Path(onnx), folder / spec, 60.0)


def written(path: Path, jobs: list[Job], outcome: Outcomes, report: Report) -> str:
    report.write(outcome.lines, dotted(Options().to_mapping()), FACTS)
    return path.read_text(encoding="utf-8")


def test_a_list_with_every_kind_of_ending(tmp_path: Path) -> None:
    jobs = [job(name, f"p{i}.vnnlib") for i, name in enumerate(("ok", "sat", "refuse", "ok", "<b>x"))]
    report = Report(tmp_path / "out.html", jobs)
    outcome = run_list(jobs[:3], tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")), heard=report.heard)
    text = written(tmp_path / "out.html", jobs, outcome, report)
    page = Page(text)
    lines = {tuple(row[:2]) for row in page.rows}
    assert {
        ("ok p0.vnnlib", "unsat"),
        ("sat p1.vnnlib", "sat"),
        ("refuse p2.vnnlib", "error"),
        ("ok p3.vnnlib", "not run"),
        ("<b>x p4.vnnlib", "not run"),
    } <= lines
    assert "2 of 5 settled: 1 unsat, 1 sat; 1 error, 2 not run." in text
    assert "2 instances have not been run" in text
    assert "error: not a network" in text  # why it stayed open
    assert "((X_0 1.0)" in text and "<svg" in text and "search.max_depth" in text
    # families are networks here: counts by word, then times
    assert ["ok", "1", "0", "0", "0", "0", "1", "0.50", "0.50", "0.50"] in page.rows
    assert not [value for name, value in page.attributes if name in ("src", "href") and "//" in (value or "")]


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    bad = f"{BAD}\"'$x_{{</td>"
    jobs = [Job(bad, f"_{bad}{i}", f"{bad}.vnnlib", Path("x"), Path("y"), 60.0) for i in range(2)]
    report = Report(tmp_path / "out.html", jobs)
    report.heard(jobs[0], JobOutcome("timeout", 1.0, Note(bad, bad, bad, 3, 0.5)))
    report.heard(jobs[1], JobOutcome("sat", 1.0, Note(bad), bad))
    lines = [
        list_report.Finished(j.category, j.onnx, j.vnnlib, word, 1.0)
        for j, word in zip(jobs, ("timeout", "sat"), strict=True)
    ]
    report.write(lines, {bad: bad}, [(bad, bad)])
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2 and "alert(1)</script>" not in text
    assert [f"_{bad}0 {bad}.vnnlib", "timeout", "1.00", "3", bad, bad] in page.rows
    assert "50 % of the input volume open" in text


def test_what_an_earlier_run_said_is_kept(tmp_path: Path) -> None:
    jobs, out = [job("ok", "a"), job("sat", "b"), job("ok", "c")], tmp_path / "out.html"
    first = Report(out, jobs)
    outcome = run_list(jobs[:2], tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")), heard=first.heard)
    written(out, jobs, outcome, first)
    second = Report(out, jobs, lambda job: "an earlier witness" if job.onnx == "sat" else None)
    outcome = run_list(jobs, tmp_path / "r.csv", Processes(1, FakeWorker(tmp_path / "log")), heard=second.heard)
    text = written(out, jobs, outcome, second)
    assert outcome.skipped == 2 and "3 of 3 settled" in text and "an earlier witness" in text
    assert ["ok a", "unsat", "0.50", "", "", "proven"] in Page(text).rows


@pytest.mark.parametrize(
    "content", ["", "no page", '<script type="application/json" id="notes">[1]</script>', "\xff" * 9, "[" * 10**5]
)
def test_another_file_in_its_place_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.html").write_text(content, encoding="latin-1")
    report = Report(tmp_path / "out.html", [job("ok", "a")])
    report.write([], {}, FACTS)
    assert "0 of 1 settled: 0 unsat, 0 sat; 1 not run." in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_families_are_what_tells_instances_apart() -> None:
    folders = [job("acasxu/onnx/a.onnx", "v/p1"), job("cifar/onnx/a.onnx", "v/p1")]
    assert list_report.families(folders) == ["acasxu", "cifar"]
    networks = [job("onnx/a.onnx.gz", "p1"), job("onnx/b.onnx", "p2")]
    assert list_report.families(networks) == ["a", "b"]
    assert list_report.families([job("a.onnx", "near/p1"), job("a.onnx", "far/p2")]) == ["near", "far"]
    assert list_report.families([job("a.onnx", "p1"), job("a.onnx", "p2")]) == ["bench", "bench"]


def pixels(address: str) -> np.ndarray:
    from PIL import Image

    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_witness_of_an_image_is_drawn_beside_it(tmp_path: Path, channels: int) -> None:
    shape = (1, channels, 2, 3)
    n = 6 * channels
    middle = np.linspace(0, 1, n)
    lines = [f"(declare-const X_{i} Real)" for i in range(n)] + ["(declare-const Y_0 Real)", "(assert (<= Y_0 0))"]
    for i, value in enumerate(middle):
        lines += [f"(assert (>= X_{i} {value - 0.5:.17g}))", f"(assert (<= X_{i} {value + 0.5:.17g}))"]
    (tmp_path / "p").write_text("\n".join(lines))
    x = middle.copy()
    x[4] += 0.5
    text = vnnlib.format_witness_v1(x, np.zeros(1))
    drawn = list_report.pictured(text, tmp_path / "p", shape)
    assert drawn is not None and "1 of" in drawn.caption
    original, witness, difference = (pixels(address) for _, address in drawn.pictures)
    # black is -0.5, full 1.5, and channels come last
    expected = np.moveaxis(np.round(255 * (middle.reshape(shape[1:]) + 0.5) / 2), 0, 2)
    assert np.array_equal(original.reshape(2, 3, channels), expected)
    assert np.array_equal(np.flatnonzero(np.moveaxis(difference.reshape(2, 3, channels), 2, 0)), [4])
    assert (witness != original).sum() == 1
    assert list_report.pictured(text, tmp_path / "p", (1, 2, 2, 3)) is None
    assert list_report.pictured(text, tmp_path / "none", shape) is None
    assert not witness_picture.is_image((1, 3, 4096, 4096)) and not witness_picture.is_image((1, 1, 1, 5))


def test_long_witnesses_are_cut_and_counted() -> None:
    assert list_report.cut("x" * 10) == "x" * 10
    assert list_report.cut("x" * 10**6).endswith("... (1,000,000 characters in all)")


def test_notes_are_plain_data(tmp_path: Path) -> None:
    jobs = [job("ok", "a")]
    report = Report(tmp_path / "out.html", jobs)
    report.heard(jobs[0], JobOutcome("unsat", 1.0, Note("why", "help", "how", 7, 0.25, (1, 3, 8, 8))))
    report.write([], {}, FACTS)
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    found = re.search(r'id="notes">(.*?)</script>', text, re.DOTALL)
    assert found is not None and json.loads(found[1])[0][:3] == ["bench", "ok", "a"]
    assert list_report._read_notes(tmp_path / "out.html") == {
        ("bench", "ok", "a"): Note("why", "help", "how", 7, 0.25, (1, 3, 8, 8))
    }
