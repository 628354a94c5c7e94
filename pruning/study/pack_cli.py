"""`secateur benchmark-pack`: problems of dense and pruned key point networks in the form of VNN-COMP."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pruning.study import pack
from verifier.command import verify
from verifier.console.arguments import CommandParser, numbers
from verifier.data import networks
from verifier.errors import OptionsError, OutputError, SecateurError
from verifier.files.whole import make_folder, write

EPILOG = """\
Into FOLDER go onnx/, vnnlib/1.0/, vnnlib/2.0/, instances.csv, instances_2.0.csv, networks/, generate_properties.py and
README.md, which says what the problems and their difficulties are. The folder is new, or holds the same set for any
seed, which is then written over.

With --solve also solved/seed_N/: results.csv, witnesses/ and proofs/, as `verify --instances` writes them; run again,
it goes on where it stopped.

exit codes: 0 done, 1 a problem ended in an error, 2 bad input, 130 stopped
"""


def parser() -> CommandParser:
    """The options of `secateur benchmark-pack`."""
    p = CommandParser("secateur benchmark-pack", __doc__, EPILOG)
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the set goes")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of pictures, ranges and tolerances (default: 0)")
    p.add_argument(
        "--model", action="append", metavar="MODEL", help="network.onnx, or the name of a shipped network: "
        f"{', '.join(networks.names())}; can be repeated (default: cnn7_w8)",
    )  # fmt: skip
    p.add_argument(
        "--ratios", type=numbers, default=(0.0, 0.25, 0.5), metavar="R,R,..",
        help="every network with these shares of its channels removed; 0 is the network as it is (default: 0,0.25,0.5)",
    )  # fmt: skip
    p.add_argument("--images", type=int, default=4, metavar="N", help="pictures per network (default: 4)")
    p.add_argument("--timeout", type=float, default=60.0, metavar="S", help="time limit in the lists (default: 60)")
    p.add_argument("--solve", type=float, metavar="SECONDS", help="also run `verify`, so long for each problem at most")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side for --solve (default: 1)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the codes are in the help."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except SecateurError as error:
        print(f"secateur benchmark-pack: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.solve is not None and not 0 < options.solve < float("inf"):
        raise OptionsError(f"--solve {options.solve:g}: expected a positive number of seconds")
    models = tuple(options.model or pack.PackSettings.models)
    settings = pack.PackSettings(models, options.ratios, options.images, options.timeout, options.seed)
    files = pack.build(settings)
    files.write(options.out)
    count = len(files.content["instances.csv"].splitlines())
    print(f"{options.out}: {count} problems, {files.bytes / 1e6:.1f} MB, seed {settings.seed}")
    if options.solve is None:
        return 0
    code = _solve(options, settings.seed, files.digest)
    total = pack.folder_bytes(options.out)
    if total > pack.LIMIT:
        raise OutputError(
            f"{options.out}: with its proofs the set takes {total / 1e6:.1f} MB, more than {pack.LIMIT / 1e6:g}; leave "
            "out the largest files of solved/, or make it with fewer pictures"
        )
    return code


def _solve(options: argparse.Namespace, seed: int, digest: str) -> int:
    """Goes on with the verdicts of these very files. Raises OutputError where those that are there are of others."""
    solved = options.out / "solved" / f"seed_{seed}"
    mark = solved / "set.sha256"
    if solved.exists() and (not mark.is_file() or mark.read_bytes() != f"{digest}\n".encode()):
        raise OutputError(f"{solved}: these verdicts are about other files (see set.sha256); move the folder away")
    make_folder(solved)
    write(mark, f"{digest}\n")
    return verify.main([
        "--instances", str(options.out / "instances.csv"), "--results", str(solved / "results.csv"),
        "--witnesses", str(solved / "witnesses"), "--proof", str(solved / "proofs"),
        "--timeout", str(options.solve), "--jobs", str(options.jobs),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
