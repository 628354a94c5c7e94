"""Unstructured masks: single weights set to zero. Shapes and neurons stay; only a comparison with structured
pruning.
"""

from __future__ import annotations

import numpy as np

from pruning.calibration import Calibration
from pruning.errors import CriterionError, DataError, NothingToPrune
from pruning.groups import find_groups
from pruning.net import Net
from pruning.options import ScoreOptions, share
from pruning.scores.weights import cut_lowest, prunable_weights


def zero_weights(net: Net, criterion: str, ratio: float, data: Calibration | None, options: ScoreOptions) -> Net:
    """Zero the lowest `ratio` of all kernel and matrix entries by |w|, by |g*w| or at random."""
    share(ratio)
    groups = find_groups(net)
    weights = {name: net.weights[name] for name in prunable_weights(groups)}
    if not weights:
        raise NothingToPrune("nothing to prune: the network has no stored kernel or matrix")
    if criterion == "l1":
        importance = {name: np.abs(value) for name, value in weights.items()}
    elif criterion == "random":
        rng = np.random.default_rng(options.seed)
        importance = {name: rng.random(value.shape) for name, value in weights.items()}
    elif criterion == "snip":
        from pruning.gradients import gradient_products  # PyTorch

        if data is None:
            raise DataError("unstructured 'snip' needs labelled calibration data")
        (product,) = gradient_products(groups, data.fitted(net), options.batch_size, 1)
        importance = {name: np.abs(product.get(name, np.zeros(value.shape))) for name, value in weights.items()}
    else:
        raise CriterionError(f"unstructured masks exist for l1, random and snip, not for '{criterion}'")
    return net.changed(weights=cut_lowest(weights, importance, ratio))
