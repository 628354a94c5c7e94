"""Rows over many products: below the truth in fractions whatever the eigenvectors are, and tight where they should
be."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import oracles
from tests.strategies import GraphBuilder, build
from tests.unit.bounds.cases import METHODS, boxes, matrix_for, some_boxes
from tests.unit.bounds.sound import check_rows
from verifier.bounds.products import Products
from verifier.bounds.rounding import Planes
from verifier.graph.ir import Graph

Eigh = Callable[[Tensor], tuple[Tensor, Tensor]]
RIGHT: Eigh = torch.linalg.eigh


def junk(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers that have nothing to do with the matrices."""
    generator = torch.Generator().manual_seed(len(matrices))
    values = torch.randn(matrices.shape[:2], generator=generator, dtype=matrices.dtype)
    return values, torch.randn(matrices.shape, generator=generator, dtype=matrices.dtype)


def off(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Nearly right ones."""
    values, vectors = RIGHT(matrices)
    return values * (1 + 1e-6), vectors + 1e-7


def none(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """No convergence."""
    raise torch.linalg.LinAlgError("it did not converge")


def some(rng: np.random.Generator, boxes: int, symbols: int, terms: int, wild: bool) -> Products:
    """Products of random factors; `wild` ones have generators of very different sizes."""

    def draw(*shape: int) -> Tensor:
        sizes = rng.choice([1.0, 1e-8, 1e8, 1e-160, 1e70, 0.0], size=shape) if wild else 1.0
        return torch.from_numpy(rng.normal(size=shape) * sizes)

    maps = draw(boxes, 1 + symbols, terms), draw(boxes, 1 + symbols, terms)
    radius = draw(boxes, 1, terms).abs() / 8, draw(boxes, symbols, terms).abs() / 8
    return Products(maps, radius, Planes(maps[0][:0]), torch.zeros(boxes, terms, dtype=torch.float64))


def points(products: Products, b: int, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Values of (x - x_c) (y - y_c) of all products at points of box b, some of them corners."""
    result = []
    (x, y), (p, q) = (tuple(t[b].tolist() for t in part) for part in (products.maps, products.radius))
    symbols, terms = len(x) - 1, len(x[0])
    for k in range(count):
        e, noise = rng.uniform(-1, 1, size=symbols), rng.uniform(-1, 1, size=(2, terms))
        if k % 2:
            e, noise = np.sign(e), np.sign(noise)
        moved = []
        for maps, radius, shares in ((x, p, noise[0]), (y, q, noise[1])):
            linear = oracles.fractions(e) @ oracles.fractions(np.array(maps[1:]))
            moved.append(linear + oracles.fractions(np.array(radius)).sum(0) * oracles.fractions(shares))
        result.append(moved[0] * moved[1])
    return result


@pytest.mark.parametrize("eigh", [RIGHT, off, junk, none])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_the_least_value_is_below_every_point(eigh: Eigh, seed: int) -> None:
    rng = np.random.default_rng(seed)
    products = some(rng, 2, int(rng.integers(1, 5)), int(rng.integers(1, 4)), wild=seed % 2 == 0)
    rows = torch.from_numpy(rng.normal(size=(2, 3, products.alone.shape[1])))
    if seed % 3 == 0:  # squares: convex, and twice the same symbols
        products = Products((products.maps[0],) * 2, products.radius, products.planes, products.alone)
        rows = rows.abs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", eigh)
        least = products.least(rows)
    for b in range(2):
        for values in points(products, b, rng, 12):
            for row, claim in zip(rows[b].tolist(), least[b].tolist(), strict=True):
                if np.isfinite(claim):
                    assert Fraction(claim) <= sum(
                        (Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(0)
                    )


def test_a_convex_row_loses_nothing_and_noise_only_where_it_is_flat() -> None:
    """x . M x with M positive definite: 0 without noise; with noise r in one factor, min_e of e . S e - r |b . e| on a
    grid is met within a tenth."""
    root = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5], [0.25, 0.0, 1.0]])
    a, b = torch.eye(3, dtype=torch.float64)[None], torch.from_numpy(root.T @ root)[None]
    zero = torch.zeros(1, 1, 3, dtype=torch.float64)
    noise = torch.tensor([[[0.3, 0.0, 0.0]]], dtype=torch.float64)
    rows, planes = torch.ones(1, 1, 3, dtype=torch.float64), Planes(zero)
    maps = torch.cat([zero, a], 1), torch.cat([zero, b], 1)
    exact = float(Products(maps, (zero, zero), planes, zero[0]).least(rows))
    assert -1e-12 < exact <= 0
    found = float(Products(maps, (noise, zero), planes, zero[0]).least(rows))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 81)] * 3), -1).reshape(-1, 3)
    form = root.T @ root
    truth = ((grid @ form * grid).sum(1) - 0.3 * np.abs(grid @ form[0])).min()
    assert 2 * truth < found <= truth
    by_symbols = -0.3 * np.abs(form[0]).sum()
    assert by_symbols < 8 * found


def quadratic(matrix: np.ndarray) -> Graph:
    """y = x . M x + (the same of relu), and -y."""
    n = len(matrix)
    builder = GraphBuilder(n, 3)
    hidden = builder.add("Relu", (builder.dense("x", n),), (n,))
    parts = []
    for value in ("x", hidden):
        other = builder.add("Dense", (value,), (n,), params={"weight": matrix, "bias": np.zeros(n)})
        parts.append(builder.add("Mul", (value, other), (n,)))
    both = builder.add("Concat", tuple(parts), (2 * n,), attrs={"axis": 0})
    weight = np.concatenate([np.ones(n), np.full(n, 0.1)])
    builder.add("Dense", (both,), (2,), name="y", params={"weight": np.stack([weight, -weight])})
    return Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes))


def test_rows_of_a_network_hold_and_are_better_where_they_are_used() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    centre, width = rng.normal(size=(6, 4)), rng.choice([0.05, 0.5, 2.0], size=(6, 1))
    case = boxes(quadratic(root.T @ root), centre - width / 2, centre + width / 2)
    low, high = case.lower.numpy(), case.upper.numpy()
    middle = torch.from_numpy((low + high) / 2)
    known, matrix = case.sweep(METHODS["attributed with rows"]), torch.eye(2, dtype=torch.float64)
    (a, c), (alone, constant) = (case.rows(known, how, matrix) for how in ("together", "backward"))
    at_centre = torch.bmm(a, middle[:, :, None])[:, :, 0] + c
    before = torch.bmm(alone, middle[:, :, None])[:, :, 0] + constant
    assert (at_centre >= before - 1e-12 * (1 + before.abs())).all()
    truth = torch.from_numpy(oracles.evaluate(case.graph, middle.numpy()))
    gap, gap_alone = truth - at_centre, truth - before
    assert (gap[:, 0] < 0.4 * gap_alone[:, 0]).all()  # the convex side
    check_rows(case, a, c, matrix)


@pytest.mark.parametrize("blocks", [["mul"], ["mul", "relu", "mul"], ["mul", "mul", "tanh", "mul"]])
def test_rows_of_any_network_hold(blocks: list[str]) -> None:
    for seed in range(3):
        graph = build(3, 2, blocks, seed)
        case = boxes(graph, *some_boxes(3, 4, np.random.default_rng(seed), widest=3.0))
        for name in ("affine", "attributed with rows"):
            check_rows(case, *case.rows(case.sweep(METHODS[name]), "together", matrix_for(graph)), matrix_for(graph))


def test_products_with_a_fixed_factor_are_left_to_their_planes() -> None:
    """Of two products the one whose factors both move is kept; a row over the other loses nothing by McCormick's."""
    builder = GraphBuilder(3, 0)
    mask = builder.add("Slice", ("x",), (1,), attrs={"axis": 0, "start": 2, "stop": 3, "step": 1})
    wide = builder.add("Expand", (mask,), (4,))
    hidden = builder.dense("x", 4)
    masked = builder.add("Mul", (hidden, wide), (4,))
    squared = builder.add("Mul", (masked, builder.dense("x", 4)), (4,))
    graph = builder.finish(squared, 1)
    case = boxes(graph, np.array([[-1.0, -1.0, 0.5]]), np.array([[1.0, 1.0, 0.5]]), free=[0, 1])
    known = case.sweep(METHODS["attributed"])
    muls = [i for i, op in enumerate(case.network.ops) if op.node.op == "Mul"]
    assert sorted(known.products) == muls[1:]
    matrix = matrix_for(graph)
    check_rows(case, *case.rows(known, "together", matrix), matrix)
