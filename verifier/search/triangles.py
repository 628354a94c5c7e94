"""Subproblems of ReLU networks whose bound is almost 0: the best slopes and multipliers there are, by HiGHS.

A climb in float32 ends a little below the optimum of the linear program of a subproblem's triangles (Ehlers 2017). By
duality (Salman et al. 2019; with decided neurons Wang et al. 2021) that program's multipliers say which slopes and
multipliers reach it. They are a proposal: what they prove is computed from them in float64, as for any others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task
from verifier.ops.kinds import LinearOp, Op
from verifier.search.linear_program import minimise

MOST_ENTRIES = 1 << 17
"""Entries of a program's matrix at most: a solve, which nothing interrupts, takes some 0.1 s."""

ENTRY = 12.0
"""What an entry of the matrix counts for in multiply-adds of a small network's walks. (5 ms for 12 000 entries, while a
walk of some thousand multiply-adds takes 0.1 ms: both measured on one core.)"""


def charge(ground: Ground, task: Task) -> float:
    """Multiply-adds that one program of these subproblems counts for; inf where it is too large."""
    n, u, j = ground.network.n, len(ground.places), task.rhs.shape[1]
    entries = (j + 3 * u + task.signs.shape[1]) * (n + u + 1)
    return torch.inf if entries > MOST_ENTRIES else ENTRY * entries + (1 + n + u) * ground.network.multiply_adds


def optimal(ground: Ground, task: Task, stop: Callable[[], bool]) -> tuple[Tensor, Parameters]:
    """Which of B subproblems in float64 HiGHS gets to the end of (C,), and parameters that reach these programs'
    optima, or exclude every point: for networks of nothing but ReLUs. None is begun after `stop()` says so."""
    relaxed = Relaxed(ground, task)
    maps: dict[int, _Affine] = {}
    ends, parts = [], []
    for b, q in enumerate(task.query.tolist()):
        if stop():
            break
        if q not in maps:
            maps[q] = _Affine.of(ground, q)
        found = _solve(maps[q], relaxed, b)
        if found is not None:
            ends.append(b)
            parts.append(found)
    like, sizes = task.lower, (len(ground.places), task.signs.shape[1], task.rhs.shape[1])
    alpha, beta, weight = (
        torch.tensor(np.array([part[k] for part in parts])).to(like).view(len(parts), size)
        for k, size in enumerate(sizes)
    )
    return torch.tensor(ends, dtype=torch.int64, device=like.device), Parameters(alpha, beta, weight)


@dataclass(frozen=True, eq=False)
class _Affine:
    """A query's network between its U loose neurons: their arguments  z (U, n + U) . (x, y) + z_bias  and the outputs
    out (m, n + U) . (x, y) + out_bias  over the inputs x and the values y of loose neurons."""

    z: np.ndarray
    z_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray

    @staticmethod
    def of(ground: Ground, query: int) -> _Affine:
        network, u = ground.network, len(ground.places)
        n, like = network.n, ground.ends
        points = torch.cat([like.new_zeros(1, n), torch.eye(n).to(like), like.new_zeros(u, n)])
        values = torch.cat([like.new_zeros(1 + n, u), torch.eye(u).to(like)])
        mine = dict(zip(network.relus, values.split([len(ground.loose[i]) for i in network.relus], 1), strict=True))
        arguments: dict[int, Tensor] = {}

        def step(i: int, op: Op, xs: list[Tensor]) -> Tensor:
            if isinstance(op, LinearOp):
                return op.forward(*xs) if xs else op.forward().expand(len(points), *op.out_shape)
            z, loose = xs[0].flatten(1), ground.loose[i]
            arguments[i] = z[:, loose]
            y = z * (ground.pre[i][0].lower[query].flatten() >= 0).to(z)
            return y.index_copy(1, loose, mine[i]).view_as(xs[0])

        out = network.walk(points.view(len(points), *network.shapes[0]), step, network.output).flatten(1)
        z = torch.cat([arguments[i] if i in arguments else torch.zeros_like(mine[i]) for i in network.relus], 1)
        parts = ((t[1:] - t[:1]).T.cpu().numpy() for t in (z, out))
        return _Affine(next(parts), z[0].cpu().numpy(), next(parts), out[0].cpu().numpy())


def _solve(affine: _Affine, relaxed: Relaxed, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """min t  where  every row of the clause <= t,  every neuron in its triangle,  every decision kept: the slopes (U,),
    multipliers of the decisions (D,) and weights of the rows (J,) of subproblem b."""
    task = relaxed.task
    lower, upper, signs, rhs = (t[b].cpu().numpy() for t in (task.lower, task.upper, task.signs, task.rhs))
    low, high, open_ = (t[b].cpu().numpy() for t in (*relaxed.bounds, relaxed.open_))
    z, bias, n, u = affine.z, affine.z_bias, len(lower), len(low)
    used = np.isfinite(rhs)
    rows = task.rows[b].cpu().numpy()[used]
    clause = rows @ affine.out
    if task.mixed is not None:
        clause[:, :n] += task.mixed[b].cpu().numpy()[used]
    y = np.eye(u, n + u, n)
    off = ~open_ & (low < 0)
    slope = np.where(open_, high / np.where(open_, high - low, 1.0), 1.0)
    offset = np.where(open_, -slope * low, 0.0)
    above, below, positive = (z - y)[~off], (y - slope[:, None] * z)[~off], -y[open_]
    place = {number: k for k, number in enumerate(relaxed.places.tolist())}
    decided, right = np.zeros((len(signs), n + u)), np.ones(len(signs))
    for d, sign in enumerate(signs.tolist()):
        k = place.get(abs(sign) - 1)
        if sign and k is not None:  # one that is affine for every query has no row
            decided[d], right[d] = -np.sign(sign) * z[k], np.sign(sign) * bias[k]
    parts = [clause, above, below, positive, decided]
    t = np.zeros(sum(map(len, parts)))
    t[: len(clause)] = -1
    cost = np.zeros(n + u + 1)
    cost[-1] = 1
    solved = minimise(
        cost,
        np.c_[np.concatenate(parts), t],
        np.concatenate(
            [
                rhs[used] - rows @ affine.out_bias,
                -bias[~off],
                (offset + slope * bias)[~off],
                np.zeros(len(positive)),
                right,
            ]
        ),
        np.r_[lower, np.where(off, 0.0, -np.inf), -np.inf],
        np.r_[upper, np.where(off, 0.0, np.inf), np.inf],
    )
    if solved is None:
        return None
    of_clause, of_above, _, of_positive, beta = np.split(solved.dual, np.cumsum([len(part) for part in parts])[:-1])
    weight, along, flat = np.zeros(len(rhs)), np.zeros(u), np.zeros(u)
    weight[used], along[~off], flat[open_] = of_clause, of_above, of_positive
    both = along + flat
    return np.where(both > 0, along / np.where(both > 0, both, 1.0), 1.0), beta, weight
