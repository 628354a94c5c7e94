"""Bounds of subproblems with decided neurons: planes (alpha) and multipliers of the decisions (beta) climb together.

beta-CROWN (Wang et al. 2021, theorem 3.2; for any non-linear operator GenBaB, Shi et al. 2024, section 3.2): on the
points where the decided neurons keep their side, s (z - p) >= 0 with s = 1 or -1 and p the split point, every

    row . y - sum_d beta_d s_d (z_d - p_d),    beta >= 0,

bounds the row from below. p is 0 for a ReLU. Intermediate intervals are those of the whole box, computed once per
query, with the decided neurons' clamped at their split points; so one walk back over one row is all that an iterate
costs, and the gradients come from one walk forward: with x the minimiser of the row over the box and z, y the values of
the *relaxed* network at x (every neuron on the plane that its coefficient a picked),

    d bound / d alpha_i = max(a_i, 0) z_i,   d bound / d beta_d = -s_d (z_d - p_d),
    d bound / d weight_k = row_k . y - rhs_k.

(Danskin's theorem; the paper uses automatic differentiation, which is the same numbers at a higher price.) The first is
for a ReLU; of any other operator both planes have a parameter, and alone the value of its own planes at z and a is
differentiated automatically. A clause of
several rows is bounded by their best convex combination: `weight`.

The search runs in the network's own precision, and any iterate may be wrong by rounding. `prove` evaluates one walk
again, in float64 at fixed parameters, with everything that rounding can cost taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.ascend import Adam
from verifier.bounds.backward import concretise
from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task, Walked, relaxed_op
from verifier.bounds.sizes import size_on
from verifier.tolerance import gamma, lost, tiny

RATE = 0.12, 0.95
"""First step of alpha in units of its range, of beta in units of the coefficient at its neuron; and their decay."""

LOOK = {"cpu": 1, "cuda": 5}
"""Iterates between two looks at which subproblems go on: each look waits for the device. (Chosen by counting waits; no
device has timed it.)"""

TREND, LENIENT = 10, 3.0
"""A climb is hopeless where `LENIENT` times what the last `TREND` iterates gained on average is not enough. What a
subproblem finds is where its children start: after 3 or 6 iterates it is too little, and a network of 60 ReLUs that
19 000 subproblems settle was open after 87 000. (With 15 iterates sri_resnet_b 4909 takes 1.15 times as long.)"""


class Climbed(NamedTuple):
    """The `best` parameters of B subproblems, their bounds `value` (B,), and how many `walks` of one row through the
    network that took, back or forward."""

    best: Parameters
    value: Tensor
    walks: int


def climb(
    ground: Ground,
    task: Task,
    start: Parameters | None,
    steps: int,
    stop: Callable[[], bool],
    rate: tuple[float, float] = RATE,
    sign: bool = False,
) -> Climbed:
    """The best parameters that `steps` iterates find: every iterate is a bound, none is rigorous.

    Subproblems whose bound is positive leave the batch; where only its sign is asked for (`sign`) so do those that
    would not get there at several times the pace of the last iterates (`TREND`, `LENIENT`). Both are looked for at
    every so manieth iterate (`LOOK`).
    """
    look = size_on(task.query.device, LOOK)
    relaxed, total, walks = Relaxed(ground, task), len(task), 0
    now = start or relaxed.default()
    adjustable, several = now.alpha.shape[1], now.weight.shape[1] > 1
    # slopes and multipliers move together; `bounds` are their limits, `scale` the units of their steps
    moving, weight = torch.cat([now.alpha, now.beta], 1), now.weight
    limits = torch.zeros_like(moving[0]), torch.full_like(moving[0], torch.inf)
    limits[1][:adjustable] = 1
    index = torch.arange(total, device=task.query.device)
    best, value, final = (moving, weight), task.lower.new_full((total,), -torch.inf), None
    adam, scale, past = Adam((0.9, 0.99)), None, [value]
    for step in range(steps + 1):
        now = Parameters(moving[:, :adjustable], moving[:, adjustable:], weight)
        walks += len(index)
        if relaxed.lean and step < steps:
            walks += len(index)
            walked = relaxed.slopes(now)
            reached = relaxed.values(now, walked)
            low = relaxed.low(now, reached)
        else:
            walked, reached = relaxed.walk(now), None
            low = walked.low
        low = torch.nan_to_num(low, nan=-torch.inf, posinf=-torch.inf).masked_fill_(relaxed.empty, torch.inf)
        if step:
            better = (low > value)[:, None]
            best = torch.where(better, moving, best[0]), torch.where(better, weight, best[1]) if several else weight
        value = torch.maximum(low, value)
        if step == steps or stop():
            break
        past = [*past[-TREND:], value]
        if asked := step % look == 0:
            open_ = ~(low > 0)
            if sign and step >= TREND:
                open_ &= value + (value - past[0]) * (LENIENT * (steps - step) / TREND) > 0
            keep = open_.nonzero()[:, 0]
            if not len(keep):
                break
        if reached is None:
            walks += len(index)
            reached = relaxed.values(now, walked)
        found = relaxed.gradients(now, walked, reached)
        scale = torch.cat([torch.ones_like(found.alpha), 4 * _unit(relaxed, walked)], 1) if scale is None else scale
        every = torch.cat([found.alpha, found.beta, *([found.weight] if several else [])], 1)
        moves, length = adam.step({"": every})[""], rate[0] * rate[1] ** step
        moving = torch.addcmul(moving, scale, moves[:, : moving.shape[1]], value=length).clamp_(*limits)
        if several:
            weight = weight * torch.exp(moves[:, moving.shape[1] :] * (4 * length))
            weight = weight / weight.sum(1, keepdim=True).clamp_min_(tiny(weight.dtype))
        if asked and len(keep) <= 0.75 * len(index):
            final = _put(final, index, (*best, value))
            index, task = index[keep], task.select(keep)
            moving, weight, scale, value, *parts = (
                t.index_select(0, keep) for t in (moving, weight, scale, value, *best)
            )
            best, past = (parts[0], parts[1]), list(torch.stack(past).index_select(1, keep))
            adam.select(keep)
            relaxed = relaxed.select(keep, task)
    moving, weight, value = _put(final, index, (*best, value))
    return Climbed(Parameters(moving[:, :adjustable], moving[:, adjustable:], weight), value, walks)


def _put(whole: tuple[Tensor, ...] | None, index: Tensor, part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows of `part` at the places `index` of the `whole` (None: it is all)."""
    return part if whole is None else tuple(t.index_copy(0, index, p) for t, p in zip(whole, part, strict=True))


def _unit(relaxed: Relaxed, walked: Walked) -> Tensor:
    """Step size of each multiplier: the coefficient at its neuron, or the layer's usual one, (B, D)."""
    network, signs = relaxed.ground.network, relaxed.task.signs
    unit = torch.zeros(signs.shape, dtype=walked.point.dtype, device=signs.device)
    if relaxed.decided is not None:
        at, column = relaxed.side_by_side(walked.at).abs_(), relaxed.decided.column
        usual = torch.cat([at[:, part].mean(1, keepdim=True) for part in relaxed.layers.values()], 1)
        ends = torch.tensor([part.stop for part in relaxed.layers.values()], device=signs.device)
        layer = torch.bucketize(column, ends, right=True)
        unit += (at.gather(1, column) + usual.gather(1, layer)) * relaxed.decided.against.abs()
    for (i, k), place in relaxed.others.items():
        row = walked.at.get(i)
        if row is None:
            continue
        at = relaxed_op(network, i).spread(row[:, None], k)[:, 0].flatten(1).abs()
        mine = (at.gather(1, place.column) + at.mean(1, keepdim=True)) * place.against.abs()
        unit += place.placed(mine, unit)
    return unit


def prove(ground: Ground, task: Task, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rigorous lower bounds in float64 at fixed parameters: the minimum (B,), coefficients (B, n) and constant (B,) of
    the linear bound of the combined row (right-hand side taken off), and which subproblems have no points (B,).

    `parameters` may be rounded to anything: slopes in [0, 1], multipliers and weights >= 0 are all that is asked.
    """
    assert ground.allowance is not None and task.lower.dtype == torch.float64
    relaxed = Relaxed(ground, task)
    p = parameters.to(torch.float64)
    p = Parameters(p.alpha.clamp(0, 1), p.beta.clamp(min=0), p.weight.clamp(min=0))
    coefficients, constant = relaxed.proven(p, ground.allowance.of(task.query))
    j, n = task.rhs.shape[1], task.lower.shape[1]
    rhs = torch.where(torch.isfinite(task.rhs), task.rhs, 0.0)
    # the combination of rows is rounded once per row: at the outputs, at the mixed inputs and in the right-hand sides
    size = (p.weight * rhs.abs()).sum(1)
    if task.mixed is not None:
        reach = torch.maximum(task.lower.abs(), task.upper.abs())
        size = size + (p.weight * torch.bmm(task.mixed.abs(), reach[:, :, None])[:, :, 0]).sum(1)
    out = ground.allowance.output
    assert out is not None
    underflow = torch.zeros_like(size)
    if task.slot is None:
        reach = out.index_select(0, task.query)[:, :, None]
        size = size + (p.weight * torch.bmm(task.rows.abs(), reach)[:, :, 0]).sum(1)
        underflow = lost(j, torch.float64) * reach.sum((1, 2))  # of a weight times a row, at outputs of any size
    constant = constant - 4 * gamma(j + n, torch.float64) * size - underflow
    low = concretise(coefficients[:, None], constant[:, None], task.lower, task.upper)[:, 0]
    return torch.where(relaxed.empty, torch.inf, low), coefficients, constant, relaxed.empty
