"""Runs a folder of small hard cases and compares every verdict with what is right.

    python -m benchmarks.cases FOLDER [--timeout 5]

The folder holds `<group>/<name>.onnx` with `<name>.vnnlib` beside it. What is right for each is in RIGHT below, by the
case's name (a prefix, for families); a case not listed is run and reported as `new`. Exit code 1 where a verdict
is not one of the right ones, or a run ends in an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

RIGHT: dict[str, tuple[str, ...]] = {
    "opposite_relus": ("sat",),
    "folded_shift": ("sat",),
    "folded_chain": ("unknown", "timeout"),  # violated over the reals, where ONNX Runtime computes 0
    "amplified_rounding": ("sat",),
    "clip_limit_float64": ("sat",),
    "mixed_row": ("sat", "unknown"),
    "integer_input": ("unsat", "refused"),
    "mixed_dtypes": ("unsat", "unknown"),
    "all_inputs_fixed": ("sat", "unsat", "unknown"),
    "name_z_keyerror": ("sat", "unsat"),
    "name_z_hang": ("sat", "unsat"),
    "name_z_spike": ("sat",),
    "name_z_flatten": ("sat",),
    "rank0": ("unsat",),
    "strict_relu": ("unsat",),
    "strict_rows": ("unsat",),
    "dot_product_of_itself": ("unsat",),
    "softmax_spread": ("unsat",),
    "resize": ("sat", "unsat"),
    "convtranspose_same": ("sat", "unsat"),
    "half_network": ("sat", "unsat", "refused"),
    "onehot_of_a_constant": ("sat", "unsat"),
    "residual_16_inputs": ("unsat",),
}


def right(name: str) -> tuple[str, ...] | None:
    """The right verdicts of a case, or None where it is not known."""
    return next((words for start, words in RIGHT.items() if name.startswith(start)), None)


def run(model: Path, spec: Path, timeout: float) -> tuple[str, float]:
    """The first word that `verify` says, `refused` for exit code 2, and seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "verifier.command.verify", str(model), str(spec), "--timeout", str(timeout), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 60)
    seconds = time.monotonic() - start
    if done.returncode == 2:
        return "refused", seconds
    if done.returncode:
        return f"error: {done.stderr.strip().splitlines()[-1:]}", seconds
    return done.stdout.split("\n", 1)[0].strip(), seconds


def main() -> int:
    """The table, and whether anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--timeout", type=float, default=5)
    options = parser.parse_args()
    models = sorted(options.folder.glob("*/*.onnx"))
    if not models:
        parser.error(f"{options.folder}: found no GROUP/NAME.onnx")
    wrong = 0
    for model in models:
        verdict, seconds = run(model, model.with_suffix(".vnnlib"), options.timeout)
        expected = right(model.stem)
        mark = "new" if expected is None else "right" if verdict in expected else "WRONG"
        wrong += mark == "WRONG" or verdict.startswith("error")
        print(f"{model.parent.name}/{model.stem}: {verdict} in {seconds:.1f} s, {mark}", flush=True)
    print(f"{len(models)} cases, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
