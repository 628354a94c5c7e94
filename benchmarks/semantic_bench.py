"""Measures the semantic searches on the shipped network (or another): verdicts, bounds, coverage, one pair, soundness.

    python -m benchmarks.semantic_bench --part verdicts coverage --images 100 --threads 2 --out out/semantic.json
    python -m benchmarks.semantic_bench --part soundness --images 50 --per-image 8 --network cnn7_w8 resnet8_w8.onnx

Wall and CPU seconds are both reported: on a shared machine only CPU seconds mean something.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.demo import NEAR_AND_FAST, write_network
from benchmarks.semantic_soundness import LEVELS, check
from verifier.bounds.inputs import centre_radius
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.zonotope import EXACT
from verifier.budget import Budget
from verifier.console import process
from verifier.data import networks
from verifier.ops.kinds import Interval
from verifier.semantic import Coordinates, Perturbation, Range, SemanticProblem, network, prepare, sources
from verifier.semantic.coverage_search import CERTIFIED, OPEN, CoverageLimits, cover
from verifier.semantic.family import Family, bound_cells, from_problems
from verifier.semantic.many import verify_family

PARTS = ("verdicts", "close", "bounds", "coverage", "pair", "soundness")
MEDIUM = Perturbation((Range("contrast", 0.8, 1.2), Range("brightness", -0.1, 0.1)))
FACTORS = (0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5)
CPU = torch.device("cpu")


class Images:
    """The first test images, with the worst key point error of each on a grid of 41 x 41 points."""

    def __init__(self, name: str, count: int) -> None:
        path = networks.path(name) if name in networks.names() else Path(name)
        self.net = network.load(path)
        self.examples = sources.rendered(self.net, "test", 0, count)
        family = from_problems(self.problems([1.0] * count), CPU)
        side = torch.linspace(0, 1, 41, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side)
        with torch.no_grad():
            self.worst = [
                1.0 - min(float(family.margins(part, torch.full((len(part),), q)).min()) for part in points.split(256))
                for q in range(count)
                for points in [family.lower[q] + grid * (family.upper[q] - family.lower[q])]
            ]

    def problems(self, tolerances: list[float]) -> list[SemanticProblem]:
        return [
            prepare(self.net, e.image, e.target, MEDIUM, Coordinates(t))
            for e, t in zip(self.examples, tolerances, strict=True)
        ]


def measured(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    wall, cpu = time.monotonic(), time.process_time()
    found = work()
    return found, {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}


def verdicts(images: Images, factors: tuple[float, ...], limit: float) -> dict[str, object]:
    """Image i gets factor i mod len(factors) times its sampled worst error as tolerance."""
    used = [factors[i % len(factors)] for i in range(len(images.worst))]
    family = from_problems(images.problems([f * w for f, w in zip(used, images.worst, strict=True)]), CPU)
    results, cost = measured(lambda: verify_family(family, Budget(), per_image=limit))
    seconds = np.array([r.seconds for r in results])  # type: ignore[attr-defined]
    words = [r.verdict.value for r in results]  # type: ignore[attr-defined]
    return {
        **cost,
        "images": len(used),
        "verdicts": {word: words.count(word) for word in sorted(set(words))},
        "median_s": float(np.median(seconds)),
        "worst_s": float(seconds.max()),
        "median_s_by_factor": {
            str(f): float(np.median(seconds[[i for i, u in enumerate(used) if u == f]])) for f in factors[: len(used)]
        },
        "median_boxes": float(np.median([r.counters["boxes"] for r in results])),  # type: ignore[attr-defined]
    }


def bounds(images: Images) -> dict[str, object]:
    """Cost of bounding a batch of boxes of 1/8, 1/16 and 1/32 of the side, against inference of the same batch.

    By zonotopes, the search's method, in its small batches, and by affine forms with lumped noise, the cheapest method.
    """
    family = from_problems(images.problems(images.worst), CPU)
    found: dict[str, object] = {}
    draw = np.random.default_rng(0)
    prepared = Prepared.of(family.twin)
    source = Source.of(family.image.offset, family.image.matrix, family.twin.fast.dtype)
    for parts in (8, 16, 32):
        for batch, lumped in ((8, False), (32, False), (64, True), (256, True)):
            query = torch.arange(batch) % family.members
            width = (family.upper - family.lower)[query] / parts
            lower = family.lower[query] + width * torch.from_numpy(draw.integers(parts, size=(batch, 2)))
            points = family.image.points(lower, query).to(family.twin.fast.dtype)
            at = (lower, lower + width, query)
            cost = {
                "bounds": (lambda at=at: _lumped(family, prepared, source, *at))
                if lumped
                else (lambda at=at: bound_cells(family, *at)),
                "float32": lambda x=points: family.twin.fast.forward(x),
                "float64": lambda x=points: family.twin.exact.forward(x.double()),
            }
            with torch.no_grad():
                us = {name: _each(work) / batch * 1e6 for name, work in cost.items()}
            found[f"{'lumped' if lumped else 'zonotopes'}, 1/{parts}, batch {batch}"] = {
                "us_per_box": us["bounds"],
                "times_float32_inference": us["bounds"] / us["float32"],
                "times_float64_inference": us["bounds"] / us["float64"],
            }
    return found


def _lumped(
    family: Family, prepared: Prepared, source: Source, lower: torch.Tensor, upper: torch.Tensor, query: torch.Tensor
) -> Interval:
    """Bounds of all outputs of the shared network, (B, m) each."""
    assert family.slack is None
    centre, radius = centre_radius(lower, upper)
    return sweep_lumped(prepared, source, centre, radius * (1 + 4 * EXACT), query).interval()


def _each(work: Callable[[], object], repeats: int = 9) -> float:
    """Least wall seconds of one call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def coverage(images: Images, factors: tuple[float, ...], share: float, limit: float) -> dict[str, object]:
    used = [factors[i % len(factors)] for i in range(len(images.worst))]
    family = from_problems(images.problems([f * w for f, w in zip(used, images.worst, strict=True)]), CPU)
    state, cost = measured(lambda: cover(family, CoverageLimits(share, limit), Budget()))
    return {
        **cost,
        "open_share": share,
        "median_s": float(np.median(state.seconds)),  # type: ignore[attr-defined]
        "worst_s": float(state.seconds.max()),  # type: ignore[attr-defined]
        "mean_certified": float(state.shares(CERTIFIED).mean()),  # type: ignore[attr-defined]
        "largest_open": float(state.shares(OPEN).max()),  # type: ignore[attr-defined]
    }


def pair(images: Images, factor: float = 1.2, rounds: int = 3) -> dict[str, object]:
    """`verify` as a process of its own on generated files, and its start-up on a property that needs no search.

    Least seconds of some rounds, the pairs and the start-up in turns; CPU seconds are of all threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {"start-up": (Path(folder) / "demo.onnx", Path(folder) / "demo.vnnlib")}
        write_network(files["start-up"][0])
        files["start-up"][1].write_text(NEAR_AND_FAST)
        for number, problem in enumerate(images.problems([factor * w for w in images.worst])[:3]):
            files[f"image {number}"] = model, spec = Path(folder) / f"{number}.onnx", Path(folder) / f"{number}.vnnlib"
            model.write_bytes(problem.model().SerializeToString())
            spec.write_text(problem.spec())
        runs = {name: [_process(*both) for _ in range(rounds)] for name, both in files.items()}
    least = {name: {k: min(r[k] for r in mine) for k in ("wall_s", "cpu_s")} for name, mine in runs.items()}
    base = least["start-up"]
    for name, found in least.items():
        found |= {f"{k[:-2]}_above_start_up_s": found[k] - base[k] for k in ("wall_s", "cpu_s") if name != "start-up"}
    return {name: {"verdict": runs[name][0]["verdict"], **found} for name, found in least.items()}


def _process(model: Path, spec: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "verifier.command.verify", str(model), str(spec), "--timeout", "60"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"verdict": done.stdout.split()[0], "wall_s": wall, "cpu_s": cpu}


def main() -> int:
    """Runs the parts asked for and prints (or writes) JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--network", nargs="+", default=["cnn7_w8"], help="shipped networks or ONNX files, one after the other"
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=10_000, help="points per image, for soundness")
    parser.add_argument("--per-image", type=float, default=60.0, help="seconds per image, for all but bounds and pair")
    parser.add_argument("--level", choices=tuple(LEVELS), default="medium", help="ranges, for soundness")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    process.keep_freed_memory()
    torch.set_num_threads(options.threads)
    found = [_measure(name, options) for name in options.network]
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found if len(found) > 1 else found[0], indent=1) + "\n")
    return 0


def _measure(name: str, options: argparse.Namespace) -> dict[str, object]:
    """All parts asked for, of one network; the pictures are rendered when a part needs them."""
    made: list[Images] = []

    def images() -> Images:
        if not made:
            made.append(Images(name, options.images))
        return made[0]

    limit = options.per_image
    parts: dict[str, Callable[[], object]] = {
        "verdicts": lambda: verdicts(images(), FACTORS, limit),
        "close": lambda: verdicts(images(), (0.999, 1.001), limit),
        "bounds": lambda: bounds(images()),
        "coverage": lambda: [coverage(images(), (0.7, 0.85, 0.95, 1.05), share, limit) for share in (0.01, 0.001)],
        "pair": lambda: pair(images()),
        "soundness": lambda: check(name, options.images, options.samples, limit, options.level),
    }
    found: dict[str, object] = {"network": name, "threads": options.threads, "images": options.images}
    for part in options.part:
        found[part] = parts[part]()
        print(json.dumps({"network": name, part: found[part]}, indent=1), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
