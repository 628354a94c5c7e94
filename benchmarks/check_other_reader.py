"""Generated specifications against another reader of VNN-LIB: the PyPI package `vnnlib`, never a dependency of ours.

    python3 -m venv FOLDER && FOLDER/bin/pip install vnnlib
    VNNLIB_OTHER_PYTHON=FOLDER/bin/python python -m benchmarks.check_other_reader [HEATMAP_NETWORK.onnx ..] [SET ..]

For every kind of property the composite network runs in ONNX Runtime at random parameters, and both readers say if the
answer violates the specification; likewise for every problem of a set that `secateur benchmark-pack` wrote.
That package reads VNN-LIB 2.0; for 1.0 it is only noted what it says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import vnnlib
from verifier.data import networks
from verifier.semantic import (
    Coordinates,
    ErrorBudget,
    Heatmap,
    Perturbation,
    Pose,
    Range,
    SemanticProblem,
    Target,
    network,
    prepare,
    sources,
)
from verifier.semantic.properties import Property

READER = Path(__file__).with_name("other_reader.py")
POINTS = 200
RANGES = Perturbation((Range("contrast", 0.8, 1.2), Range("brightness", -0.1, 0.1)))


def main() -> int:
    """Prints a line per kind and version; 1 if the two readers differ anywhere, 2 without the other Python."""
    python = os.environ.get("VNNLIB_OTHER_PYTHON")
    if not python:
        print("VNNLIB_OTHER_PYTHON is not set: a Python that has the PyPI package vnnlib", file=sys.stderr)
        return 2
    given = [_of_set(Path(p), python) if Path(p).is_dir() else _of_heatmaps(p, python) for p in sys.argv[1:]]
    differ = sum([_of_coordinates(python), *given])
    return 1 if differ else 0


def _of_coordinates(python: str) -> int:
    """Number of properties of the shipped network over which the readers differ."""
    net = network.load(networks.path())
    example = sources.rendered(net, "test", 0, 1)[0]
    assert example.view is not None
    limits = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 1.6])
    kinds: dict[str, Property] = {
        "linf": Coordinates(2.0),
        "l1": Coordinates(2.5, "l1"),
        "l2": Coordinates(2.2, "l2"),
        "budget": ErrorBudget(1.6),
        "pose": Pose(example.view.jacobian(), limits),
    }
    return sum(
        _both(kind, prepare(net, example.image, example.target, RANGES, prop), python) for kind, prop in kinds.items()
    )


def _of_heatmaps(path: str, python: str) -> int:
    """The same for the argmax windows of a heatmap network; of two key points, since every pair of cells is a row."""
    net = network.load(path)
    example = sources.rendered(net, "test", 0, 1)[0]
    assert example.target is not None and example.target.visibility is not None
    seen = np.where(np.cumsum(example.target.visibility == 2) <= 2, example.target.visibility, 0)
    target = Target(example.target.keypoints, seen)
    return _both("heatmap", prepare(net, example.image, target, RANGES, Heatmap(4.0), reference="self"), python)


def _of_set(folder: Path, python: str) -> int:
    """Number of problems of a set over which the readers differ."""
    differ = 0
    for row in vnnlib.read_instances(folder / "instances_2.0.csv"):
        said = compare((folder / row.networks[0][1]).read_bytes(), (folder / row.vnnlib).read_text(), python)
        print(f"{Path(row.vnnlib).stem} 2.0  {said}", flush=True)
        differ += not said.startswith("agree")
    return differ


def _both(kind: str, problem: SemanticProblem, python: str) -> bool:
    """Prints what comes of both versions; whether the readers differ over the second."""
    model = problem.model().SerializeToString()
    said = {version: compare(model, problem.spec(version), python) for version in (1, 2)}
    for version, text in said.items():
        print(f"{kind:7} {version}.0  {text}", flush=True)
    return not said[2].startswith("agree")


def compare(model: bytes, text: str, python: str) -> str:
    """What came of one specification."""
    form, draw = vnnlib.normalise(vnnlib.loads(text)), np.random.default_rng(0)
    box = np.stack([form.lower[0], form.upper[0]], 1)
    share = draw.random((POINTS, len(box)))
    share[: POINTS // 4] = np.round(share[: POINTS // 4])
    x = (box[:, 0] + share * (box[:, 1] - box[:, 0])).astype(np.float32)
    x[-5:] += np.float32(0.5)  # outside
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    y = [session.run(None, {name: p[None]})[0].reshape(-1).astype(np.float64).tolist() for p in x]
    points = [[p, q] for p, q in zip(x.astype(np.float64).tolist(), y, strict=True)]
    ours = [bool(form.holds(np.array(p), np.array(q))) for p, q in points]
    with tempfile.TemporaryDirectory() as folder:
        spec, given = Path(folder) / "s.vnnlib", Path(folder) / "points.json"
        spec.write_text(text)
        given.write_text(json.dumps(points))
        done = subprocess.run(
            [python, "-I", str(READER), str(spec), str(given)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        return f"not read: {done.stderr.strip().splitlines()[-1][:160]}"
    theirs = json.loads(done.stdout)
    wrong = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return (
        f"differ at {wrong} of {POINTS} points"
        if wrong
        else f"agree at {POINTS} points, {sum(ours)} of them violations"
    )


if __name__ == "__main__":
    sys.exit(main())
