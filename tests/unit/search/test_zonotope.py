"""Where the search by zonotopes starts: the halved boxes are a partition, the first points are of the boxes."""

from __future__ import annotations

import pytest
import torch

from verifier.domains import whole
from verifier.search import zonotope


def _boxes(queries: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(queries, n, generator=generator, dtype=torch.float64) - 0.5
    return lower, lower + torch.rand(queries, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("queries", "n"), [(1, 1), (1, 2), (1, 3), (3, 2), (5, 3)])
def test_halved_boxes_are_a_partition(queries: int, n: int) -> None:
    lower, upper = _boxes(queries, n, queries + n)
    parts = zonotope.halved(whole(lower, upper))
    assert zonotope.START <= len(parts) < 2 * zonotope.START
    volume = (parts.upper - parts.lower).prod(1)
    for q in range(queries):
        mine = parts.query == q
        assert volume[mine].sum() == pytest.approx(float((upper[q] - lower[q]).prod()))
        assert float(parts.share[mine].sum()) == pytest.approx(1.0)
        assert torch.equal(parts.lower[mine].amin(0), lower[q])
        assert torch.equal(parts.upper[mine].amax(0), upper[q])
    points = lower + torch.rand(200, queries, n, dtype=torch.float64) * (upper - lower)
    for q in range(queries):
        mine = parts.select(parts.query == q)
        inside = ((points[:, q, None] >= mine.lower) & (points[:, q, None] <= mine.upper)).all(2)
        assert bool(inside.any(1).all())


def test_an_input_that_does_not_vary_is_not_halved() -> None:
    lower = torch.tensor([[0.5, 0.0], [0.25, 1.0]], dtype=torch.float64)
    upper = torch.tensor([[0.5, 1.0], [0.25, 1.0]], dtype=torch.float64)
    parts = zonotope.halved(whole(lower, upper))
    assert int((parts.query == 1).sum()) == 1  # a point stays a point
    assert bool((parts.lower[:, 0] == parts.upper[:, 0]).all())
    assert float(parts.share[parts.query == 0].sum()) == pytest.approx(1.0)


def test_only_points_cannot_be_halved() -> None:
    point = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    assert len(zonotope.halved(whole(point, point))) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_first_points_are_corners_edges_and_inside(n: int) -> None:
    lower, upper = _boxes(4, n, n)
    points, query = zonotope.grid(lower, upper)
    assert points.shape == (4 * zonotope.POINTS**n, n)
    assert bool(((points >= lower[query]) & (points <= upper[query])).all())
    for q in range(4):
        corners = torch.cartesian_prod(*torch.stack([lower[q], upper[q]], 1)).reshape(-1, n)
        assert bool((points[query == q][None] - corners[:, None]).abs().amax(2).amin(1).max() < 1e-15)
