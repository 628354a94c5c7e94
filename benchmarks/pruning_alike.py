"""Pruned network against masked network, for every network of a folder of VNN-COMP benchmarks.

Both compute the same numbers in another order. In float32 they must agree to 1e-5 (relative to 1 + the largest output);
a network that rounds worse than that by itself cannot, so where it fails both are evaluated in float64 as well: there
they must agree to 1e-10, and the float32 difference must lie within the sum of both networks' own float32 errors.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import pruning
from benchmarks import replay
from pruning import onnx_io, runtime
from verifier.errors import SecateurError

SINGLE, DOUBLE = 1e-5, 1e-10


def run(folder: Path, ratio: float, largest: int, each: int) -> list[dict]:
    """A row per network, the first `each` of a family; files over `largest` bytes are left out by name."""
    rows: list[dict] = []
    for path in sorted(folder.glob("*/onnx/**/*.onnx*")):
        family = path.relative_to(folder).parts[0]
        if sum(row["benchmark"] == family for row in rows) >= each:
            continue
        row = {"benchmark": family, "network": path.name.removesuffix(".gz")}
        try:
            data = replay.read(path)
            row |= {"left out": f"{len(data)} bytes"} if len(data) > largest else compare(data, ratio)
        except SecateurError as refusal:
            row["why not"] = " ".join(str(refusal).split())[:200]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def compare(data: bytes, ratio: float) -> dict:
    """Differences of the two networks on random inputs; raises SecateurError for a network that cannot be pruned."""
    net = onnx_io.load(data)
    plan = pruning.plan(net, pruning.score(net, None, "l2"), ratio)
    made = pruning.apply(net, plan, "zero")
    assert made.masked is not None
    draw = np.random.default_rng(0)
    runners = [runtime.Runner(onnx_io.to_bytes(part, check=True), optimise=False) for part in (made.net, made.masked)]
    feeds = [{name: draw.uniform(0, 1, net.shapes[name]) for name in net.inputs} for _ in range(8)]
    found = [apart(*(r(feed)[net.outputs[0]] for r in runners)) for feed in feeds]
    at = int(np.argmax(found))  # a NaN, if there is one
    worst = found[at]
    row: dict[str, int | float | list[float]] = {"removed": int(plan.removed.sum()), "float32": worst}
    if not worst <= SINGLE:
        feed = {name: value.astype(np.float32) for name, value in feeds[at].items()}  # what float32 was given
        exact = [onnx_io.evaluate64(part, feed)[net.outputs[0]] for part in (made.net, made.masked)]
        own = [apart(r(feed)[net.outputs[0]], e) for r, e in zip(runners, exact, strict=True)]
        row |= {"float64": apart(*exact), "own float32 errors": own}
    return row


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to 1 + the largest value."""
    return float(np.abs(np.asarray(a, np.float64) - b).max() / (1 + np.abs(b).max()))


def holds(row: dict) -> bool:
    """Equal as far as float32 can say; rows without a comparison hold."""
    if row.get("float32", 0.0) <= SINGLE:
        return True
    return row["float64"] <= DOUBLE and row["float32"] <= 1.01 * sum(row["own float32 errors"]) + DOUBLE
