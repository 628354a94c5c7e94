"""`make demo`, second half: one picture, one range of brightness and contrast, verdict and map of the range.

Everything ships with the package: the network (23 key points of an aeroplane, 64 x 64 pixels) and the renderer.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

IMAGE = "aircraft23:test:0"
RANGES = ["--contrast", "0.8,1.2", "--brightness=-0.1,0.1"]
LOOSE, TIGHT = 3.0, 2.2  # pixels: the first holds in the whole range, the second only in a part


def command(*words: str) -> str:
    """Runs a command of the tool as a user would; what it printed."""
    module = {
        "spec": "verifier.semantic.cli",
        "verify": "verifier.command.verify",
        "coverage": "verifier.semantic.coverage",
    }[words[0]]
    shown = words[0] if words[0] == "verify" else f"secateur {words[0]}"
    print(f"\n$ {shown} {' '.join(words[1:])}", flush=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", module, *words[1:]], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}error: {shown} ended with exit code {done.returncode}, expected 0")
    print(f"{done.stdout.rstrip()}\n({time.monotonic() - start:.1f} s, start-up included)", flush=True)
    return done.stdout


def main() -> int:
    """Spec from a picture, verdicts, coverage; checks that the answers are the known ones."""
    folder = Path("out/demo")
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = []
    for name, tolerance in (("loose", LOOSE), ("tight", TIGHT)):
        prefix = folder / name
        command("spec", "cnn7_w8", "--image", IMAGE, *RANGES, "--tolerance", f"{tolerance:g}", "--out", str(prefix))
        verdicts.append(command("verify", f"{prefix}.onnx", f"{prefix}.vnnlib", "--timeout", "60").split()[0])
    picture = folder / "coverage.png"
    shown = command("coverage", "--network", "cnn7_w8", "--images", "0:1", *RANGES, "--tolerance", f"{TIGHT:g}",
                    "--open", "0.002", "--picture", str(picture))  # fmt: skip
    if verdicts != ["unsat", "sat"] or "refuted 0.25" not in shown:
        print(f"error: found {verdicts} and '{shown.strip()}', expected unsat, sat and 25 % refuted", file=sys.stderr)
        return 1
    claim = f"No visible key point is more than {LOOSE:g} px off the ground truth in x or y, anywhere in the range"
    print(f"\n{claim}; for {TIGHT:g} px look at {picture}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
