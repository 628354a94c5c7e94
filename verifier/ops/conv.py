"""Convolutions and their transposes in one to three spatial dimensions."""

from __future__ import annotations

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops.kinds import LinearOp
from verifier.ops.patch import Patch, clipped
from verifier.ops.registry import register

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Convolution(LinearOp):
    """What Conv and ConvTranspose share: the ONNX batch axis merges with the leading axis, and |W| is kept."""

    _magnitude: Tensor | None = None

    @property
    def _spatial(self) -> int:
        return len(self.out_shape) - 2

    def _ints(self, name: str) -> tuple[int, ...]:
        return self.node.integers(name)

    @property
    def _groups(self) -> int:
        return self.node.integer("groups")

    @property
    def multiply_adds(self) -> int:
        spatial = self.out_shape if isinstance(self, Conv) else self.in_shapes[0]
        return self.params["weight"].numel() * math.prod(spatial[2:]) * spatial[0]

    def _up(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def linear(self, *xs: Tensor) -> Tensor:
        return self._up(xs[0], self.params["weight"])

    def absolute(self, *xs: Tensor) -> Tensor:
        if self._magnitude is None:
            self._magnitude = self.params["weight"].abs()
        return self._up(xs[0], self._magnitude)

    def forward(self, *xs: Tensor) -> Tensor:
        return self._up(xs[0], self.params["weight"], self.params.get("bias"))

    def offset(self) -> Tensor | None:
        bias = self.params.get("bias")
        return None if bias is None else bias.view(1, -1, *([1] * self._spatial))

    def _missing(self, target: tuple[int, ...], attrs_of: tuple[int, ...]) -> tuple[int, ...]:
        """Output padding a transposed convolution needs to reach `target` from `attrs_of` (spatial sizes)."""
        kernel = self.params["weight"].shape[2:]
        stride, padding, dilation = self._ints("stride"), self._ints("padding"), self._ints("dilation")
        return tuple(
            t - ((s - 1) * st - 2 * p + d * (k - 1) + 1)
            for t, s, st, p, d, k in zip(target, attrs_of, stride, padding, dilation, kernel, strict=True)
        )


@register("Conv")
class Conv(_Convolution):
    """Cross-correlation, weight (O, C/g, *K)."""

    @property
    def terms(self) -> int:
        return self.params["weight"][0].numel() + self.weights_rounded

    @property
    def adjoint_terms(self) -> int:
        return self.params["weight"][:, 0].numel() // self._groups + self.weights_rounded

    def _up(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _CONV[self._spatial](
            x.reshape(-1, *self.in_shapes[0][1:]),
            weight,
            bias,
            stride=self._ints("stride"),
            padding=self._ints("padding"),
            dilation=self._ints("dilation"),
            groups=self._groups,
        )
        return y.view(x.shape[0], *self.out_shape)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        missing = self._missing(self.in_shapes[0][2:], self.out_shape[2:])
        x = self._transposed(y.reshape(-1, *self.out_shape[1:]), self._ints("padding"), missing)
        return (x.contiguous().view(y.shape[0], *self.in_shapes[0]),)

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...]:
        (shape,), (batch, _, *spatial) = self.in_shapes, part.ranges
        outer = Patch(part.whole, (batch, (0, part.whole[1]), *spatial))
        rows, none = part.within(outer, y).reshape(-1, *outer.shape[1:]), (0,) * self._spatial
        x = self._transposed(rows, none, none)
        stride, padding = self._ints("stride"), self._ints("padding")
        starts = [s * start - p for (start, _), s, p in zip(spatial, stride, padding, strict=True)]
        ranges = [(start, start + size) for start, size in zip(starts, x.shape[2:], strict=True)]
        return (clipped(x.unflatten(0, (len(y), -1)), (batch, (0, shape[1]), *ranges), shape),)

    def _transposed(self, rows: Tensor, padding: tuple[int, ...], missing: tuple[int, ...]) -> Tensor:
        """The transposed convolution of rows (M, O, *spatial)."""
        weight = self.params["weight"]
        if self._strided_on_cpu(rows):
            # oneDNN's kernel for this layout is up to 4 times as fast (kernel 4, stride 2), the copies included
            rows, weight = rows.contiguous(memory_format=torch.channels_last), self._weight_last
        return _CONV_TRANSPOSE[self._spatial](
            rows,
            weight,
            stride=self._ints("stride"),
            padding=padding,
            output_padding=missing,
            dilation=self._ints("dilation"),
            groups=self._groups,
        )

    @cached_property
    def _weight_last(self) -> Tensor:
        return self.params["weight"].contiguous(memory_format=torch.channels_last)

    def _strided_on_cpu(self, rows: Tensor) -> bool:
        single = rows.dtype == torch.float32 and rows.device.type == "cpu"
        return single and self._spatial == 2 and max(self._ints("stride")) > 1


@register("ConvTranspose")
class ConvTranspose(_Convolution):
    """Transposed convolution, weight (C, O/g, *K)."""

    @property
    def terms(self) -> int:
        return self.params["weight"][:, 0].numel() // self._groups + self.weights_rounded

    @property
    def adjoint_terms(self) -> int:
        return self.params["weight"][0].numel() + self.weights_rounded

    def _up(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = _CONV_TRANSPOSE[self._spatial](
            x.reshape(-1, *self.in_shapes[0][1:]),
            weight,
            bias,
            stride=self._ints("stride"),
            padding=self._ints("padding"),
            output_padding=self._ints("output_padding"),
            dilation=self._ints("dilation"),
            groups=self._groups,
        )
        return y.view(x.shape[0], *self.out_shape)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        x = _CONV[self._spatial](
            y.reshape(-1, *self.out_shape[1:]),
            self.params["weight"],
            stride=self._ints("stride"),
            padding=self._ints("padding"),
            dilation=self._ints("dilation"),
            groups=self._groups,
        )
        # output_padding can make the forward output long enough for one more (unused) position
        x = x[(slice(None), slice(None), *(slice(0, size) for size in self.in_shapes[0][2:]))]
        return (x.reshape(y.shape[0], *self.in_shapes[0]),)
