"""The estimate of a tree's size: exact where nothing is left out, right on average where most is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.kills import Net
from benchmarks.tree_size import estimate, thinned


@pytest.mark.parametrize(("count", "keep"), [(5, 5), (40, 7), (40, 39), (300, 64)])
def test_weights_are_right_on_average(count: int, keep: int) -> None:
    """Over all offsets each child is taken as often as its weight divided by that which it then has; about `keep` go
    on. What many points of a grid say of an interval is right to a point at each end."""
    draw = torch.Generator().manual_seed(count + keep)
    weight = torch.rand(count, generator=draw, dtype=torch.float64) * 9 + 1
    missing = torch.rand(count, generator=draw, dtype=torch.float64) * 0.4
    taken, stands, offsets = torch.zeros_like(weight), torch.full_like(weight, torch.nan), 3000
    for k in range(offsets):
        index, mine = thinned(weight, missing, keep, (k + 0.5) / offsets)
        assert keep - 1 <= len(index) <= keep + 1
        assert bool((stands[index].isnan() | (stands[index] == mine)).all())
        stands[index] = mine
        taken[index] += 1
    assert bool((taken / offsets - weight / stands).abs().max() <= 2 / offsets)


def test_the_estimate_is_the_count(tmp_path: Path) -> None:
    """All subproblems where none is left out; of a sample about as many, from fewer."""
    model, spec = tmp_path / "net.onnx", tmp_path / "spec.vnnlib"
    net = Net(model, 14, 10, 3, 1)
    net.spec(spec, net.most + 0.2)
    whole = estimate(model, spec, keep=10**9, seed=0, cap=100)
    assert whole.ended and sum(whole.size.values()) == whole.seen > 50
    parts = [estimate(model, spec, keep=8, seed=seed, cap=100) for seed in range(3)]
    mean = sum(sum(part.size.values()) for part in parts) / len(parts)
    assert all(part.ended and part.seen < whole.seen for part in parts)
    assert whole.seen / 2 < mean < 2 * whole.seen
