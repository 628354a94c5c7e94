"""Want of memory makes a search slower or leaves boxes open; it never loses one, and never proves one.

There is no second device where these tests run: "cpu:0" and "cpu" are two names of the same memory that PyTorch tells
apart, so everything about the moves between a GPU and the host is run here but the copy itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.tables import numbered
from tests.unit.search.wave import LOWEST, Wave, _square, _strategy, search
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, join
from verifier.search.memory import CPU, HostMeter, Memory, attempt, is_out_of_memory
from verifier.search.queue import OpenSet

DEVICE = torch.device("cpu", 0)


def _allocate_too_much() -> None:
    torch.empty(1 << 50)


def _raise(error: BaseException) -> Callable[[], None]:
    def go() -> None:
        raise error

    return go


FAILURES = {
    "the real CPU allocator": _allocate_too_much,
    "CUDA": _raise(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "Windows": _raise(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")),
    "cuBLAS": _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    "numpy": _raise(MemoryError("Unable to allocate 1.0 TiB")),
}


@dataclass
class Narrow(Wave):
    """Bounds that need more memory than there is for more than `most` boxes."""

    most: int = 4
    fail: Callable[[], None] = _allocate_too_much

    def bound(self, batch: DomainBatch) -> Bounded:
        if len(batch) > self.most:
            self.fail()
        return super().bound(batch)


def _covers(wave: Wave) -> None:
    """The proven boxes tile the unit square."""
    tiles = join(wave.proven)
    assert float((tiles.upper - tiles.lower).prod(1).sum()) == pytest.approx(1.0, abs=1e-12)
    points = torch.rand(300, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ((points >= tiles.lower) & (points <= tiles.upper)).all(2).any(1).all()


@pytest.mark.parametrize("kind", FAILURES)
def test_every_way_to_run_out_of_memory_halves_the_batch(kind: str) -> None:
    wave = Narrow(LOWEST - 0.05, most=4, fail=FAILURES[kind])
    strategy = _strategy(wave, batch=64, memory=Memory())
    outcome = search(_square(), strategy)
    assert outcome.rest is None and outcome.open_share == 0.0 and not outcome.no_room
    assert outcome.tally.settled == pytest.approx(1.0)
    assert strategy.memory.failed == 1 and strategy.memory.batch == 4
    _covers(wave)


@settings(max_examples=15, deadline=None)
@given(
    level=st.floats(0.15, 0.5),
    false=st.booleans(),
    most=st.integers(1, 20),
    batch=st.integers(4, 64),
    failing=st.sets(st.integers(0, 40), max_size=8),
    place=st.sampled_from(["bound", "try_points", "settle_affine", "push"]),
)
def test_verdict_and_volume_do_not_depend_on_memory(
    level: float, false: bool, most: int, batch: int, failing: set[int], place: str
) -> None:
    """Batches above `most` never fit, and some calls fail besides, in any part of a step."""
    wave = Narrow(LOWEST + level if false else LOWEST - level, most=most)
    plain = search(_square(), _strategy(Wave(wave.level), batch=batch))
    strategy = _strategy(wave, batch=batch)
    calls = iter(range(10**9))

    def sometimes(work: Callable) -> Callable:
        def go(*arguments: object) -> object:
            boxes = len(arguments[-1 if place == "push" else 0]) / (2 if place == "try_points" else 1)  # type: ignore[arg-type]
            if next(calls) in failing and boxes > 1:
                raise MemoryError
            return work(*arguments)

        return go

    with pytest.MonkeyPatch.context() as patch:
        if place == "push":
            patch.setattr(OpenSet, "push", sometimes(OpenSet.push))
        else:
            setattr(strategy, place, sometimes(getattr(strategy, place)))
        outcome = search(_square(), strategy)
    if outcome.no_room:  # a step of one box made several children, and they did not fit
        assert place == "push" and outcome.found is None and outcome.rest is not None
        assert outcome.open_share + outcome.tally.settled == pytest.approx(1.0)
        return
    assert (outcome.found is None) == (plain.found is None) == (not false)
    if not false:
        assert outcome.open_share == plain.open_share == 0.0
        assert outcome.tally.settled == pytest.approx(plain.tally.settled, abs=1e-12)
        assert all(len(boxes) <= most for boxes in wave.boxes)


def test_a_box_that_does_not_fit_leaves_the_search_open() -> None:
    """Boxes narrower than 1/3 never fit: what is settled before counts, and nothing else does."""

    class Thin(Wave):
        def bound(self, batch: DomainBatch) -> Bounded:
            if bool(((batch.upper - batch.lower).amin(1) < 1 / 3).any()):
                raise MemoryError
            return super().bound(batch)

    strategy = _strategy(Thin(LOWEST - 0.05))
    outcome = search(_square(), strategy)
    assert outcome.no_room and outcome.found is None and outcome.rest is not None
    assert float(outcome.rest.share.sum()) == outcome.open_share > 0
    assert outcome.open_share + outcome.tally.settled == pytest.approx(1.0)
    assert strategy.memory.reason.startswith("memory: an allocation failed for a single box")


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error)):
            search(_square(), _strategy(Narrow(0.0, most=0, fail=_raise(error))))
        with pytest.raises(type(error)):
            attempt(_raise(error))


@dataclass
class Scales:
    """A device on which every box of a step takes `per_box` bytes, next to `fixed` bytes and the boxes that wait."""

    wave: Wave
    per_box: int
    fixed: int = 0
    peak: int = 0

    def bound(self, batch: DomainBatch) -> Bounded:
        self.peak = max(self.peak, self.fixed + self.per_box * len(batch))
        return self.wave.bound(batch)

    def growth(self) -> int | None:
        return self.peak


@pytest.mark.parametrize("estimate", [1.0, 1_000.0, 50_000.0])
def test_steps_stay_below_the_limit(estimate: float) -> None:
    """Whatever the first estimate was, a step is at most as large as the limit allows once one was measured."""
    wave = Wave(LOWEST - 0.05)
    scales = Scales(wave, 1_000, 3_000)
    memory = Memory(limit=40_000, held_limit=40_000, per_box=estimate, meter=scales)
    outcome = search(_square(), _strategy(wave, bounds=scales.bound, batch=1024, memory=memory))
    if estimate == 50_000.0:
        assert outcome.no_room and outcome.tally.boxes == 0 and "0.00" not in memory.reason
        return
    assert outcome.open_share == 0.0 and outcome.rest is None
    assert scales.peak <= 40_000
    assert max(len(boxes) for boxes in wave.boxes) >= 20  # and is used


def test_open_boxes_that_fill_the_memory_end_the_search() -> None:
    wave = Wave(LOWEST)  # never proven near the minimum
    memory = Memory(limit=4_000, held_limit=4_000, per_box=10.0)
    held: list[int] = []
    outcome = search(_square(), _strategy(wave, batch=8, memory=memory, report=lambda t: held.append(t.open_boxes)))
    assert outcome.no_room and outcome.open_share > 0 and outcome.rest is not None
    assert outcome.rest.bytes <= 4_000 + 16 * _square().bytes  # the last step's children at most
    assert memory.reason == (
        "memory: the open boxes and one step do not fit into the limit of 4e-06 GB; --memory sets another"
    )


def test_larger_steps_wait_until_smaller_ones_were_measured() -> None:
    class Meter:
        now: int | None = None

        def growth(self) -> int | None:
            return self.now

    meter = Meter()
    memory = Memory(limit=1_000, held_limit=None, per_box=100.0, meter=meter)
    assert memory.boxes(0) == 10 and memory.boxes(500) == 5 and memory.boxes(2_000) == 0
    memory.learn(10, 0)
    assert memory.boxes(0) == 10  # nothing was measured
    meter.now = 500
    memory.learn(10, 0)
    assert memory.boxes(0) == 20
    memory.learn(2, 0)  # a small step after a large one: freed memory that stayed with the process
    assert memory.boxes(0) == 20
    meter.now = 1_000  # a small step that needed more than the large one: boxes have become heavier
    memory.learn(2, 0)
    assert memory.boxes(0) == 10
    assert memory.halve(10) and memory.boxes(0) == 5 and not memory.halve(1)


@pytest.mark.parametrize("share", [0, 150, 1_000, 10**9])
def test_what_is_moved_away_comes_back(share: int) -> None:
    """Same boxes in the same order as without moves; the device never holds more than its share and the last batch."""
    moved = False
    g = torch.Generator().manual_seed(share)
    first = numbered(range(12))
    held, plain, name = OpenSet(first, DEVICE, share, CPU), OpenSet(first, CPU), 12
    for _ in range(200):
        if int(torch.randint(2, (1,), generator=g)):
            size = int(torch.randint(0, 9, (1,), generator=g))
            batch = numbered(range(name, name + size), lambda i: (i * 37) % 11)
            held.push(batch)
            plain.push(batch)
            name += size
            assert not size or held.on_device <= share + batch.bytes
        elif len(plain):
            size = int(torch.randint(1, 12, (1,), generator=g))
            assert torch.equal(held.pop(size).lower, plain.pop(size).lower)
        moved |= held.stored > 0
        assert len(held) == len(plain)
        assert held.on_device + held.stored == plain.on_device and plain.stored == 0
    left, rest = held.rest(), plain.rest()
    assert left is not None and rest is not None
    assert torch.equal(left.lower, rest.lower)
    assert moved == (share < 10**9)


def test_a_search_that_moves_boxes_away_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: set[torch.device] = set()
    to = DomainBatch.to

    def recorded(boxes: DomainBatch, device: torch.device) -> DomainBatch:
        moves.add(device)
        return to(boxes, device)

    monkeypatch.setattr(DomainBatch, "to", recorded)
    wave, plain = Wave(LOWEST - 0.05), Wave(LOWEST - 0.05)
    memory = Memory(limit=3_000, held_limit=10**9, shared=False, per_box=1.0, device=DEVICE)
    outcome = search(_square(), _strategy(wave, memory=memory, device=DEVICE))
    assert CPU in moves
    expected = search(_square(), _strategy(plain))
    assert outcome.tally == expected.tally and outcome.open_share == 0.0
    _covers(wave)


def test_what_waits_in_host_memory_has_a_limit_too() -> None:
    memory = Memory(limit=2_000, held_limit=1_000, shared=False, per_box=1.0, device=DEVICE)
    outcome = search(_square(), _strategy(Wave(LOWEST), memory=memory, device=DEVICE, try_points=lambda p, q: None))
    assert outcome.no_room and outcome.open_share > 0


def test_failing_moves_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host memory is full when boxes are to move there: the step fails, and its boxes are still open."""
    to = DomainBatch.to

    def refuse(boxes: DomainBatch, device: torch.device) -> DomainBatch:
        if device == CPU:
            raise MemoryError
        return to(boxes, device)

    monkeypatch.setattr(DomainBatch, "to", refuse)
    memory = Memory(limit=2_000, held_limit=10**9, shared=False, per_box=1.0, device=DEVICE)
    outcome = search(_square(), _strategy(Wave(LOWEST - 0.05), memory=memory, device=DEVICE))
    assert outcome.no_room and outcome.open_share + outcome.tally.settled == pytest.approx(1.0)


def test_a_rest_does_not_keep_its_batch_in_memory() -> None:
    held = OpenSet(numbered(range(1000)), CPU)
    while len(held) > 100:
        held.pop(7)
    rest = held.rest()
    assert rest is not None
    assert rest.lower.untyped_storage().nbytes() <= 2 * rest.lower.numel() * 8 + 8


def test_the_host_meter_sees_temporaries() -> None:
    meter = HostMeter()
    before = meter.growth()
    if before is None:
        pytest.skip("this system does not tell the peak of a process")
    block = torch.ones(25_000_000, dtype=torch.float64)
    del block
    after = meter.growth()
    assert after is not None and after - before > 150_000_000
    again = HostMeter().growth()
    assert again is not None and again < 150_000_000


def test_the_host_meter_reads_the_kernels_file(tmp_path: Path) -> None:
    status = tmp_path / "status"
    assert HostMeter(tmp_path).growth() is None
    status.write_text("Name:\tx\nVmHWM:\t   1000 kB\nVmRSS:\t 900 kB\n")
    meter = HostMeter(tmp_path)
    assert meter.growth() == 0 and (tmp_path / "clear_refs").read_text() == "5"
    status.write_text("VmHWM:\t   3000 kB\n")
    assert meter.growth() == 2000 * 1024
