"""What `secateur compare` does with its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pruning.study import analysis, goals, runner, spec
from pruning.study.errors import StudyFileError
from pruning.study.hands import Hands
from pruning.study.spec import Study, VerificationTask
from pruning.study.terminal import print_analysis, print_comparison, progress_told
from pruning.study.tools import output, results, scoring, truth
from verifier.console.arguments import SHARE
from verifier.console.outputs import keep_inputs
from verifier.data import networks
from verifier.data import options as shared
from verifier.data.source import files_read
from verifier.executors.options import can_run, cluster, wanted
from verifier.graph.onnx_import.source import files_of

Factory = Callable[[VerificationTask, Study | None], Hands]
"""Makes the callables of `hands.Hands` for a task; with the study where networks have to be made too."""

WRITTEN = ("study.json", "results.jsonl", "networks.jsonl", "summary.json", "report.html")
"""What a run writes into its folder, pictures and networks of its own aside."""


def run(options: argparse.Namespace, plain: argparse.Namespace, factory: Factory | None) -> int:
    """Everything between arguments and exit code; `plain`: those of a call without any. Raises SecateurError."""
    chosen = [name for name in ("study", "report", "results") if getattr(options, name)]
    if bool(options.models) == bool(chosen):
        found = f"both networks and --{chosen[0]}" if chosen else "nothing to compare"
        raise StudyFileError(f"{found}; give networks, or one of --study, --report, --results (see --help)")
    _refuse_unused(options, plain, chosen[0] if chosen else "models")
    can_run(options)
    if options.results:
        return _results(options)
    if options.report:
        return _show(options, options.report)
    folder = options.out or Path("out/compare")
    keep_inputs((folder / name for name in WRITTEN), _inputs(options))
    if options.study:
        _run_study(options, folder, factory)
    else:
        _run_models(options, folder, factory)
    return _show(options, folder)


_USED = {
    "study": {"images", "device", "memory", "engine", "address", "out", "no_report", "check"},
    "report": {"no_report", "check"},
    "results": {"timeout", "truth", "json", "cactus", "overall"},
}


def _refuse_unused(options: argparse.Namespace, plain: argparse.Namespace, what: str) -> None:
    """What a kind of comparison cannot honour is not ignored.

    Raises:
        StudyFileError: such an option is given.
    """
    defaults, given = vars(plain), vars(options)
    for name in (name for name in given if given[name] != defaults[name]):
        if (name in _USED["results"] - {"timeout"}) if what == "models" else name not in {what, *_USED[what]}:
            told = "networks" if what == "models" else f"--{what}"
            raise StudyFileError(f"--{name.replace('_', '-')} has no meaning with {told}; leave it out")


def _inputs(options: argparse.Namespace) -> Iterator[Path | str | None]:
    yield from (options.data, options.study, options.truth)
    if options.data is not None:
        yield from files_read(options.data, options.pictures)
    for model in options.models:
        yield from files_of(networks.find(model))
    for result in options.results or ():
        yield from (result, result.partition("=")[2] or None)


def _run_study(options: argparse.Namespace, folder: Path, factory: Factory | None) -> None:
    study = spec.load(options.study)
    if options.images is not None:
        if not options.images.isdecimal() or int(options.images) < 1:
            raise StudyFileError(f"--images {options.images}; a study takes N, the first N of its images")
        study = spec.with_images(study, int(options.images))
    study = replace(study, task=replace(study.task, device=options.device, memory=options.memory))
    hands = _where(options, (factory or _own())(study.task, study), study.task)
    with progress_told(sys.stderr) as tell:
        runner.run(study, folder, hands, tell, lambda text: print(text, file=sys.stderr, flush=True))


def _run_models(options: argparse.Namespace, folder: Path, factory: Factory | None) -> None:
    if not options.data:
        raise StudyFileError("no images named; add --data aircraft23, or a folder, FILE.npz or COCO.json of yours")
    limit = 60.0 if options.timeout is None else options.timeout
    models = [networks.find(model) for model in options.models]
    task = VerificationTask(
        options.data, _tau(options, models), options.rectangle, limit, options.clock, options.crop,
        str(options.pictures or ""), options.layout, options.channels, options.mean, options.std, options.output_scale,
        options.output_shift, options.reference, options.property or "", options.device, options.memory,
    )  # fmt: skip
    hands = _where(options, (factory or _own())(task, None), task)
    chosen = shared.chosen(options.images, hands.count(), 100)
    for model in models:
        if not model.is_file():
            raise StudyFileError(f"{model}: no such file; expected an ONNX network")
    for text in hands.describe(models, chosen) if hands.describe is not None else ():
        print(text, file=sys.stderr)
    with progress_told(sys.stderr) as tell:
        runner.compare(models, chosen, task, folder, hands, tell)


def _where(options: argparse.Namespace, hands: Hands, task: VerificationTask) -> Hands:
    """The hands, with a cluster for verification where one is asked for."""
    if not wanted(options):
        return hands
    from pruning.study.wiring import on_cluster

    return on_cluster(hands, task, lambda asking: cluster(options, asking, task.device, task.memory))


def _tau(options: argparse.Namespace, models: Sequence[Path]) -> float:
    """The tolerance as a share of the width; pixels need the networks' width, which has to be the same."""
    if options.tau is None:
        return VerificationTask.tau
    if options.tau.unit == SHARE:
        return float(options.tau.value)
    from pruning.study.wiring import widths

    found = widths(models, options.layout, options.channels)
    if len(set(found)) != 1:
        raise StudyFileError(f"a tolerance in pixels: the networks take images {found} pixels wide; give a share (3%)")
    return float(options.tau.share(found[0]))


def _show(options: argparse.Namespace, folder: Path) -> int:
    from pruning.study import report  # Matplotlib

    found = analysis.of_folder(folder)
    console = _console()
    print_analysis(found, console)
    if not options.no_report:
        console.print(f"report: {report.write(found, folder)}", markup=False, highlight=False, soft_wrap=True)
    return int(bool(options.check) and goals.verdict(found.criterion) is not goals.GoalOutcome.PASS)


def _results(options: argparse.Namespace) -> int:
    keep_inputs((options.json, options.cactus), _inputs(options))
    if options.timeout is not None and not 0 < options.timeout < float("inf"):
        raise StudyFileError(f"--timeout {options.timeout}; expected seconds above 0")
    tools = results.read_all(options.results)
    known = truth.read(options.truth) if options.truth else {}
    comparison = scoring.compare(tools, known, options.timeout)
    print_comparison(comparison, _console(), not options.overall)
    if options.json:
        output.write_json(comparison, options.json)
    if options.cactus:
        output.write_cactus(comparison, options.cactus)
    return 0


def _own() -> Factory:
    from pruning.study.wiring import hands  # PyTorch, training and verification

    return hands


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)  # piped tables are not folded at 80 columns
