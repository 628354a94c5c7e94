"""Surgery: pruned equals masked, exact index maps, what is frozen and why, what the file keeps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from pruning_nets import build, conv_net, images, mlp, mlp_weights, node

import pruning
from benchmarks.pruning_equality import compare, random_removal
from benchmarks.pruning_graphs import OPSETS, random_model
from pruning import onnx_io, runtime
from pruning.agreement import agreement
from pruning.errors import RatioError
from pruning.groups import find_groups
from pruning.surgery import mask, remove
from verifier.errors import ModelError


def run(net, x, optimise=False):
    return runtime.Runner(onnx_io.to_bytes(net, check=True), optimise)({net.inputs[0]: x})[net.outputs[0]]


def weights(rng, **shapes):
    return {name: rng.normal(size=shape).astype(np.float32) * 0.5 for name, shape in shapes.items()}


@pytest.mark.parametrize("opset", OPSETS)
def test_pruned_equals_masked_on_random_graphs(opset):
    """40 graphs per opset here; `python -m benchmarks.pruning_bench equality` runs 200."""
    removed = 0
    for seed in range(40):
        count, single, double = compare(seed, opset)
        removed += count
        assert single <= 1e-5 and double <= 1e-10, f"seed {seed}, opset {opset}: {single:.2e}, {double:.2e}"
    assert removed > 300


def test_masked_differs_from_the_original():
    """Guards the comparison above: masking really changes the function, so agreement is not trivial."""
    net = conv_net()
    groups = find_groups(net)
    removed = random_removal(groups, 0.5, np.random.default_rng(0))
    x = images((1, 8, 8), 4)
    assert np.abs(run(mask(groups, removed), x) - run(net, x)).max() > 1e-2


def test_nothing_removed_reproduces_the_file():
    for seed in range(8):
        model = random_model(seed, 13)
        net = onnx_io.load(model.SerializeToString())
        groups = find_groups(net)
        assert remove(groups, np.zeros(groups.n, bool)) is net
        again = onnx.load_model_from_string(onnx_io.to_bytes(net))
        if len(net.nodes) == len(model.graph.node):
            assert list(again.graph.node) == list(model.graph.node)
        assert again.graph.input == model.graph.input and again.graph.output == model.graph.output
        assert again.ir_version == model.ir_version and again.opset_import == model.opset_import
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in again.graph.initializer}
        for tensor in model.graph.initializer:
            if tensor.name in stored:
                np.testing.assert_array_equal(stored[tensor.name], onnx.numpy_helper.to_array(tensor))


def test_names_opset_and_interface_survive_pruning():
    model = next(
        m for m in (random_model(seed, 11) for seed in range(99)) if all(n.op_type != "Shape" for n in m.graph.node)
    )
    net = onnx_io.load(model.SerializeToString())
    groups = find_groups(net)
    small = onnx.load_model_from_string(
        onnx_io.to_bytes(remove(groups, random_removal(groups, 0.5, np.random.default_rng(0))))
    )
    assert small.graph.input == model.graph.input and small.graph.output == model.graph.output
    assert small.opset_import == model.opset_import and small.ir_version == model.ir_version
    assert [n.name for n in small.graph.node] == [n.name for n in model.graph.node]
    assert [list(n.output) for n in small.graph.node] == [list(n.output) for n in model.graph.node]


def test_pruning_twice_is_pruning_the_union():
    net = conv_net(bn=True)
    groups = find_groups(net)
    first, second = np.zeros(groups.n, bool), np.zeros(groups.n, bool)
    first[[1, 4, 9, 22]] = True
    second[[0, 7, 11, 25]] = True
    once = remove(groups, first | second)
    half = remove(groups, first)
    twice = remove(find_groups(half), second[~first])
    assert once.weights.keys() == twice.weights.keys()
    for name, value in once.weights.items():
        np.testing.assert_array_equal(value, twice.weights[name])


def test_removing_a_channel_with_zero_output_changes_nothing():
    net = conv_net()
    zeroed = {name: net.weights[name].copy() for name in ("k0", "c0")}
    zeroed["k0"][3], zeroed["c0"][3] = 0, 0
    net = net.changed(weights=zeroed)
    groups = find_groups(net)
    removed = np.zeros(groups.n, bool)
    removed[3] = True
    x = images((1, 8, 8), 8)
    np.testing.assert_allclose(run(remove(groups, removed), x), run(net, x), rtol=1e-5, atol=1e-6)


def test_shapes_after_surgery_are_those_of_the_channels_left():
    net = conv_net(bn=True)
    groups = find_groups(net)
    removed = np.zeros(groups.n, bool)
    removed[[0, 1, 2]] = True  # first convolution
    removed[[8, 9]] = True  # second convolution
    small = remove(groups, removed)
    shapes = {name: value.shape for name, value in small.weights.items()}
    assert shapes["k0"] == (5, 1, 3, 3) and shapes["g"] == shapes["v"] == shapes["c0"] == (5,)
    assert shapes["k1"] == (10, 5, 3, 3) and shapes["w0"] == (10 * 16, 10)
    kept = np.delete(net.weights["w0"].reshape(12, 16, 10), [0, 1], axis=0).reshape(160, 10)
    np.testing.assert_array_equal(small.weights["w0"], kept)


def twice(first, second, **more):
    """x (6) and z (6) through one matrix k (or two), ReLUs and a last layer each, added up."""
    rng = np.random.default_rng(0)
    w = weights(rng, k=(8, 6), l=(8, 6), b=(8,), p=(3, 8), q=(3, 8)) | more
    nodes = [
        node("Gemm", f"x {first} b", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r p", "u", transB=1),
        node("Gemm", f"z {second} b", "g", transB=1), node("Relu", "g", "s"), node("Gemm", "s q", "v", transB=1),
        node("Add", "u v", "y"),
    ]  # fmt: skip
    used = {name for n in nodes for name in n.input}
    return build(nodes, {k: v for k, v in w.items() if k in used}, {"x": [6], "z": [6]}, {"y": [3]})


def test_a_matrix_that_two_layers_share_is_cut_for_both_and_stays_one():
    net = twice("k", "k")
    groups = find_groups(net)
    (shared,) = [g for g in groups.groups if len(g.free)]
    assert shared.kind == "internal" and len(shared.producers) == 2 and len(shared.channels) == 8
    removed = np.zeros(groups.n, bool)
    removed[shared.channels[[1, 2, 5]]] = True
    small, masked = remove(groups, removed), mask(groups, removed)
    assert small.weights["k"].shape == (5, 6) and small.weights["p"].shape == small.weights["q"].shape == (3, 5)
    assert [n.inputs[1] for n in small.nodes if n.type == "Gemm"] == ["k", "p", "k", "q"]
    found = agreement(small, masked)
    assert found.largest > 0 and found.difference <= 1e-5 * found.largest


def test_a_shared_matrix_counts_once_for_the_channels_of_all_its_users():
    from pruning.scores import score_groups

    together, apart = (twice("k", second) for second in ("k", "l"))
    net = find_groups(together)
    (group,) = [g for g in net.groups if len(g.free)]
    k, b, p, q = (np.abs(together.weights[name].astype(float)) for name in "kbpq")
    values = score_groups(net, None, "l1", None).values[group.channels]
    np.testing.assert_allclose(values, k.sum(1) + b + p.sum(0) + q.sum(0), rtol=1e-6)
    groups = find_groups(apart)  # the bias is still shared: it belongs to the channels of both layers
    scores = score_groups(groups, None, "l1", None).values
    own = [g for g in groups.groups if len(g.free)]
    for group, weight, reader in zip(own, "kl", "pq", strict=True):
        w, r = (np.abs(apart.weights[name].astype(float)) for name in (weight, reader))
        np.testing.assert_allclose(scores[group.channels], w.sum(1) + b + r.sum(0), rtol=1e-6)


def test_a_shared_bias_does_not_tie_layers():
    groups = find_groups(twice("k", "l"))
    own = [g for g in groups.groups if len(g.free)]
    removed = np.zeros(groups.n, bool)
    removed[own[0].channels[[0, 3]]] = removed[own[1].channels[[1, 2, 7]]] = True
    found = agreement(remove(groups, removed), mask(groups, removed))
    assert found.difference <= 1e-5 * found.largest


def test_a_matrix_shared_with_a_layer_that_reads_the_input_stays_whole():
    rng = np.random.default_rng(0)
    w = weights(rng, k=(6, 6), last=(2, 6))
    nodes = [
        node("Gemm", "x k", "h", transB=1), node("Relu", "h", "a"), node("Gemm", "a k", "g", transB=1),
        node("Relu", "g", "b"), node("Gemm", "b last", "y", transB=1),
    ]  # fmt: skip
    groups = find_groups(build(nodes, w, {"x": [6]}, {"y": [2]}))
    assert not groups.prunable.any()
    assert "needs all of it" in groups.groups[0].reason


def frozen_reasons(net):
    return {g.name: g.reason for g in find_groups(net).groups if not len(g.free)}


def one_hidden(middle, opset=13, extra=None, tail="a", shape=(6,), pre="h", outputs=None):
    """Gemm -> `middle` nodes -> Gemm on 6 hidden units."""
    w = weights(np.random.default_rng(0), k=(6, 5), last=(shape[-1], 2)) | (extra or {})
    nodes = [node("Gemm", "x k", pre, transB=1), *middle, node("MatMul", f"{tail} last", "y")]
    return build(nodes, w, {"x": [5]}, {"y": outputs or [2]}, opset)


def test_softmax_over_channels_freezes():
    assert "couples all channels" in frozen_reasons(one_hidden([node("Softmax", "h", "a", axis=1)]))["make_h"]


def test_reduction_over_channels_freezes():
    w = weights(np.random.default_rng(0), k=(6, 5), last=(1, 2))
    nodes = [
        node("Gemm", "x k", "h", transB=1),
        node("ReduceMean", "h", "a", axes=[1], keepdims=1),
        node("MatMul", "a last", "y"),
    ]
    net = build(nodes, w, {"x": [5]}, {"y": [2]}, 13)
    assert "reduces over channels" in frozen_reasons(net)["make_h"]


def test_an_operator_without_a_rule_freezes_and_is_named_once():
    net = one_hidden(
        [node("CumSum", "h axis", "c"), node("CumSum", "c axis", "a")], extra={"axis": np.array(1, np.int64)}
    )
    groups = find_groups(net)
    assert not groups.prunable.any() and groups.unknown == ("CumSum (node 'make_c')",)


def test_joining_with_the_input_freezes():
    w = weights(np.random.default_rng(0), k=(5, 5), last=(5, 2))
    nodes = [node("Gemm", "x k", "h", transB=1), node("Add", "h x", "a"), node("MatMul", "a last", "y")]
    net = build(nodes, w, {"x": [5]}, {"y": [2]})
    assert "cannot be pruned" in frozen_reasons(net)["make_h"]


def test_outputs_and_layers_the_user_keeps_are_frozen():
    net = mlp(mlp_weights())
    assert frozen_reasons(net) == {"make_z2": "it is an output of the network"}
    assert find_groups(net, keep=["make_z0"]).groups[0].reason == "the user keeps this layer"
    groups = find_groups(net, keep=["z0"])
    removed = np.zeros(groups.n, bool)
    removed[0] = True
    with pytest.raises(RatioError, match="cannot be removed: the user keeps"):
        remove(groups, removed)


def test_every_axis_keeps_an_entry():
    groups = find_groups(mlp(mlp_weights()))
    removed = np.zeros(groups.n, bool)
    removed[:12] = True
    with pytest.raises(RatioError, match="without any; lower the ratio"):
        remove(groups, removed)


def test_residual_sum_makes_a_stream_and_a_block_stays_internal():
    rng = np.random.default_rng(0)
    w = weights(rng, k0=(6, 3, 3, 3), k1=(8, 6, 3, 3), k2=(6, 8, 3, 3), k3=(5, 6, 3, 3), last=(5, 2))
    nodes = [
        node("Conv", "x k0", "s", pads=[1] * 4), node("Conv", "s k1", "h", pads=[1] * 4), node("Relu", "h", "a"),
        node("Conv", "a k2", "r", pads=[1] * 4), node("Add", "s r", "t"), node("Conv", "t k3", "u", pads=[1] * 4),
        node("GlobalAveragePool", "u", "p"), node("Flatten", "p", "f"), node("Gemm", "f last", "y"),
    ]  # fmt: skip
    net = build(nodes, w, {"x": [3, 6, 6]}, {"y": [2]})
    found = {g.name: (g.kind, len(g.channels)) for g in find_groups(net).groups}
    assert found == {
        "make_s": ("stream", 6), "make_h": ("internal", 8), "make_u": ("internal", 5), "make_y": ("internal", 2)
    }  # fmt: skip


def test_a_dense_layer_reshaped_into_an_image_goes_by_channel():
    rng = np.random.default_rng(0)
    w = weights(rng, k=(7, 6 * 16), t=(6, 3, 2, 2)) | {"shape": np.array([-1, 6, 4, 4])}
    nodes = [
        node("Gemm", "x k", "h"),
        node("Reshape", "h shape", "i"),
        node("Relu", "i", "a"),
        node("ConvTranspose", "a t", "y", strides=[2, 2]),
    ]
    net = build(nodes, w, {"x": [7]}, {"y": [3, 8, 8]})
    groups = find_groups(net)
    assert len(groups.groups[0].channels) == 6
    removed = np.zeros(groups.n, bool)
    removed[[0, 4]] = True
    small = remove(groups, removed)
    assert small.weights["k"].shape == (7, 64) and small.weights["t"].shape == (4, 3, 2, 2)
    x = images((7,), 3)
    np.testing.assert_allclose(run(small, x), run(mask(groups, removed), x), rtol=1e-5, atol=1e-6)


def test_files_that_are_no_models(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(ModelError):
        pruning.load(bad)
    with pytest.raises(ModelError, match="no such file"):
        pruning.load(tmp_path / "absent.onnx")
    bad.write_bytes(b"")
    with pytest.raises(ModelError, match="empty file"):
        pruning.load(bad)
    with bad.open("wb") as file:
        file.truncate(2**31 + 10)
    with pytest.raises(ModelError, match="more than the limit"):
        pruning.load(bad)


def test_external_data_give_the_same_network(tmp_path):
    model = random_model(0, 13)
    whole = onnx_io.load(model.SerializeToString())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert onnx_io.to_bytes(pruning.load(tmp_path / "m.onnx")) == onnx_io.to_bytes(whole)
    with pytest.raises(ModelError, match="by its path"):
        onnx_io.load((tmp_path / "m.onnx").read_bytes())


def test_open_spatial_dimensions_are_refused():
    model = random_model(0, 13)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(ModelError, match="dimension 2 open"):
        onnx_io.load(model.SerializeToString())


def test_weights_listed_as_inputs_and_identity_of_weights():
    """Old files list weights among the inputs; exporters pass shared biases through Identity."""
    net = mlp(mlp_weights())
    model = onnx.load_model_from_string(onnx_io.to_bytes(net))
    model.ir_version = 3
    for tensor in list(model.graph.initializer):
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["b0"], ["b0_copy"]))
    model.graph.node[1].input[2] = "b0_copy"
    old = onnx_io.load(model.SerializeToString())
    assert old.inputs == ("x",)
    groups = find_groups(old)
    removed = np.zeros(groups.n, bool)
    removed[:3] = True
    small = onnx.load_model_from_string(onnx_io.to_bytes(remove(groups, removed), check=True))
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.graph.input}
    assert dims["w0"] == [9, 36] and dims["w1"] == [10, 9]


def test_verified_bounds_of_the_pruned_network_hold():
    """Sampled outputs of a pruned network lie in interval bounds computed for that network."""
    from pruning_nets import S_SMALL, interval_oracle

    from pruning import Calibration

    net = conv_net(bn=True)
    groups = find_groups(net)
    small = remove(groups, random_removal(groups, 0.3, np.random.default_rng(1)))
    x = images((1, 8, 8), 2)
    cell = S_SMALL.box[None]
    low, high = interval_oracle(small, ["y"], x, cell)["y"]
    data = Calibration(x, semantic=S_SMALL)
    for point in data.points(64, 1):
        y = run(small, data.moved(x, point))
        assert (y >= low[:, 0, 0]).all() and (y <= high[:, 0, 0]).all()
