"""How the channels to remove are shared out over the layers of a study's network.

    uniform      the same share of every layer
    global       the lowest scores, relative to the median of their layer
    mrs          by measured sensitivity (`pruning.sensitivity`, form `prune`)
    marginal     where the next channels of the criterion cost the least certified loss (`pruning.marginal`)
    dense-first  from the hidden dense layers first, down to `least` neurons each; the rest, the same share of every
                 convolution

The last one because a share of all channels is easiest to spare where the many are: half of the hidden channels of
`cnn7` are neurons of its one wide dense layer, and its output is a point set with few degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.calibration import Calibration
from pruning.groups import Groups
from pruning.marginal import marginal_counts
from pruning.options import ChannelFloor
from pruning.scores import Scores
from pruning.sensitivity import mrs_ratios


def settings(
    name: str, scores: Scores, data: Calibration, ratio: float, least: int, floor: ChannelFloor
) -> dict[str, Any]:
    """Arguments of `make_plan` for this allocation; the same for every criterion, but for `global` and `marginal`."""
    if name == "mrs":
        return {"allocation": "mrs", "layer_ratios": mrs_ratios(scores.groups, data, ratio, "prune", False)}
    if name == "dense-first":
        return {"allocation": "mrs", "layer_ratios": dense_first(scores.groups, ratio, least)}
    if name == "marginal":
        return {"allocation": name, "counts": marginal_counts(scores, data, ratio, False, floor)}
    return {"allocation": name}


def dense_first(groups: Groups, ratio: float, least: int) -> Mapping[str, float]:
    """Share to remove by group name; together `ratio` of the channels of the groups that can be pruned."""
    sizes = {g.name: len(g.channels) for g in groups.groups if len(g.free) and g.kind == "internal"}
    types = {g.name: groups.net.nodes[g.producers[0]].type for g in groups.groups}
    dense = {name for name in sizes if types[name] in ("Gemm", "MatMul")}
    wanted = ratio * sum(sizes.values())
    room = {name: max(0, sizes[name] - least) for name in dense}
    taken = min(1.0, wanted / max(1, sum(room.values())))
    left = wanted - taken * sum(room.values())
    others = left / max(1, sum(sizes[name] for name in sizes if name not in dense))
    return {n: taken * room[n] / sizes[n] if n in dense else min(1.0, others) for n in sizes}
