"""Parts of one piece of work in copies of the process: the same results in the same order, whatever happens to one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_all_start_methods

import pytest
import torch

from verifier.bounds import copies
from verifier.bounds.copies import in_copies, on_copies
from verifier.bounds.cores import cores, on_cores, single_operations

pytestmark = pytest.mark.skipif("fork" not in get_all_start_methods(), reason="processes are copied by fork")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies are made after the first part."""
    monkeypatch.setattr(copies, "WORTH", 1e-4)
    with in_copies(3):
        yield


def slow(k: int) -> tuple[int, int, torch.Tensor]:
    time.sleep(0.01)
    return k, os.getpid(), torch.full((3,), float(k))


def test_results_in_order_from_several_processes() -> None:
    found = on_copies(slow, range(12))
    assert [k for k, _, _ in found] == list(range(12))
    assert len({pid for _, pid, _ in found}) == 3 and found[0][1] == os.getpid()
    assert all(torch.equal(t, torch.full((3,), float(k))) for k, _, t in found)


@pytest.mark.parametrize("parts", [0, 1])
def test_few_parts_stay_here(parts: int) -> None:
    assert [pid for _, pid, _ in on_copies(slow, range(parts))] == [os.getpid()] * parts


def test_quick_parts_and_one_process_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_copies(1):
        assert {pid for _, pid, _ in on_copies(slow, range(5))} == {os.getpid()}
    monkeypatch.setattr(copies, "WORTH", 100.0)
    assert {pid for _, pid, _ in on_copies(slow, range(5))} == {os.getpid()}


@pytest.mark.parametrize("how", ["raises", "dies", "hangs"])
def test_the_parts_of_a_copy_that_fails_are_worked_on_here(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.1)
    here = os.getpid()

    def work(k: int) -> int:
        time.sleep(0.005)
        if os.getpid() != here:
            if how == "raises":
                raise ArithmeticError
            if how == "hangs":
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        return k * k

    assert on_copies(work, range(9)) == [k * k for k in range(9)]


def test_an_exception_arrives() -> None:
    def work(k: int) -> int:
        time.sleep(0.005)
        if k == 4:
            raise ArithmeticError("part 4")
        return k

    with pytest.raises(ArithmeticError, match="part 4"):
        on_copies(work, range(9))


def test_a_copy_has_one_core() -> None:
    """Also where this process has a pool of threads, of which a copy has none."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_operations():
            assert on_cores(lambda k: k, range(3)) == [0, 1, 2]

            def work(k: int) -> tuple[int, int]:
                time.sleep(0.005)
                return cores(), sum(on_cores(lambda i: i, range(4)))

            found = on_copies(work, range(6))
            assert {total for _, total in found} == {6} and {count for count, _ in found} == {1, 2}
    finally:
        torch.set_num_threads(before)


def test_a_copy_makes_no_copies() -> None:
    def outer(k: int) -> set[int]:
        return {pid for _, pid, _ in on_copies(slow, range(4))}

    found = on_copies(outer, range(6))
    assert all(len(pids) == 1 for pids in found[1:])
