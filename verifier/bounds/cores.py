"""Work on the parts of a batch, one core each.

PyTorch splits single operations between threads, which for batches that fit a core's cache gains little. Operations
release the interpreter's lock, so whole parts can be worked on side by side instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Part = TypeVar("Part")
Done = TypeVar("Done")

_shared: ContextVar[int] = ContextVar("cores", default=1)


def on_cores(work: Callable[[Part], Done], parts: Iterable[Part]) -> list[Done]:
    """`work` of every part, in order; as many at a time as there are `cores`, each with one thread.

    `work` must not write to what the parts share. It runs with the caller's grad mode. The first exception is raised.
    """
    parts = list(parts)
    own, threads = torch.get_num_threads(), cores()
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    grad = torch.is_grad_enabled()

    def one(part: Part) -> Done:
        torch.set_num_threads(1)  # each time: a thread's first operation takes over what was set for all of them
        with torch.set_grad_enabled(grad):
            return work(part)

    try:
        return list(_pool(threads).map(one, parts))
    finally:
        torch.set_num_threads(own)  # what the workers set for themselves is the default of later threads, too


@contextmanager
def single_operations() -> Iterator[None]:
    """Inside `with`, or a function that it decorates, an operation has one thread: only `on_cores` uses the others.

    (Where two threads share each operation the second costs more than it does: ACAS Xu 3_3 property 2 6.5 s instead of
    5.1, oval21 `cifar_deep_kw` img4168 7.7 instead of 6.0, yolo 14.6 instead of 10.4.)
    """
    own = torch.get_num_threads()
    before = _shared.set(cores())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(own)
        _shared.reset(before)


def cores() -> int:
    """How many parts `on_cores` works on at a time."""
    return max(torch.get_num_threads(), _shared.get())


def one_core() -> None:
    """In a copy of a process, first of all: what threads there were are not in it, and it is to have one."""
    torch.set_num_threads(1)
    _shared.set(1)
    _pool.cache_clear()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "secateur")
