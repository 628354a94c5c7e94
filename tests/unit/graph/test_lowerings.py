"""Every ONNX operator the importer lowers, against ONNX Runtime, over attributes, shapes and opsets."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import build, one_op, outputs_of, random_inputs, run_onnx
from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.check import check_graph
from verifier.graph.onnx_import import load_model, operators
from verifier.graph.onnx_import.opaque import opaque
from verifier.graph.onnx_import.registry import lookup

R = np.random.default_rng(7)
ALL = (7, 8, 9, 11, 13, 17, 22)
STEPS = {
    *(
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Equal",
        "And",
        "Or",
        "Xor",
        "Not",
        "ArgMax",
        "ArgMin",
        "TopK",
    ),
    *("CumSum", "Round", "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"),
    *("MatMulInteger", "Swish", "RMSNormalization", "DynamicQuantizeLinear"),
}  # in test_steps.py
Case = tuple[str, tuple[int, ...], list[Any], dict[str, Any], int]


def n(*shape: int) -> np.ndarray:
    return R.normal(size=shape).astype(np.float32)


def i(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def positive(*shape: int) -> np.ndarray:
    return R.uniform(0.5, 1.5, shape).astype(np.float32)


# (operator, opsets, arguments: tuple = input of that shape / array = weight, attributes, outputs)
CASES: list[Case] = [
    # matrix products
    ("Gemm", ALL, [(2, 3), n(3, 4), n(4)], {}, 1),
    ("Gemm", ALL, [(3, 2), n(4, 3), n(1, 4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
    ("Gemm", ALL, [(2, 3), n(3, 4), n(2, 1)], {}, 1),
    ("Gemm", ALL, [n(2, 3), (3, 4), n(2, 4)], {"beta": 0.25}, 1),
    ("Gemm", ALL, [n(3, 2), (4, 3), n(4)], {"transA": 1, "transB": 1}, 1),
    ("Gemm", (11, 13, 22), [(2, 3), n(3, 4)], {}, 1),
    ("Gemm", ALL, [(2, 3), (3, 4), n(2, 4)], {}, 1),
    ("Gemm", ALL, [(2, 3), n(3, 4), (4,)], {"beta": 3.0}, 1),
    ("MatMul", ALL, [(5, 3), n(3, 4)], {}, 1),
    ("MatMul", ALL, [(3,), n(3, 4)], {}, 1),
    ("MatMul", ALL, [(2, 5, 3), n(3)], {}, 1),
    ("MatMul", ALL, [(3,), n(3)], {}, 1),
    ("MatMul", ALL, [n(4, 3), (3, 5)], {}, 1),
    ("MatMul", ALL, [n(4, 3), (3,)], {}, 1),
    ("MatMul", ALL, [n(3), (3, 5)], {}, 1),
    ("MatMul", ALL, [n(3), (2, 3, 5)], {}, 1),
    ("MatMul", ALL, [n(2, 4, 3), (3,)], {}, 1),
    ("MatMul", ALL, [(2, 5, 3), n(2, 3, 4)], {}, 1),
    ("MatMul", ALL, [(5, 3), n(2, 3, 4)], {}, 1),
    ("MatMul", ALL, [(3,), n(2, 3, 4)], {}, 1),
    ("MatMul", ALL, [(5, 3), n(1, 1, 3, 4)], {}, 1),
    ("MatMul", ALL, [n(2, 4, 3), (3, 5)], {}, 1),
    ("MatMul", ALL, [n(2, 1, 4, 3), (3, 3, 5)], {}, 1),
    ("MatMul", ALL, [(2, 1, 4, 3), (3, 3, 5)], {}, 1),
    ("MatMul", ALL, [(3,), (3, 5)], {}, 1),
    ("MatMul", ALL, [(4, 3), (3,)], {}, 1),
    ("MatMul", ALL, [(3,), (3,)], {}, 1),
    # convolutions
    ("Conv", ALL, [(1, 2, 6, 5), n(3, 2, 3, 2), n(3)], {"pads": [1, 0, 1, 0]}, 1),
    ("Conv", ALL, [(1, 2, 6, 5), n(3, 2, 3, 2)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}, 1),
    ("Conv", ALL, [(2, 4, 6, 6), n(6, 2, 3, 3), n(6)], {"group": 2, "dilations": [2, 1], "pads": [2, 1, 2, 1]}, 1),
    ("Conv", ALL, [(1, 2, 9), n(3, 2, 4)], {"auto_pad": "SAME_UPPER", "strides": [2]}, 1),
    ("Conv", ALL, [(1, 2, 9), n(3, 2, 4)], {"auto_pad": "SAME_LOWER", "strides": [2]}, 1),
    ("Conv", ALL, [(1, 2, 7, 6), n(3, 2, 4, 3)], {"auto_pad": "SAME_LOWER"}, 1),
    ("Conv", ALL, [(1, 2, 9), n(3, 2, 4), n(3)], {"auto_pad": "VALID", "kernel_shape": [4]}, 1),
    ("Conv", ALL, [(1, 2, 4, 3, 5), n(3, 2, 2, 2, 3), n(3)], {"pads": [0, 1, 1, 0, 1, 1]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 2), n(3)], {"strides": [2, 3]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3), n(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3), n(3)],
     {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3), n(3)], {"strides": [2, 2], "pads": [0, 1, 2, 0]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3), n(3)], {"strides": [2, 2], "output_shape": [8, 6]}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 4, 3), n(3)],
     {"strides": [2, 2], "output_shape": [9, 6], "auto_pad": "SAME_UPPER"}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 1),
    ("ConvTranspose", ALL, [(1, 2, 4, 3), n(2, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, 1),
    ("ConvTranspose", ALL, [(1, 4, 5), n(4, 3, 3), n(6)], {"group": 2, "dilations": [2], "pads": [1, 1]}, 1),
    ("ConvTranspose", ALL, [(1, 4, 5), n(4, 3, 3), n(6)], {"group": 2, "strides": [3], "output_padding": [2]}, 1),
    ("BatchNormalization", (7, 8), [(2, 3, 4, 4), n(3), n(3), n(3), positive(3)], {}, 1),
    ("BatchNormalization", ALL, [(2, 3), n(3), n(3), n(3), positive(3)], {"epsilon": 0.1}, 1),
    ("BatchNormalization", (9, 14, 15, 22), [(1, 3, 5), n(3), n(3), n(3), positive(3)], {}, 1),
    ("LayerNormalization", (17, 22), [(2, 3, 4), n(4), n(4)], {}, 1),
    ("LayerNormalization", (17, 22), [(2, 3, 4), n(3, 4)], {"axis": 1, "epsilon": 0.01}, 1),
    # pooling
    ("MaxPool", ALL, [(1, 2, 6, 5)], {"kernel_shape": [2, 2], "strides": [2, 1]}, 1),
    ("MaxPool", ALL, [(1, 2, 6, 5)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
    ("MaxPool", ALL, [(1, 2, 7)], {"kernel_shape": [3], "strides": [2], "pads": [0, 1]}, 1),
    ("MaxPool", ALL, [(1, 2, 7)], {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}, 1),
    ("MaxPool", ALL, [(1, 2, 8)], {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_LOWER"}, 1),
    ("MaxPool", (10, 11, 12, 22), [(1, 2, 7, 8)], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, 1),
    ("MaxPool", (10, 11, 12, 22), [(1, 1, 9)], {"kernel_shape": [2], "dilations": [3]}, 1),
    ("MaxPool", (10, 12, 22), [(1, 1, 5)], {"kernel_shape": [2], "strides": [3], "pads": [1, 1], "ceil_mode": 1}, 1),
    ("MaxPool", ALL, [(1, 2, 3, 4, 3)], {"kernel_shape": [2, 2, 2]}, 1),
    ("AveragePool", ALL, [(1, 2, 6, 5)], {"kernel_shape": [2, 2], "strides": [2, 1]}, 1),
    ("AveragePool", ALL, [(1, 2, 6, 5)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
    ("AveragePool", ALL, [(1, 2, 6, 5)],
     {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 1),
    ("AveragePool", ALL, [(1, 2, 6)], {"kernel_shape": [3], "pads": [0, 2]}, 1),
    ("AveragePool", ALL, [(1, 2, 7)], {"kernel_shape": [4], "strides": [2], "auto_pad": "SAME_LOWER"}, 1),
    ("AveragePool", (10, 11, 19, 22), [(1, 2, 7, 8)], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, 1),
    ("AveragePool", (19, 22), [(1, 2, 7, 8)],
     {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1}, 1),
    ("AveragePool", (19, 22), [(1, 2, 9)], {"kernel_shape": [3], "dilations": [2]}, 1),
    ("GlobalAveragePool", ALL, [(2, 3, 4, 5)], {}, 1),
    ("GlobalMaxPool", ALL, [(2, 3, 4, 5)], {}, 1),
    # arithmetic with broadcasting both ways
    *((op, ALL, [(2, 3), n(3)], {}, 1) for op in ("Add", "Sub", "Mul")),
    *((op, ALL, [n(3), (2, 3)], {}, 1) for op in ("Add", "Sub", "Mul")),
    *((op, ALL, [(3,), n(2, 1)], {}, 1) for op in ("Add", "Sub", "Mul")),
    *((op, ALL, [n(2, 1, 3), (4, 1)], {}, 1) for op in ("Add", "Sub", "Mul")),
    *((op, ALL, [(2, 1, 3), (4, 1)], {}, 1) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, ALL, [(2, 3), np.float32(0.75)], {}, 1) for op in ("Add", "Sub", "Mul", "Div")),
    ("Div", ALL, [(2, 3), positive(2, 3)], {}, 1),
    ("Div", ALL, [positive(4, 1), (3,)], {}, 1),
    ("Sum", (8, 13, 22), [(2, 3), n(3), (2, 1)], {}, 1),
    ("Mean", (8, 13, 22), [(2, 3), n(3), (2, 1)], {}, 1),
    ("Max", (8, 13, 22), [(2, 3), (3,)], {}, 1),
    ("Max", (8, 13, 22), [(2, 3), n(3), (2, 1), n(1)], {}, 1),
    ("Max", (8, 13, 22), [(2, 3), np.float32(0.0)], {}, 1),
    ("Max", (8, 13, 22), [(2, 3)], {}, 1),
    ("Min", (8, 13, 22), [(2, 3), (3,)], {}, 1),
    ("Min", (8, 13, 22), [(2, 3), n(3), (2, 1)], {}, 1),
    ("Min", (8, 13, 22), [n(2, 3), (1,), np.float32(0.2)], {}, 1),
    *(("Pow", ALL, [(2, 3), np.float32(e)], {}, 1) for e in (0, 1, 2, 3, -1, -2)),
    ("Pow", (12, 13, 22), [(2, 3), i(2)], {}, 1),
    ("Pow", ALL, [np.float32(1.5), (2, 3)], {}, 1),
    ("Pow", ALL, [(3,), np.full((2, 3), 2, dtype=np.float32)], {}, 1),
    ("Where", (9, 16, 22), [np.array([True, False, True]), (2, 3), n(3)], {}, 1),
    ("Where", (9, 16, 22), [np.array([[True], [False]]), n(1), (3,)], {}, 1),
    ("Where", (9, 16, 22), [np.array([True, False, True]), (3,), (2, 3)], {}, 1),
    # element-wise
    *((op, ALL, [(2, 3)], {}, 1) for op in (
        "Relu", "Abs", "Neg", "Floor", "Ceil", "Sigmoid", "Tanh", "Exp", "Reciprocal", "Softplus", "Softsign", "Elu",
        "Selu", "LeakyRelu", "HardSigmoid", "Identity", "Sin", "Cos")),
    ("Sign", (9, 13, 22), [(2, 3)], {}, 1),
    ("Celu", (12, 22), [(2, 3)], {"alpha": 0.7}, 1),
    ("HardSwish", (14, 22), [(2, 3)], {}, 1),
    ("LeakyRelu", ALL, [(2, 3)], {"alpha": 0.25}, 1),
    ("LeakyRelu", ALL, [(2, 3)], {"alpha": -0.25}, 1),
    ("Elu", ALL, [(2, 3)], {"alpha": 2.0}, 1),
    ("HardSigmoid", ALL, [(2, 3)], {"alpha": 0.5, "beta": 0.25}, 1),
    ("PRelu", ALL, [(1, 3, 2, 2), positive(3, 1, 1)], {}, 1),
    ("PRelu", ALL, [(1, 3, 2, 2), n(3, 1, 1)], {}, 1),
    ("PRelu", ALL, [(2, 3), positive(1)], {}, 1),
    ("Clip", (7, 9), [(2, 3)], {"min": -0.5, "max": 1.0}, 1),
    ("Clip", (7, 9), [(2, 3)], {"min": 0.0}, 1),
    ("Clip", (7, 9), [(2, 3)], {}, 1),
    ("Clip", (11, 13, 22), [(2, 3), np.float32(-0.5), np.float32(1.0)], {}, 1),
    ("Clip", (11, 13, 22), [(2, 3), "", np.float32(1.0)], {}, 1),
    ("Clip", (11, 13, 22), [(2, 3), np.float32(0.0)], {}, 1),
    ("Clip", (12, 13, 22), [(2, 3), np.float32(1.0), np.float32(-1.0)], {}, 1),
    # reductions
    *((op, (7, 11, 13, 17), [(2, 3, 4)], {"axes": [1], "keepdims": 0}, 1)
      for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")),
    *((op, (7, 11, 13, 17), [(2, 3, 4)], {"axes": [-1, 0]}, 1) for op in ("ReduceMean", "ReduceMax", "ReduceMin")),
    *((op, (18, 22), [(2, 3, 4), i(-1, 0)], {"keepdims": 0}, 1)
      for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1")),
    *((op, ALL, [(2, 3, 4)], {}, 1) for op in ("ReduceMean", "ReduceMax", "ReduceSum")),
    ("ReduceSum", (7, 11), [(2, 3, 4)], {"axes": [1, 2], "keepdims": 0}, 1),
    ("ReduceSum", (13, 22), [(2, 3, 4), i(1, 2)], {"keepdims": 0}, 1),
    ("ReduceSum", (13, 22), [(2, 3, 4)], {"noop_with_empty_axes": 1}, 1),
    ("ReduceMean", (18, 22), [(2, 3, 4)], {"noop_with_empty_axes": 1}, 1),
    # softmax: coerced to two dimensions before opset 13
    ("Softmax", ALL, [(2, 3, 4)], {}, 1),
    ("Softmax", ALL, [(2, 3, 4)], {"axis": 0}, 1),
    ("Softmax", ALL, [(2, 3, 4)], {"axis": 2}, 1),
    ("Softmax", (11, 13, 22), [(2, 3, 4)], {"axis": -2}, 1),
    ("Softmax", ALL, [(1, 80)], {}, 1),
    ("Softmax", ALL, [(80, 2)], {"axis": 0}, 1),
    # shapes
    ("Reshape", ALL, [(2, 3, 4), i(0, -1)], {}, 1),
    ("Reshape", ALL, [(2, 3, 4), i(-1)], {}, 1),
    ("Reshape", (14, 22), [(2, 3, 4), i(4, 6)], {"allowzero": 1}, 1),
    *(("Flatten", (7, 9, 11, 13, 22), [(2, 3, 4)], {"axis": axis}, 1) for axis in (0, 1, 2, 3)),
    *(("Flatten", (11, 13, 22), [(2, 3, 4)], {"axis": axis}, 1) for axis in (-1, -2)),
    ("Squeeze", (7, 11), [(1, 3, 1, 4)], {"axes": [0, 2]}, 1),
    ("Squeeze", (13, 22), [(1, 3, 1, 4), i(-2)], {}, 1),
    ("Squeeze", (13, 22), [(1, 3, 1, 4), i()], {}, 1),
    ("Squeeze", ALL, [(1, 3, 1, 4)], {}, 1),
    ("Unsqueeze", (7, 11), [(3, 4)], {"axes": [0, 2]}, 1),
    ("Unsqueeze", (13, 22), [(3, 4), i(-1, 0)], {}, 1),
    ("Transpose", ALL, [(2, 3, 4)], {"perm": [2, 0, 1]}, 1),
    ("Transpose", ALL, [(2, 3, 4)], {}, 1),
    ("Expand", (8, 13, 22), [(3, 1), i(2, 1, 4)], {}, 1),
    ("Expand", (8, 13, 22), [(2, 3, 1), i(3, 4)], {}, 1),
    ("Tile", ALL, [(2, 3), i(2, 3)], {}, 1),
    ("DepthToSpace", ALL, [(1, 8, 2, 3)], {"blocksize": 2}, 1),
    ("DepthToSpace", (11, 13, 22), [(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, 1),
    ("SpaceToDepth", ALL, [(1, 2, 4, 6)], {"blocksize": 2}, 1),
    ("Dropout", (7, 10, 12, 13, 22), [(2, 3)], {}, 1),
    ("Dropout", (7, 9, 10, 12, 22), [(2, 3)], {}, 2),
    ("Cast", ALL, [(2, 3)], {"to": 11}, 1),
    # picking and joining
    ("Concat", ALL, [(2, 3), (2, 1), n(2, 2)], {"axis": 1}, 1),
    ("Concat", (11, 13, 22), [(2, 3), n(1, 3)], {"axis": -2}, 1),
    ("Split", (7, 11), [(2, 6)], {"axis": 1}, 3),
    ("Split", (7, 11), [(2, 6)], {"axis": 1, "split": [1, 5]}, 2),
    ("Split", (13, 18, 22), [(2, 6), i(1, 2, 3)], {"axis": -1}, 3),
    ("Split", (18, 22), [(2, 7)], {"axis": 1, "num_outputs": 3}, 3),
    ("Split", (13,), [(2, 6)], {"axis": 1}, 2),
    ("Slice", (7, 9), [(4, 6)], {"starts": [1, -5], "ends": [9, -1]}, 1),
    ("Slice", (7, 9), [(4, 6)], {"starts": [2], "ends": [2**31 - 1], "axes": [1]}, 1),
    ("Slice", (10, 11, 13, 22), [(4, 6), i(1), i(2**63 - 1), i(-1), i(2)], {}, 1),
    ("Slice", (10, 11, 13, 22), [(4, 6), i(-1), i(-(2**63) + 1), i(1), i(-1)], {}, 1),
    ("Slice", (10, 11, 13, 22), [(4, 6), i(4, 3), i(0, 0), i(1, 0), i(-2, -1)], {}, 1),
    ("Slice", (10, 11, 13, 22), [(4, 6), i(5), i(-20), i(1), i(-2)], {}, 1),
    ("Slice", (10, 11, 13, 22), [(4, 6), i(1, 0), i(3, 5)], {}, 1),
    ("Gather", ALL, [(4, 3), i(2, 0, 2)], {}, 1),
    ("Gather", ALL, [(4, 3), np.int64(1)], {"axis": 1}, 1),
    ("Gather", (11, 13, 22), [(4, 3), i([-1, 0], [1, 1])], {"axis": -2}, 1),
    ("GatherElements", (11, 13, 22), [(3, 4), i([0, -1], [2, 3])], {"axis": 1}, 1),
    ("GatherND", (11, 13, 22), [(3, 4, 2), i([0, 1], [2, -1])], {}, 1),
    ("ScatterND", (11, 13, 22), [(4, 3), i([1], [3]), (2, 3)], {}, 1),
    ("ScatterND", (11, 13, 22), [(4, 3), i([1, 2], [3, 0]), n(2)], {}, 1),
    ("ScatterND", (11, 13, 22), [n(4, 3), i([1, 2], [3, 0]), (2,)], {}, 1),
    ("Pad", (7, 9), [(2, 3)], {"pads": [0, 1, 2, 0]}, 1),
    ("Pad", (7, 9), [(2, 3)], {"pads": [1, 1, 0, 2], "value": 1.5}, 1),
    ("Pad", (7, 9), [(3, 4)], {"pads": [-1, 1, 0, -1], "value": 0.5}, 1),
    ("Pad", (11, 13, 22), [(2, 3), i(0, 1, 2, 0), np.float32(-2)], {}, 1),
    ("Pad", (18, 22), [(2, 3), i(1, 2), np.float32(1), i(-1)], {}, 1),
    *(("Pad", (11, 13, 22), [(3, 4), i(1, 2, 0, 3)], {"mode": mode}, 1) for mode in ("reflect", "edge")),
    ("Pad", (19, 22), [(3, 4), i(1, 2, 0, 3)], {"mode": "wrap"}, 1),
    ("Trilu", (14, 22), [(2, 4, 4)], {}, 1),
    ("Trilu", (14, 22), [(3, 4), np.int64(1)], {"upper": 0}, 1),
    # normalisation, products and sums of exponentials, activations
    ("InstanceNormalization", (7, 13, 22), [(2, 3, 4, 2), n(3), n(3)], {"epsilon": 0.1}, 1),
    ("GroupNormalization", (21, 22), [(2, 6, 3, 2), n(6), n(6)], {"num_groups": 3}, 1),
    ("MeanVarianceNormalization", (9, 13), [(2, 3, 4, 2)], {}, 1),
    *(("LpNormalization", (7, 13, 22), [(2, 3, 4)], {"p": p, "axis": axis}, 1) for p in (1, 2) for axis in (-1, 1)),
    ("LogSoftmax", ALL, [(2, 3, 4)], {}, 1),
    ("LogSoftmax", ALL, [(2, 3, 4)], {"axis": 0}, 1),
    ("LogSoftmax", ALL, [(1, 80)], {}, 1),
    ("LogSoftmax", ALL, [(3, 1)], {}, 1),
    ("Softmax", ALL, [(3, 1)], {}, 1),
    ("Softmax", ALL, [(2, 3, 2)], {"axis": 2}, 1),
    *(("ReduceLogSumExp", opsets, [(2, 3, 4), *more], {"keepdims": 0} | axes, 1)
      for opsets, more, axes in (((7, 11, 13), [], {"axes": [0, 2]}), ((18, 22), [i(0, 2)], {}), (ALL, [], {}))),
    ("ReduceProd", (7, 13), [(2, 3, 5)], {"axes": [2]}, 1),
    ("ReduceProd", (18, 22), [(2, 3, 5), i(0, 1)], {"keepdims": 0}, 1),
    *((op, (20, 22), [(2, 3)], {}, 1) for op in ("Mish", "Gelu")),
    ("Gelu", (20, 22), [(2, 3)], {"approximate": "tanh"}, 1),
    *((op, (9, 13, 22), [(2, 3)], {}, 1) for op in ("Erf", "Shrink", "Sinh", "Cosh")),
    *((op, ALL, [(2, 3)], {}, 1) for op in ("Atan", "Tan")),
    ("ThresholdedRelu", (10, 22), [(4, 5)], {"alpha": 0.7}, 1),
    ("ThresholdedRelu", (10, 22), [(4, 5)], {"alpha": -0.7}, 1),
    ("Shrink", (9, 22), [(4, 5)], {"lambd": 0.7, "bias": 0.2}, 1),
    *(("Einsum", (12, 22), arguments, {"equation": equation}, 1) for equation, arguments in (
        ("ij,jk->ik", [(2, 3), n(3, 4)]), ("abc,cbd->da", [(2, 3, 4), n(4, 3, 5)]), ("ij,ik->ik", [(2, 3), n(2, 4)]),
        ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)]), ("ij,jk", [n(2, 3), (3, 4)]),
        ("i,j->ji", [(3,), (2,)]), ("ij->ji", [(2, 3)]), ("bi,bi->b", [(2, 3), (2, 3)]), ("ij->", [(2, 3)]))),
    ("MaxPool", (8, 13, 22), [(1, 2, 6, 5)], {"kernel_shape": [2, 2], "storage_order": 1}, 1),
    ("GatherND", (12, 13, 22), [(2, 3, 4), i([[0], [2]], [[1], [1]])], {"batch_dims": 1}, 1),
    *(("ScatterND", (18, 22), [(4, 3), i([1, 2], [3, 0], [1, 2], [1, 2]), (4,)], {"reduction": how}, 1)
      for how in ("add", "mul", "max", "min")),
    ("ScatterND", (13, 22), [(4, 3), i([1, 2], [3, 0], [1, 2]), (3,)], {}, 1),
    ("ScatterElements", (11, 13, 22), [(3, 4), i([0, -1], [2, 3]), (2, 2)], {"axis": 1}, 1),
    ("ScatterElements", (18, 22), [(3, 4), i([0, 0], [2, 2]), (2, 2)], {"axis": 1, "reduction": "add"}, 1),
    ("Scatter", (9, 10), [(3, 4), i([0, 2], [2, 1]), (2, 2)], {"axis": 0}, 1),
    # values of rank 0
    *((op, (13, 22), [()], {}, 1) for op in (
        "Relu", "Abs", "Neg", "Floor", "Sigmoid", "Tanh", "Exp", "Softplus", "Elu", "LeakyRelu", "Identity", "Sign",
        "Erf", "ReduceSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceL1", "ReduceL2", "Squeeze", "Transpose")),
    *((op, (13, 22), arguments, {}, 1) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
      for arguments in ([(), n()], [n(), ()], [(), ()], [(), (2, 3)])),
    *((op, (13,), [(2, 3)], {"keepdims": 0}, 1)
      for op in ("ReduceSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2", "ReduceLogSumExp", "ReduceProd")),
    ("Gather", ALL, [(4,), np.int64(2)], {}, 1),
    ("Squeeze", (13, 22), [(1, 1)], {}, 1),
    ("Reshape", (13, 22), [(1,), np.zeros(0, np.int64)], {}, 1),
    ("Expand", (13, 22), [(), i(2, 3)], {}, 1),
    ("Unsqueeze", (13, 22), [(), i(0)], {}, 1),
    # resizing
    ("Upsample", (7,), [(1, 2, 3, 4)], {"scales": [1.0, 1.0, 2.0, 3.0]}, 1),
    ("Upsample", (9,), [(1, 2, 3, 4), np.float32([1, 1, 2, 1.5])], {}, 1),
    ("Upsample", (9,), [(1, 2, 3, 4), np.float32([1, 1, 2, 2])], {"mode": "linear"}, 1),
    ("Resize", (10,), [(1, 2, 3, 4), np.float32([1, 1, 2, 2])], {}, 1),
    ("Resize", (10,), [(1, 2, 6, 7), np.float32([1, 1, 0.5, 0.6])], {}, 1),
    *(("Resize", (11, 13, 18, 22), [(1, 2, 3, 4), np.float32([]), np.float32([1, 1, 2, 3])],
       {"coordinate_transformation_mode": mode, "nearest_mode": nearest}, 1)
      for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
      for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    *(("Resize", (13, 22), [(1, 2, 3, 7), np.float32([]), np.float32([1, 1, 1.7, 0.6])],
       {"coordinate_transformation_mode": mode}, 1)
      for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    ("Resize", (19, 22), [(1, 2, 3, 7), np.float32([]), np.float32([1, 1, 1.7, 0.7])],
     {"coordinate_transformation_mode": "half_pixel_symmetric"}, 1),
    ("Resize", (11,), [(1, 2, 3, 4), np.float32([]), np.float32([1, 1, 2, 2])],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}, 1),
    ("Resize", (11, 13, 22), [(1, 2, 3, 4), np.float32([]), np.float32([]), i(1, 2, 5, 3)], {}, 1),
    ("Resize", (18, 22), [(1, 2, 3, 4), "", "", i(5, 9)], {"axes": [2, 3]}, 1),
    *(("Resize", (11, 13, 22), [(1, 2, 3, 5), np.float32([]), np.float32([1, 1, 2, 1.6])],
       {"mode": "linear", "coordinate_transformation_mode": mode}, 1)
      for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
]  # fmt: skip
NUMBERED = [(opset, case) for case in CASES for opset in case[1]]


def _check(data: bytes, low: float = -2.0, seed: int = 0) -> None:
    model = load_model(data)
    check_graph(model.graph)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        inputs = random_inputs(model.graph, rng, low=low)
        expected = run_onnx(data, {name: value[0] for name, value in inputs.items()})
        for info, array in zip(model.output_infos, expected, strict=True):
            assert info.shape == array.shape
        flat = np.concatenate([np.asarray(array, dtype=np.float64).reshape(-1) for array in expected])
        np.testing.assert_allclose(outputs_of(model.graph, inputs)[0], flat, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("opset", "case"), NUMBERED, ids=[f"{case[0]}-{opset}-{k}" for k, (opset, case) in enumerate(NUMBERED)]
)
def test_agrees_with_onnx_runtime(opset: int, case: Case) -> None:
    op, _, arguments, attributes, outputs = case
    _check(one_op(op, arguments, attributes, opset, outputs))


@pytest.mark.parametrize("opset", ALL)
@pytest.mark.parametrize("op", ["Log", "Sqrt"])
def test_positive_domain(op: str, opset: int) -> None:
    _check(one_op(op, [(2, 3)], {}, opset), low=0.1)
    _check(one_op("Pow", [(2, 3), np.float32(0.5)], {}, opset), low=0.1)
    _check(one_op("ReduceLogSum", [(2, 3)], {}, opset), low=0.1)


def test_every_registered_operator_is_exercised() -> None:
    covered = {case[0] for case in CASES} | {"Log", "Sqrt", "ReduceLogSum"}
    run_only = {name for name in operators() if lookup(name, 28) is opaque}
    assert set(operators()) - covered - run_only == {"Shape", "Size", "CastLike", *STEPS}


def _agrees(op: str, shape: tuple[int, ...], more: list[Any], attributes: dict[str, Any], opset: int) -> None:
    """The import computes what ONNX Runtime computes, and refuses exactly what ONNX Runtime refuses."""
    data = _loose(op, shape, more, attributes, opset)
    x = np.random.default_rng(3).uniform(-2, 2, shape).astype(np.float32)
    try:
        expected = run_onnx(data, {"in0": x})[0]
    except Exception:  # ONNX Runtime's exceptions share no base class
        with pytest.raises(ModelError):
            load_model(data)
        return
    model = load_model(data)
    assert model.output_infos[0].shape == expected.shape
    found = outputs_of(model.graph, {"in0": x.astype(np.float64)[None]})[0]
    np.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-4, atol=1e-4, err_msg=f"{op} {shape} {attributes}")


def _loose(op: str, shape: tuple[int, ...], more: list[Any], attributes: dict[str, Any], opset: int) -> bytes:
    names = ["in0", *("" if isinstance(one, str) else f"w{k}" for k, one in enumerate(more))]
    node = helper.make_node(op, names, ["y"], **attributes)
    return _plain(node, {"in0": shape}, {f"w{k}": one for k, one in enumerate(more) if not isinstance(one, str)}, opset)


@pytest.mark.parametrize("auto", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_in_every_padding(auto: str, stride: int, dilation: int) -> None:
    attributes = {"auto_pad": auto, "strides": [stride], "dilations": [dilation]}
    for kernel, size in itertools.product((1, 2, 3), (1, 3, 6)):
        shape = (1, 2, size)
        for pads in ([0, 0], [1, 0], [0, 2]) if auto == "NOTSET" else (None,):
            given = attributes if pads is None else attributes | {"pads": pads}
            _agrees("Conv", shape, [n(3, 2, kernel)], given, 22)
            for more in (
                {},
                {"output_padding": [1]},
                {"output_shape": [5]},
                {"output_shape": [9], "output_padding": [1]},
            ):
                _agrees("ConvTranspose", shape, [n(2, 3, kernel)], given | more, 22)


_COORDINATES = (
    "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)  # fmt: skip
_HOW = (
    *({"mode": "nearest", "nearest_mode": one} for one in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    *({"mode": mode} | more for mode in ("linear", "cubic") for more in ({}, {"antialias": 1}, {"exclude_outside": 1})),
    {"mode": "cubic", "cubic_coeff_a": -0.5},
    {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    {"mode": "nearest", "antialias": 1},
)  # fmt: skip


@pytest.mark.parametrize("coordinates", _COORDINATES)
@pytest.mark.parametrize("how", _HOW, ids=lambda how: "-".join(f"{v}" for v in how.values()))
def test_resize_in_every_mode(coordinates: str, how: dict[str, Any]) -> None:
    crop = coordinates == "tf_crop_and_resize"
    attributes = {"coordinate_transformation_mode": coordinates, **how} | ({"extrapolation_value": 2.5} if crop else {})
    region: Any = np.float32([0, 0, 0.1, 0.2, 1, 1, 0.7, 1.3]) if crop else ""
    for out in ((5, 7), (2, 3), (3, 4), (1, 1), (3, 9)):
        _agrees("Resize", (1, 2, 3, 4), [region, "", i(1, 2, *out)], attributes, 19)
    for scales in ((1.3, 1.2), (0.4, 2.0), (1.0, 1.3)):
        _agrees("Resize", (1, 2, 3, 4), [region, np.float32([1, 1, *scales])], attributes, 22)
    _agrees("Resize", (1, 2, 7, 14), [region, "", i(1, 2, 2, 19)], attributes, 19)
    inner: Any = np.float32([0.1, 0.2, 0.7, 1.3]) if crop else ""
    for policy in ("stretch", "not_larger", "not_smaller"):
        more = {"keep_aspect_ratio_policy": policy}
        _agrees("Resize", (1, 2, 3, 4), [inner, "", i(5, 9)], attributes | more | {"axes": [2, 3]}, 19)
        _agrees("Resize", (3, 4), [inner, "", i(5, 9)], attributes | more, 19)


def test_resize_of_the_inner_axes_of_an_image_by_rows() -> None:
    _agrees("Resize", (1, 3, 4, 2), ["", np.float32([1, 2, 1.5, 1])], {"mode": "linear"}, 19)


@pytest.mark.parametrize("ties", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_resize_of_any_size(ties: str, coordinates: str) -> None:
    attributes = {"nearest_mode": ties, "coordinate_transformation_mode": coordinates}
    for before, after in itertools.product(range(1, 16, 2), range(1, 20, 3)):
        _agrees("Resize", (1, 1, 1, before), ["", "", i(1, 1, 1, after)], attributes, 19)


CONSTANTS: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
    ("ArgMin", [n(3, 4)], {"axis": 1}, 1, 0),
    ("ArgMax", [n(3, 4)], {"axis": 1, "select_last_index": 1}, 1, 0),
    ("BitShift", [np.uint8([1, 2, 3]), np.uint8([1, 1, 2])], {"direction": "LEFT"}, 1, 0),
    ("Compress", [n(3, 4), np.array([True, False, True])], {"axis": 0}, 1, 0),
    ("CumSum", [n(3, 4), np.int64(1)], {}, 1, 0),
    ("Hardmax", [n(3, 4)], {"axis": 1}, 1, 0),
    ("IsInf", [np.float32([1, np.inf])], {}, 1, 0),
    ("IsNaN", [n(3)], {}, 1, 0),
    ("ScatterElements", [n(3, 4), i([0, 1]), n(1, 2)], {"axis": 1}, 1, 0),
    *(("TopK", [n(3, 4), i(2)], {}, 2, pick) for pick in (0, 1)),
    *(("Unique", [np.float32([3, 1, 3])], {}, 4, pick) for pick in (0, 1, 2, 3)),
    ("DequantizeLinear", [np.int8([[1, -5, 7]]), np.float32(0.1), np.int8(3)], {}, 1, 0),
    ("QuantizeLinear", [n(3, 4), np.float32(0.1), np.int8(3)], {}, 1, 0),
    ("OneHot", [i(2, 0), np.int64(3), np.float32([0, 1])], {}, 1, 0),
    ("NonMaxSuppression", [positive(1, 3, 4), positive(1, 1, 3), i(2)], {}, 1, 0),
    ("EyeLike", [n(3, 4)], {"k": 1}, 1, 0),
    ("Mod", [i(5, 7), i(3, 4)], {}, 1, 0),
    ("NonZero", [np.float32([0, 1, 2])], {}, 1, 0),
    ("Pow", [positive(3), np.float32(1.3)], {}, 1, 0),
    *(
        (op, [np.int32([[90, 8, 77], [3, 1, 1]])], {"axes": [1]}, 1, 0)
        for op in ("ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare")
    ),
    ("ScatterElements", [np.int8([[100, 3]]), i([0, 1]), np.int8([[100, 4]])], {"axis": 1, "reduction": "add"}, 1, 0),
    ("Pow", [np.int32([2, 3, 7]), np.float32(0.5)], {}, 1, 0),
    ("CumSum", [np.int32([2**31 - 1, 1, 5]), np.int64(0)], {}, 1, 0),
    ("MaxPool", [n(1, 3, 4)], {"kernel_shape": [2]}, 2, 1),
]


@pytest.mark.parametrize("case", CONSTANTS, ids=lambda case: f"{case[0]}-{case[4]}")
def test_constants_go_through_every_operator_that_runs(case: tuple[str, list[Any], dict[str, Any], int, int]) -> None:
    op, arguments, attributes, count, pick = case
    names = [f"w{k}" for k in range(len(arguments))]
    nodes = [
        helper.make_node(op, names, [f"o{k}" for k in range(count)], **attributes),
        helper.make_node("Cast", [f"o{pick}"], ["c"], to=1),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Add", ["c", "s"], ["y"]),
    ]
    data = build(nodes, {"x": (2,)}, ["y"], dict(zip(names, arguments, strict=True)), 17)
    assert not load_model(data).graph.opaque
    _check(data)


def test_a_constant_that_would_be_huge_is_refused() -> None:
    nodes = [helper.make_node("OneHot", ["k", "d", "v"], ["h"]), helper.make_node("MatMul", ["h", "x"], ["y"])]
    weights = {"k": i(0), "d": np.int64(10**12), "v": np.float32([0, 1])}
    with pytest.raises(ModelError, match="exceeds the limit"):
        load_model(build(nodes, {"x": (3, 2)}, ["y"], weights))


def test_an_element_times_itself_is_a_square() -> None:
    """The diagonal of X X' holds squares, and what is off it appears once."""
    data = build(
        [helper.make_node("Transpose", ["x"], ["t"], perm=(1, 0)), helper.make_node("MatMul", ["x", "t"], ["y"])],
        {"x": (2, 3)}, ["y"],
    )  # fmt: skip
    graph = load_model(data).graph
    count = {node.op: graph.size(node.output) for node in graph.nodes if node.op in ("Pow", "Mul")}
    assert count == {"Pow": 6, "Mul": 3}
    _check(data)


def test_square_is_recognised() -> None:
    data = build([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": (2, 3)}, ["y"])
    assert [node.op for node in load_model(data).graph.nodes] == ["Pow"]
    _check(data)


@pytest.mark.parametrize(
    ("op", "arguments", "attributes", "opset", "message"),
    [
        ("Pow", [(2,), np.float32(65)], {}, 13, "exponent 65"),
        ("Div", [(2,), np.float32([1, 0])], {}, 13, "division by a constant 0"),
        ("Conv", [(1, 2, 5), (3, 2, 2)], {}, 13, "weight must be constant"),
        ("MaxPool", [(1, 1, 4)], {"kernel_shape": [5]}, 13, "larger than the padded input"),
        ("Resize", [(1, 1, 4), np.float32([]), np.float32([1, 1, 2])], {"mode": "cubic"}, 13, "Runtime refuses it"),
        ("Resize", [(1, 2, 4, 4), np.float32([]), np.float32([1, 1, 2, 2])],
         {"mode": "linear", "exclude_outside": 1}, 13, "ONNX Runtime refuses it"),
        ("Resize", [(1, 2, 4, 4), np.float32([]), np.float32([1, 2, 2])], {}, 13, "are not 4 positive numbers"),
        ("Conv", [(1, 2, 5), n(3, 2, 2)], {"auto_pad": "SAME_UPPER", "dilations": [2]}, 13, "auto_pad SAME_UPPER with"),
        ("ConvTranspose", [(1, 2, 5), n(2, 3, 2)], {"output_padding": [1]}, 13, "must lie below the stride"),
        ("ConvTranspose", [(1, 2, 5), n(2, 3, 2)], {"output_shape": [9]}, 13, "not within the [6] that can be reached"),
        ("Reshape", [(2, 3), i(4, 2)], {}, 13, "Reshape of"),
        ("Add", [(2, 3), n(4)], {}, 13, "shapes do not fit"),
        ("MatMul", [(2, 3), n(4, 2)], {}, 13, "inner sizes 3 and 4"),
        ("Gather", [(2, 3), i(5)], {}, 13, "out of range"),
        ("MelWeightMatrix", [(2, 3)], {}, 17, "MelWeightMatrix"),
    ],
)  # fmt: skip
def test_refusals_name_the_node(
    op: str, arguments: list[Any], attributes: dict[str, Any], opset: int, message: str
) -> None:
    names = [f"a{k}" for k in range(len(arguments))]
    inputs = {name: a for name, a in zip(names, arguments, strict=True) if isinstance(a, tuple)}
    weights = {name: a for name, a in zip(names, arguments, strict=True) if not isinstance(a, tuple)}
    node = helper.make_node(op, names, ["y"], name="the_node", **attributes)
    with pytest.raises(ModelError, match="the_node") as caught:
        load_model(_plain(node, inputs, weights, opset))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, UnsupportedOperator):
        assert (caught.value.node, caught.value.op, caught.value.opset) == ("the_node", op, opset)


def _plain(node: Any, inputs: dict[str, Any], weights: dict[str, Any], opset: int) -> bytes:
    """Without shape inference, which refuses some of these models itself."""
    from onnx import TensorProto, numpy_helper

    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()
