"""kill -9 at random moments of searches of minutes: nothing is lost, nothing is counted twice, the answer is the same.

    python -m benchmarks.kills [--kills 20] [--only inputs neurons coverage] [--seed N] [--out out/kills.jsonl]

Three searches of random networks that are made here: inputs are split (`verify --deterministic`), neurons are split
(`verify`), and a map (`secateur coverage`). Each runs once without being disturbed. Then its process group is killed at
moments drawn evenly from a stretch that fits so many kills into one search, and started again with the same checkpoint;
a search that ends before all kills have happened is begun anew. After every kill the checkpoint is read here, without
the tool's own reader:

- the closed and the open volume add up to the whole, and the counts of boxes, splits and leaves fit each other;
- what was closed stays closed, and every open part lies within an open part of the checkpoint before;
- no point is in two parts (points are drawn, and put through the network where neurons are decided).

At the end the verdict (of a map: every cell) has to be that of the search that was not disturbed. One JSON line for
each kind goes to --out; exit code 1: something of this did not hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

KINDS = ("inputs", "neurons", "coverage")
POINTS = 500
"""Points that are asked in how many open parts they lie."""


class Net:
    """A random network of hidden layers and one output over [-1, 1]^n, and the largest value that is found there."""

    def __init__(self, path: Path, inputs: int, width: int, layers: int, seed: int) -> None:
        draw, sizes = np.random.default_rng(seed), [inputs, *[width] * layers, 1]
        self.weights = [
            (
                (draw.normal(size=(a, b)) * np.sqrt(2 / a)).astype(np.float32).astype(np.float64),
                (draw.normal(size=b) * 0.3).astype(np.float32).astype(np.float64),
            )
            for a, b in itertools.pairwise(sizes)
        ]
        nodes, values, last = [], [], "x"
        for k, (w, b) in enumerate(self.weights):
            values += [numpy_helper.from_array(t.astype(np.float32), f"{n}{k}") for n, t in (("w", w), ("b", b))]
            out = f"s{k}" if k < layers else "y"
            nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [out]))
            if k < layers:
                nodes.append(helper.make_node("Relu", [out], [f"h{k}"]))
            last = f"h{k}"
        ends = [helper.make_tensor_value_info(n, 1, [1, s]) for n, s in (("x", inputs), ("y", 1))]
        graph = helper.make_graph(nodes, "net", [ends[0]], [ends[1]], values)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        self.inputs = inputs
        x = draw.uniform(-1, 1, (5000, inputs))
        for scale in (1.0, 0.5, 0.2, 0.1, 0.05) * 40:  # a few coordinates of the best point at a time
            best = x[self(x)[0].argmax()]
            moved = draw.random((500, inputs)) < 2 / inputs
            x = np.clip(best + moved * draw.normal(size=(500, inputs)) * scale, -1, 1)
            x[0] = best
        self.most = float(self(x)[0].max())

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (M,) and the arguments of all ReLUs (M, N)."""
        arguments = []
        for w, b in self.weights[:-1]:
            arguments.append(x @ w + b)
            x = np.maximum(arguments[-1], 0)
        w, b = self.weights[-1]
        return (x @ w + b)[:, 0], np.concatenate(arguments, 1)

    def spec(self, path: Path, least: float) -> None:
        """Whether the output reaches `least`."""
        inputs = range(self.inputs)
        lines = [f"(declare-const X_{i} Real)" for i in inputs] + ["(declare-const Y_0 Real)"]
        lines += [f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in inputs]
        path.write_text("\n".join([*lines, f"(assert (>= Y_0 {least:.9f}))"]))


@dataclass(frozen=True)
class Kind:
    """A search: its network (inputs, width, layers, seed), how far above the largest value that was found its limit
    lies, and the command without the checkpoint."""

    shape: tuple[int, int, int, int]
    above: float
    command: tuple[str, ...]


@dataclass
class Outcome:
    """What was seen of one kind. Seconds are wall seconds of the search that was not disturbed; `resumed` how often a
    run found a checkpoint; `runs` how many searches it took to have all kills."""

    kind: str
    seconds: float
    kills: int = 0
    resumed: int = 0
    runs: int = 0
    answers: list[str] = field(default_factory=list)
    boxes: list[int] = field(default_factory=list)
    left_over: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Before:
    """The checkpoint of the kill before this one, or nothing."""

    boxes: int = 0
    settled: float = 0.0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


VERIFY = (sys.executable, "-m", "verifier.command.verify", "net.onnx", "spec.vnnlib", "--json", "result.json",
          "--options", "options.yaml", "--checkpoint", "kept")  # fmt: skip
SEARCHES = {
    "inputs": Kind((7, 50, 3, 0), 0.6, (*VERIFY, "--deterministic")),
    "neurons": Kind((24, 24, 3, 0), 2.1, VERIFY),
    "coverage": Kind((2, 60, 3, 0), -0.4, (sys.executable, "-m", "verifier.command.umbrella", "coverage", "net.onnx",
                                           "spec.vnnlib", "--open", "0", "--depth", "34", "--npz", "result.npz",
                                           "--checkpoint", "kept")),
}  # fmt: skip
OPTIONS = "checkpoint_every: 0.5\nattack: {restarts: 0}\n"
"""The search alone, and its boxes written often."""


def measure(name: str, kills: int, draw: random.Random) -> Outcome:
    """One kind: undisturbed, then with so many kills."""
    kind = SEARCHES[name]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        net = Net(folder / "net.onnx", *kind.shape)
        net.spec(folder / "spec.vnnlib", net.most + kind.above)
        (folder / "options.yaml").write_text(OPTIONS)
        started = time.monotonic()
        subprocess.run(kind.command, cwd=folder, capture_output=True, check=True)
        outcome = Outcome(name, round(time.monotonic() - started, 1))
        wanted = answer(name, folder)
        note(outcome, wanted)
        while outcome.kills < kills:
            outcome.runs += 1
            search(name, kind, folder, net, kills - outcome.kills, outcome, draw)
            found = answer(name, folder)
            note(outcome, found)
            if found.same != wanted.same:
                outcome.faults.append(f"run {outcome.runs} ended otherwise: {found.text}, expected {wanted.text}")
            if name != "coverage" and (folder / "kept").exists():
                outcome.faults.append(f"run {outcome.runs} left its checkpoint behind")
            (folder / "kept").unlink(missing_ok=True)
    return outcome


def search(name: str, kind: Kind, folder: Path, net: Net, kills: int, outcome: Outcome, draw: random.Random) -> None:
    """One search, killed up to so many times, to its end."""
    before, kept, longest = Before(), folder / "kept", 2 * outcome.seconds / (kills + 1)
    while True:
        outcome.resumed += kept.exists()
        process = subprocess.Popen(
            kind.command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # a start that finds nothing new before the next kill would go on for ever: at least that long
        until = None if kills == 0 else draw.uniform(0, max(longest, 8.0))
        try:
            _, errors = process.communicate(timeout=until)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills -= 1
            outcome.kills += 1
            if kept.exists():
                check = cells if name == "coverage" else boxes
                try:
                    before, faults = check(kept, net, before)
                except (OSError, ValueError, KeyError) as error:
                    faults = [f"the checkpoint cannot be read: {error}"]
                outcome.faults += [f"kill {outcome.kills}: {fault}" for fault in faults]
            print(f"{name}: kill {outcome.kills}, {before.boxes} boxes, {before.settled:.4f} closed", file=sys.stderr)
            outcome.left_over += sum(1 for part in folder.glob(".secateur-*"))
            for part in folder.glob(".secateur-*"):
                part.unlink()
            continue
        if process.returncode:
            outcome.faults.append(f"exit code {process.returncode}: {errors.decode()[-300:]}")
        return


def boxes(kept: Path, net: Net, before: Before) -> tuple[Before, list[str]]:
    """What is wrong with a checkpoint of `verify`, after the one before it."""
    with np.load(kept, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    tally = json.loads(arrays.pop("about").tobytes())["tally"]
    now, faults, count = Before(tally["boxes"], tally["settled"], arrays), [], len(arrays["query"])
    total = tally["settled"] + tally["stuck_share"] + float(arrays["share"].sum())
    if abs(total - 1) > 1e-9:
        faults.append(f"closed and open volume are {total!r}")
    # one root; a box is split in two or is a leaf: boxes = splits + leaves, open = 1 + splits - leaves
    if (now.boxes + count) % 2 == 0 or count > now.boxes + 1:
        faults.append(f"{now.boxes} boxes cannot leave {count} open")
    if tally["stuck"]:
        faults.append(f"{tally['stuck']} boxes were given up")
    if now.boxes < before.boxes or now.settled < before.settled:
        faults.append(f"{now.boxes} boxes, {now.settled} settled, after {before.boxes} and {before.settled}")
    x = np.random.default_rng(now.boxes).uniform(-1, 1, (POINTS, net.inputs))
    inside = holders(arrays, net, x)
    if inside.max() > 1:
        faults.append(f"a point in {inside.max()} open boxes")
    if before.arrays and (holders(before.arrays, net, x) < inside).any():
        faults.append("a point is open again that was not")
    centre = (arrays["lower"] + arrays["upper"]) / 2
    if before.arrays and not arrays["signs"].shape[1]:
        # of boxes alone every one has to lie within one of those before, which are disjoint
        for part in np.array_split(np.arange(count), max(1, count // 256)):
            low, high = arrays["lower"][part][:, None], arrays["upper"][part][:, None]
            within = (low >= before.arrays["lower"]).all(2) & (high <= before.arrays["upper"]).all(2)
            if (within.sum(1) != 1).any():
                faults.append(
                    f"{int((within.sum(1) != 1).sum())} open boxes within none of those before, or in several"
                )
        if (holders(arrays, net, centre[:POINTS]) != 1).any():
            faults.append("boxes that overlap")
    return now, faults


def holders(arrays: dict[str, np.ndarray], net: Net, x: np.ndarray) -> np.ndarray:
    """In how many open boxes each of the points (M, n) lies."""
    count, arguments = np.zeros(len(x), np.int64), net(x)[1]
    for lower, upper, signs in zip(arrays["lower"], arrays["upper"], arrays["signs"], strict=True):
        inside, decided = (x >= lower).all(1) & (x <= upper).all(1), signs[signs != 0]
        if len(decided):
            inside &= (arguments[:, np.abs(decided) - 1] * np.sign(decided) >= 0).all(1)
        count += inside
    return count


def cells(kept: Path, net: Net, before: Before) -> tuple[Before, list[str]]:
    """What is wrong with a checkpoint of `secateur coverage`, after the one before it."""
    with np.load(kept, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    level, index, status = (arrays[key].astype(np.int64) for key in ("level", "index", "status"))
    volume, faults = np.ldexp(1.0, -level.sum(1)), []
    now = Before(int(arrays["boxes"][0]), float(volume[status > 0].sum()), arrays)
    if volume.sum() != 1:  # exact: depths stay below the bits of a float64
        faults.append(f"the cells' volume is {volume.sum()!r}")
    if now.boxes < before.boxes:
        faults.append(f"{now.boxes} boxes after {before.boxes}")
    closed = closed_cells(arrays)
    if before.arrays and not closed_cells(before.arrays) <= closed:
        faults.append("a closed cell is not there any more")
    at = np.random.default_rng(now.boxes).random((POINTS, net.inputs))
    inside = np.zeros(POINTS, np.int64)
    for own, place in zip(level, index, strict=True):
        inside += (np.floor(np.ldexp(at, own)) == place).all(1)
    if (inside != 1).any():
        faults.append("a point in no cell, or in two")
    return now, faults


def closed_cells(arrays: dict[str, np.ndarray]) -> set[tuple[int, ...]]:
    """What is certified or refuted, and as what."""
    table = np.concatenate([arrays["level"], arrays["index"], arrays["status"][:, None]], 1).astype(np.int64)
    return set(map(tuple, table[arrays["status"] > 0].tolist()))


@dataclass(frozen=True)
class Answer:
    """How a search ended: `same` is what must not differ."""

    text: str
    boxes: int
    same: Any


def answer(name: str, folder: Path) -> Answer:
    """What a search has written at its end; the file is removed."""
    if name == "coverage":
        with np.load(folder / "result.npz", allow_pickle=False) as data:
            arrays = {key: data[key] for key in data.files}
        (folder / "result.npz").unlink()
        every = closed_cells(arrays)
        shares = [
            float(np.ldexp(1.0, -arrays["level"].sum(1, dtype=np.int64))[arrays["status"] == s].sum()) for s in (1, 2)
        ]
        text = f"{len(arrays['status'])} cells, certified {shares[0]:.6f}, refuted {shares[1]:.6f}"
        return Answer(text, int(arrays["boxes"][0]), frozenset(every))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    return Answer(result["verdict"], int(result["counters"]["boxes"]), result["verdict"])


def note(outcome: Outcome, found: Answer) -> None:
    outcome.answers.append(found.text)
    outcome.boxes.append(found.boxes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of all kinds together")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/kills.jsonl"))
    args = parser.parse_args()
    draw, left, bad = random.Random(args.seed), args.kills, 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as stream:
        for place, name in enumerate(args.only):
            count = left // (len(args.only) - place)
            left -= count
            outcome = measure(name, count, draw)
            stream.write(json.dumps(asdict(outcome)) + "\n")
            print(json.dumps(asdict(outcome)), flush=True)
            bad += len(outcome.faults)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
