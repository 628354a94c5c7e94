"""Weights beside the model (external data): every command reads them, and only from inside the model's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pruning
from pruning import cli as prune
from pruning import runtime as pruning_runtime
from verifier.command.umbrella import main as secateur
from verifier.errors import ModelError
from verifier.graph.onnx_import import ModelLimits, load_model
from verifier.graph.onnx_import.source import files_of, read_model
from verifier.problem.runtime import Session, compare
from verifier.semantic import network

POINTS = np.random.default_rng(0).uniform(0, 1, (5, 64))


def convolution(opset: int = 17) -> onnx.ModelProto:
    """1 x 8 x 8 image -> Conv 8 -> ReLU -> Gemm 2, with a Constant node that holds a tensor as well."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(size=(8, 1, 3, 3)), "b": rng.normal(size=8), "v": rng.normal(size=(2, 512)) / 20,
        "c": rng.normal(size=2),
    }  # fmt: skip
    scale = numpy_helper.from_array(np.array([0.5, 2.0], np.float32), "scale_value")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["g"], transB=1),
        helper.make_node("Constant", [], ["scale"], value=scale),
        helper.make_node("Mul", ["g", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def split(folder: Path, one_file: bool = True) -> Path:
    """The network with every tensor in other files."""
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    onnx.save_model(
        convolution(), path, save_as_external_data=True, all_tensors_to_one_file=one_file,
        location="net.onnx.data" if one_file else None, size_threshold=0, convert_attribute=True,
    )  # fmt: skip
    return path


def expected() -> np.ndarray:
    run = pruning_runtime.Runner(convolution().SerializeToString())
    return np.concatenate([run({"x": point.reshape(1, 1, 8, 8)})["y"] for point in POINTS])


@pytest.mark.parametrize("one_file", [True, False])
def test_verifier_pruner_and_semantic_front_end_read_the_same_network(tmp_path: Path, one_file: bool) -> None:
    path = split(tmp_path / "m", one_file)
    assert not any(t.raw_data for t in onnx.load(path, load_external_data=False).graph.initializer)
    model = load_model(path)
    np.testing.assert_allclose(Session(model).run(POINTS), expected(), rtol=1e-5)
    assert compare(model, model.graph, POINTS) < 1e-4
    net = network.load(path)
    np.testing.assert_allclose([net.run(p.reshape(1, 8, 8)).reshape(-1) for p in POINTS], expected(), rtol=1e-4)
    whole = pruning.load(path)
    assert whole.weights["w"].shape == (8, 1, 3, 3)
    assert set(files_of(path)) == {path, *(p for p in path.parent.iterdir() if p != path)}


def test_commands_run_on_it_and_prune_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = split(tmp_path / "m")
    spec = tmp_path / "s.vnnlib"
    box = "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 0.001))" for i in range(64))
    declared = "".join(f"(declare-const X_{i} Real)" for i in range(64)) + "".join(
        f"(declare-const Y_{i} Real)" for i in range(2)
    )
    spec.write_text(f"{declared}{box}(assert (>= Y_0 1000))")
    assert secateur(["verify", str(path), str(spec), "--timeout", "20"]) == 0
    assert capsys.readouterr().out.startswith("unsat")
    out = tmp_path / "small.onnx"
    assert prune.main([str(path), "-o", str(out), "--criterion", "l1", "--ratio", "0.5", "--fold", "zero"]) == 0
    small = onnx.load(out, load_external_data=False)
    assert all(t.data_location != TensorProto.EXTERNAL for t in small.graph.initializer)
    onnx.checker.check_model(str(out), full_check=True)
    assert json.loads(out.with_suffix(".json").read_text())["reached"] == 0.5
    picture, points = tmp_path / "p.npy", tmp_path / "k.json"
    np.save(picture, np.full((8, 8), 0.5, np.float32))
    points.write_text(json.dumps({"keypoints": [[3.0, 4.0]]}))
    assert secateur([
        "spec", str(path), "--image", str(picture), "--keypoints", str(points), "--brightness", "-0.1,0.1",
        "--tolerance", "3", "--out", str(tmp_path / "s"),
    ]) == 0  # fmt: skip
    onnx.checker.check_model(str(tmp_path / "s.onnx"), full_check=True)


def test_a_study_knows_a_network_by_its_weights_too(tmp_path: Path) -> None:
    """Resuming a comparison must notice that the weights beside a model have changed; a copy is one whole file."""
    from pruning.study.build import digest, whole

    path, single = split(tmp_path / "m"), tmp_path / "single.onnx"
    onnx.save(convolution(), single)
    assert whole(single) == single.read_bytes()
    before, copy = digest(path), tmp_path / "copy.onnx"
    copy.write_bytes(whole(path))
    assert digest(copy) == before and load_model(copy).graph.shapes == load_model(path).graph.shapes
    data = path.parent / "net.onnx.data"
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    assert digest(path) != before


def altered(path: Path, change: Callable[[TensorProto], None]) -> None:
    proto = onnx.load(path, load_external_data=False)
    change(next(t for t in proto.graph.initializer if t.name == "v"))
    path.write_bytes(proto.SerializeToString())


def with_entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        for entry in list(tensor.external_data):
            if entry.key == key:
                tensor.external_data.remove(entry)
        tensor.external_data.add(key=key, value=value)

    return change


def doubled(tensor: TensorProto) -> None:
    tensor.external_data.add(key="location", value="net.onnx.data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_entry("location", "../secret"), "inside the model's folder"),
        (with_entry("location", "m/../../secret"), "inside the model's folder"),
        (with_entry("location", "/etc/hostname"), "inside the model's folder"),
        (with_entry("location", "link"), "leaves the model's folder"),
        (with_entry("location", "linked/secret"), "leaves the model's folder"),
        (with_entry("location", "missing"), "No such file"),
        (with_entry("location", "loop"), "beside the model"),
        (with_entry("location", "folder"), "not a plain file|Is a directory"),
        (with_entry("location", "pipe"), "not a plain file"),
        (with_entry("location", ""), "no file name"),
        (with_entry("location", "a\0b"), "no file name"),
        (with_entry("offset", "-4"), "expected a number"),
        (with_entry("offset", "9" * 5000), "expected a number"),
        (with_entry("offset", "99999999999999999999"), "expected at least"),
        (with_entry("offset", "1_0"), "expected a number"),
        (with_entry("length", "8"), "type and shape need 4096"),
        (with_entry("length", "99999999999"), "type and shape need 4096"),
        (lambda t: t.dims.append(2**40), "more than 2147483647 bytes"),
        (lambda t: t.dims.__setitem__(0, -2), "negative dimension"),
        (lambda t: t.__setattr__("data_type", 99), "unknown type"),
        (lambda t: t.__setattr__("data_type", TensorProto.STRING), "strings"),
        (doubled, "twice"),
        (lambda t: t.ClearField("external_data"), "no location"),
    ],
)
def test_what_an_untrusted_file_may_not_ask_for(
    tmp_path: Path, change: Callable[[TensorProto], None], message: str
) -> None:
    path = split(tmp_path / "m")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8192))
    (path.parent / "link").symlink_to(secret)
    (path.parent / "linked").symlink_to(tmp_path)
    (path.parent / "loop").symlink_to("loop")
    (path.parent / "folder").mkdir()
    os.mkfifo(path.parent / "pipe")
    altered(path, change)
    for read in (load_model, network.load):
        with pytest.raises(ModelError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=message):
        pruning.load(path)


def test_a_link_inside_the_folder_is_followed_and_a_short_file_is_not_read(tmp_path: Path) -> None:
    path = split(tmp_path / "m")
    data = path.parent / "net.onnx.data"
    data.rename(path.parent / "blob")
    data.symlink_to("blob")
    np.testing.assert_allclose(Session(load_model(path)).run(POINTS), expected(), rtol=1e-5)
    with (path.parent / "blob").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ModelError, match="truncated"):
        load_model(path)


def test_the_size_is_bounded_over_all_tensors(tmp_path: Path) -> None:
    path = split(tmp_path / "m")
    assert len(read_model(path).data) > 4000
    with pytest.raises(ModelError, match="more than 4000 bytes"):
        load_model(path, limits=ModelLimits(bytes=4000))


def test_bytes_have_no_folder(tmp_path: Path) -> None:
    data = split(tmp_path / "m").read_bytes()
    for read in (load_model, network.load):
        with pytest.raises(ModelError, match="by its path"):
            read(data)
