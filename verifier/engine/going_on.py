"""A run that goes on from a checkpoint, and what has to be the same for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from verifier.console.arguments import version
from verifier.files.whole import AnyPath
from verifier.graph.onnx_import.source import files_of
from verifier.options import Options, dotted
from verifier.result import Result
from verifier.search.checkpoint import Checkpoint, digest

FREE = (
    *("device", "seed", "timeout", "memory", "deterministic", "checkpoint_every"),
    *("search.batch", "search.processes", "attack"),
)
"""Options that may be others when a search is gone on with: what has been proven does not depend on them."""


def with_checkpoint(
    files: tuple[AnyPath, AnyPath, AnyPath], options: Options, run: Callable[[Checkpoint], Result]
) -> Result:
    """A run that goes on from a checkpoint if it is there, and leaves it there if there is something to go on with;
    `files` are checkpoint, model and specification.

    Raises:
        ProblemError: see `Checkpoint`.
    """
    path, model, spec = files
    given = {name: value for name, value in dotted(options.to_mapping()).items() if not name.startswith(FREE)}
    problem = {
        "version": version(),
        "model sha256": digest(files_of(model)),
        "specification sha256": digest([spec if Path(spec).exists() else f"{spec}.gz"]),
        **{f"option {name}": value for name, value in given.items()},
    }
    kept = Checkpoint(path, problem, options.checkpoint_every)
    result = run(kept)
    why = kept.close(result.verdict.settled)
    return replace(result, reason=f"{result.reason}; {why}") if why else result
