"""PyTorch -> ONNX for the layers of `models`, by hand: batch normalisation folded or not, opset 13, free batch size."""

from __future__ import annotations

import numpy as np
import onnx
from torch import Tensor, nn

from verifier.errors import ModelError
from verifier.graph.onnx_import.build import ModelBuilder, Tensors, checked
from verifier.graph.onnx_import.session import IR_VERSION
from verifier.training.models import Architecture, Pixels, Residual

OPSET = 13


def to_onnx(model: nn.Sequential, arch: Architecture, note: str = "", keep_norm: bool = False) -> onnx.ModelProto:
    """The network as an ONNX model with input `image` (N, C, size, size) and output `keypoints` or `heatmaps`.

    Batch normalisation uses its running statistics (evaluation mode) and is folded in float64, or with `keep_norm`
    written as nodes of its own, whose scales network slimming reads; weights are float32.
    Raises ModelError for a layer without a rule.
    """
    writer = _Writer(keep_norm)
    writer.sequence(model, "image")
    side = arch.size // 4
    heat = arch.name == "heatmap"
    name = "heatmaps" if heat else "keypoints"
    writer.nodes[-1].output[0] = name
    shape: list[int | str] = ["N", arch.points, side, side] if heat else ["N", 2 * arch.points]
    image: Tensors = {"image": (np.float32, ["N", arch.channels, arch.size, arch.size])}
    proto = writer.model(image, {name: (np.float32, shape)}, OPSET, IR_VERSION, f"{arch.name}-w{arch.width}", note)
    return checked(proto, "the trained network")


class _Writer(ModelBuilder):
    """Collects nodes and weights; values are named after the layer that makes them."""

    def __init__(self, keep_norm: bool) -> None:
        super().__init__()
        self.keep_norm = keep_norm

    def _weight(self, name: str, value: np.ndarray) -> str:
        return self.constant(name, value.astype(np.float32))

    def _node(self, op: str, inputs: list[str], stem: str, **attributes: object) -> str:
        return self.node(op, inputs, f"{op.lower()}_{stem}{len(self.nodes)}", **attributes)

    def sequence(self, model: nn.Sequential, value: str, stem: str = "") -> str:
        """Write the layers one after the other; a layer followed by one that can be folded takes it in."""
        layers = list(model)
        at = 0
        while at < len(layers):
            after = layers[at + 1] if at + 1 < len(layers) else None
            fold = after if isinstance(after, Pixels if self.keep_norm else nn.BatchNorm2d | Pixels) else None
            value = self._layer(layers[at], fold, value, stem)
            at += 1 if fold is None else 2
        return value

    def _layer(self, layer: nn.Module, fold: nn.Module | None, value: str, stem: str) -> str:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            return self._conv(layer, fold, value, stem)
        if isinstance(layer, nn.Linear):
            return self._dense(layer, fold, value, stem)
        if fold is None and isinstance(layer, nn.BatchNorm2d):
            return self._norm(layer, value, stem)
        if fold is None and isinstance(layer, nn.ReLU):
            return self._node("Relu", [value], stem)
        if fold is None and isinstance(layer, nn.Flatten):
            return self._node("Flatten", [value], stem, axis=1)
        if fold is None and isinstance(layer, Residual):
            main = self.sequence(layer.main, value, f"{stem}{len(self.nodes)}m_")
            other = self.sequence(layer.shortcut, value, f"{stem}{len(self.nodes)}s_")
            return self._node("Relu", [self._node("Add", [main, other], stem)], stem)
        raise ModelError(f"no export rule for layer {type(layer).__name__} followed by {type(fold).__name__}")

    def _conv(self, layer: nn.Conv2d | nn.ConvTranspose2d, fold: nn.Module | None, value: str, stem: str) -> str:
        weight = _array(layer.weight)
        bias = _array(layer.bias) if layer.bias is not None else np.zeros(layer.out_channels)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        if isinstance(fold, nn.BatchNorm2d):
            # y = gamma (z - mean) / sqrt(var + eps) + beta
            mean, variance = _statistics(fold)
            factor = _array(fold.weight) / np.sqrt(variance + fold.eps)
            weight = weight * (factor[None, :, None, None] if transposed else factor[:, None, None, None])
            bias = (bias - mean) * factor + _array(fold.bias)
        elif fold is not None:
            raise ModelError(f"{type(fold).__name__} cannot follow a convolution")
        number = len(self.nodes)
        names = [self._weight(f"{stem}w{number}", weight), self._weight(f"{stem}b{number}", bias)]
        padding = [int(p) for p in layer.padding] * 2
        return self._node(
            "ConvTranspose" if transposed else "Conv",
            [value, *names],
            stem,
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=padding,
        )

    def _norm(self, layer: nn.BatchNorm2d, value: str, stem: str) -> str:
        number = len(self.nodes)
        values = (_array(layer.weight), _array(layer.bias), *_statistics(layer))
        names = [self._weight(f"{stem}{letter}{number}", v) for letter, v in zip("gsmv", values, strict=True)]
        return self._node("BatchNormalization", [value, *names], stem, epsilon=layer.eps)

    def _dense(self, layer: nn.Linear, fold: nn.Module | None, value: str, stem: str) -> str:
        weight, bias = _array(layer.weight), _array(layer.bias)
        if isinstance(fold, Pixels):
            weight, bias = fold.reach * weight, fold.reach * (bias + 1.0)
        elif fold is not None:
            raise ModelError(f"{type(fold).__name__} cannot follow a dense layer")
        number = len(self.nodes)
        names = [self._weight(f"{stem}w{number}", weight), self._weight(f"{stem}b{number}", bias)]
        return self._node("Gemm", [value, *names], stem, transB=1)


def _statistics(layer: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance."""
    if layer.running_mean is None or layer.running_var is None:
        raise ModelError("batch normalisation without running statistics cannot be exported")
    return _array(layer.running_mean), _array(layer.running_var)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
