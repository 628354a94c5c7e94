"""Work on every core: the same results in the same order, and nothing of it left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from verifier.bounds.cores import cores, on_cores, single_operations


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_order_grad_mode_and_threads(threads: int) -> None:
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = on_cores(lambda i: (i * i, torch.is_grad_enabled(), torch.get_num_threads()), range(20))
        assert [square for square, _, _ in found] == [i * i for i in range(20)]
        assert {mode for _, mode, _ in found} == {grad}
        assert {each for _, _, each in found} == {1}
        assert torch.get_num_threads() == threads


def test_parts_run_side_by_side() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=20)  # broken unless both parts wait at the same time
    try:
        assert sorted(on_cores(lambda i: meeting.wait(), range(2))) == [0, 1]
    finally:
        torch.set_num_threads(before)


def test_an_exception_arrives_and_the_threads_are_as_before(threads: int) -> None:
    def fail(i: int) -> int:
        if i == 2:
            raise ArithmeticError("part 2")
        return i

    with pytest.raises(ArithmeticError, match="part 2"):
        on_cores(fail, range(4))
    assert torch.get_num_threads() == threads
    assert on_cores(fail, range(2)) == [0, 1]
    assert on_cores(fail, []) == []


def test_an_operation_has_one_thread_and_parts_have_all_cores(threads: int) -> None:
    """Also one inside the other; afterwards all is as before."""
    for _ in range(2):
        with single_operations(), single_operations():
            assert torch.get_num_threads() == 1 and cores() == threads
            assert set(on_cores(lambda i: torch.get_num_threads(), range(4))) == {1}
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == cores() == threads


def test_results_do_not_depend_on_the_threads(threads: int) -> None:
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    w = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    found = torch.cat(on_cores(lambda at: torch.conv2d(x[at], w), [slice(0, 3), slice(3, 8)]))
    torch.testing.assert_close(found, torch.conv2d(x, w))
