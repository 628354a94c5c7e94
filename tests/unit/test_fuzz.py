"""What `make fuzz` runs, in short; that it sees every kind of fault, and what it found before."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import inputs, run, targets
from benchmarks.fuzz.mutate import smallest

COUNTS = {"specification": 300, "witness": 300, "results": 200, "ledger": 200, "proof": 400, "packed": 40, "model": 60,
          "operators": 15}  # fmt: skip


@pytest.mark.parametrize("target", COUNTS)
def test_a_short_run_finds_nothing(target: str) -> None:
    words = {targets.TARGETS[target](inputs.case(target, 1, number)) for number in range(COUNTS[target])}
    assert len(words) > 1 or target == "packed"  # both what is read and what is refused


def test_a_case_is_always_the_same() -> None:
    for target in inputs.MAKERS:
        assert inputs.case(target, 3, 5) == inputs.case(target, 3, 5) != inputs.case(target, 3, 6)


def test_the_smallest_input_that_fails() -> None:
    assert smallest(b"abc(def)ghi" * 9, lambda data: b"(" in data and b"g" in data) in (b"(g", b"g(")


@pytest.mark.parametrize("trouble", ["raises", "warns", "dies", "hangs"])
def test_every_kind_of_fault_is_seen(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, with the input that did it."""
    code = {
        "raises": "raise KeyError(data)",
        "warns": "import warnings; warnings.warn('odd')",
        "dies": "import os; os.abort()",
        "hangs": "import time; time.sleep(60)",
    }[trouble]
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom benchmarks.fuzz import run, targets\n"
        f"def proof(data):\n    with targets.only(ValueError):\n        if len(data) > 200:\n            {code}\n"
        "    return 'read'\n"
        "targets.TARGETS['proof'] = proof\n"
        "run.worker('proof', 1, 0, 5.0, Path(sys.argv[1]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(run, "HANG", 1.0)
    monkeypatch.setattr(run, "COMMAND", [str(script), str(tmp_path)])
    tally = run.watch("proof", 1, 30.0, tmp_path, most=1)
    (folder,) = tally.failures
    assert len((folder / "input").read_bytes()) > 200
    assert {"raises": "KeyError", "warns": "odd", "dies": "ended with -6", "hangs": "a hang"}[trouble] in (
        folder / "README"
    ).read_text()
    if trouble == "raises":
        assert len((folder / "smallest").read_bytes()) == 201


@pytest.mark.parametrize(
    ("target", "data"),
    [
        ("specification", "(;\N{ZERO WIDTH NO-BREAK SPACE}é".encode()),
        ("ledger", b'acasxu,a.onnx,b.vnnlib,0.1,timeout,"1.5\naca'),
        ("ledger", b'acasxu,a.onnx,b.vnnlib,0.1,timeout,1.5\n"a'),
        ("ledger", b"a\x0bb,a.onnx,b.vnnlib,0.1,timeout,1.5\n"),
    ],
)
def test_what_was_found_before(target: str, data: bytes) -> None:
    targets.TARGETS[target](data)
