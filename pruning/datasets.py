"""Calibration data: the pictures of any source (`verifier.data.source`), or arrays that are no pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pruning.calibration import Calibration, Perturbation, perturbation
from pruning.errors import DataError
from pruning.keypoints import answers, targets
from pruning.net import Net
from verifier.data import source as sources
from verifier.data import unchanged
from verifier.data.frame import Frame, Head
from verifier.data.options import CROP
from verifier.data.source import Annotated, PictureArrays
from verifier.errors import ModelError, SecateurError

if TYPE_CHECKING:
    from verifier.data.source import PictureSource, Sample

SPLIT = "train"


def load_data(
    source: str,
    net: Net,
    semantic: Perturbation | None = None,
    images: int = 256,
    samples: int = 32,
    seed: int = 0,
    split: str = SPLIT,
    *,
    crop: str = CROP,
    folder: Path | None = None,
    layout: str = "auto",
    channels: int | None = None,
    head: Head | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Read at most `images` pictures shaped for `net` from what `--data` can name (see `verifier.data.source.find`).

    Pictures are in [0, 1], as everywhere. Key points are pixels of the network's input; labels are what the network
    should answer for them: outputs y with pixel = scale y + shift (`head`, by default y in pixels, which is checked),
    or cells of its heatmaps. Where that does not fit there are no labels, and `unlabelled` says why. An .npz file may
    also hold `labels`: classes, or targets in the network's own units. Inputs that are no pictures are taken as they
    are.

    say: gets what was done to the pictures, and what the network answers to them. Raises DataError.
    """
    if images < 1:
        raise DataError(f"{images} images; expected at least 1")
    if len(net.inputs) != 1:
        raise DataError(f"the network has {len(net.inputs)} inputs; calibration data feed only one")
    try:
        found, labels, reason = _read(source, net, images, seed, split, crop, folder, layout, channels, head, say)
    except DataError:
        raise
    except SecateurError as error:
        raise DataError(str(error)) from error
    semantic = perturbation("") if semantic is None else semantic
    frame = _frame(net, layout, channels)
    return Calibration(found, labels, semantic, samples, seed, reason, frame).fitted(net)


def _frame(net: Net, layout: str, channels: int | None) -> Frame | None:
    """The picture that the network takes, None where its input is none."""
    try:
        return Frame.of(net.shapes[net.inputs[0]], layout, channels)
    except ModelError:
        return None


def _read(
    text: str, net: Net, count: int, seed: int, split: str, crop: str, folder: Path | None, layout: str,
    channels: int | None, head: Head | None, say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray | None, str]:  # fmt: skip
    """Images, labels, and why there are none."""
    source = sources.find(text, split=split, crop=crop, folder=folder)
    shape = net.shapes[net.inputs[0]]
    arrays = source if isinstance(source, sources.PictureArrays) else None
    frame = Frame.of(shape, layout, channels) if arrays is None else _frame(net, layout, channels)
    if arrays is not None and (frame is None or arrays.arrays["images"].ndim == 2):
        return _plain(arrays, net, count, seed, say)
    assert frame is not None
    rows = _rows(source, count, seed)
    given = source.read(frame, rows)
    samples = [s for s in given if s.scene is not None or s.visibility is None or s.visibility.all()]
    if not samples:
        raise DataError(f"{text}: no picture with all its key points in it (visibility 1 or 2)")
    say(source.note(frame))
    if len(samples) < len(given):
        say(f"{len(given) - len(samples)} of {len(given)} pictures are left out: some key points are not in them")
    found = np.stack([frame.arrange(s.image)[0] if len(shape) > 3 else frame.arrange(s.image) for s in samples])
    found = found.reshape(len(samples), *shape[1:]).astype(np.float32)
    if arrays is not None and arrays.targets is not None and arrays.points is None:
        return found, _own_units(arrays.targets[rows], net, found, say), ""
    labels, reason = _labels(samples, net, frame, found, head, say)
    return found, labels, reason


def _labels(
    samples: list[Sample], net: Net, frame: Frame, images: np.ndarray, head: Head | None, say: Callable[[str], None]
) -> tuple[np.ndarray | None, str]:
    points = [s.keypoints for s in samples if s.keypoints is not None]
    classes = [s.label for s in samples if s.label is not None]
    known = np.array(classes, np.int64) if len(classes) == len(samples) and len(points) < len(samples) else None
    truth = np.stack(points) if len(points) == len(samples) and len({len(p) for p in points}) == 1 else None
    reason = f"{max(len(points), len(classes))} of {len(samples)} pictures have key points or a class"
    labels = known
    if truth is not None:
        labels, reason = targets(net, images, truth, frame, head)
    said = answers(net, images, truth, known, frame, head)
    say(unchanged.line(said))
    for line in unchanged.warnings(said):
        say(f"warning: {line}")
    return labels, "" if labels is not None else reason


def _plain(
    arrays: object, net: Net, count: int, seed: int, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Rows of numbers as they are (8-bit ones over 255); labels are classes, or in the network's own units."""
    assert isinstance(arrays, PictureArrays)
    held = arrays.arrays["images"]
    rows = _rows(arrays, count, seed)
    found = held[rows].astype(np.float32) / (255.0 if held.dtype == np.uint8 else 1.0)
    shape = net.shapes[net.inputs[0]]
    if found[0].size != np.prod(shape):
        raise DataError(f"{arrays.path}: images have shape {found.shape[1:]}, the network input expects {shape[1:]}")
    found = found.reshape(len(found), *(shape[1:] if len(shape) > 1 else shape))
    classes, values = arrays.classes, arrays.targets
    if values is not None:
        return found, _own_units(values[rows], net, found, say), ""
    if classes is None:
        return found, None, "give them as 'labels' in the .npz file"
    return found, classes[rows], ""


def _own_units(labels: np.ndarray, net: Net, images: np.ndarray, say: Callable[[str], None]) -> np.ndarray:
    """Targets of an .npz file, with a warning where the network answers in another scale."""
    said = np.concatenate([a.output for a in answers(net, images)])
    spans = [f"{value.min():.4g}..{value.max():.4g}" for value in (said, labels)]
    say(f"unchanged images: outputs span {spans[0]}, labels {spans[1]}")
    if unchanged.out_of_scale(said, labels):
        say("warning: labels and outputs differ in scale; training moves the network to the scale of the labels")
    return labels


def _rows(source: PictureSource, count: int, seed: int) -> list[int]:
    """Pictures to use: the first ones of an endless source, else all, or a random choice in storage order.

    Objects of which a key point is not known are left out: the losses here have no mask for them.
    """
    if source.count is None:
        return list(range(count))
    usable = range(source.count)
    if isinstance(source, Annotated):
        usable = [i for i, a in enumerate(source.annotations) if a.visibility.all()]  # type: ignore[assignment]
        if not usable:
            raise DataError(f"{source.path}: no annotation with all keypoints labelled")
    if len(usable) <= count:
        return list(usable)
    return [usable[i] for i in np.sort(np.random.default_rng(seed).choice(len(usable), count, replace=False))]
