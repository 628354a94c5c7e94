"""Every certified image of a study once more, by other means: random points of the rectangle in ONNX Runtime.

    python -m benchmarks.studies.check_certified out/full

The runner tries 2 000 points of every certified image itself. This command shares none of its code but the data set: it
reads the rows, makes the perturbed pictures with NumPy and asks the network's own file. Exit code 1 if a point exceeds
the tolerance by more than float32 rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from verifier.data import aircraft23

RANGES = {"small": (0.1, 0.05), "medium": (0.2, 0.1), "large": (0.3, 0.2)}  # contrast around 1, brightness around 0
NOISE = 1e-3  # pixels
BATCH = 250


def excess(network: onnxruntime.InferenceSession, row: dict[str, object], points: int, seed: int) -> float:
    """Pixels by which the worst of some random points exceeds the tolerance; negative if none does."""
    given = network.get_inputs()[0]
    side, grey = int(given.shape[2]), given.shape[1] == 1
    images, keypoints, seen = aircraft23.load("test", 1, size=side, grey=grey, start=int(str(row["image"])))
    rng = np.random.default_rng([seed, int(str(row["image"]))])
    moves = rng.uniform(-1, 1, (points, 2)) * RANGES[str(row["rectangle"])]
    worst = -np.inf
    for part in np.split(moves, range(BATCH, points, BATCH)):
        contrast, brightness = (1 + part[:, :1, None, None]), part[:, 1:, None, None]
        pictures = np.clip(contrast * images + brightness, 0, 1).astype(np.float32)
        found = network.run(None, {given.name: pictures})[0].reshape(len(part), -1, 2)
        gap = np.abs(found - keypoints)[:, seen[0] == 2].max()  # the property is about visible key points
        worst = max(worst, float(gap) - float(str(row["tau"])) * side)
    return worst


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lines = (options.folder / "results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["verdict"] == "certified"]
    plain = onnxruntime.SessionOptions()
    plain.intra_op_num_threads = 1
    worst, bad = -np.inf, 0
    for name in sorted({row["name"] for row in rows}):
        network = onnxruntime.InferenceSession(options.folder / "networks" / f"{name}.onnx", plain)
        for row in (row for row in rows if row["name"] == name):
            found = excess(network, row, options.points, options.seed)
            worst = max(worst, found)
            if found > NOISE:
                bad += 1
                print(f"WRONG: {name}, image {row['image']}: certified, {found:.4g} px beyond the tolerance")
    print(f"{len(rows)} certified results x {options.points} points: {bad} wrong; least margin {-worst:.4f} px")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
