"""Axes that are merged, split, turned and shared: whatever the graph, the pruned network is the masked one.

The oracle is ONNX Runtime alone: every kept entry of every value of the pruned network is compared with the same entry
of the masked network, and the masked network with the original whose removed channels were multiplied by zero where
they are made.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pruning_nets import build, node

from benchmarks.pruning_equality import random_removal
from pruning import cli, onnx_io, runtime
from pruning.agreement import agreement
from pruning.errors import WrongNetwork
from pruning.groups import find_groups, shared_weights
from pruning.surgery import mask, remove


def merged_axes(tail="mean"):
    """Conv, ReLU, MatMul over the width, ReLU, Flatten: two prunable axes in one, then a mean or a dense layer."""
    rng = np.random.default_rng(0)
    w = {
        "k": rng.normal(size=(6, 1, 3, 3)), "m": rng.normal(size=(6, 8)), "d": rng.normal(size=(6 * 4 * 8, 3)) / 9,
    }  # fmt: skip
    nodes = [
        node("Conv", "x k", "c"), node("Relu", "c", "r"), node("MatMul", "r m", "h"), node("Relu", "h", "s"),
        node("Flatten", "s", "f", axis=1),
        node("ReduceMean", "f", "y", axes=[1], keepdims=1) if tail == "mean" else node("MatMul", "f d", "y"),
    ]  # fmt: skip
    used = {name for n in nodes for name in n.input}
    w = {name: value.astype(np.float32) for name, value in w.items() if name in used}
    return build(nodes, w, {"x": [1, 6, 8]}, {"y": [1 if tail == "mean" else 3]})


def test_two_prunable_axes_merged_by_flatten():
    net = merged_axes("dense")
    groups = find_groups(net)
    free = {g.name: len(g.free) for g in groups.groups}
    assert free["make_c"] == 6 and free["make_h"] == 0
    removed = np.zeros(groups.n, bool)
    removed[groups.groups[0].channels[[0, 4]]] = True
    found = agreement(remove(groups, removed), mask(groups, removed))
    assert found.difference <= 1e-5 * found.largest and found.largest > 0
    assert not find_groups(merged_axes()).prunable.any()  # a mean over the merged axis reads both


@pytest.mark.parametrize("tail", ["mean", "dense"])
def test_the_command_on_merged_axes(tmp_path, capsys, tail):
    path, out = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx_io.save(merged_axes(tail), path)
    code = cli.main([str(path), "-o", str(out), "--criterion", "l1", "--fold", "zero", "--min-channels", "1"])
    printed = capsys.readouterr()
    if tail == "mean":
        assert code == 2 and "reduces over channels" in printed.err and not out.exists()
        return
    assert code == 0 and "checked: pruned and masked network differ by at most" in printed.out
    check = json.loads(out.with_suffix(".json").read_text())["check"]
    assert check["points"] == 16 and check["largest_difference_to_masked_network"] <= 1e-5 * check["largest_output"]


def test_squeeze_without_axes_keeps_the_channels():
    rng = np.random.default_rng(0)
    w = {"t": rng.normal(size=(3, 4)).astype(np.float32), "d": rng.normal(size=(4, 2)).astype(np.float32)}
    nodes = [
        node("MatMul", "x t", "h"), node("Relu", "h", "r"), node("Squeeze", "r", "q"), node("MatMul", "q d", "p"),
        node("Unsqueeze", "p zero", "y"),
    ]  # fmt: skip
    net = build(nodes, {**w, "zero": np.array([0])}, {"x": [5, 3]}, {"y": [5, 2]}, batch=1)
    assert "single channel" in find_groups(net).groups[0].reason


def test_a_wrong_cut_is_caught_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    """A rule that loses track (here: Transpose swapped with the identity) must not reach the disk."""
    from pruning.rules import RULES

    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(8, 8)).astype(np.float32), "l": rng.normal(size=(8, 8)).astype(np.float32),
         "d": rng.normal(size=(64, 3)).astype(np.float32)}  # fmt: skip
    nodes = [
        node("MatMul", "x k", "a"), node("Relu", "a", "b"), node("Transpose", "b", "t", perm=[0, 2, 1]),
        node("Flatten", "t", "f"), node("MatMul", "f d", "y"),
    ]  # fmt: skip
    net = build(nodes, {n: w[n] for n in "kd"}, {"x": [8, 8]}, {"y": [3]})
    monkeypatch.setitem(RULES, "Transpose", RULES["Identity"])
    path, out = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx_io.save(net, path)
    options = ["--criterion", "l1", "--fold", "zero", "--ratio", "0.5"]
    for more in (["-o", str(out)], ["--dry-run"]):
        assert cli.main([str(path), *more, *options]) == 2
        error = capsys.readouterr().err
        assert "nothing is written" in error and len(error.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_rounding_is_no_difference_and_a_wrong_weight_is():
    rng = np.random.default_rng(0)
    k = rng.normal(size=(8, 8)).astype(np.float32)
    nodes = [node("MatMul", "x k", "h"), node("Relu", "h", "r"), node("MatMul", "r t", "y")]
    net = build(nodes, {"k": k, "t": k * np.float32(1e-3)}, {"x": [8]}, {"y": [8]})
    assert agreement(net, net).difference == 0
    wrong = net.changed(weights={"t": net.weights["t"] * np.float32(1.0001)})
    with pytest.raises(WrongNetwork, match="differs from the masked one"):
        agreement(wrong, net)
    rounded = net.changed(weights={"t": np.nextafter(net.weights["t"], np.float32(9))})
    assert 0 < agreement(rounded, net).difference < 1e-6


# ------------------------------------------------------------------------------------------------- random graphs
class Graph:
    """A random graph on values (1, ...): hypothesis chooses the steps."""

    def __init__(self, draw, opset, symbolic):
        self.draw, self.opset, self.symbolic = draw, opset, symbolic
        self.rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        self.nodes, self.weights, self.shapes, self.matrices = [], {}, {}, []

    def op(self, kind, inputs, shape, **attrs):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"n{len(self.nodes)}", **attrs))
        self.shapes[name] = tuple(int(s) for s in shape)
        return name

    def stored(self, value):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(value)
        return name

    def matrix(self, *shape):
        """A new matrix or, now and then, one that is used already."""
        same = [name for name in self.matrices if self.weights[name].shape == shape]
        if same and self.draw(st.booleans()):
            return self.draw(st.sampled_from(same))
        self.matrices.append(self.stored((self.rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)))
        return self.matrices[-1]

    def matmul(self, x):
        *front, last = self.shapes[x]
        out = self.draw(st.sampled_from([2, 3, 4, last]))
        return self.op("MatMul", [x, self.matrix(last, out)], (*front, out))

    def conv(self, x):
        shape = self.shapes[x]
        if len(shape) != 4:
            return x
        out = self.draw(st.sampled_from([2, 4, shape[1]]))
        return self.op("Conv", [x, self.matrix(out, shape[1], 1, 1)], (1, out, *shape[2:]), kernel_shape=[1, 1])

    def scale(self, x):
        """A constant factor and offset along some axes."""
        shape = [size if self.draw(st.booleans()) else 1 for size in self.shapes[x][1:]]
        kind = self.draw(st.sampled_from(["Mul", "Add"]))
        return self.op(kind, [x, self.stored(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))], self.shapes[x])

    def relu(self, x):
        return self.op(self.draw(st.sampled_from(["Relu", "Tanh"])), [x], self.shapes[x])

    def transpose(self, x):
        order = self.draw(st.permutations(range(1, len(self.shapes[x]))))
        return self.op("Transpose", [x], [1, *(self.shapes[x][a] for a in order)], perm=[0, *order])

    def reshape(self, x):
        """Merge neighbours, split an axis, or regroup everything behind the batch."""
        sizes = list(self.shapes[x][1:])
        kind = self.draw(st.sampled_from(["merge", "split", "one", "regroup"]))
        if kind == "merge" and len(sizes) > 1:
            at = self.draw(st.integers(0, len(sizes) - 2))
            sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
        elif kind == "split":
            at = self.draw(st.integers(0, len(sizes) - 1))
            parts = [d for d in range(1, sizes[at] + 1) if sizes[at] % d == 0]
            first = self.draw(st.sampled_from(parts))
            sizes[at : at + 1] = [first, sizes[at] // first]
        elif kind == "regroup":
            total = int(np.prod(sizes))
            first = self.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
            sizes = [first, total // first]
        else:
            sizes = [int(np.prod(sizes))]
        if len(sizes) > 4:
            return x
        target = [-1 if self.symbolic else 1, *sizes]
        if not self.symbolic and self.draw(st.booleans()):
            target[self.draw(st.integers(1, len(sizes)))] = -1
        for axis in range(len(sizes) + 1):  # a 0 copies the size at the same place
            same = axis < len(self.shapes[x]) and self.shapes[x][axis] == [1, *sizes][axis]
            if same and target[axis] > 0 and self.draw(st.booleans()):
                target[axis] = 0
        return self.op("Reshape", [x, self.stored(np.array(target, np.int64))], [1, *sizes])

    def flatten(self, x):
        return self.op("Flatten", [x], (1, int(np.prod(self.shapes[x]))), axis=1)

    def twice(self, x):
        """The same layer on two branches that are joined, added or multiplied."""
        a, b = self.relu(x), self.scale(x)
        *front, last = self.shapes[x]
        weight = self.matrix(last, self.draw(st.sampled_from([2, 3, 4])))
        out = (*front, self.weights[weight].shape[1])
        a, b = (self.relu(self.op("MatMul", [v, weight], out)) for v in (a, b))
        kind = self.draw(st.sampled_from(["Add", "Mul", "Concat"]))
        if kind != "Concat":
            return self.op(kind, [a, b], out)
        axis = self.draw(st.integers(1, len(out) - 1))
        return self.op(kind, [a, b], [2 * s if i == axis else s for i, s in enumerate(out)], axis=axis)

    def residual(self, x):
        last = self.shapes[x][-1]
        return self.op("Add", [x, self.relu(self.op("MatMul", [x, self.matrix(last, last)], self.shapes[x]))],
                       self.shapes[x])  # fmt: skip

    def part(self, x):
        axis = self.draw(st.integers(1, len(self.shapes[x]) - 1))
        size = self.shapes[x][axis]
        if size < 3:
            return x
        start = self.draw(st.integers(0, size - 2))
        limits = [self.stored(np.array([v], np.int64)) for v in (start, size, axis)]
        return self.op("Slice", [x, *limits], [size - start if i == axis else s for i, s in enumerate(self.shapes[x])])

    def pick(self, x):
        axis = self.draw(st.integers(1, len(self.shapes[x]) - 1))
        order = self.rng.integers(0, self.shapes[x][axis], 3)
        shape = [3 if i == axis else s for i, s in enumerate(self.shapes[x])]
        return self.op("Gather", [x, self.stored(order)], shape, axis=axis)

    def mean(self, x):
        if len(self.shapes[x]) < 3:
            return x
        axis = self.draw(st.integers(1, len(self.shapes[x]) - 1))
        keep = self.draw(st.booleans())
        shape = [1 if i == axis else s for i, s in enumerate(self.shapes[x]) if keep or i != axis]
        return self.op("ReduceMean", [x], shape, axes=[axis], keepdims=int(keep))

    def squeeze(self, x):
        ones = [a for a, s in enumerate(self.shapes[x]) if s == 1 and a > 0]
        if not ones or len(self.shapes[x]) < 3:
            return x
        axis = self.draw(st.sampled_from(ones))
        shape = [s for a, s in enumerate(self.shapes[x]) if a != axis]
        if self.opset >= 13:
            return self.op("Squeeze", [x, self.stored(np.array([axis]))], shape)
        return self.op("Squeeze", [x], shape, axes=[axis])


STEPS = [
    "matmul",
    "matmul",
    "conv",
    "conv",
    "scale",
    "relu",
    "relu",
    "transpose",
    "reshape",
    "reshape",
    "flatten",
    "twice",
    "residual",
    "part",
    "pick",
    "mean",
    "squeeze",
]


@st.composite
def graphs(draw):
    symbolic = draw(st.booleans())
    g = Graph(draw, draw(st.sampled_from([11, 13])), symbolic)
    start = draw(st.sampled_from([(1, 4, 3, 4), (1, 3, 2, 6), (1, 6, 4), (1, 8)]))
    g.shapes["x"] = start
    x = "x"
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=4, max_size=14)):
        if np.prod(g.shapes[x]) <= 256:
            x = getattr(g, step)(x)
    x = g.flatten(x)
    x = g.op("MatMul", [x, g.stored((g.rng.normal(size=(g.shapes[x][1], 2)) / 4).astype(np.float32))], (1, 2))
    batch = "N" if symbolic else 1
    proto = helper.make_graph(
        g.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *start[1:]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(value, name) for name, value in g.weights.items()],
    )  # fmt: skip
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model, draw(st.integers(0, 2**20))


def silenced(net, groups, removed):
    """The original with every removed channel multiplied by zero where a layer makes it, in the layer's own weight.

    Shares no index map with `mask`, which zeroes readers; the two agree where a channel's zero stays zero, so it is
    only asked of graphs whose element-wise steps keep it (no offsets).
    """
    weights: dict[str, np.ndarray] = {}
    for cut in groups.cuts:
        if cut.role == "out":
            name = net.nodes[cut.node].input(cut.slot)
            value = weights.get(name, net.weights[name])
            shape = [1] * value.ndim
            shape[cut.axis] = -1
            weights[name] = value * groups.keep(removed, cut.labels).reshape(shape).astype(value.dtype)
    return net.changed(weights=weights)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_random_graphs(case):
    check_graph(*case)


def check_graph(model, seed):
    rng = np.random.default_rng(seed)
    net = onnx_io.load(model.SerializeToString())
    groups = find_groups(net)
    removed = random_removal(groups, 0.6, rng)
    if not removed.any():
        return 0
    small, masked = remove(groups, removed), mask(groups, removed)
    inner = [n.outputs[0] for n in small.nodes if n.outputs[0] in net.producer and n.outputs[0] not in net.outputs]
    batch = 3 if net.batched else 1
    x = rng.normal(size=(batch, *net.shapes["x"][1:])).astype(np.float32)
    names = [*inner, *net.outputs]
    got, want = (
        runtime.Runner(onnx_io.to_bytes(part, extra_outputs=inner), optimise=False)({"x": x}, names)
        for part in (small, masked)
    )
    for name in names:
        expected = want[name]
        for axis, labels in groups.labelled.get(name, {}).items():
            expected = np.compress(groups.keep(removed, labels), expected, axis=axis)
        assert got[name].shape == expected.shape, name
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-4 * (1 + np.abs(expected).max(initial=0)))
    if not any(node.type == "Add" and set(node.inputs) & set(net.weights) for node in net.nodes):
        (y,) = net.outputs
        other = runtime.Runner(onnx_io.to_bytes(silenced(net, groups, removed)), optimise=False)({"x": x})[y]
        np.testing.assert_allclose(got[y], other, rtol=1e-4, atol=1e-4 * (1 + np.abs(other).max()))
    assert shared_weights(small).keys() == shared_weights(net).keys()  # what was shared is still one
    agreement(small, masked)
    return int(removed.sum())
