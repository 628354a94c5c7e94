"""Measure the specification parser on generated files of the shapes that competitions use.

Usage: python benchmarks/vnnlib_bench.py [SHAPE ..] [--repeat N] [--keep DIRECTORY]
Each shape runs in its own process: `load` and `normalise`, time of the best of N runs and peak memory of the process
(Python and numpy included), next to the target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Lines = Iterator[str]
MANY = 500  # files of the many-small-files shape


def declarations(inputs: int, outputs: int) -> Lines:
    for letter, count in (("X", inputs), ("Y", outputs)):
        yield "".join(f"(declare-const {letter}_{i} Real)\n" for i in range(count))


def box(values: np.ndarray) -> Lines:
    for start in range(0, len(values), 10_000):
        part = enumerate(values[start : start + 10_000].tolist(), start)
        yield "".join(f"(assert (<= X_{i} {v + 0.01:.8f}))\n(assert (>= X_{i} {v:.8f}))\n\n" for i, v in part)


def image(rng: np.random.Generator, inputs: int, outputs: int) -> Lines:
    """Box, and `some other class wins`."""
    yield "; generated\n"
    yield from declarations(inputs, outputs)
    yield "; bounds\n"
    yield from box(rng.random(inputs))
    yield "(assert (or\n" + "".join(f"    (and (>= Y_{j} Y_0))\n" for j in range(1, outputs)) + "))\n"


def large_image(rng: np.random.Generator) -> Lines:
    yield from declarations(150_528, 1000)
    yield from box(rng.random(150_528))
    yield "(assert (>= Y_1 Y_0))\n"


def many_outputs(rng: np.random.Generator) -> Lines:
    yield from declarations(8112, 21_125)
    yield from box(rng.random(8112))
    yield "".join(f"(assert (<= Y_{j} {v:.6f}))\n" for j, v in enumerate(rng.random(21_125).tolist()))


def intervals(rng: np.random.Generator, boxes: int) -> Lines:
    """One input; two disjuncts per box."""
    yield from declarations(1, 1)
    yield "(assert (or\n"
    edges = np.sort(rng.random(boxes + 1)) * 10
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        both = f"    (and (>= X_0 {low:.17g}) (<= X_0 {high:.17g})"
        yield f"{both} (<= Y_0 {low:.17g}))\n{both} (>= Y_0 {high:.17g}))\n"
    yield "))\n"


def cardinality(rng: np.random.Generator, disjuncts: int) -> Lines:
    """308 inputs, nearly all fixed; each disjunct restates all bounds on one line."""
    yield from declarations(308, 1)
    yield "(assert (or\n"
    for _ in range(disjuncts):
        low = np.where(rng.random(308) < 0.7, 0.0, rng.random(308).round(4))
        text = " ".join(f"(<= X_{i} {v}) (>= X_{i} {v})" for i, v in enumerate(low.tolist()))
        yield f"    (and {text} (<= Y_0 {rng.random():.6f}))\n"
    yield "))\n"


def small(rng: np.random.Generator) -> Lines:
    yield "; sentence\n\n"
    yield from declarations(30, 2)
    yield from box(rng.standard_normal(30))
    yield "; output\n(assert (<= Y_0 Y_1))"


def multimodal(rng: np.random.Generator) -> Lines:
    """Version 2.0, two inputs of 1.27 million elements together, the second one pinned."""
    yield "(vnnlib-version <2.0>)\n(declare-network N\n  (declare-input A float32 [1,80,800])\n"
    yield "  (declare-input V float32 [1,3,32,112,112])\n  (declare-output Y float32 [1,1]))\n"
    audio = rng.random((80, 800))
    for i in range(80):
        names = [f"A[0,{i},{j}] {v:.6f}" for j, v in enumerate(audio[i].tolist())]
        yield "".join(f"(assert (>= {t}))\n(assert (<= {t}))\n" for t in names)
    for index in np.ndindex(3, 32, 112):
        row = ",".join(map(str, index))
        values = enumerate(rng.random(112).tolist())
        yield "".join(
            f"(assert (>= V[0,{row},{k}] {v:.8f}))\n(assert (<= V[0,{row},{k}] {v:.8f}))\n" for k, v in values
        )
    yield "(assert (<= Y[0,0] 0.5))\n"


SHAPES: dict[str, tuple[Callable[[np.random.Generator], Lines], float, float | None]] = {
    "image100": (lambda rng: image(rng, 3072, 100), 0.1, None),
    "image200": (lambda rng: image(rng, 9408, 200), 0.1, None),
    "many_outputs": (many_outputs, 0.1, None),
    "large_image": (large_image, 0.8, None),
    "intervals": (lambda rng: intervals(rng, 60_000), 1.5, None),
    "cardinality_960": (lambda rng: cardinality(rng, 960), 0.5, None),
    "cardinality_11080": (lambda rng: cardinality(rng, 11_080), 5.0, 300.0),
    "small_file": (small, 0.0003, None),
    "multimodal_2.0": (multimodal, 8.0, None),
}


def measure(path: Path, repeat: int) -> dict[str, float | str]:
    """Load and normalise the file `repeat` times in this process; best time, peak memory, and what was found."""
    import resource

    import vnnlib

    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        spec = vnnlib.load(path)
        form = vnnlib.normalise(spec)
        times.append(time.perf_counter() - start)
        found = f"{form.n_inputs} in, {form.n_outputs} out, {form.n_clauses} clauses, {form.n_cases} boxes"
        del spec, form
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(times), "peak": peak, "found": found}


def import_time() -> float:
    """Seconds that `import vnnlib` takes after numpy, best of five processes."""
    code = "import time, numpy; t = time.perf_counter(); import vnnlib; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return min(float(run.stdout) for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="directory for the generated files, used again if they are there")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.repeat)))
        return 0
    print(f"import after numpy: {import_time() * 1000:.0f} ms (target 50 ms)")
    print("| shape | MB | found | seconds | target | peak MB | target |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.shapes:
            make, seconds, memory = SHAPES[name]
            path = (options.keep or Path(scratch)) / f"{name}.vnnlib"
            if not path.exists():
                with path.open("w") as handle:
                    handle.writelines(make(np.random.default_rng(0)))
            repeat = MANY if name == "small_file" else options.repeat
            command = [sys.executable, __file__, "--measure", str(path), "--repeat", str(repeat)]
            run = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            size, target = path.stat().st_size / 1e6, f"{memory:.0f}" if memory else "-"
            cells = (name, f"{size:.3g}", run["found"], f"{run['seconds']:.3g}", f"{seconds:g}", f"{run['peak']:.0f}")
            print("| " + " | ".join((*cells, target)) + " |", flush=True)
            if options.keep is None:
                path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
