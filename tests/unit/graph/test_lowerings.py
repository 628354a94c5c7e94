"""Every ONNX operator the importer lowers, against ONNX Runtime, over attributes, shapes and opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import build, one_op, outputs_of, random_inputs, run_onnx
from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.check import check_graph
from verifier.graph.onnx_import import load_model, operators

R = np.random.default_rng(7)
ALL = (7, 8, 9, 11, 13, 17, 22)
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


def test_every_registered_operator_is_exercised() -> None:
    covered = {case[0] for case in CASES} | {"Log", "Sqrt"}
    opaque = set(
        [
            "ArgMax",
            "ArgMin",
            "Equal",
            "Greater",
            "Less",
            "GreaterOrEqual",
            "LessOrEqual",
            "And",
            "Or",
            "Xor",
            "Not",
            "IsNaN",
            "IsInf",
            "CumSum",
            "Hardmax",
            "Mod",
            "NonMaxSuppression",
            "NonZero",
            "OneHot",
            "Range",
            "Round",
            "Scatter",
            "ScatterElements",
            "TopK",
            "Unique",
            "ConstantOfShape",
            "EyeLike",
            "BitShift",
            "Compress",
        ]
    )
    assert set(operators()) - covered - opaque == {"Shape", "Size", "CastLike"}


def test_square_is_recognised() -> None:
    data = build([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": (2, 3)}, ["y"])
    assert [node.op for node in load_model(data).graph.nodes] == ["Pow"]
    _check(data)


@pytest.mark.parametrize(
    ("op", "arguments", "attributes", "opset", "message"),
    [
        ("Pow", [(2,), np.float32(1.3)], {}, 13, "exponent 1.29"),
        ("Div", [(2,), np.float32([1, 0])], {}, 13, "division by a constant 0"),
        ("Conv", [(1, 2, 5), (3, 2, 2)], {}, 13, "weight must be constant"),
        ("MaxPool", [(1, 1, 4)], {"kernel_shape": [5]}, 13, "larger than the padded input"),
        ("Resize", [(1, 1, 4), np.float32([]), np.float32([1, 1, 2])], {"mode": "cubic"}, 13, "ONNX Runtime refuses it"),
        ("Resize", [(1, 2, 4, 4), np.float32([]), np.float32([1, 1, 2, 2])], {"mode": "linear", "exclude_outside": 1}, 13,
         "ONNX Runtime refuses it"),
        ("Resize", [(1, 2, 4, 4), np.float32([]), np.float32([1, 2, 2])], {}, 13, "are not 4 positive numbers"),
        ("Conv", [(1, 2, 5), n(3, 2, 2)], {"auto_pad": "SAME_UPPER", "dilations": [2]}, 13, "auto_pad SAME_UPPER with dil"),
        ("ConvTranspose", [(1, 2, 5), n(2, 3, 2)], {"output_padding": [1]}, 13, "must lie below the stride"),
        ("ConvTranspose", [(1, 2, 5), n(2, 3, 2)], {"output_shape": [9]}, 13, "not within the [6] that can be reached"),
        ("Reshape", [(2, 3), i(4, 2)], {}, 13, "Reshape of"),
        ("Add", [(2, 3), n(4)], {}, 13, "shapes do not fit"),
        ("MatMul", [(2, 3), n(4, 2)], {}, 13, "inner sizes 3 and 4"),
        ("Gather", [(2, 3), i(5)], {}, 13, "out of range"),
        ("Erf", [(2, 3)], {}, 13, "Erf"),
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
