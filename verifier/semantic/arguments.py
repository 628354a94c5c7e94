"""The options of `spec` and `coverage` that say what is asked: ranges of parameters, the property; and their values."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from verifier.console.arguments import numbers, tolerance, tolerances
from verifier.data import options as shared
from verifier.data import source, truth
from verifier.data.frame import PIXELS, Head
from verifier.errors import OptionsError
from verifier.perturbation.options import add_perturbation
from verifier.perturbation.perturbation import Perturbation
from verifier.semantic import pose, sources
from verifier.semantic.network import ImageNetwork
from verifier.semantic.problem import REFERENCES, SemanticProblem, prepare
from verifier.semantic.properties import Coordinates, ErrorBudget, Heatmap, Label, Pose, Property
from verifier.semantic.sources import Example

KINDS = ("linf", "l1", "l2", "heatmap", "budget-mean", "budget-sum", "pose", "label")


def add_truth(group: argparse._ArgumentGroup) -> None:
    """What a single picture shows, where the source does not say it."""
    group.add_argument("--keypoints", type=Path, metavar="JSON", help="key points of the one picture")
    group.add_argument("--annotation", type=int, metavar="ID", help="only this object of the COCO file")
    group.add_argument("--label", type=int, help="true class of the one picture")


def add_ranges(group: argparse._ArgumentGroup) -> None:
    """The parameters, the constants of their steps, and the clip."""
    add_perturbation(group)
    group.add_argument("--no-clip", action="store_true", help="leave values outside [0, 1] as they are")
    group.add_argument("--clip", choices=("clip", "relu"), default="clip", help="one Clip node, or two ReLUs")


def add_property(group: argparse._ArgumentGroup) -> None:
    """What is to stay true."""
    group.add_argument(
        "--property",
        choices=KINDS,
        help="linf, l1, l2: every key point, as coordinates; heatmap: every argmax; budget-mean, budget-sum: "
        "|dx| + |dy| over all key points, for both kinds of networks; pose: of aircraft23; label: the class "
        "(default: heatmap or linf, as the network is; label where the truth is a class)",
    )
    group.add_argument("--tolerance", type=tolerances, help="pixels (3, 3px) or share of the width (5%%), or one each")
    group.add_argument("--limit", type=tolerance, help="as --tolerance, for the budget properties")
    group.add_argument("--weights", type=numbers, help="one per key point, for the budget properties")
    group.add_argument("--sides", type=int, default=16, help="sides of the polygon inside the L2 disc")
    group.add_argument("--pose-limits", type=numbers, help="6 numbers: rotation x,y,z (rad), translation x,y,z")
    group.add_argument("--allocation", choices=pose.ALLOCATIONS, default="coupled")
    group.add_argument("--reference", choices=REFERENCES, default="gt", help="ground truth, or the clean prediction")
    group.add_argument("--include-hidden", action="store_true", help="hidden key points (visibility 1) count too")
    group.add_argument("--offset", type=float, help="heatmaps: pixels from a cell's corner to its position")


def pictures(
    options: argparse.Namespace, network: ImageNetwork, data: str | None = None
) -> tuple[list[Example], str, list[Path]]:
    """The pictures of the command line (`data` where it names none), how they get the network's size, what was read."""
    place, folder, keypoints = options.data or data, options.pictures, options.keypoints
    if place is None:
        raise OptionsError("no picture; give --data, for instance --data aircraft23:test:0 or --data picture.png")
    if options.annotation is not None and keypoints is not None:  # the folder of the pictures, and their COCO file
        place, folder, keypoints = str(keypoints), Path(place), None
    if keypoints is not None:
        truth.read(keypoints)  # a COCO file without --annotation is told before anything about the pictures
    found = source.find(place, crop=options.crop, folder=folder)
    if options.annotation is not None:
        found = sources.one_object(found, options.annotation)
    if options.reference == "gt":
        sources.check_truth(found)
    chosen = shared.chosen(options.images, found.count)
    if len(chosen) > 1 and (keypoints is not None or options.label is not None):
        raise OptionsError(f"--keypoints and --label speak about one picture, these are {len(chosen)}")
    if keypoints is not None and isinstance(found, source.Rendered | source.Annotated):
        raise OptionsError(f"'{place}' brings its own key points; leave out --keypoints")
    told = [sources.told(e, keypoints, options.label) for e in sources.examples(network, found, chosen)]
    return told, found.note(network.frame), [*found.paths(), *([] if keypoints is None else [keypoints])]


def perturbation(options: argparse.Namespace) -> Perturbation:
    """The ranges of the command line."""
    return Perturbation.parse(options.semantic, clip=not options.no_clip)


def kind(options: argparse.Namespace, network: ImageNetwork, example: Example) -> str:
    """The property by name: the given one, else what network and truth are made for."""
    if options.property is not None:
        return str(options.property)
    if len(network.output) > 2 and network.n_outputs != max(network.output):
        return "heatmap"
    target = example.target
    return "label" if target is not None and target.keypoints is None and target.label is not None else "linf"


def properties(options: argparse.Namespace, network: ImageNetwork, example: Example) -> Property:
    """The property of the command line; a pose property takes its camera from the example."""
    name, hidden = kind(options, network, example), options.include_hidden
    head = Head.given(options.output_scale, options.output_shift) or PIXELS
    if name == "label":
        return Label()
    if name == "pose":
        if example.view is None:
            raise OptionsError("the pose property needs a known camera; it is offered for aircraft23 images")
        if options.pose_limits is None:
            raise OptionsError("the pose property needs --pose-limits")
        limits = pose.check_limits(np.array(options.pose_limits))
        return Pose(example.view.jacobian(), limits, options.allocation, hidden, head)
    if name.startswith("budget"):
        if options.limit is None:
            raise OptionsError("a budget property needs --limit: how many pixels the key points may be off together")
        return ErrorBudget(
            options.limit.pixels(network.width), name == "budget-mean", options.weights, hidden, head, options.offset
        )
    if options.tolerance is None:
        classes = " (for a classifier: --property label)" if example.target is None else ""
        raise OptionsError(f"property {name} needs --tolerance: pixels (3px) or a share of the width (5%){classes}")
    pixels = tuple(one.pixels(network.width) for one in options.tolerance)
    reach = pixels[0] if len(pixels) == 1 else pixels
    if name == "heatmap":
        return Heatmap(reach, options.offset, hidden)
    return Coordinates(reach, name, options.sides, hidden, head)


def problem(
    options: argparse.Namespace, network: ImageNetwork, example: Example, perturbed: Perturbation, prop: Property
) -> SemanticProblem:
    """The problem of one picture."""
    how = {"reference": options.reference, "clip": options.clip}
    return prepare(network, example.image, example.target, perturbed, prop, **how)
