"""Looks for violations inside certified cells, by means that share nothing with the search.

The points are drawn here, NumPy changes the picture, ONNX Runtime runs the network as it is, and the error is measured
from the key points. Of the package only the cells, the pictures and the tolerance are used.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from verifier.budget import Budget
from verifier.data import networks
from verifier.semantic import Coordinates, Heatmap, Perturbation, Range, network, prepare, sources
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, cover
from verifier.semantic.family import from_problems
from verifier.semantic.sources import Example

LEVELS = {
    "tiny": np.array([[0.95, 1.05], [-0.02, 0.02]]),
    "small": np.array([[0.9, 1.1], [-0.05, 0.05]]),
    "medium": np.array([[0.8, 1.2], [-0.1, 0.1]]),
    "large": np.array([[0.7, 1.3], [-0.2, 0.2]]),
}
"""Ranges of contrast and brightness."""

FACTORS = (0.8, 0.9, 0.97, 1.03, 1.15)
ROUNDING = 1e-4
"""Pixels by which ONNX Runtime's float32 answers may differ from the exact network's."""

RUN = 250
"""Points per call of ONNX Runtime."""


class Sampler:
    """The network file in ONNX Runtime, and its key point error at parameter points of one picture."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.given = self.session.get_inputs()[0]
        self.heatmaps = len(self.session.get_outputs()[0].shape) > 2

    def errors(self, example: Example, points: np.ndarray) -> np.ndarray:
        """Worst error (M,) of the visible key points, L-infinity in pixels; of heatmaps that tie, the worst."""
        assert example.target is not None
        target = example.target
        assert target.keypoints is not None and target.visibility is not None
        seen = target.visibility == 2
        found = []
        for part in np.array_split(points, max(1, len(points) // RUN)):
            contrast, brightness = part.T[:, :, None, None, None]
            pictures = np.clip(contrast * example.image[None] + brightness, 0.0, 1.0).astype(np.float32)
            y = self._run(pictures).astype(np.float64)
            found.append(self._gaps(y, target.keypoints)[:, seen].max(1))
        return np.concatenate(found)

    def _run(self, pictures: np.ndarray) -> np.ndarray:
        if isinstance(self.given.shape[0], int):
            return np.concatenate([self.session.run(None, {self.given.name: x[None]})[0] for x in pictures])
        return self.session.run(None, {self.given.name: pictures})[0]

    def _gaps(self, y: np.ndarray, truth: np.ndarray) -> np.ndarray:
        if not self.heatmaps:
            return np.abs(y.reshape(len(y), -1, 2) - truth).max(2)
        side = y.shape[-1]
        stride = self.given.shape[-1] / side
        row, column = np.divmod(np.arange(side * side), side)
        place = stride * (np.stack([column, row], 1) + 0.5)
        far = np.abs(place[None] - truth[:, None]).max(2)  # (K, cells)
        z = y.reshape(len(y), len(truth), -1)
        return np.where(z == z.max(2, keepdims=True), far[None], -np.inf).max(2)


def check(
    name: str, images: int, samples: int, per_image: float, level: str = "medium", keep: Path | None = None
) -> dict[str, object]:
    """Covers every image with a tolerance around its sampled worst error, then samples the certified cells.

    `keep`: a file that is rewritten after every image.
    """
    box = LEVELS[level]
    path = networks.path(name) if name in networks.names() else Path(name)
    sampler, net = Sampler(path), network.load(path)
    ranges = Perturbation((Range("contrast", *box[0]), Range("brightness", *box[1])))
    areas, count, rounding, violations = np.zeros((images, 3)), 0, 0, []
    began = time.monotonic()
    for i, example in enumerate(sources.rendered(net, "test", 0, images)):
        draw = np.random.default_rng([7, i])
        side = np.linspace(0.0, 1.0, 15)
        grid = box[:, 0] + np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2) * (box[:, 1] - box[:, 0])
        worst = float(sampler.errors(example, grid).max())
        tolerance = FACTORS[i % len(FACTORS)] * worst
        tolerance = max(tolerance, 2.5) if sampler.heatmaps else tolerance  # no window without a cell
        prop = Heatmap(tolerance) if sampler.heatmaps else Coordinates(tolerance)
        family = from_problems([prepare(net, example.image, example.target, ranges, prop)], torch.device("cpu"))
        state = cover(family, CoverageLimits(0.01, per_image), Budget())
        areas[i] = [state.shares(kind)[0] for kind in (CERTIFIED, REFUTED, OPEN)]
        cells = state.of(CERTIFIED)
        if len(cells):
            points = _points(*cells.corners(family.lower.numpy(), family.upper.numpy()), samples, draw)
            excess = sampler.errors(example, points) - tolerance
            count += len(points)
            rounding += int(((excess >= 0) & (excess < ROUNDING)).sum()) if not sampler.heatmaps else 0
            bad = points[excess >= ROUNDING]
            violations += [{"image": example.name, "at": p.tolist()} for p in bad[:3]]
        if keep is not None:
            keep.write_text(
                json.dumps(_table(f"{name}, {level}", areas[: i + 1], count, rounding, violations, began, per_image))
            )
    return _table(f"{name}, {level}", areas, count, rounding, violations, began, per_image)


def _points(low: np.ndarray, high: np.ndarray, samples: int, draw: np.random.Generator) -> np.ndarray:
    """Half of the points by area, half with every cell alike (small cells lie at the border of what is certified)."""
    area = (high - low).prod(1)
    even = np.full(len(low), 1 / len(low))
    pick = np.concatenate([draw.choice(len(low), samples // 2, p=p) for p in (area / area.sum(), even)])
    return low[pick] + draw.random((len(pick), 2)) * (high - low)[pick]


def _table(
    name: str, areas: np.ndarray, count: int, rounding: int, violations: list, began: float, per_image: float
) -> dict[str, object]:
    mean = areas.mean(0)
    return {
        "network": Path(name).name,
        "images": len(areas),
        "seconds_per_image_at_most": per_image,
        "certified_mean": float(mean[0]),
        "refuted_mean": float(mean[1]),
        "open_mean": float(mean[2]),
        "images_with_certified_area": int((areas[:, 0] > 0).sum()),
        "points_in_certified_cells": count,
        "violations": len(violations),
        "first_violations": violations[:5],
        "within_float32_rounding_of_the_tolerance": rounding,
        "wall_s": time.monotonic() - began,
    }
