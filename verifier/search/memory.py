"""How many boxes a search may take at once, and when it has to end for want of memory.

Two defences. `Memory.boxes` keeps a step within the limit as far as earlier steps tell; and where an allocation fails
all the same, the step counts as not done, its boxes go back, and the next one takes half as many. A box is never
dropped: where not even one fits, the search ends with it open.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch

CPU = torch.device("cpu")
T = TypeVar("T")

COPIES = 16
"""Temporaries per box, in units of its largest value with all generators: what the first step is planned with. Measured
afterwards; an estimate that is too low costs a failed step, one that is too high some small ones."""

OPEN_SHARE = 0.5
"""Share of a separate device's memory that open boxes may fill before they move to host memory."""

DEVICE_SHARE = 0.8
"""Share of a separate device's free memory that a run may take: fragments and the libraries' buffers need the rest."""


def step_bytes(elements: int, dtype: torch.dtype) -> float:
    """About what a step takes per box whose largest value has so many elements."""
    return float(COPIES * elements * dtype.itemsize)


_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "Storage size calculation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed: PyTorch's CPU allocator raises a bare RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def give_back(device: torch.device) -> None:
    """Returns the blocks that PyTorch keeps for later to the device, after an allocation failed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Meter(Protocol):
    """What a search has taken of a device's memory."""

    def growth(self) -> int | None:
        """Bytes between the start and the highest point so far; None where the system does not say."""


class Unmeasured:
    """Where nothing can be measured."""

    def growth(self) -> int | None:
        """Nothing is known."""
        return None


class HostMeter:
    """The highest resident set of the process since the meter was made (Linux).

    The kernel keeps the peak; writing "5" to clear_refs sets it back to what is resident now, so that an earlier,
    larger run of the same process does not count.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._status = proc / "status"
        with contextlib.suppress(OSError):
            (proc / "clear_refs").write_text("5")
        self._start = self._peak()

    def growth(self) -> int | None:
        """Growth of the peak; a peak that could not be set back hides growth below it."""
        peak = self._peak()
        return None if peak is None or self._start is None else max(0, peak - self._start)

    def _peak(self) -> int | None:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


class CudaMeter:
    """The most that PyTorch's allocator has held at once on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.reset_peak_memory_stats(device)
        self._start = torch.cuda.memory_allocated(device)

    def growth(self) -> int | None:
        """Peak of the allocator since the meter was made."""
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._start)


@dataclass
class Memory:
    """The memory of one search, in bytes; the only part of a strategy that changes.

    `limit` is what steps may take on the device that computes, `held_limit` what boxes that wait may take in host
    memory (None: no limit). On a CPU both are the same memory and `shared` is true: what waits leaves less for the
    steps. `per_box` is an estimate until steps have been measured. `batch` is the largest step, halved by every failed
    allocation.
    """

    limit: int | None = None
    held_limit: int | None = None
    shared: bool = True
    per_box: float = 0.0
    batch: float = math.inf
    device: torch.device = CPU
    meter: Meter = field(default_factory=Unmeasured)
    failed: int = 0
    _reference: int = 0
    _peak: int = 0

    @classmethod
    def of(cls, device: torch.device, limit: int | None, per_box: float) -> Memory:
        """The memory of a search on `device`, in a run that may use `limit` bytes of host memory."""
        if device.type != "cuda":
            return cls(limit, limit, True, per_box, device=device, meter=HostMeter() if limit else Unmeasured())
        free = int(DEVICE_SHARE * torch.cuda.mem_get_info(device)[0])
        return cls(free, limit, False, per_box, device=device, meter=CudaMeter(device))

    @property
    def device_share(self) -> int | None:
        """What open boxes may take on a device with memory of its own before they move to the host's."""
        return None if self.shared or self.limit is None else int(OPEN_SHARE * self.limit)

    @property
    def reason(self) -> str:
        """Why there is no room for another step, for the user."""
        if self.batch == 1 and self.failed:
            return f"memory: an allocation failed for a single box ({self.failed} steps failed in all)"
        limit = "" if self.limit is None else f" of {self.limit / 1e9:.3g} GB"
        return f"memory: the open boxes and one step do not fit into the limit{limit}; --memory sets another"

    def boxes(self, held: int, on_device: int = 0) -> int:
        """How many boxes the next step may take while `held` bytes wait in host memory and `on_device` on the device.

        0 when the memory does not suffice for one.
        """
        if self.held_limit is not None and held > self.held_limit:
            return 0
        most = self.batch
        if self.limit is not None and self.per_box > 0:
            most = min(most, (self.limit - (held if self.shared else on_device)) / self.per_box)
        return int(min(max(0.0, most), 2.0**31))

    def learn(self, count: int, waiting: int) -> None:
        """Corrects `per_box` by what the search has taken up to now, after a step of `count` boxes.

        `waiting` bytes of it are open boxes. The growth over the largest step is an upper bound for larger ones,
        because what does not depend on their number counts as if it did. Smaller steps tell only where they needed
        more: freed memory may stay with the process.
        """
        growth = self.meter.growth()
        if growth is None:
            return
        taken = max(0, growth - waiting)
        if count >= self._reference:
            self._reference, self.per_box = count, taken / max(1, count)
        elif taken > self._peak > 0:
            self.per_box *= taken / self._peak
        self._peak = max(self._peak, taken)

    def halve(self, count: int) -> bool:
        """After a step of `count` boxes failed for want of memory: smaller steps from now on.

        False when it was a single box.
        """
        self.failed += 1
        self.batch = max(1, count // 2)
        give_back(self.device)
        return count > 1


def attempt(work: Callable[[], T]) -> tuple[T | None, bool]:
    """What `work` returns and True, or None and False where memory ran out.

    The exception is dropped here, and with it the frames that keep the failed step's tensors alive.
    """
    try:
        return work(), True
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return None, False
