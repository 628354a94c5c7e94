"""What `make fuzz` runs, in short; that it sees every kind of fault, and what it found before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import inputs, mechanisms, run, targets
from benchmarks.fuzz.__main__ import apart
from benchmarks.fuzz.exact import Affine, Area, Row, Tape, decide_on, least
from benchmarks.fuzz.mutate import smallest

COUNTS = {"specification": 300, "witness": 300, "results": 200, "ledger": 200, "proof": 400, "packed": 40, "model": 60,
          "operators": 15}  # fmt: skip


@pytest.mark.parametrize("target", COUNTS)
def test_a_short_run_finds_nothing(target: str) -> None:
    words = {targets.TARGETS[target](inputs.case(target, 1, number)) for number in range(COUNTS[target])}
    assert len(words) > 1 or target == "packed"  # both what is read and what is refused


@pytest.mark.parametrize(
    ("target", "numbers", "reached"),
    [("planar", (2, 5), {"one hidden layer", "clipped intervals", "row trees"}), ("grouped", (3, 6), {"query groups"})],
)
def test_problems_reach_what_they_are_made_for(target: str, numbers: tuple[int, ...], reached: set[str]) -> None:
    words = Counter(targets.TARGETS[target](inputs.case(target, 1, number)) for number in numbers)
    what, used = apart(words)
    assert reached <= used.keys() <= mechanisms.WATCHED.keys() and sum(what.values()) == len(numbers)


@pytest.mark.parametrize("seed", range(20))
def test_the_image_of_a_box_and_least_values_on_it(seed: int) -> None:
    """Against all of the box's corners, and points of it."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    matrix = [[Fraction(int(v)) for v in rng.integers(-3, 4, n)] for _ in range(2)]
    lower = [Fraction(int(v), 2) for v in rng.integers(-4, 4, n)]
    upper = [a + Fraction(int(v), 2) for a, v in zip(lower, rng.integers(0, 4, n), strict=True)]
    area, tape = Area.of_image(matrix, lower, upper), Tape(2)

    def image(x: Sequence[Fraction]) -> tuple[Fraction, ...]:
        return tuple(sum((c * v for c, v in zip(row, x, strict=True)), Fraction(0)) for row in matrix)

    corners = [image(x) for x in product(*zip(lower, upper, strict=True))]
    assert set(area.corners) <= set(corners)
    for a, b in rng.integers(-5, 6, (20, 2)).tolist():
        assert min(a * p + b * q for p, q in area.corners) == min(a * p + b * q for p, q in corners)
    hidden = [
        tape.relu(Affine({0: Fraction(a), 1: Fraction(b)}, Fraction(c)))
        for a, b, c in rng.integers(-3, 4, (3, 3)).tolist()
    ]
    value = hidden[0] + hidden[1].times(Fraction(-2)) + hidden[2]
    low = least(tape, area, value)
    shares = [[Fraction(int(v), 8) for v in rng.integers(0, 9, n)] for _ in range(100)]
    points = [image([a + t * (b - a) for a, b, t in zip(lower, upper, share, strict=True)]) for share in shares]
    assert all(value.at(tape.values(point)) >= low for point in [*points, *corners])
    below, at = ([[Row(value.plus(-low), strict)]] for strict in (True, False))
    assert decide_on(tape, area, below) is None
    found = decide_on(tape, area, at)
    assert isinstance(found, tuple) and value.at(tape.values(found)) == low


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
