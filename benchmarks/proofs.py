"""Proofs of a list of instances: what writing, checking and storing them costs.

    python -m benchmarks.proofs FOLDER/instances.csv --out out/proofs.jsonl --only mnist_fc safenlp --cap 60

Every instance is searched without a proof and, where that settles it, with one, in this process (so no start-up is
counted), and the proof is checked in a process of its own, as `secateur check` does it. Seconds, limits included, are
CPU seconds: on a shared machine wall time means nothing. One JSON line per instance goes to --out, the table of all of
them to stdout; what --out already holds is not measured again. Exit code 1: an `unsat` whose proof is missing or is not
accepted, or verdicts that differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.run import KNOWN, Instance, add_sample, sampled
from verifier import Options, Result, SecateurError, verify
from verifier.budget import Budget, memory_limit

COLUMNS = (
    *("benchmark", "settled", "unsat", "accepted", "sat", "witness", "missing", "search s", "with proof s", "check s"),
    *("check / search", "worst", "boxes", "leaves", "bytes / leaf"),
)


@dataclass(frozen=True)
class Line:
    """One instance: verdicts and user CPU seconds of the search `plain` and with a proof, boxes of both; what the
    checker said (`accepted unsat`, ..; empty: no file), its user CPU seconds without start-up, leaves and bytes."""

    benchmark: str
    onnx: str
    vnnlib: str
    plain: str
    recorded: str
    plain_s: float
    recorded_s: float
    plain_boxes: float
    recorded_boxes: float
    checked: str
    check_s: float
    leaves: int
    size: int
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.benchmark, self.onnx, self.vnnlib

    @property
    def fault(self) -> str:
        """What must not be: a verdict that changes, or an `unsat` without an accepted proof."""
        if {self.plain, self.recorded} == {"sat", "unsat"}:
            return f"{self.plain} without a proof, {self.recorded} with one"
        if "rejected" in self.checked or (self.recorded == "unsat" and self.checked != "accepted unsat"):
            return f"{self.recorded}: {self.checked or 'no proof'} {self.message}"
        if self.plain == "unsat" and self.recorded != "unsat":
            return f"unsat without a proof, {self.recorded} with one: {self.message}"
        return ""


def measure(instance: Instance, cap: float, folder: Path) -> Line:
    """One instance, searched with and without a proof, and the proof checked."""
    limit, key = min(instance.timeout, cap), (instance.benchmark, instance.onnx, instance.vnnlib)
    plain, plain_s = _timed(instance, limit, None)
    if plain.verdict.value not in KNOWN:
        boxes = plain.counters.get("boxes", 0)
        return Line(*key, plain.verdict.value, "", round(plain_s, 3), 0.0, boxes, 0, "", 0.0, 0, 0, plain.reason)
    proof = folder / "p.proof"
    try:
        found, seconds = _timed(instance, 4 * limit, proof)
        verdict, message, boxes = found.verdict.value, found.reason, found.counters.get("boxes", 0)
    except SecateurError as error:
        verdict, message, boxes, seconds = "error", str(error), 0, 0.0
    checked, check_s, leaves = _checked(proof, instance) if proof.exists() else ("", 0.0, 0)
    size = proof.stat().st_size if proof.exists() else 0
    proof.unlink(missing_ok=True)
    return Line(
        *(*key, plain.verdict.value, verdict),
        *(round(plain_s, 3), round(seconds, 3), plain.counters.get("boxes", 0), boxes),
        checked,
        round(check_s, 3),
        leaves,
        size,
        message,
    )


def _timed(instance: Instance, limit: float, proof: Path | None) -> tuple[Result, float]:
    started = time.process_time()
    budget = Budget.of(limit, memory_limit(None), time.process_time)
    result = verify(instance.model, instance.spec, Options(), budget=budget, proof=proof)
    return result, time.process_time() - started


def _checked(proof: Path, instance: Instance) -> tuple[str, float, int]:
    """What the checker says, its user CPU seconds less those of an empty start, and how many leaves it saw."""
    started = [sys.executable, "-m", "verifier.checker.cli"]
    _, _, idle = _child([*started, "--help"])
    out, errors, used = _child([*started, str(proof), str(instance.model), str(instance.spec)])
    found = re.search(r"(\d+) leaves", errors)
    return out.strip() or errors.strip()[-300:], max(0.0, used - idle), int(found.group(1)) if found else 0


def _child(command: list[str]) -> tuple[str, str, float]:
    before = os.times().children_user
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr, os.times().children_user - before


def table(lines: list[Line]) -> str:
    """One row per benchmark, in Markdown."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for name in dict.fromkeys(line.benchmark for line in lines):
        own = [line for line in lines if line.benchmark == name]
        unsat = [line for line in own if line.plain == "unsat"]
        good = [line for line in unsat if line.checked == "accepted unsat"]
        sat = [line for line in own if line.plain == "sat"]
        search, check = (sum(getattr(x, part) for x in good) for part in ("plain_s", "check_s"))
        leaves = sum(x.leaves for x in good)
        cells = [
            *(name, f"{len(unsat) + len(sat)} of {len(own)}", len(unsat), len(good), len(sat)),
            *(sum(x.checked == "accepted sat" for x in sat), sum(bool(x.fault) for x in own)),
            *(f"{search:.1f}", f"{sum(x.recorded_s for x in good):.1f}", f"{check:.1f}"),
            f"{check / search:.2f}" if search else "",
            f"{max(x.check_s / max(x.plain_s, 0.05) for x in good):.1f}" if good else "",
            f"{statistics.mean(x.recorded_boxes / max(1, x.plain_boxes) for x in good):.2f} x" if good else "",
            leaves,
            f"{sum(x.size for x in good) / leaves:.0f}" if leaves else "",
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sample(parser, 60.0)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; what stands there is not measured again")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which nothing new is begun")
    args = parser.parse_args()
    started = time.monotonic()
    lines: list[Line] = []
    if args.out.exists():
        lines = [Line(**json.loads(text)) for text in args.out.read_text().splitlines()]
    done = {line.key for line in lines}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as stream, tempfile.TemporaryDirectory() as folder:
        for instance in sampled(args):
            if (instance.benchmark, instance.onnx, instance.vnnlib) in done:
                continue
            if time.monotonic() - started > args.budget:
                break
            line = measure(instance, args.cap, Path(folder))
            lines.append(line)
            stream.write(json.dumps(asdict(line)) + "\n")
            stream.flush()
            print(line, file=sys.stderr)
    print(table(lines))
    faults = [f"- {' '.join(line.key)}: {line.fault}" for line in lines if line.fault]
    print("\n".join([f"{len(faults)} faults", *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
