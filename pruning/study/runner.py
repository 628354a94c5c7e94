"""Runs a study: makes its networks, then verifies image after image, one row per answer. Resumable anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pruning.study import details, row
from pruning.study.build import StudyNetwork, build, given
from pruning.study.errors import ResultsError
from pruning.study.hands import Hands, ImageAnswer
from pruning.study.ledger import Ledger, opened
from pruning.study.machine import machine, versions
from pruning.study.plan import jobs, schedule
from pruning.study.row import StudyRow
from pruning.study.spec import Study, VerificationTask
from verifier.errors import SecateurError
from verifier.files.whole import make_folder, write
from verifier.progress import Say

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class StudyProgress:
    """After each answer: how many rows there are and will be, and the seconds still to go (None at the start)."""

    done: int
    total: int
    seconds_left: float | None
    row: StudyRow | None


TellProgress = Callable[[StudyProgress], None]


def run(
    spec: Study, folder: Path, hands: Hands, tell: TellProgress = lambda _: None, say: Say = lambda _: None
) -> list[StudyRow]:
    """Run, or go on with, a whole study in `folder`; returns all its rows.

    Raises ResultsError if the folder holds another study. An error of a callable passes through; the
    rows before it stay.
    """
    make_folder(folder)
    _same_study(folder / "study.json", spec.fixed(), asdict(spec))
    models = build(spec, jobs(spec), folder / "networks", hands, say)
    return verify(models, spec.images, spec.task, folder, hands, spec.shuffle, tell)


def compare(
    paths: Sequence[Path],
    images: Sequence[int],
    task: VerificationTask,
    folder: Path,
    hands: Hands,
    tell: TellProgress = lambda _: None,
) -> list[StudyRow]:
    """The one-line form: verify given networks on the same images; the first is what the others are held against."""
    models = given(list(paths), hands)
    others = models[1].name if len(models) == 2 else f"{len(models) - 1} others"
    title = f"{models[0].name} and {others}" if len(models) > 1 else models[0].name
    whole = {"name": title, "files": [str(p) for p in paths], "baseline": models[0].name}
    with _nothing_left_of_a_false_start(folder):
        make_folder(folder)
        _same_study(folder / "study.json", {"task": task.record()}, whole)
        return verify(models, images, task, folder, hands, 0, tell)


@contextmanager
def _nothing_left_of_a_false_start(folder: Path) -> Iterator[None]:
    """Takes back what a run made that fails before its first result, so that the next may ask for something else."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    fresh = not (folder / "study.json").exists()
    try:
        yield
    except SecateurError:
        results = folder / RESULTS
        if fresh and not (results.exists() and results.stat().st_size):
            for path in (folder / "study.json", results):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # somebody else has put something there
                for place in made:
                    place.rmdir()
        raise


def verify(
    models: Sequence[StudyNetwork],
    images: Sequence[int],
    task: VerificationTask,
    folder: Path,
    hands: Hands,
    shuffle: int = 0,
    tell: TellProgress = lambda _: None,
) -> list[StudyRow]:
    """Verify every image with every network, interleaved; answers that are already in the file are not asked again."""
    by_name = {model.name: model for model in models}
    with opened(folder / RESULTS, row.LINES) as ledger:
        _same_networks(ledger, by_name, task)
        pairs = list(schedule(list(by_name), images, shuffle))
        left = [pair for pair in pairs if pair not in ledger]
        tell(StudyProgress(len(pairs) - len(left), len(pairs), None, None))
        started = time.monotonic()
        questions = [(by_name[name].path, image) for name, image in left]
        for count, (i, answer) in enumerate((hands.spread or partial(_in_turn, hands))(questions, task), 1):
            name, image = left[i]
            result = _row(by_name[name], image, task, answer)
            details.save(folder, name, image, answer.outcome)
            ledger.append(result)
            pace = (time.monotonic() - started) / count
            tell(StudyProgress(len(pairs) - len(left) + count, len(pairs), pace * (len(left) - count), result))
        wanted = set(pairs)
        return [r for r in ledger.rows if r.key in wanted]


def _in_turn(
    hands: Hands, pairs: Sequence[tuple[Path, int]], task: VerificationTask
) -> Iterator[tuple[int, ImageAnswer]]:
    for i, (path, image) in enumerate(pairs):
        yield i, ImageAnswer(hands.verify(path, image, task), versions(), machine())


def _row(model: StudyNetwork, image: int, task: VerificationTask, answer: ImageAnswer) -> StudyRow:
    outcome = answer.outcome
    result = StudyRow(
        name=model.name, network=model.sha256, arm=model.arm, criterion=model.criterion, ratio=model.ratio,
        seed=model.seed, draw=model.draw, data=task.data, image=image, tau=task.tau, rectangle=task.rectangle,
        timeout=task.timeout, verdict=outcome.verdict, certified=float(outcome.certified),
        refuted=float(outcome.refuted), open=float(outcome.open),
        sampled=None if outcome.sampled is None else float(outcome.sampled), seconds=round(float(outcome.seconds), 6),
        boxes=int(outcome.boxes), unstable=float(outcome.unstable), unstable_ratio=float(outcome.unstable_ratio),
        clean_error=float(outcome.clean_error), parameters=model.size.parameters, macs=model.size.macs,
        nonlinear=model.size.nonlinear, versions=answer.versions, machine=answer.machine, clock=task.clock,
        trace=tuple((round(float(seconds), 4), round(float(share), 9)) for seconds, share in outcome.trace),
    )  # fmt: skip
    try:
        row.check(result)
    except ValueError as error:
        raise ResultsError(
            f"network {model.name}, image {image}: the verifier's answer is impossible: {error}"
        ) from None
    return result


def _same_networks(ledger: Ledger[StudyRow], models: dict[str, StudyNetwork], task: VerificationTask) -> None:
    wanted = (task.data, task.tau, task.rectangle, task.timeout, task.clock)
    for held in ledger.rows:
        found = (held.data, held.tau, held.rectangle, held.timeout, held.clock)
        if found != wanted:
            raise ResultsError(
                f"{ledger.path}: holds results for (data, tau, rectangle, timeout, clock) = {found}, this run asks for "
                f"{wanted}; choose another folder with --out"
            )
        if held.name in models and held.network != models[held.name].sha256:
            raise ResultsError(
                f"{ledger.path}: its results for '{held.name}' are about another file (sha256 {held.network[:12]}, now "
                f"{models[held.name].sha256[:12]}); choose another folder with --out"
            )


def _same_study(path: Path, fixed: dict[str, Any], whole: dict[str, Any]) -> None:
    """Write what the study is on the first run; on later ones refuse a folder whose fixed part differs."""
    fixed = json.loads(json.dumps(fixed))
    if path.exists():
        try:
            held = json.loads(path.read_bytes())["fixed"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ResultsError(f"{path}: not the record of a study; choose another folder with --out") from None
        for key in sorted({*fixed, *held}):
            if fixed.get(key) != held.get(key):
                raise ResultsError(
                    f"{path.parent}: holds a study with {key} = {held.get(key)}, this one has {fixed.get(key)}; choose "
                    "another folder with --out"
                )
    write(path, json.dumps({"fixed": fixed, "whole": whole}, indent=1, default=str) + "\n")
