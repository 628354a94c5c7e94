"""How many operator calls and host synchronisations a step of each search makes: without a GPU.

    python -m benchmarks.calls --vnncomp DIR [--only NAME ..] [--seconds S] [--dtype T] [--chunk DEVICE] [--where N]

A call is an operator that PyTorch dispatches, views left out: on a GPU about a kernel launch each. A synchronisation is
a point where the program needs a number before it can go on: `item` and `bool`, `nonzero` and all that contains it
(boolean indices, `masked_select`, `unique`), `tolist`, `cpu`. Both are divided by the steps of the search; what comes
before the first step (reading the network, cross-checks, the first attack, root bounds) is listed on its own.

Steps and chunks of backward rows take about a core's cache on a CPU and what fills the card on a GPU, all elements of
small values have rows there, and attacks and climbs look less often at what they reached; a step is counted with the
settings of either (`--chunk`). `--where` prints the lines of ours that make the most calls.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import verifier
from benchmarks.semantic_demo import IMAGE, LOOSE, RANGES
from verifier.attack import pgd
from verifier.bounds import alpha_beta, clipped, sweep
from verifier.engine import strategy
from verifier.options import Options
from verifier.progress import Progress
from verifier.search import zonotope

FILES = {
    "acasxu": ("acasxu_2023/onnx/ACASXU_run2a_3_3_batch_2000.onnx", "acasxu_2023/vnnlib/prop_2.vnnlib"),
    "mnist_fc": ("mnist_fc/onnx/mnist-net_256x2.onnx", "mnist_fc/vnnlib/prop_11_0.05.vnnlib"),
    "cifar_base_kw": (
        "oval21/onnx/cifar_base_kw.onnx",
        "oval21/vnnlib/cifar_base_kw-img3161-eps0.018562091503267972.vnnlib",
    ),
}
KEY_POINTS = "key points"
READ_BACK = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}
OURS = Path(verifier.__file__).parent


@dataclass
class Counts:
    """Calls and synchronisations so far, and which of our lines made them."""

    calls: int = 0
    waits: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    waiting_lines: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    watch: bool = False

    def call(self, name: str) -> None:
        """One operator that is not a view."""
        self.calls += 1
        if self.watch:
            self.lines[_line(sys._getframe(2))] += 1
            self.operators[name] += 1

    def wait(self) -> None:
        """One point where the host waits."""
        self.waits += 1
        if self.watch:
            self.waiting_lines[_line(sys._getframe(2))] += 1


def _line(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if OURS in path.parents:
            return f"{path.relative_to(OURS)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class Dispatched(TorchDispatchMode):
    """Counts what reaches the kernels."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in ("detach", "_unsafe_view", "lift_fresh", "empty", "new_empty"):
            self.counts.call(name)
        if name in READ_BACK or (name in ("index", "index_put", "index_put_") and _masked(args[1])):
            self.counts.wait()
        return func(*args, **(kwargs or {}))


def _masked(indices: Any) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class Called(TorchFunctionMode):
    """Counts what reads memory without a kernel where the device is the host."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.tolist, torch.Tensor.cpu):
            self.counts.wait()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Line:
    """One search, counted."""

    name: str
    verdict: str
    boxes: int
    steps: int
    calls: float
    waits: float
    before: int
    cpu: float


def count(name: str, model: Path, spec: Path, options: Options, watch: int) -> Line:
    """Runs one search with every dispatched operator counted."""
    counts = Counts(watch=watch > 0)
    first: list[tuple[int, int]] = []

    def progress(_: Progress) -> None:
        if not first:  # the first step is over: what came before it is set-up and one step
            first.append((counts.calls, counts.waits))

    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with Called(counts), Dispatched(counts):
        result = verifier.verify(model, spec, options, progress=progress)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
    steps = int(result.counters.get("steps", 0))
    before, waited = first[0] if first else (counts.calls, counts.waits)
    after = max(1, steps - 1)
    if watch:
        _print_lines(counts, watch)
    return Line(
        name,
        result.verdict.value,
        int(result.counters.get("boxes", 0)),
        steps,
        (counts.calls - before) / after,
        (counts.waits - waited) / after,
        before,
        used,
    )


def _print_lines(counts: Counts, most: int) -> None:
    for title, found in (
        ("calls", counts.lines),
        ("operators", counts.operators),
        ("synchronisations", counts.waiting_lines),
    ):
        print(title)
        for line, number in found.most_common(most):
            print(f"  {number:8d}  {line}")


def key_points(folder: Path) -> tuple[Path, Path]:
    """A pair of network and specification, made by the command a user has."""
    prefix = folder / "pair"
    command = [sys.executable, "-m", "verifier.semantic.cli", "cnn7_w8", "--image", IMAGE, *RANGES]
    subprocess.run([*command, "--tolerance", f"{LOOSE:g}", "--out", str(prefix)], check=True, capture_output=True)
    return prefix.with_suffix(".onnx"), prefix.with_suffix(".vnnlib")


def _existing(path: Path) -> Path:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.exists():
            return candidate
    raise SystemExit(f"error: {path}: found no such file (nor with .gz), expected the benchmarks of VNN-COMP there")


def main() -> int:
    """Counts the searches asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vnncomp", type=Path, default=os.environ.get("VNNCOMP"), help="folder of VNN-COMP benchmarks")
    parser.add_argument("--only", nargs="+", choices=(*FILES, KEY_POINTS), default=(*FILES, KEY_POINTS))
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of each search")
    parser.add_argument("--dtype", choices=("auto", "float32", "float64"), default="auto")
    parser.add_argument(
        "--chunk", choices=tuple(sweep.ROW_ELEMENTS), default="cpu", help="sizes of steps and chunks of"
    )
    parser.add_argument("--where", type=int, default=0, metavar="N", help="the N lines of ours with most calls")
    given = parser.parse_args()
    if given.vnncomp is None and set(given.only) != {KEY_POINTS}:
        parser.error("found neither --vnncomp nor VNNCOMP, expected the folder of the VNN-COMP benchmarks")
    steps = strategy.INPUT_ELEMENTS, strategy.MOST_BOXES, strategy.SPLIT_ELEMENTS, strategy.MOST_SPLIT, zonotope.BATCH
    rows = sweep.ROW_ELEMENTS, sweep.LARGE_ROWS, sweep.ALL_ROWS
    for table in (*steps, *rows, pgd.LOOK, alpha_beta.LOOK, clipped.ELEMENTS):
        table["cpu"] = table[given.chunk]
    options = Options(device="cpu", dtype=given.dtype, timeout=given.seconds)
    print("search           verdict     boxes  steps  calls/step  waits/step  calls before  user CPU s")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            files = (
                (_existing(given.vnncomp / part) for part in FILES[name]) if name in FILES else key_points(Path(folder))
            )
            model, spec = files
            line = count(name, model, spec, options, given.where)
            figures = f"{line.boxes:7d}  {line.steps:5d}  {line.calls:10.0f}  {line.waits:10.1f}  {line.before:12d}"
            print(f"{line.name:15}  {line.verdict:8}  {figures}  {line.cpu:10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
