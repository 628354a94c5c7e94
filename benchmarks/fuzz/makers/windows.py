"""Convolutions, pooling and Resize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


def _windows(r: RandomOperators, room: list[int]) -> dict[str, Any]:
    """Strides and padding, less than `room` per axis and side."""
    found: dict[str, Any] = {}
    if r.pick([True, False]):
        found["strides"] = r.rng.integers(1, 4, len(room)).tolist()
    padding = r.pick(["none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if padding == "pads":
        found["pads"] = [int(r.rng.integers(0, most)) for most in (*room, *room)]
    elif padding != "none":
        found["auto_pad"] = padding
    return found


@makes("Conv", "ConvTranspose", "ConvInteger")
def conv(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape) - 2
    if rank < 1:
        return None
    group = r.pick([1, 1, v.shape[1]])
    kernel = [int(r.rng.integers(1, min(4, n + 2))) for n in v.shape[2:]]
    each = r.pick([1, 2])
    kind = v.kind
    if op == "ConvTranspose":
        shape = (v.shape[1], each, *kernel)
    else:
        shape = (each * group, v.shape[1] // group, *kernel)
    attributes: dict[str, Any] = {"group": group} if group > 1 or r.pick([True, False]) else {}
    attributes |= _windows(r, [3] * rank)
    if r.pick([True, False, False]):
        attributes["dilations"] = r.rng.integers(1, 3, rank).tolist()
    if r.pick([True, False]):
        attributes["kernel_shape"] = kernel
    if op == "ConvTranspose" and r.pick([True, False]):
        attributes["output_padding"] = r.rng.integers(0, 2, rank).tolist()
    names = [v.name, r.weight(r.numbers(shape, kind))]
    if op == "ConvInteger":
        if r.pick([True, False]):
            names.append(r.weight(np.array(r.rng.integers(0, 4), v.kind)))
            if r.pick([True, False]):
                names.append(r.weight(r.pick([np.array(r.rng.integers(0, 4), v.kind), r.numbers((shape[0],), v.kind)])))
    elif r.pick([True, False]):
        names.append(r.weight(r.numbers((shape[0] if op == "Conv" else each * group,), kind)))
    return op, names, attributes, 1


@makes("MaxPool", "AveragePool", "LpPool")
def pool(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape) - 2
    if rank < 1:
        return None
    kernel = [int(r.rng.integers(1, 4)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel} | _windows(r, kernel)
    if r.opset >= 10 and r.pick([True, False]):
        attributes["ceil_mode"] = 1
    if r.opset >= {"MaxPool": 10, "AveragePool": 19}.get(op, 99) and r.pick([True, False]):
        attributes["dilations"] = r.rng.integers(1, 3, rank).tolist()
    if op == "AveragePool" and r.pick([True, False]):
        attributes["count_include_pad"] = 1
    if op == "MaxPool" and r.pick([False, True]):
        attributes["storage_order"] = r.pick([0, 1])
    return op, [v.name], attributes, 1


@makes("Resize", "Upsample")
def resize(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    if rank < 3 or not v.real:
        return None
    scales = [1.0, 1.0, *r.rng.choice([0.5, 2.0, 1.5, 1.3, 1.0, 3.0], rank - 2).tolist()]
    if op == "Upsample":
        scales = [max(1.0, s) for s in scales]
        attributes: dict[str, Any] = r.pick([{}, {"mode": "nearest"}, {"mode": "linear"}])
        if r.opset < 9:
            return op, [v.name], attributes | {"scales": scales}, 1
        return op, [v.name, r.weight(np.array(scales, np.float32))], attributes, 1
    attributes = r.pick([{}, {"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"}])
    if r.opset < 11:
        return (
            op,
            [v.name, r.weight(np.array(scales, np.float32))],
            {} if attributes.get("mode") == "cubic" else attributes,
            1,
        )
    if r.pick([True, True, False]):
        attributes = attributes | {
            "coordinate_transformation_mode": r.pick(
                [
                    "half_pixel",
                    "pytorch_half_pixel",
                    "align_corners",
                    "asymmetric",
                    *(["half_pixel_symmetric"] if r.opset >= 19 else []),
                ]
            )
        }
    if attributes.get("mode", "nearest") == "nearest" and r.pick([True, False]):
        attributes = attributes | {"nearest_mode": r.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])}
    if attributes.get("mode") == "cubic":
        attributes = attributes | r.pick([{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
    if r.opset >= 18 and attributes.get("mode") in ("linear", "cubic") and r.pick([True, False, False]):
        attributes = attributes | {"antialias": 1}
    empty = r.weight(np.zeros(0, np.float32))
    if r.pick([True, False]):
        return op, [v.name, empty, r.weight(np.array(scales, np.float32))], attributes, 1
    sizes = [n if k < 2 else int(r.rng.integers(1, 7)) for k, n in enumerate(v.shape)]
    return op, [v.name, empty, empty if r.opset < 13 else "", r.weight(np.array(sizes, np.int64))], attributes, 1
