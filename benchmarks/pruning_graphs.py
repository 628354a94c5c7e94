"""Random ONNX graphs for the pruning tests: convolutions of all kinds, residual sums, concatenations, pools, dense
heads.

Each graph is built from a seed and an opset; weights are random, sizes small, the batch axis symbolic for odd seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 11, 13, 17)


class Builder:
    """Collects nodes and weights; every method returns the name of the value it made."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset, self.count = opset, 0
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.shape: dict[str, tuple[int, ...]] = {}

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, value, stem="w") -> str:
        name = self.name(stem)
        value = np.asarray(value)
        value = value.astype(np.float32) if value.dtype.kind == "f" else value.astype(np.int64)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape, scale=None) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.weight(self.rng.normal(size=shape) * (scale if scale is not None else 1.5 / np.sqrt(fan)))

    def op(self, kind, inputs, shape, **attrs) -> str:
        out = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"{kind}_{self.count}", **attrs))
        self.shape[out] = tuple(shape)
        return out

    # ---------------------------------------------------------------- layers on (N, C, H, W); shapes leave out N
    def conv(self, x, out, kernel=3, stride=1, pad=None, groups=1, bias=True):
        c, h, w = self.shape[x]
        pad = kernel // 2 if pad is None else pad
        inputs = [x, self.random(out, c // groups, kernel, kernel)] + ([self.random(out, scale=0.3)] if bias else [])
        size = [(s + 2 * pad - kernel) // stride + 1 for s in (h, w)]
        return self.op(
            "Conv", inputs, (out, *size), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups
        )

    def deconv(self, x, out):
        c, h, w = self.shape[x]
        inputs = [x, self.random(c, out, 2, 2), self.random(out, scale=0.3)]
        return self.op("ConvTranspose", inputs, (out, 2 * h, 2 * w), kernel_shape=[2, 2], strides=[2, 2])

    def norm(self, x):
        c = self.shape[x][0]
        params = [self.weight(self.rng.uniform(0.5, 1.5, c)), self.random(c, scale=0.3), self.random(c, scale=0.3)]
        return self.op("BatchNormalization", [x, *params, self.weight(self.rng.uniform(0.5, 1.5, c))], self.shape[x])

    def activation(self, x):
        kind = self.rng.choice(["Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "PRelu", "Clip", "Identity", "Elu"])
        if kind == "PRelu":
            return self.op(kind, [x, self.weight(self.rng.uniform(0.1, 0.4, (self.shape[x][0], 1, 1)))], self.shape[x])
        if kind == "Clip":
            if self.opset < 11:
                return self.op(kind, [x], self.shape[x], min=0.0, max=6.0)
            return self.op(kind, [x, self.weight(np.float32(0)), self.weight(np.float32(6))], self.shape[x])
        return self.op(str(kind), [x], self.shape[x])

    def pool(self, x):
        c, h, w = self.shape[x]
        kind = self.rng.choice(["MaxPool", "AveragePool"])
        return self.op(str(kind), [x], (c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])

    def resize(self, x):
        c, h, w = self.shape[x]
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        if self.opset < 10:
            return self.op("Upsample", [x, scales], (c, 2 * h, 2 * w), mode="nearest")
        empty = self.weight(np.zeros(0, np.float32))
        if self.rng.random() < 0.5:
            return self.op("Resize", [x, empty, scales], (c, 2 * h, 2 * w), mode="nearest")
        sizes = self.weight(np.array([1, c, 2 * h, 2 * w]))
        return self.op("Resize", [x, empty, empty, sizes], (c, 2 * h, 2 * w), mode="nearest")

    def split(self, x):
        c, h, w = self.shape[x]
        first = c // 2 if c % 2 == 0 else c // 2 + 1
        names = [self.name("split"), self.name("split")]
        attrs: dict[str, Any] = {"axis": 1}
        inputs = [x]
        if first * 2 == c and self.opset < 13 and self.rng.random() < 0.5:
            pass  # equal parts may stay implicit
        elif self.opset < 13:
            attrs["split"] = [first, c - first]
        else:
            inputs.append(self.weight(np.array([first, c - first])))
        self.nodes.append(helper.make_node("Split", inputs, names, name=f"Split_{self.count}", **attrs))
        self.shape[names[0]], self.shape[names[1]] = (first, h, w), (c - first, h, w)
        return names

    def slice(self, x, start, stop):
        _, h, w = self.shape[x]
        shape = (stop - start, h, w)
        if self.opset < 10:
            return self.op("Slice", [x], shape, axes=[1], starts=[start], ends=[stop])
        limits = [self.weight(np.array([v])) for v in (start, stop, 1)]
        return self.op("Slice", [x, *limits], shape)

    def gather(self, x):
        c, h, w = self.shape[x]
        order = self.rng.permutation(c)[: max(2, c - 1)]
        return self.op("Gather", [x, self.weight(order)], (len(order), h, w), axis=1)

    def flatten(self, x):
        size = int(np.prod(self.shape[x]))
        kind = self.rng.integers(3)
        if kind == 0:
            return self.op("Flatten", [x], (size,), axis=1)
        return self.op("Reshape", [x, self.weight(np.array([-1, size] if kind == 1 else [0, -1]))], (size,))

    def dense(self, x, out):
        n = self.shape[x][0]
        if self.rng.random() < 0.4:
            y = self.op("MatMul", [x, self.random(n, out, scale=1.5 / np.sqrt(n))], (out,))
            return self.op("Add", [y, self.random(out, scale=0.3)], (out,)) if self.rng.random() < 0.8 else y
        trans = bool(self.rng.integers(2))
        shape = (out, n) if trans else (n, out)
        inputs = [x, self.random(*shape, scale=1.5 / np.sqrt(n)), self.random(out, scale=0.3)]
        return self.op(
            "Gemm",
            inputs,
            (out,),
            transB=int(trans),
            alpha=float(self.rng.choice([1.0, 0.7])),
            beta=float(self.rng.choice([1.0, 1.3])),
        )

    def shape_reshape(self, x):
        """x.view(x.size(0), -1) as exporters write it."""
        size = int(np.prod(self.shape[x]))
        dims = self.op("Shape", [x], (4,))
        batch = self.op("Gather", [dims, self.weight(np.array(0))], ())
        batch = self.op(
            "Unsqueeze",
            [batch, self.weight(np.array([0]))] if self.opset >= 13 else [batch],
            (1,),
            **({} if self.opset >= 13 else {"axes": [0]}),
        )
        target = self.op("Concat", [batch, self.weight(np.array([-1]))], (2,), axis=0)
        return self.op("Reshape", [x, target], (size,))


def block(b: Builder, x: str) -> str:
    """One random piece of a convolutional trunk."""
    rng, (c, h, w) = b.rng, b.shape[x]
    kind = rng.integers(11)
    out = int(rng.choice([6, 8, 12]))
    if kind <= 1:
        y = b.conv(x, out, kernel=int(rng.choice([1, 3])), stride=int(rng.choice([1, 1, 2])) if h > 4 else 1)
        return b.activation(b.norm(y) if rng.random() < 0.5 else y)
    if kind == 2:  # residual, identity or projected shortcut
        y = b.conv(b.activation(b.conv(x, out)), c if rng.random() < 0.5 else out, bias=False)
        shortcut = x if b.shape[y][0] == c else b.conv(x, out, kernel=1)
        return b.activation(b.op("Add", [y, shortcut], b.shape[y]))
    if kind == 3:  # dense connection
        y = b.activation(b.conv(x, out))
        return b.op("Concat", [x, y], (c + out, h, w), axis=1)
    if kind == 4 and h >= 4:
        return b.pool(x)
    if kind == 5 and h <= 4:
        return b.resize(b.activation(b.conv(x, out)))
    if kind == 6:  # depthwise separable, sometimes two outputs per channel
        y = b.activation(b.conv(x, out, kernel=1))
        y = b.conv(y, out * int(rng.integers(1, 3)), groups=out)
        return b.activation(b.conv(b.activation(y), out, kernel=1))
    if kind == 7:  # grouped
        y = b.activation(b.conv(x, 12, kernel=1))
        return b.activation(b.conv(y, 12, groups=3))
    if kind == 8 and h <= 4:
        return b.activation(b.deconv(b.activation(b.conv(x, out, kernel=1)), out))
    if kind == 9:
        y = b.activation(b.conv(x, out))
        first, second = b.split(y)
        joined = b.op("Concat", [second, b.activation(first)], (out, h, w), axis=1)
        return b.gather(joined) if rng.random() < 0.5 else joined
    y = b.activation(b.conv(x, out))  # gate computed from the channel means
    mean = b.op("GlobalAveragePool", [y], (out, 1, 1))
    gate = b.op("Sigmoid", [b.conv(mean, out, kernel=1)], (out, 1, 1))
    y = b.op("Mul", [y, gate], b.shape[y])
    y = b.op("Add", [y, b.random(out, 1, 1, scale=0.2)], b.shape[y])
    return b.slice(y, 1, out) if rng.random() < 0.5 else y


def random_model(seed: int, opset: int) -> onnx.ModelProto:
    """A random network for inputs (N, 3, 8, 8) with outputs (N, 5)."""
    b = Builder(seed, opset)
    b.shape["x"] = (3, 8, 8)
    x = b.activation(b.conv("x", int(b.rng.choice([6, 8]))))
    for _ in range(int(b.rng.integers(1, 5))):
        x = block(b, x)
    if b.rng.random() < 0.3:
        x = b.op("GlobalAveragePool", [x], (b.shape[x][0], 1, 1))
    batched = seed % 2 == 1 and not any(n.op_type == "Resize" and len(n.input) == 4 for n in b.nodes)
    x = b.shape_reshape(x) if b.rng.random() < 0.25 else b.flatten(x)
    if b.rng.random() < 0.7:
        y = b.dense(x, int(b.rng.choice([8, 10])))
        x = b.op("Relu", [y], b.shape[y])
    x = b.dense(x, 5)
    batch = "N" if batched else 1
    graph = helper.make_graph(
        b.nodes,
        f"random{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, 5])],
        b.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4 if opset < 13 else 8)
    onnx.checker.check_model(model, full_check=True)
    return model
