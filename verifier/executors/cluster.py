"""Tasks on the nodes of a Ray cluster: Ray says which node takes which task, starts the processes and notices losses.

Nothing but the package has to be on the nodes: the files that a task reads travel with it, and what it writes comes
back. (Moritz et al., "Ray: a distributed framework for emerging AI applications", OSDI 2018.)
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from verifier.console.arguments import version
from verifier.errors import OptionsError
from verifier.executors.executor import Done, Executor, Failed, Lost, Said, Servant, T, TaskEvent, perform

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by Ray when it starts a cluster

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise OptionsError(
        f"--engine ray needs the package ray, which cannot be imported ({missing}): pip install 'secateur[ray]'"
    ) from None

AHEAD = 2
"""Tasks given for each processor: one that runs and one that waits, so that no node idles and an autoscaler sees that
there is more to do."""


class Cluster(Executor[T]):
    """One processor for each task, or one GPU with `gpu`; `memory` bytes are reserved for each where they are given.

    `address` as of `ray.init`: `auto`, HOST:PORT, or None for RAY_ADDRESS, a cluster on this machine, or a new one.
    """

    retries = 1
    start_limit = float("inf")  # a task may have to wait for its turn

    def __init__(
        self, servant: Servant[T], address: str | None = None, *, gpu: bool = False, memory: float | None = None
    ) -> None:
        if address is not None and address.startswith("ray://"):
            raise OptionsError(
                f"--address {address[:60]}: a Ray client has no streams of results; start the command on a node of the "
                "cluster (`ray job submit`) with --address auto"
            )
        self.servant, self.address = servant, address
        self._needs = {"num_cpus": 1, "num_gpus": int(gpu), "memory": int(memory) if memory else None}
        self._numbers = itertools.count()
        self._running: dict[int, Any] = {}
        self._size, self._sized = 1, -float("inf")
        self._quiet = ExitStack()
        self._token = uuid.uuid4().hex[:12]

    def __enter__(self) -> Cluster[T]:
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "a local Ray cluster" if self.address is None else f"--address {self.address[:60]}"
            what = " ".join(str(error).split())[:400]
            raise OptionsError(f"{where} cannot be reached: {what}; `ray status` says what is there") from None
        # what nodes and the head have to say goes to stdout, state dumps included: our stdout is for results
        self._quiet.enter_context(redirect_stdout(self._quiet.enter_context(open(os.devnull, "w"))))
        self._servant = [ray.put(self.servant)]  # in a list: a task fetches it only where its process has none
        self._contents = lru_cache(256)(lambda path: ray.put(path.read_bytes()))
        self._task = ray.remote(_serve).options(num_returns="streaming", max_retries=0, **self._needs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._running):
            self.kill(number)
        ray.shutdown()
        self._quiet.close()

    def width(self) -> int:
        """As many as the cluster has processors now, and as many again."""
        if time.monotonic() > self._sized + 1:
            have = ray.cluster_resources()
            self._size = max(1, int(have.get("GPU" if self._needs["num_gpus"] else "CPU", 0)))
            self._sized = time.monotonic()
        return AHEAD * self._size

    def facts(self) -> list[tuple[str, str]]:
        """See `Executor`."""
        nodes = sum(node["Alive"] for node in ray.nodes())
        return [("Ray cluster", f"{nodes} nodes, {int(ray.cluster_resources().get('CPU', 0))} processors")]

    def give(self, task: T) -> int:
        """See `Executor`."""
        number = next(self._numbers)
        files = [
            (main, path)
            for main, others in self.servant.files(task).items()
            for path in (main, *others)
            if path.is_file()  # another is reported by its reader
        ]
        contents = [self._contents(path) for _, path in files]
        self._running[number] = self._task.remote(self._token, self._servant, version(), task, files, *contents)
        return number

    def wait(self, seconds: float) -> list[tuple[int, TaskEvent]]:
        """See `Executor`."""
        numbers = {stream: number for number, stream in self._running.items()}
        if not numbers:
            return []
        ready, _ = ray.wait(list(numbers), num_returns=1, timeout=seconds)
        return [(numbers[stream], self._next(numbers[stream], stream)) for stream in ready]

    def kill(self, number: int) -> None:
        """See `Executor`."""
        ray.cancel(self._running.pop(number), force=True)

    def _next(self, number: int, stream: Any) -> TaskEvent:
        try:
            event: TaskEvent = ray.get(next(stream))
        except RayTaskError as error:  # of what leads to the task: the task's own exceptions are messages
            event = Failed(OptionsError(f"a node cannot run tasks: {_last_line(error)}; is the same package on it?"))
        except (RayError, StopIteration) as error:
            event = Lost(f"the worker was lost ({type(error).__name__}: {_first_sentence(error)})")
        if isinstance(event, Done | Failed | Lost):
            del self._running[number]
        return event


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:300]


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:200]


@dataclass(frozen=True)
class _Kept:
    """What a process of a node keeps from task to task; the folder goes with the process, even where that is killed."""

    servant: Servant[Any]
    folder: Path
    remover: subprocess.Popen[bytes]


_kept: dict[str, _Kept] = {}
"""In a process of a node, by the run that it works for."""


def _keep(token: str, box: Sequence[Any], wanted: str) -> _Kept:
    if token not in _kept:
        if version() != wanted:
            raise OptionsError(f"this node has secateur {version()}, and the command that gives the tasks has {wanted}")
        servant = ray.get(box[0])
        here = ray.get_runtime_context().get_node_id()
        beside = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == here)
        servant.prepare(max(1, int(beside)))
        folder = tempfile.mkdtemp(prefix="secateur-")
        # an orphan, since Ray kills children: it reads the end of a pipe when this process ends, in whatever way
        remove = ["sh", "-c", 'exec 3<&0; { read _ <&3; rm -rf -- "$0"; } &', folder]
        remover = subprocess.Popen(remove, stdin=subprocess.PIPE, start_new_session=True)
        remover.wait()
        _kept[token] = _Kept(servant, Path(folder), remover)
    return _kept[token]


def _serve(
    token: str, box: Sequence[Any], wanted: str, task: Any, files: Sequence[tuple[Path, Path]], *contents: bytes
) -> Iterator[TaskEvent]:
    """On a node: what `perform` tells of a task, with its files in a folder; always at the same place, since networks
    are kept by their path."""
    kept = _keep(token, box, wanted)
    places = {}
    for (main, path), data in zip(files, contents, strict=True):
        below = hashlib.sha256(str(main.parent).encode()).hexdigest()[:16]
        place = kept.folder / below / path.relative_to(main.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        places[path] = place
    moved = kept.servant.moved(task, places, kept.folder)
    for event in _streamed(kept.servant, moved):
        yield Said(kept.servant.back(event.message, task, moved)) if isinstance(event, Said) else event
    for left in kept.folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _streamed(servant: Servant[T], task: T) -> Iterator[TaskEvent]:
    """The events of a task as they come: it runs in a thread, since a stream is asked for its next event."""
    events: queue.SimpleQueue[TaskEvent] = queue.SimpleQueue()
    thread = threading.Thread(target=perform, args=(servant, task, events.put), daemon=True)
    thread.start()
    while True:
        event = events.get()
        yield event
        if isinstance(event, Done | Failed):
            return
