"""Zonotopes and forms with one radius against fractions: sizes far apart, weights that cancel, what is read twice.

In float32 beside float64, and in float64 alone, as on devices where float32 convolutions are no plain sums.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import exactly
from tests.strategies import GraphBuilder, build
from tests.unit.search.tables import domains, table
from verifier.bounds import lumped
from verifier.bounds.bound import _from_forms
from verifier.bounds.inputs import centre_radius
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.zonotope import Twin, start, sweep_zonotope
from verifier.graph.ir import Graph, Node
from verifier.tolerance import EXACT, NARROWEST

BLOCKS = ("dense", "relu", "relu", "residual", "concat", "conv", "clip", "abs", "reduce_max", "mul")
SIZES = (1.0, 1.0, 1e-9, 1e8, 2.0**24, 2.0**-30, 1e-30, 1e30, 1e-38, 1e-42, 1e15)
BOXES = 3


class Form(NamedTuple):
    """Outputs centre (B, m) + sum of e_i inputs (B, n, m), +- radius (B, m)."""

    centre: Tensor
    inputs: Tensor
    radius: Tensor


def wild(graph: Graph, rng: np.random.Generator) -> Graph:
    """The same graph with weights of other sizes, some rounded to float32, some with pairs that cancel."""
    nodes, sized = [], rng.random() < 0.7
    for node in graph.nodes:
        params = dict(node.params)
        for name, array in node.params.items():
            if array.dtype.kind != "f" or not array.size:
                continue
            array = array * rng.choice(SIZES) if sized else array
            array = array.astype(np.float32).astype(np.float64) if rng.random() < 0.7 else array
            if name == "weight" and array.ndim == 2 and array.shape[1] > 1 and rng.random() < 0.4:
                large = float(rng.choice([1e8, 2.0**24, 2.0**40])) * np.abs(array).max()
                array = array + large * np.array([1.0, -1.0] + [0.0] * (array.shape[1] - 2))
            params[name] = array
        nodes.append(Node(node.op, node.inputs, node.output, params, node.attrs, node.source))
    return Graph(graph.inputs, graph.outputs, tuple(nodes), graph.shapes)


def forms(twin: Twin, centre: Tensor, radius: Tensor) -> dict[str, Form]:
    """Both kinds over the boxes centre +- radius (B, n)."""
    n, zero, query = centre.shape[1], torch.zeros_like(centre), torch.zeros(len(centre), dtype=torch.int64)
    eye = torch.eye(n, dtype=torch.float64)
    low = sweep_lumped(Prepared.of(twin), Source.of(zero[:1], eye[None], twin.fast.dtype), centre, radius, query)
    first = start(zero, eye.expand(len(centre), n, n), centre, radius, twin.fast.dtype)
    out, _, _ = sweep_zonotope(twin, first)
    rest, owner, _ = out.noises()
    noise = out.radius.double().index_add(0, owner, rest) * (1 + (len(rest) + 4) * EXACT)
    return {
        "lumped": Form(low.centre, low.inputs.double().transpose(0, 1), low.radius.double()),
        "zonotope": Form(out.core[:, 0], out.core[:, 1:], noise),
    }


def outside(seed: int, single: bool) -> list[str]:
    """Which forms of a random network's outputs miss its value at a point of a box."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    kinds = list(rng.choice(BLOCKS, int(rng.integers(1, 6))))
    graph = wild(build(n, 2, kinds, int(rng.integers(2**16)), 3), rng)
    low = rng.normal(size=(BOXES, n)) * rng.choice([1.0, 1e-3, 1e6, 1e-20], size=(BOXES, 1))
    high = low + rng.choice([0.0, 1e-16, 1e-12, 1e-7, 1e-3, 1.0, 5.0], size=(BOXES, n)) * np.abs(low)
    centre, radius = centre_radius(torch.from_numpy(low), torch.from_numpy(high))
    radius = radius.clamp(min=NARROWEST)
    twin = Twin.of(graph, torch.device("cpu"))
    found, missed = forms(twin if single else Twin(twin.exact, twin.exact), centre, radius), []
    ends = [list(map(Fraction, e)) for e in product((-1, 1), repeat=n)][:3]
    ends.append([Fraction(v) for v in rng.uniform(-1, 1, n).tolist()])
    for b in range(BOXES):
        c, r = ([Fraction(v) for v in t[b].tolist()] for t in (centre, radius))
        points = [[x + e * y for x, e, y in zip(c, end, r, strict=True)] for end in ends]
        truth = exactly(graph, np.array(points, dtype=object)).reshape(len(ends), 2)
        for name, form in found.items():
            for j in range(2):
                middle, slopes, room = (
                    t.tolist() for t in (form.centre[b, j], form.inputs[b, :, j], form.radius[b, j])
                )
                if not np.isfinite([middle, *slopes, room]).all():
                    continue
                for end, y in zip(ends, truth[:, j], strict=True):
                    line = sum((e * Fraction(s) for e, s in zip(end, slopes, strict=True)), Fraction(middle))
                    if abs(y - line) > Fraction(room):
                        missed.append(f"{name} of box {b}, output {j}: {kinds}")
    return missed


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("settled", [0.0, 0.3, 1e30])
def test_forms_hold_in_fractions(settled: float, single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`settled`: where the centres of the forms with one radius leave float64."""
    monkeypatch.setattr(lumped, "SETTLED", settled)
    for seed in range(40):
        assert not outside(seed, single), seed


def pooled() -> Graph:
    """The maxima of pairs of ReLUs, two layers deep."""
    made = GraphBuilder(2, 5)
    value = made.add("Relu", (made.dense(made.add("Relu", (made.dense("x", 6),), (6,)), 6),), (6,))
    pairs = made.add("Reshape", (value,), (3, 2))
    return made.finish(made.add("ReduceMax", (pairs,), (3,), attrs={"axis": 1}), 2)


@pytest.mark.parametrize("graph", [build(2, 2, ["dense", "relu", "dense", "relu", "abs"], 5, 3), pooled()])
def test_what_is_known_of_the_noise_is_kept(graph: Graph) -> None:
    """In float64 alone the noise of a ReLU's argument was once overwritten while its planes were made, and what reads
    the ReLU (the maxima of pooling, say) took too little."""
    twin = Twin.of(graph, torch.device("cpu"))
    centre, radius = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    double, single = (forms(one, centre, radius)["zonotope"] for one in (Twin(twin.exact, twin.exact), twin))
    torch.testing.assert_close(double.radius, single.radius, rtol=1e-4, atol=1e-4)


def no_blame(row: Tensor) -> Tensor:
    """Blames no input: no box is split here."""
    raise AssertionError


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_forms_hold_in_fractions(seed: int) -> None:
    """Narrow boxes far from 0, where what the parts of a row's constant lose is many times what is left of them."""
    rng = np.random.default_rng(seed)
    n, rhs = 2 * int(rng.integers(1, 4)), 0.25
    low = 1 + rng.random((1, n))
    boxes = domains(*(torch.from_numpy(low + end * 10.0 ** rng.integers(-12, 1)) for end in (-1, 1)))
    centre, radius = centre_radius(boxes.lower, boxes.upper)
    slopes, share = rng.normal(size=n), (radius / centre)[0].numpy()
    slopes[1::2] = -slopes[::2] * share[1::2] / share[::2]
    value, noise = rng.normal() * 1e-6, abs(rng.normal()) * 1e-9
    values = torch.tensor([value, *slopes], dtype=torch.float64)[:, None, None]
    noises = torch.full((1, 1), noise, dtype=torch.float64)
    asked = table([[[(0, rhs)]]])
    found = _from_forms(asked, boxes, (centre, radius), values, noises, torch.zeros(1, dtype=torch.int64), no_blame)
    rows = (found.coefficients[0, 0], found.constant[0, 0]) if len(found.alive) else None
    c, r = ([Fraction(v) for v in t[0].tolist()] for t in (centre, radius))
    for end in product((-1, 1), repeat=n):
        least = sum((Fraction(s) * e for s, e in zip(slopes.tolist(), end, strict=True)), Fraction(value))
        least -= Fraction(noise) + Fraction(rhs)
        assert Fraction(float(found.forward[0, 0])) <= least
        if rows is not None:
            x = [a + e * b for a, e, b in zip(c, end, r, strict=True)]
            line = sum((Fraction(a) * v for a, v in zip(rows[0].tolist(), x, strict=True)), Fraction(float(rows[1])))
            assert line <= least
