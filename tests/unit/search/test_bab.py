"""The loop with a fake bound: what it proves is proven, what it leaves is reported, and it stops when told to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.search.tables import CPU, domains, numbered
from tests.unit.search.wave import LOWEST, Wave, _square, _strategy, search
from verifier.search.bab import Ending
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, join, whole
from verifier.search.halving import cut
from verifier.search.policy import Tally
from verifier.search.queue import LargestFirst, OpenSet


def test_what_children_inherit_is_never_padded() -> None:
    """A 0 that nobody computed would be an end of an interval."""
    boxes = whole(torch.zeros(2, 1), torch.ones(2, 1))
    known = replace(boxes, state=torch.ones(2, 4, dtype=torch.float64))
    assert join([known, known]).state.shape == (4, 4)
    with pytest.raises(ValueError, match=r"found widths \[0, 4\], expected all empty or none"):
        join([known, boxes])


def test_a_true_property_is_proven_everywhere() -> None:
    wave = Wave(LOWEST - 0.05)
    reports: list[float] = []
    outcome = search(_square(), _strategy(wave, report=lambda tally: reports.append(tally.settled)))
    assert outcome == Ending(None, 0.0, outcome.tally, None)
    assert outcome.tally.settled == pytest.approx(1.0) and outcome.tally.open_boxes == 0
    assert reports == sorted(reports) and outcome.tally.boxes == sum(len(b) for b in wave.boxes)
    # the proven boxes tile the square: no gap, no overlap
    tiles = join(wave.proven)
    assert float(((tiles.upper - tiles.lower).prod(1)).sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(tiles.share.sum()) == pytest.approx(1.0, abs=1e-12)
    points = torch.rand(500, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ((points >= tiles.lower) & (points <= tiles.upper)).all(2).any(1).all()


def test_a_false_property_has_its_point_found() -> None:
    wave = Wave(LOWEST + 0.001)
    outcome = search(_square(), _strategy(wave))
    assert isinstance(outcome.found, Tensor) and float(wave.value(outcome.found[None])) <= 0


def test_a_bound_that_never_proves_is_never_proven() -> None:
    """An equality of bound and property: the boxes at the minimum run out of depth and stay open."""
    wave = Wave(LOWEST)
    outcome = search(_square(), _strategy(wave, max_depth=14, try_points=lambda p, q: None))
    assert outcome.found is None and not outcome.out_of_time
    assert outcome.tally.stuck > 0 and 0 < outcome.open_share < 0.1
    assert outcome.tally.settled + outcome.open_share == pytest.approx(1.0, abs=0.1)


def test_boxes_too_thin_to_split_stay_open() -> None:
    at = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    thin = domains(at, torch.nextafter(at, torch.full_like(at, 2.0)))
    outcome = search(thin, _strategy(Wave(10.0), try_points=lambda p, q: None))
    assert outcome.tally.stuck == 1 and outcome.open_share == 1.0 and not outcome.out_of_time


def test_the_budget_ends_the_search_with_what_is_open() -> None:
    steps = []
    wave = Wave(LOWEST - 0.01)

    def stop() -> bool:
        steps.append(1)
        return len(steps) > 4

    outcome = search(_square(), _strategy(wave, stop=stop))
    assert outcome.out_of_time and outcome.found is None and len(wave.boxes) == 4
    assert outcome.open_share + outcome.tally.settled == pytest.approx(1.0) and outcome.open_share > 0


def test_queries_share_a_search() -> None:
    """Volumes count per query; one open query is not hidden by others."""
    outcome = search(_square(3), _strategy(Wave(LOWEST - 0.05), queries=3))
    assert outcome.tally.settled == pytest.approx(1.0) and outcome.open_share == 0.0


def test_nothing_to_do() -> None:
    empty = _square().select(slice(0, 0))
    assert search(empty, _strategy(Wave(0.0))) == Ending(None, 0.0, Tally(), None)


def test_affine_leaves_leave_the_search() -> None:
    def settle(boxes: DomainBatch, bounded: Bounded) -> tuple[Tensor, object | None]:
        return torch.zeros(len(boxes), dtype=torch.bool), None

    outcome = search(_square(), _strategy(Wave(10.0), settle_affine=settle, try_points=lambda p, q: None))
    assert outcome.tally.boxes == 1 and outcome.tally.settled == pytest.approx(1.0) and outcome.open_share == 0
    found = search(
        _square(),
        _strategy(Wave(10.0), settle_affine=lambda b, k: (torch.ones(len(b)) > 0, "x"), try_points=lambda p, q: None),
    )
    assert found.found == "x"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_children_cover_their_parent_exactly(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    low = torch.randn(50, 3, generator=g).to(dtype)
    high = low + (0.1 + torch.rand(50, 3, generator=g)).to(dtype) * 10.0 ** torch.randint(-4, 3, (50, 3), generator=g)
    boxes = domains(low, high)
    usable, dimension, at = cut(boxes, torch.rand(50, 3, generator=g).to(dtype))
    assert usable.all()
    children = boxes.split(dimension, at)
    first, second = children.select(slice(0, 50)), children.select(slice(50, 100))
    index = dimension[:, None]
    assert torch.equal(first.upper.gather(1, index), second.lower.gather(1, index))
    for part in (first, second):
        assert (part.lower >= boxes.lower).all() and (part.upper <= boxes.upper).all()
        assert (part.upper.gather(1, index) > part.lower.gather(1, index)).all()
        changed = ((part.lower != boxes.lower) | (part.upper != boxes.upper)).sum(1)
        assert (changed == 1).all()
        assert (part.depth == 1).all() and torch.equal(part.query, boxes.query)
    assert torch.equal(first.lower, boxes.lower) and torch.equal(second.upper, boxes.upper)
    torch.testing.assert_close(first.share + second.share, boxes.share, check_dtype=False)


def test_inputs_without_room_are_not_cut() -> None:
    """The best score loses against having a number strictly inside; a box without any is stuck."""
    low = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    high = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    usable, dimension, at = cut(domains(low, high), torch.tensor([[0.0, 9.0], [1.0, 1.0]], dtype=torch.float64))
    assert usable.tolist() == [True, False]
    assert dimension[0] == 0 and at[0] == 0.5


class TestOpenSet:
    """The stack keeps every box exactly once."""

    def test_every_box_comes_out_once(self) -> None:
        g = torch.Generator().manual_seed(0)
        held = OpenSet(numbered(range(10)), CPU)
        inside, out, name = set(range(10)), [], 10
        for _ in range(60):
            if int(torch.randint(2, (1,), generator=g)):
                size = int(torch.randint(0, 7, (1,), generator=g))
                held.push(numbered(range(name, name + size), lambda i: (i * 37) % 11))
                inside |= set(range(name, name + size))
                name += size
            elif len(held):
                part = held.pop(int(torch.randint(1, 9, (1,), generator=g)))
                out += [int(i) for i in part.lower[:, 0]]
                assert torch.equal(part.upper, part.lower + 1)
            assert len(held) == len(inside) - len(out)
        rest = held.rest()
        out += [] if rest is None else [int(i) for i in rest.lower[:, 0]]
        assert sorted(out) == sorted(inside)

    def test_the_least_hopeful_come_first(self) -> None:
        held = OpenSet(numbered(range(0)), CPU)
        assert len(held) == 0 and held.rest() is None
        held.push(numbered(range(6), lambda i: [3, 1, 4, 1.5, 5, 9][i]))
        assert sorted(held.pop(2).lower[:, 0].tolist()) == [1, 3]
        assert len(held) == 4
        assert len(held.pop(100)) == 4 and len(held) == 0


class TestLargestFirst:
    """The shallowest come out first, in order of arrival; nothing is lost whatever is wanted."""

    @staticmethod
    def _boxes(depths: list[int], first: int) -> DomainBatch:
        low = torch.arange(first, first + len(depths), dtype=torch.float64)[:, None]
        query = torch.arange(first, first + len(depths)) % 3
        return replace(whole(low, low + 1), query=query, depth=torch.tensor(depths, dtype=torch.int64))

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_it_is_a_sorted_list(self, data: st.DataObject) -> None:
        held, plain, name, deepest = LargestFirst(self._boxes([], 0), CPU, 4), [], 0, 4
        wanted = torch.tensor([True, True, True])
        for _ in range(data.draw(st.integers(1, 12))):
            depths = data.draw(st.lists(st.integers(0, 5), max_size=6))
            held.push(self._boxes(depths, name))
            plain += [(depth, name + i) for i, depth in enumerate(depths)]
            name += len(depths)
            if data.draw(st.booleans()):
                wanted[data.draw(st.integers(0, 2))] = False
            size = data.draw(st.integers(1, 5))
            usable = [(depth, n) for depth, n in plain if depth < deepest and wanted[n % 3]]
            level = min((depth for depth, _ in usable), default=None)
            expected = [n for depth, n in usable if depth == level][:size]
            batch = held.pop(size, wanted)
            assert [int(i) for i in batch.lower[:, 0]] == expected
            if data.draw(st.booleans()):
                held.put_back(batch)  # a step that failed
                front = [entry for entry in plain if entry[1] in expected]
                plain = front + [entry for entry in plain if entry[1] not in expected]
            else:
                plain = [entry for entry in plain if entry[1] not in expected]
            assert len(held) == len(plain)
        rest = held.rest()
        left = [] if rest is None else [int(i) for i in rest.lower[:, 0]]
        assert left == [n for _, n in plain]


@pytest.mark.parametrize("largest", [False, True])
def test_what_is_not_wanted_is_left_over(largest: bool) -> None:
    boxes = replace(_square(4), depth=torch.zeros(4, dtype=torch.int64))
    held = LargestFirst(boxes, CPU, 9) if largest else OpenSet(boxes, CPU)
    wanted = torch.tensor([True, False, True, False])
    out = [q for _ in range(3) for q in held.pop(3, wanted).query.tolist()]
    rest = held.rest()
    assert sorted(out) == [0, 2] and rest is not None and sorted(rest.query.tolist()) == [1, 3]
