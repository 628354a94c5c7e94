"""alpha-CROWN: backward rows whose planes are chosen by gradient ascent (Xu et al. 2021, "Fast and Complete").

Every adjustable operator has a family of planes with one parameter in [0, 1] per element and side (alpha; see
`RelaxedOp.relax_at`), and every choice gives a sound row. So each row gets parameters of its own, starts from CROWN's,
and climbs along the gradient of its own minimum over its own box. Where the paper shares parameters between neurons of
a layer to save memory, they are separate here: the search takes smaller batches instead.

Every iterate is a bound. The best one of each row is kept, with the linear function that attains it, so that more steps
can only help and a budget may end the ascent anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.ascend import Adam
from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.inputs import InputMap
from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.bounds.sweep import Sweep
from verifier.budget import never
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.tolerance import UNSCALED

RATE, DECAY = 0.25, 0.98
"""First step in units of alpha's range [0, 1], and its decay per step. Measured on 18 small networks of six kinds
against the gain of 150 steps: 5, 10 and 20 steps reach 80, 90 and 97 % of it (rate 0.1, the paper's: 68, 86 and 96 %;
rate 0.5: 74, 87 and 95 %)."""

Where = tuple[Tensor, Tensor, Tensor, InputMap]  # lower, upper (R, d); query (R,); the input map


def tighten(
    network: Network,
    lower: Tensor,
    upper: Tensor,
    query: Tensor,
    inputs: InputMap,
    known: Sweep,
    rows: Tensor,
    bias: Tensor,
    steps: int,
    stop: Callable[[], bool] = never,
    owner: Tensor | None = None,
    extra: Tensor | None = None,
    settled: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows over the network's output, (B, K, *S) and (B, K), as the best rows over the parameters that `steps` find.

    Bounds of intermediate values stay those of `known`. `owner` (B,) gives the place of each box in `known` (None: box
    b is box b). `extra` (B, K, d) is added to every row over the parameters. `settled` maps the minima found so far,
    (B, K), to a mask (B,) of boxes that need no more steps. `stop` is asked between steps and ends the ascent early.

    Returns:
        coefficients (B, K, d) and bias (B, K) with  coefficients . p + bias <= rows . y  on the boxes; the minimum of
        no row is below the one of CROWN with the planes of `known`. What rounding may have cost is off the bias.
    """
    pre = {i: bounds if owner is None else _pick(bounds, owner) for i, bounds in known.pre.items()}
    ascent = _Ascent(network, network.output, steps, stop, settled)
    allowance = known.allowance if owner is None or known.allowance is None else known.allowance.of(owner)
    return ascent.climb(rows, bias, pre, (lower, upper, query, inputs), extra, allowance)


@dataclass
class _Climb:
    """The rows that still climb: R groups of K rows, and their parameters (K, R, *S)."""

    rows: Tensor
    bias: Tensor
    pre: dict[int, tuple[Interval, ...]]
    where: Where
    extra: Tensor | None
    allowance: Allowance | None
    alphas: dict[tuple[int, int], Tensor]
    adam: Adam = field(default_factory=Adam)

    def select(self, keep: Tensor) -> _Climb:
        """The groups named by a mask."""
        lower, upper, query, inputs = self.where
        index = keep.nonzero()[:, 0]
        self.adam.select(index, 1)
        return _Climb(
            self.rows[keep],
            self.bias[keep],
            {i: _pick(bounds, keep) for i, bounds in self.pre.items()},
            (lower[keep], upper[keep], query[keep], inputs),
            None if self.extra is None else self.extra[keep],
            None if self.allowance is None else self.allowance.of(index),
            {key: t[:, keep] for key, t in self.alphas.items()},
            self.adam,
        )

    def move(self, step: int, gradients: Mapping[tuple[int, int], Tensor]) -> None:
        """One step upwards, and back into [0, 1].

        Adam takes a full step whatever the gradient's size. Those that are only rounding, against the largest of their
        row, are damped instead: which way they point must not decide anything.
        """
        if not gradients:
            return
        sizes = [gradient.flatten(2).abs().amax(2) for gradient in gradients.values()]
        noise = UNSCALED * torch.stack(sizes).amax(0).clamp_min(torch.finfo(sizes[0].dtype).tiny)
        named = {f"{i}.{side}": gradient for (i, side), gradient in gradients.items()}
        noises = {name: noise.view(*noise.shape, *[1] * (g.dim() - 2)) for name, g in named.items()}
        moves = self.adam.step(named, noises)
        for i, side in gradients:
            moved = self.alphas[i, side] + RATE * DECAY**step * moves[f"{i}.{side}"]
            self.alphas[i, side] = moved.clamp_(0, 1)


@dataclass(frozen=True)
class _Ascent:
    """Ascent of rows that start in `slot`."""

    network: Network
    slot: int
    steps: int
    stop: Callable[[], bool]
    settled: Callable[[Tensor], Tensor] | None = None

    def climb(
        self,
        rows: Tensor,
        bias: Tensor,
        pre: Mapping[int, tuple[Interval, ...]],
        where: Where,
        extra: Tensor | None = None,
        allowance: Allowance | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Best rows over the parameters for R groups of K rows, (R, K, *S) and (R, K): (R, K, d), (R, K)."""
        adjustable = [i for i in pre if i < self.slot and _relaxed(self.network, i).adjustable]
        # relax_at takes leading axes of alpha in front of the boxes
        alphas = {
            (i, side): alpha.expand(rows.shape[1], *alpha.shape).clone()
            for i in adjustable
            for side, alpha in enumerate(_relaxed(self.network, i).default_alpha(*pre[i]))
        }
        state = _Climb(rows, bias, dict(pre), where, extra, allowance, alphas)
        steps = self.steps if alphas else 0
        best, gradients = self._evaluate(state, with_gradients=steps > 0)
        index = torch.arange(len(rows), device=rows.device)
        for step in range(steps):
            if self.stop():
                break
            state.move(step, gradients)
            if self.settled is not None:
                needed = ~self.settled(best[2])[index]
                if not bool(needed.any()):
                    break
                if int(needed.sum()) <= len(index) // 2:
                    index, state = index[needed], state.select(needed)
            fresh, gradients = self._evaluate(state, with_gradients=step + 1 < steps)
            better = fresh[2] > best[2][index]
            best = tuple(
                kept.index_copy(
                    0, index, torch.where(better[:, :, None] if new.dim() == 3 else better, new, kept[index])
                )
                for kept, new in zip(best, fresh, strict=True)
            )
        return best[0], best[1]

    def _evaluate(
        self, state: _Climb, with_gradients: bool
    ) -> tuple[tuple[Tensor, ...], dict[tuple[int, int], Tensor]]:
        """Coefficients (R, K, d), bias (R, K) and minima (R, K) at the parameters, and the gradients of the minima."""
        if not with_gradients:
            with torch.no_grad():
                return self._rows(state, state.alphas), {}
        with torch.enable_grad():
            alphas = {key: t.requires_grad_() for key, t in state.alphas.items()}
            values = self._rows(state, alphas)
            total = torch.where(torch.isfinite(values[2]), values[2], 0.0).sum()
            found = torch.autograd.grad(total, list(alphas.values()), allow_unused=True) if total.requires_grad else ()
        state.alphas = {key: t.detach() for key, t in alphas.items()}
        # planes without a finite offset give 0 * inf
        gradients = {
            key: torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
            for key, g in zip(alphas, found, strict=False)
            if g is not None
        }
        return tuple(t.detach() for t in values), gradients

    def _rows(self, state: _Climb, alphas: Mapping[tuple[int, int], Tensor]) -> tuple[Tensor, ...]:
        count, groups = state.rows.shape[1], state.rows.shape[0]
        lower, upper, query, inputs = state.where
        planes = {}
        for i, bounds in state.pre.items():
            op = _relaxed(self.network, i)
            if (i, 0) in alphas:
                relaxed = op.relax_at(*bounds, alpha_lower=alphas[i, 0], alpha_upper=alphas[i, 1])
            else:
                relaxed = op.relax(*bounds)
            planes[i] = _one_per_row(relaxed, count, op)
        # one group per (row, box), rows first, as the planes come
        rows = state.rows.transpose(0, 1).flatten(0, 1)[:, None]
        allowance = state.allowance and state.allowance.of(torch.arange(groups, device=rows.device).repeat(count))
        at_input = walk_back(self.network, self.slot, rows, state.bias.T.reshape(-1, 1), planes, allowance=allowance)
        coefficients, bias = inputs.pull(*at_input, query.repeat(count))
        coefficients = coefficients.view(count, groups, -1).transpose(0, 1)
        bias = bias.view(count, groups).T
        if state.extra is not None:
            coefficients = coefficients + state.extra
        return coefficients, bias, concretise(coefficients, bias, lower, upper)


def _one_per_row(planes: Relaxation, count: int, op: RelaxedOp) -> Relaxation:
    """Planes with one leading axis of groups (K R, *S); those that do not depend on alpha are repeated."""

    def flat(t: Tensor, shape: tuple[int, ...]) -> Tensor:
        if t.dim() == len(shape) + 1:
            t = t.expand(count, *t.shape)
        return t.flatten(0, 1)

    return Relaxation(
        tuple(flat(t, shape) for t, shape in zip(planes.lower_slopes, op.in_shapes, strict=True)),
        flat(planes.lower_offset, op.out_shape),
        tuple(flat(t, shape) for t, shape in zip(planes.upper_slopes, op.in_shapes, strict=True)),
        flat(planes.upper_offset, op.out_shape),
    )


def _pick(bounds: tuple[Interval, ...], index: Tensor) -> tuple[Interval, ...]:
    return tuple(Interval(bound.lower[index], bound.upper[index]) for bound in bounds)


def _relaxed(network: Network, i: int) -> RelaxedOp:
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    return op
