"""Where the image and its truth come from: a picture file, `aircraft23:split:index`, or a COCO annotation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verifier.brief import brief
from verifier.data import aircraft23, airframe, coco, pictures
from verifier.data.render import camera
from verifier.data.scene import FOCAL
from verifier.errors import OptionsError
from verifier.semantic import pose
from verifier.semantic.network import Network
from verifier.semantic.target import Target, read_json

RENDERED = re.compile(r"aircraft23:(\w+):(\d+)(?:-(\d+))?(?::(\w+))?")
MAX_IMAGES = 100_000


@dataclass(frozen=True, eq=False)
class Example:
    """image float64 (C, H, W) in [0, 1]; target or None; view: the camera, where it is known; name for files."""

    __repr__ = brief

    image: np.ndarray
    target: Target | None
    name: str
    view: pose.View | None = None


def rendered(network: Network, split: str, start: int, stop: int, view: str = "quarter") -> list[Example]:
    """Pictures start .. stop-1 of `aircraft23`, at the network's size and number of channels."""
    if network.width != network.height:
        raise OptionsError(f"aircraft23 pictures are square, the network takes {network.width}x{network.height}")
    if stop - start > MAX_IMAGES:
        raise OptionsError(f"{stop - start} pictures are too many at once; at most {MAX_IMAGES}")
    size = network.width
    data = aircraft23.load(split, stop - start, size=size, grey=network.channels == 1, start=start, view=view)
    examples = []
    for i, (image, points, seen) in enumerate(zip(*data, strict=True)):
        place = camera(aircraft23.scene(split, start + i, view=view))
        body = airframe.keypoints() @ place.body.T
        lens = pose.View(body, np.array([0.0, 0.0, place.distance]), FOCAL * size, place.centre * size)
        target = Target(points.astype(np.float64), seen)
        examples.append(Example(image.astype(np.float64), target, f"{split}{start + i:05d}", lens))
    return examples


def from_options(
    network: Network, image: str, keypoints: Path | None, annotation: int | None, label: int | None
) -> list[Example]:
    """The examples named by the command line.

    image: a picture file; or `aircraft23:SPLIT:INDEX`, `aircraft23:SPLIT:FIRST-LAST`, both with an optional `:VIEW`;
    or, with `annotation`, the folder of the pictures of a COCO file given as `keypoints`.
    """
    match = RENDERED.fullmatch(image)
    if match:
        if keypoints is not None or annotation is not None:
            raise OptionsError("aircraft23 brings its own key points; leave out --keypoints and --annotation")
        first = int(match[2])
        last = int(match[3]) if match[3] else first
        if last < first:
            raise OptionsError(f"the index range {first}-{last} is empty")
        return rendered(network, match[1], first, last + 1, match[4] or "quarter")
    if image.startswith("aircraft23:"):
        raise OptionsError(f"'{image}' is not of the form aircraft23:SPLIT:INDEX or aircraft23:SPLIT:FIRST-LAST")
    if annotation is not None:
        if keypoints is None:
            raise OptionsError("--annotation needs the COCO file as --keypoints and the picture folder as --image")
        return [_annotated(network, Path(image), keypoints, annotation)]
    picture = pictures.read(Path(image), network.channels)
    target = read_json(keypoints) if keypoints is not None else Target(label=label) if label is not None else None
    return [Example(picture, target, Path(image).stem)]


def _annotated(network: Network, folder: Path, file: Path, identity: int) -> Example:
    if network.width != network.height:
        raise OptionsError(f"COCO crops are square, the network takes {network.width}x{network.height}")
    found = [a for a in coco.read(file).annotations if a.identity == identity]
    if not found:
        raise OptionsError(f"{file}: no annotation {identity} with key points (crowds are left out)")
    crop = coco.crop(found[0], folder, network.width, network.channels)
    return Example(crop.image, Target(crop.keypoints, crop.visibility), f"annotation{identity}")
