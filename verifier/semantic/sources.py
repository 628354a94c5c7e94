"""Pictures of a data source as examples of a network: image, target, and the camera where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verifier.brief import brief
from verifier.data import airframe, truth
from verifier.data.render import camera
from verifier.data.scene import FOCAL, Scene
from verifier.data.source import Annotated, PictureArrays, PictureSource, Rendered, Sample
from verifier.errors import OptionsError, ProblemError
from verifier.semantic import pose
from verifier.semantic.network import ImageNetwork
from verifier.semantic.target import Target


@dataclass(frozen=True, eq=False)
class Example:
    """image float64 (C, H, W) in [0, 1]; target or None; view: the camera, where it is known; name for files.

    note: what was done to the picture to fit the network, if anything.
    """

    __repr__ = brief

    image: np.ndarray
    target: Target | None
    name: str
    view: pose.View | None = None
    note: str = ""


def examples(network: ImageNetwork, source: PictureSource, indices: Sequence[int]) -> list[Example]:
    """The pictures of these indices, at the network's size."""
    return [_example(network, sample) for sample in source.read(network.frame, indices)]


def check_truth(source: PictureSource) -> None:
    """ProblemError for an .npz file whose labels only training can use."""
    if isinstance(source, PictureArrays) and source.targets is not None and source.points is None:
        raise ProblemError(
            f"{source.path}: labels of a floating type are in the network's own units; give key points as 'keypoints' "
            "(n, K, 2) in pixels, or classes as labels of an integer type; or --reference self"
        )


def rendered(network: ImageNetwork, split: str, start: int, stop: int, view: str = "quarter") -> list[Example]:
    """Pictures start .. stop-1 of `aircraft23`."""
    return examples(network, Rendered(split, view), range(start, stop))


def one_object(source: PictureSource, identity: int) -> PictureSource:
    """The source with only this COCO annotation; OptionsError where there are no annotations."""
    if not isinstance(source, Annotated):
        raise OptionsError(
            "--annotation needs a COCO file: --data COCO.json, and --pictures DIR where they lie elsewhere"
        )
    return Annotated(source.path, source.folder, source.crop, identity)


def told(example: Example, file: Path | None, label: int | None) -> Example:
    """The example with the truth that the user names instead of the source's: a JSON file, or a class."""
    if file is None and label is None:
        return example
    known = truth.Truth() if file is None else truth.read(file)
    if known.keypoints is None and known.label is None and label is None:
        raise OptionsError(f"{file}: holds neither key points nor a class")
    target = Target(known.keypoints, known.visibility, known.label if label is None else label)
    return Example(example.image, target, example.name, example.view, example.note)


def _example(network: ImageNetwork, sample: Sample) -> Example:
    target = None
    if sample.keypoints is not None or sample.label is not None:
        target = Target(sample.keypoints, sample.visibility, sample.label)
    view = None if sample.scene is None else _view(sample.scene, network.width)
    return Example(sample.image, target, sample.name, view, sample.note)


def _view(scene: Scene, size: int) -> pose.View:
    place = camera(scene)
    body = airframe.keypoints() @ place.body.T
    return pose.View(body, np.array([0.0, 0.0, place.distance]), FOCAL * size, place.centre * size)
