"""Work on the parts of a batch, one core each.

PyTorch splits single operations between threads, which for batches that fit a core's cache gains little. Operations
release the interpreter's lock, so whole parts can be worked on side by side instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Done = TypeVar("Done")


def on_cores(work: Callable[[Part], Done], parts: Iterable[Part]) -> list[Done]:
    """`work` of every part, in order; as many at a time as PyTorch has threads, each with one thread.

    `work` must not write to what the parts share. It runs with the caller's grad mode. The first exception is raised.
    """
    parts = list(parts)
    threads = torch.get_num_threads()
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
        torch.set_num_threads(threads)  # what the workers set for themselves is the default of later threads, too


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "secateur")
