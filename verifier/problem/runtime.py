"""ONNX Runtime as the judge: it runs the original file, untouched by anything in this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from verifier.budget import never
from verifier.errors import ModelError, UnsoundError
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import Model, TensorInfo
from verifier.graph.onnx_import.expose import with_outputs
from verifier.graph.onnx_import.session import open_session, run_session
from verifier.graph.operators import OPERATORS
from verifier.problem.problem import Problem

if TYPE_CHECKING:
    import onnxruntime

T = TypeVar("T")
_PROBE = 3  # points on which batched and single runs are compared before batching is trusted
_BATCH = 1024  # points per batched run
_AT_ONCE = 1 << 20  # elements of the largest value, of all points that are evaluated at once
_NEARBY = 8  # further measurements of rounding where a network seems to differ


class Session:
    """Runs a model on flat points. ONNX Runtime is imported and the session made at the first use.

    `run` feeds a point's coordinates to the inputs in the order of declaration, each row-major, cast to the input's
    type; outputs are joined the same way. Of several networks each runs its own file, on its own coordinates.
    """

    def __init__(self, model: Model, threads: int = 1) -> None:
        self.model = model
        self.threads = threads
        self._session: onnxruntime.InferenceSession | None = None
        self._parts = {name: Session(part, threads) for name, part in model.parts}
        inputs = model.input_infos
        self._may_batch: bool | None = None if all(0 in info.symbolic for info in inputs) else False

    def run(self, points: np.ndarray) -> np.ndarray:
        """Outputs (M, n_outputs) float64 at `points` (M, n_inputs) float64.

        Several points may run as one batch, which changes the last bits; to judge a witness, pass it alone.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model, or the points have the wrong width.
        """
        points = np.asarray(points, dtype=np.float64)
        width = sum(info.size for info in self.model.input_infos)
        if points.ndim != 2 or points.shape[1] != width:
            raise ModelError(f"points of shape {points.shape}, expected (M, {width})")
        if self._parts:
            own = zip(self._parts.values(), self._split(points), strict=True)
            return np.concatenate([part.run(at) for part, at in own], axis=1)
        if len(points) > 1 and self._may_batch is None:
            self._may_batch = self._batches_agree(points[:_PROBE])
        if len(points) > 1 and self._may_batch:
            parts = [points[start : start + _BATCH] for start in range(0, len(points), _BATCH)]
            return np.concatenate([self._batched(part) for part in parts])
        rows = [self._single(point) for point in points]
        return np.stack(rows) if rows else np.zeros((0, sum(info.size for info in self.model.output_infos)))

    def values(self, point: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """Values of the ONNX tensors `names` at one point (n_inputs,), in a copy of the model that exposes them."""
        if self._parts:
            found: dict[str, np.ndarray] = {}
            for (network, part), (at,) in zip(self._parts.items(), self._split(point[None]), strict=True):
                start = f"{network}/"
                own = part.values(at, [name.removeprefix(start) for name in names if name.startswith(start)])
                found |= {start + name: value for name, value in own.items()}
            return found
        session = self._open(with_outputs(self.model.bytes, names))
        return dict(zip(names, self._feed(session, names, point[None], batch=False), strict=True))

    def _split(self, points: np.ndarray) -> list[np.ndarray]:
        """The coordinates of each part."""
        sizes = [sum(info.size for info in part.model.input_infos) for part in self._parts.values()]
        return np.split(points, np.cumsum(sizes)[:-1], axis=1)

    def _single(self, point: np.ndarray) -> np.ndarray:
        outputs = self._feed(self._ready(), None, point[None], batch=False)
        return np.concatenate([np.asarray(array, dtype=np.float64).reshape(-1) for array in outputs])

    def _batched(self, points: np.ndarray) -> np.ndarray:
        outputs = self._feed(self._ready(), None, points, batch=True)
        if any(array.ndim == 0 or len(array) != len(points) for array in outputs):
            raise ModelError("an output does not keep the batch dimension")
        return np.concatenate([np.asarray(one, dtype=np.float64).reshape(len(points), -1) for one in outputs], axis=1)

    def _batches_agree(self, points: np.ndarray) -> bool:
        singles = np.stack([self._single(point) for point in points])
        try:
            batched = self._batched(points)
        except ModelError:
            return False
        # the same float32 kernels up to the order of summation
        return batched.shape == singles.shape and np.allclose(batched, singles, rtol=1e-4, atol=1e-6, equal_nan=True)

    def _ready(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            self._session = self._open(self.model.bytes)
        return self._session

    def _open(self, data: bytes) -> onnxruntime.InferenceSession:
        return self._located(lambda: open_session(data, self.threads))

    def _feed(
        self, session: onnxruntime.InferenceSession, names: list[str] | None, points: np.ndarray, batch: bool
    ) -> list[Any]:
        feeds, start = {}, 0
        for info in self.model.input_infos:
            part = points[:, start : start + info.size]
            feeds[info.name] = _as_input(part, info, batch)
            start += info.size
        return self._located(lambda: run_session(session, names, feeds))

    def _located(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ModelError as error:
            raise ModelError(f"{self.model.path}: {error}") from None


def _as_input(part: np.ndarray, info: TensorInfo, batch: bool) -> np.ndarray:
    shape = (len(part) * info.shape[0], *info.shape[1:]) if batch else info.shape
    if info.dtype.kind in "iu":
        part = np.rint(part)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(part.reshape(shape), dtype=info.dtype)


def compare(
    model: Model, graph: Graph, points: np.ndarray, session: Session | None = None, stop: Callable[[], bool] = never
) -> float:
    """Check that `graph` computes what ONNX Runtime computes, at `points` (M, n_inputs).

    `graph` is `model.graph`, or what passes that keep the inputs made of it. Returns the largest difference.

    The tolerance has two parts, per output element: 1e-4 of the largest output (float32 sums of thousands of terms,
    relative error about 1e-7 each, with some cancellation), and 32 times the difference between the graph evaluated in
    float32 and in float64, which measures how strongly this network, at this point, amplifies rounding. (That is
    measured where the first part does not suffice, and once more with weights an ulp away where both do not.) Where the
    model computes in float16, both grow: to 16 ulp of float16, and by 2^13, the ratio of both precisions. A point next
    to a jump of a step function (Sign, Floor) can still differ for good; with such operators, half of the points have
    to agree instead of all.

    Raises:
        UnsoundError: they differ; the message names the first node that does.
        ModelError: the model cannot be run, overflows its type, or has values without a meaning here (Opaque).
        OutOfTime: `stop()` said so before all was compared.
    """
    session = session or Session(model)
    points = _rounded_to_inputs(np.asarray(points, dtype=np.float64), model)
    return _compare(model, graph, model.graph, points, session.run(points), session, stop)


def compare_index(
    model: Model, points: np.ndarray, session: Session | None = None, stop: Callable[[], bool] = never
) -> float:
    """`compare` for a model that ends in an ArgMax: its logits, and the index where rounding does not decide it.

    The index is compared on the original file; a class counts as its answer when its logit is within the tolerance
    of the largest. The logits are read from a copy of the model that exposes them. Returns the largest difference of
    the logits.

    Raises:
        UnsoundError: they differ; the message names the first node that does.
        ModelError: the model cannot be run, or does not end in an ArgMax.
        OutOfTime: `stop()` said so before all was compared.
    """
    final, graph = model.final, model.graph_logits
    if final is None or graph is None or final.kind != "argmax":
        raise ModelError(f"{model.path}: does not end in an ArgMax that can be taken away")
    session = session or Session(model)
    points = _rounded_to_inputs(np.asarray(points, dtype=np.float64), model)
    name = graph.outputs[0]
    exposed = _exposed(session, points, name) if "/#" not in name else None
    worst = 0.0 if exposed is None else _compare(model, graph, graph, points, exposed, session, stop)
    index = session.run(points)
    logits = _outputs(graph, points, np.float64, stop)
    shape = (len(points), final.outer, final.n, final.inner)
    classes = logits.reshape(shape)
    chosen = np.clip(index, 0, final.n - 1).astype(np.int64).reshape(len(points), final.outer, 1, final.inner)
    short = classes.max(axis=2, keepdims=True) - np.take_along_axis(classes, chosen, axis=2)

    def differs(noise: np.ndarray) -> np.ndarray:
        slack = _slack(noise, logits, _grain(model)).reshape(shape).max(axis=2, keepdims=True)
        with np.errstate(invalid="ignore"):
            return (short > 2 * slack).reshape(len(points), -1) | (index != chosen.reshape(index.shape))

    wrong = differs(np.zeros_like(logits))
    for measured in (_noise, _nearby):
        if wrong.any():
            wrong = differs(measured(graph, points, logits, stop))
    bad = wrong.any(axis=1)
    if not bad.any() or (_has_steps(graph) and bad.mean() <= 0.5):
        return worst
    point = int(np.argmax(bad))
    element = int(np.argmax(wrong[point]))
    mine = classes.argmax(axis=2).reshape(len(points), -1)[point, element]
    where = _first_difference(model, graph, session, points[point])
    if where == _NONE_DIFFERS:
        behind = (node.source for node in model.graph.nodes if node.output not in graph.shapes)
        where = f"first at {next(filter(None, behind), 'the final ArgMax')}"
    raise UnsoundError(
        f"{model.path}: the imported network differs from ONNX Runtime: class {element} is {mine},"
        f" expected {index[point, element]:g}; {where}"
    )


def compare_problem(
    model: Model, problem: Problem, points: np.ndarray, session: Session | None = None, stop: Callable[[], bool] = never
) -> float:
    """`compare` for the graph that is bounded: its rows against those of ONNX Runtime's outputs, at `points`
    (M, n_inputs) inside the problem's boxes. Returns the largest difference.

    Where the rows speak of logits that the file does not give out, the imported graph stands in for ONNX Runtime; the
    two have been compared.

    Raises:
        UnsoundError: they differ, so that a simplification is at fault.
        ModelError: the model cannot be run.
        OutOfTime: `stop()` said so before all was compared.
    """
    asked = problem.asked
    points = _rounded_to_inputs(np.asarray(points, dtype=np.float64), model)
    imported = cache(lambda: _outputs(asked.graph, points, np.float64, stop))
    expected = (session or Session(model)).run(points) if asked.graph is model.graph else imported()
    inputs, wraps = problem.parameters(points), _wraps(problem.graph)
    found = _outputs(problem.graph, inputs, np.float64, stop)
    with np.errstate(all="ignore"):
        rows = expected[:, asked.outputs] @ asked.matrix.T
        difference = np.abs(found - rows)

    def agreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        slack = _slack(before, expected, _grain(model))
        with np.errstate(all="ignore"):
            room = slack[:, asked.outputs] @ np.abs(asked.matrix).T + 32 * after
            agree = ~(difference > room) | ~np.isfinite(rows)  # NaN: an infinity of float32
        return agree & (np.isfinite(found) | ~np.isfinite(rows) | (np.isnan(found) & wraps))

    agree = agreement(np.zeros_like(expected), np.zeros_like(found))
    for measured in (_noise, _nearby):
        if not agree.all():
            before = measured(asked.graph, points, imported(), stop)
            agree = agreement(before, measured(problem.graph, inputs, found, stop))
    good = agree.all(axis=1)
    if good.all() or (_has_steps(asked.graph) and good.mean() >= 0.5):
        return float(np.max(difference[good], initial=0.0, where=np.isfinite(difference[good])))
    worst = int(np.argmin(good))
    row = int(np.argmin(agree[worst]))
    raise UnsoundError(
        f"{model.path}: the simplified network differs from ONNX Runtime: row {row} of the specification is"
        f" {found[worst, row]:.9g}, expected {rows[worst, row]:.9g}; please report this"
    )


def _exposed(session: Session, points: np.ndarray, name: str) -> np.ndarray | None:
    """The value of an ONNX tensor at the points (M, size); None where the copy that exposes it cannot be run."""
    try:
        values = [session.values(point, [name])[name] for point in points]
    except ModelError:
        return None
    return np.stack([np.asarray(value, dtype=np.float64).reshape(-1) for value in values])


def _compare(
    model: Model,
    graph: Graph,
    original: Graph,
    points: np.ndarray,
    expected: np.ndarray,
    session: Session,
    stop: Callable[[], bool],
) -> float:
    """Largest difference of `graph` from `expected`; `original` is the imported graph, in which a culprit is sought."""
    found, wraps = _outputs(graph, points, np.float64, stop), _wraps(graph)
    difference = np.abs(found - expected)

    def agreement(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slack = _slack(noise, expected, _grain(model))
        same = (difference <= slack) | (found == expected) | (np.isnan(found) & (np.isnan(expected) | wraps))
        return same.all(axis=1), slack

    agree, slack = agreement(np.zeros_like(found))
    for measured in (_noise, _nearby):
        if not agree.all():
            agree, slack = agreement(measured(graph, points, found, stop))
    if agree.all() or (_has_steps(graph) and agree.mean() >= 0.5):
        return float(np.max(difference[agree], initial=0.0, where=np.isfinite(difference[agree])))
    worst = int(np.argmin(agree))
    element = int(np.argmax(np.where(difference[worst] <= slack[worst], -1.0, difference[worst])))
    lost = ~np.isfinite(expected[worst]) & np.isfinite(found[worst])
    if lost.any():
        element = int(np.argmax(lost))
        raise ModelError(
            f"{model.path}: output {element} overflows: ONNX Runtime computes {expected[worst, element]:g} where the"
            f" stored weights give {found[worst, element]:.9g}; expected sums that fit its type: scale the weights"
        )
    raise UnsoundError(
        f"{model.path}: the imported network differs from ONNX Runtime: output {element} is"
        f" {found[worst, element]:.9g}, expected {expected[worst, element]:.9g};"
        f" {_first_difference(model, original, session, points[worst])}"
    )


def _grain(model: Model) -> float:
    """How much coarser than float32 the model computes: 2^13 where it has float16 values."""
    return float(np.finfo(np.float16).eps / np.finfo(np.float32).eps) if model.half else 1.0


def _noise(graph: Graph, points: np.ndarray, found: np.ndarray, stop: Callable[[], bool]) -> np.ndarray:
    """What float32 changes, per point and output."""
    with np.errstate(all="ignore"):
        return np.abs(_outputs(graph, points, np.float32, stop) - found)


def _nearby(graph: Graph, points: np.ndarray, found: np.ndarray, stop: Callable[[], bool]) -> np.ndarray:
    """The largest `_noise` of the graph and of graphs whose weights have moved by up to an ulp of float32.

    A rounded sum of products is the exact one of weights that have moved so. The difference at hand says little where
    large terms cancel: one order of summation may round all of them alike, and another not. (Next to a jump an ulp may
    change anything; networks with steps have a rule of their own.)
    """
    rng = np.random.default_rng(0)
    noise = _noise(graph, points, found, stop)
    if _has_steps(graph):
        return noise
    for _ in range(_NEARBY):
        noise = np.maximum(noise, _noise(_moved(graph, rng), points, found, stop))
    return noise


def _moved(graph: Graph, rng: np.random.Generator) -> Graph:
    """The graph with every number of its weights moved by -1, 0 or 1 times float32's relative precision."""
    ulp = float(np.finfo(np.float32).eps)

    def move(value: np.ndarray) -> np.ndarray:
        return value * (1 + ulp * rng.integers(-1, 2, value.shape)) if value.dtype.kind == "f" else value

    nodes = (replace(node, params={name: move(value) for name, value in node.params.items()}) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _slack(noise: np.ndarray, expected: np.ndarray, grain: float) -> np.ndarray:
    """The tolerance of `compare`, per element."""
    share = 16 * float(np.finfo(np.float16).eps) if grain > 1 else 1e-4
    size = share * np.maximum(1e-3, np.abs(expected).max(initial=0.0, where=np.isfinite(expected)))
    with np.errstate(all="ignore"):
        slack = size + 32 * grain * noise
    return np.where(np.isnan(slack), np.inf, slack)  # infinities in float32 say nothing about float64


def _has_steps(graph: Graph) -> bool:
    return any(node.op in OPERATORS and OPERATORS[node.op].steps for node in graph.nodes)


def _wraps(graph: Graph) -> bool:
    """Whether whole numbers may leave their type: nothing is known of the result then (NaN), whatever a machine makes
    of it."""
    return any(node.op == "Within" for node in graph.nodes)


def _rounded_to_inputs(points: np.ndarray, model: Model) -> np.ndarray:
    """The points as the model's input types can hold them, so that both sides see the same numbers."""
    parts, start = [], 0
    for info in model.input_infos:
        part = points[:, start : start + info.size]
        with np.errstate(over="ignore"):
            part = np.rint(part) if info.dtype.kind in "iu" else part.astype(info.dtype)
        parts.append(part.astype(np.float64))
        start += info.size
    return np.concatenate(parts, axis=1)


def _inputs(graph: Graph, points: np.ndarray) -> dict[str, np.ndarray]:
    parts, start = {}, 0
    for name in graph.inputs:
        size = graph.size(name)
        parts[name] = points[:, start : start + size].reshape(len(points), *graph.shapes[name])
        start += size
    return parts


def _outputs(graph: Graph, points: np.ndarray, dtype: type, stop: Callable[[], bool]) -> np.ndarray:
    at_once = max(1, _AT_ONCE // max(1, max(map(graph.size, graph.shapes))))
    rows = []
    for start in range(0, len(points), at_once):
        part = points[start : start + at_once]
        values = evaluate(graph, _inputs(graph, part), dtype, stop)
        parts = [values[name].reshape(len(part), -1).astype(np.float64) for name in graph.outputs]
        rows.append(np.concatenate(parts, axis=1))
    return np.concatenate(rows)


_NONE_DIFFERS = "every imported node agrees on its own, so a simplification is at fault; please report this"


def _first_difference(model: Model, graph: Graph, session: Session, point: np.ndarray) -> str:
    """The first value of the imported graph, before any pass, that ONNX Runtime computes differently."""
    try:
        exact = evaluate(graph, _inputs(graph, point[None]))
        rough = evaluate(graph, _inputs(graph, point[None]), np.float32)
        nodes = {node.output: node for node in graph.nodes}
        truth = session.values(point, [name for name in nodes if "/#" not in name])
    except ModelError as error:
        return f"the node cannot be found: {error}"
    for name, value in truth.items():
        mine, expected = exact[name][0], np.asarray(value, dtype=np.float64)
        if mine.shape != expected.shape:
            return f"first at {nodes[name].source or name}: shape {mine.shape}, expected {expected.shape}"
        with np.errstate(all="ignore"):
            slack = _slack(np.abs(rough[name][0].astype(np.float64) - mine), expected, _grain(model))
        if not ((np.abs(mine - expected) <= slack) | (mine == expected)).all():
            return f"first at {nodes[name].source or name}"
    return _NONE_DIFFERS
