"""Small networks and data for the pruning tests, and a sound interval oracle that shares no code with the package."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pruning import Calibration, Net, Perturbation, onnx_io


def plane(contrast=(1.0, 1.0), brightness=(0.0, 0.0), clip=True) -> Perturbation:
    """Ranges of contrast and brightness."""
    return Perturbation.of(clip, contrast=contrast, brightness=brightness)


S_SMALL = plane((0.9, 1.1), (-0.05, 0.05))


def build(nodes, weights, inputs, outputs, opset=13, batch="N") -> Net:
    """A Net from onnx nodes, a dictionary of weights and shapes without the batch axis."""
    info = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in part.items()]
        for part in (inputs, outputs)
    ]
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "test", info[0], info[1], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnx_io.load(model.SerializeToString())


def node(kind, inputs, output, **attrs):
    return helper.make_node(kind, inputs.split(), [output], name=f"make_{output}", **attrs)


def mlp_weights(seed=0, sizes=(36, 12, 10, 3)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = (rng.normal(size=(m, n)) / np.sqrt(n)).astype(np.float32)
        weights[f"b{i}"] = (0.1 * rng.normal(size=m)).astype(np.float32)
    return weights


def mlp(weights: dict[str, np.ndarray], batch="N") -> Net:
    """Gemm, Relu, Gemm, Relu, Gemm."""
    layers = len(weights) // 2
    nodes, last = [], "x"
    for i in range(layers):
        nodes.append(node("Gemm", f"{last} w{i} b{i}", f"z{i}", transB=1))
        last = f"z{i}"
        if i + 1 < layers:
            nodes.append(node("Relu", last, f"a{i}"))
            last = f"a{i}"
    n, m = weights["w0"].shape[1], weights[f"b{layers - 1}"].shape[0]
    return build(nodes, weights, {"x": [n]}, {last: [m]}, batch=batch)


def conv_net(seed=0, bn=False, pad=1, channels=(8, 12), size=8, batch="N") -> Net:
    """Conv (BatchNormalization) Relu Conv Relu MaxPool Flatten Gemm Relu Gemm."""
    rng = np.random.default_rng(seed)
    c, d = channels
    side = size + 2 * (2 * pad - 2)
    features = d * (side // 2) ** 2
    w = {
        "k0": rng.normal(size=(c, 1, 3, 3)) * 0.5,
        "c0": rng.normal(size=c) * 0.1,
        "k1": rng.normal(size=(d, c, 3, 3)) * 0.2,
        "c1": rng.normal(size=d) * 0.1,
        "w0": rng.normal(size=(features, 10)) / np.sqrt(features),
        "b0": rng.normal(size=10) * 0.1,
        "w1": rng.normal(size=(10, 4)) / 3,
        "b1": rng.normal(size=4) * 0.1,
    }
    nodes, last = [node("Conv", "x k0 c0", "z0", pads=[pad] * 4)], "z0"
    if bn:
        w |= {
            "g": rng.uniform(0.5, 1.5, c),
            "s": rng.normal(size=c),
            "m": rng.normal(size=c),
            "v": rng.uniform(0.5, 1.5, c),
        }
        nodes.append(node("BatchNormalization", "z0 g s m v", "n0"))
        last = "n0"
    nodes += [
        node("Relu", last, "a0"),
        node("Conv", "a0 k1 c1", "z1", pads=[pad] * 4),
        node("Relu", "z1", "a1"),
        node("MaxPool", "a1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p1", "f1", axis=1),
        node("Gemm", "f1 w0 b0", "z2"),
        node("Relu", "z2", "a2"),
        node("Gemm", "a2 w1 b1", "y"),
    ]
    w = {k: np.asarray(v, np.float32) for k, v in w.items()}
    return build(nodes, w, {"x": [1, size, size]}, {"y": [4]}, batch=batch)


def images(shape, count=24, seed=0, low=0.3, high=0.6) -> np.ndarray:
    """Random images; the default range keeps clear of clipping under S_SMALL."""
    return np.random.default_rng(seed).uniform(low, high, (count, *shape)).astype(np.float32)


def calibration(net: Net, semantic=S_SMALL, samples=32, seed=0, count=24, labels=False, **kw) -> Calibration:
    shape = net.shapes[net.inputs[0]][1:]
    target = None
    if labels:
        target = np.random.default_rng(5).normal(size=(count, net.shapes[net.outputs[0]][1])).astype(np.float32)
    return Calibration(images(shape, count, seed=1, **kw), target, semantic, samples, seed)


def affine_oracle(net: Net, names, inputs, cells, data=None, slack=2e-6):
    """Sound bounds for chains of Gemm(transB=1) and Relu by affine forms in (alpha, beta) with an error radius.

    A value is centre + A @ (u, v) with |u|, |v| <= 1, plus or minus radius; ReLU keeps the form of the chord's parallel
    middle.
    `slack` covers float32 rounding of the activations, relative to the sums of absolute products.
    """
    found: dict[str, tuple[list, list]] = {name: ([], []) for name in names}
    for image in inputs.astype(np.float64):
        low: dict[str, list] = {n: [] for n in names}
        high: dict[str, list] = {n: [] for n in names}
        for (a0, a1), (b0, b1) in cells:
            flat = image.reshape(-1)
            lo_x = np.minimum(a0 * flat, a1 * flat) + b0
            hi_x = np.maximum(a0 * flat, a1 * flat) + b1
            assert lo_x.min() >= 0 and hi_x.max() <= 1, "this oracle does not model clipping"
            centre = flat * (a0 + a1) / 2 + (b0 + b1) / 2
            slopes = np.stack([flat * (a1 - a0) / 2, np.full_like(flat, (b1 - b0) / 2)], 1)
            radius = np.zeros_like(flat)
            for op in net.nodes:
                if op.type == "Gemm":
                    w, b = (net.weights[n].astype(np.float64) for n in op.inputs[1:3])
                    size = np.abs(w) @ (np.abs(centre) + np.abs(slopes).sum(1) + radius) + np.abs(b)
                    centre, slopes, radius = w @ centre + b, w @ slopes, np.abs(w) @ radius
                else:
                    assert op.type == "Relu"
                    spread = np.abs(slopes).sum(1) + radius
                    lo, hi = centre - spread, centre + spread
                    p = np.where(lo >= 0, 1.0, np.where(hi <= 0, 0.0, hi / np.maximum(hi - lo, 1e-30)))
                    middle = np.where((lo < 0) & (hi > 0), -p * lo / 2, 0.0)
                    centre, slopes, radius = p * centre + middle, p[:, None] * slopes, p * radius + middle
                if op.outputs[0] in low:
                    spread = np.abs(slopes).sum(1) + radius
                    low[op.outputs[0]].append((centre - spread - slack * size)[None])
                    high[op.outputs[0]].append((centre + spread + slack * size)[None])
        for name in names:
            found[name][0].append(np.stack(low[name]))
            found[name][1].append(np.stack(high[name]))
    return {name: (np.stack(lo), np.stack(hi)) for name, (lo, hi) in found.items()}


def interval_oracle(net: Net, names, inputs, cells, data=None):
    """Sound bounds for any graph of Conv, BatchNormalization, Relu, MaxPool, Flatten, Gemm: plain intervals in torch
    float64.
    """
    import torch
    import torch.nn.functional as f

    found: dict[str, tuple[list, list]] = {name: ([], []) for name in names}
    for image in inputs:
        sides: dict[str, tuple[list, list]] = {name: ([], []) for name in names}
        for (a0, a1), (b0, b1) in cells:
            x = torch.tensor(image, dtype=torch.float64)[None]
            values = {net.inputs[0]: ((a0 * x + b0).clamp(0, 1), (a1 * x + b1).clamp(0, 1))}
            for op in net.nodes:
                lo, hi = values[op.inputs[0]]
                w = [torch.tensor(net.weights[n], dtype=torch.float64) for n in op.inputs[1:]]
                if op.type in ("Conv", "Gemm"):

                    def linear(value, kernel, bias, op=op):
                        if op.type == "Conv":
                            return f.conv2d(value, kernel, bias, padding=op.attrs["pads"][0])
                        return f.linear(value, kernel if op.attrs.get("transB") else kernel.T, bias)

                    middle, half = (lo + hi) / 2, (hi - lo) / 2
                    centre, radius = linear(middle, w[0], w[1]), linear(half, w[0].abs(), None)
                    lo, hi = centre - radius, centre + radius
                elif op.type == "BatchNormalization":
                    a, b = (f.batch_norm(side, w[2], w[3], w[0], w[1], eps=1e-5) for side in (lo, hi))
                    lo, hi = torch.minimum(a, b), torch.maximum(a, b)
                elif op.type == "Relu":
                    lo, hi = lo.relu(), hi.relu()
                elif op.type == "MaxPool":
                    lo, hi = f.max_pool2d(lo, 2), f.max_pool2d(hi, 2)
                else:
                    assert op.type == "Flatten"
                    lo, hi = lo.flatten(1), hi.flatten(1)
                values[op.outputs[0]] = (lo, hi)
            for name in names:
                slack = 1e-5 * (1 + values[name][1].abs())
                sides[name][0].append((values[name][0] - slack).numpy())
                sides[name][1].append((values[name][1] + slack).numpy())
        for name in names:
            for part in (0, 1):
                found[name][part].append(np.stack(sides[name][part]))
    return {name: (np.stack(lo), np.stack(hi)) for name, (lo, hi) in found.items()}
