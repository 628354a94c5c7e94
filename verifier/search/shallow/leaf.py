"""Subproblems whose relaxation a linear program solves exactly.

The batched ascent gets close to that optimum in a few steps where all neurons act on one scale. It does not where a
neuron's slope is a thousand times that of the sum (a spike: three steep neurons that cancel), since multipliers of such
neurons are needed to a precision far below their own size. There, and where no loose neuron is open any more, the
program finds the multipliers; the bound is recomputed from them in float64, and only that counts as a proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from verifier.search.linear_program import minimise
from verifier.search.shallow.dual import DualRows, LayerRelaxation, Nodes
from verifier.search.shallow.form import Clause
from verifier.tolerance import NARROWEST, gamma, lost


@dataclass(frozen=True, eq=False)
class OpenLeaf:
    """A subproblem (one) with the program's multipliers, their `rows`, and the `point` (1, n) where the relaxed
    functions are smallest."""

    nodes: Nodes
    rows: DualRows
    point: Tensor


@dataclass(frozen=True)
class LeafRelaxation:
    """Whether a subproblem is `proven`; what the program found otherwise, None where there is no optimum; and `nodes`,
    the subproblem with the program's multipliers, None where it found none."""

    proven: bool
    open: OpenLeaf | None = None
    nodes: Nodes | None = field(default=None, compare=False)


def relax(clause: Clause, node: Nodes) -> LeafRelaxation:
    """Solves the relaxation of one subproblem.

    Variables: x (n), y (J) for the open ReLUs, and the level t, which is minimised:
    every function, with y for the open ReLUs, is <= t; y is above its ReLU, and where a gain is negative below the
    chord; decided signs hold.
    """
    low, high, sign, lower, upper = (
        t[0].cpu().numpy() for t in (node.low, node.high, node.sign, node.lower, node.upper)
    )
    linear, constant, gain, weight, bias = (
        t.cpu().numpy() for t in (clause.linear, clause.constant, clause.gain, clause.weight, clause.bias)
    )
    numbers = (low, high, lower, upper, linear, constant, gain, weight, bias)
    if not all(np.isfinite(t).all() for t in numbers) or (lower > upper).any():
        return LeafRelaxation(False)
    on, open_ = low >= 0, (low < 0) & (high > 0)
    # an open ReLU that no function counts positively lies on its chord; the others need a variable
    falling = open_ & (gain <= 0).all(0)
    free = np.flatnonzero(open_ & ~falling)
    chord = np.divide(high, high - low, out=np.zeros_like(high), where=open_)
    slope = np.where(falling, chord, on.astype(float))
    lift = np.where(open_, -chord * low, 0.0)
    bounded = free[(gain[:, free] < 0).any(0)]
    decided = np.flatnonzero(sign)
    n, j, k, u = len(lower), len(free), len(constant), len(bounded)
    unit = np.eye(j)
    functions = np.c_[linear + (gain * slope) @ weight, gain[:, free], -np.ones(k)]
    epigraph = np.c_[weight[free], -unit, np.zeros(j)]
    sides = np.c_[-sign[decided, None] * weight[decided], np.zeros((len(decided), j + 1))]
    chords = np.c_[-chord[bounded, None] * weight[bounded], unit[np.isin(free, bounded)], np.zeros(u)]
    right = [
        -(constant + (gain * slope) @ bias + (gain[:, falling] @ lift[falling])),
        -bias[free],
        sign[decided] * bias[decided],
        chord[bounded] * bias[bounded] + lift[bounded],
    ]
    solved = minimise(
        np.r_[np.zeros(n + j), 1.0],
        np.concatenate([functions, epigraph, sides, chords]),
        np.concatenate(right),
        np.r_[lower, np.zeros(j), -np.inf],
        np.r_[upper, np.full(j + 1, np.inf)],
    )
    if solved is None:
        return LeafRelaxation(False)
    by_function, by_side = solved.dual[:k], solved.dual[k + j : k + j + len(decided)]
    if solved.x is None:
        error = clause.argument_error[decided].cpu().numpy()
        beta = torch.zeros_like(node.beta)
        beta[0, decided] = torch.from_numpy(by_side).to(beta)
        nothing = replace(node, weights=torch.zeros_like(node.weights), beta=beta)
        return LeafRelaxation(_no_point(by_side, sides[:, :n], right[2] + error, lower, upper), None, nothing)
    weights = torch.from_numpy(by_function / max(by_function.sum(), NARROWEST)).to(node.weights)[None]
    total = (weights @ clause.gain)[0].cpu().numpy()[free]
    alpha, beta = node.alpha.clone(), torch.zeros_like(node.beta)
    ratio = np.divide(solved.dual[k : k + j], total, out=np.full(j, 0.5), where=total > 0)
    alpha[0, free] = torch.from_numpy(np.clip(ratio, 0, 1)).to(alpha)
    beta[0, decided] = torch.from_numpy(by_side).to(beta)
    rows = LayerRelaxation(clause, node).rows(weights, alpha, beta)
    better = replace(node, weights=weights, alpha=alpha, beta=beta)
    if bool(rows.value > 0):
        return LeafRelaxation(True, None, better)
    point = torch.from_numpy(solved.x[:n]).to(node.lower).clamp(node.lower[0], node.upper[0])[None]
    return LeafRelaxation(False, OpenLeaf(better, rows, point), better)


def _no_point(dual: np.ndarray, sides: np.ndarray, right: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Whether the combination `dual` (D,) >= 0 of `sides . x <= right` (D, n), (D,) is violated everywhere on the
    box."""
    row = dual @ sides
    least = np.minimum(row * lower, row * upper).sum() - dual @ right
    size = dual @ (np.abs(sides) @ np.maximum(np.abs(lower), np.abs(upper)) + np.abs(right))
    terms, reach = len(right) + len(lower), np.maximum(np.abs(lower), np.abs(upper)).sum()
    return bool(least > 3 * gamma(terms, torch.float64) * size + lost(terms, torch.float64) * (1 + reach))
