"""Signals and the hard end of a run.

SIGINT and SIGTERM ask the search to stop through its `Budget`; the deadline does so by itself. Both need a search that
looks at the budget. A thread watches over that: when the search is still inside one long step some seconds later, the
thread says the last words and ends the process. So a run always ends, and always with an answer.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from verifier.budget import Budget

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DONE = b"\xff"  # no signal has this number
_LONGEST_WAIT = 86_400.0  # select() refuses much larger ones


class Guard:
    """`with Guard(budget, last_words): search()`; after the block the guard is off and the caller reports.

    `last_words(reason)` runs on the watching thread, at most once, and only if the block did not end within `grace`
    seconds after the deadline or the first signal, or at once on the second signal; its return value is the exit code.
    Use it on the main thread only (signal handlers belong there).
    """

    def __init__(self, budget: Budget, last_words: Callable[[str], int], grace: float = 2.0) -> None:
        self._budget, self._last_words, self._grace = budget, last_words, grace

    def __enter__(self) -> Self:
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        # The C handler writes the signal's number to the socket at once, even while the main thread is inside a long
        # native call, where the Python handler has to wait.
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._wakeup)
        self._theirs.send(_DONE)
        self._thread.join()  # if the thread is at its last words, the process ends here
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._ours.close()
        self._theirs.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._budget.stop(f"stopped by {signal.Signals(number).name}")

    def _watch(self) -> None:
        grace: float | None = None  # set once the search has been asked to stop
        while True:
            wait = self._budget.remaining() if grace is None else grace
            readable, _, _ = select.select([self._ours], [], [], min(wait, _LONGEST_WAIT))
            byte = self._ours.recv(1) if readable else b""
            if byte == _DONE:
                return
            if grace is not None:
                self._end(self._budget.stopped or "the time limit was reached")
            if byte:
                self._on_signal(byte[0], None)
            if byte or wait <= _LONGEST_WAIT:
                grace = self._grace

    def _end(self, reason: str) -> None:
        try:
            code = self._last_words(f"{reason}; the search did not stop by itself within {self._grace:g} s")
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            code = 1
        os._exit(code)
