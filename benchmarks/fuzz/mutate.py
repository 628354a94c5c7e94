"""Random damage to bytes, and the smallest input that still fails."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def damaged(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """`data` after one to four flipped bits, changed numbers, cuts, copies, or pieces of `other`."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(8):
            case 0 | 1 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(found):
                found[at] = rng.randrange(256)
            case 3:
                del found[at : at + rng.choice([1, 2, 4, 16, 256])]
            case 4:
                found[at:at] = found[at : at + rng.choice([1, 4, 32])]
            case 5:
                found[at:at] = rng.randbytes(rng.choice([1, 2, 8]))
            case 6:
                number = struct.pack("<Q", rng.choice(NUMBERS))[: rng.choice([1, 2, 4, 8])]
                found[at : at + len(number)] = number
            case 7:
                start = rng.randrange(len(other) + 1)
                found[at:at] = other[start : start + rng.choice([1, 8, 64])]
    return bytes(found)


def smallest(data: bytes, fails: Callable[[bytes], bool], seconds: float = 20.0) -> bytes:
    """A part of `data` that still `fails`: pieces are left out or set to zeros, halved in size each round; stops after
    `seconds`. (Delta debugging, Zeller and Hildebrandt 2002, without its complement step.)"""
    end = time.monotonic() + seconds
    size = max(1, len(data) // 2)
    while size and time.monotonic() < end:
        at, before = 0, len(data)
        while at < len(data) and time.monotonic() < end:
            piece = data[at : at + size]
            shorter, plain = data[:at] + data[at + size :], data[:at] + bytes(len(piece)) + data[at + size :]
            if fails(shorter):
                data = shorter
                continue
            if any(piece) and fails(plain):
                data = plain
            at += size
        if size == 1 and len(data) == before:
            break
        size = max(1, size // 2)
    return data
