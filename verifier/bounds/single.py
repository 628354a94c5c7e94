"""What a product of float32 numbers is, while bounds are computed: IEEE's, not that of TF32 or bfloat16.

The allowances for rounding (`tolerance`) count with u = 2**-24. PyTorch may compute sums of products of float32
numbers from 10 bits of theirs or fewer: cuDNN's convolutions unless told otherwise, matrix products where a program, or
the environment, asks for speed (`torch.set_float32_matmul_precision`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

IEEE = "ieee"


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside `with`, or a function that it decorates, float32 products are IEEE's; then what was set holds again."""
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in _switches()]
    try:
        for holder, name, value in _switches():
            setattr(holder, name, value)
        yield
    finally:
        for holder, name, value in kept:
            setattr(holder, name, value)


def _switches() -> list[tuple[object, str, object]]:
    """What decides it, and how it has to be: (object, attribute, value). From PyTorch 2.9 on every kind of operator has
    its own word, and the old ones must not be mixed with it."""
    cuda, cudnn, cpu = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    if hasattr(cuda.matmul, "fp32_precision"):
        kinds = (cuda, "matmul"), (cudnn, "conv"), (cudnn, "rnn"), (cpu, "matmul"), (cpu, "conv")
        return [(getattr(library, kind), "fp32_precision", IEEE) for library, kind in kinds]
    return [(cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
