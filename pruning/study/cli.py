"""`secateur compare`: certified coverage of networks, a whole study, or result files of any verifiers side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.study.spec import CLOCKS, PROPERTIES
from verifier.console.arguments import CommandParser, share, tolerance
from verifier.data import options as shared
from verifier.errors import SecateurError
from verifier.executors.options import add_engine
from verifier.perturbation.options import add_perturbation

if TYPE_CHECKING:
    from pruning.study.command import Factory

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


def parser() -> CommandParser:
    """The options of `secateur compare`."""
    p = CommandParser("secateur compare", __doc__, EPILOG)
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
    ranges = p.add_argument_group("the perturbation (with models): ranges of parameters, and constants")
    add_perturbation(ranges, "--rectangle", dest="rectangle", default="medium")
    images.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds per image (default: 60)")
    images.add_argument("--clock", choices=CLOCKS, default="wall", help="count wall or processor time (default: wall)")
    images.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="cpu",
        help="where to search and, of a study, to train (default: cpu)",
    )
    images.add_argument("--memory", type=float, metavar="GB", help="host memory that a search may take")
    add_engine(images, "this process, one image after the other")
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
        from pruning.study.command import run  # NumPy, ONNX, Rich: not for --help

        return run(options, parser().parse_args([]), factory)
    except SecateurError as error:
        print(f"secateur compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("secateur compare: interrupted; every result so far is kept, run the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
