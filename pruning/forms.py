"""Forward affine bounds in PyTorch for certified training: centre + two generators + radius, differentiable.

A value over a cell of S is c + a_1 u_1 + a_2 u_2 +- r with |u| <= 1: u_1 moves the contrast, u_2 the brightness, r
holds the relaxations. ReLU keeps the chord's slope, with the parallel
line through the middle; other rising operators fall back to the interval. For training only, like `ibp`: rounding is
not accounted for, so nothing is proved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pruning import ibp
from pruning.errors import CriterionError
from pruning.net import OnnxNode
from pruning.torch_bridge import TorchNet
from verifier.graph.operators import traits


class Form(NamedTuple):
    """c, a_1, a_2 and r >= 0, all (n, ...)."""

    centre: Any
    first: Any
    second: Any
    radius: Any

    @property
    def ends(self) -> ibp.Ends:
        """Lower and upper bounds."""
        spread = self.first.abs() + self.second.abs() + self.radius
        return self.centre - spread, self.centre + spread


def output_bounds(model: TorchNet, images: Any, middle: Any, half: Any, clip: bool = True) -> ibp.Ends:
    """Bounds (n, ...) of the outputs for x'(s) = clip(alpha x + beta, 0, 1), s in middle +- half, both (n, 2).

    images (n, *S). Raises CriterionError naming the node that has no rule.
    """
    wide = (-1, *[1] * (images.ndim - 1))
    alpha, beta = (middle[:, i].reshape(wide) for i in (0, 1))
    rise, shift = (half[:, i].reshape(wide) for i in (0, 1))
    zero = images * 0
    form = Form(alpha * images + beta, rise * images, shift + zero, zero)
    if clip:  # clip(v, 0, 1) = 1 - relu(1 - relu(v))
        form = _mirror(_relu(_mirror(_relu(form))))
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
    return Form(1 - form.centre, -form.first, -form.second, form.radius)


def _relu(form: Form) -> Form:
    low, high = form.ends
    slope = high.clamp_min(0) / (high.clamp_min(0) - low.clamp_max(0)).clamp_min(1e-12)
    gap = -slope * low.clamp_max(0) / 2
    slope = torch.where(high <= 0, torch.zeros_like(slope), slope)
    gap = torch.where(high <= 0, torch.zeros_like(gap), gap)
    return Form(slope * form.centre + gap, slope * form.first, slope * form.second, slope * form.radius + gap)


def _step(model: TorchNet, node: OnnxNode, values: dict[str, Form]) -> Form:
    data = [name for name in node.inputs if name in values]
    alone = len(data) == 1 and data[0] == node.inputs[0]
    if alone and node.type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        c, a, b, r = values[data[0]]
        absolute = model.run_node(node, [r], change=lambda weight: weight.abs(), offset=False)
        a, b = (model.run_node(node, [part], offset=False) for part in (a, b))
        return Form(model.run_node(node, [c]), a, b, absolute)
    if alone and node.type == "Relu":
        return _relu(values[data[0]])
    if alone and ibp.rising(node) and (traits(node.type).linear or ibp.interpolates(node)):  # and without an offset
        return Form(*(model.run_node(node, [part]) for part in values[data[0]]))
    if alone and node.type == "BatchNormalization":
        form = values[data[0]]
        start = model.run_node(node, [form.centre * 0])
        a, b, r = (model.run_node(node, [part]) - start for part in form[1:])
        return Form(model.run_node(node, [form.centre]), a, b, r.abs())
    if node.type in ("Add", "Sub"):
        return _sum(model, node, values)
    return _interval(model, node, values)


def _sum(model: TorchNet, node: OnnxNode, values: dict[str, Form]) -> Form:
    sign = 1 if node.type == "Add" else -1
    parts = []
    for name in node.inputs:
        if name in values:
            parts.append(values[name])
        else:
            stored = model.weight(name)
            parts.append(Form(stored, stored * 0, stored * 0, stored * 0))
    (c, a, b, r), (d, e, f, g) = parts
    return Form(c + sign * d, a + sign * e, b + sign * f, r + g)


def _interval(model: TorchNet, node: OnnxNode, values: dict[str, Form]) -> Form:
    """The rule of plain intervals; the dependence on s is lost there."""
    try:
        low, high = ibp.step(model, node, {name: values[name].ends for name in node.inputs if name in values})
    except CriterionError as refusal:
        raise CriterionError(str(refusal).replace("interval rule", "rule")) from None
    middle = (low + high) / 2
    return Form(middle, middle * 0, middle * 0, (high - low) / 2)
