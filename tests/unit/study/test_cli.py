"""`secateur compare` as a user meets it."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import yaml

from benchmarks import synthetic_study as synthetic
from pruning.study import cli
from pruning.study.runner import StudyProgress
from pruning.study.terminal import progress_told


def factory(task, study):
    return synthetic.hands()


@pytest.fixture
def networks(tmp_path):
    paths = [tmp_path / "dense.onnx", tmp_path / "small.onnx"]
    synthetic.train(seed=0, epochs=1, like=None, work=tmp_path, out=paths[0])
    synthetic.prune(model=paths[0], criterion="usn", ratio=0.5, like=None, seed=0, work=tmp_path, out=paths[1])
    return [str(p) for p in paths]


def test_the_one_line_form(tmp_path, networks, capsys):
    out = tmp_path / "out"
    line = [*networks, "--data", "synthetic", "--images", "6", "--out", str(out)]
    assert cli.main(line, factory) == 0
    first = capsys.readouterr()
    assert "small vs dense" in first.out and str(out / "report.html") in first.out and "12 of 12" in first.err
    rows = (out / "results.jsonl").read_bytes()
    assert rows.count(b"\n") == 12 and (out / "report.html").is_file() and (out / "summary.json").is_file()
    assert cli.main(line, factory) == 0  # again: nothing to do, nothing repeated
    assert (out / "results.jsonl").read_bytes() == rows
    capsys.readouterr()
    assert cli.main([*line, "--tau", "0.01"], factory) == 2
    assert "--out" in capsys.readouterr().err


def test_a_study_file_then_its_report_and_check(tmp_path, capsys):
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    content = {
        "name": "SYNTHETIC", "data": "synthetic", "images": 8, "seeds": [0, 1], "ratios": [0.5],
        "arms": ["dense+ft", "usn"], "budget": {"train": 2, "finetune": 1},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    assert cli.main(["--study", str(path), "--out", str(out), "--images", "3", "--no-report"], factory) == 0
    assert not (out / "report.html").exists()
    assert (out / "results.jsonl").read_bytes().count(b"\n") == 12
    capsys.readouterr()
    assert cli.main(["--report", str(out), "--check"]) == 1
    shown = capsys.readouterr().out
    assert (
        "Success criterion: " in shown
        and "not measured" not in shown
        and "Networks with " in shown
        and (out / "report.html").is_file()
    )


def test_result_files(tmp_path, capsys):
    for name, word in (("one", "sat"), ("two", "unsat")):
        (tmp_path / f"{name}.csv").write_text(f"c,n.onnx,p.vnnlib,0,{word},1\nc,m.onnx,p.vnnlib,0,unsat,2\n")
    files = [str(tmp_path / "one.csv"), f"second={tmp_path / 'two.csv'}"]
    line = [
        "--results",
        *files,
        "--timeout",
        "10",
        "--json",
        str(tmp_path / "o.json"),
        "--cactus",
        str(tmp_path / "c.svg"),
    ]
    assert cli.main(line) == 0
    shown = capsys.readouterr().out
    assert "contradiction: c n.onnx p.vnnlib: sat: one; unsat: second; taken as open" in shown
    assert json.loads((tmp_path / "o.json").read_text())["tools"] == ["one", "second"]
    assert (tmp_path / "c.svg").is_file()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "nothing to compare"),
        (["a.onnx", "--study", "s.yaml"], "both networks and --study"),
        (["a.onnx"], "no images named"),
        (["a.onnx", "--data", "d"], "a.onnx: no such file"),
        (["a.onnx", "--data", "d", "--images", "0"], "--images 0"),
        (["a.onnx", "--data", "d", "--tau", "3"], "tau 3.0"),
        (["a.onnx", "--data", "d", "--timeout", "0"], "timeout 0.0"),
        (["--study", "none.yaml"], "none.yaml: cannot read"),
        (["--report", "none"], "cannot read the results"),
        (["--results", "none.csv"], "none.csv: cannot read"),
        (["--results", "none.csv", "--timeout", "-1"], "--timeout -1.0"),
        (["--results", "none.csv", "--device", "cuda"], "--device has no meaning with --results"),
        (["--report", "none", "--timeout", "3"], "--timeout has no meaning with --report"),
        (["--study", "none.yaml", "--tau", "0.1"], "--tau has no meaning with --study"),
        (["a.onnx", "--data", "d", "--truth", "t.csv"], "--truth has no meaning with networks"),
    ],
)
def test_mistakes_are_one_line_and_code_2(tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(line, factory) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and words in shown.err and shown.err.count("\n") == 1
    assert shown.err.startswith("secateur compare: error: ")


def test_interrupting_says_how_to_go_on(tmp_path, networks, capsys):
    def stop(model, image, task):
        raise KeyboardInterrupt

    def stopping(task, study):
        from dataclasses import replace

        return replace(synthetic.hands(), verify=stop)

    line = [*networks, "--data", "synthetic", "--images", "2", "--out", str(tmp_path / "out")]
    assert cli.main(line, stopping) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_help_needs_no_heavy_package():
    program = """
import sys
from pruning.study import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
names = "numpy scipy torch onnx onnxruntime matplotlib rich jinja2 yaml PIL"
heavy = set(names.split()) & set(sys.modules)
print("\\nheavy:", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("heavy: []\n") and "exit codes" in done.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_and_in_a_file():
    for stream, expected in (
        (Terminal(), "\r\x1b[2K1 of 2 results, 2 h 00 min left"),
        (io.StringIO(), "1 of 2 results"),
    ):
        with progress_told(stream) as tell:
            tell(StudyProgress(1, 2, 7200.0, None))
            tell(StudyProgress(2, 2, 0.0, None))
        assert stream.getvalue().startswith(expected) and stream.getvalue().endswith("2 of 2 results\n")
