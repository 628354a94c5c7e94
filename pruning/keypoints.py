"""Key points as labels of a network: in pixels of its input, in cells of its heatmaps, or refused with the reason.

Networks that `secateur train` makes answer in pixels of the input image, x before y, or give a map of scores per key
point. Some others answer in fractions of the image side: labels in pixels would teach them another task and make every
gradient wrong, so such a head is recognised by what it answers, and gets no labels.
"""

from __future__ import annotations

import numpy as np

from pruning.calibration import Activations
from pruning.net import Net

SEEN = 16  # images answered to tell pixels from fractions


def targets(net: Net, images: np.ndarray, points: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Labels (n, 2K) for key points (n, K, 2) in pixels of `images` (n, C, H, W), or None and the reason.

    Coordinates (n, 2K) get pixels. Heatmaps (n, K, R, C) get positions in cells: the centre of cell i lies at i.
    """
    count = points.shape[1]
    shape, (height, width) = net.shapes[net.outputs[0]], images.shape[2:]
    if len(net.outputs) == 1 and len(shape) == 4 and shape[1] == count:
        cells = points * (shape[3] / width, shape[2] / height) - 0.5
        return cells.reshape(len(points), -1).astype(np.float32), ""
    if len(net.outputs) != 1 or int(np.prod(shape[1:])) != 2 * count:
        return None, (
            f"the network answers with shape {list(shape)}, but {count} key points need {2 * count} coordinates or "
            f"{count} heatmaps; give labels for your own task as .npz"
        )
    labels = points.reshape(len(points), -1).astype(np.float32)
    said = Activations(net, net.outputs)(images[:SEEN])[net.outputs[0]].reshape(-1, 2 * count)
    seen = labels[: len(said)]
    fractions = seen / np.tile([width, height], count)
    if np.abs(said - fractions).mean() < np.abs(said - seen).mean():
        return None, (
            f"the network answers between {said.min():.3g} and {said.max():.3g}, nearer to fractions of the image side "
            f"than to pixels of its {height} x {width} input, in which key points are given; scale its output to "
            "pixels, or give labels in its own unit as .npz"
        )
    return labels, ""
