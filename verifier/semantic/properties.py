"""Properties of a network's answer, each turned into rows (see `rows`) over its outputs or over a tail behind them.

    Coordinates   |y_k - t_k| <= tau_k per key point, in the norm linf, l1 or l2 (inscribed polygon)
    Heatmap       the argmax of map k decodes to a position within tau_k of the truth (linf)
    ErrorBudget   sum or mean over key points of |dx| + |dy| stays within a limit
    Pose          pose error to first order within limits, through the key points (linearised)
    Label         the class stays the argmax

All files state the violation; a tie counts as one. The design is described in sections 6.2 of the project's notes on
pruning: 2408.00117 (per key point) and 2603.05604 (joint) are the papers it follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verifier.brief import brief
from verifier.data.frame import PIXELS, Head
from verifier.errors import OptionsError, ProblemError
from verifier.semantic import pose
from verifier.semantic.maps import MapBudget, Maps, Windows
from verifier.semantic.network import ImageNetwork
from verifier.semantic.rows import SparseRows, build, none, pairs
from verifier.semantic.target import Target, check_label

NORMS = ("linf", "l1", "l2")
# The polygon's normals are rounded to float32, so their length is within 1 +- 2^-23; this keeps the polygon inside.
POLYGON_GUARD = 1.0 - 2.0**-22


@dataclass(frozen=True, eq=False)
class AbsTail:
    """Extra nodes: z = M |y - t| with M (R, n) non-negative (float32 values) and t (n,); the rows speak about z."""

    matrix: np.ndarray
    centre: np.ndarray


@dataclass(frozen=True, eq=False)
class Compiled:
    """rows over the network's flat output, or over the tail's; `claim` says in words what `unsat` would prove.

    excess(y) is the amount by which flat outputs y (..., n) break the property itself, in pixels (for Pose in the
    units of the limits, for Label and Heatmap in score): > 0 is a true violation. The rows may be stricter (polygon,
    ties, tolerances allotted to single coordinates).
    maps: the same question about heatmaps without rows, for searches in process; a joint budget has no rows at all.
    """

    __repr__ = brief

    rows: SparseRows
    tail: AbsTail | None
    claim: str
    excess: Callable[[np.ndarray], np.ndarray]
    maps: Maps | None = None


@dataclass(frozen=True)
class Coordinates:
    """Each chosen key point stays within `tolerance` pixels (one number, or one per key point of the network)."""

    tolerance: float | Sequence[float]
    norm: str = "linf"
    sides: int = 16
    hidden: bool = False
    head: Head = PIXELS

    def compile(self, network: ImageNetwork, target: Target) -> Compiled:
        """Rows: 2 or 4 one-row clauses per key point and axis, or one per side of the polygon."""
        if self.norm not in NORMS:
            raise OptionsError(f"unknown norm '{self.norm}'; choose one of {', '.join(NORMS)}")
        if self.sides < 3 or self.sides > 360:
            raise OptionsError(f"the polygon needs 3 to 360 sides, found {self.sides}")
        points, index = _coordinates(network, target, self.hidden)
        tau = _tolerances(self.tolerance, len(points))
        clauses = []
        for k in index:
            for u, reach in self._directions(float(tau[k])):
                # Violated: u . (pixel - t) >= reach, as a row -scale u . y <= shift sum(u) - u . t - reach.
                u = u.astype(np.float32).astype(np.float64)
                offset = float(u @ (points[k] - self.head.shift)) + reach
                if abs(u).sum() == 1.0:  # along an axis: a plain bound on one output
                    sign, axis = float(u.sum()), int(np.argmax(abs(u)))
                    bound = self.head.value(float(points[k][axis]) + sign * reach)
                    clauses.append([({2 * int(k) + axis: -sign}, -sign * bound)])
                else:
                    row = {2 * int(k) + axis: -float(u[axis]) for axis in (0, 1)}
                    clauses.append([(row, -offset / self.head.scale)])
        rows = build(network.n_outputs, clauses)
        return Compiled(rows, None, self._claim(index, tau), self._excess(points, index, tau))

    def _directions(self, tau: float) -> list[tuple[np.ndarray, float]]:
        """Unit directions u and the reach r of the half planes u . d <= r whose intersection is proven."""
        if self.norm == "linf":
            return [(np.array(u, dtype=np.float64), tau) for u in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        if self.norm == "l1":
            return [(np.array(u, dtype=np.float64), tau) for u in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
        angle = 2.0 * np.pi * np.arange(self.sides) / self.sides
        reach = tau * math.cos(math.pi / self.sides) * POLYGON_GUARD
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        directions[np.abs(directions) < 1e-12] = 0.0  # along an axis: a plain bound, without a rounding error
        return [(u, reach) for u in directions]

    def _claim(self, index: np.ndarray, tau: np.ndarray) -> str:
        names = {"linf": "L-infinity", "l1": "L1", "l2": f"L2 (polygon of {self.sides} sides inside the disc)"}
        return f"{_points(index)} stay within {_span(tau[index])} px of the reference, {names[self.norm]}"

    def _excess(self, points: np.ndarray, index: np.ndarray, tau: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def excess(y: np.ndarray) -> np.ndarray:
            gap = self.head.pixels(y)[..., index, :] - points[index]
            order = {"linf": np.inf, "l1": 1, "l2": 2}[self.norm]
            return np.asarray((np.linalg.norm(gap, ord=order, axis=-1) - tau[index]).max(axis=-1))

        return excess


@dataclass(frozen=True)
class Heatmap:
    """The argmax of every chosen map decodes to within `tolerance` pixels (L-infinity) of the reference.

    Cell (row r, column c) decodes to (stride c + offset, stride r + offset) pixels; the stride is found from the
    shapes, the offset is stride / 2 (the centre of the cell) unless given.
    """

    tolerance: float | Sequence[float]
    offset: float | None = None
    hidden: bool = False

    def compile(self, network: ImageNetwork, target: Target) -> Compiled:
        """One clause per map and cell outside its window: that cell beats (or ties) all cells of the window."""
        maps, rows, columns, stride = heatmap_shape(network)
        offset = 0.5 * stride if self.offset is None else self.offset
        points, index = _key_points(target, network, maps, self.hidden)
        tau = _tolerances(self.tolerance, maps)
        x, y = stride * np.arange(columns) + offset, stride * np.arange(rows) + offset
        inside, used = np.zeros((maps, rows * columns), bool), np.zeros(maps, bool)
        for k in index:
            near = (np.abs(x - points[k, 0]) <= tau[k])[None, :] & (np.abs(y - points[k, 1]) <= tau[k])[:, None]
            if not near.any():
                raise ProblemError(
                    f"no cell of heatmap {k} decodes to within {tau[k]:g} px of ({points[k, 0]:g}, {points[k, 1]:g}): "
                    f"the cells are {stride} px apart, so a tolerance below {stride / 2:g} px can be empty; raise it"
                )
            inside[k], used[k] = near.ravel(), not near.all()
        if not used.any():
            raise ProblemError("the tolerance covers every cell of the heatmaps: nothing to verify; lower it")

        def excess(value: np.ndarray) -> np.ndarray:
            z = value.reshape(*value.shape[:-1], *inside.shape)
            lead = np.where(inside, -np.inf, z).max(-1) - np.where(inside, z, -np.inf).max(-1)
            return np.asarray(lead[..., used].max(axis=-1))

        claim = f"the argmax of the heatmaps of {_points(index)} decodes to within {_span(tau[index])} px (L-infinity)"
        return Compiled(_window_rows(inside, used), None, claim, excess, Windows(inside, used))


@dataclass(frozen=True)
class ErrorBudget:
    """The sum (or mean) over the chosen key points of |dx| + |dy| stays within `limit` pixels.

    Of a coordinate head, or of the argmax of heatmaps (cells decode as for `Heatmap`, with its `offset`); the latter
    has no form as linear rows, so it is for searches in process only.

    `weights` (one per key point of the network, non-negative) multiply the terms; with `mean` the sum is divided by
    the number of chosen key points.
    """

    limit: float
    mean: bool = True
    weights: Sequence[float] | None = None
    hidden: bool = False
    head: Head = PIXELS
    offset: float | None = None

    def compile(self, network: ImageNetwork, target: Target) -> Compiled:
        """One clause with one row over the tail output z = sum w |y - t|; or the cost of every cell of a heatmap."""
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise OptionsError(f"the error budget must be positive, found {self.limit}")
        if len(network.output) >= 3:
            return self._of_maps(network, target)
        points, index = _coordinates(network, target, self.hidden)
        share = self._shares(index, len(points))
        matrix = np.zeros((1, network.n_outputs))
        for k in index:
            matrix[0, 2 * k : 2 * k + 2] = self.head.scale * share[k]
        tail, limit = _tail(matrix, points, self.head, np.array([self.limit]))
        rows = build(1, [[({0: -1.0}, -float(limit[0]))]])

        def excess(y: np.ndarray) -> np.ndarray:
            gap = np.abs(self.head.pixels(y)[..., index, :] - points[index]).sum(axis=-1)
            return np.asarray((gap * share[index]).sum(axis=-1) - self.limit)

        return Compiled(rows, tail, self._claim(index), excess)

    def _shares(self, index: np.ndarray, count: int) -> np.ndarray:
        weight = np.ones(count) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if weight.shape != (count,) or not np.isfinite(weight).all() or (weight < 0).any():
            raise OptionsError(f"weights must be {count} non-negative numbers, one per key point")
        return weight / (len(index) if self.mean else 1)

    def _claim(self, index: np.ndarray) -> str:
        return (
            f"the {'mean' if self.mean else 'sum'} over {_points(index)} of |dx| + |dy| stays within {self.limit:g} px"
        )

    def _of_maps(self, network: ImageNetwork, target: Target) -> Compiled:
        maps, rows, columns, stride = heatmap_shape(network)
        offset = 0.5 * stride if self.offset is None else self.offset
        points, index = _key_points(target, network, maps, self.hidden)
        share = self._shares(index, maps)
        x, y = stride * np.arange(columns) + offset, stride * np.arange(rows) + offset
        cost = np.zeros((maps, rows, columns))
        for k in index:
            cost[k] = share[k] * (np.abs(x - points[k, 0])[None, :] + np.abs(y - points[k, 1])[:, None])
        budget = MapBudget(cost.reshape(maps, -1), self.limit)
        least = float(budget.weight.min(1).sum())
        if least > self.limit:
            raise ProblemError(
                f"the nearest cells of the heatmaps cost {least:g} px already (the cells are {stride} px apart), so a "
                f"budget of {self.limit:g} px is violated by every answer; raise it"
            )
        claim = f"{self._claim(index)} (argmax of the heatmaps)"
        return Compiled(none(network.n_outputs), None, claim, lambda z: budget.cost(z) - budget.bound, budget)


@dataclass(frozen=True, eq=False)
class Pose:
    """The pose found from the key points stays within `limits` of the reference, to first order (linearised).

    jacobian (2K, 6): derivative of the projected key points (x0, y0, x1, ..; pixels) by the pose; limits (6,) in the
    pose's units. allocation `coupled`: M |delta| <= limits, 6 rows; `log` and `maxmin`: a tolerance per coordinate
    whose product or smallest value is largest, an L-infinity property (stricter, and cheaper to verify).
    """

    jacobian: np.ndarray
    limits: np.ndarray
    allocation: str = "coupled"
    hidden: bool = False
    head: Head = PIXELS

    def compile(self, network: ImageNetwork, target: Target) -> Compiled:
        """6 one-row clauses over a tail (coupled), or two bounds per coordinate."""
        points, index = _coordinates(network, target, self.hidden)
        if np.shape(self.jacobian) != (2 * len(points), 6):
            raise OptionsError(f"the jacobian must be {2 * len(points)} x 6, found {list(np.shape(self.jacobian))}")
        used = (2 * index[:, None] + np.arange(2)).ravel()
        sensitivity = pose.sensitivity(np.asarray(self.jacobian)[used])
        limits = pose.check_limits(self.limits)

        def excess(y: np.ndarray) -> np.ndarray:
            gap = np.abs(self.head.pixels(y)[..., index, :] - points[index]).reshape(*y.shape[:-1], -1)
            return np.asarray((gap @ sensitivity.T - limits).max(axis=-1))

        about = f"pose from {_points(index)} within {', '.join(f'{e:g}' for e in limits)} (linearised)"
        if self.allocation == "coupled":
            matrix = np.zeros((6, network.n_outputs))
            matrix[:, used] = self.head.scale * sensitivity
            tail, tight = _tail(matrix, points, self.head, limits)
            rows = build(6, [[({i: -1.0}, -float(tight[i]))] for i in range(6)])
            return Compiled(rows, tail, about, excess)
        tau = pose.allocate(sensitivity, limits, self.allocation)
        clauses = []
        for column, reach in zip(used, tau, strict=True):
            for sign in (1.0, -1.0):
                bound = self.head.value(float(points.ravel()[column]) + sign * float(reach))
                clauses.append([({int(column): -sign}, -sign * bound)])
        claim = f"{about}, by a tolerance of {_span(tau)} px per coordinate ({self.allocation} allocation)"
        return Compiled(build(network.n_outputs, clauses), None, claim, excess)


@dataclass(frozen=True)
class Label:
    """The class of the target stays the strict argmax."""

    def compile(self, network: ImageNetwork, target: Target) -> Compiled:
        """One clause per other class: it reaches the score of the right one."""
        n = network.n_outputs
        if n < 2 or max(network.output) != n:
            raise ProblemError(f"a classifier has one axis of scores; this network's output is {list(network.output)}")
        label = check_label(target.label, n)
        others = [j for j in range(n) if j != label]
        rows = build(n, [[({label: 1.0, j: -1.0}, 0.0)] for j in others])

        def excess(y: np.ndarray) -> np.ndarray:
            return np.asarray(y[..., others].max(axis=-1) - y[..., label])

        return Compiled(rows, None, f"class {label} keeps the highest score", excess)


Property = Coordinates | Heatmap | ErrorBudget | Pose | Label


def heatmap_shape(network: ImageNetwork) -> tuple[int, int, int, int]:
    """Maps, rows, columns and stride of a heatmap head; ProblemError if the output is not one."""
    shape = network.output
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
        raise ProblemError(
            f"a heatmap head has output [1, K, rows, columns]; this network has {list(shape)}; coordinates need "
            "--property linf, l1 or l2"
        )
    maps, rows, columns = shape[-3:]
    stride = network.width // columns
    if stride < 1 or stride * columns != network.width or stride * rows != network.frame.height:
        raise ProblemError(
            f"heatmaps of {columns}x{rows} cells do not divide the {network.width}x{network.frame.height} image evenly"
        )
    return maps, rows, columns, stride


def _window_rows(inside: np.ndarray, used: np.ndarray) -> SparseRows:
    """One clause per cell outside its window: it beats (or ties) every cell inside. inside (K, P), used (K,)."""
    low, high, clause, before, cells = [], [], [], 0, inside.shape[1]
    for k in np.flatnonzero(used):
        p, q = (np.flatnonzero(mask) + k * cells for mask in (inside[k], ~inside[k]))
        low.append(np.tile(p, len(q)))
        high.append(np.repeat(q, len(p)))
        clause.append(before + np.repeat(np.arange(len(q)), len(p)))
        before += len(q)
    return pairs(inside.size, *(np.concatenate(part) for part in (low, high, clause)))


def predict(network: ImageNetwork, output: np.ndarray, prop: Property) -> np.ndarray:
    """Key points (K, 2) in pixels that an output (any shape with the network's elements) stands for.

    The property knows how outputs mean pixels (its `head`, or the `offset` of a heatmap).
    """
    if len(network.output) >= 3:
        maps, _, columns, stride = heatmap_shape(network)
        best = output.reshape(maps, -1).argmax(axis=1)
        given = prop.offset if isinstance(prop, Heatmap | ErrorBudget) else None
        return stride * np.stack([best % columns, best // columns], axis=1) + (0.5 * stride if given is None else given)
    return getattr(prop, "head", PIXELS).pixels(output.reshape(-1))


def _key_points(target: Target, network: ImageNetwork, expected: int, hidden: bool) -> tuple[np.ndarray, np.ndarray]:
    index = target.chosen(hidden)
    assert target.keypoints is not None  # checked by chosen()
    if len(target.keypoints) != expected:
        raise ProblemError(
            f"the network gives {expected} key points (output {list(network.output)}), "
            f"the target has {len(target.keypoints)}"
        )
    return target.keypoints, index


def _coordinates(network: ImageNetwork, target: Target, hidden: bool) -> tuple[np.ndarray, np.ndarray]:
    n = network.n_outputs
    if n % 2 or len(network.output) > 2 or max(network.output, default=1) != n:
        maps = "; maps of scores, one per key point, need --property heatmap" if len(network.output) in (3, 4) else ""
        raise ProblemError(
            f"a coordinate head has 2K outputs x0, y0, ..; this network has {list(network.output)}{maps}"
        )
    return _key_points(target, network, n // 2, hidden)


def _tolerances(tolerance: float | Sequence[float], count: int) -> np.ndarray:
    tau = np.atleast_1d(np.asarray(tolerance, dtype=np.float64))
    if tau.shape not in ((1,), (count,)):
        raise OptionsError(f"1 or {count} tolerances are needed, found {tau.size}")
    if not np.isfinite(tau).all() or (tau <= 0).any():
        raise OptionsError("tolerances must be positive and finite")
    return np.broadcast_to(tau, (count,))


def _tail(matrix: np.ndarray, points: np.ndarray, head: Head, limits: np.ndarray) -> tuple[AbsTail, np.ndarray]:
    """The tail for M |y - t| <= limits with M, t rounded to float32, and limits tightened so that it implies it.

    M |y - t| <= (1 + 2^-24) M' (|y - t'| + |t - t'|) for the rounded M', t'; the factor 1 - 2^-22 covers the first
    part and float64's own rounding.
    """
    centre = np.array([head.value(float(v)) for v in points.ravel()])
    rounded = AbsTail(matrix.astype(np.float32).astype(np.float64), centre.astype(np.float32).astype(np.float64))
    tight = limits * (1.0 - 2.0**-22) - rounded.matrix @ np.abs(centre - rounded.centre) * (1.0 + 2.0**-22)
    if (tight <= 0).any():
        raise OptionsError("the limit is below the resolution of float32 coordinates; raise it")
    return rounded, tight


def _points(index: np.ndarray) -> str:
    """ "key points 0-3, 7" for messages."""
    runs: list[list[int]] = []
    for k in index.tolist():
        if runs and runs[-1][-1] == k - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return "key points " + ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _span(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
