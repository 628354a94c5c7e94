"""How well a network answers its labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.calibration import Activations, Calibration
from pruning.net import Net


def is_heatmap(output: Any, labels: Any) -> bool:
    """True if `labels` are positions (n, 2K) in the maps `output` (n, K, R, C)."""
    return len(output.shape) == 4 and labels.shape[1:] == (2 * output.shape[1],)


def error(net: Net, data: Calibration) -> float:
    """Mean squared error on the clean images, in the unit of the labels, or the share of wrong classes.

    A heatmap answers with the cell of its highest score.
    """
    output = Activations(net, [net.outputs[0]])(data.images)[net.outputs[0]]
    labels = data.need_labels("the error")
    if labels.dtype.kind == "f" and is_heatmap(output, labels):
        best = output.reshape(*output.shape[:2], -1).argmax(2)
        output = np.stack([best % output.shape[3], best // output.shape[3]], 2)
    output = output.reshape(len(data.images), -1)
    if labels.dtype.kind != "f":
        return float((output.argmax(1) != labels.reshape(-1)).mean())
    return float(((output - labels.reshape(len(labels), -1)) ** 2).mean())
