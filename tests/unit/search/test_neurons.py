"""Neuron splits to the end: verdicts against the mixed-integer programme, thresholds close to the exact minimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import verifier
import vnnlib
from tests import models, oracles
from tests.strategies import build
from tests.unit.bounds.cases import boxes
from tests.unit.search.tables import table
from verifier.bounds.relaxed import Ground
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.engine import strategy
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import load_model
from verifier.options import AttackOptions, Options
from verifier.passes.flatten_io import flatten_io
from verifier.result import Verdict
from verifier.search.bab import SearchLimits, search
from verifier.search.domains import whole
from verifier.search.halving import Halving
from verifier.search.neurons import NeuronBounding
from verifier.search.policy import FirstSat
from verifier.search.ties import Exactly


def decide(
    graph: Graph, low: np.ndarray, high: np.ndarray, row: int, threshold: float, limit: int = 400
) -> bool | None:
    """Whether y[row] <= threshold is impossible on the box; None where neither is shown in `limit` steps."""
    case = boxes(graph, low[None], high[None])
    known = case.sweep(Method(affine=False, rows=True))
    ground = Ground.of(case.network, known)
    rows = table([[[(row, threshold)]]])
    split = NeuronBounding(ground, Ground.at(case.network, ground.pre, None), rows, never)

    def try_points(points: torch.Tensor, query: torch.Tensor) -> object | None:
        values = case.network.forward(points)[:, row]
        return points[int(values.argmin())] if bool((values <= threshold).any()) else None

    seen = [0]

    def stop() -> bool:
        seen[0] += 1
        return seen[0] > limit

    how = Halving(split, rows, Exactly(lambda: None), max_depth=200)
    first = split.roots(whole(case.lower, case.upper))
    outcome = search(first, how, FirstSat(try_points), SearchLimits(stop, lambda t: None, batch=64))
    if outcome.found is not None:
        return False
    return None if outcome.out_of_time or outcome.tally.stuck else True


@pytest.mark.parametrize("seed", range(oracles.NETWORKS or 16))
def test_the_verdict_is_the_programmes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(["dense", "relu", "residual", "concat", "conv"], int(rng.integers(1, 4))))
    graph = build(int(rng.integers(2, 7)), 2, ["dense", "relu", *kinds, "relu", "dense"], seed, 6)
    low = rng.normal(size=graph.n_inputs)
    high = low + rng.random(graph.n_inputs) * 1.2
    exact = float(oracles.minimise(graph, low, high, np.eye(2)[:1], exact=True)[0])
    scale = 1 + abs(exact)
    for gap in (1e-5, 1e-3):
        assert decide(graph, low, high, 0, exact - gap * scale) is True
        assert decide(graph, low, high, 0, exact + gap * scale) is False


@pytest.mark.parametrize("seed", range(4))
def test_many_inputs_from_file_to_verdict(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with two hidden layers and 24 inputs through the public door; no depth limits splits of neurons."""
    monkeypatch.setattr(strategy, "DEEPEST", 0 if seed else strategy.DEEPEST)
    rng = np.random.default_rng(seed)
    data = models.mlp((24, 10, 8, 1), rng)
    model = load_model(data)
    graph = flatten_io(model.graph)
    low, high = np.full(24, -0.3), np.full(24, 0.3)
    exact = float(oracles.minimise(graph, low, high, np.eye(1), exact=True)[0])
    options = Options(timeout=60, attack=AttackOptions(restarts=0))
    for offset, expected in ((-2e-4, Verdict.UNSAT), (2e-4, Verdict.SAT)):
        lines = [f"(declare-const X_{i} Real)" for i in range(24)] + ["(declare-const Y_0 Real)"]
        lines += [f"(assert (>= X_{i} -0.3))\n(assert (<= X_{i} 0.3))" for i in range(24)]
        lines.append(f"(assert (<= Y_0 {exact + offset * (1 + abs(exact))}))")
        result = verifier.verify(model, vnnlib.loads("\n".join(lines)), options)
        assert result.verdict is expected, result
        assert result.settings["split"] == "neurons"


@pytest.mark.parametrize(
    ("kind", "width", "margin"),
    [(kind, 3.0, 0.03) for kind in ("leaky", "abs", "clip", "sigmoid", "tanh", "sin", "exp", "square")]
    + [("mul", 1.5, 0.1), ("reduce_max", 1.5, 0.1)],
)
def test_splits_of_other_operators_decide(kind: str, width: float, margin: float) -> None:
    """Against a grid over two inputs: no input is ever split, and what is not affine loses its gap all the same."""
    graph = build(2, 2, [kind, "relu"] if width > 2 else [kind], 0, 4 if width > 2 else 3)
    low = np.random.default_rng(0).normal(size=2)
    axes = np.meshgrid(*(np.linspace(a, a + width, 60) for a in low))
    values = oracles.evaluate(graph, np.stack([a.ravel() for a in axes], 1))[:, 0]
    least, spread = values.min(), values.max() - values.min()
    assert decide(graph, low, low + width, 0, least - margin * spread) is True
    assert decide(graph, low, low + width, 0, least + 1e-3 * spread, limit=6) is not True
