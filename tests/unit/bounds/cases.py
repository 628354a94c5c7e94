"""Boxes of a small network, and every way to bound rows of its output on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tests import oracles
from verifier.bounds.alpha import tighten
from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.inputs import IdentityMap, InputMap
from verifier.bounds.network import Network, build
from verifier.bounds.relaxed import Ground, Task
from verifier.bounds.sweep import Method, Sweep, sweep
from verifier.graph.ir import Graph

METHODS = {
    "interval": Method(affine=False),
    "affine": Method(attribute=False),
    "attributed": Method(),
    "interval with rows": Method(affine=False, rows=True),
    "affine with rows": Method(attribute=False, rows=True),
    "attributed with rows": Method(rows=True),
    "rows in small chunks": Method(rows=True, row_elements=64),
}
ROWS = ("backward", "alpha")
STEPS = 4


@dataclass(frozen=True, eq=False)
class Boxes:
    """B boxes of parameters for `network`."""

    graph: Graph
    network: Network
    lower: Tensor
    upper: Tensor
    query: Tensor
    inputs: InputMap

    def sweep(self, method: Method) -> Sweep:
        return sweep(self.network, self.lower, self.upper, self.query, self.inputs, method)

    def rows(self, known: Sweep, how: str, matrix: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
        """Linear lower bounds of `matrix` (K, m) times the output: (B, K, d) and (B, K); `how` as in `ROWS`, or with
        all products of a row "together"."""
        where = self.network, self.lower, self.upper, self.query, self.inputs
        batch, count = len(self.lower), len(matrix)
        rows = matrix.expand(batch, *matrix.shape).reshape(batch, count, *self.network.shapes[self.network.output])
        bias = rows.new_zeros(batch, count)
        if how != "alpha":
            output, planes = self.network.output, known.relaxations
            products = known.products if how == "together" else {}
            at_input = walk_back(self.network, output, rows, bias, planes, allowance=known.allowance, products=products)
            return self.inputs.pull(*at_input, self.query)
        return tighten(*where, known, rows, bias, steps)

    def least(self, coefficients: Tensor, bias: Tensor) -> Tensor:
        """Minima of the linear functions: (B, K)."""
        return concretise(coefficients, bias, self.lower, self.upper)

    def one(self, b: int) -> Boxes:
        return replace(self, lower=self.lower[b : b + 1], upper=self.upper[b : b + 1], query=self.query[b : b + 1])


def boxes(
    graph: Graph,
    lower: np.ndarray,
    upper: np.ndarray,
    dtype: torch.dtype = torch.float64,
    free: list[int] | None = None,
) -> Boxes:
    """Boxes (B, n) of a network's own inputs, all of one query; `free` are the inputs that vary (all by default)."""
    network = build(graph, dtype, torch.device("cpu"))
    columns = list(range(graph.n_inputs)) if free is None else free
    low, high = (torch.from_numpy(np.atleast_2d(t)).to(dtype) for t in (lower, upper))
    query = torch.zeros(len(low), dtype=torch.int64)
    return Boxes(graph, network, low, high, query, IdentityMap(torch.tensor([columns])))


def some_boxes(n: int, count: int, rng: np.random.Generator, widest: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (count, n) of very different widths; some coordinates have none."""
    centre = rng.normal(size=(count, n))
    width = widest * rng.random((count, n)) ** 3 * (rng.random((count, n)) > 0.15)
    return centre - width / 2, centre + width / 2


def points_of(case: Boxes, count: int = 14) -> Iterator[tuple[int, np.ndarray]]:
    """Points (count + corners, n) inside each box, in float64."""
    rng = np.random.default_rng(5)
    for b, (low, high) in enumerate(zip(case.lower.double().numpy(), case.upper.double().numpy(), strict=True)):
        inside = oracles.sample(low, high, count, rng).astype(np.float64)
        corners = list(itertools.islice(itertools.product(*zip(low, high, strict=True)), 16))
        yield b, np.concatenate([np.clip(inside, low, high), np.array(corners)])


def matrix_for(graph: Graph, dtype: torch.dtype = torch.float64) -> Tensor:
    """Both signs of every output, and one mixture."""
    eye = np.eye(graph.n_outputs)
    mixture = np.random.default_rng(1).normal(size=(1, graph.n_outputs))
    return torch.from_numpy(np.concatenate([eye, -eye, mixture])).to(dtype)


def one_clause(case: Boxes, rhs: float, signs: Sequence[int]) -> Task:
    """The clause  y <= rhs  of one output, on one box whose neurons have these signs."""
    return Task(
        case.lower,
        case.upper,
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([signs], dtype=torch.int64).reshape(1, -1),
        torch.zeros(1, 0, dtype=torch.float64),
        torch.ones(1, 1, 1, dtype=torch.float64),
        torch.full((1, 1), rhs, dtype=torch.float64),
        None,
    )


def decided_as(
    point: np.ndarray, graph: Graph, ground: Ground, most: int, rng: np.random.Generator
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[int]]:
    """Up to `most` unstable neurons of each ReLU operator, decided the way a point has them: the intervals of the
    arguments by name, those neurons' clamped, and their signs."""
    values = oracles.evaluate_all(graph, point)
    pre, signs = {}, []
    names = [node.inputs[0] for node in graph if node.op == "Relu"]
    for name, (i, first) in zip(names, ground.network.relus.items(), strict=True):
        bound = ground.pre[i][0]
        below, above = bound.lower[0].flatten().numpy().copy(), bound.upper[0].flatten().numpy().copy()
        unstable = np.flatnonzero((below < 0) & (above > 0))
        for k in rng.choice(unstable, min(most, len(unstable)), replace=False).tolist():
            on = values[name].ravel()[k] >= 0
            (below if on else above)[k] = 0.0
            signs.append((first + k + 1) * (1 if on else -1))
        pre[name] = below, above
    return pre, signs
