"""Makes the networks of a study, each once: train, prune in stages with fine-tuning between, or start from scratch.

Total training is the same for every arm but `dense`: budget.train epochs, then budget.finetune (split over the stages).
A finished network is renamed into place and then listed, with its hash, in `networks.jsonl`. Where the study names a
trained network for a seed (`dense`), it is copied instead of trained.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.planning import stages
from pruning.study.errors import ResultsError, StudyFileError
from pruning.study.hands import FineTune, Hands, Prune, Size, Train
from pruning.study.ledger import json_lines, opened
from pruning.study.plan import NetworkJob
from pruning.study.spec import Study
from pruning.study.words import duration
from verifier.files.whole import make_folder, move
from verifier.graph.onnx_import.source import files_of, read_model
from verifier.progress import Say

MAX_GIVEN = 1 << 30  # bytes of a given network


@dataclass(frozen=True)
class StudyNetwork:
    """A finished network: where it is, what it is, how big, and how long it took to make.

    source: the file it was copied from, where the study was given a trained network.
    """

    name: str
    path: Path
    sha256: str
    arm: str
    criterion: str
    ratio: float | None
    seed: int
    draw: int
    size: Size
    seconds: float
    source: str = ""


def build(spec: Study, jobs: list[NetworkJob], folder: Path, hands: Hands, say: Say) -> list[StudyNetwork]:
    """All networks of the plan; those already made are checked against their hash and kept."""
    make_folder(folder)
    lines = json_lines(_encode, lambda v: _decode(v, folder), lambda m: m.name)
    with opened(folder / "networks.jsonl", lines) as ledger:
        done = {model.name: model for model in ledger.rows}
        for number, job in enumerate(jobs, 1):
            if job.name in done:
                _unchanged(done[job.name])
                _same_source(spec, job, done[job.name])
                continue
            say(f"network {number} of {len(jobs)}: {job.name}{_left(jobs[number - 1 :], done)}")
            done[job.name] = _make(spec, job, folder, hands)
            ledger.append(done[job.name])
    return [done[job.name] for job in jobs if job.shown]


def given(paths: list[Path], hands: Hands) -> list[StudyNetwork]:
    """Networks that exist already, each an arm of its own (or what the record of `prune` beside it says)."""
    models = []
    for path in paths:
        if not path.is_file():
            raise StudyFileError(f"{path}: no such file; expected an ONNX network")
        record = _record(path)
        name = path.stem if [p.stem for p in paths].count(path.stem) == 1 else str(path)
        criterion, ratio = record.get("criterion", ""), record.get("ratio")
        ratio = float(ratio) if isinstance(ratio, int | float) else None
        models.append(
            StudyNetwork(name, path, digest(path), name, str(criterion), ratio, 0, 0, hands.measure(path), 0.0)
        )
    if len({m.name for m in models}) < len(models):
        raise StudyFileError("the same network is named twice; name each once")
    return models


def digest(path: Path) -> str:
    """sha256 of a network, the weights beside it included; of a single file its own."""
    return hashlib.sha256(whole(path)).hexdigest()


def whole(path: Path) -> bytes:
    """A network as one file: as it is, or with the weights that lie beside it inside."""
    return path.read_bytes() if len(files_of(path)) == 1 else read_model(path).data


def _make(spec: Study, job: NetworkJob, folder: Path, hands: Hands) -> StudyNetwork:
    work = folder / "work" / job.name
    make_folder(work)
    out, fresh = folder / f"{job.name}.onnx", work / "finished.onnx"
    started = time.monotonic()
    source = _source(spec, job)
    if source:
        _copy(Path(source), fresh)
    elif job.kind == "train":
        _need(hands.train, Train)(seed=job.seed, epochs=spec.budget.train, like=None, work=work, out=fresh)
    elif job.kind == "scratch":
        assert job.like is not None
        like, tuned = folder / f"{job.like}.onnx", spec.budget.finetune if job.certified else 0.0
        begun = work / "begun.onnx" if tuned else fresh
        total = spec.budget.train + spec.budget.finetune - tuned
        _need(hands.train, Train)(seed=_seed(job), epochs=total, like=like, work=work, out=begun)
        if tuned:
            _tune(job, begun, tuned, hands, work, fresh)
    elif job.kind == "tune":
        _tune(job, folder / f"{job.parent}.onnx", spec.budget.finetune, hands, work, fresh)
    else:
        _prune(spec, job, folder, hands, work, fresh)
    if not fresh.is_file():
        raise ResultsError(f"{job.name}: the step that should make it ended without writing {fresh}")
    move(fresh, out)
    size, seconds = hands.measure(out), round(time.monotonic() - started, 3)
    return StudyNetwork(
        job.name, out, digest(out), job.arm, job.criterion, job.ratio, job.seed, job.draw, size, seconds, source
    )


def _tune(job: NetworkJob, model: Path, epochs: float, hands: Hands, work: Path, out: Path) -> None:
    finetune = _need(hands.finetune, FineTune)
    finetune(model=model, seed=_seed(job), epochs=epochs, certified=job.certified, work=work, out=out)


def _source(spec: Study, job: NetworkJob) -> str:
    """The given file that is this network; empty where it has to be made."""
    return spec.dense.get(job.seed, "") if job.kind == "train" else ""


def _copy(source: Path, out: Path) -> None:
    try:
        size = sum(file.stat().st_size for file in files_of(source))
        if size > MAX_GIVEN:
            raise StudyFileError(
                f"dense: {source} has {size} bytes; expected a network of at most {MAX_GIVEN >> 20} MiB"
            )
        out.write_bytes(whole(source))
    except OSError as error:
        raise StudyFileError(f"dense: {source}: cannot copy the trained network: {error.strerror or error}") from None


def _same_source(spec: Study, job: NetworkJob, model: StudyNetwork) -> None:
    source = _source(spec, job)
    if bool(source) != bool(model.source) or (
        source and Path(source).is_file() and digest(Path(source)) != model.sha256
    ):
        raise ResultsError(
            f"{model.path}: was {f'copied from {model.source}' if model.source else 'trained here'}, the study now "
            f"{f'names {source}, which differs' if source else 'wants it trained'}; choose another folder with --out"
        )


def _prune(spec: Study, job: NetworkJob, folder: Path, hands: Hands, work: Path, out: Path) -> None:
    assert job.ratio is not None
    prune = _need(hands.prune, Prune)
    current = folder / f"{job.parent}.onnx"
    epochs = spec.budget.finetune / (spec.stages + job.concentrated)
    for stage, (_, ratio) in enumerate(stages(job.ratio, spec.stages), 1):
        like = None if job.like is None else _like(spec, folder, job.like, stage)
        cut, tuned = _stage(work, stage, "cut"), _stage(work, stage, "tuned")
        prune(
            model=current, criterion=job.criterion, ratio=ratio, like=like, seed=_seed(job), work=work, out=cut,
            shared=job.shared, concentrate=epochs if job.concentrated else 0.0, certified=job.certified,
        )  # fmt: skip
        if epochs and (stage == spec.stages or not job.concentrated):
            _tune(job, cut, epochs, hands, work, tuned)
            cut = tuned
        current = cut
    out.write_bytes(current.read_bytes())


def _like(spec: Study, folder: Path, name: str, stage: int) -> Path:
    """The network whose widths a stage of a matched arm takes: the finished one at the last stage, which it hits, and
    before that the stages of the model itself."""
    if stage == spec.stages:
        return folder / f"{name}.onnx"
    like = _stage(folder / "work" / name, stage, "cut")
    if not like.is_file():
        raise ResultsError(
            f"{like}: found no such file, expected stage {stage} of {name}, whose widths it takes; put it back, or "
            f"make that network again: remove {name}.onnx and its line of networks.jsonl from {folder}"
        )
    return like


def _stage(work: Path, stage: int, what: str) -> Path:
    return work / f"stage{stage}-{what}.onnx"


def _seed(job: NetworkJob) -> int:
    # draws of one training seed differ, and no two seeds share a stream; nor does random-matched with random, of which
    # it would be a copy wherever the allocation gives all arms the same widths
    return job.seed * 1000 + job.draw + (500 if job.criterion == "random-matched" else 0)


def _left(jobs: list[NetworkJob], done: Mapping[str, StudyNetwork]) -> str:
    """Time left for these jobs, by the mean of what those of the same arm (else all) took so far."""
    if not done:
        return ""
    every = [model.seconds for model in done.values()]
    total = 0.0
    for job in jobs:
        same = [model.seconds for model in done.values() if model.arm == job.arm] or every
        total += sum(same) / len(same)
    return f", about {duration(total)} left for training and pruning"


def _need(hand: Any, kind: type) -> Any:
    if hand is None:
        raise StudyFileError(f"this study makes networks, but no '{kind.__name__}' was handed in; compare given files")
    return hand


def _unchanged(model: StudyNetwork) -> None:
    if not model.path.is_file():
        raise ResultsError(f"{model.path}: a finished network is gone; put it back, or start over in another folder")
    if digest(model.path) != model.sha256:
        raise ResultsError(f"{model.path}: the file has changed since it was made; its results would not be about it")


def _record(path: Path) -> Mapping[str, Any]:
    beside = path.with_suffix(".json")
    if not beside.is_file() or beside.stat().st_size > 1 << 26:
        return {}
    try:
        value = json.loads(beside.read_bytes())
    except (ValueError, RecursionError):
        return {}
    known = isinstance(value, dict) and str(value.get("tool", "")).startswith("secateur prune")
    return value if known else {}


def _encode(model: StudyNetwork) -> dict[str, Any]:
    return {**asdict(model), "path": model.path.name}


def _decode(value: Mapping[str, Any], folder: Path) -> StudyNetwork:
    given = dict(value)
    path = folder / Path(str(given.pop("path"))).name
    return StudyNetwork(path=path, size=Size(**given.pop("size")), **given)
