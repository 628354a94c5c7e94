"""Independent evidence where `unsat` meets a known `sat`: random points, and the exact answer for small networks.

Nothing here uses code of the tool. The specification (VNN-LIB 1.0, linear rows) is read by `linear_cases`, points are
run in ONNX Runtime, and a network with one hidden ReLU layer is decided exactly as a mixed-integer linear program
(HiGHS).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.replay import read, start

MOST_CASES = 20_000
_TOKEN = re.compile(r"[()]|[^\s()]+")
Row = tuple[np.ndarray, np.ndarray, float]
"""a (n), c (m), b: the row a x + c y + b <= 0."""


@dataclass(frozen=True, eq=False)
class Case:
    """One conjunction: a box (n) and rows that all have to hold for a violation."""

    lower: np.ndarray
    upper: np.ndarray
    rows: tuple[Row, ...]

    def miss(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """By how much points (P, n) with outputs (P, m) miss the conjunction; at most 0 is a violation."""
        return np.max([x @ a + y @ c + b for a, c, b in self.rows] or [np.full(len(x), -np.inf)], axis=0)


@dataclass(frozen=True)
class Evidence:
    """`text` for people; `decided` is False where a violation exists, True where none can, None where that is open."""

    text: str
    no_violation: bool | None


def against_sat(model: Path, spec: Path, points: int = 100_000, seconds: float = 60.0) -> Evidence:
    """What speaks for an `unsat`. Sampling alone never proves it."""
    cases = linear_cases(read(spec).decode())
    network = Network(read(model))
    nearest = sample(network, cases, points)
    text = f"{points} points of the set come within {nearest:.4g} of a violation"
    if nearest <= 0:
        return Evidence(f"a sampled point violates the property by {-nearest:.4g}", False)
    layers = network.one_hidden_layer()
    if layers is None:
        return Evidence(f"{text}; the network is no affine-ReLU-affine one, so there is no exact answer", None)
    least = min(exact(layers, case, seconds) for case in cases)
    if least > 0:
        return Evidence(f"{text}; exact minimum (MILP, HiGHS) {least:.4g} > 0: no input violates", True)
    return Evidence(f"{text}; the MILP bounds the distance to a violation by {least:.4g} only", None)


class Network:
    """A network in ONNX Runtime, one input and one output, fed flat points."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._session = start(data)
        (entry,) = self._session.get_inputs()
        self._name, self._kind = entry.name, np.float64 if "double" in entry.type else np.float32
        self._shape = [size if isinstance(size, int) and size > 0 else 1 for size in entry.shape]
        self._batched = bool(entry.shape) and not (isinstance(entry.shape[0], int) and entry.shape[0] > 0)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Points (P, n) to outputs (P, m)."""
        x = x.astype(self._kind)
        if self._batched:
            try:
                y = self._session.run(None, {self._name: x.reshape(len(x), *self._shape[1:])})[0]
                return y.reshape(len(x), -1).astype(np.float64)
            except Exception:  # a batch dimension in name only
                self._batched = False
        outputs = [self._session.run(None, {self._name: point.reshape(self._shape)})[0].ravel() for point in x]
        return np.array(outputs, np.float64)

    def one_hidden_layer(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """W1, b1, W2, b2 with y = W2 max(W1 x + b1, 0) + b2, or None where the network is another one."""
        import onnx
        from onnx import numpy_helper

        graph = onnx.load_from_string(self._data).graph
        known = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
        n = int(np.prod(self._shape))
        weight, bias = np.eye(n), np.zeros(n)
        value, first = next(i.name for i in graph.input if i.name not in known), None
        for node in graph.node:
            if node.op_type == "Constant":
                known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).astype(np.float64)
                continue
            if value not in node.input:
                return None
            constants = [known[name] for name in node.input if name in known]
            if node.op_type == "Relu" and first is None:
                first = weight, bias
                weight, bias = np.eye(len(bias)), np.zeros(len(bias))
            elif node.op_type in ("MatMul", "Gemm") and node.input[0] == value and constants[0].ndim == 2:
                options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                if {options.get("alpha", 1.0), options.get("beta", 1.0)} != {1.0} or options.get("transA", 0):
                    return None
                matrix = constants[0] if options.get("transB", 0) else constants[0].T
                if matrix.shape[1] != len(bias):
                    return None
                weight, bias = matrix @ weight, matrix @ bias + (constants[1] if len(constants) > 1 else 0.0)
            elif node.op_type == "Add" and constants and constants[0].size in (1, len(bias)):
                bias = bias + constants[0].ravel()
            elif node.op_type not in ("Flatten", "Reshape", "Identity"):
                return None
            value = node.output[0]
        return None if first is None or value != graph.output[0].name else (*first, weight, bias)


def sample(network: Network, cases: list[Case], points: int, seed: int = 0) -> float:
    """The smallest miss of random points, half of them corners of the boxes."""
    draw, best = np.random.default_rng(seed), np.inf
    share = -(-points // len(cases))
    for case in cases:
        for first in range(0, share, 4096):
            part = draw.random((min(4096, share - first), len(case.lower)))
            part[::2] = np.round(part[::2])
            x = case.lower + part * (case.upper - case.lower)
            best = min(best, float(case.miss(x, network.run(x)).min()))
    return best


def exact(layers: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], case: Case, seconds: float) -> float:
    """A lower bound, exact where HiGHS ends in time, on the miss over the box; variables x, h, z (h > 0), t."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    w1, b1, w2, b2 = layers
    n, m = w1.shape[1], len(b1)
    centre, radius = (case.lower + case.upper) / 2, (case.upper - case.lower) / 2
    low = w1 @ centre + b1 - np.abs(w1) @ radius
    high = w1 @ centre + b1 + np.abs(w1) @ radius
    eye, column = np.eye(m), np.zeros((m, 1))
    constraints = [  # h >= w1 x + b1;  h <= w1 x + b1 - low (1 - z);  h <= high z
        LinearConstraint(np.hstack([w1, -eye, 0 * eye, column]), -np.inf, -b1),
        LinearConstraint(np.hstack([-w1, eye, -np.diag(np.minimum(low, 0)), column]), -np.inf, b1 - np.minimum(low, 0)),
        LinearConstraint(np.hstack([0 * w1, eye, -np.diag(np.maximum(high, 0)), column]), -np.inf, 0),
    ]
    for a, c, b in case.rows:  # a x + c (w2 h + b2) + b <= t
        row = np.concatenate([a, c @ w2, np.zeros(m), [-1.0]])
        constraints.append(LinearConstraint(row, -np.inf, -(b + c @ b2)))
    zeros, ones = np.zeros(m), np.ones(m)
    bounds = Bounds(
        np.concatenate([case.lower, zeros, zeros, [-np.inf]]),
        np.concatenate([case.upper, np.maximum(high, 0), ones, [np.inf]]),
    )
    kinds = np.concatenate([np.zeros(n + m), ones, [0]])
    cost = np.concatenate([np.zeros(n + 2 * m), [1.0]])
    done = milp(cost, integrality=kinds, bounds=bounds, constraints=constraints, options={"time_limit": seconds})
    if done.status == 2:  # the box is empty
        return np.inf
    return -np.inf if done.mip_dual_bound is None else float(done.mip_dual_bound)


def linear_cases(text: str) -> list[Case]:
    """The specification as a disjunction of conjunctions of rows over X and Y; strict is read as not strict.

    Raises:
        ValueError: something else than linear rows, or too many cases.
    """
    lists = list(_lists(_TOKEN.findall(re.sub(r";[^\n]*", "", text))))
    names = [entry[1] for entry in lists if entry[0] in ("declare-const", "declare-fun")]
    size = {letter: sum(name.startswith(letter) for name in names) for letter in "XY"}
    parts = [_disjuncts(entry[1], size) for entry in lists if entry[0] == "assert"]
    if np.prod([float(len(part)) for part in parts]) > MOST_CASES:
        raise ValueError(f"more than {MOST_CASES} cases")
    return [_case([row for part in chosen for row in part], size["X"]) for chosen in itertools.product(*parts)]


def _case(rows: list[Row], n: int) -> Case:
    """Rows on one input become its bounds."""
    lower, upper, others = np.full(n, -np.inf), np.full(n, np.inf), []
    for a, c, b in rows:
        (index,) = np.nonzero(a)
        if len(index) == 1 and not c.any():
            i, bound = index[0], -b / a[index[0]]
            if a[i] > 0:
                upper[i] = min(upper[i], bound)
            else:
                lower[i] = max(lower[i], bound)
        else:
            others.append((a, c, b))
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise ValueError("an input without a bound")
    return Case(lower, upper, tuple(others))


def _lists(tokens: list[str]) -> Iterator[list[Any]]:
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if len(stack) == 1:
                yield done
            else:
                stack[-1].append(done)
        else:
            stack[-1].append(token)


def _disjuncts(formula: Any, size: dict[str, int]) -> list[list[Row]]:
    head, *rest = formula
    if head == "or":
        return [rows for part in rest for rows in _disjuncts(part, size)]
    if head == "and":
        parts = [_disjuncts(part, size) for part in rest]
        if np.prod([float(len(part)) for part in parts]) > MOST_CASES:
            raise ValueError(f"more than {MOST_CASES} cases")
        return [[row for part in chosen for row in part] for chosen in itertools.product(*parts)]
    left, right = (_linear(part, size) for part in rest)
    below = left[0] - right[0], left[1] - right[1], left[2] - right[2]
    above = -below[0], -below[1], -below[2]
    if head in ("<=", "<"):
        return [[below]]
    if head in (">=", ">"):
        return [[above]]
    if head in ("=", "=="):
        return [[below, above]]
    raise ValueError(f"unknown relation {head!r}")


def _linear(term: Any, size: dict[str, int]) -> Row:
    if isinstance(term, str):
        a, c = np.zeros(size["X"]), np.zeros(size["Y"])
        if term[:2] in ("X_", "Y_"):
            (a if term[0] == "X" else c)[int(term[2:])] = 1.0
            return a, c, 0.0
        return a, c, float(term)
    head, *rest = term
    parts = [_linear(part, size) for part in rest]
    if head == "-" and len(parts) == 1:
        return _scaled(parts[0], -1.0)
    if head in ("+", "-"):
        sign = 1.0 if head == "+" else -1.0
        return tuple(parts[0][k] + sign * sum(part[k] for part in parts[1:]) for k in range(3))  # type: ignore[return-value]
    if head == "*":
        product = parts[0]
        for part in parts[1:]:
            if product[0].any() or product[1].any():
                product, part = part, product
            if product[0].any() or product[1].any():
                raise ValueError("a product of variables")
            product = _scaled(part, product[2])
        return product
    raise ValueError(f"unknown operation {head!r}")


def _scaled(row: Row, factor: float) -> Row:
    return row[0] * factor, row[1] * factor, row[2] * factor
