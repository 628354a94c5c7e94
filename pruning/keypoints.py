"""Key points as labels of a network: in the unit of its outputs, in cells of its heatmaps, or refused with the reason.

Networks that `secateur train` makes answer in pixels of the input image, x before y, or give a map of scores per key
point. Others answer in fractions of the image side, say: labels in pixels would teach them another task and make every
gradient wrong. So a head whose answers are on another scale than the key points gets no labels, unless the user has
said what its outputs mean.
"""

from __future__ import annotations

import numpy as np

from pruning.calibration import Activations
from pruning.net import Net
from verifier.data.frame import PIXELS, Frame, Head
from verifier.data.unchanged import UnchangedAnswer, out_of_scale

SEEN = 16  # images answered to tell the scale
ANSWERED = 256  # images answered to state the error


def targets(
    net: Net, images: np.ndarray, points: np.ndarray, frame: Frame, head: Head | None = None
) -> tuple[np.ndarray | None, str]:
    """Labels (n, 2K) for key points (n, K, 2) in pixels of the pictures in `images` (n, ...), or None and the reason.

    Coordinates (n, 2K) get outputs by `head`; without one they are taken for pixels, if the network answers on that
    scale. Heatmaps (n, K, R, C) get positions in cells: the centre of cell i lies at i.
    """
    count = points.shape[1]
    shape = net.shapes[net.outputs[0]]
    if _is_maps(net, count):
        cells = points * (shape[3] / frame.width, shape[2] / frame.height) - 0.5
        return cells.reshape(len(points), -1).astype(np.float32), ""
    if len(net.outputs) != 1 or int(np.prod(shape[1:])) != 2 * count:
        return None, (
            f"the network answers with shape {list(shape)}, but {count} key points need {2 * count} coordinates or "
            f"{count} heatmaps; give labels for your own task as .npz"
        )
    labels = (head or PIXELS).value(points).reshape(len(points), -1).astype(np.float32)
    said = _outputs(net, images[:SEEN])
    if head is None and out_of_scale(said, labels[:SEEN]):
        return None, (
            f"the network answers between {said.min():.3g} and {said.max():.3g}, the key points lie between "
            f"{points.min():.3g} and {points.max():.3g} pixels of its {frame.height} x {frame.width} input: they "
            "differ in scale; say what outputs mean by --output-scale and --output-shift"
        )
    return labels, ""


def answers(
    net: Net, images: np.ndarray, points: np.ndarray | None = None, classes: np.ndarray | None = None,
    frame: Frame | None = None, head: Head | None = None,
) -> list[UnchangedAnswer]:  # fmt: skip
    """What the network says to the first images, beside key points (n, K, 2) in pixels or classes (n,)."""
    said = _outputs(net, images[:ANSWERED])
    if classes is not None:
        return [UnchangedAnswer(y, int(y.argmax()), int(c)) for y, c in zip(said, classes, strict=False)]
    if points is None or frame is None:
        return [UnchangedAnswer(y) for y in said]
    found = _found(net, said, points.shape[1], frame, head or PIXELS)
    if found is None:
        return [UnchangedAnswer(y) for y in said]
    return [UnchangedAnswer(y, at, truth) for y, at, truth in zip(said, found, points, strict=False)]


def _outputs(net: Net, images: np.ndarray) -> np.ndarray:
    """Flat outputs (n, m), float64."""
    name = net.outputs[0]
    return Activations(net, [name])(images)[name].reshape(len(images), -1).astype(np.float64)


def _is_maps(net: Net, count: int) -> bool:
    shape = net.shapes[net.outputs[0]]
    return len(net.outputs) == 1 and len(shape) == 4 and shape[1] == count


def _found(net: Net, said: np.ndarray, count: int, frame: Frame, head: Head) -> np.ndarray | None:
    """Key points (n, K, 2) in pixels that outputs (n, m) stand for; None if they stand for none."""
    if _is_maps(net, count):
        rows, columns = net.shapes[net.outputs[0]][2:]
        best = said.reshape(len(said), count, -1).argmax(2)
        cells = np.stack([best % columns, best // columns], 2) + 0.5
        return np.asarray(cells * (frame.width / columns, frame.height / rows))
    return head.pixels(said) if said.shape[1] == 2 * count else None
