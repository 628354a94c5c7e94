"""A non-linear operator that is no ReLU, on a batch of subproblems: clamped intervals, and planes with parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.kinds import Interval, Relaxation, RelaxedOp


class Adjustable:
    """Operator `op` on the intervals `bounds`, (B, *S_k) each. The parameters (B, 2 U) are those of the lower, then of
    the upper planes, for the flat positions `loose` (U,) of its first argument; the others keep their default."""

    def __init__(self, op: RelaxedOp, bounds: tuple[Interval, ...], loose: Tensor) -> None:
        self.op, self.bounds, self.loose = op, bounds, loose
        self._default = op.default_alpha(*bounds)
        self._known: tuple[Tensor, Tensor, Relaxation] | None = None

    def default(self) -> Tensor:
        """The parameters of the default planes."""
        return torch.cat([a.flatten(1).index_select(1, self.loose) for a in self._default], 1)

    def planes(self, alpha: Tensor) -> Relaxation:
        """The planes at the parameters, detached."""
        return _detached(self._planes(alpha)[1])

    def gradient(self, alpha: Tensor, at: Tensor, xs: list[Tensor]) -> Tensor:
        """d value / d alpha (B, 2 U) of what a row with coefficients `at` (B, *T) makes of the planes at `xs`."""
        leaf, planes = self._planes(alpha)
        with torch.enable_grad():
            positive, negative = at.clamp(min=0), at.clamp(max=0)
            low = on_plane(self.op, planes.lower_slopes, planes.lower_offset, xs)
            high = on_plane(self.op, planes.upper_slopes, planes.upper_offset, xs)
            total = (positive * low + negative * high).sum()
            (found,) = torch.autograd.grad(total, leaf, retain_graph=True)
        # planes without a finite offset give 0 * inf
        return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

    def losses(self, alpha: Tensor, at: Tensor, xs: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """By argument, what splitting each element may gain a row with coefficients `at` (B, *T), what the planes lose
        it at most, the element's width, 0 where it cannot be split, and where to split it, (B, *S_k) each.

        How far the plane that the row takes lies from the function at `xs`, and a part of how far the two planes lie
        apart at most; of an operator with several arguments, each by its share of that.
        """
        op, planes = self.op, self.planes(alpha)
        away = (op.forward(*xs) - relaxed_value(op, xs, planes, at)).abs()
        gap = plane_gap(op, planes, self.bounds)
        bent, tiny = op.unstable(*self.bounds), torch.finfo(at.dtype).tiny
        loss, most = (
            torch.where(bent, torch.nan_to_num(at.abs() * of, nan=0.0, posinf=0.0).clamp(min=tiny), 0.0)
            for of in (torch.minimum(away, gap) + 0.25 * gap, gap)
        )
        widths = [x.upper - x.lower for x in self.bounds]
        shares = [s * w for s, w in zip(op.sensitivity(*self.bounds), widths, strict=True)]
        total = torch.stack([op.collect(s) for s in shares]).sum(0).clamp(min=tiny)
        result = []
        for k, (share, x) in enumerate(zip(shares, self.bounds, strict=True)):
            where = op.split_point(k, *self.bounds)
            inside = (x.lower < where) & (where < x.upper)
            parts = [op.spread((of / total)[:, None], k)[:, 0] * share for of in (loss, most)]
            parts = [torch.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in (*parts, x.upper - x.lower)]
            result.append((*(torch.where(inside, part, 0.0) for part in parts), where))
        return result

    def _planes(self, alpha: Tensor) -> tuple[Tensor, Relaxation]:
        if self._known is None or self._known[0] is not alpha:
            leaf = alpha.detach().clone().requires_grad_()
            with torch.enable_grad():
                halves = leaf.tensor_split(2, 1)
                lower, upper = (
                    a.flatten(1).index_copy(1, self.loose, mine).view_as(a)
                    for a, mine in zip(self._default, halves, strict=True)
                )
                planes = self.op.relax_at(*self.bounds, alpha_lower=lower, alpha_upper=upper)
            self._known = alpha, leaf, planes
        return self._known[1], self._known[2]


def on_plane(op: RelaxedOp, slopes: tuple[Tensor, ...], offset: Tensor, xs: list[Tensor]) -> Tensor:
    """The value (B, *T) of a plane at the arguments `xs`."""
    total = offset
    for slope, x in zip(slopes, xs, strict=True):
        total = total + op.collect(slope * x)
    return total


def plane_gap(op: RelaxedOp, planes: Relaxation, bounds: tuple[Interval, ...]) -> Tensor:
    """Largest distance between the two planes on the box: (B, *T)."""
    gap = planes.upper_offset - planes.lower_offset
    for low, high, x in zip(planes.lower_slopes, planes.upper_slopes, bounds, strict=True):
        slope = high - low
        gap = gap + op.collect(torch.maximum(slope * x.lower, slope * x.upper))
    return torch.nan_to_num(gap, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)


def relaxed_value(op: RelaxedOp, xs: list[Tensor], planes: Relaxation, at: Tensor | None) -> Tensor:
    """The value on the plane that a row with coefficients `at` (B, *T) takes; on the lower one if None."""
    low = on_plane(op, planes.lower_slopes, planes.lower_offset, xs)
    if at is not None:
        low = torch.where(at >= 0, low, on_plane(op, planes.upper_slopes, planes.upper_offset, xs))
    return torch.nan_to_num(low, nan=0.0, posinf=0.0, neginf=0.0)


def _detached(planes: Relaxation) -> Relaxation:
    return Relaxation(
        tuple(s.detach() for s in planes.lower_slopes),
        planes.lower_offset.detach(),
        tuple(s.detach() for s in planes.upper_slopes),
        planes.upper_offset.detach(),
    )
