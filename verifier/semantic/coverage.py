"""`secateur coverage`: which part of a range of parameters is certified, refuted or open.

secateur coverage model.onnx spec.vnnlib --picture map.png
secateur coverage --network cnn7_w8 --data aircraft23 --images 0:20 \\
        --contrast 0.8,1.2 --brightness -0.1,0.1 --tolerance 3
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import vnnlib
from verifier.budget import Budget, memory_limit
from verifier.console import process
from verifier.console.arguments import CommandParser
from verifier.console.outputs import keep_inputs
from verifier.data import networks, source, unchanged
from verifier.data import options as shared
from verifier.errors import OptionsError, SecateurError, UnsoundError
from verifier.executors import options as where
from verifier.files.whole import check_writable, make_folder, write
from verifier.graph.onnx_import import load_model
from verifier.graph.onnx_import.source import files_of
from verifier.semantic import arguments, network, problem
from verifier.semantic.problem import SemanticProblem
from verifier.semantic.properties import Coordinates, ErrorBudget, Property
from vnnlib import VnnLibError

if TYPE_CHECKING:
    from verifier.semantic.coverage_search import State
    from verifier.semantic.family import Family

EXIT_INTERNAL, EXIT_INPUT = 1, 2
EPILOG = f"""\
{shared.DATA}
Areas are shares of the range and add up to 1 exactly. Certified: no parameters in the cell violate the property,
for real numbers, rounding included. Refuted: all of them do. Open: not decided at this resolution or in this time.
A run that is stopped (Ctrl-C, a time limit, a kill) goes on from its --checkpoint.
exit codes: 0 done (also when area is left open); 1 internal error; 2 bad input, one line says which; 130 interrupted.
"""


def parser() -> CommandParser:
    """The options of `secateur coverage`."""
    p = CommandParser("secateur coverage", __doc__, EPILOG)
    p.add_argument("model", nargs="?", help="with SPEC: network with a few varying inputs, .onnx; else one for images")
    p.add_argument("spec", nargs="?", type=Path, help="its specification: .vnnlib")
    _image_options(p)
    limits = p.add_argument_group("when to stop")
    limits.add_argument(
        "--open", type=float, default=0.01, metavar="SHARE", help="done when no more is open (default 0.01)"
    )
    limits.add_argument("--timeout", type=float, metavar="S", help="seconds in all")
    limits.add_argument("--per-image", type=float, metavar="S", help="seconds per image")
    limits.add_argument("--memory", type=float, metavar="GB", help="host memory that the search may take")
    where.add_engine(limits, "this process")
    limits.add_argument("--depth", type=int, default=30, help="halvings of the range, the resolution (default 30)")
    out = p.add_argument_group("output")
    out.add_argument("--json", type=Path, help="figures of every image")
    out.add_argument("--npz", type=Path, help="all cells")
    out.add_argument("--picture", type=Path, help="map of the plane (of several images: the contact sheet)")
    out.add_argument("--checkpoint", type=Path, metavar="NPZ", help="save cells there while running, and go on from it")
    out.add_argument(
        "--proof",
        type=Path,
        metavar="PATH",
        help="proof of the certified cells, for `secateur check`: of MODEL and SPEC a file; of images a folder for"
        " NAME.onnx, NAME.vnnlib and NAME.proof of each",
    )
    out.add_argument(
        "--samples", type=int, default=500, help="points per image that look for a contradiction (default 500)"
    )
    out.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    out.add_argument("-q", "--quiet", action="store_true")
    return p


def _image_options(p: CommandParser) -> None:
    """The options for images: those of `secateur spec`."""
    images = p.add_argument_group("images of a data set, without files")
    images.add_argument("--network", help="network that takes images, or the name of a shipped one; as well as MODEL")
    shared.add_data(images, "--image")
    images.add_argument("--images", metavar="N|A:B|A,B,C", help=f"{shared.IMAGES} (default: all)")
    arguments.add_truth(images)
    shared.add_network(p.add_argument_group("the network"))
    arguments.add_ranges(p.add_argument_group("parameters and their ranges, each LOW,HIGH"))
    arguments.add_property(p.add_argument_group("the property"))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the epilog for exit codes."""
    options = parser().parse_args(argv)
    process.keep_freed_memory()
    process.wait_without_spinning()
    try:
        return _run(options)
    except UnsoundError as error:
        print(f"secateur coverage: internal contradiction: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    except (SecateurError, VnnLibError) as error:
        print(f"secateur coverage: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_INPUT


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    _check(options)
    from verifier.semantic import coverage_run, spread

    files = coverage_run.CoverageFiles(options.json, options.npz, options.picture, options.checkpoint)
    keep_inputs(files.all, _inputs(options))
    files.check()
    limits = coverage_run.CoverageLimits(options.open, options.per_image, options.depth)
    if options.proof is not None and options.spec is None:
        make_folder(options.proof, what="the folder for proofs")
    elif options.proof is not None:
        keep_inputs([options.proof], _inputs(options))
        check_writable(options.proof, "the proof")
    family, problems, reach, measure = _family(options)
    budget = coverage_run.remaining(options.timeout, started, memory_limit(options.memory))
    prove = None if options.proof is None else partial(_prove, options, family, problems, budget)
    executor = None
    if where.wanted(options):
        executor = where.cluster(options, spread.Covering(family, limits, options.memory), "cpu", options.memory)
    return coverage_run.run(
        family,
        files,
        limits,
        budget,
        tolerance=reach,
        measure=measure,
        samples=options.samples,
        quiet=options.quiet,
        executor=executor,
        prove=prove,
    )


def _check(options: argparse.Namespace) -> None:
    if options.network is not None and options.model is not None:
        raise OptionsError("expected either two files, model and spec, or --network with --data; found both")
    if options.model is None and options.network is None:
        raise OptionsError("expected either two files, model and spec, or a network with --data")
    images = options.data is not None or options.images is not None
    if options.spec is not None and images:
        raise OptionsError("--data and --images belong to a network without a specification")
    if options.spec is None and options.network is None and not images:
        raise OptionsError(
            f"{options.model}: its specification is missing: secateur coverage model.onnx spec.vnnlib; or name images: "
            "secateur coverage NETWORK --data aircraft23 --images 0:8"
        )
    if options.samples < 0:
        raise OptionsError(f"--samples: found {options.samples}, expected a number >= 0")
    if where.wanted(options) and options.device != "cpu":
        raise OptionsError("--engine ray searches on the processors of the nodes: --device cpu is all it takes")
    where.can_run(options)
    if options.memory is not None and not options.memory > 0:
        raise OptionsError(f"--memory: found {options.memory:g}, expected a number > 0")


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    yield from files_of(networks.find(options.network if options.network is not None else options.model))
    if options.spec is not None:
        yield from (options.spec, Path(f"{options.spec}.gz"))
    else:
        yield from source.files_read(options.data, options.pictures)
        yield from () if options.keypoints is None else (options.keypoints,)


def _prove(
    options: argparse.Namespace, family: Family, problems: list[SemanticProblem], budget: Budget, state: State
) -> Fraction:
    """Writes the proofs of the certified cells; the mean share that they cover."""
    from verifier.semantic import map_proof
    from verifier.semantic.coverage_search import CERTIFIED

    cells, stop = state.of(CERTIFIED), lambda: bool(budget.stopped)
    if options.spec is not None:
        return map_proof.write(options.proof, networks.find(options.model), options.spec, family, cells, stop)
    shares = []
    for member, (one, name) in enumerate(zip(problems, family.titles, strict=True)):
        model, spec, proof = (options.proof / f"{name}.{ending}" for ending in ("onnx", "vnnlib", "proof"))
        write(model, one.model().SerializeToString())
        write(spec, one.spec(1))
        shares.append(map_proof.write(proof, model, spec, family, cells, stop, member))
    return sum(shares, Fraction(0)) / max(1, len(shares))


def _family(
    options: argparse.Namespace,
) -> tuple[Family, list[SemanticProblem], float | None, str | None]:
    """The family, the problems of pictures, and of a property in pixels its tolerance and what is measured."""
    from verifier.engine.on_device import device_of
    from verifier.semantic import family as families

    if options.spec is not None:
        spec = vnnlib.load(options.spec)
        form, model = vnnlib.normalise(spec), load_model(networks.find(options.model))
        return families.from_files(model, form, device_of(options.device), header=spec.header), [], None, None
    problems, names, prop = _pictures(options)
    if options.proof is not None and len(set(names)) < len(names):
        raise OptionsError(
            f"--proof: found pictures of the same name among {', '.join(names[:8])}; expected one of each"
        )
    family = families.from_problems(problems, device_of(options.device))
    return replace(family, titles=names), problems, *_measured(prop)


def _pictures(options: argparse.Namespace) -> tuple[list[SemanticProblem], tuple[str, ...], Property]:
    """Problems and names of the pictures, and the property of the first; says on stderr what the network answers to
    them unchanged."""
    path = networks.find(options.network if options.network is not None else options.model)
    net = network.load(path, channels=options.channels, layout=options.layout, mean=options.mean, std=options.std)
    perturbed = arguments.perturbation(options)
    examples, note, _ = arguments.pictures(options, net, "aircraft23")
    properties = [arguments.properties(options, net, example) for example in examples]
    problems = [
        arguments.problem(options, net, example, perturbed, prop)
        for example, prop in zip(examples, properties, strict=True)
    ]
    answers = [
        problem.unchanged(one, prop, example.target)
        for one, prop, example in zip(problems, properties, examples, strict=True)
    ]
    if not options.quiet:
        print(f"{note}\n{unchanged.line(answers)}", file=sys.stderr)
    for line in unchanged.warnings(answers):
        print(f"secateur coverage: warning: {line}", file=sys.stderr)
    return problems, tuple(example.name for example in examples), properties[0]


def _measured(prop: Property) -> tuple[float | None, str | None]:
    """The tolerance in pixels of a property that has one number for it, and what is measured."""
    if isinstance(prop, ErrorBudget):
        total = "mean" if prop.mean else "sum"
        return prop.limit, f"{total} of key point errors |dx| + |dy|, px"
    if isinstance(prop, Coordinates) and isinstance(prop.tolerance, float) and prop.head.scale == 1.0:
        return prop.tolerance, "worst key point error, px"
    return None, None


if __name__ == "__main__":
    sys.exit(main())
