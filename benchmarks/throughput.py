"""What a bound costs: boxes per second and memory per box of each method, beside plain inference of the same batch.

    python -m benchmarks.throughput [--batch 64 512]              an ACAS-Xu-shaped network, a convolutional one
    python -m benchmarks.throughput --model M --spec S            another problem

Boxes are random sub-boxes of the specification's set, a sixteenth of its width. Every line is measured in a process of
its own. The one script here that looks inside the tool: it calls the forward sweep of `verifier/bounds/bounder.py`,
which bounds every intermediate value and the output. Methods: interval arithmetic; `forward`, affine forms with one
error radius; `attributed`, with a radius per input; `crown`, that and backward rows for neurons that are not affine on
the box.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

METHODS = ("inference", "interval", "forward", "attributed", "crown")
SECONDS = 1.5


def measure(model: Path, spec: Path, method: str, batch: int) -> dict[str, float]:
    """Seconds per box (or point) and bytes per box above what inference needs."""
    import torch

    import vnnlib
    from verifier import load
    from verifier.assemble import assemble
    from verifier.bounds.bounder import Method, never, sweep
    from verifier.bounds.network import build
    from verifier.inputs import IdentityMap
    from verifier.process import keep_freed_memory

    keep_freed_memory()
    problem = assemble(load(model), vnnlib.normalise(vnnlib.load(spec)))
    network = build(problem.graph, torch.float64, torch.device("cpu"))
    draw = np.random.default_rng(0)
    query = draw.integers(problem.queries, size=batch)
    width = problem.upper[query] - problem.lower[query]
    start = problem.lower[query] + draw.random(width.shape) * width * 15 / 16
    lower, upper, owner = (torch.from_numpy(a) for a in (start, start + width / 16, query))
    inputs = IdentityMap(torch.from_numpy(problem.free))
    how = Method(affine=method != "interval", attribute=method != "forward", rows=method == "crown")

    def bounds() -> object:
        return sweep(network, lower, upper, owner, inputs, how, never)

    work: Callable[[], object] = (lambda: network.forward(lower)) if method == "inference" else bounds
    with torch.no_grad():
        network.forward(lower)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / batch
        times = []
        until = time.perf_counter() + SECONDS
        while len(times) < 3 or time.perf_counter() < until:
            at = time.perf_counter()
            work()
            times.append(time.perf_counter() - at)
    return {"seconds": float(np.median(times)) / batch, "bytes": memory, "inputs": inputs.generators}


def acas_shaped(folder: Path) -> tuple[Path, Path]:
    """5 inputs, 6 layers of 50 ReLU neurons, 5 outputs, random weights; the set is the whole input domain."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw, nodes, constants, value, width = np.random.default_rng(1), [], [], "x", 5
    for k in range(7):
        size = 50 if k < 6 else 5
        for name, array in (("w", draw.normal(size=(width, size)) * (2 / width) ** 0.5), ("b", draw.normal(size=size))):
            constants.append(numpy_helper.from_array(array.astype(np.float32), f"{name}{k}"))
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [f"s{k}" if k < 6 else "y"]))
        if k < 6:
            nodes.append(helper.make_node("Relu", [f"s{k}"], [f"h{k}"]))
        value, width = f"h{k}", size
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in "xy"]
    graph = helper.make_graph(nodes, "acas", ends[:1], ends[1:], constants)
    model, spec = folder / "acas.onnx", folder / "acas.vnnlib"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(model))
    lines = [f"(declare-const {letter}_{i} Real)" for letter in "XY" for i in range(5)]
    lines += [f"(assert (>= X_{i} -0.5)) (assert (<= X_{i} 0.5))" for i in range(5)]
    spec.write_text("\n".join([*lines, "(assert (>= Y_0 1000.0))"]))
    return model, spec


def convolutional(folder: Path) -> tuple[Path, Path]:
    """The shipped key point network behind contrast and brightness: two free inputs."""
    from verifier.umbrella import main as secateur

    arguments = ["cnn7_w8", "--image", "aircraft23:test:0", "--contrast", "0.8,1.2", "--brightness", "-0.1,0.1"]
    with contextlib.redirect_stdout(sys.stderr):
        code = secateur(["spec", *arguments, "--tolerance", "3", "--out", str(folder / "cnn")])
    if code != 0:
        raise SystemExit("error: secateur spec failed")
    return folder / "cnn.onnx", folder / "cnn.vnnlib"


def apart(model: Path, spec: Path, method: str, batch: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--model", str(model), "--spec", str(spec)]
    done = subprocess.run([*command, "--batch", str(batch), "--one", method], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}error: {method} on {model} ended with exit code {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--one", choices=METHODS, help="only this method of --model and --spec, as a JSON line")
    args = parser.parse_args()
    if (args.model is None) != (args.spec is None) or (args.one and args.model is None):
        parser.error("--model and --spec belong together")
    if args.one:
        print(json.dumps(measure(args.model, args.spec, args.one, args.batch[0])))
        return 0
    print("| network | batch | method | us per box | times inference | boxes/s | KB per box |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        own = args.model is not None
        problems = [(args.model, args.spec)] if own else [make(Path(name)) for make in (acas_shaped, convolutional)]
        for model, spec in problems:
            for batch in args.batch:
                rows = [apart(model, spec, method, batch) for method in METHODS]
                for method, found in zip(METHODS, rows, strict=True):
                    each, ratio = found["seconds"], found["seconds"] / rows[0]["seconds"]
                    title = f"| {model.stem}, {found['inputs']} free inputs | {batch} | {method} "
                    print(title + f"| {each * 1e6:.1f} | {ratio:.1f} | {1 / each:,.0f} | {found['bytes'] / 1024:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
