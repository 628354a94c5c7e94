"""A random problem through the verifier, and whether what it says is true.

An `unsat` is compared with the exact truth, in fractions, where at most two inputs vary, else with random points and
the optimum of a mixed-integer programme (HiGHS), evaluated in fractions. A `sat` is replayed in ONNX Runtime. Some
problems go through the command line, some write a proof, which the checker has to accept.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

import verifier
import vnnlib
from benchmarks.fuzz import mechanisms
from benchmarks.fuzz.exact import Point, Row
from benchmarks.fuzz.models import Pick
from benchmarks.fuzz.planar import GroupedProblem, KnownProblem, PlanarProblem
from benchmarks.fuzz.problems import RandomProblem
from verifier.errors import ModelError, OptionsError
from verifier.options import AttackOptions, BoundOptions, Options, SearchOptions

OVERFLOWS = re.compile("overflows: ONNX Runtime computes (nan|-?inf)")


class Wrong(AssertionError):
    """A verdict that is not true, or none at all; `files` reproduce it."""

    def __init__(self, message: str, files: dict[str, bytes]) -> None:
        super().__init__(message)
        self.files = files


class Choices:
    """Choices out of bytes, four for each; the first of everything when they run out. So bytes that are left out or set
    to zero make a simpler problem."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def __call__(self, values: Sequence[Any]) -> Any:
        number = int.from_bytes(self._stream.read(4), "little")
        return values[number % len(values)]


def problems(data: bytes) -> str:
    """The target of `benchmarks/fuzz/run.py`."""
    pick = Choices(data)
    options = random_options(pick)
    way = pick(["call"] * 50 + ["command"] + ["proof"] * 20)
    return check(RandomProblem(pick, pick([False, True])), options, way)


def planar(data: bytes) -> str:
    """The same for problems of many inputs, where neurons are split."""
    return _known(data, PlanarProblem)


def grouped(data: bytes) -> str:
    """The same for problems of many queries that fix most inputs."""
    return _known(data, GroupedProblem)


def _known(data: bytes, kind: type[KnownProblem]) -> str:
    pick = Choices(data)
    options = replace(
        random_options(pick), bounds=BoundOptions(method=pick(["auto", "auto", "auto", "crown", "alpha"]))
    )
    options = replace(options, search=replace(options.search, max_depth=None), timeout=3.0)
    problem = kind(pick, pick([False, False, True]))
    mechanisms.watch()
    mechanisms.used()
    word = check(problem, options, pick(["call"] * 12 + ["proof"]))
    return f"{word}; {', '.join(mechanisms.used())}"


def random_options(pick: Pick) -> Options:
    return Options(
        search=SearchOptions(batch=pick([16, 1, 64]), max_depth=pick([5, 12])),
        attack=AttackOptions(restarts=pick([0, 0, 0, 4]), steps=4),
        bounds=BoundOptions(method=pick(["auto", "auto", "forward", "crown", "alpha", "lumped"]), alpha_steps=3),
        dtype=pick(["auto", "auto", "float32"]),
        timeout=1.5,
    )


def check(problem: RandomProblem, options: Options, way: str = "call") -> str:
    """The verdict, and what it was compared with.

    Raises:
        Wrong: it is not true, or there is none: an exception, a warning, a proof that the checker rejects.
    """
    files = {"model.onnx": problem.model(), "spec.vnnlib": problem.spec().encode()}
    try:
        verdict, x, remark = _run(problem, files, options, way)
        word = _judge(problem, verdict, x)
    except OptionsError as error:
        if options.bounds.method != "lumped":
            raise Wrong(str(error), files) from error
        return "refused: lumped"
    except ModelError as error:
        if not _overflows(problem, str(error)):
            raise Wrong(str(error), files) from error
        return "refused: overflows in ONNX Runtime"
    except Exception as error:
        truth = (
            "not found out"
            if (known := problem.violated()) is False
            else "unsat"
            if known is None
            else f"sat at {known}"
        )
        raise Wrong(
            f"{type(error).__name__}: {error}\nover the reals: {truth}\noptions: {options}\nway: {way}", files
        ) from error
    return f"{way} {word}{remark}"


def _overflows(problem: RandomProblem, message: str) -> bool:
    """Whether the refusal says that an output overflows, and one does: the import is compared outside the box too."""
    outside = problem.rng.standard_normal((50, problem.n)).astype(np.float16).astype(np.float64)
    points = [*problem.points(20), *outside]
    return bool(OVERFLOWS.search(message)) and any(not np.isfinite(problem.run(x)).all() for x in points)


def _run(
    problem: RandomProblem, files: dict[str, bytes], options: Options, way: str
) -> tuple[str, np.ndarray | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if way == "call":
            from verifier.graph.onnx_import import load_model

            result = verifier.verify(load_model(files["model.onnx"]), vnnlib.loads(files["spec.vnnlib"]), options)
            return result.verdict.value, None if result.witness is None else result.witness.x, ""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            folder = Path(name)
            for file, data in files.items():
                (folder / file).write_bytes(data)
            return (_by_command if way == "command" else _with_proof)(folder, options)


def _by_command(folder: Path, options: Options) -> tuple[str, np.ndarray | None, str]:
    """In a process of its own, which the command ends itself when the time is over."""
    names = [str(folder / name) for name in ("model.onnx", "spec.vnnlib")]
    call = [sys.executable, "-c", "from verifier.command.verify import run; run()", *names]
    call += ["--timeout", "20", "--results", str(folder / "out.txt"), "--seed", str(options.seed)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 2 and OVERFLOWS.search(done.stderr):
        raise ModelError(done.stderr)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    assert (folder / "out.txt").read_text() == done.stdout, "stdout and the results file differ"
    word, _, witness = done.stdout.partition("\n")
    if not witness.strip():
        return word, None, ""
    parts = vnnlib.parse_witness(witness, vnnlib.load(names[1]))
    return word, np.concatenate([np.asarray(v, np.float64).reshape(-1) for k, v in parts.items() if k[0] == "X"]), ""


def _with_proof(folder: Path, options: Options) -> tuple[str, np.ndarray | None, str]:
    from verifier.checker.check import check as accept
    from verifier.errors import ProofError

    names = folder / "model.onnx", folder / "spec.vnnlib"
    proof = folder / "proof"
    try:
        result = verifier.verify(*names, options, proof=proof)
    except ProofError:
        assert not proof.exists(), "a proof was refused, and is there"
        return "unknown", None, ", no proof"
    if result.verdict.value == "unsat":
        assert accept(proof, *names).verdict == "unsat"
    elif proof.exists():
        assert (result.verdict.value, accept(proof, *names).verdict) == ("sat", "sat")
    return result.verdict.value, None if result.witness is None else result.witness.x, ""


def _judge(problem: RandomProblem, verdict: str, x: np.ndarray | None) -> str:
    if verdict == "sat":
        assert x is not None
        inside = (problem.lower <= x) & (x <= problem.upper)
        # where no number of the type lies between the bounds, the rounded one stands for them
        assert (inside | (np.abs(x - problem.lower) <= 1e-3 * np.maximum(np.abs(x), 1e-4))).all(), "a witness outside"
        assert problem.holds(x, [Fraction(float(v)) for v in problem.run(x)]), "the witness does not replay"
    if verdict != "unsat":
        return verdict
    known = problem.violated()
    if known is None:
        return "unsat, exact"
    points = [problem.seen(p) for p in problem.points(20)]
    if known is not False:
        points = [known]
    elif problem.n == problem.tape.n:
        points += [p for rows in problem.rows() if (p := optimum(problem, rows)) is not None]
    for point in points:
        shown = [float(v) for v in point]
        assert not problem.breaks(point), f"{shown} violates over the reals, but the verdict is unsat"
    return "unsat, sampled"


def optimum(problem: RandomProblem, rows: list[Row]) -> Point | None:
    """The point of the box where the largest of the rows is least, by a mixed-integer programme, so up to its
    tolerances; None where it finds none (numbers too large)."""
    tape, n, k = problem.tape, problem.n, len(problem.tape.relus)
    low = [float(v) for v in problem.lower] + [0.0] * k
    high = [float(v) for v in problem.upper] + [0.0] * k
    below, left, right = [], [], []
    width = n + 2 * k + 1  # inputs, ReLUs, their indicators, the largest row
    for i, argument in enumerate(tape.relus):
        row = np.zeros(width)
        for v, c in argument.terms.items():
            row[v] = float(c)
        ends = np.array([low[: n + k], high[: n + k]])
        parts = np.sort(row[: n + k] * ends, axis=0).sum(axis=1) + float(argument.constant)
        lo, hi = min(parts[0], 0.0), max(parts[1], 0.0)
        high[n + i] = hi
        y, d = n + i, n + k + i
        least, capped, near = row.copy(), np.zeros(width), row.copy()
        least[y] -= 1
        capped[y], capped[d] = 1, -hi
        near[y] -= 1
        near[d] = lo
        below += [least, capped, -near]
        left += [-np.inf, -np.inf, -np.inf]
        right += [-float(argument.constant), 0.0, float(argument.constant) - lo]
    for one in rows:
        row = np.zeros(width)
        for v, c in one.value.terms.items():
            row[v] = float(c)
        row[-1] = -1
        below.append(row)
        left.append(-np.inf)
        right.append(-float(one.value.constant))
    cost = np.zeros(width)
    cost[-1] = 1
    bounds = Bounds(np.array([*low, *[0.0] * k, -1e9]), np.array([*high, *[1.0] * k, 1e9]))
    whole = np.zeros(width)
    whole[:n], whole[n + k : n + 2 * k] = problem.whole, 1
    matrix = np.array(below)
    if not all(np.isfinite(a).all() for a in (matrix, high)) or np.abs(matrix).max() > 1e7:
        return None
    found = milp(
        cost,
        integrality=whole,
        bounds=bounds,
        constraints=LinearConstraint(matrix, np.array(left), np.array(right)),
        options={"time_limit": 5.0},
    )
    if found.x is None:
        return None
    x = np.where(problem.whole, np.round(found.x[:n]), np.clip(found.x[:n], problem.lower, problem.upper))
    return tuple(map(Fraction, x.tolist())) if ((problem.lower <= x) & (x <= problem.upper)).all() else None
