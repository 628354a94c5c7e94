"""The `verify` command: arguments, exit codes, what goes to which stream. It computes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from verifier.console import process
from verifier.console.arguments import Parser
from verifier.console.outputs import keep_inputs
from verifier.errors import ProblemError, SecateurError
from verifier.files.whole import check_writable, write
from verifier.options import Options

if TYPE_CHECKING:
    from verifier.budget import Budget
    from verifier.command.worker import Job
    from verifier.result import Result
    from vnnlib import Spec

EXIT_VERDICT, EXIT_INTERNAL, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

MOST_COVERED = 3
"""Most varying inputs of --coverage: a search that does not stop at a counterexample has to cut all of the box."""

_EPILOG = """\
stdout: the first line is the verdict, sat, unsat, unknown or timeout; after sat follows the witness in the form of
VNN-COMP. Everything else goes to stderr.

  sat      the specification can be satisfied (the property is violated); the witness was replayed in ONNX Runtime
  unsat    no input satisfies the specification (the property holds)
  unknown  the search ended, or was stopped by SIGINT or SIGTERM, without an answer
  timeout  the time limit was reached

With --coverage the question is another: which share of the input box is certified (no violation in it), refuted
(violations only) or open, for 1 to 3 varying inputs. stdout then holds one line per box,
  box 0: certified 0.812500, refuted 0.180000, open 0.007500 (1234 boxes, 0.85 s)
(of a pair that `secateur spec` wrote, also the largest certified rectangle around the unchanged image). The shares add
up to 1 exactly; the search ends when at most 0.01 is open (`secateur coverage` has settings). PATH is a folder for
coverage.json, coverage.npz and, of two inputs, coverage.png, or one such file.

exit codes:
  0    a verdict was given, also unknown and timeout; of a list: every instance has a verdict
  1    an internal error or a failed cross-check; of a list: some instances ended in an error
       with --coverage: the shares were printed, also where some of the box is open or the time limit was reached
  2    bad usage or bad input: one line on stderr says what was found, what was expected
  130  a list was stopped by SIGINT or SIGTERM; the same command goes on where it ended; with --coverage: stopped,
       what was known by then is printed and written

environment:
  MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_   where one is set, the command leaves the allocator as it is;
                                                   otherwise it tells glibc to keep freed memory for the next step
  OMP_WAIT_POLICY                                  PASSIVE where it is not set: idle threads sleep at once
  OMP_NUM_THREADS                                  threads of one process (a list divides the cores among its jobs)
"""


def main(argv: Sequence[str] | None = None, started: float | None = None) -> int:
    """Runs the command and returns its exit code; never raises for bad input. `started`: from when its seconds count,
    on the monotonic clock; from now by default."""
    started = time.monotonic() if started is None else started
    line = parser()
    args = line.parse_args(argv)
    try:
        if args.instances is not None:
            if args.coverage is not None:
                line.error("--coverage belongs to a single instance")
            return _run_list(line, args)
        if args.model is None or args.spec is None:
            line.error("expected two files, model and spec (or --instances LIST --results FILE)")
        if args.jobs != 1 or args.witnesses is not None:
            line.error("--jobs and --witnesses belong to --instances")
        if args.coverage is not None:
            return _run_coverage(line, args, started)
        return _run_one(args, started)
    except BrokenPipeError:
        process.stop_printing()
        return EXIT_VERDICT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _explain(error, args.verbose)


def run() -> NoReturn:
    """The console script: `main`, then out. Its seconds count from the start of the process."""
    process.leave(main(started=process.began()))


def parser() -> Parser:
    """The command line."""
    parser = Parser("verify", "Decide whether a neural network satisfies a VNN-LIB specification.", _EPILOG)
    parser.add_argument("model", nargs="?", help="network: .onnx or .onnx.gz")
    parser.add_argument("spec", nargs="?", help="specification: VNN-LIB 1.0 or 2.0, .vnnlib or .vnnlib.gz")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for the run, start-up included")
    parser.add_argument("--memory", type=float, metavar="GB", help="host memory that the search may take")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.add_argument("--results", metavar="FILE", help="also write verdict and witness (of a list: one line each)")
    parser.add_argument("--json", metavar="FILE", help="write the whole result, with counters and settings")
    parser.add_argument(
        "--proof",
        metavar="FILE",
        help="write a proof that `secateur check` accepts (docs/certificates.md); of a list: a folder, a file for each",
    )
    parser.add_argument("--options", metavar="FILE", help="YAML file of options")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random points")
    parser.add_argument(
        "--coverage",
        nargs="?",
        const="",
        metavar="PATH",
        help="no verdict but certified, refuted and open shares of the input box; write them to a folder or file",
    )
    several = parser.add_argument_group("lists of instances")
    several.add_argument("--instances", metavar="LIST", help="instances.csv: model,spec,timeout relative to its folder")
    several.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side (default 1)")
    several.add_argument("--witnesses", metavar="FOLDER", help="write one .counterexample file for every sat")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-v", "--verbose", action="store_true", help="counters, settings; tracebacks of internal errors")
    talk.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    return parser


def _options(args: argparse.Namespace) -> Options:
    """Options of the file, then those of the command line."""
    options = Options.from_yaml(args.options) if args.options else Options()
    given = {name: getattr(args, name) for name in ("timeout", "memory", "device", "seed")}
    return dataclasses.replace(options, **{name: value for name, value in given.items() if value is not None})


def _run_one(args: argparse.Namespace, started: float) -> int:
    from verifier.budget import Budget, memory_limit
    from verifier.console.guard import Guard
    from verifier.result import Result, Verdict

    options = _options(args)
    keep_inputs((args.results, args.json, args.proof), _inputs(args))
    for path in filter(None, (args.results, args.json, args.proof)):
        check_writable(path, "the result")
    process.keep_freed_memory()
    process.wait_without_spinning()
    process.keep_imports()
    deadline = Budget().deadline if options.timeout is None else started + options.timeout
    budget = Budget(deadline, memory_limit(options.memory))

    def last_words(reason: str) -> int:
        verdict = Verdict.UNKNOWN if budget.stopped else Verdict.TIMEOUT
        return _deliver(args, Result(verdict, reason, seconds=time.monotonic() - started), None)

    with Guard(budget, last_words):
        result, spec = _solve(args, options, budget)
    return _deliver(args, dataclasses.replace(result, seconds=time.monotonic() - started), spec)


def _solve(args: argparse.Namespace, options: Options, budget: Budget) -> tuple[Result, Spec]:
    from verifier.api import read_spec, verify
    from verifier.progress import StatusLine

    line = StatusLine(sys.stderr)
    line.enabled = line.enabled and not args.quiet
    spec = read_spec(args.spec)
    asked = spec if args.proof is None else args.spec  # a proof is about the file
    try:
        result = verify(_one_network(args.model), asked, options, budget=budget, progress=line.show, proof=args.proof)
    finally:
        line.clear()
    return result, spec


def _run_coverage(parser: Parser, args: argparse.Namespace, started: float) -> int:
    if args.results is not None or args.json is not None:
        parser.error("--results and --json belong to a verdict; --coverage FOLDER or FILE says where its files go")
    import vnnlib
    from verifier.api import load, read_spec
    from verifier.budget import memory_limit
    from verifier.engine.on_device import device_of
    from verifier.options import refuse_unused
    from verifier.semantic import coverage_run, family, map_proof
    from verifier.semantic.coverage_search import CERTIFIED, Limits

    options = _options(args)
    refuse_unused(options, ("device", "seed", "timeout", "memory", "search.batch"), "--coverage")
    files = coverage_run.Files.named(args.coverage)
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
        prove = lambda state: map_proof.write(*where, found, state.of(CERTIFIED), lambda: bool(budget.stopped))  # noqa: E731
    return coverage_run.run(found, files, Limits(), budget, batch=options.search.batch, quiet=args.quiet, prove=prove)


def _inputs(args: argparse.Namespace) -> Iterator[str | Path | None]:
    """Every file that one instance reads."""
    from verifier.graph.onnx_import.source import files_of

    yield from (args.spec, f"{args.spec}.gz", args.options)
    yield from files_of(_one_network(args.model))


def _list_inputs(args: argparse.Namespace, jobs: Sequence[Job]) -> Iterator[str | Path | None]:
    yield from (args.instances, args.options)
    for job in jobs:
        yield from (job.model, job.spec)


def _files_of_list(args: argparse.Namespace, jobs: Sequence[Job]) -> list[Path]:
    """The witness and proof files that a list may write."""
    from verifier.command.instances import file_names

    folders = (args.witnesses, "counterexample"), (args.proof, "proof")
    return [
        Path(folder) / name
        for folder, suffix in folders
        if folder is not None
        for name in file_names(jobs, suffix).values()
    ]


def _one_network(text: str) -> str:
    """The path in a model argument, or of a shipped network; VNN-COMP passes several as (name, path) pairs."""
    from verifier.data import networks as shipped
    from vnnlib import parse_networks

    networks = parse_networks(text)
    if len(networks) != 1:
        names = ", ".join(name for name, _ in networks[:10])
        raise ProblemError(f"model: found {len(networks)} networks ({names}), expected 1: several are not supported")
    return str(shipped.find(networks[0][1]))


def _deliver(args: argparse.Namespace, result: Result, spec: Spec | None) -> int:
    """Writes the files, then stdout, then the line for people. The files first: they must not depend on a pipe.

    A file that cannot be written after all (the disk is full) does not cost the answer: it still goes to stdout.

    Raises:
        OutputError: a file could not be written.
    """
    from verifier.command import report
    from verifier.errors import OutputError

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
    return EXIT_VERDICT


def _run_list(parser: Parser, args: argparse.Namespace) -> int:
    if args.model is not None:
        parser.error("--instances brings its own models and specifications")
    if args.results is None:
        parser.error("--instances needs --results FILE")
    if args.json is not None:
        parser.error("--json belongs to a single instance")
    if args.jobs < 1:
        parser.error(f"--jobs: found {args.jobs}, expected a number >= 1")
    from verifier.command import instances, worker

    options = _options(args)
    jobs = instances.read_list(args.instances, cap=options.timeout)
    keep_inputs([args.results, *_files_of_list(args, jobs)], _list_inputs(args, jobs))
    talk = 0 if args.quiet else 2 if args.verbose else 1
    outcome = instances.run_list(
        jobs,
        args.results,
        args.jobs,
        worker.EngineWorker(options, args.jobs),
        witnesses=args.witnesses,
        proofs=args.proof,
        talk=talk,
    )
    if not args.quiet:
        print(outcome.table(), file=sys.stderr)
    if outcome.stopped:
        return EXIT_INTERRUPTED
    return EXIT_INTERNAL if outcome.errors else EXIT_VERDICT


def _explain(error: Exception, verbose: bool) -> int:
    """One line for bad input; for anything else the type as well, since it is a bug."""
    from verifier.errors import UnsoundError
    from vnnlib import VnnLibError

    bad_input = isinstance(error, SecateurError | VnnLibError) and not isinstance(error, UnsoundError)
    if bad_input or isinstance(error, MemoryError):
        print(f"verify: error: {_one_line(error) or 'out of memory'}", file=sys.stderr)
        return EXIT_INPUT if bad_input else EXIT_INTERNAL
    if verbose:
        import traceback

        traceback.print_exception(error)
    hint = "" if verbose else " (a bug; -v shows where)"
    print(f"verify: internal error: {type(error).__name__}: {_one_line(error)}{hint}", file=sys.stderr)
    return EXIT_INTERNAL


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    run()
