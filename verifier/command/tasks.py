"""What `verify` does with its arguments: one instance, its coverage, or a list."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import vnnlib
from verifier.api import Engine, load, read_spec, verify
from verifier.budget import Budget, memory_limit
from verifier.command import explanation, report
from verifier.console import about, process
from verifier.console.arguments import CommandParser
from verifier.console.guard import Guard
from verifier.console.outputs import keep_inputs
from verifier.console.process import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_VERDICT
from verifier.data import networks as shipped
from verifier.errors import OutputError, ProblemError
from verifier.executors import options as where
from verifier.executors.processes import Processes, cores
from verifier.files.whole import check_writable, write
from verifier.options import ROUNDING_IGNORED, Options, dotted, refuse_unused
from verifier.progress import History, Progress, StatusLine
from verifier.result import Result, Verdict
from vnnlib import Spec, parse_networks

if TYPE_CHECKING:
    from verifier.command.list_report import Report
    from verifier.command.worker import Job

MOST_COVERED = 3
"""Most varying inputs of --coverage: a search that does not stop at a counterexample has to cut all of the box."""


def _options(args: argparse.Namespace) -> Options:
    """Options of the file, then those of the command line."""
    options = Options.from_yaml(args.options) if args.options else Options()
    given = {name: getattr(args, name) for name in ("timeout", "memory", "device", "seed", "deterministic")}
    options = dataclasses.replace(options, **{name: value for name, value in given.items() if value is not None})
    if options.bounds.rounding == "ignored":  # with --quiet, too
        print(f"verify: warning: {ROUNDING_IGNORED}", file=sys.stderr)
    return options


def _on_all_cores(options: Options) -> Options:
    """With as many processes as OMP_NUM_THREADS says or there are cores, unless the options say."""
    if options.search.processes is not None:
        return options
    said = os.environ.get("OMP_NUM_THREADS", "")
    count = int(said) if said.isdecimal() else cores()
    return dataclasses.replace(options, search=dataclasses.replace(options.search, processes=max(1, count)))


def run_one(args: argparse.Namespace, started: float, engine: Engine | None = None) -> int:
    """One instance: verdict on stdout, files where they are asked for."""
    options = _on_all_cores(_options(args))
    written = args.results, args.json, args.proof, args.report, args.checkpoint
    keep_inputs(written, _inputs(args))
    for path in filter(None, written):
        check_writable(path, "the result" if path != args.checkpoint else "the checkpoint")
    history = History()
    process.keep_freed_memory()
    process.wait_without_spinning()
    process.keep_imports()
    deadline = Budget().deadline if options.timeout is None else started + options.timeout
    budget = Budget(deadline, memory_limit(options.memory))

    def last_words(reason: str) -> int:
        verdict = Verdict.UNKNOWN if budget.stopped else Verdict.TIMEOUT
        return _deliver(args, Result(verdict, reason, seconds=time.monotonic() - started), None, history)

    with Guard(budget, last_words):
        result, spec = _solve(args, options, budget, engine, history)
    return _deliver(args, dataclasses.replace(result, seconds=time.monotonic() - started), spec, history)


def _solve(
    args: argparse.Namespace, options: Options, budget: Budget, engine: Engine | None, history: History
) -> tuple[Result, Spec]:
    line = StatusLine(sys.stderr)
    line.enabled = line.enabled and not args.quiet
    spec = read_spec(args.spec)

    def look(progress: Progress) -> None:
        history(progress)
        line.show(progress)

    kept = {"proof": args.proof, "checkpoint": args.checkpoint}
    asked = args.spec if any(kept.values()) else spec  # both are about the file
    try:
        result = verify(_networks(args.model), asked, options, budget=budget, progress=look, engine=engine, **kept)
    finally:
        line.clear()
    return result, spec


def run_coverage(parser: CommandParser, args: argparse.Namespace, started: float) -> int:
    """Shares and maps of one instance."""
    if args.results is not None or args.json is not None or args.report is not None or args.explain:
        what = "--results, --json, --report and --explain"
        parser.error(f"{what} belong to a verdict; --coverage FOLDER or FILE says where its files go")
    from verifier.engine.on_device import device_of
    from verifier.semantic import coverage_run, family, map_proof  # PyTorch
    from verifier.semantic.coverage_search import CERTIFIED

    options = _options(args)
    refuse_unused(options, ("device", "seed", "timeout", "memory", "search.batch"), "--coverage")
    files = coverage_run.CoverageFiles.named(args.coverage)
    keep_inputs((*files.all, args.proof), _inputs(args))
    files.check(folder=True)
    process.keep_freed_memory()
    process.wait_without_spinning()
    spec = read_spec(args.spec)
    form = vnnlib.normalise(spec)
    device = device_of(options.device)
    found = family.from_files(load(_one_network(args.model)), form, device, options.seed, MOST_COVERED, spec.header)
    if found.inputs != 2 and Path(args.coverage).suffix.lower() not in coverage_run.PICTURES:
        files = dataclasses.replace(files, picture=None)
    budget = coverage_run.remaining(options.timeout, started, memory_limit(options.memory))
    prove = None
    if args.proof is not None:
        check_writable(args.proof, "the proof")
        where = args.proof, _one_network(args.model), args.spec
        prove = lambda s: map_proof.write(*where, found, s.of(CERTIFIED), lambda: bool(budget.stopped))  # noqa: E731
    limits, batch = coverage_run.CoverageLimits(), options.search.batch
    return coverage_run.run(found, files, limits, budget, batch=batch, quiet=args.quiet, prove=prove)


def _inputs(args: argparse.Namespace) -> Iterator[str | Path | None]:
    """Every file that one instance reads."""
    from verifier.graph.onnx_import.source import files_of  # onnx; only asked where an output exists already

    yield from (args.spec, f"{args.spec}.gz", args.options)
    networks = _networks(args.model)
    for path in [networks] if isinstance(networks, str) else [path for _, path in networks]:
        yield from files_of(path)


def _list_inputs(args: argparse.Namespace, jobs: Sequence[Job]) -> Iterator[str | Path | None]:
    yield from (args.instances, args.options)
    for job in jobs:
        yield from (*job.models, job.spec)


def _networks(text: str) -> str | tuple[tuple[str, str], ...]:
    """The path in a model argument, or of a shipped network; or the (name, path) pairs that VNN-COMP passes."""
    networks = tuple((name, str(shipped.find(path))) for name, path in parse_networks(text))
    return networks[0][1] if len(networks) == 1 else networks


def _one_network(text: str) -> str:
    """The one path in a model argument."""
    found = _networks(text)
    if not isinstance(found, str):
        names = ", ".join(name for name, _ in found[:10])
        raise ProblemError(f"model: found {len(found)} networks ({names}), expected 1: --coverage is about one")
    return found


def _deliver(args: argparse.Namespace, result: Result, spec: Spec | None, history: History) -> int:
    """Writes the files, then stdout, then the line for people. The files first: they must not depend on a pipe.

    A file that cannot be written after all (the disk is full) does not cost the answer: it still goes to stdout.

    Raises:
        OutputError: a file could not be written.
    """
    text = report.result_text(result, spec)
    failed: OutputError | None = None
    try:
        if args.results:
            write(args.results, text, "the result")
        if args.json:
            write(args.json, report.result_json(result, args.model, args.spec), "the result")
    except OutputError as error:
        failed = error
    sys.stdout.write(text)
    sys.stdout.flush()
    if failed is not None:
        raise failed
    if not args.quiet:
        print(report.summary(result), file=sys.stderr)
        if advice := report.advice(result):
            print(advice, file=sys.stderr)
    if args.verbose:
        print("\n".join(report.details(result)), file=sys.stderr)
    if args.explain:
        print(explanation.text(result, history.looks), file=sys.stderr)
    if args.report:
        from verifier.command import explain_page  # Matplotlib and Jinja

        one = _networks(args.model)
        shape = load(one).input_shape if result.witness is not None and isinstance(one, str) else ()
        explain_page.write_page(args.report, (args.model, args.spec), result, spec, history.looks, about.facts(), shape)
    return EXIT_VERDICT


def run_list(parser: CommandParser, args: argparse.Namespace) -> int:
    """Many instances: a line of the results file for each."""
    if args.model is not None:
        parser.error("--instances brings its own models and specifications")
    if args.results is None:
        parser.error("--instances needs --results FILE")
    if args.json is not None:
        parser.error("--json belongs to a single instance")
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs: found {args.jobs}, expected a number >= 1")
    on_cluster = where.wanted(args)
    if on_cluster and args.jobs is not None:
        parser.error("--jobs is about processes of this machine; with --engine ray the cluster has the number")
    where.can_run(args)
    if args.report is not None and Path(args.report).resolve() == Path(args.results).resolve():
        parser.error("--report and --results name the same file")

    from verifier.command import instances, worker  # processes of its own

    options = _options(args)
    jobs = instances.read_list(args.instances, cap=options.timeout)
    folders = (args.witnesses, "counterexample"), (args.proof, "proof")
    written = [
        Path(folder) / name
        for folder, suffix in folders
        if folder is not None
        for name in instances.file_names(jobs, suffix).values()
    ]
    keep_inputs([args.results, args.report, *written], _list_inputs(args, jobs))
    page = _report(args, jobs, instances.file_names(jobs, "counterexample"))
    talk = 0 if args.quiet else 2 if args.verbose else 1
    if on_cluster and options.device == "auto":  # a GPU is for the task that asked for it
        options = dataclasses.replace(options, device="cpu")
    engine = worker.EngineWorker(options)
    executor = (
        where.cluster(args, engine, options.device, options.memory) if on_cluster else Processes(args.jobs or 1, engine)
    )
    outcome = instances.run_list(
        jobs,
        args.results,
        executor,
        most=engine.together,
        witnesses=args.witnesses,
        proofs=args.proof,
        talk=talk,
        heard=instances.unheard if page is None else page.heard,
    )
    if page is not None:
        facts = [*outcome.facts, ("This run", f"{outcome.seconds:.1f} s"), *about.facts()]
        page.write(outcome.lines, dotted(options.to_mapping()), facts)
    if not args.quiet:
        print(outcome.table(), file=sys.stderr)
    if outcome.stopped:
        return EXIT_INTERRUPTED
    return EXIT_INTERNAL if outcome.errors else EXIT_VERDICT


def _report(args: argparse.Namespace, jobs: Sequence[Job], names: Mapping[tuple[str, str], str]) -> Report | None:
    """What collects a list's report, where one is asked for; `names` are those of witness files."""
    if args.report is None:
        return None
    from verifier.command.list_report import Report  # Matplotlib and Jinja

    check_writable(args.report, "the report")

    def earlier(job: Job) -> str | None:
        if args.witnesses is None or (job.onnx, job.vnnlib) not in names:
            return None
        try:
            return (Path(args.witnesses) / names[job.onnx, job.vnnlib]).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    return Report(Path(args.report), jobs, earlier)
