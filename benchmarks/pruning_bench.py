"""Cost of pruning, and error against ratio for every criterion.

    python -m benchmarks.pruning_bench cost        scoring cost in inference passes; surgery on 10 M parameters
    python -m benchmarks.pruning_bench errors --networks A.onnx B.onnx C.onnx
                                                   clean error against ratio on aircraft23; can be stopped and resumed
    python -m benchmarks.pruning_bench verdicts --vnncomp DIR
                                                   `verify` on pruned networks: witnesses replayed, unsat sampled
    python -m benchmarks.pruning_bench equality [--vnncomp DIR]
                                                   pruned = masked: 200 random graphs, four opsets; or given networks

Every figure is one JSON line on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import pruning
from benchmarks import pruning_equality
from pruning import Calibration, Perturbation, onnx_io
from pruning.calibration import Activations

VERDICTS = ["acasxu_2023", "dist_shift_2023", "cora", "collins_rul_cnn_2023", "mnist_fc", "safenlp"]
MEDIUM = Perturbation.parse("medium")


def cnn7(width: int = 16, size: int = 64, outputs: int = 46, seed: int = 0, norm: bool = True) -> pruning.Net:
    """Five convolutions 3x3 (strides 1, 2, 1, 2, 2) with BatchNormalization, two dense layers; He initialised."""
    rng = np.random.default_rng(seed)
    nodes, weights, last, channels, side = [], {}, "image", 1, size
    for i, (factor, stride) in enumerate(((1, 1), (1, 2), (2, 1), (2, 2), (4, 2))):
        out = width * factor
        weights[f"k{i}"] = rng.normal(size=(out, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights[f"c{i}"] = np.zeros(out)
        nodes.append(
            helper.make_node(
                "Conv", [last, f"k{i}", f"c{i}"], [f"z{i}"], name=f"conv{i}", pads=[1] * 4, strides=[stride] * 2
            )
        )
        last = f"z{i}"
        if norm:
            for part, value in (("g", 1.0), ("s", 0.0), ("m", 0.0), ("v", 1.0)):
                weights[f"{part}{i}"] = np.full(out, value)
            nodes.append(
                helper.make_node(
                    "BatchNormalization", [last, f"g{i}", f"s{i}", f"m{i}", f"v{i}"], [f"n{i}"], name=f"norm{i}"
                )
            )
            last = f"n{i}"
        nodes.append(helper.make_node("Relu", [last], [f"a{i}"], name=f"relu{i}"))
        last, channels, side = f"a{i}", out, -(-side // stride)
    features, hidden = channels * side * side, 8 * width
    nodes.append(helper.make_node("Flatten", [last], ["flat"], name="flat", axis=1))
    weights |= {"w0": rng.normal(size=(hidden, features)) * np.sqrt(2 / features), "b0": np.zeros(hidden)}
    weights |= {"w1": rng.normal(size=(outputs, hidden)) * np.sqrt(1 / hidden), "b1": np.full(outputs, 0.5)}
    nodes.append(helper.make_node("Gemm", ["flat", "w0", "b0"], ["h"], name="dense0", transB=1))
    nodes.append(helper.make_node("Relu", ["h"], ["r"], name="relu5"))
    nodes.append(helper.make_node("Gemm", ["r", "w1", "b1"], ["points"], name="dense1", transB=1))
    graph = helper.make_graph(
        nodes,
        "cnn7",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnx_io.load(model.SerializeToString())


def show(**entry: object) -> None:
    print(json.dumps(entry), flush=True)


def usn_cost(net: pruning.Net, images: np.ndarray, repeats: int = 5) -> dict[str, float]:
    """USN with 32 samples on 256 images (256, *S), in inference passes over them.

    CPU times of scoring and of 33 passes in turns, windows of about one length, so that a busy machine treats them
    alike; the least of each.
    """
    run, scored, passed = Activations(net, net.outputs), [], []
    for _ in range(repeats):
        start = time.process_time()
        pruning.score(net, Calibration(images, None, MEDIUM), "usn")
        scored.append(time.process_time() - start)
        start = time.process_time()
        for first in [*range(0, 231, 33)] * 37:  # 7 batches of 33: 231 images
            run(images[first : first + 33])
        passed.append((time.process_time() - start) * 256 / (37 * 231))
    return {"passes": min(scored) / min(passed), "pass_s": min(passed), "worst_pair": max(np.divide(scored, passed))}


def cost(networks: list[Path]) -> None:
    """Scoring cost in inference passes, on noise, of trained networks on aircraft23; surgery on 10 M parameters."""
    noise = np.random.default_rng(0).uniform(0, 1, (256, 1, 64, 64)).astype(np.float32)
    measured = [("cnn7 width 16", cnn7(), noise)]
    for path in networks:
        net = pruning.load(path)
        measured.append((path.stem, net, pruning.load_data("aircraft23", net, MEDIUM, 256, 32, 0, "train").images))
    for name, net, images in measured:
        show(figure="usn cost in inference passes (CPU time)", network=name, **usn_cost(net, images), limit=40)
    big = cnn7(width=74)
    parameters = sum(w.size for w in big.weights.values())
    start = time.process_time()
    plan = pruning.plan(big, pruning.score(big, None, "l2"), 0.5)
    small = pruning.apply(big, plan, "zero")
    data = onnx_io.to_bytes(small.net, check=True)
    show(
        figure="surgery seconds", parameters=parameters, seconds=time.process_time() - start, limit=10, bytes=len(data)
    )


def equality(arguments: argparse.Namespace) -> None:
    """Random graphs (the full count), or the networks of a folder."""
    if arguments.vnncomp is None:
        pruning_equality.main(arguments.graphs)
        return
    from benchmarks import pruning_alike

    rows = pruning_alike.run(arguments.vnncomp, 0.3, arguments.largest, arguments.each)
    if not all(map(pruning_alike.holds, rows)):
        sys.exit(1)


def errors(arguments: argparse.Namespace) -> None:
    """Clean error against ratio: rows, then the table."""
    from benchmarks import pruning_errors

    budget = pruning_errors.Budget(images=arguments.images, rate=arguments.rate)
    criteria = arguments.criteria or pruning_errors.CRITERIA
    pruning_errors.measure(
        arguments.networks, arguments.ratios, arguments.out, budget, MEDIUM, criteria, arguments.draws
    )
    rows = pruning_errors.read(arguments.out)
    print(pruning_errors.table(rows))
    if arguments.picture:
        pruning_errors.picture(rows, arguments.picture)


def verdicts(arguments: argparse.Namespace) -> None:
    """`verify` on pruned networks."""
    from benchmarks import pruning_verdicts as bench

    rows = bench.run(
        arguments.vnncomp, arguments.only, arguments.each, arguments.ratio, arguments.timeout, arguments.out
    )
    print(bench.table(rows))
    if any(map(bench.wrong, rows)):
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="what", required=True)
    c = modes.add_parser("cost", help="scoring cost in inference passes; surgery on 10 M parameters")
    c.add_argument("--networks", type=Path, nargs="*", default=[], help="trained on aircraft23; measured as well")
    alike = modes.add_parser("equality", help="pruned = masked, on random graphs or given networks")
    alike.add_argument("--graphs", type=int, default=200)
    alike.add_argument("--vnncomp", type=Path, metavar="DIR", help="compare on the networks of this folder instead")
    alike.add_argument("--largest", type=int, default=1 << 26, help="bytes of the largest network taken")
    alike.add_argument("--each", type=int, default=1000, help="networks of every benchmark")
    e = modes.add_parser("errors", help="clean error against ratio on aircraft23, for every criterion")
    e.add_argument("--networks", type=Path, nargs="*", default=[], help="trained by `secateur train`; one per seed")
    e.add_argument("--criteria", nargs="+", metavar="NAME", help="only these")
    e.add_argument("--draws", type=int, default=1, help="of the random criteria, on every network")
    e.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75, 0.9])
    e.add_argument("--out", type=Path, default=Path("out/pruning_errors.jsonl"), help="rows are added to this file")
    e.add_argument("--images", type=int, default=12800, help="training images of the one epoch of fine-tuning")
    e.add_argument("--rate", type=float, default=4e-3, help="highest learning rate of the fine-tuning")
    e.add_argument("--picture", type=Path, help="also draw the rows")
    v = modes.add_parser("verdicts", help="`verify` on pruned networks of VNN-COMP, witnesses replayed, unsat sampled")
    v.add_argument("--vnncomp", type=Path, required=True, metavar="DIR", help="a folder with an instances.csv")
    v.add_argument("--only", nargs="+", default=VERDICTS, metavar="BENCHMARK")
    v.add_argument("--each", type=int, default=6, help="instances of every benchmark")
    v.add_argument("--ratio", type=float, default=0.3)
    v.add_argument("--timeout", type=float, default=60.0)
    v.add_argument("--out", type=Path, default=Path("out/pruning_verdicts.jsonl"), help="rows are added to this file")
    arguments = parser.parse_args()
    if arguments.what == "cost":
        cost(arguments.networks)
    elif arguments.what == "equality":
        equality(arguments)
    elif arguments.what == "verdicts":
        verdicts(arguments)
    else:
        errors(arguments)


if __name__ == "__main__":
    main()
