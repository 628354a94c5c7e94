"""Runs a command and says for how much of its time the GPU worked: NVIDIA GPUs, by nvidia-smi.

    python -m benchmarks.device -- verify MODEL.onnx SPEC.vnnlib --device cuda
    python -m benchmarks.device -- python -m benchmarks.run FOLDER/instances.csv --only acasxu_2023 -- --device cuda

"Works" is the driver's word: the share of a sample's period in which at least one kernel ran, however little of the
card it filled. Start-up of the command counts. The exit code is the command's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time

QUERY = "name,utilization.gpu,memory.used"
PERIOD = 200
"""Milliseconds between two samples."""


def main() -> int:
    """Runs what follows `--` and prints one line to stderr."""
    parser = argparse.ArgumentParser(
        usage="python -m benchmarks.device -- COMMAND",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)  # a command may have a -- of its own
    parser.parse_args(sys.argv[1:at])
    command = sys.argv[at + 1 :]
    if not command:
        parser.error("found no command, expected one after --")
    if shutil.which("nvidia-smi") is None:
        parser.error("found no nvidia-smi, expected an NVIDIA GPU with its driver")
    asked = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-i", "0", "-lms", str(PERIOD)]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as sampling:
        started = time.perf_counter()
        code = subprocess.run(command).returncode
        wall = time.perf_counter() - started
        sampling.terminate()
        lines, _ = sampling.communicate()
    rows = [line.split(", ") for line in lines.splitlines() if line.count(", ") == QUERY.count(",")]
    if not rows:
        print("error: nvidia-smi gave no sample", file=sys.stderr)
        return 2
    share = sum(float(row[1]) for row in rows) / len(rows)
    memory = max(float(row[2]) for row in rows)
    print(f"{rows[0][0]}: {wall:.1f} s, works {share:.0f} % of it, {memory:.0f} MiB at most", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
