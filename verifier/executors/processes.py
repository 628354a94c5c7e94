"""Tasks in processes of this machine, each of which serves one after the other."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal

from verifier.executors.executor import Done, Executor, Failed, Lost, Servant, T, TaskEvent, perform


class Processes(Executor[T]):
    """`count` processes, which share the cores of the machine; one that dies is replaced when there is work for it.

    With `method` "fork" they are copies of this process at the time of their first task, and `servant` may hold
    anything. That is for single-threaded operations on a CPU: what CUDA or other threads were doing is lost.
    """

    retries = 0
    start_limit = 180.0

    def __init__(self, count: int, servant: Servant[T], method: Literal["spawn", "fork"] = "spawn") -> None:
        self.count, self.servant, self.method = count, servant, method
        self._numbers = itertools.count()
        self._idle: list[_Process] = []
        self._busy: dict[int, _Process] = {}
        self._threads_set = False

    def __enter__(self) -> Processes[T]:
        if (
            self.method == "spawn" and self.count > 1 and "OMP_NUM_THREADS" not in os.environ
        ):  # the processes divide the cores among them
            os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // self.count))
            self._threads_set = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        every = *self._busy.values(), *self._idle
        for process in every:
            process.child.kill()  # all of them before the first is waited for
        for process in every:
            process.kill()
        self._busy, self._idle = {}, []
        if self._threads_set:
            del os.environ["OMP_NUM_THREADS"]
            self._threads_set = False

    def width(self) -> int:
        """The number of processes."""
        return self.count

    def facts(self) -> list[tuple[str, str]]:
        """See `Executor`."""
        return [("Processes", str(self.count))]

    def give(self, task: T) -> int:
        """See `Executor`; there have to be fewer tasks than processes."""
        process = self._idle.pop() if self._idle else _Process(self.servant, self.count, self.method)
        number = next(self._numbers)
        self._busy[number] = process
        with suppress(OSError):  # it died while idle: the end of the channel says so in the next step
            process.channel.send(task)
        return number

    def wait(self, seconds: float) -> list[tuple[int, TaskEvent]]:
        """See `Executor`."""
        numbers = {process.channel: number for number, process in self._busy.items()}
        heard: list[tuple[int, TaskEvent]] = []
        for channel in connection.wait(list(numbers), timeout=seconds):
            number = numbers[channel]  # type: ignore[index]
            process = self._busy[number]
            try:
                event = process.channel.recv()
            except (EOFError, OSError):
                process.child.join(5)
                event = Lost(f"the worker process died ({_exit_text(process.child.exitcode)})")
                self.kill(number)
            if isinstance(event, Done | Failed):
                self._idle.append(self._busy.pop(number))
            heard.append((number, event))
        return heard

    def kill(self, number: int) -> None:
        """See `Executor`."""
        self._busy.pop(number).kill()


class _Process:
    """A process that serves, and the channel to it."""

    def __init__(self, servant: Servant[Any], beside: int, method: Literal["spawn", "fork"]) -> None:
        context = get_context("spawn") if method == "spawn" else get_context("fork")
        self.channel, theirs = context.Pipe()
        self.child = context.Process(target=serve, args=(theirs, servant, beside), daemon=True)
        self.child.start()
        theirs.close()  # so that the death of the process is the end of the channel

    def kill(self) -> None:
        self.child.kill()
        self.child.join()
        self.channel.close()


def serve(channel: Connection, servant: Servant[T], beside: int) -> None:
    """Main function of the process: performs each task of `channel`, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    servant.prepare(beside)
    while True:
        try:
            task = channel.recv()
        except EOFError:
            return
        perform(servant, task, channel.send)


def die_with_parent() -> None:
    """From here on this worker process ends when its parent is gone, also by a signal, also in the middle of a task."""
    threading.Thread(target=_await_end_of_parent, daemon=True).start()


def _await_end_of_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"{signal.Signals(-code).name}{', perhaps out of memory' if code == -signal.SIGKILL else ''}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
