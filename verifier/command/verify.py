"""The `verify` command: arguments, exit codes, what goes to which stream. It computes nothing."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from verifier.console import process
from verifier.console.arguments import CommandParser
from verifier.console.process import EXIT_INPUT, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_VERDICT
from verifier.errors import SecateurError, UnsoundError
from verifier.executors import options as where

if TYPE_CHECKING:
    from verifier.api import Engine

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
  OMP_NUM_THREADS                                  how many processes search one instance; one for each core where it
                                                   is not set (of a list, --jobs says how many)
"""


def main(argv: Sequence[str] | None = None, started: float | None = None, engine: Engine | None = None) -> int:
    """Runs the command and returns its exit code; never raises for bad input. `started`: from when its seconds count,
    on the monotonic clock; from now by default. `engine`: see `verifier.api.solve`."""
    started = time.monotonic() if started is None else started
    line = parser()
    args = line.parse_args(argv)
    try:
        if args.instances is not None:
            if args.coverage is not None or args.explain or args.checkpoint is not None:
                line.error("--coverage, --explain and --checkpoint belong to a single instance")
            return _tasks().run_list(line, args)
        if args.model is None or args.spec is None:
            line.error("expected two files, model and spec (or --instances LIST --results FILE)")
        if args.checkpoint is not None and (args.proof is not None or args.coverage is not None):
            line.error(
                "--checkpoint: a proof has none, and for a map `secateur coverage` has a --checkpoint of its own"
            )
        if args.jobs is not None or args.witnesses is not None or where.wanted(args):
            line.error("--jobs, --witnesses, --engine and --address belong to --instances")
        if args.coverage is not None:
            return _tasks().run_coverage(line, args, started)
        return _tasks().run_one(args, started, engine)
    except BrokenPipeError:
        process.stop_printing()
        return EXIT_VERDICT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return _explain(error, args.verbose)


def run(engine: Engine | None = None) -> NoReturn:
    """The console script: `main`, then out. Its seconds count from the start of the process."""
    process.leave(main(started=process.began(), engine=engine))


def _tasks() -> ModuleType:
    from verifier.command import tasks  # NumPy and the specification parser: not for --help

    return tasks


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser("verify", "Decide whether a neural network satisfies a VNN-LIB specification.", _EPILOG)
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
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="keep what is left of the search there while it runs, and go on from it"
    )
    parser.add_argument("--options", metavar="FILE", help="YAML file of options")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random points")
    parser.add_argument(
        "--deterministic", action="store_true", default=None, help="the same boxes on every run: measure nothing"
    )
    parser.add_argument(
        "--coverage",
        nargs="?",
        const="",
        metavar="PATH",
        help="no verdict but certified, refuted and open shares of the input box; write them to a folder or file",
    )
    parser.add_argument("--explain", action="store_true", help="say what was tried and why, and how the bounds moved")
    parser.add_argument("--report", metavar="FILE", help="write a page (HTML): of one instance, or of a list")
    several = parser.add_argument_group("lists of instances")
    several.add_argument("--instances", metavar="LIST", help="instances.csv: model,spec,timeout relative to its folder")
    several.add_argument("--jobs", type=int, metavar="N", help="processes side by side (default 1)")
    several.add_argument("--witnesses", metavar="FOLDER", help="write one .counterexample file for every sat")
    where.add_engine(several, "processes of this machine")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-v", "--verbose", action="store_true", help="counters, settings; tracebacks of internal errors")
    talk.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    return parser


def _explain(error: Exception, verbose: bool) -> int:
    """One line for bad input; for anything else the type as well, since it is a bug."""
    from vnnlib import VnnLibError  # with NumPy

    bad_input = isinstance(error, SecateurError | VnnLibError) and not isinstance(error, UnsoundError)
    if bad_input or isinstance(error, MemoryError):
        print(f"verify: error: {_one_line(error) or 'out of memory'}", file=sys.stderr)
        return EXIT_INPUT if bad_input else EXIT_INTERNAL
    if verbose:
        traceback.print_exception(error)
    hint = "" if verbose else " (a bug; -v shows where)"
    print(f"verify: internal error: {type(error).__name__}: {_one_line(error)}{hint}", file=sys.stderr)
    return EXIT_INTERNAL


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    run()
