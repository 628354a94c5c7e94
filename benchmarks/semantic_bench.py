"""Measures the semantic searches on the shipped network (or another): verdicts, bounds, coverage, one pair, soundness.

    python -m benchmarks.semantic_bench --part verdicts coverage --images 100 --threads 2 --out out/semantic.json

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
from verifier import process
from verifier.budget import Budget
from verifier.data import networks
from verifier.semantic import Coordinates, Perturbation, Range, Study, network, prepare, sources
from verifier.semantic.coverage_search import CERTIFIED, OPEN, Limits, audit, cover
from verifier.semantic.family import bound_cells, from_studies
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
        family = from_studies(self.studies([1.0] * count), CPU)
        side = torch.linspace(0, 1, 41, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side)
        with torch.no_grad():
            self.worst = [
                1.0 - min(float(family.margins(part, torch.full((len(part),), q)).min()) for part in points.split(256))
                for q in range(count)
                for points in [family.lower[q] + grid * (family.upper[q] - family.lower[q])]
            ]

    def studies(self, tolerances: list[float]) -> list[Study]:
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
    family = from_studies(images.studies([f * w for f, w in zip(used, images.worst, strict=True)]), CPU)
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
    """Cost of bounding a batch of boxes of 1/8, 1/16 and 1/32 of the side, against inference of the same batch."""
    family = from_studies(images.studies(images.worst), CPU)
    found: dict[str, object] = {}
    draw = np.random.default_rng(0)
    for parts in (8, 16, 32):
        for batch in (8, 32):
            query = torch.arange(batch) % family.members
            width = (family.upper - family.lower)[query] / parts
            lower = family.lower[query] + width * torch.from_numpy(draw.integers(parts, size=(batch, 2)))
            points = family.points(lower, query)
            cost = {
                "bounds": lambda at=(lower, lower + width, query): bound_cells(family, *at),
                "float32": lambda x=points: family.twin.fast.forward(x),
                "float64": lambda x=points: family.twin.exact.forward(x.double()),
            }
            with torch.no_grad():
                us = {name: _each(work) / batch * 1e6 for name, work in cost.items()}
            found[f"1/{parts}, batch {batch}"] = {
                "us_per_box": us["bounds"],
                "times_float32_inference": us["bounds"] / us["float32"],
                "times_float64_inference": us["bounds"] / us["float64"],
            }
    return found


def _each(work: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU seconds of one call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def coverage(images: Images, factors: tuple[float, ...], share: float) -> dict[str, object]:
    used = [factors[i % len(factors)] for i in range(len(images.worst))]
    family = from_studies(images.studies([f * w for f, w in zip(used, images.worst, strict=True)]), CPU)
    state, cost = measured(lambda: cover(family, Limits(share), Budget()))
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
        for number, study in enumerate(images.studies([factor * w for w in images.worst])[:3]):
            files[f"image {number}"] = model, spec = Path(folder) / f"{number}.onnx", Path(folder) / f"{number}.vnnlib"
            model.write_bytes(study.model().SerializeToString())
            spec.write_text(study.spec())
        runs = {name: [_process(*both) for _ in range(rounds)] for name, both in files.items()}
    least = {name: {k: min(r[k] for r in mine) for k in ("wall_s", "cpu_s")} for name, mine in runs.items()}
    base = least["start-up"]
    for name, found in least.items():
        found |= {f"{k[:-2]}_above_start_up_s": found[k] - base[k] for k in ("wall_s", "cpu_s") if name != "start-up"}
    return {name: {"verdict": runs[name][0]["verdict"], **found} for name, found in least.items()}


def _process(model: Path, spec: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "verifier.cli", str(model), str(spec), "--timeout", "60"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"verdict": done.stdout.split()[0], "wall_s": wall, "cpu_s": cpu}


def soundness(images: Images, factors: tuple[float, ...], samples: int) -> dict[str, object]:
    """`samples` points per image inside certified cells, as many inside refuted ones; raises on a contradiction."""
    used = [factors[i % len(factors)] for i in range(len(images.worst))]
    family = from_studies(images.studies([f * w for f, w in zip(used, images.worst, strict=True)]), CPU)
    state = cover(family, Limits(0.01), Budget())
    audit(family, state, samples)
    return {"images": len(used), "samples_per_image": samples, "contradictions": 0}


def main() -> int:
    """Runs the parts asked for and prints (or writes) JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cnn7_w8", help="name of a shipped network, or an ONNX file")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    process.keep_freed_memory()
    torch.set_num_threads(options.threads)
    images = Images(options.network, options.images)
    parts: dict[str, Callable[[], object]] = {
        "verdicts": lambda: verdicts(images, FACTORS, 60.0),
        "close": lambda: verdicts(images, (0.999, 1.001), 60.0),
        "bounds": lambda: bounds(images),
        "coverage": lambda: [coverage(images, (0.7, 0.85, 0.95, 1.05), share) for share in (0.01, 0.001)],
        "pair": lambda: pair(images),
        "soundness": lambda: soundness(images, (0.7, 0.85, 0.95, 1.05), options.samples),
    }
    found: dict[str, object] = {"network": options.network, "threads": options.threads, "images": options.images}
    for name in options.part:
        found[name] = parts[name]()
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
