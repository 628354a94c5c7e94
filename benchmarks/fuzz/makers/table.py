"""What a maker is: for a value a node that reads it, with random attributes and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators

Shape = tuple[int, ...]
KINDS = {
    np.dtype(one): helper.np_dtype_to_tensor_dtype(np.dtype(one))
    for one in (
        np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32,
        np.bool_,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    name: str
    shape: Shape
    kind: np.dtype

    @property
    def real(self) -> bool:
        return self.kind.kind == "f"


Made = tuple[str, list[str], dict[str, Any], int] | None
"""Operator, inputs, attributes, how many outputs; None where it does not fit."""
MAKERS: dict[str, Callable[[RandomOperators, Value], Made]] = {}


def makes(*names: str) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    def enter(function: Callable[..., Made]) -> Callable[..., Made]:
        for name in names:
            MAKERS[name] = partial(function, op=name)
        return function

    return enter
