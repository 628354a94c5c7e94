"""`make demo`: makes a small network, and verifies it with the `verify` command.

The network says how hard to brake, from the gap to the car ahead and the speed. It is fitted here (random ReLU features
and least squares, fixed seed), so nothing has to be downloaded. Property 1 holds and is proven. Property 2 asks for
more than the network does; a counterexample is found, and shown as the driver would see it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GAP, SPEED = 100.0, 40.0  # metres and metres per second at input value 1
NEAR_AND_FAST = """\
; X_0 = gap / 100 m, X_1 = speed / (40 m/s), Y_0 = braking, 0 to 1
; violated if the gap is 5 to 15 m, the speed 25 to 40 m/s, and the network brakes with 80 % or less
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.05))
(assert (<= X_0 0.15))
(assert (>= X_1 0.625))
(assert (<= X_1 1.0))
(assert (<= Y_0 0.8))
"""
FAR_AND_SLOW = """\
; violated if the gap is 60 to 100 m, the speed 2 to 10 m/s, and the network brakes with 5 % or more
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.6))
(assert (<= X_0 1.0))
(assert (>= X_1 0.05))
(assert (<= X_1 0.25))
(assert (>= Y_0 0.05))
"""


def braking(gap: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """What the network shall learn: the deceleration that stops within the gap, over 8 m/s^2, cut to 0..1."""
    metres, speed = np.maximum(gap * GAP - 2.0, 0.5), speed * SPEED
    needed = speed**2 / (2 * metres) / 8.0
    return np.clip(1.25 * needed - 0.2, 0.0, 1.0)


def fit(hidden: int = 48, points: int = 4000, seed: int = 7) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two random ReLU layers and a least-squares output layer; (weight, bias) of each, y = x @ weight + bias."""
    random = np.random.default_rng(seed)
    x = random.uniform(size=(points, 2))
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    h, width = x, 2
    for _ in range(2):
        weight = random.normal(size=(width, hidden)) * np.sqrt(2 / width)
        bias = -(h[random.integers(points, size=hidden)] * weight.T).sum(1)  # every kink goes through a data point
        layers.append((weight, bias))
        h, width = np.maximum(h @ weight + bias, 0), hidden
    features = np.hstack([h, np.ones((points, 1))])
    ridge = 0.05 * np.eye(hidden + 1)
    solution = np.linalg.solve(features.T @ features + ridge, features.T @ braking(x[:, 0], x[:, 1]))
    layers.append((solution[:-1, None], solution[-1:]))
    return layers


def write_network(path: Path) -> None:
    """The fitted network as ONNX: input (1, 2), output (1, 1), float32."""
    nodes, constants, value = [], [], "state"
    layers = fit()
    for number, (weight, bias) in enumerate(layers):
        last = number == len(layers) - 1
        names = [f"weight{number}", f"bias{number}"]
        constants += [
            numpy_helper.from_array(a.astype(np.float32), n) for a, n in zip((weight, bias), names, strict=True)
        ]
        nodes.append(helper.make_node("Gemm", [value, *names], ["braking" if last else f"sum{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"hidden{number}"]))
            value = f"hidden{number}"
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 2])
    brake = helper.make_tensor_value_info("braking", TensorProto.FLOAT, [1, 1])
    graph = helper.make_graph(nodes, "braking", [state], [brake], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def run(model: Path, spec: Path) -> tuple[str, list[str]]:
    """Runs `verify` as a user would; returns the verdict and the lines of the witness."""
    command = [sys.executable, "-m", "verifier.command.verify", str(model), str(spec), "--timeout", "60"]
    print(f"\n$ verify {model} {spec} --timeout 60", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}error: verify ended with exit code {done.returncode}, expected 0")
    print(f"{done.stdout}{done.stderr}({time.monotonic() - started:.1f} s, start-up included)", flush=True)
    verdict, *witness = done.stdout.splitlines()
    return verdict, witness


def explain(witness: list[str]) -> None:
    """The counterexample in metres."""
    words = " ".join(witness).replace("(", " ").replace(")", " ").split()
    value = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    print(
        f"So at a gap of {value['X_0'] * GAP:.1f} m and {value['X_1'] * SPEED:.1f} m/s "
        f"the network brakes with {100 * value['Y_0']:.1f} % of its force."
    )


def main() -> int:
    """Writes the files, verifies both properties, and checks that the answers are the known ones."""
    parser = argparse.ArgumentParser(description="Makes a small network and verifies it.")
    parser.add_argument("--folder", type=Path, default=Path("out/demo"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "braking.onnx"
    write_network(model)
    print(f"A network that brakes: {model}, 2 inputs (gap, speed), 2 x 48 ReLU neurons, 1 output (braking).")

    near = folder / "near_and_fast.vnnlib"
    near.write_text(NEAR_AND_FAST)
    print("\nProperty 1: near and fast, it brakes with more than 80 % of its force.")
    proven, _ = run(model, near)

    far = folder / "far_and_slow.vnnlib"
    far.write_text(FAR_AND_SLOW)
    print("\nProperty 2: far and slow, it brakes with less than 5 % of its force.")
    refuted, witness = run(model, far)
    if refuted == "sat":
        explain(witness)

    if (proven, refuted) != ("unsat", "sat"):
        print(f"error: found the verdicts {proven} and {refuted}, expected unsat and sat", file=sys.stderr)
        return 1
    print("\nProperty 1 is proven for every state of its set; property 2 is refuted by the state above.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
