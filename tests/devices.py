"""A machine with two devices, on one: which tensor lies where is tracked, and PyTorch's rules about it are enforced.

"cpu" is the host, and "cpu:0" stands for a GPU: PyTorch keeps the names apart but takes both for the same memory, so
that the numbers are real. `TwoDevices` sees every call of a PyTorch function and keeps the place of each tensor. Beside
the data itself, it knows what a GPU would refuse: operands in different places, and `.numpy()` of what is not on the
host. What it does not see is what happens inside PyTorch, and speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

HOST, DEVICE = torch.device("cpu"), torch.device("cpu", 0)

_READS = ("numpy", "__array__")
_MOVES = ("to", "cpu", "cuda", "type_as", "copy_")
_INDEXED = ("__getitem__", "__setitem__", "index_put_", "index_put")


class WrongDevice(RuntimeError):
    """An operation that a real device would refuse."""


class TwoDevices(TorchFunctionMode):
    """Inside `with`, tensors have places. `seen` counts the calls that ran on the device, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__" and resolve_name(func) == "torch.Tensor.device.__get__":
            return place(args[0])
        if name == "_has_compatible_shallow_copy_type":  # `Module.to` asks, and then replaces what a parameter holds
            return func(*args, **kwargs)
        if name == "__set__" and resolve_name(func) == "torch.Tensor.data.__set__":
            args[0].place = place(args[1])
            return func(*args, **kwargs)
        operands = list(_tensors((args, kwargs)))
        where = self._where(name, args, kwargs, operands)
        result = func(*args, **kwargs)
        if any(result is t for t in operands) and place(result) != where:
            result = result.clone()  # both names mean the same memory to PyTorch, so nothing was copied
        for tensor in _tensors(result):
            tensor.place = where  # type: ignore[attr-defined]
        if where == DEVICE:
            self.seen[name] = self.seen.get(name, 0) + 1
        return result

    def _where(self, name: str, args: tuple, kwargs: Mapping[str, Any], operands: list[Tensor]) -> torch.device:
        """Where the result lies."""
        if name in _READS and place(args[0]) == DEVICE:
            raise WrongDevice(f"{name} of a tensor that lies on the device")
        if name == "cpu":
            return HOST
        if name in ("to", "type_as"):
            return _target(args[1:], kwargs, place(args[0]))
        if name == "copy_":
            return place(args[0])
        if "device" in kwargs and kwargs["device"] is not None:
            return torch.device(kwargs["device"])
        if not operands:
            return HOST
        return self._common(name, args, operands)

    @staticmethod
    def _common(name: str, args: tuple, operands: list[Tensor]) -> torch.device:
        if name in _INDEXED and place(args[0]) == DEVICE:
            operands = [args[0]]  # indices may lie on the host; PyTorch moves them
        # a number on the host may meet tensors on the device
        places = {place(t) for t in operands if t.dim() > 0} or {place(t) for t in operands}
        if len(places) > 1 or (DEVICE not in places and any(place(t) == DEVICE for t in operands)):
            shapes = ", ".join(f"{tuple(t.shape)} on {place(t)}" for t in operands)
            raise WrongDevice(f"{name} of tensors in different places: {shapes}")
        return next(iter(places))


def place(tensor: Tensor) -> torch.device:
    """Where a tensor lies."""
    return getattr(tensor, "place", HOST)


def _target(args: tuple, kwargs: Mapping[str, Any], own: torch.device) -> torch.device:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return place(value)
        if isinstance(value, torch.device | str):
            return torch.device(value)
    return own


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
