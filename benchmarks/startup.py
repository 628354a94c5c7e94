"""What a run costs before it computes: `verify` on a tiny instance beside `import torch`, in turns, whole processes.

python -m benchmarks.startup [--model M --spec S] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.demo import NEAR_AND_FAST, write_network


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of one process; its exit code must be 0."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status != 0:
        raise SystemExit(f"exit code {os.waitstatus_to_exitcode(status)} from {' '.join(command)}")
    return seconds, used.ru_maxrss / 1024


def medians(model: Path, spec: Path, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Median wall seconds, peak MB and best seconds by command; a first round warms the file cache and is dropped."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "verify --help": [sys.executable, "-m", "verifier.command.verify", "--help"],
        "verify model spec": [sys.executable, "-m", "verifier.command.verify", str(model), str(spec)],
    }
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
    for _ in range(rounds + 1):
        for label, command in commands.items():
            found[label].append(measure(command))
    result = {}
    for label, runs in found.items():
        seconds = [run[0] for run in runs[1:]]
        result[label] = statistics.median(seconds), max(run[1] for run in runs[1:]), min(seconds)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, spec = args.model or Path(name) / "net.onnx", args.spec or Path(name) / "spec.vnnlib"
        if args.model is None:
            write_network(model)
        if args.spec is None:
            spec.write_text(NEAR_AND_FAST)
        found = medians(model, spec, args.rounds)
    print("| process | median s | best s | peak MB |\n| --- | --- | --- | --- |")
    for label, (median, memory, best) in found.items():
        print(f"| `{label}` | {median:.3f} | {best:.3f} | {memory:.0f} |")
    ratio = found["verify model spec"][0] / found["python -c 'import torch'"][0]
    print(f"\nverify / import torch: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
