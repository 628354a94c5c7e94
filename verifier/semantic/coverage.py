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
from pathlib import Path
from typing import TYPE_CHECKING

from verifier import process
from verifier.arguments import Parser, Spans, span, tolerance
from verifier.errors import OptionsError, SecateurError, UnsoundError
from verifier.outputs import keep_inputs

if TYPE_CHECKING:
    from verifier.semantic.family import Family
    from verifier.semantic.properties import Property

EXIT_INTERNAL, EXIT_INPUT = 1, 2
RANGES = ("contrast", "brightness")
PROPERTIES = ("linf", "l1", "l2", "heatmap", "budget-mean", "budget-sum")
EPILOG = """\
Areas are shares of the range and add up to 1 exactly. Certified: no parameters in the cell violate the property,
for real numbers, rounding included. Refuted: all of them do. Open: not decided at this resolution or in this time.
A run that is stopped (Ctrl-C, a time limit, a kill) goes on from its --checkpoint.
exit codes: 0 done (also when area is left open); 1 internal error; 2 bad input, one line says which; 130 interrupted.
"""


def parser() -> Parser:
    """The options of `secateur coverage`."""
    p = Parser("secateur coverage", __doc__, EPILOG)
    p.add_argument("model", nargs="?", type=Path, help="network with a few varying inputs: .onnx")
    p.add_argument("spec", nargs="?", type=Path, help="its specification: .vnnlib")
    _study_options(p.add_argument_group("images of a data set, without files"))
    limits = p.add_argument_group("when to stop")
    limits.add_argument(
        "--open", type=float, default=0.01, metavar="SHARE", help="done when no more is open (default 0.01)"
    )
    limits.add_argument("--timeout", type=float, metavar="S", help="seconds in all")
    limits.add_argument("--per-image", type=float, metavar="S", help="seconds per image")
    limits.add_argument("--depth", type=int, default=30, help="halvings of the range, the resolution (default 30)")
    out = p.add_argument_group("output")
    out.add_argument("--json", type=Path, help="figures of every image")
    out.add_argument("--npz", type=Path, help="all cells")
    out.add_argument("--picture", type=Path, help="map of the plane (of several images: the contact sheet)")
    out.add_argument("--checkpoint", type=Path, metavar="NPZ", help="save cells there while running, and go on from it")
    out.add_argument(
        "--samples", type=int, default=500, help="points per image that look for a contradiction (default 500)"
    )
    out.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    out.add_argument("-q", "--quiet", action="store_true")
    return p


def _study_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--network", help="network.onnx that takes images, or the name of a shipped one")
    group.add_argument("--data", default="aircraft23", choices=("aircraft23",))
    group.add_argument("--split", default="test", choices=("train", "val", "test", "hard"))
    group.add_argument("--images", metavar="A:B", help="images A to B - 1")
    for name in RANGES:
        group.add_argument(f"--{name}", metavar="LOW,HIGH", type=span)
    group.add_argument("--semantic", action=Spans, const=RANGES, metavar="NAME=LOW:HIGH,..", help="the same, in one")
    group.add_argument(
        "--property",
        choices=PROPERTIES,
        help="linf, l1, l2: every key point, as coordinates; heatmap: every argmax; budget-mean, budget-sum: "
        "|dx| + |dy| over all key points, for both kinds of networks (default linf or heatmap, as the network is)",
    )
    group.add_argument("--tolerance", type=tolerance, help="per key point: pixels (3, 3px) or share of the width (5%%)")
    group.add_argument("--limit", type=tolerance, help="as --tolerance, of all key points together, for the budgets")
    group.add_argument(
        "--reference", choices=("gt", "self"), default="gt", help="ground truth, or the clean prediction"
    )
    group.add_argument("--no-clip", action="store_true", help="leave values outside [0, 1] as they are")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the epilog for exit codes."""
    from vnnlib import VnnLibError

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
    from verifier.semantic import coverage_run
    from verifier.semantic.coverage_search import Limits

    files = coverage_run.Files(options.json, options.npz, options.picture, options.checkpoint)
    keep_inputs(files.all, _inputs(options))
    files.check()
    limits = Limits(options.open, options.per_image, options.depth)
    family, reach, measure = _family(options)
    return coverage_run.run(
        family,
        files,
        limits,
        coverage_run.remaining(options.timeout, started),
        tolerance=reach,
        measure=measure,
        samples=options.samples,
        quiet=options.quiet,
    )


def _check(options: argparse.Namespace) -> None:
    files, study = options.model is not None, options.network is not None
    if files == study:
        raise OptionsError("expected either two files, model and spec, or --network with --images")
    if files and options.spec is None:
        raise OptionsError(f"{options.model}: its specification is missing: secateur coverage model.onnx spec.vnnlib")
    if options.samples < 0:
        raise OptionsError(f"--samples: found {options.samples}, expected a number >= 0")


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    from verifier.graph.onnx_import.source import files_of

    if options.model is not None:
        yield from (options.spec, Path(f"{options.spec}.gz"), *files_of(options.model))
    else:
        yield from files_of(_network(options.network))


def _network(name: str) -> Path:
    """The file of a network, or of a shipped one."""
    from verifier.data import networks

    return networks.path(name) if name in networks.names() and not Path(name).exists() else Path(name)


def _family(options: argparse.Namespace) -> tuple[Family, float | None, str | None]:
    """The problems, and of a property in pixels its tolerance and what is measured."""
    from verifier.semantic import family as families
    from verifier.semantic.many import device_of

    if options.model is not None:
        import vnnlib
        from verifier.graph.onnx_import import load_model

        spec = vnnlib.load(options.spec)
        model, form, device = load_model(options.model), vnnlib.normalise(spec), device_of(options.device)
        return families.from_files(model, form, device, header=spec.header), None, None
    return _studies(options)


def _images(options: argparse.Namespace) -> tuple[int, int]:
    """First image and how many."""
    try:
        first, last = (int(part) for part in (options.images or "").split(":"))
    except ValueError:
        raise OptionsError(f"--images: found '{options.images or ''}', expected A:B, the images A to B - 1") from None
    if not 0 <= first < last:
        raise OptionsError(f"--images: the range {first}:{last} is empty or negative")
    return first, last - first


def _property(options: argparse.Namespace, heatmaps: bool, side: int) -> tuple[Property, float | None, str | None]:
    """What is asked of every image of this width; see `_family`."""
    from verifier.semantic import Budget, Coordinates, Heatmap

    kind = options.property or ("heatmap" if heatmaps else "linf")
    if kind.startswith("budget"):
        if options.limit is None:
            raise OptionsError("--limit is missing: how many pixels the key points may be off together")
        mean = kind == "budget-mean"
        name = f"{'mean' if mean else 'sum'} of key point errors |dx| + |dy|, px"
        limit = options.limit.pixels(side)
        return Budget(limit, mean), limit, name
    if options.tolerance is None:
        raise OptionsError("--tolerance is missing: how many pixels a key point may be off")
    reach = options.tolerance.pixels(side)
    if kind == "heatmap":
        return Heatmap(reach), None, None
    return Coordinates(reach, kind), reach, "worst key point error, px"


def _studies(options: argparse.Namespace) -> tuple[Family, float | None, str | None]:
    from dataclasses import replace

    from verifier.semantic import Perturbation, Range, network, prepare, sources
    from verifier.semantic import family as families
    from verifier.semantic.many import device_of

    first, count = _images(options)
    ranges = tuple(Range(n, *getattr(options, n)) for n in RANGES if getattr(options, n) is not None)
    net = network.load(_network(options.network))
    prop, reach, measure = _property(options, len(net.output) > 2, net.width)
    perturbed, clip = Perturbation(ranges), "none" if options.no_clip else "clip"
    studies, titles = [], []
    for example in sources.rendered(net, options.split, first, first + count):
        studies.append(
            prepare(
                net,
                example.image,
                example.target,
                perturbed,
                prop,
                reference=options.reference,
                clip=clip,
            )
        )
        titles.append(example.name)
    family = replace(families.from_studies(studies, device_of(options.device)), titles=tuple(titles))
    return family, reach, measure


if __name__ == "__main__":
    sys.exit(main())
