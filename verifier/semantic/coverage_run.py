"""One coverage run from a family to its files and lines: what `secateur coverage` and `verify --coverage` share."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from verifier.budget import Budget
from verifier.errors import OptionsError
from verifier.executors.executor import Executor
from verifier.files.whole import make_folder
from verifier.progress import StatusLine
from verifier.semantic import coverage_report
from verifier.semantic.coverage_report import Coverage
from verifier.semantic.coverage_search import CoverageLimits, State, audit, cover
from verifier.semantic.family import Family
from verifier.semantic.spread import CoverageTask, cover_spread

EXIT_DONE, EXIT_INTERRUPTED = 0, 130
PICTURES = (".png", ".pdf", ".svg")
SAMPLES = 500
"""Points per member that look for a contradiction, unless another number is asked for."""


@dataclass(frozen=True)
class CoverageFiles:
    """Where a run writes: figures, cells, a picture; `checkpoint` is saved while running and gone on from."""

    json: Path | None = None
    npz: Path | None = None
    picture: Path | None = None
    checkpoint: Path | None = None

    @property
    def all(self) -> tuple[Path | None, ...]:
        """Every file that is written over; a checkpoint is read as well, and has to be one."""
        return self.json, self.npz, self.picture, self.checkpoint

    @staticmethod
    def named(target: str) -> CoverageFiles:
        """The files for one argument: nothing, a file (its ending says which), or a folder for all three.

        A folder that does not exist is made when the run writes; its parent has to exist.
        """
        if not target:
            return CoverageFiles()
        path = Path(target)
        suffix = path.suffix.lower()
        if path.is_dir() or not suffix:
            return CoverageFiles(*(path / f"coverage{ending}" for ending in (".json", ".npz", ".png")))
        if suffix == ".json":
            return CoverageFiles(json=path)
        if suffix == ".npz":
            return CoverageFiles(npz=path)
        if suffix in PICTURES:
            return CoverageFiles(picture=path)
        raise OptionsError(
            f"{path}: found the ending '{suffix}', expected a folder, or .json, .npz, .png, .pdf or .svg"
        )

    def check(self, folder: bool = False) -> None:
        """OptionsError if a folder is missing or the picture's ending unknown; with `folder` theirs can come later."""
        for path in filter(None, self.all):
            place = path.parent.parent if folder and not path.parent.exists() else path.parent
            if not place.is_dir():
                raise OptionsError(f"{path}: the folder {place} does not exist")
        if self.picture is not None and self.picture.suffix.lower() not in PICTURES:
            raise OptionsError(f"{self.picture}: found the ending '{self.picture.suffix}', expected .png, .pdf or .svg")


def run(
    family: Family,
    files: CoverageFiles,
    limits: CoverageLimits,
    budget: Budget,
    *,
    tolerance: float | None = None,
    measure: str | None = None,
    samples: int = SAMPLES,
    batch: int | None = None,
    quiet: bool = False,
    prove: Callable[[State], Fraction] | None = None,
    executor: Executor[CoverageTask] | None = None,
) -> int:
    """Searches, looks for contradictions, writes the files, prints a line per member; returns the exit code.

    `tolerance` and `measure` are for the picture, see `coverage_report.collect`; `prove` writes a proof of the
    certified cells and says which share it covers; `executor` is where members are searched, if not here.

    Raises:
        UnsoundError: a sample contradicts a certified or a refuted cell.
        OptionsError: a picture was asked for, but not two inputs vary.
        OutputError: a file cannot be written.
        ProblemError: the checkpoint is damaged or belongs to another problem.
    """
    if files.picture is not None and family.inputs != 2:
        named = ", ".join(family.names)
        raise OptionsError(
            f"{files.picture}: a map needs two varying inputs, found {family.inputs} ({named}); give ranges of two, or "
            "leave the picture out: --json and --npz hold areas and cells of any number"
        )
    mark = coverage_report.fingerprint(family)
    state = _search(family, files.checkpoint, mark, limits, budget, batch, quiet, executor)
    if state.ended:
        print(f"stopped: {state.ended}", file=sys.stderr)
    audit(family, state, samples)
    found = coverage_report.collect(family, state, maps=files.picture is not None, tolerance=tolerance, measure=measure)
    _write(files, found, state, limits, mark)
    _print(found)
    if prove is not None:
        print(f"proof: covers {float(prove(state)):.6f}")
    return EXIT_INTERRUPTED if budget.stopped else EXIT_DONE


def _search(
    family: Family,
    checkpoint: Path | None,
    mark: str,
    limits: CoverageLimits,
    budget: Budget,
    batch: int | None,
    quiet: bool,
    executor: Executor[CoverageTask] | None,
) -> State:
    state: State | None = None
    save = None
    if checkpoint is not None:
        if checkpoint.exists():
            state = coverage_report.load_state(checkpoint, family, mark)

        def save(current: State) -> None:
            coverage_report.save_state(checkpoint, current, mark)

    line = StatusLine(sys.stderr)
    line.enabled = line.enabled and not quiet
    with executor or contextlib.nullcontext(), _interruptible(budget):
        if executor is None:
            state = cover(family, limits, budget, state, save, line.show, batch)
        else:
            state = cover_spread(executor, family, limits, budget, state, save, line.show)
    line.clear()
    return state


@contextlib.contextmanager
def _interruptible(budget: Budget) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the search at its next step; what is known by then is reported."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, lambda *_: budget.stop("interrupted"))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remaining(timeout: float | None, started: float, memory: int | None = None) -> Budget:
    """The budget left of `timeout` seconds since the monotonic time `started`, with `memory` bytes."""
    return Budget.of(None if timeout is None else max(0.0, timeout - (time.monotonic() - started)), memory)


def _write(files: CoverageFiles, found: list[Coverage], state: State, limits: CoverageLimits, mark: str) -> None:
    for path in filter(None, (files.json, files.npz, files.picture)):
        make_folder(path.parent, parents=False)
    if files.json is not None:
        settings: dict[str, object] = {
            "stopped_at_open_share": limits.open_share,
            "depth": limits.depth,
            "fingerprint": mark,
        }
        coverage_report.write_json(files.json, found, settings)
    if files.npz is not None:
        coverage_report.save_state(files.npz, state, mark)
    if files.picture is not None:
        from verifier.semantic import coverage_picture

        if len(found) == 1:
            coverage_picture.picture(found[0], files.picture)
        else:
            coverage_picture.contact_sheet(found, files.picture)


def _print(found: list[Coverage]) -> None:
    for one in found:
        print(
            f"{one.title}: certified {float(one.certified):.6f}, refuted {float(one.refuted):.6f}, "
            f"open {float(one.open):.6f}"
            f" ({one.boxes} boxes, {one.seconds:.2f} s){_rectangle(one)}"
        )
    if len(found) > 1:
        mean = sum(float(one.certified) for one in found) / len(found)
        print(f"mean certified {mean:.4f}, in full {sum(one.certified == 1 for one in found)} of {len(found)}")


def _rectangle(one: Coverage) -> str:
    if one.rectangle is None:
        return ""
    sides = " x ".join(f"{n} [{a:.4g}, {b:.4g}]" for n, (a, b) in zip(one.names, one.rectangle, strict=True))
    return f"; largest certified rectangle {sides}"
