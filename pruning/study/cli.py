"""`secateur compare`: certified coverage of networks, a whole study, or result files of any verifiers side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.study.errors import StudyFileError
from pruning.study.spec import CLOCKS, PROPERTIES, RECTANGLES, Spec, Task
from verifier.console.arguments import SHARE, NamedSpan, Parser, share, tolerance
from verifier.console.outputs import keep_inputs
from verifier.data import networks
from verifier.data import options as shared
from verifier.errors import SecateurError

if TYPE_CHECKING:
    from rich.console import Console

    from pruning.study.hands import Hands

Factory = Callable[[Task, "Spec | None"], "Hands"]
"""Makes the callables of `hands.Hands` for a task; with the study where networks have to be made too."""

WRITTEN = ("study.json", "results.jsonl", "networks.jsonl", "summary.json", "report.html")
"""What a run writes into its folder, pictures and networks of its own aside."""

EPILOG = f"""\
examples:
  secateur compare dense.onnx pruned.onnx --data aircraft23 --images 100
  secateur compare --study benchmarks/studies/small.yaml --out out/small      (again: goes on where it stopped)
  secateur compare --report out/small                                         (tables and report only)
  secateur compare --results ours=a.csv theirs=b.csv --truth instances.csv

Result files (--results) are VNN-COMP's: category,onnx,vnnlib,prepare_seconds,result,run_seconds. Points by the rules of
2025: right 10, wrong -150. Without witness files the truth is the list given with --truth; else what all tools that
answered say; else, where they contradict each other, the majority (a guess, and marked so); else it stays open.

{shared.DATA}
exit codes: 0 done, 1 --check and a condition did not pass or is not measured, 2 error,
130 interrupted (run again to go on)
"""


def parser() -> Parser:
    """The options of `secateur compare`."""
    p = Parser("secateur compare", __doc__, EPILOG)
    p.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL.onnx",
        help="networks, or shipped names; the first is the baseline",
    )
    what = p.add_mutually_exclusive_group()
    what.add_argument("--study", type=Path, metavar="FILE.yaml", help="run or go on with a whole study")
    what.add_argument("--report", type=Path, metavar="DIR", help="rebuild tables and report from the results in DIR")
    what.add_argument("--results", nargs="+", metavar="[NAME=]FILE.csv", help="compare result files of any verifiers")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of results and report (default: out/compare)")
    images = p.add_argument_group("images (with models)")
    shared.add_data(images)
    images.add_argument("--images", metavar="N|A:B|A,B,C", help=f"{shared.IMAGES} (default: at most 100)")
    images.add_argument("--property", choices=PROPERTIES, help="default: as network and truth are; see coverage --help")
    images.add_argument("--reference", choices=("gt", "self"), default="gt", help="truth, or the clean prediction")
    shared.add_network(p.add_argument_group("the networks"))
    images.add_argument(
        "--tau", type=share, metavar="T", help="tolerance, share of the width: 0.03 or 3%% (the default)"
    )
    images.add_argument("--tolerance", type=tolerance, dest="tau", metavar="T", help="the same, pixels: 2 or 2px")
    names = ", ".join(RECTANGLES)
    images.add_argument("--rectangle", "--semantic", default="medium", help=f"{names} or ranges (default: medium)")
    for name in ("contrast", "brightness"):
        images.add_argument(
            f"--{name}",
            action=NamedSpan,
            dest="rectangle",
            default="medium",
            metavar="LOW,HIGH",
            help="of it",
        )
    images.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds per image (default: 60)")
    images.add_argument("--clock", choices=CLOCKS, default="wall", help="count wall or processor time (default: wall)")
    images.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="cpu", help="where to search (default: cpu)"
    )
    images.add_argument("--memory", type=float, metavar="GB", help="host memory that a search may take")
    more = p.add_argument_group("output")
    more.add_argument("--truth", type=Path, metavar="FILE.csv", help="with --results: list with a column 'expected'")
    more.add_argument("--json", type=Path, metavar="FILE", help="with --results: write everything as JSON")
    more.add_argument("--cactus", type=Path, metavar="FILE", help="with --results: draw it (.svg, .pdf or .png)")
    more.add_argument("--overall", action="store_true", help="with --results: leave out the tables per category")
    more.add_argument("--no-report", action="store_true", help="print the tables, write no HTML")
    more.add_argument("--check", action="store_true", help="exit 1 unless the success criterion is met")
    return p


def main(argv: Sequence[str] | None = None, factory: Factory | None = None) -> int:
    """The command. factory: where training, pruning and verification come from (default: this package's own)."""
    options = parser().parse_args(argv)
    try:
        return _dispatch(options, factory)
    except SecateurError as error:
        print(f"secateur compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("secateur compare: interrupted; every result so far is kept, run the same command again", file=sys.stderr)
        return 130


def _dispatch(options: argparse.Namespace, factory: Factory | None) -> int:
    chosen = [name for name in ("study", "report", "results") if getattr(options, name)]
    if bool(options.models) == bool(chosen):
        found = f"both networks and --{chosen[0]}" if chosen else "nothing to compare"
        raise StudyFileError(f"{found}; give networks, or one of --study, --report, --results (see --help)")
    _refuse_unused(options, chosen[0] if chosen else "models")
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
    "study": {"images", "device", "memory", "out", "no_report", "check"},
    "report": {"no_report", "check"},
    "results": {"timeout", "truth", "json", "cactus", "overall"},
}


def _refuse_unused(options: argparse.Namespace, what: str) -> None:
    """What a kind of comparison cannot honour is not ignored.

    Raises:
        StudyFileError: such an option is given.
    """
    plain, given = vars(parser().parse_args([])), vars(options)
    for name in (name for name in given if given[name] != plain[name]):
        if (name in _USED["results"] - {"timeout"}) if what == "models" else name not in {what, *_USED[what]}:
            told = "networks" if what == "models" else f"--{what}"
            raise StudyFileError(f"--{name.replace('_', '-')} has no meaning with {told}; leave it out")


def _inputs(options: argparse.Namespace) -> Iterator[Path | str | None]:
    from verifier.graph.onnx_import.source import files_of

    yield from (options.data, options.study, options.truth)
    if options.data is not None:
        from verifier.data.source import files_read

        yield from files_read(options.data, options.pictures)
    for model in options.models:
        yield from files_of(networks.find(model))
    for result in options.results or ():
        yield from (result, result.partition("=")[2] or None)


def _run_study(options: argparse.Namespace, folder: Path, factory: Factory | None) -> None:
    from pruning.study import runner, spec
    from pruning.study.terminal import progress_told

    study = spec.load(options.study)
    if options.images is not None:
        if not options.images.isdecimal() or int(options.images) < 1:
            raise StudyFileError(f"--images {options.images}; a study takes N, the first N of its images")
        study = spec.with_images(study, int(options.images))
    study = replace(study, task=replace(study.task, device=options.device, memory=options.memory))
    hands = (factory or _own())(study.task, study)
    with progress_told(sys.stderr) as tell:
        runner.run(study, folder, hands, tell, lambda text: print(text, file=sys.stderr, flush=True))


def _run_models(options: argparse.Namespace, folder: Path, factory: Factory | None) -> None:
    from pruning.study import runner
    from pruning.study.terminal import progress_told

    if not options.data:
        raise StudyFileError("no images named; add --data aircraft23, or a folder, FILE.npz or COCO.json of yours")
    limit = 60.0 if options.timeout is None else options.timeout
    models = [networks.find(model) for model in options.models]
    task = Task(
        options.data, _tau(options, models), options.rectangle, limit, options.clock, options.crop,
        str(options.pictures or ""), options.layout, options.channels, options.mean, options.std, options.output_scale,
        options.output_shift, options.reference, options.property or "", options.device, options.memory,
    )  # fmt: skip
    hands = (factory or _own())(task, None)
    chosen = shared.chosen(options.images, hands.count(), 100)
    for model in models:
        if not model.is_file():
            raise StudyFileError(f"{model}: no such file; expected an ONNX network")
    for text in hands.describe(models, chosen) if hands.describe is not None else ():
        print(text, file=sys.stderr)
    with progress_told(sys.stderr) as tell:
        runner.compare(models, chosen, task, folder, hands, tell)


def _tau(options: argparse.Namespace, models: Sequence[Path]) -> float:
    """The tolerance as a share of the width; pixels need the networks' width, which has to be the same."""
    if options.tau is None:
        return Task.tau
    if options.tau.unit == SHARE:
        return float(options.tau.value)
    from pruning.study.wiring import widths

    found = widths(models, options.layout, options.channels)
    if len(set(found)) != 1:
        raise StudyFileError(f"a tolerance in pixels: the networks take images {found} pixels wide; give a share (3%)")
    return float(options.tau.share(found[0]))


def _show(options: argparse.Namespace, folder: Path) -> int:
    from pruning.study import analysis, goals, report
    from pruning.study.terminal import print_analysis

    found = analysis.of_folder(folder)
    console = _console()
    print_analysis(found, console)
    if not options.no_report:
        console.print(f"report: {report.write(found, folder)}", markup=False, highlight=False, soft_wrap=True)
    return int(bool(options.check) and goals.verdict(found.criterion) is not goals.Outcome.PASS)


def _results(options: argparse.Namespace) -> int:
    from pruning.study.terminal import print_comparison
    from pruning.study.tools import output, results, scoring, truth

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
    from importlib.util import find_spec

    if find_spec("pruning.study.wiring") is None:
        raise StudyFileError(
            "this installation cannot verify images (pruning.study.wiring is missing); --report and --results work"
        )
    from importlib import import_module

    factory: Factory = import_module("pruning.study.wiring").hands
    return factory


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)  # piped tables are not folded at 80 columns


if __name__ == "__main__":
    sys.exit(main())
