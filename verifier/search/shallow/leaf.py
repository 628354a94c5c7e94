"""Subproblems in which no loose neuron is open: convex, so a linear program decides them.

The program finds the multipliers; the bound is recomputed from them in float64, and only that counts as a proof.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.search.shallow.dual import Nodes, Planes
from verifier.search.shallow.form import Clause
from verifier.tolerance import gamma


def settle(clause: Clause, node: Nodes) -> tuple[bool, Tensor | None]:
    """Whether the subproblem (one) is proven, and otherwise the point (n,) where the functions are smallest, if any.

    Variables: x (n), y (J) >= the open convex ReLUs, and the level t, which is minimised:
    every function, with y for the open ReLUs, is <= t; decided signs hold.
    """
    from scipy.optimize import linprog  # slow to import, and few problems come here

    low, high, sign, lower, upper = (
        t[0].cpu().numpy() for t in (node.low, node.high, node.sign, node.lower, node.upper)
    )
    linear, constant, gain, weight, bias = (
        t.cpu().numpy() for t in (clause.linear, clause.constant, clause.gain, clause.weight, clause.bias)
    )
    numbers = (low, high, lower, upper, linear, constant, gain, weight, bias)
    if not all(np.isfinite(t).all() for t in numbers) or (lower > upper).any():
        return False, None
    on, open_ = low >= 0, np.flatnonzero((low < 0) & (high > 0))
    decided = np.flatnonzero(sign)
    n, j, k = len(lower), len(open_), len(constant)
    functions = np.c_[linear + (gain * on) @ weight, gain[:, open_], -np.ones(k)]
    epigraph = np.c_[weight[open_], -np.eye(j), np.zeros(j)]
    sides = np.c_[-sign[decided, None] * weight[decided], np.zeros((len(decided), j + 1))]
    right = np.concatenate([-(constant + (gain * on) @ bias), -bias[open_], sign[decided] * bias[decided]])
    program = linprog(
        np.r_[np.zeros(n + j), 1.0],
        A_ub=np.concatenate([functions, epigraph, sides]),
        b_ub=right,
        bounds=[*zip(lower, upper, strict=True), *[(0, None)] * j, (None, None)],
        method="highs",
    )
    if program.status == 2:  # no point has these signs: a combination of them says so, but HiGHS does not hand it out
        error = clause.argument_error[decided].cpu().numpy()
        return _no_point(sides[:, :n], right[k + j :] + error, lower, upper), None
    if program.status != 0:
        return False, None
    dual = np.maximum(-program.ineqlin.marginals, 0.0)
    weights = torch.from_numpy(dual[:k] / max(dual[:k].sum(), 1e-300)).to(node.weights)[None]
    slope = (weights @ clause.gain)[0].cpu().numpy()[open_]
    alpha, beta = node.alpha.clone(), torch.zeros_like(node.beta)
    ratio = np.divide(dual[k : k + j], slope, out=np.full(j, 0.5), where=slope > 0)
    alpha[0, open_] = torch.from_numpy(np.clip(ratio, 0, 1)).to(alpha)
    beta[0, decided] = torch.from_numpy(dual[k + j :]).to(beta)
    if bool(Planes(clause, node).rows(weights, alpha, beta).value > 0):
        return True, None
    return False, torch.from_numpy(program.x[:n]).to(node.lower)


def _no_point(sides: np.ndarray, right: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Whether a combination of `sides . x <= right` (D, n), (D,) with weights >= 0 is violated everywhere on the
    box."""
    from scipy.optimize import linprog

    d = len(right)
    if d == 0:
        return False
    program = linprog(
        np.r_[np.zeros(len(lower)), 1.0],
        A_ub=np.c_[sides, -np.ones(d)],
        b_ub=right,
        bounds=[*zip(lower, upper, strict=True), (None, None)],
        method="highs",
    )
    if program.status != 0:
        return False
    dual = np.maximum(-program.ineqlin.marginals, 0.0)
    row = dual @ sides
    least = np.minimum(row * lower, row * upper).sum() - dual @ right
    size = dual @ (np.abs(sides) @ np.maximum(np.abs(lower), np.abs(upper)) + np.abs(right))
    return bool(least > 3 * gamma(d + len(lower), torch.float64) * size)
