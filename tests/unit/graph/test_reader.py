"""What the importer accepts, and how it refuses what it does not."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.models import build, convnet, mlp, outputs_of, random_inputs, run_onnx
from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.check import check_graph
from verifier.graph.onnx_import import ModelLimits, load_model
from verifier.graph.onnx_import.registry import lowers

RNG = np.random.default_rng(3)
node = helper.make_node


def agrees(data: bytes) -> None:
    model = load_model(data)
    check_graph(model.graph)
    inputs = random_inputs(model.graph, np.random.default_rng(0))
    expected = run_onnx(data, {name: value[0] for name, value in inputs.items()})
    flat = np.concatenate([np.asarray(one, dtype=np.float64).reshape(-1) for one in expected])
    np.testing.assert_allclose(outputs_of(model.graph, inputs)[0], flat, rtol=2e-5, atol=2e-5)


def edited(data: bytes, change: Any) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    change(proto)
    return proto.SerializeToString()


# -- files ------------------------------------------------------------------------------------------------------------


def test_path_gz_and_bytes_are_the_same_model(tmp_path: Path) -> None:
    data = mlp([3, 4, 2], RNG)
    (tmp_path / "a.onnx").write_bytes(data)
    (tmp_path / "b.onnx.gz").write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]) + b"\0\0")
    (tmp_path / "c.onnx").write_bytes(gzip.compress(data))  # decided by content, not by name
    models = [load_model(tmp_path / "a.onnx"), load_model(str(tmp_path / "b.onnx")), load_model(tmp_path / "c.onnx"),
              load_model(data), load_model(gzip.compress(data))]  # fmt: skip
    assert all(model.bytes == data for model in models)
    assert models[1].path.endswith("b.onnx.gz")
    assert all([str(one) for one in model.graph] == [str(one) for one in models[0].graph] for model in models)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-LFS pointer"),
        (b"; a specification\n(declare-const X_0 Real)\n", "VNN-LIB specification"),
        (b"(declare-const X_0 Real)", "VNN-LIB specification"),
        (b"hello, this is no network", "text, not an ONNX model"),
        (b"\x00\x01\x02\x03" * 20, "not an ONNX model"),
        (gzip.compress(b"\x08\x07" * 400, mtime=0)[:-9], "ends too early"),
        (gzip.compress(b"\x08\x07" * 400, mtime=0)[:20] + b"\xff\xff\xff" * 9, "gzip"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="not a file"):
        load_model(tmp_path)


def test_gzip_bomb_is_stopped_early() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    for limits in (ModelLimits(bytes=1_000_000), ModelLimits(unpacked=1_000_000)):
        with pytest.raises(ModelError, match="more than 1000000 bytes after decompression"):
            load_model(bomb, limits=limits)


def test_limits_on_size_nodes_and_elements(tmp_path: Path) -> None:
    data = mlp([3, 4, 2], RNG)
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="limit of 10"):
        load_model(path, limits=ModelLimits(bytes=10))
    with pytest.raises(ModelError, match="limit of 10"):
        load_model(data, limits=ModelLimits(bytes=10))
    with pytest.raises(ModelError, match="nodes"):
        load_model(data, limits=ModelLimits(nodes=2))
    with pytest.raises(ModelError, match="limit of 8 elements"):
        load_model(data, limits=ModelLimits(elements=8))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", ["big"], ["c"]), node("Add", ["x", "c"], ["y"])],
        [node("Expand", ["one", "big"], ["c"]), node("Add", ["x", "c"], ["y"])],
        [node("Expand", ["x", "big"], ["y"])],
        [node("Tile", ["x", "big"], ["y"])],
        [node("Range", ["zero", "huge", "step"], ["c"]), node("Add", ["x", "c"], ["y"])],
        [node("Gather", ["x", "many"], ["a"], axis=1), node("Gather", ["a", "many"], ["y"], axis=0)],
    ],
)  # fmt: skip
def test_small_files_cannot_ask_for_much_memory(nodes: list[onnx.NodeProto]) -> None:
    weights = {"big": np.array([10**6, 10**6]), "one": np.ones(1), "many": np.zeros(20000, dtype=np.int64),
               "zero": np.array(0.0), "huge": np.array(1e15), "step": np.array(1.0)}  # fmt: skip
    with pytest.raises(ModelError, match="exceeds the limit"):
        load_model(_untyped(nodes, weights, (1, 2)))


def _untyped(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: tuple[int, ...], opset: int = 13
) -> bytes:
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32) if v.dtype.kind == "f" else v, k)
         for k, v in weights.items() if k in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damaged_files_give_a_model_error_or_a_checked_model(position: int, byte: int, cut: bool) -> None:
    data = bytearray(_SMALL)
    position %= len(data)
    if cut:
        data = data[:position]
    else:
        data[position] = byte
    try:
        model = load_model(bytes(data), limits=ModelLimits(elements=10**6))
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        check_graph(model.graph)


_SMALL = convnet(np.random.default_rng(1))


# -- contents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    data = mlp([2, 3, 1], RNG)

    def poison(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        array = numpy_helper.to_array(tensor).copy()
        array[0, 0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    with pytest.raises(ModelError, match="tensor 'W0'"):
        load_model(edited(data, poison))


def test_infinite_clip_bounds_are_fine() -> None:
    data = build([node("Clip", ["x", "lo", "hi"], ["y"])], {"x": (3,)}, ["y"],
                 {"lo": np.array(-0.5), "hi": np.array(np.inf)})  # fmt: skip
    agrees(data)


def test_infinite_value_behind_a_mask_is_fine_where_never_chosen() -> None:
    mask = np.array([True, False, True])
    data = build([node("Where", ["mask", "c", "x"], ["y"])], {"x": (3,)}, ["y"],
                 {"mask": mask, "c": np.array([1.0, -np.inf, 2.0])})  # fmt: skip
    agrees(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.graph.initializer[0].__setattr__("data_location", TensorProto.EXTERNAL), "external data"),
        (lambda p: p.graph.initializer[0].__setattr__("raw_data", b"123"), "damaged"),
        (lambda p: p.graph.initializer[0].dims.__setitem__(0, -3), "negative dimension"),
        (lambda p: p.opset_import[0].__setattr__("version", 6), "opset 6"),
        (lambda p: p.opset_import[0].__setattr__("version", 29), "opset 29"),
        (lambda p: p.opset_import[0].__setattr__("domain", "other"), "does not say which version"),
        (lambda p: p.__setattr__("ir_version", 0), "ir_version"),
        (lambda p: p.graph.node[1].input.__setitem__(0, "nowhere"), "nowhere"),
        (lambda p: p.graph.node[1].output.__setitem__(0, "z0"), "second time|computed by no node|nothing before"),
        (lambda p: p.graph.output[0].__setattr__("name", "nowhere"), "nowhere"),
        (lambda p: p.graph.__delattr__("output"), "no output"),
        (lambda p: p.graph.input.pop(), "no input"),
        (lambda p: p.graph.input.append(p.graph.input[0]), "twice"),
        (lambda p: p.graph.initializer.append(p.graph.initializer[0]), "twice"),
        (lambda p: p.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.STRING), "expected numbers"),
        (lambda p: p.graph.input[0].type.tensor_type.ClearField("shape"), "number of axes"),
        (lambda p: p.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 0), "empty"),
        (lambda p: p.graph.sparse_initializer.add(), "sparse"),
    ],
)
def test_invalid_models(change: Any, message: str) -> None:
    def apply(proto: onnx.ModelProto) -> None:
        if message == "no output":
            del proto.graph.output[:]
        else:
            change(proto)

    with pytest.raises(ModelError, match=message):
        load_model(edited(mlp([2, 3, 1], RNG), apply))


def test_unknown_operators_are_named_and_counted() -> None:
    foo = node("Foo", ["x"], ["a"], name="first", domain="my.domain")
    rest = [node("RandomNormalLike", ["a"], ["b"], name="second"), node("Loop", ["b"], ["y"], name="third")]
    data = _untyped([foo, *rest], {}, (2,))
    with pytest.raises(
        UnsupportedOperator, match=r"first.*Foo.*opset 13.*my\.domain.*2 more.*Loop, RandomNormalLike"
    ) as caught:
        load_model(data)
    assert (caught.value.node, caught.value.op, caught.value.opset) == ("first", "Foo", 13)


def test_functions_and_control_flow_are_refused() -> None:
    body = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([node("Twice", ["x"], ["y"], domain="local", name="call")], "g", [x], [y])
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("local", 1)]
    with pytest.raises(UnsupportedOperator, match=r"call.*function"):
        load_model(helper.make_model(graph, functions=[body], opset_imports=imports).SerializeToString())
    with pytest.raises(UnsupportedOperator, match="control flow"):
        load_model(_untyped([node("If", ["x"], ["y"])], {}, (1,)))


def test_unused_unsupported_nodes_do_no_harm() -> None:
    agrees(build([node("Relu", ["x"], ["y"]), node("RandomNormalLike", ["x"], ["unused"])], {"x": (2,)}, ["y"]))


def test_unnamed_nodes_are_named_by_their_output() -> None:
    with pytest.raises(UnsupportedOperator, match="node 'y'"):
        load_model(_untyped([node("RandomNormalLike", ["x"], ["y"])], {}, (2,)))


def test_initializers_among_the_inputs_are_not_inputs() -> None:
    def list_weights(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    model = load_model(edited(mlp([2, 3, 1], RNG), list_weights))
    assert [info.name for info in model.input_infos] == ["x"]


def test_infos_declare_shapes_types_and_symbolic_axes() -> None:
    model = load_model(mlp([2, 3, 1], RNG))
    (x,), (y,) = model.input_infos, model.output_infos
    assert (x.name, x.shape, x.dtype, x.symbolic, x.size) == ("x", (1, 2), np.float32, (0,), 2)
    assert (y.name, y.shape, y.symbolic) == ("y", (1, 1), (0,))
    assert (model.graph.inputs, model.graph.outputs, model.opset) == (("x",), ("y",), 13)


def test_values_keep_their_onnx_names() -> None:
    graph = load_model(convnet(RNG)).graph
    assert {"h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "y"} <= set(graph.shapes)


# -- folding and structure --------------------------------------------------------------------------------------------


def test_shape_arithmetic_of_a_dynamic_batch_folds_away() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axis"], ["b"]),
        node("Concat", ["b", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("ConstantOfShape", ["target2"], ["fill"], value=numpy_helper.from_array(np.float32([2]))),
        node("Mul", ["flat", "fill"], ["scaled"]),
        node("Slice", ["s", "start", "end"], ["tail"]),
        node("Cast", ["tail"], ["tail_f"], to=1),
        node("ReduceProd", ["tail_f"], ["count"], keepdims=0),
        node("Div", ["scaled", "count"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1]), "target2": np.array([1, 12]),
               "start": np.array([1]), "end": np.array([2**62])}  # fmt: skip
    data = build(nodes, {"x": ("n", 3, 4)}, ["y"], weights)
    agrees(data)
    assert [one.op for one in load_model(data).graph] == ["Reshape", "Scale", "Scale"]


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Softmax", "LogicalNot", "Conv"])
def test_any_operator_on_constants_is_folded(op: str) -> None:
    weights = {"c": RNG.normal(size=(1, 2, 4)), "k": RNG.normal(size=(3, 2, 3))}
    if op == "Conv":
        nodes = [node("Conv", ["c", "k"], ["f"]), node("Add", ["x", "f"], ["y"])]
    elif op == "LogicalNot":
        nodes = [node("Greater", ["c", "c"], ["g"]), node("Not", ["g"], ["h"]), node("Cast", ["h"], ["f"], to=1),
                 node("Add", ["x", "f"], ["y"])]  # fmt: skip
    else:
        nodes = [node(op, ["c"], ["f"]), node("Add", ["x", "f"], ["y"])]
    shape = (1, 3, 2) if op == "Conv" else (1, 2, 4)
    data = build(nodes, {"x": shape}, ["y"], {k: v for k, v in weights.items() if any(k in n.input for n in nodes)})
    agrees(data)
    assert [one.op for one in load_model(data).graph] == ["Shift"]


def test_outputs_that_are_inputs_constants_or_shared() -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["again"]), node("Identity", ["x"], ["same"]),
             node("Identity", ["c"], ["fixed"])]  # fmt: skip
    agrees(build(nodes, {"x": (2,)}, ["r", "again", "same", "fixed"], {"c": np.ones(3)}))


def test_several_inputs_and_outputs_keep_their_order() -> None:
    nodes = [node("MatMul", ["b", "a"], ["p"]), node("Split", ["p"], ["q", "r"], axis=1)]
    data = build(nodes, {"a": (3, 2), "b": (1, 3)}, ["r", "p"], {}, opset=13)
    agrees(data)
    assert load_model(data).graph.inputs == ("a", "b")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_keep_their_exact_values(dtype: Any) -> None:
    weight = RNG.normal(size=(4, 3)).astype(dtype)
    data = build([node("MatMul", ["x", "w"], ["y"])], {"x": (1, 4)}, ["y"], {"w": weight}, dtype=dtype)
    (dense,) = load_model(data).graph
    assert dense.params["weight"].dtype == np.float64
    assert (dense.params["weight"] == weight.T.astype(np.float64)).all()


# -- opaque and final -------------------------------------------------------------------------------------------------


def test_data_dependent_nodes_become_opaque_and_everything_behind_them() -> None:
    nodes = [
        node("ArgMax", ["x"], ["k"], axis=1, keepdims=0, name="pick"),
        node("Gather", ["table", "k"], ["row"], name="look"),
        node("Relu", ["row"], ["r"], name="after"),
        node("Add", ["r", "z"], ["y"]),
        node("Abs", ["x"], ["z0"]),
        node("Identity", ["z0"], ["z1"]),
    ]
    nodes = [*nodes[4:], *nodes[:3], node("ReduceSum", ["z1"], ["z"], keepdims=0), nodes[3]]
    data = build(nodes, {"x": (1, 4)}, ["y"], {"table": RNG.normal(size=(4, 3))})
    graph = load_model(data).graph
    assert [one.attrs["op_type"] for one in graph.opaque] == ["Gather", "Relu", "Add"]
    assert {one.op for one in graph} == {"Opaque", "Abs", "ReduceSum", "ArgMax"}
    check_graph(graph)


def test_conversion_to_whole_numbers_has_bounds() -> None:
    nodes = [node("Cast", ["x"], ["n"], to=7), node("Cast", ["n"], ["y"], to=1)]
    graph = load_model(build(nodes, {"x": (3,)}, ["y"])).graph
    assert {one.op for one in graph} == {"Relu", "Floor", "Scale", "Sub", "Within", "Reshape"}


@pytest.mark.parametrize("reduction", ["add", "mul", "none"])
def test_scattering_computes_with_whole_numbers_only_where_it_reduces(reduction: str) -> None:
    """Sums of uint8 begin again at 0 behind 255; what is only moved keeps its value."""
    nodes = [
        node("Cast", ["x"], ["n"], to=TensorProto.UINT8),
        node("ScatterND", ["n", "where", "more"], ["m"], **({} if reduction == "none" else {"reduction": reduction})),
        node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = {"where": np.array([[1]]), "more": np.uint8([6])}
    model = load_model(build(nodes, {"x": (3,)}, ["y"], weights, 18))
    assert [one.attrs["op_type"] for one in model.graph.opaque][:1] == ([] if reduction == "none" else ["ScatterND"])


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("behind", [False, True])
def test_final_softmax_is_recognised(opset: int, behind: bool) -> None:
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("Softmax", ["logits"], ["p" if behind else "y"])]
    if behind:
        nodes.append(node("Reshape", ["p", "shape"], ["y"]))
    weights: dict[str, np.ndarray] = {"w": RNG.normal(size=(3, 5))}
    if behind:
        weights["shape"] = np.array([5, 1])
    data = build(nodes, {"x": (1, 3)}, ["y"], weights, opset)
    agrees(data)
    model = load_model(data)
    assert model.final is not None and model.graph_logits is not None
    assert (model.final.kind, model.final.outer, model.final.n, model.final.inner) == ("softmax", 1, 5, 1)
    assert model.graph_logits.outputs == ("logits",)
    check_graph(model.graph_logits)
    inputs = random_inputs(model.graph, np.random.default_rng(0))
    logits = outputs_of(model.graph_logits, inputs)[0]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), outputs_of(model.graph, inputs)[0], rtol=1e-12)


def test_final_softmax_on_an_inner_axis_and_none_in_the_middle() -> None:
    data = build([node("Softmax", ["x"], ["y"], axis=1)], {"x": (2, 3, 4)}, ["y"])
    final = load_model(data).final
    assert final is not None and (final.outer, final.n, final.inner) == (2, 3, 4)
    data = build([node("Softmax", ["x"], ["p"]), node("Neg", ["p"], ["y"])], {"x": (2, 3)}, ["y"])
    assert load_model(data).final is None


@pytest.mark.parametrize(("to", "found"), [(1, True), (7, True), (3, False)])  # float, int64, int8
def test_final_argmax_is_recognised(to: int, found: bool) -> None:
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("ArgMax", ["logits"], ["k"], axis=1, keepdims=1),
             node("Cast", ["k"], ["f"], to=to), node("Squeeze", ["f", "axes"], ["y"])]  # fmt: skip
    data = build(nodes, {"x": (1, 3)}, ["y"], {"w": RNG.normal(size=(3, 5)), "axes": np.array([1])})
    model = load_model(data)
    assert not model.graph.opaque
    assert (model.final is not None) is found
    if found:
        assert model.final is not None and model.graph_logits is not None
        assert (model.final.kind, model.final.outer, model.final.n, model.final.last) == ("argmax", 1, 5, False)
        inputs = random_inputs(model.graph_logits, np.random.default_rng(0))
        logits = outputs_of(model.graph_logits, inputs)[0]
        assert int(run_onnx(data, {"x": inputs["x"][0]})[0].reshape(())) == int(np.argmax(logits))


# -- the package ------------------------------------------------------------------------------------------------------


def test_registering_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        lowers("Relu")(lambda c: c.x())


def test_graph_packages_import_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, verifier.graph.onnx_import, verifier.passes.simplify, verifier.passes.prune_outputs,"
        " verifier.passes.fold_fixed_inputs, verifier.problem.runtime; "
        "print([m for m in ('torch', 'onnxruntime', 'onnx.reference', 'onnx.shape_inference') if m in sys.modules][:2])"
    )
    root = Path(__file__).parents[3]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "torch" not in out.stdout and "onnxruntime" not in out.stdout


def test_passes_and_ir_work_without_onnx() -> None:
    code = "import sys; sys.modules['onnx'] = None; import verifier.passes.simplify, verifier.graph.check"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root).returncode == 0


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("variadic", "input 3 .* is missing"),
        ("dead", "input 2 .* is missing"),
        ("attribute", "attribute 'to' is missing"),
        ("count", "1 inputs, expected at least 2"),
    ],
)
def test_what_a_node_has_to_have(damage: str, why: str) -> None:
    """ONNX Runtime crashes where a variadic input is left out, in nodes that no output needs too."""
    nodes = {
        "variadic": [node("Min", ["x", "x", ""], ["y"])],
        "dead": [node("Max", ["x", ""], ["unused"]), node("Relu", ["x"], ["y"])],
        "attribute": [node("Cast", ["x"], ["y"])],
        "count": [node("MatMul", ["x"], ["y"])],
    }[damage]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 2])], [value("y", 1, [1, 2])])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    with pytest.raises(ModelError, match=why):
        load_model(data)


def test_complex_weights_are_refused() -> None:
    tensor = helper.make_tensor("w", TensorProto.COMPLEX64, [2], [1 + 2j, 3 - 1j])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Add", ["x", "w"], ["y"])], "g", [value("x", 1, [2])], [value("y", 1, [2])], [tensor]
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    with pytest.raises(ModelError, match="complex"):
        load_model(data)
