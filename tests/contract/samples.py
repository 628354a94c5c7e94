"""One or more sample nodes per operator. An operator of the registry without a sample fails the suite."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

import verifier.ops
from verifier.graph.ir import Node, Shape
from verifier.ops.kinds import Op
from verifier.ops.registry import bind, operators

for module in pkgutil.iter_modules(verifier.ops.__path__):
    importlib.import_module(f"verifier.ops.{module.name}")

DTYPES = (torch.float32, torch.float64)
CPU = torch.device("cpu")
_RNG = np.random.default_rng(7)


@dataclass(frozen=True)
class Sample:
    """A node with its shapes, and where to test it."""

    op: str
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    attrs: Mapping[str, object] = field(default_factory=dict)
    params: Mapping[str, np.ndarray] = field(default_factory=dict)
    kinks: tuple[float, ...] = (0.0,)  # points worth sampling and touching
    domain: tuple[float, float] = (-np.inf, np.inf)
    largest: float = 1e4  # |x| of the widest boxes

    @property
    def node(self) -> Node:
        return Node(self.op, tuple(f"x{i}" for i in range(len(self.in_shapes))), "y", self.params, self.attrs)  # type: ignore[arg-type]

    def bind(self, dtype: torch.dtype) -> Op:
        shapes = {f"x{i}": shape for i, shape in enumerate(self.in_shapes)} | {"y": self.out_shape}
        return bind(self.node, shapes, dtype, CPU)

    def __str__(self) -> str:
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.op}[{attrs}]{'x'.join(map(str, self.in_shapes[0])) if self.in_shapes else ''}"


def _array(*shape: int) -> np.ndarray:
    """Parameters that float32 holds exactly."""
    return _RNG.integers(-32, 33, size=shape) / 16.0


def _unary(op: str, **fields: object) -> Sample:
    return Sample(op, ((2, 3),), (2, 3), **fields)  # type: ignore[arg-type]


def _conv(op: str, channels: tuple[int, int], sizes: Shape, out: Shape, weight: Shape, **attrs: object) -> Sample:
    params = {"weight": _array(*weight), "bias": _array(channels[1])}
    return Sample(op, ((1, channels[0], *sizes),), (1, channels[1], *out), attrs, params)


def _conv_attrs(rank: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> dict[str, object]:
    return {"stride": (stride,) * rank, "padding": (padding,) * rank, "dilation": (dilation,) * rank, "groups": groups}


LINEAR = (
    Sample("Dense", ((4,),), (3,), params={"weight": _array(3, 4), "bias": _array(3)}),
    Sample("Dense", ((2, 4),), (2, 3), params={"weight": _array(3, 4)}),
    _conv("Conv", (2, 4), (5,), (3,), (4, 2, 3), **_conv_attrs(1)),
    _conv("Conv", (2, 4), (6, 5), (3, 3), (4, 1, 3, 2), **_conv_attrs(2, stride=2, padding=1, groups=2)),
    _conv("Conv", (1, 2), (4, 4, 3), (2, 2, 1), (2, 1, 2, 2, 2), **_conv_attrs(3, dilation=2)),
    _conv("Conv", (2, 3), (3, 4), (7, 8), (3, 2, 1, 1), **_conv_attrs(2, padding=2)),
    _conv("ConvTranspose", (2, 4), (3,), (8,), (2, 2, 3), **_conv_attrs(1, stride=2, groups=2), output_padding=(1,)),
    _conv("ConvTranspose", (2, 3), (3, 2), (3, 2), (2, 3, 3, 3), **_conv_attrs(2, padding=1), output_padding=(0, 0)),
    Sample("Scale", ((2, 3),), (2, 3), params={"factor": _array(2, 1)}),
    Sample("Shift", ((2, 3),), (2, 3), params={"offset": _array(3)}),
    Sample("Reshape", ((2, 3),), (3, 2, 1)),
    Sample("Transpose", ((2, 3, 4),), (4, 2, 3), {"perm": (2, 0, 1)}),
    Sample("Slice", ((2, 7),), (2, 3), {"axis": 1, "start": 1, "stop": 6, "step": 2}),
    Sample("Take", ((2, 4),), (2, 3), {"axis": 1}, {"indices": np.array([3, 0, 3])}),
    Sample("Expand", ((1, 3),), (2, 3)),
    Sample("Pad", ((2, 3),), (3, 5), {"before": (1, 0), "after": (0, 2)}),
    Sample("ReduceSum", ((2, 3, 2),), (3,), {"axes": (0, 2)}),
    Sample("Add", ((2, 3), (2, 3)), (2, 3)),
    Sample("Sub", ((2, 3), (2, 3)), (2, 3)),
    Sample("Concat", ((2, 3), (2, 1), (2, 2)), (2, 6), {"axis": 1}),
    Sample("Constant", (), (2, 3), params={"value": _array(2, 3)}),
    # values of rank 0
    Sample("Scale", ((),), (), params={"factor": _array()}),
    Sample("Shift", ((),), (), params={"offset": _array()}),
    Sample("Reshape", ((),), (1, 1)),
    Sample("Reshape", ((1,),), ()),
    Sample("Transpose", ((),), (), {"perm": ()}),
    Sample("Expand", ((),), ()),
    Sample("Pad", ((),), (), {"before": (), "after": ()}),
    Sample("ReduceSum", ((3, 2),), (), {"axes": (0, 1)}),
    Sample("ReduceSum", ((),), (), {"axes": ()}),
    Sample("Add", ((), ()), ()),
    Sample("Sub", ((), ()), ()),
    Sample("Constant", (), (), params={"value": _array()}),
)

ELEMENTWISE = (
    _unary("Relu"),
    _unary("LeakyRelu", attrs={"alpha": 0.125}),
    _unary("LeakyRelu", attrs={"alpha": 0.0}),
    _unary("LeakyRelu", attrs={"alpha": 1.75}),
    _unary("PRelu", params={"slope": np.array([[-0.5], [0.25]])}),
    _unary("PRelu", params={"slope": np.array([1.0, 2.5, -2.0])}),
    _unary("Abs"),
    _unary("Clip", attrs={"min": -1.0, "max": 0.5}, kinks=(-1.0, 0.5)),
    _unary("Clip", attrs={"min": 0.0, "max": np.inf}, kinks=(0.0,)),
    _unary("Clip", attrs={"min": -np.inf, "max": 2.0}, kinks=(2.0,)),
    _unary("Clip", attrs={"min": 1.0, "max": 1.0}, kinks=(1.0,)),
    _unary(
        "Spline",
        params={"knots": np.array([1.5, -1.0, 0.0, 0.25]), "rise": np.array([-0.5, 1.0, -3.0, 2.5])},
        kinks=(-1.0, 0.0, 0.25, 1.5),
    ),
    _unary(
        "Spline",
        params={"knots": np.arange(-4, 5) / 2, "rise": np.array([1, 3, 4, 5, 0, -5, -4, -3, -1]) / 32},
        kinks=tuple(np.arange(-4, 5) / 2),
    ),
    _unary("Spline", params={"knots": np.array([2.0, 2.0]), "rise": np.array([1.0, -0.75])}, kinks=(2.0,)),
    _unary("Sign"),
    _unary("Floor", kinks=(-2.0, -1.0, 0.0, 1.0, 2.0)),
    _unary("Round", kinks=(-1.5, -0.5, 0.5, 1.5)),
    _unary("Sigmoid"),
    _unary("Tanh"),
    _unary("Erf"),
    _unary("Atan"),
    _unary("Softplus"),
    _unary("Sin", kinks=(0.0, np.pi / 2, -np.pi / 2, np.pi)),
    _unary("Cos", kinks=(0.0, np.pi / 2, np.pi)),
    _unary("Exp", largest=60.0),
    _unary("Log", domain=(1e-6, np.inf), kinks=(1.0,)),
    _unary("Sqrt", domain=(0.0, np.inf)),
    _unary("Reciprocal", domain=(1e-4, np.inf), kinks=(1.0,)),
    _unary("Reciprocal", domain=(-np.inf, -1e-4), kinks=(-1.0,)),
    _unary("Pow", attrs={"exponent": 2}),
    _unary("Pow", attrs={"exponent": 3}),
    _unary("Pow", attrs={"exponent": 4}, largest=1e3),
    _unary("Pow", attrs={"exponent": 7}, largest=1e2),
)

OTHER = (
    Sample("Mul", ((2, 3), (2, 3)), (2, 3)),
    Sample("LogSumExp", ((2, 4),), (2,), {"axis": 1}),
    Sample("LogSumExp", ((1, 3, 3, 2),), (1, 3, 2), {"axis": 1}),
    Sample("LogSumExp", ((2, 1),), (2,), {"axis": 1}),
    Sample("LogSumExp", ((3,),), (), {"axis": 0}),
    Sample("ReduceMax", ((2, 4),), (2,), {"axis": 1}),
    Sample("ReduceMax", ((3,),), (), {"axis": 0}),
    Sample("Mul", ((), ()), ()),
    _unary("Within", attrs={"min": -1e6, "max": 1e5}),
    Sample("ArgMax", ((2, 4),), (2,), {"axis": 1, "last": 0}),
    Sample("ArgMax", ((1, 3, 2),), (1, 2), {"axis": 1, "last": 1}),
    Sample("ReduceMax", ((3, 2),), (2,), {"axis": 0}),
    Sample("ReduceMax", ((1, 2, 3, 2),), (1, 2, 2), {"axis": 2}),
    Sample("ReduceMax", ((2, 1),), (2,), {"axis": 1}),
)

SCALARS = tuple(
    replace(
        sample,
        in_shapes=((),),
        out_shape=(),
        params={name: np.array(array.flat[0]) for name, array in sample.params.items()},
    )
    for sample in ELEMENTWISE
    if sample.op in ("Relu", "PRelu", "Clip", "Sign", "Sigmoid", "Sin", "Exp")
)
"""One element-wise operator of each family on values of rank 0."""

RELAXED = ELEMENTWISE + SCALARS + OTHER
ALL = LINEAR + RELAXED
MISSING = sorted(set(operators()) - {sample.op for sample in ALL})
UNKNOWN = sorted({sample.op for sample in ALL} - set(operators()))
