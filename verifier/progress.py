"""What a running search reports, and the one line that shows it on a terminal."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

Say = Callable[[str], None]  # a line for whoever watches

_ERASE_LINE = "\r\x1b[2K"


@dataclass(frozen=True)
class Progress:
    """One look at a running search.

    `boxes` were bounded in `seconds`, `open_boxes` wait; `lower` is the least lower bound over the open boxes (what
    still misses 0; None before the first), `settled` the share of the input volume that is proven (0 to 1, None where
    not known), `remaining` the seconds left (infinite without a limit); `certified` the share free of violations,
    where the search keeps those apart (mean over its queries).
    """

    boxes: int
    open_boxes: int
    seconds: float
    lower: float | None = None
    settled: float | None = None
    remaining: float = math.inf
    certified: float | None = None

    @property
    def rate(self) -> float:
        """Boxes per second since the start."""
        return self.boxes / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        parts = [f"{self.open_boxes:,} open", f"{self.boxes:,} boxes", f"{self.rate:,.0f}/s"]
        if self.lower is not None:
            parts.append(f"lower {self.lower:+.3g}")
        if self.settled is not None:
            # rounded down: 100 % must mean all of it; shares that are summed up may be a little below 0
            parts.append(f"{math.floor(max(self.settled, 0) * 1000) / 10:.1f} % settled")
        if math.isfinite(self.remaining):
            parts.append(f"{self.remaining:.0f} s left")
        return "  ".join(parts)


class StatusLine:
    """One line of a terminal that is written over, at most `rate` times a second.

    On a stream that is no terminal it is silent, or with `elsewhere` a line of its own every so many seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        rate: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        elsewhere: float | None = None,
    ) -> None:
        self._stream, self._clock, self._terminal = stream, clock, stream.isatty()
        self._pause = 1.0 / rate if self._terminal or elsewhere is None else elsewhere
        self._next = -math.inf
        self._shown = False
        self.enabled = self._terminal or elsewhere is not None

    def show(self, text: object, last: bool = False) -> None:
        """Replaces the line by `str(text)`, cut to the width of the terminal; skipped if the one before is too recent,
        unless it is the `last`, which stays.
        """
        now = self._clock()
        if not self.enabled or (now < self._next and not last):
            return
        self._next, self._shown = now + self._pause, self._terminal and not last
        width = shutil.get_terminal_size().columns - 1
        end = "\n" if last or not self._terminal else ""
        self._stream.write((_ERASE_LINE + str(text)[:width] if self._terminal else str(text)) + end)
        self._stream.flush()

    def print(self, text: str) -> None:
        """Prints a line that stays, above the one that is written over; also where that one is not shown."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Takes the line away, so that what is printed next starts on a clean one."""
        if self._shown:
            self._shown, self._next = False, -math.inf
            self._stream.write(_ERASE_LINE)
            self._stream.flush()


MOST = 400
"""Looks that are kept of a search: with more, every second one is forgotten."""


@dataclass(eq=False)
class History:
    """Looks at a search over time, evenly spaced in its steps, and the last one; to be called with each."""

    kept: list[Progress] = field(default_factory=list)
    last: Progress | None = None
    _every: int = 1
    _seen: int = 0

    def __call__(self, progress: Progress) -> None:
        """Keeps a look, or not."""
        self.last = progress
        if self._seen % self._every == 0:
            self.kept.append(progress)
            if len(self.kept) > MOST:
                self.kept, self._every = self.kept[::2], 2 * self._every
        self._seen += 1

    @property
    def looks(self) -> list[Progress]:
        """What is known of the search, first to last."""
        kept, last = list(self.kept), self.last
        return kept if last is None or (kept and kept[-1] is last) else [*kept, last]
