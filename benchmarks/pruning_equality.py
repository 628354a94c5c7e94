"""Pruned network against masked network on random graphs: `python -m benchmarks.pruning_bench equality`, and a test."""

from __future__ import annotations

import numpy as np

from benchmarks.pruning_graphs import OPSETS, random_model
from pruning import onnx_io, runtime
from pruning.fold import fold, readers
from pruning.groups import Groups, find_groups
from pruning.surgery import mask, remove


def random_removal(groups: Groups, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """A mask that takes about `ratio` of each group's free channels, leaving at least one entry everywhere."""
    removed = np.zeros(groups.n, bool)
    for group in groups.groups:
        chosen = rng.permutation(group.free)[: int(len(group.free) * ratio)]
        removed[chosen] = True
        for segment in groups.segments:
            if (segment >= 0).all() and removed[segment].all():
                removed[segment[0]] = False
    return removed


def random_constants(groups: Groups, removed: np.ndarray, rng: np.random.Generator) -> dict:
    """Some constants for everything that will be folded."""
    return {
        (cut.data, cut.data_axis): rng.normal(size=len(cut.data_labels))
        for cut in readers(groups, removed)
        if cut.data_labels is not None
    }


def compare(seed: int, opset: int, double: bool = True) -> tuple[int, float, float]:
    """Removed channels, worst float32 difference (relative), worst float64 difference of one random case."""
    rng = np.random.default_rng([seed, opset])
    net = onnx_io.load(random_model(seed, opset).SerializeToString())
    groups = find_groups(net)
    assert not groups.unknown, groups.unknown
    removed = random_removal(groups, float(rng.choice([0.3, 0.5, 0.7])), rng)
    if rng.random() < 0.7:
        border = "exact" if rng.random() < 0.5 else "interior"
        folded = fold(groups, removed, random_constants(groups, removed, rng), border)
        groups = find_groups(folded)
    pruned, masked = remove(groups, removed), mask(groups, removed)
    small, large = (runtime.Runner(onnx_io.to_bytes(n, check=True), optimise=False) for n in (pruned, masked))
    assert small.outputs == large.outputs == net.outputs and tuple(small.inputs) == net.inputs
    worst = 0.0
    for batch in (1, 2, 32) if net.batched else (1,) * 6:
        x = rng.uniform(0, 1, (batch, 3, 8, 8)).astype(np.float32)
        a, b = small({"x": x})[net.outputs[0]], large({"x": x})[net.outputs[0]]
        worst = max(worst, float(np.abs(a - b).max() / (1 + np.abs(b).max())))
    exact = 0.0
    if double:
        x64 = rng.uniform(0, 1, (1, 3, 8, 8))
        a, b = (onnx_io.evaluate64(n, {"x": x64})[net.outputs[0]] for n in (pruned, masked))
        exact = float(np.abs(a - b).max() / (1 + np.abs(b).max()))
    return int(removed.sum()), worst, exact


def main(count: int) -> None:
    """Compare `count` graphs per opset and print the worst differences."""
    for opset in OPSETS:
        results = np.array([compare(seed, opset) for seed in range(count)])
        print(
            f"opset {opset}: {count} graphs, {results[:, 0].sum():.0f} channels removed, "
            f"worst float32 {results[:, 1].max():.2e}, worst float64 {results[:, 2].max():.2e}",
            flush=True,
        )
        assert results[:, 1].max() <= 1e-5 and results[:, 2].max() <= 1e-10
