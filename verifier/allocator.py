"""Keeps freed memory for the next step, instead of giving it back to the system and asking for it again.

glibc maps every block above a threshold (128 KiB at first) anew and unmaps it when it is freed. A branch-and-bound step
allocates and frees the same large tensors hundreds of times, so the kernel spends the run zeroing pages. Two thresholds
change that. It costs memory that stays with the process until it ends, so only the commands do it, never the library.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more on 64 bit (HEAP_MAX_SIZE / 2)
_TRIM_THRESHOLD = 1 << 30


def keep_freed_memory() -> bool:
    """Raises glibc's thresholds; False where that is not possible or the user has set them (MALLOC_*_THRESHOLD_)."""
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  another C library numbers its options differently
        mallopt = libc.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
