"""`secateur spec`: an image, a network and ranges -> files any VNN-COMP tool can run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from verifier.arguments import Parser, Spans, numbers, span, tolerance, tolerances
from verifier.data import coco, networks
from verifier.errors import OptionsError, OutputError, SecateurError
from verifier.graph.onnx_import.source import files_of
from verifier.outputs import keep_inputs
from verifier.semantic import draw, network, pose, sources
from verifier.semantic.network import Network
from verifier.semantic.perturbation import IDENTITY, Patch, Perturbation, Range
from verifier.semantic.properties import Budget, Coordinates, Head, Heatmap, Label, Pose, Property
from verifier.semantic.sources import Example
from verifier.semantic.study import REFERENCES, Study, prepare

KINDS = ("linf", "l1", "l2", "heatmap", "budget-mean", "budget-sum", "pose", "label")
EPILOG = f"""\
Inputs of the written network, in this order (those given): {", ".join(IDENTITY)}.
Steps: contrast around the anchor, gains, brightness and gradient, haze, patch, clip to [0, 1].
--image is a PNG, JPEG or NPY file, or aircraft23:SPLIT:INDEX (or FIRST-LAST), or the picture folder with --annotation.
Key points are (x, y) in pixels, (0, 0) being the top left corner of the image the network sees.
"""


def parser() -> Parser:
    """The options of `secateur spec`."""
    p = Parser("secateur spec", __doc__, EPILOG)
    p.add_argument("model", help="network.onnx, or the name of a shipped network: " + ", ".join(networks.names()))
    p.add_argument("--image", required=True)
    p.add_argument("--out", type=Path, required=True, help="prefix of the files written: .onnx, .vnnlib, .json")
    _input_options(p.add_argument_group("the image and its truth"))
    ranges = p.add_argument_group("parameters and their ranges, each LOW,HIGH (1 to 6 of them)")
    for name in IDENTITY:
        ranges.add_argument(f"--{name.replace('_', '-')}", metavar="LOW,HIGH", type=span)
    ranges.add_argument("--semantic", action=Spans, const=IDENTITY, metavar="NAME=LOW:HIGH,..", help="the same, in one")
    ranges.add_argument("--anchor", default="0", help="grey level that contrast keeps: a number (0, 0.5) or mean")
    ranges.add_argument("--haze-colour", type=numbers, default=(0.9,))
    ranges.add_argument("--patch-box", type=numbers, metavar="X0,Y0,X1,Y1")
    ranges.add_argument("--patch-colour", type=numbers, default=(0.0,))
    ranges.add_argument("--no-clip", action="store_true", help="leave values outside [0, 1] as they are")
    ranges.add_argument("--clip", choices=("clip", "relu"), default="clip", help="one Clip node, or two ReLUs")
    _property_options(p.add_argument_group("the property"))
    out = p.add_argument_group("output")
    out.add_argument("--vnnlib", type=int, choices=(1, 2), default=1, help="version of the specification language")
    out.add_argument("--timeout", type=float, default=60.0, help="seconds, for the instances.csv of several images")
    out.add_argument("--draw", type=Path, help="write a picture: the image unchanged and at the point --at")
    out.add_argument("--at", type=numbers, metavar="P0,P1,..", help="parameter values, for instance a counterexample")
    return p


def _input_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--keypoints", type=Path, help="JSON with key points, or a COCO file with --annotation")
    group.add_argument("--annotation", type=int, help="id of a COCO annotation; --image is then the picture folder")
    group.add_argument("--label", type=int, help="true class, for --property label")
    group.add_argument("--layout", choices=network.LAYOUTS, default="auto")
    group.add_argument("--channels", type=int, choices=(1, 3), help="for networks with a flat input")
    group.add_argument("--mean", type=numbers, help="normalisation (x - mean) / std in front of the network")
    group.add_argument("--std", type=numbers)


def _property_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--property", choices=KINDS, default="linf")
    group.add_argument("--tolerance", type=tolerances, help="pixels (3, 3px) or share of the width (5%%), or one each")
    group.add_argument("--limit", type=tolerance, help="as --tolerance, for the budget properties")
    group.add_argument("--weights", type=numbers, help="one per key point, for the budget properties")
    group.add_argument("--sides", type=int, default=16, help="sides of the polygon inside the L2 disc")
    group.add_argument("--pose-limits", type=numbers, help="6 numbers: rotation x,y,z (rad), translation x,y,z")
    group.add_argument("--allocation", choices=pose.ALLOCATIONS, default="coupled")
    group.add_argument("--reference", choices=REFERENCES, default="gt", help="ground truth, or the clean prediction")
    group.add_argument("--include-hidden", action="store_true", help="hidden key points (visibility 1) count too")
    group.add_argument("--offset", type=float, help="heatmaps: pixels from a cell's corner to its position")
    group.add_argument("--output-scale", type=float, default=1.0, help="pixel = scale * output + shift")
    group.add_argument("--output-shift", type=float, default=0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 when the files were written, 2 with one line on stderr for bad input."""
    options = parser().parse_args(argv)
    try:
        shipped = options.model in networks.names() and not Path(options.model).exists()
        path = networks.path(options.model) if shipped else Path(options.model)
        net = network.load(path, channels=options.channels, layout=options.layout, mean=options.mean, std=options.std)
        perturbed = perturbation(options)
        examples = sources.from_options(net, options.image, options.keypoints, options.annotation, options.label)
        prefixes = [_prefix(options, example, len(examples)) for example in examples]
        keep_inputs(_outputs(options, prefixes, examples), _inputs(options, path))
        names = []
        for prefix, example in zip(prefixes, examples, strict=True):
            prop = properties(options, example, net.width)
            study = _study(options, net, example, perturbed, prop)
            _write(options, study, prop, example, prefix)
            names.append(prefix.name)
        if len(examples) > 1:
            lines = [f"{name}.onnx,{name}.vnnlib,{options.timeout:g}\n" for name in names]
            _save(options.out.with_name(f"{options.out.name}_instances.csv"), "".join(lines).encode())
        return 0
    except SecateurError as error:
        print(f"secateur spec: {error}", file=sys.stderr)
        return 2


def _prefix(options: argparse.Namespace, example: Example, count: int) -> Path:
    out: Path = options.out
    return out if count == 1 else out.with_name(f"{out.name}_{example.name}")


def _picture(options: argparse.Namespace, prefix: Path, example: Example) -> Path:
    """Where --draw of one of several examples goes."""
    draw: Path = options.draw
    return draw if prefix == options.out else draw.with_name(f"{draw.stem}_{example.name}{draw.suffix}")


def _outputs(options: argparse.Namespace, prefixes: list[Path], examples: list[Example]) -> Iterator[Path]:
    yield options.out.with_name(f"{options.out.name}_instances.csv")
    for prefix, example in zip(prefixes, examples, strict=True):
        yield from (prefix.with_name(f"{prefix.name}.{ending}") for ending in ("onnx", "vnnlib", "json"))
        if options.draw is not None:
            yield _picture(options, prefix, example)


def _inputs(options: argparse.Namespace, model: Path) -> Iterator[Path | str | None]:
    yield from files_of(model)
    yield options.keypoints
    if options.annotation is None:
        yield options.image
    else:
        found = coco.read(options.keypoints).annotations
        yield from (Path(options.image) / one.file for one in found if one.identity == options.annotation)


def perturbation(options: argparse.Namespace) -> Perturbation:
    """The ranges of the command line."""
    ranges = []
    for name in IDENTITY:
        values = getattr(options, name)
        if values is None:
            continue
        ranges.append(Range(name, *values))
    patch = None
    if options.patch_box is not None:
        if len(options.patch_box) != 4 or any(v != int(v) for v in options.patch_box):
            raise OptionsError("--patch-box needs four whole numbers X0,Y0,X1,Y1")
        x0, y0, x1, y1 = (int(v) for v in options.patch_box)
        patch = Patch(x0, y0, x1, y1, options.patch_colour)
    try:
        anchor: float | str = "mean" if options.anchor == "mean" else float(options.anchor)
    except ValueError as error:
        raise OptionsError(f"--anchor is a number or 'mean', found '{options.anchor}'") from error
    return Perturbation(tuple(ranges), anchor, options.haze_colour, patch)


def properties(options: argparse.Namespace, example: Example, side: int) -> Property:
    """The property of the command line; a pose property takes its camera from the example.

    side: width of the network's image in pixels, of which a tolerance may be a share.
    """
    kind, hidden = options.property, options.include_hidden
    head = Head(options.output_scale, options.output_shift)
    if kind == "label":
        return Label()
    if kind == "pose":
        if example.view is None:
            raise OptionsError("the pose property needs a known camera; it is offered for aircraft23 images")
        if options.pose_limits is None:
            raise OptionsError("the pose property needs --pose-limits")
        limits = pose.check_limits(np.array(options.pose_limits))
        return Pose(example.view.jacobian(), limits, options.allocation, hidden, head)
    if kind.startswith("budget"):
        if options.limit is None:
            raise OptionsError("a budget property needs --limit in pixels")
        return Budget(options.limit.pixels(side), kind == "budget-mean", options.weights, hidden, head)
    if options.tolerance is None:
        raise OptionsError(f"property {kind} needs --tolerance: pixels (3px) or a share of the width (5%)")
    pixels = tuple(one.pixels(side) for one in options.tolerance)
    reach = pixels[0] if len(pixels) == 1 else pixels
    if kind == "heatmap":
        return Heatmap(reach, options.offset, hidden)
    return Coordinates(reach, kind, options.sides, hidden, head)


def _study(
    options: argparse.Namespace, net: Network, example: Example, perturbed: Perturbation, prop: Property
) -> Study:
    target = example.target
    if options.label is not None and isinstance(prop, Label):
        target = sources.Target(label=options.label)
    clip = "none" if options.no_clip else options.clip
    return prepare(net, example.image, target, perturbed, prop, reference=options.reference, clip=clip)


def _write(options: argparse.Namespace, study: Study, prop: Property, example: Example, prefix: Path) -> None:
    at = study.perturbation.identity if options.at is None else np.array(options.at)
    if at.shape != study.perturbation.identity.shape:  # before anything is written
        raise OptionsError(f"--at needs {len(study.perturbation.ranges)} values, found {len(at)}")
    _save(prefix.with_name(f"{prefix.name}.onnx"), study.model().SerializeToString())
    _save(prefix.with_name(f"{prefix.name}.vnnlib"), study.spec(options.vnnlib).encode())
    notes = [*study.summary]
    if isinstance(prop, Pose) and example.view is not None:
        notes.append(_pose_note(study, prop, example.view))
    record = _record(options, study, example, notes)
    _save(prefix.with_name(f"{prefix.name}.json"), (json.dumps(record, indent=1) + "\n").encode())
    for line in [f"{prefix}.onnx {prefix}.vnnlib", *notes]:
        print(line)
    if options.draw is not None:
        draw.counterexample(study, at, _picture(options, prefix, example), prop)


def _pose_note(study: Study, prop: Pose, view: pose.View) -> str:
    """How far first order can be trusted, by exact PnP on sampled errors."""
    index = study.target.chosen(prop.hidden)
    tau = None
    if prop.allocation != "coupled":
        used = (2 * index[:, None] + np.arange(2)).ravel()
        tau = pose.allocate(pose.sensitivity(prop.jacobian[used]), prop.limits, prop.allocation)
    worst = pose.worst_ratio(view, index, prop.limits, tau)
    return (
        "Pose limits are linearised: exact PnP on 200 sampled key point errors inside the tolerance gives pose errors"
        f" of up to {worst:.3f} times the limits."
    )


def _record(options: argparse.Namespace, study: Study, example: Example, notes: list[str]) -> dict[str, object]:
    target = study.target
    clean = study.answer(study.perturbation.identity)
    points, seen = target.keypoints, target.visibility
    return {
        "image": example.name,
        "parameters": [{"name": r.name, "low": r.low, "high": r.high} for r in study.perturbation.ranges],
        "identity": study.perturbation.identity.tolist(),
        "clip": study.clip,
        "property": options.property,
        "reference": study.reference,
        "summary": notes,
        "keypoints": None if points is None or seen is None else np.column_stack([points, seen]).tolist(),
        "label": target.label,
        "excess_of_unchanged_image": float(study.compiled.excess(clean)),
    }


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
