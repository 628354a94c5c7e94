"""Verdicts of `verify` on pruned networks of VNN-COMP: every witness replayed, every `unsat` sampled.

A network is pruned after training, on random points of the input set of its specification: fold mean, output corrected.
It is another network, so its verdict may differ from the original's; it must only be right. Witnesses are replayed by
`replay.py`, `unsat` is held against 100,000 points by `evidence.py`; neither shares code with the tool.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pruning
from benchmarks import evidence, replay
from pruning import Calibration, Perturbation, onnx_io
from pruning.correction import corrected
from verifier.errors import SecateurError

POINTS = 100_000


def run(folder: Path, only: Sequence[str], each: int, ratio: float, timeout: float, out: Path) -> list[dict]:
    """Rows for the first `each` instances of every benchmark with another network or property; old rows are kept."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["benchmark"], row["onnx"], row["vnnlib"]) for row in rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    for entry in _instances(folder, only, each):
        if (entry["benchmark"], entry["onnx"], entry["vnnlib"]) in done:
            continue
        row = {name: entry[name] for name in ("benchmark", "onnx", "vnnlib", "expected")}
        row |= one(folder / entry["benchmark"], entry["onnx"], entry["vnnlib"], ratio, timeout)
        rows.append(row)
        print(json.dumps(row), flush=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return rows


def _instances(folder: Path, only: Sequence[str], each: int) -> list[dict]:
    """Spread over the list of each benchmark: its networks and properties come in order."""
    with (folder / "instances.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for name in only:
        mine = [row for row in rows if row["benchmark"] == name]
        found += [mine[i] for i in np.unique(np.linspace(0, len(mine) - 1, min(each, len(mine))).astype(int))]
    return found


def one(folder: Path, model: str, spec: str, ratio: float, timeout: float) -> dict:
    """Prune, verify, check."""
    text = replay.read(folder / spec)
    try:
        net = onnx_io.load(replay.read(folder / model))
        cases = evidence.linear_cases(text.decode())
        small, share = prune(net, cases, ratio)
    except (SecateurError, ValueError) as refusal:
        return {"verdict": "not pruned", "why": " ".join(str(refusal).split())[:160]}
    with tempfile.TemporaryDirectory() as place:
        onnx_file, spec_file = Path(place) / "small.onnx", Path(place) / "spec.vnnlib"
        onnx_io.save(small, onnx_file)
        spec_file.write_bytes(text)
        start = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "verifier.command.verify",
            str(onnx_file),
            str(spec_file),
            "--timeout",
            str(timeout),
            "-q",
        ]
        said = subprocess.run(command, capture_output=True, text=True)
        verdict, _, witness = said.stdout.partition("\n")
        row = {"removed": round(share, 3), "verdict": verdict.strip() or f"exit {said.returncode}"}
        row["seconds"] = round(time.monotonic() - start, 1)
        if row["verdict"] == "sat":
            row["replay"] = replay.check(onnx_file, spec_file, witness) or "holds"
        elif row["verdict"] == "unsat":
            nearest = evidence.sample(evidence.Network(replay.read(onnx_file)), cases, POINTS)
            row["nearest"] = nearest
        return row


def prune(net: pruning.Net, cases: Sequence[evidence.Case], ratio: float) -> tuple[pruning.Net, float]:
    """The pruned network and the share of channels that went."""
    shape = net.shapes[net.inputs[0]]
    draw = np.random.default_rng(0)
    points = [case.lower + draw.random((128 // min(len(cases), 8), len(case.lower))) * (case.upper - case.lower)
              for case in cases[:8]]  # fmt: skip
    images = np.concatenate(points).astype(np.float32).reshape(-1, *shape[1:])
    data = Calibration(images, None, Perturbation.parse("none", clip=False))
    plan = pruning.plan(net, pruning.score(net, data, "l2"), ratio)
    made = corrected(pruning.apply(net, plan, "mean", data, "exact", rescale="all"), data)
    return made.net, plan.reached


def wrong(row: dict) -> bool:
    """A witness that does not replay, or a point that refutes an `unsat` (a NaN does not confirm it either)."""
    return row.get("replay", "holds") != "holds" or not row.get("nearest", 1.0) > 0


def table(rows: Sequence[dict]) -> str:
    """Markdown: a line per benchmark."""
    lines = ["| benchmark | instances | sat, replayed | unsat, sampled | timeout or unknown | not pruned | wrong |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        mine = [row for row in rows if row["benchmark"] == name]
        said = [row["verdict"] for row in mine]
        counts = [said.count("sat"), said.count("unsat"), said.count("timeout") + said.count("unknown"),
                  said.count("not pruned"), sum(map(wrong, mine))]  # fmt: skip
        lines.append(f"| `{name}` | {len(mine)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)
