"""The user's network, as far as the semantic front-end has to know it: input layout, output shape, one clean run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, shape_inference

from verifier.brief import counted
from verifier.data.frame import Frame
from verifier.errors import ModelError
from verifier.graph.onnx_import.session import open_session, run_session
from verifier.graph.onnx_import.source import parse, read_model

if TYPE_CHECKING:
    import onnxruntime

MIN_OPSET = 7  # Gemm broadcasts its bias by itself from here on
ELEMENT: dict[int, np.dtype] = {
    int(TensorProto.FLOAT): np.dtype(np.float32),
    int(TensorProto.DOUBLE): np.dtype(np.float64),
}


@dataclass(frozen=True, eq=False)
class ImageNetwork:
    """An ONNX network with one input and one output.

    frame: the image it takes. output: shape of its output. mean, std: the normalisation (x - mean) / std in front of
    it, one value per channel, or None.
    """

    proto: onnx.ModelProto
    frame: Frame
    output: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def dtype(self) -> np.dtype:
        """Element type of the input."""
        return ELEMENT[graph_inputs(self.proto)[0].type.tensor_type.elem_type]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next(o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))

    @property
    def n_outputs(self) -> int:
        """Elements of the output."""
        return int(np.prod(self.output, dtype=np.int64))

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return self.frame.width

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """ONNX Runtime on the network itself."""
        return open_session(self.proto.SerializeToString())

    def run(self, image: np.ndarray) -> np.ndarray:
        """The output for an image (C, H, W) in [0, 1], with the shape of `output`, float64."""
        value = self.frame.arrange(image.astype(self.dtype))
        if self.mean is not None and self.std is not None:
            value = (value - self.frame.per_channel(self.mean)) / self.frame.per_channel(self.std)
        name = graph_inputs(self.proto)[0].name
        result = run_session(self.session, None, {name: value.astype(self.dtype)})[0]
        return np.asarray(result, dtype=np.float64).reshape(self.output)

    def __repr__(self) -> str:
        image = f"{self.frame.layout} image " + " x ".join(map(str, self.frame.size))
        return (
            f"ImageNetwork({image} -> {list(self.output)}; {counted(node.op_type for node in self.proto.graph.node)})"
        )


def graph_inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not weights."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def load(
    model: str | Path | bytes | onnx.ModelProto, *, channels: int | None = None, layout: str = "auto",
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
) -> ImageNetwork:  # fmt: skip
    """Read a network and find out what image it takes.

    `channels` helps where the input shape alone does not tell (a flat input). Raises ModelError for a file that cannot
    be used and OptionsError for a layout or a normalisation that does not fit it.
    """
    proto = model if isinstance(model, onnx.ModelProto) else parse(read_model(model), check=True)
    inputs = graph_inputs(proto)
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        names = ", ".join(v.name for v in [*inputs, *proto.graph.output])
        raise ModelError(
            f"the network has {len(inputs)} inputs and {len(proto.graph.output)} outputs ({names}); one each is needed"
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in ELEMENT:
        raise ModelError(f"input '{inputs[0].name}' has type {TensorProto.DataType.Name(kind)}; FLOAT or DOUBLE needed")
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < MIN_OPSET:
        raise ModelError(f"the network uses opset {version}; {MIN_OPSET} or newer is needed: convert it first")
    frame = Frame.of(_dims(inputs[0]), layout, channels)
    given = frame.normalisation(mean, std)
    return ImageNetwork(proto, frame, _output_shape(proto), *given)


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Static shape; a free or missing dimension becomes 1."""
    return tuple(max(1, d.dim_value) for d in value.type.tensor_type.shape.dim)


def _output_shape(proto: onnx.ModelProto) -> tuple[int, ...]:
    """Declared output shape if it is complete apart from the batch, else by shape inference at batch 1."""
    output = proto.graph.output[0]
    dims = output.type.tensor_type.shape.dim
    if not output.type.tensor_type.HasField("shape") or any(d.dim_value <= 0 for d in list(dims)[1:]):
        fixed = onnx.ModelProto()
        fixed.CopyFrom(proto)
        value = graph_inputs(fixed)[0]
        for d in value.type.tensor_type.shape.dim:
            d.dim_value = max(1, d.dim_value)
        del fixed.graph.output[0].type.tensor_type.shape.dim[:]
        fixed.graph.output[0].type.tensor_type.ClearField("shape")
        output = shape_inference.infer_shapes(fixed).graph.output[0]
        if any(d.dim_value <= 0 for d in list(output.type.tensor_type.shape.dim)[1:]):
            raise ModelError(f"the shape of output '{output.name}' cannot be inferred")
    return _dims(output)
