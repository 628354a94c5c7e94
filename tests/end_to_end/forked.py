"""The command in a process of its own that is forked from one in which all that it imports has been imported before:
on a small network the imports are nine tenths of the time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

PRELOADED = ["verifier.command.tasks", "verifier.engine", "onnxruntime", __name__]


def command(arguments: Sequence[str], folder: Path, streams: Sequence[Path]) -> None:
    """What `verify` does from its console script on; `streams` are for what it prints."""
    from verifier.command import verify

    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["verify", *arguments]
    verify.run()


def verify(arguments: Sequence[str], folder: Path, own: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs it in `folder`; what it prints is kept in the folder `own`."""
    server = get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    streams = [own / "stdout", own / "stderr"]
    process = server.Process(target=command, args=(arguments, folder, streams))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(list(arguments), timeout)
    code = process.exitcode
    process.close()
    assert code is not None
    out, err = (path.read_text(encoding="utf-8") for path in streams)
    return subprocess.CompletedProcess(list(arguments), code, out, err)
