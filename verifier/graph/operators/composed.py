"""What holds of operators of ONNX that the IR has no row for: they are lowered to several, or only run."""

from __future__ import annotations

from verifier.graph.operators.row import OPERATORS, Traits

_CURVE = Traits(elementwise=True)
_RISES = Traits(elementwise=True, increasing=True)
_SAME = Traits(elementwise=True, linear=True, moves=True)
_MOVES = Traits(linear=True, moves=True)
_MEAN = Traits(linear=True, increasing=True, lipschitz=1.0)
_MAX = Traits(increasing=True, lipschitz=1.0)
_SEVERAL = Traits(broadcasts=True)
_LINEAR = Traits(linear=True)

COMPOSED: dict[str, Traits] = {
    "Elu": Traits(elementwise=True, increasing=lambda attrs: float(attrs.get("alpha", 1.0)) >= 0),
    **dict.fromkeys(("Ceil", "Selu", "Softsign", "ThresholdedRelu", "Sinh", "Asin", "Asinh", "Atanh"), _RISES),
    "HardSigmoid": Traits(elementwise=True, increasing=lambda attrs: float(attrs.get("alpha", 0.2)) >= 0),
    "Celu": Traits(elementwise=True, increasing=lambda attrs: float(attrs.get("alpha", 1.0)) >= 0),
    **dict.fromkeys(("HardSwish", "Gelu", "Mish", "Swish", "Shrink", "Cosh", "Tan", "Acos", "Acosh"), _CURVE),
    **dict.fromkeys(("Identity", "Dropout"), _SAME),
    **dict.fromkeys(("Cast", "CastLike", "Not", "IsNaN", "IsInf"), Traits(elementwise=True, linear=True)),
    "Neg": Traits(elementwise=True, linear=True, lipschitz=1.0),
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze", "Split", "Gather"), _MOVES),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), _MEAN),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), _MAX),
    **dict.fromkeys(("Gemm", "MatMul", "BatchNormalization"), _LINEAR),
    **dict.fromkeys(("Div", "Sum", "Mean", "Max", "Min", "Where", "Mod", "And", "Or", "Xor"), _SEVERAL),
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), _SEVERAL),
}


def known() -> dict[str, Traits]:
    """Every ONNX operator of which something is known, with its traits."""
    return {**{name: row for name, row in OPERATORS.items() if not row.inner}, **COMPOSED}


def traits(onnx: str) -> Traits:
    """What is known of an ONNX operator; perhaps nothing."""
    row = OPERATORS.get(onnx)
    return row if row is not None and not row.inner else COMPOSED.get(onnx, Traits())
