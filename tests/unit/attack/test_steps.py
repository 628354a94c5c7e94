"""Descent through step functions, whose own gradient is 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

import vnnlib
from tests import models
from verifier.attack.pgd import pgd, sample
from verifier.budget import never
from verifier.engine.on_device import OnDevice
from verifier.graph.ir import Node
from verifier.graph.onnx_import import load_model
from verifier.ops import bind
from verifier.options import Options
from verifier.problem.assemble import assemble
from verifier.problem.runtime import Session

STARTS, STEPS, NEURONS = 16, 40, 20


def planted(rng: np.random.Generator) -> tuple[bytes, str]:
    """16 inputs in [-1, 1], 24 binarised neurons in front of 20 more; the property asks for an output that a point has
    at which all 20 agree."""
    first, second = rng.normal(size=(16, 24)), rng.choice([-1.0, 1.0], size=(24, NEURONS))
    offset = rng.choice([-1.0, 1.0], size=NEURONS)  # of 24 numbers +-1 the sum is even: no ties
    wanted = np.sign(np.sign(rng.uniform(-1, 1, size=16) @ first) @ second + offset)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("Sign", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "V"], ["c"]),
        helper.make_node("Add", ["c", "v"], ["d"]),
        helper.make_node("Sign", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "p"], ["y"]),
    ]
    weights = {"W": first, "V": second, "v": offset, "p": wanted[:, None]}
    lines = [f"(declare-const X_{i} Real)" for i in range(16)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (and (>= X_{i} -1) (<= X_{i} 1)))" for i in range(16)]
    return models.build(nodes, {"x": ("n", 16)}, ["y"], weights), "\n".join([*lines, f"(assert (>= Y_0 {NEURONS}))"])


@pytest.mark.parametrize("seed", range(4))
def test_binarised_networks_are_descended(seed: int) -> None:
    """Descents end where ONNX Runtime says that all neurons agree, at least five times as often as random points at the
    same price (a step is two runs) are such points."""
    data, text = planted(np.random.default_rng(seed))
    model = load_model(data)
    on = OnDevice.of(assemble(model, vnnlib.normalise(vnnlib.loads(text))), Options())
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[torch.Tensor, ...]:
        query = torch.zeros(count, dtype=torch.int64)
        return on.lower.expand(count, -1), on.upper.expand(count, -1), query

    where = drawn(STARTS)
    start, _ = sample(on.network, on.inputs, on.table, *where, generator)
    points, _, _ = pgd(on.network, on.inputs, on.table, start, *where, where[2], STEPS, never, lambda *_: False)
    hits = int((Session(model).run(points.numpy()) >= NEURONS).sum())
    _, loss = sample(on.network, on.inputs, on.table, *drawn(2 * STEPS * STARTS), generator)
    assert hits >= STARTS // 4
    assert hits >= 5 * int((loss <= 0).sum())


@pytest.mark.parametrize("op", ["Sign", "Floor", "Round"])
def test_values_are_the_steps_and_slopes_are_not(op: str) -> None:
    step = bind(Node(op, ("x",), "y"), {"x": (5,), "y": (5,)}, torch.float64, torch.device("cpu"))
    x = torch.tensor([[-2.5, -0.1, 0.0, 0.1, 3.0]], dtype=torch.float64)
    plain = step.forward(x)
    traced = step.forward(x.requires_grad_())
    assert torch.equal(traced.detach(), plain) and not plain.requires_grad
    (slope,) = torch.autograd.grad(traced.sum(), x)
    assert (slope > 0).all() and slope.isfinite().all()
    assert slope[0, 2] >= slope[0].max() * (1 - 1e-12)  # a jump, or as steep as everywhere
