"""What a result was obtained with, as two short texts."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("secateur", "torch", "numpy", "onnx", "onnxruntime")


@cache
def versions() -> str:
    """Versions of Python and of the packages that decide results, as installed (none of them is imported)."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def machine() -> str:
    """Processor, cores this process may use, memory, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [_processor(), f"{cores} core{'s' if cores != 1 else ''}"]
    if (memory := _memory()) is not None:
        parts.append(f"{memory:.0f} GiB")
    threads = os.environ.get("OMP_NUM_THREADS")
    parts += [f"OMP_NUM_THREADS={threads}"] if threads else []
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def _memory() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None
