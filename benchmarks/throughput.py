"""How many boxes per second each bound method takes, against plain inference of the same network on the same batch.

python -m benchmarks.throughput [MODEL.onnx ..] [--batch N] [--dtype float64] [--device cpu] [--json FILE]

Without a model it makes two: a fully connected one of ACAS Xu's shape (5 inputs, 6 layers of 50, 5 outputs) and a
convolutional one (1 x 16 x 16 image, two strided convolutions, 5 outputs) whose image is an affine map of two
parameters, as a brightness and contrast study has it. A model given has its first `--free` inputs varied around 0.5.

A time is the least of several runs, in CPU seconds of the process (wall seconds on a device that is not the CPU): on a
shared machine that is the figure that repeats. Memory is what PyTorch had allocated at most, less what it had before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from verifier.bounds.alpha import tighten
from verifier.bounds.backward import walk_back
from verifier.bounds.inputs import AffineMap, IdentityMap, InputMap, centre_radius
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.network import Network, build
from verifier.bounds.sweep import Method, sweep
from verifier.bounds.zonotope import Twin
from verifier.console.process import keep_freed_memory
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify

ALPHA_STEPS = 10


@dataclass(frozen=True, eq=False)
class Setting:
    """A network and a batch of boxes for it."""

    name: str
    network: Network
    lower: Tensor
    upper: Tensor
    query: Tensor
    inputs: InputMap
    graph: Graph


@dataclass(frozen=True)
class Line:
    """One method on one network; `ratio` is against inference, `bytes_per_box` the peak of what was allocated."""

    network: str
    method: str
    batch: int
    seconds: float
    boxes_per_second: float
    ratio: float
    bytes_per_box: float
    unstable_per_box: float


def _fully_connected(rng: np.random.Generator) -> Graph:
    nodes, shapes, value, width = [], {"x": (5,)}, "x", 5
    for i in range(7):
        out = 50 if i < 6 else 5
        name = f"z{i}" if i < 6 else "y"
        params = {"weight": rng.normal(size=(out, width)) * np.sqrt(2 / width), "bias": rng.normal(size=out) * 0.1}
        nodes.append(Node("Dense", (value,), name, params))
        shapes[name], value, width = (out,), name, out
        if i < 6:
            nodes.append(Node("Relu", (value,), f"a{i}"))
            shapes[f"a{i}"], value = (out,), f"a{i}"
    return Graph(("x",), ("y",), tuple(nodes), shapes)


def _convolutional(rng: np.random.Generator) -> Graph:
    nodes = [Node("Reshape", ("x",), "image")]
    shapes: dict[str, tuple[int, ...]] = {"x": (256,), "image": (1, 1, 16, 16)}
    value, channels, size = "image", 1, 16
    for i, out in enumerate((8, 16)):
        size //= 2
        weight = rng.normal(size=(out, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        attrs: dict[str, int | tuple[int, ...]] = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        params = {"weight": weight, "bias": rng.normal(size=out) * 0.1}
        nodes += [Node("Conv", (value,), f"c{i}", params, attrs), Node("Relu", (f"c{i}",), f"r{i}")]
        shapes[f"c{i}"] = shapes[f"r{i}"] = (1, out, size, size)
        value, channels = f"r{i}", out
    flat, hidden = channels * size * size, 32
    nodes.append(Node("Reshape", (value,), "flat"))
    first = {"weight": rng.normal(size=(hidden, flat)) / np.sqrt(flat / 2), "bias": rng.normal(size=hidden) * 0.1}
    last = {"weight": rng.normal(size=(5, hidden)) / np.sqrt(hidden), "bias": np.zeros(5)}
    nodes += [Node("Dense", ("flat",), "h", first), Node("Relu", ("h",), "rh"), Node("Dense", ("rh",), "y", last)]
    shapes |= {"flat": (flat,), "h": (hidden,), "rh": (hidden,), "y": (5,)}
    return Graph(("x",), ("y",), tuple(nodes), shapes)


def _boxes(n: int, batch: int, width: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centre = (torch.rand(batch, n, generator=generator, dtype=torch.float64) - 0.5).to(device, dtype)
    return centre - width / 2, centre + width / 2


def settings(models: list[Path], batch: int, free: int, dtype: torch.dtype, device: torch.device) -> list[Setting]:
    """The networks to measure, each with its boxes."""
    rng = np.random.default_rng(0)
    query = torch.zeros(batch, dtype=torch.int64, device=device)
    if not models:
        graphs = _fully_connected(rng), _convolutional(rng)
        dense, image = (build(graph, dtype, device) for graph in graphs)
        identity = IdentityMap(torch.arange(5, device=device)[None])
        picture = torch.from_numpy(rng.random((1, 256))).to(device, dtype)
        ramp = torch.stack([picture, torch.ones_like(picture)], 2)
        return [
            Setting("mlp 6x50", dense, *_boxes(5, batch, 0.1, dtype, device), query, identity, graphs[0]),
            Setting(
                "conv 16x16", image, *_boxes(2, batch, 0.05, dtype, device), query, AffineMap(picture, ramp), graphs[1]
            ),
        ]
    found = []
    for path in models:
        graph = simplify(flatten_io(load_model(path).graph))
        network = build(graph, dtype, device)
        some = min(free, network.n)
        lower, upper = (torch.full((batch, network.n), 0.5, dtype=dtype, device=device) for _ in range(2))
        low, high = _boxes(some, batch, 0.05, dtype, device)
        lower[:, :some] += low
        upper[:, :some] += high
        found.append(
            Setting(
                path.name, network, lower, upper, query, IdentityMap(torch.arange(some, device=device)[None]), graph
            )
        )
    return found


def _lumped(s: Setting, prepared: Prepared) -> tuple[Source, Tensor, Tensor]:
    """The setting's input map over the inputs that vary, and the boxes as centres and radii."""
    lower, upper = s.lower.double(), s.upper.double()
    if isinstance(s.inputs, AffineMap):
        offset, matrix = s.inputs.offset.double(), s.inputs.matrix.double().transpose(1, 2)
    else:
        free = s.inputs.free[0]
        offset, eye = lower[:1].clone(), torch.eye(s.network.n, dtype=torch.float64, device=lower.device)
        offset[:, free], matrix = 0.0, eye[free][None]
        lower, upper = lower[:, free], upper[:, free]
    return Source.of(offset, matrix, prepared.twin.fast.dtype), *centre_radius(lower, upper)


def methods(s: Setting) -> dict[str, Callable[[], object]]:
    """What is measured, as calls without arguments."""
    where = s.network, s.lower, s.upper, s.query, s.inputs
    known = sweep(*where, Method())
    batch, outputs = len(s.lower), s.network.m
    eye = torch.eye(outputs, dtype=s.network.dtype, device=s.network.device)
    rows = eye.expand(batch, outputs, outputs).reshape(batch, outputs, *s.network.shapes[s.network.output])
    bias = rows.new_zeros(batch, outputs)
    prepared = Prepared.of(Twin.of(s.graph, s.network.device))
    source, centre, radius = _lumped(s, prepared)
    points = s.inputs.point((s.lower + s.upper) / 2, s.query)
    return {
        "inference": lambda: s.network.forward(points),
        "affine, lumped, float32": lambda: sweep_lumped(prepared, source, centre, radius, s.query),
        "interval": lambda: sweep(*where, Method(affine=False)),
        "affine": lambda: sweep(*where, Method(attribute=False)),
        "affine, attributed": lambda: sweep(*where, Method()),
        "affine + rows": lambda: sweep(*where, Method(rows=True)),
        f"backward, {outputs} rows": lambda: walk_back(s.network, s.network.output, rows, bias, known.relaxations),
        f"alpha, {outputs} rows, {ALPHA_STEPS} steps": lambda: tighten(*where, known, rows, bias, ALPHA_STEPS),
    }


def least_seconds(call: Callable[[], object], device: torch.device, rounds: int, at_least: float = 0.05) -> float:
    """Least time of one call over `rounds`, each repeated until it takes `at_least` seconds."""

    def spent(count: int) -> float:
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        start = clock()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (clock() - start) / count

    count = max(1, int(at_least / max(spent(1), 1e-6)))
    return min(spent(count) for _ in range(rounds))


def peak_bytes(call: Callable[[], object], device: torch.device) -> float:
    """Most bytes that were allocated at once during a call, by PyTorch's own count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    level = peak = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return float(peak)


def measure(s: Setting, rounds: int) -> list[Line]:
    """All methods on one network, inference first."""
    lines: list[Line] = []
    batch, device = len(s.lower), s.network.device
    unstable = float(sweep(s.network, s.lower, s.upper, s.query, s.inputs, Method()).unstable.double().mean())
    for name, call in methods(s).items():
        call()
        seconds = least_seconds(call, device, rounds)
        base = lines[0].seconds if lines else seconds
        memory = peak_bytes(call, device) / batch
        lines.append(Line(s.name, name, batch, seconds, batch / seconds, seconds / base, memory, unstable))
    return lines


def table(lines: list[Line]) -> str:
    """The figures as Markdown."""
    rows = [
        f"| {x.network} | {x.method} | {x.boxes_per_second:,.0f} | {x.ratio:.1f} | {x.bytes_per_box / 1024:.1f} |"
        for x in lines
    ]
    head = [
        "| network | method | boxes per second | against inference | KiB per box |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--free", type=int, default=5, help="inputs of a given model that vary")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_freed_memory()  # as the commands do; without it page faults are a third of the time
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    lines = [x for s in settings(args.models, args.batch, args.free, dtype, device) for x in measure(s, args.rounds)]
    print(table(lines))
    if args.json:
        record = {"batch": args.batch, "dtype": args.dtype, "device": args.device, "threads": args.threads,
                  "torch": torch.__version__, "lines": [asdict(x) for x in lines]}  # fmt: skip
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
