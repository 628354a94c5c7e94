"""A random chain of operators through the importer, the checker's reader and the verifier, against ONNX Runtime.

What ONNX Runtime computes at a point of the box is asked for: all values that were drawn, at once, up to nothing where
no operator rounds. An `unsat` is wrong then.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import verifier
import vnnlib
from benchmarks.fuzz.models import Pick
from benchmarks.fuzz.operators import SMOOTH, RandomOperators
from benchmarks.fuzz.verdicts import Choices, Wrong
from verifier.checker.bounds import sweep
from verifier.checker.errors import Unreadable
from verifier.checker.network import read_network
from verifier.errors import ModelError, ProblemError, SecateurError, UnsoundError
from verifier.graph.evaluate import evaluate
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, BoundOptions, Options, SearchOptions

POINTS = 6
LARGEST = 1e6
"""Beyond it float32 no longer computes whole numbers and quarters exactly."""

ROUGH = 2e-3
"""What float32 and float16 may make of a function, relatively to numbers from 1 on."""


def operators(data: bytes) -> str:
    """The target of `benchmarks/fuzz/run.py`."""
    pick = Choices(data)
    return check(RandomOperators(pick), pick)


def check(made: RandomOperators, pick: Pick) -> str:
    """What became of it, in a word.

    Raises:
        Wrong: the import computes something else, or the verdict is not true.
    """
    if not made.used:
        return "no operator fits"
    files = {"model.onnx": made.model()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _checked(made, pick, files)
    except Wrong:
        raise
    except UnsoundError as error:
        if " is nan, expected" in str(error):  # a function outside its domain, whatever comparisons make of it
            return "outside a domain"
        raise Wrong(f"{error}\n{made.used}", files) from error
    except ModelError as error:  # ONNX Runtime ran it: refused are only forms that are named
        return f"refused: {made.used[-1] if 'verflow' not in str(error) else 'overflow'}"
    except (ProblemError, SecateurError) as error:
        return f"refused: {type(error).__name__}"
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}\n{made.used}", files) from error


def _checked(made: RandomOperators, pick: Pick, files: dict[str, bytes]) -> str:
    session, points, found = made.session(), made.points(POINTS), []
    for point in points:
        try:
            found.append([np.asarray(one) for one in session.run(None, {"x": made.feed(point)})])
        except Exception:  # its own kernels refuse some values (a Gather, a Tile of a scalar)
            return "fails in ONNX Runtime"
    values = np.stack([np.concatenate([np.float64(one).reshape(-1) for one in each]) for each in found])
    if not np.isfinite(values).all():
        return "not finite"
    exact = not SMOOTH.intersection(made.used) and made.x.kind != np.float16
    room = np.zeros_like(values) if exact else ROUGH * np.maximum(1, np.abs(values))
    _read_by_checker(made, files, points, values, room)
    model = load_model(files["model.onnx"])
    if [one.shape for one in found[0]] != [info.shape for info in model.output_infos]:
        raise Wrong(f"shapes {model.output_infos}, expected {[one.shape for one in found[0]]}\n{made.used}", files)
    if any(node.op == "Opaque" for node in model.graph.nodes):
        return "opaque"
    mine = _evaluated(model, points)
    if not ((np.abs(mine - values) <= room) | np.isnan(mine)).all():
        raise Wrong(f"{made.used} at\n{points}\ngives\n{mine}\nexpected\n{values}", files)
    if np.abs(values).max() > LARGEST:
        return "large"
    return _verdict(made, model, pick, files, values[0], room[0])


def _read_by_checker(
    made: RandomOperators, files: dict[str, bytes], points: np.ndarray, values: np.ndarray, room: np.ndarray
) -> None:
    """The checker's own reading, where it has one: intervals at single points hold what ONNX Runtime computes."""
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "model.onnx").write_bytes(files["model.onnx"])
        try:
            network = read_network(path)
        except Unreadable:
            return
    at = np.stack([made.feed(point).astype(np.float64).reshape(-1) for point in points])
    swept = sweep(network, at, at)
    low, high = swept.low[network.output], swept.high[network.output]
    if low.shape != values.shape:
        raise Wrong(f"{made.used}: {low.shape[1]} outputs in the checker, expected {values.shape[1]}", files)
    if not ((low - room <= values) & (values <= high + room)).all():
        raise Wrong(f"{made.used} at\n{at}\ngives in the checker\n{low}\nexpected\n{values}", files)


def _evaluated(model: Model, points: np.ndarray) -> np.ndarray:
    graph = model.graph
    inputs = {graph.inputs[0]: points.reshape(len(points), *graph.shapes[graph.inputs[0]])}
    with np.errstate(all="ignore"):
        found = evaluate(graph, inputs)
    return np.concatenate([found[name].reshape(len(points), -1) for name in graph.outputs], axis=1)


def _verdict(
    made: RandomOperators, model: Model, pick: Pick, files: dict[str, bytes], y: np.ndarray, room: np.ndarray
) -> str:
    asked = made.rng.permutation(len(y))[: pick([1, 2, len(y)])]
    low, high = (y - room).tolist(), (y + room).tolist()
    rows = [f"(assert (>= Y_{j} {low[j]!r}))(assert (<= Y_{j} {high[j]!r}))" for j in asked.tolist()]
    files["spec.vnnlib"] = _spec(made.lower, made.upper, len(y), rows).encode()
    options = Options(
        search=SearchOptions(batch=16, max_depth=6),
        attack=AttackOptions(restarts=pick([0, 0, 2]), steps=3),
        bounds=BoundOptions(method=pick(["auto", "auto", "crown", "forward", "alpha"]), alpha_steps=2),
        timeout=0.5,
    )
    result = verifier.verify(model, vnnlib.loads(files["spec.vnnlib"]), options)
    if result.verdict.value == "unsat":
        raise Wrong(f"{made.used}: unsat, but ONNX Runtime computes what is asked for\n{rows}", files)
    return str(result.verdict.value)


def _spec(lower: np.ndarray, upper: np.ndarray, outputs: int, rows: Sequence[str]) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(outputs)]
    ends = enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
    lines += [f"(assert (>= X_{i} {a!r}))(assert (<= X_{i} {b!r}))" for i, (a, b) in ends]
    return "\n".join([*lines, *rows])
