"""What a command does to its own process, and the library never does: allocator, threads, and the way out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

EXIT_VERDICT, EXIT_INTERNAL, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more on 64 bit (HEAP_MAX_SIZE / 2)
_TRIM_THRESHOLD = 1 << 30


def keep_freed_memory() -> bool:
    """Keeps freed blocks for the next step, instead of giving them back to the system and asking for them again.

    glibc maps every block above a threshold (128 KiB at first) anew and unmaps it when it is freed. A branch-and-bound
    step allocates and frees the same large tensors hundreds of times, so the kernel spends the run zeroing pages. Two
    thresholds change that; the price is memory that stays with the process until it ends.

    Returns False where it cannot be done, or the user has decided (MALLOC_*_THRESHOLD_, another allocator preloaded).
    """
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


def wait_without_spinning() -> None:
    """Lets idle OpenMP threads sleep at once; to be called before torch is imported, which reads the setting.

    By default they spin for milliseconds, in case more work comes. With a process per core beside them that takes the
    core from a thread that has work: on a loaded machine of 2 cores one ACAS Xu instance took 8 to 16 s, and 2 to 4 s
    without spinning.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


_imports_stay = False


def keep_imports() -> None:
    """Says that what this process imports stays until its end, so that `forget_imports` may act."""
    global _imports_stay
    _imports_stay = True


def forget_imports() -> None:
    """Takes everything that exists now out of the garbage collector's sight, where `keep_imports` was called.

    The first collection after the imports looks at half a million objects of torch, a tenth of a second, and frees
    none.
    """
    if _imports_stay:
        gc.freeze()


def leave(code: int) -> NoReturn:
    """Ends the process without Python's teardown.

    Taking the modules of torch apart again costs a third of a second of CPU time, half of what importing them did, and
    there is nothing left to save: every file is closed, and the workers of a list are gone.
    """
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def stop_printing() -> None:
    """After the reader of our output has gone away (`verify .. | head -1`): keeps Python from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def began() -> float:
    """When this process began, on the monotonic clock, to a hundredth of a second; now, where that is not to be had."""
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = float(fields[19])  # field 22 of proc(5), starttime: ticks since boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        return now
    return now - max(0.0, age)
