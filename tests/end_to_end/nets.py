"""Small networks and specifications for the command's tests, with answers known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path: Path, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], n_in: int, n_out: int) -> Path:
    """A model with the float32 input `x` (1, n_in) and the output `y` (1, n_out)."""
    constants = [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in arrays.items()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, n_out])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def absolute(path: Path, scale: float = 1.0) -> Path:
    """y = scale * (|x_0| + |x_1|) through two ReLU pairs."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    w1 = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])
    return save(path, nodes, {"w1": w1, "w2": np.full((4, 1), scale)}, 2, 1)


def sum_and_difference(path: Path) -> Path:
    """Inputs a, b and outputs a + b, a - b, each (N, 2) with a dynamic batch."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])

    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    graph = helper.make_graph(nodes, "net", [value("a"), value("b")], [value("s"), value("d")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def one_hot(path: Path) -> Path:
    """y = hardmax(x), an operator that can be run but has no bound rule."""
    return save(path, [helper.make_node("Hardmax", ["x"], ["y"])], {}, 2, 2)


def unsupported(path: Path) -> Path:
    """A network with an operator that is not read (RandomNormalLike), named `the_strange_one`."""
    return save(path, [helper.make_node("RandomNormalLike", ["x"], ["y"], name="the_strange_one")], {}, 2, 2)


def spec(
    path: Path, *assertions: str, n_in: int = 2, n_out: int = 1, box: tuple[float, float] | None = (-1, 1)
) -> Path:
    """A VNN-LIB 1.0 file: every input in `box`, and the assertions."""
    lines = [f"(declare-const X_{i} Real)" for i in range(n_in)] + [f"(declare-const Y_{i} Real)" for i in range(n_out)]
    if box is not None:
        for i in range(n_in):
            lines += [f"(assert (>= X_{i} {box[0]}))", f"(assert (<= X_{i} {box[1]}))"]
    path.write_text("\n".join([*lines, *(f"(assert {text})" for text in assertions)]) + "\n")
    return path


def hard(folder: Path) -> tuple[Path, Path]:
    """A network and a specification that a search neither proves nor refutes in a minute: many inputs that all matter,
    and a threshold far above what the network reaches and far below what one bound shows."""
    draw, nodes, arrays, value, width = np.random.default_rng(5), [], {}, "x", 40
    for k in range(3):
        arrays[f"w{k}"] = draw.normal(size=(width, 60)) * np.sqrt(2 / width)
        arrays[f"b{k}"] = draw.normal(size=60) * 0.3
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [f"s{k}"]))
        nodes.append(helper.make_node("Relu", [f"s{k}"], [f"h{k}"]))
        value, width = f"h{k}", 60
    arrays["w3"] = draw.normal(size=(width, 1)) * np.sqrt(2 / width)
    nodes.append(helper.make_node("MatMul", [value, "w3"], ["y"]))
    return save(folder / "hard.onnx", nodes, arrays, 40, 1), spec(folder / "hard.vnnlib", "(>= Y_0 14.0)", n_in=40)
