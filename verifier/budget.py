"""How long a run may take and how much memory it may use, as a value that is passed in and always obeyed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class StopRequest:
    """The one mutable cell of a budget: who asked the run to stop, if anybody did.

    Setting an attribute takes no lock, so a signal handler may do it at any moment.
    """

    reason: str = ""


@dataclass(frozen=True)
class Budget:
    """A deadline on `clock` (seconds, may be infinite) and a number of bytes.

    The engine asks `expired()` between two steps and returns what it has reached when the answer is yes; `stop()`
    makes it so at once. `memory_bytes` is by how much a search may make the process grow, None for no limit: it takes
    smaller steps near the limit, and ends as `unknown` where not even one box has room.
    """

    deadline: float = math.inf
    memory_bytes: int | None = None
    clock: Callable[[], float] = time.monotonic
    _request: StopRequest = field(default_factory=StopRequest, compare=False, repr=False)

    def __post_init__(self) -> None:
        if math.isnan(self.deadline):
            raise ValueError("Budget.deadline is NaN")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ValueError(f"Budget.memory_bytes: found {self.memory_bytes}, expected a number > 0")

    @classmethod
    def of(
        cls, seconds: float | None, memory_bytes: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> Budget:
        """A budget that starts now and lasts `seconds` (None: no time limit)."""
        return cls(math.inf if seconds is None else clock() + seconds, memory_bytes, clock)

    def remaining(self) -> float:
        """Seconds left, never negative; 0 once stopped."""
        return 0.0 if self._request.reason else max(0.0, self.deadline - self.clock())

    def expired(self) -> bool:
        """Whether the run has to end now."""
        return bool(self._request.reason) or self.clock() >= self.deadline

    def stop(self, reason: str = "stopped by the caller") -> None:
        """Asks the run to end at its next step; the first reason given is kept."""
        if not self._request.reason:
            self._request.reason = reason or "stopped"

    @property
    def stopped(self) -> str:
        """Why the run was asked to stop; empty when nobody asked. Tells `unknown` (stopped) from `timeout`."""
        return self._request.reason


class OutOfTime(Exception):
    """The budget ran out in the middle of a step; nothing that was computed may be used."""


def never() -> bool:
    """The stop test of an unlimited budget."""
    return False


MEMORY_SHARE = 0.8
"""Share of the free memory that a run takes at most when it is not told: the rest is for whoever else is here."""


def memory_limit(gigabytes: float | None, processes: int = 1) -> int | None:
    """`Budget.memory_bytes` for a run: what the user says (GB of 10^9 bytes, of each process), else a share of what is
    free now, divided among `processes`; None where that is not known."""
    if gigabytes is not None:
        return max(1, int(min(gigabytes, 1e9) * 1e9))
    free = available_memory()
    return None if free is None else max(1, int(MEMORY_SHARE * free / processes))


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take: free memory of the machine, or of its control group if that is less.

    None where the system does not say (outside Linux).
    """
    limits = [value for value in (_machine_free(meminfo), _cgroup_free(cgroup)) if value is not None]
    return min(limits) if limits else None


def _machine_free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_free(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        return None if limit == "max" else max(1, int(limit) - used)
    except (OSError, ValueError):
        return None
