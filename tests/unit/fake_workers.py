"""Workers for the list runner without an engine; what a job does is in its names."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from verifier.command.worker import Job, Outcome
from verifier.errors import ModelError


@dataclass
class FakeWorker:
    """`log` collects a line per started process and job, `pause` makes every job take that long."""

    log: Path
    pause: float = 0.0

    def prepare(self) -> None:
        self._note("process")
        with self.log.with_name("pids").open("a") as stream:
            stream.write(f"{os.getpid()}\n")

    def solve(self, job: Job) -> Outcome:
        self._note(job.vnnlib)
        time.sleep(self.pause)
        match job.onnx:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise RuntimeError("two\nlines")
            case "refuse":
                raise ModelError("not a network")
            case "sat":
                return Outcome("sat", 0.25, "found", "((X_0 1.0)\n (Y_0 2.0))\n")
        return Outcome("unsat", 0.5, "proven")

    def _note(self, text: str) -> None:
        with self.log.open("a") as stream:
            stream.write(text + "\n")


@dataclass
class BrokenWorker:
    """Dies before it is ready."""

    def prepare(self) -> None:
        os._exit(7)

    def solve(self, job: Job) -> Outcome:
        raise AssertionError("never ready")


def jobs(*names: str, timeout: float = 60.0) -> list[Job]:
    return [Job("cat", onnx, f"p{i}.vnnlib", Path(onnx), Path(f"p{i}"), timeout) for i, onnx in enumerate(names)]
