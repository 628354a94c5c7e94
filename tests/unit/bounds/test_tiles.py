"""Rows over tiles of pictures: the bounds of whole pictures, whatever the tiles, and nothing but what is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import PictureBuilder
from tests.unit.bounds.cases import Boxes, boxes
from tests.unit.bounds.sound import check_sweep
from verifier.bounds import sweep as sweeps
from verifier.bounds.centred import Centred, deviating
from verifier.bounds.network import Network
from verifier.bounds.sweep import Method, Sweep, sweep
from verifier.bounds.tiles import tiles
from verifier.graph.ir import Graph
from verifier.ops.patch import Tiling

ROWS = Method(affine=False, rows=True)


def residual(seed: int, size: tuple[int, int] = (5, 4)) -> Graph:
    """Uneven padding, strides, dilation, groups, and two residual blocks, one with a shortcut that jumps."""
    g = PictureBuilder(2 * size[0] * size[1], seed)
    rng = g.rng
    value = g.pad(g.picture(2, *size), (int(rng.integers(3)), 0), (1, int(rng.integers(3))))
    value = g.bent(g.filtered(value, 4, padding=int(rng.integers(2)), kernel=int(rng.integers(2, 4))))
    inner = g.bent(g.filtered(value, 4, dilation=2, padding=2, groups=2), str(rng.choice(["Relu", "Tanh"])))
    value = g.bent(g.sum(value, g.filtered(inner, 4)))
    stride = int(rng.integers(1, 3))
    short = g.filtered(value, 2, kernel=1, stride=stride, padding=0)
    inner = g.bent(g.filtered(value, 2, stride=stride, padding=1))
    value = g.bent(g.sum(g.filtered(inner, 2), short))
    value = g.add("Transpose", (value,), (1, *g.shapes[value][2:], 2), attrs={"perm": (0, 2, 3, 1)})
    return g.finish(g.add("Reshape", (value,), (int(np.prod(g.shapes[value])),)), 2)


def case_of(graph: Graph, seed: int, count: int = 2) -> Boxes:
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(count, graph.n_inputs))
    return boxes(graph, low, low + rng.random((count, 1)) * rng.random(low.shape) / 4)


def forced(monkeypatch: pytest.MonkeyPatch, number: int) -> set[int]:
    """Sweeps use way `number` of each value, the last one where it has fewer; the numbers of parts that come up."""
    seen: set[int] = set()

    def pick(network: Network, slot: int, rows: int, elements: int) -> Tiling:
        tiles(network, slot, rows, elements)
        ways = network.tilings[slot]
        seen.add(len(ways[min(number, len(ways) - 1)].parts))
        return ways[min(number, len(ways) - 1)]

    monkeypatch.setattr(sweeps, "tiles", pick)
    return seen


def same(one: Sweep, other: Sweep, share: float) -> None:
    for i, mine in one.pre.items():
        for bound, its in zip(mine, other.pre[i], strict=True):
            width = (its.upper - its.lower).amax()
            assert max((a - b).abs().amax() for a, b in zip(bound, its, strict=True)) <= share * width


@pytest.mark.parametrize(("seed", "elements"), [(0, 40_000), (1, 2_000_000), (2, 2_000_000), (3, 2_000_000)])
def test_tiles_give_the_bounds_of_whole_pictures(seed: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual(seed)
    case, method = case_of(graph, seed), Method(affine=False, rows=True, row_elements=elements)
    single = deviating(case.network, graph)
    assert single is not None

    def both() -> tuple[Sweep, Sweep]:
        centred = Centred(case.network, single, case.lower, case.upper)
        where = case.network, case.lower, case.upper, case.query, case.inputs, method
        return sweep(*where), sweep(*where, centred=centred)

    assert forced(monkeypatch, 0) == set()
    whole = both()
    for number in (1, 2):
        seen = forced(monkeypatch, number)
        mine = both()
        assert max(seen) > 1
        same(mine[0], whole[0], 1e-12)
        same(mine[1], whole[1], 1e-3)
        for known in mine:
            check_sweep(case, known, 1e-12)


@pytest.mark.parametrize("number", range(3))
def test_rows_of_tiles_attain_the_range_of_a_linear_network(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = PictureBuilder(20, 3)
    value = g.filtered(g.filtered(g.picture(1, 4, 5), 2), 3, stride=2)
    before = Graph(("x",), (value,), tuple(g.nodes), dict(g.shapes))
    graph = g.finish(g.add("Reshape", (g.bent(value),), (18,)), 1)
    low = np.random.default_rng(0).normal(size=(1, 20)) - 1
    case = boxes(graph, low, low + 2)
    forced(monkeypatch, number)
    ((bound,),), ((plain,),) = case.sweep(ROWS).pre.values(), case.sweep(Method(affine=False)).pre.values()
    constant, *columns = oracles.evaluate(before, np.eye(21, 20, -1)).reshape(21, -1)
    matrix = np.stack(columns, 1) - constant[:, None]
    at_centre, reach = matrix @ (low[0] + 1) + constant, np.abs(matrix).sum(1)
    bent = ((plain.lower < 0) & (plain.upper > 0)).flatten().numpy()
    assert bent.sum() > 9
    for found, truth in zip(bound, (at_centre - reach, at_centre + reach), strict=True):
        np.testing.assert_allclose(found.flatten().numpy()[bent], truth[bent], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2])
def test_tiles_that_want_no_rows_keep_their_bounds(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a single channel are views of the value: what is written back is none."""
    g = PictureBuilder(81, 3)
    value = g.bent(g.filtered(g.bent(g.filtered(g.picture(1, 9, 9), 1)), 1))
    graph = g.finish(g.add("Reshape", (value,), (81,)), 1)
    low = np.random.default_rng(0).normal(size=(1, 81))
    case = boxes(graph, low, low + 1e-3)  # some tiles have no open neuron
    seen = forced(monkeypatch, number)
    found, plain = case.sweep(ROWS), case.sweep(Method(affine=False))
    assert max(seen) > 1
    for i, (bound,) in found.pre.items():
        assert (bound.lower >= plain.pre[i][0].lower).all() and (bound.upper <= plain.pre[i][0].upper).all()


def cropped() -> tuple[Graph, tuple[int, int]]:
    """One output position of a convolutional network, and the place of it."""
    g = PictureBuilder(81, 5)
    value = g.bent(g.filtered(g.bent(g.filtered(g.picture(1, 9, 9), 2)), 2, stride=2))
    value = g.filtered(g.bent(g.filtered(value, 2)), 3, kernel=1, padding=0)
    flat = g.add("Reshape", (value,), (75,))
    g.add("Slice", (flat,), (3,), name="y", attrs={"axis": 0, "start": 7, "stop": 75, "step": 25})
    return Graph(("x",), ("y",), tuple(g.nodes), dict(g.shapes)), (1, 2)


def test_only_what_the_output_depends_on_is_needed() -> None:
    graph, (row, column) = cropped()
    network = case_of(graph, 0).network
    spans = {slot: part.ranges[2:] for slot, part in network.needed.items() if len(part.whole) == 4}
    at = [(row, row + 1), (column, column + 1)]
    last = network.output - 2
    for slot in (last, last - 1, last - 2):
        assert spans[slot] == tuple(at)
    assert spans[last - 3] == ((0, 3), (1, 4))
    assert spans[last - 5] == ((0, 6), (1, 8))
    assert spans[last - 7] == ((0, 7), (0, 9))


def test_elements_that_nothing_needs_have_no_rows() -> None:
    graph, _ = cropped()
    low = np.random.default_rng(1).normal(size=(2, 81))
    case = boxes(graph, low, low + 1)
    known, plain = case.sweep(ROWS), case.sweep(Method(affine=False))
    gained = 0
    for i, (bound,) in known.pre.items():
        (before,), part = plain.pre[i], case.network.needed[case.network.sources[i][0]]
        inside = torch.zeros(case.network.size(case.network.sources[i][0]), dtype=torch.bool)
        inside[part.places] = True
        change = ((bound.lower - before.lower).abs() + (bound.upper - before.upper).abs()).flatten(1) > 0
        gained += int(change[:, inside].sum())
        if i == case.network.relaxed[1]:  # the first is exact without rows, the others are narrower for it
            assert not change[:, ~inside].any()
    assert gained > 0
    check_sweep(case, known, 1e-12)


def test_many_rows_take_small_tiles_and_few_rows_none() -> None:
    network = case_of(residual(0, (20, 20)), 0, 1).network
    slot = network.sources[network.relaxed[1]][0]
    edges = [
        max(stop - start for start, stop in tiles(network, slot, rows, 2_000_000).parts[0].ranges[2:])
        for rows in (1, 100_000)
    ]
    assert edges[0] > edges[1]
    filling = tiles(network, slot, 2000, 64_000_000).parts  # a device that works on many rows at once
    assert len(filling) <= len(tiles(network, slot, 2000, 2_000_000).parts)


@pytest.mark.parametrize("number", range(3))
def test_a_tile_without_open_elements_keeps_its_bounds(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one box and one channel a tile is a view of the value, which may not be written to itself."""
    g = PictureBuilder(20, 4)
    value = g.bent(g.filtered(g.bent(g.filtered(g.picture(1, 4, 5), 1)), 1))
    graph = g.finish(g.add("Reshape", (value,), (20,)), 1)
    low = np.random.default_rng(2).normal(size=(1, 20))
    case = boxes(graph, low, low + 1e-3)
    forced(monkeypatch, number)
    known = case.sweep(ROWS)
    assert int(known.unstable) == 0
    same(known, case.sweep(Method(affine=False)), 0.0)
    check_sweep(case, known, 1e-12)


def test_no_tile_is_looked_at_when_the_time_for_rows_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(residual(1), 1)
    forced(monkeypatch, 2)
    monkeypatch.setattr(sweeps, "_intersect_part", lambda *_: pytest.fail("a tile was looked at"))
    where = case.network, case.lower, case.upper, case.query, case.inputs
    same(sweep(*where, ROWS, enough=lambda: True), case.sweep(Method(affine=False)), 0.0)
