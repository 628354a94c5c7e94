"""What numbers a network can be fed, by the type of each input: the set of a specification, and witnesses inside it.

A float32 or float16 input: a bound is widened to the type's nearest number, as a competition's checker compares. A
float64 input: the bounds as they are. An input of whole numbers: the set holds whole numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import vnnlib
from verifier.graph.onnx_import import TensorInfo

Box = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Feed:
    """The flat input vector (n,) of a network: its tensors in the order of declaration, each with a type."""

    infos: tuple[TensorInfo, ...]

    @staticmethod
    def of(infos: Sequence[TensorInfo]) -> Feed:
        """From the declared inputs of a model."""
        return Feed(tuple(infos))

    def _parts(self) -> Iterator[tuple[slice, np.dtype]]:
        start = 0
        for info in self.infos:
            yield slice(start, start + info.size), info.dtype
            start += info.size

    def real(self, lower: np.ndarray, upper: np.ndarray) -> Box:
        """Boxes (.., n), float64, cut down to the whole numbers in them where an input holds only those; a box without
        any has lower > upper there.
        """
        low, high = (np.array(end, np.float64) for end in (lower, upper))
        for part, dtype in self._parts():
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                low[..., part] = np.maximum(np.ceil(low[..., part]), float(limits.min))
                high[..., part] = np.minimum(np.floor(high[..., part]), float(limits.max))
        return low, high

    def hull(self, lower: np.ndarray, upper: np.ndarray) -> Box:
        """`real`, and of every floating-point bound the hull with its nearest number of the input's type."""
        low, high = self.real(lower, upper)
        for part, dtype in self._parts():
            if dtype.kind == "f":
                low[..., part], high[..., part] = vnnlib.float_hull(low[..., part], high[..., part], dtype)
        return low, high

    def snap(self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Points (M, n) as numbers of the inputs' types inside the real bounds (M, n), float64.

        Where no such number lies between two bounds, the rounded bound is used (it is all the network can read).
        """
        low, high = self.real(lower, upper)
        result = np.array(x, np.float64)
        for part, dtype in self._parts():
            value = result[..., part]
            if dtype.kind in "iu":
                ends = np.clip((low[..., part], high[..., part]), *_limits(dtype))
                result[..., part] = np.clip(np.rint(value), *ends)
            else:
                inner = vnnlib.float_inside(low[..., part], high[..., part], dtype)
                with np.errstate(over="ignore"):
                    result[..., part] = np.clip(value.astype(dtype), *inner)
        return result


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """The least and the largest whole number of the type that float64 holds."""
    low, high = (int(end) for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    largest = float(high)
    return float(low), largest if int(largest) <= high else float(np.nextafter(largest, 0.0))
