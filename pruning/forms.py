"""Forward bounds in PyTorch for certified training: centre, generators and radius, differentiable in the weights.

A value over a cell is c + sum_i a_i u_i +- r with |u_i| <= 1. Over a cell of S there is a generator for every
parameter and every product of them, and ReLU keeps the chord's slope with the parallel line through the middle; without
generators these are plain intervals (Gowal et al. 2018), which say nothing on the whole rectangle. Rising operators and
products with stored values fall back to intervals, where the dependence on s is lost.

For training only: rounding is not accounted for, so these bounds prove nothing and are never used as such.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from pruning import losses
from pruning.calibration import Calibration
from pruning.errors import CriterionError
from pruning.measure import is_heatmap
from pruning.net import OnnxNode
from pruning.torch_bridge import TorchNet
from verifier.graph.operators import traits
from verifier.perturbation.enclosure import ImageMaps

Ends = tuple[Any, Any]


class Form(NamedTuple):
    """c, the generators a_i and r >= 0, all (n, ...)."""

    centre: Any
    generators: tuple[Any, ...]
    radius: Any

    @property
    def ends(self) -> Ends:
        """Lower and upper bounds."""
        spread = sum((part.abs() for part in self.generators), self.radius)
        return self.centre - spread, self.centre + spread

    def linear(self, centre: Any, part: Any, radius: Any) -> Form:
        """`centre`, `part` and `radius` applied to the three."""
        return Form(centre(self.centre), tuple(part(a) for a in self.generators), radius(self.radius))


def interval_bounds(model: TorchNet, lower: Any, upper: Any) -> Ends:
    """Bounds (n, ...) of the output for inputs between `lower` and `upper`; CriterionError names what has no rule."""
    return _walk(model, Form((lower + upper) / 2, (), (upper - lower) / 2))


def output_bounds(model: TorchNet, data: Calibration, images: np.ndarray, middle: np.ndarray, half: np.ndarray) -> Ends:
    """Bounds (n, ...) of the outputs for images (n, *S) changed as `data` says, s in middle +- half, both (n, d).

    Raises CriterionError naming the node that has no rule.
    """
    maps = ImageMaps.of([data.image_map(image) for image in images], torch.device("cpu"))
    centre, radius = (torch.from_numpy(np.broadcast_to(s, middle.shape).astype(np.float64)) for s in (middle, half))
    cell = maps.over(centre, radius, torch.arange(len(images)))
    generators = (*(cell.slopes * radius[:, :, None]).unbind(1), *cell.shared.unbind(1))

    def single(part: Any) -> Any:
        return model.tensor(part.float().numpy().reshape(images.shape))

    form = Form(cell.value, generators, cell.slack).linear(single, single, single)
    if data.semantic.clip:  # clip(v, 0, 1) = 1 - relu(1 - relu(v))
        form = _mirror(_relu(_mirror(_relu(form))))
    return _walk(model, form)


def worst_loss(lower: Any, upper: Any, labels: Any) -> Any:
    """Task loss of the worst output between bounds (n, ...): worst logits for classes, the further end for regression,
    for heatmaps the lowest scores where the target is and the highest everywhere.
    """
    if labels.is_floating_point() and is_heatmap(lower, labels):
        target = losses.spots(lower, labels)
        return (upper.flatten(2).logsumexp(2) - (target * lower.flatten(2)).sum(2)).mean()
    low, high = (side.reshape(len(side), -1) for side in (lower, upper))
    if labels.is_floating_point():
        target = labels.reshape(len(labels), -1)
        return torch.maximum((low - target).pow(2), (high - target).pow(2)).mean()
    chosen = torch.nn.functional.one_hot(labels.reshape(-1).long(), low.shape[1]).bool()
    return torch.nn.functional.cross_entropy(torch.where(chosen, low, high), labels.reshape(-1).long())


def rising(node: OnnxNode) -> bool:
    """True if the outputs of this node do not fall when its input rises (weights of an interpolation included)."""
    if _interpolates(node):
        return node.attrs.get("mode", b"nearest") in (b"nearest", b"linear")
    return len(node.outputs) == 1 and traits(node.type).rises(node.attrs)


def _interpolates(node: OnnxNode) -> bool:
    return node.type in ("Resize", "Upsample")


def _walk(model: TorchNet, form: Form) -> Ends:
    net = model.net
    values = {net.inputs[0]: form}
    for node in net.nodes:
        if node.type != "Constant" or node.inputs:
            values[node.outputs[0]] = _step(model, node, values)
    return values[net.outputs[0]].ends


def furthest(lower: Any, upper: Any, target: Any) -> Any:
    """The outputs (n, m) between the bounds that are furthest from the target, element by element."""
    return torch.where((lower - target).abs() > (upper - target).abs(), lower, upper)


def _mirror(form: Form) -> Form:
    """1 - v."""
    return form.linear(lambda c: 1 - c, lambda a: -a, lambda r: r)


def _relu(form: Form) -> Form:
    low, high = form.ends
    slope = high.clamp_min(0) / (high.clamp_min(0) - low.clamp_max(0)).clamp_min(1e-12)
    gap = -slope * low.clamp_max(0) / 2
    slope, gap = (torch.where(high <= 0, torch.zeros_like(part), part) for part in (slope, gap))
    return form.linear(lambda c: slope * c + gap, lambda a: slope * a, lambda r: slope * r + gap)


def _step(model: TorchNet, node: OnnxNode, values: dict[str, Form]) -> Form:
    """Form of the first output of a node; CriterionError if it has no rule."""
    data = [name for name in node.inputs if name in values]
    form = values[node.inputs[0]] if data and data == [node.inputs[0]] else None

    def plain(part: Any, offset: bool = True) -> Any:
        return model.run_node(node, [part], offset=offset)

    if form is not None and node.type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return form.linear(
            plain, lambda a: plain(a, False), lambda r: model.run_node(node, [r], lambda w: w.abs(), offset=False)
        )
    if form is not None and node.type == "Relu" and form.generators:
        return _relu(form)
    if form is not None and rising(node):
        if traits(node.type).linear or _interpolates(node):  # and without an offset
            return form.linear(plain, plain, plain)
        low, high = (plain(end) for end in form.ends)
        middle = (low + high) / 2
        return Form(middle, tuple(middle * 0 for _ in form.generators), (high - low) / 2)
    if form is not None and node.type in ("BatchNormalization", "Mul", "Div"):  # a stored factor of either sign
        start = plain(form.centre * 0)
        return form.linear(plain, lambda a: plain(a) - start, lambda r: (plain(r) - start).abs())
    if node.type in ("Add", "Sub"):
        sign = 1 if node.type == "Add" else -1
        left, right = (values[n] if n in values else _stored(model.weight(n), values[data[0]]) for n in node.inputs)
        pairs = zip(left.generators, right.generators, strict=True)
        moved = tuple(a + sign * b for a, b in pairs)
        return Form(left.centre + sign * right.centre, moved, left.radius + right.radius)
    if node.type == "Concat" and len(data) == len(node.inputs):
        axis, parts = int(node.attrs["axis"]), [values[name] for name in data]
        kinds = zip(*([part.centre, *part.generators, part.radius] for part in parts), strict=True)
        centre, *generators, radius = (torch.cat(list(kind), axis) for kind in kinds)
        return Form(centre, tuple(generators), radius)
    kind = "rule" if next(iter(values.values())).generators else "interval rule"
    raise CriterionError(f"the certified loss has no {kind} for node '{node.label}' ({node.type})")


def _stored(value: Any, like: Form) -> Form:
    return Form(value, tuple(value * 0 for _ in like.generators), value * 0)
