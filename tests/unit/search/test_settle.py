"""Clipping never loses a violating point; joint scores and affine leaves claim no more than a linear programme."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from tests.unit.search.tables import domains, holds, linear
from verifier.bounds.backward import concretise
from verifier.search.domains import DomainBatch
from verifier.search.halving import clip
from verifier.search.leaf import settle_affine
from verifier.search.settle import joint_scores, row_scale, shrink, shrink_all

COUNT, ROWS, N = 12, 5, 3


def _random(seed: int, clauses: int, dtype: torch.dtype = torch.float64) -> tuple[DomainBatch, Tensor, Tensor, Tensor]:
    """Boxes, clause (B, K), coefficients (B, K, n), constant (B, K); every clause has a row."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(COUNT, N, generator=g, dtype=dtype)
    width = 2 * torch.rand(COUNT, N, generator=g, dtype=dtype) * (torch.rand(COUNT, N, generator=g) > 0.2)
    clause = torch.cat(
        [torch.arange(clauses).repeat(COUNT, 1), torch.randint(clauses, (COUNT, ROWS - clauses), generator=g)], 1
    )
    a = torch.randn(COUNT, ROWS, N, generator=g, dtype=dtype) * (torch.rand(COUNT, ROWS, N, generator=g) > 0.25)
    # rows that are 0 somewhere near the box
    point = centre + width * (torch.rand(COUNT, N, generator=g, dtype=dtype) - 0.5) * 1.3
    constant = -torch.einsum("bkn,bn->bk", a, point) + 0.3 * torch.randn(COUNT, ROWS, generator=g, dtype=dtype)
    return domains(centre - width / 2, centre + width / 2), clause, a, constant


def _points(boxes: DomainBatch, count: int = 1500) -> Tensor:
    g = torch.Generator().manual_seed(99)
    t = torch.rand(len(boxes), count, N, generator=g, dtype=boxes.lower.dtype)
    ends = torch.rand(len(boxes), count, N, generator=g) < 0.3
    t = torch.where(ends, t.round(), t)
    points = boxes.lower[:, None] + t * (boxes.upper - boxes.lower)[:, None]
    return points.clamp(boxes.lower[:, None], boxes.upper[:, None])


@pytest.mark.parametrize("clauses", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_clipping_keeps_every_violating_point(clauses: int, seed: int, dtype: torch.dtype) -> None:
    boxes, clause, a, constant = _random(seed, clauses, dtype)
    known = linear(boxes, clause, a, constant, clauses)
    lower, upper = shrink(clause, known.scores, known.low, a, boxes.lower, boxes.upper)
    points = _points(boxes)
    violating = torch.stack([holds(clause, a, constant, c, points) for c in range(clauses)]).any(0)
    inside = ((points >= lower[:, None]) & (points <= upper[:, None])).all(2)
    assert (inside | ~violating).all()
    assert (lower >= boxes.lower)[(lower <= upper).all(1)].all() and (upper <= boxes.upper)[
        (lower <= upper).all(1)
    ].all()
    if clauses == 1:  # and it does clip: the rows cross most boxes
        assert bool(((lower > boxes.lower) | (upper < boxes.upper)).any())


@pytest.mark.parametrize("clauses", [1, 3])
def test_clipped_shares_are_volumes(clauses: int) -> None:
    boxes, clause, a, constant = _random(5, clauses)
    known = linear(boxes, clause, a, constant, clauses)
    kept, rest = clip(boxes, known)
    assert len(kept) == len(rest.alive) and (kept.lower <= kept.upper).all()
    for b, old in zip(range(len(kept)), rest.alive.tolist(), strict=True):
        wide = boxes.upper[old] > boxes.lower[old]
        part = ((kept.upper[b] - kept.lower[b]) / (boxes.upper[old] - boxes.lower[old]))[wide].prod()
        assert float(kept.share[b]) == pytest.approx(float(boxes.share[old] * part))


def test_rows_about_which_nothing_is_known_clip_nothing() -> None:
    boxes, clause, a, constant = _random(1, 2)
    known = linear(boxes, clause, a, constant, 2)
    for bad in (torch.inf, -torch.inf, torch.nan):
        low = torch.full_like(known.low, -torch.inf)
        for coefficients in (a, torch.full_like(a, bad)):
            scores = torch.full_like(known.scores, -torch.inf)
            lower, upper = shrink(clause, scores, low, coefficients, boxes.lower, boxes.upper)
            assert torch.equal(lower, boxes.lower) and torch.equal(upper, boxes.upper)


def test_an_impossible_clause_adds_nothing() -> None:
    """Two clauses on [0, 1]: x <= 0.25, and one that is refuted; only the first decides what is left."""
    boxes = domains(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    clause = torch.tensor([[0, 1]])
    a, constant = torch.tensor([[[1.0], [1.0]]], dtype=torch.float64), torch.tensor([[-0.25, 0.5]], dtype=torch.float64)
    known = linear(boxes, clause, a, constant, 2)
    lower, upper = shrink(clause, known.scores, known.low, a, boxes.lower, boxes.upper)
    assert lower.tolist() == [[0.0]] and upper.tolist()[0][0] == pytest.approx(0.25)


def _margin(boxes: DomainBatch, b: int, a: Tensor, constant: Tensor) -> float:
    """min over box b of the largest row: an independent linear programme."""
    rows = len(a)
    n = a.shape[1]
    done = linprog(
        np.r_[np.zeros(n), 1.0], np.c_[a.numpy(), -np.ones(rows)], -constant.numpy(),
        bounds=[*zip(boxes.lower[b].tolist(), boxes.upper[b].tolist(), strict=True), (None, None)],
    )  # fmt: skip
    assert done.status == 0
    return float(done.fun)


@pytest.mark.parametrize("clauses", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_joint_scores_lie_between_the_rows_and_the_programme(clauses: int, seed: int) -> None:
    boxes, clause, a, constant = _random(seed, clauses)
    known = linear(boxes, clause, a, constant, clauses)
    scores = joint_scores(clause, known.scores, known.low, a, constant, boxes.lower, boxes.upper)
    assert (scores >= known.scores).all()
    for b in range(COUNT):
        for c in range(clauses):
            member = clause[b] == c
            best = _margin(boxes, b, a[b, member], constant[b, member])
            assert float(scores[b, c]) <= max(best, float(known.scores[b, c])) + 1e-9


def test_joint_scores_refute_what_no_row_refutes_alone() -> None:
    """x + y <= -0.6 and x - y <= -0.6 and x >= 0 (-x <= 0) on [-1, 1]^2: impossible only together."""
    boxes = domains(torch.full((1, 2), -1.0, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    clause = torch.zeros(1, 3, dtype=torch.int64)
    a = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]]], dtype=torch.float64)
    constant = torch.tensor([[0.6, 0.6, 0.0]], dtype=torch.float64)
    known = linear(boxes, clause, a, constant, 1)
    assert float(known.scores) < 0
    assert float(joint_scores(clause, known.scores, known.low, a, constant, boxes.lower, boxes.upper)) > 0


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_an_unknown_row_does_not_make_a_clause_impossible(bad: float) -> None:
    """Infinite or undefined coefficients of one row, its bound being -inf, touch no score; nor do they yield NaN."""
    boxes, clause, a, constant = _random(2, 2)
    known = linear(boxes, clause, a, constant, 2)
    a, constant, low = a.clone(), constant.clone(), known.low.clone()
    a[:, 0], constant[:, 0], low[:, 0] = bad, bad, -torch.inf
    rest = linear(boxes, clause[:, 1:], a[:, 1:], constant[:, 1:], 2)
    scores = joint_scores(clause, rest.scores, low, a, constant, boxes.lower, boxes.upper)
    alone = joint_scores(clause[:, 1:], rest.scores, rest.low, a[:, 1:], constant[:, 1:], boxes.lower, boxes.upper)
    assert not scores.isnan().any()
    torch.testing.assert_close(scores, alone, rtol=1e-6, atol=1e-6)
    assert (row_scale(a, constant, boxes.lower, boxes.upper)[:, 0] == torch.inf).all()


@pytest.mark.parametrize("clauses", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_affine_boxes_are_settled_as_the_programmes_say(clauses: int, seed: int) -> None:
    boxes, clause, a, constant = _random(seed, clauses)
    known = linear(boxes, clause, a, constant, clauses)
    tried: list[tuple[Tensor, Tensor]] = []

    def try_points(points: Tensor, query: Tensor) -> None:
        tried.append((points, query))

    keep, found = settle_affine(boxes, known, try_points)
    assert found is None
    shown = 0
    for b in range(COUNT):
        margins = [_margin(boxes, b, a[b, clause[b] == c], constant[b, clause[b] == c]) for c in range(clauses)]
        if not keep[b]:
            assert min(margins) > 0
        several = all(int((clause[b] == c).sum()) > 1 or known.scores[b, c] > 0 for c in range(clauses))
        if min(margins) > 1e-6 and several and float(known.scores[b].min()) <= 0:
            assert not keep[b]
            shown += 1
    for points, _ in tried:
        inside = [((points >= boxes.lower[b] - 1e-9) & (points <= boxes.upper[b] + 1e-9)).all(1) for b in range(COUNT)]
        assert torch.stack(inside).any(0).all()
    assert len(tried) + shown > 0


def test_affine_boxes_with_a_point_are_not_proven() -> None:
    """A feasible leaf offers a point where all rows hold; the replay's answer is passed on; a kinked box is left."""
    boxes = domains(torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    clause = torch.zeros(2, 2, dtype=torch.int64)
    a = torch.tensor([[[1.0], [-1.0]]] * 2, dtype=torch.float64)
    constant = torch.tensor([[-0.6, 0.4]] * 2, dtype=torch.float64)  # 0.4 <= x <= 0.6
    known = linear(boxes, clause, a, constant, 1)
    points: list[Tensor] = []
    keep, found = settle_affine(boxes, known, lambda p, q: points.append(p) or "witness")
    assert found == "witness" and 0.4 - 1e-9 <= float(points[0]) <= 0.6 + 1e-9
    keep, found = settle_affine(boxes, known, lambda p, q: None)
    assert found is None and keep.all()
    kinked = linear(boxes, clause, a, constant + torch.tensor([[0.0, 0.3]]), 1, unstable=1)
    assert settle_affine(boxes, kinked, lambda p, q: "never asked")[0].all()
    empty = linear(boxes, clause, a, constant + torch.tensor([[0.0, 0.3]], dtype=torch.float64), 1)
    assert not settle_affine(boxes, empty, lambda p, q: None)[0].any()


def _touching(rng: np.random.Generator) -> tuple[DomainBatch, Tensor, Tensor, Tensor]:
    """Boxes with a point (B, n) that meets all rows over the reals, most of them with nothing to spare: coefficients
    of any size, rows that nearly cancel, narrow boxes far from 0."""
    rows, n = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    size = rng.choice([1.0, 1.0, 1e-8, 1e8, 2.0**53, 1e-160, 1e120, 1e-310], (COUNT, rows, n))
    a = rng.normal(size=(COUNT, rows, n)) * np.where(rng.random((COUNT, 1, 1)) < 0.3, 1.0, size)
    twin = rng.random(COUNT) < 0.6
    a[twin, 1] = -a[twin, 0] * (1 + 2.0**-52 * rng.integers(-2, 3, (int(twin.sum()), n)))
    low = rng.normal(size=(COUNT, n)) * rng.choice([1.0, 1e6, 1e-6, 1e-150], (COUNT, 1))
    high = low + np.abs(low) * rng.choice([0.0, 1e-15, 1e-9, 1e-3, 3.0], (COUNT, n))
    point = np.clip(low + rng.choice([0, 1, 0.5, 0.3], (COUNT, n)) * (high - low), low, high)
    constant = np.zeros((COUNT, rows))
    for b in range(COUNT):
        for k in range(rows):
            exact = -sum((Fraction(x) * Fraction(y) for x, y in zip(a[b, k].tolist(), point[b].tolist(), strict=True)))
            near = float(exact)
            constant[b, k] = near if Fraction(near) <= exact else math.nextafter(near, -math.inf)
    return domains(*map(torch.from_numpy, (low, high))), torch.from_numpy(point), *map(torch.from_numpy, (a, constant))


@pytest.mark.parametrize("seed", range(30))
def test_a_point_that_meets_every_row_is_never_lost(seed: int) -> None:
    """In fractions: no combination of rows refutes it, no clipping cuts it off, no linear program settles its box."""
    boxes, point, a, constant = _touching(np.random.default_rng(seed))
    clause = torch.zeros(COUNT, a.shape[1], dtype=torch.int64)
    low = concretise(a, constant, boxes.lower, boxes.upper)
    known = replace(linear(boxes, clause, a, constant, 1), low=low, scores=low.amax(1, keepdim=True), constant=constant)
    assert (known.scores <= 0).all()
    scores = joint_scores(clause, known.scores, low, a, constant, boxes.lower, boxes.upper)
    assert not (scores > 0).any()
    lower, upper = shrink(clause, known.scores, low, a, boxes.lower, boxes.upper)
    assert ((lower <= point) & (point <= upper)).all()
    sides = shrink_all(a, constant, boxes.lower, boxes.upper)
    assert ((sides[0] <= point) & (point <= sides[1])).all()
    assert settle_affine(boxes, known, lambda p, q: None)[0].all()
