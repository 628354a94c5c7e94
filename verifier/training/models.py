"""The networks of the key point study.

    name      layers                                                                  output
    cnn7      5 convolutions 3x3 (strides 2, 2, 2, 1, 1), 2 dense                     (N, 2K) pixels x0, y0, x1, y1, ..
    resnet8   stem, 3 residual blocks of 2 convolutions, 1 dense                      (N, 2K) pixels
    heatmap   4 convolutions down to stride 8, 1 transposed convolution, 1 conv 1x1   (N, K, size/4, size/4) scores

Input: (N, C, size, size) in [0, 1]. Every module is a plain sequence of layers that `export` knows; batch normalisation
follows convolutions only, so that it can be folded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verifier.errors import OptionsError

HEATMAP_STRIDE = 4


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network: `size` is the side of the input in pixels, `points` the number K."""

    name: str = "cnn7"
    width: int = 8
    size: int = 64
    channels: int = 1
    points: int = 23


class Pixels(nn.Module):
    """(N, 2K) numbers around [-1, 1] -> pixel coordinates: y = reach * (u + 1), reach = size / 2."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.reach = size / 2

    def forward(self, u: Tensor) -> Tensor:
        """(N, 2K) -> (N, 2K)."""
        return self.reach * (u + 1.0)


class Residual(nn.Module):
    """relu(main(x) + shortcut(x)); an empty shortcut is the identity."""

    def __init__(self, main: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return torch.relu(self.main(x) + self.shortcut(x))


def build(arch: Architecture) -> nn.Sequential:
    """A freshly initialised network."""
    if arch.name not in BUILDERS:
        raise OptionsError(f"unknown architecture '{arch.name}'; choose one of {', '.join(BUILDERS)}")
    if arch.size % 8 or arch.size < 16:
        raise OptionsError(f"the input side must be a multiple of 8, at least 16; found {arch.size}")
    if arch.width < 1 or arch.points < 1 or arch.channels not in (1, 3):
        raise OptionsError("width and points must be positive, channels 1 or 3")
    return BUILDERS[arch.name](arch)


def _conv(n_in: int, n_out: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(n_out)]


def _cnn7(arch: Architecture) -> nn.Sequential:
    w = arch.width
    layers: list[nn.Module] = []
    channels = arch.channels
    for n_out, stride in ((w, 2), (w, 2), (2 * w, 2), (2 * w, 1), (2 * w, 1)):
        layers += [*_conv(channels, n_out, stride), nn.ReLU()]
        channels = n_out
    side = arch.size // 8
    hidden = 7 * w
    layers += [nn.Flatten(), nn.Linear(channels * side * side, hidden), nn.ReLU()]
    layers += [nn.Linear(hidden, 2 * arch.points), Pixels(arch.size)]
    return nn.Sequential(*layers)


def _block(n_in: int, n_out: int, stride: int) -> Residual:
    main = nn.Sequential(*_conv(n_in, n_out, stride), nn.ReLU(), *_conv(n_out, n_out))
    same = n_in == n_out and stride == 1
    return Residual(main, nn.Sequential(*([] if same else _conv(n_in, n_out, stride, kernel=1))))


def _resnet8(arch: Architecture) -> nn.Sequential:
    w, side = arch.width, arch.size // 8
    return nn.Sequential(
        *_conv(arch.channels, w, 2),
        nn.ReLU(),
        _block(w, w, 1),
        _block(w, 2 * w, 2),
        _block(2 * w, 2 * w, 2),
        nn.Flatten(),
        nn.Linear(2 * w * side * side, 2 * arch.points),
        Pixels(arch.size),
    )


def _heatmap(arch: Architecture) -> nn.Sequential:
    w = arch.width
    named: list[nn.Module] = []
    channels = arch.channels
    for n_out, stride in ((w, 2), (2 * w, 2), (2 * w, 1), (4 * w, 2)):
        named += [*_conv(channels, n_out, stride), nn.ReLU()]
        channels = n_out
    up = nn.ConvTranspose2d(channels, 2 * w, 4, 2, 1, bias=False)
    named += [up, nn.BatchNorm2d(2 * w), nn.ReLU(), nn.Conv2d(2 * w, arch.points, 1)]
    return nn.Sequential(OrderedDict((str(i), layer) for i, layer in enumerate(named)))


BUILDERS: dict[str, Callable[[Architecture], nn.Sequential]] = {
    "cnn7": _cnn7,
    "resnet8": _resnet8,
    "heatmap": _heatmap,
}
