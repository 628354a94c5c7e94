"""How tight the bounds of networks are over small random cells of S, on validation images: cheap, so many images.

    python -m benchmarks.studies.tightness dense.onnx pruned.onnx ... [--images 500] [--sides 40 16 8] [--tau 0.05]

Of every network: the mean error of the unchanged images, and of random cells with sides 1/40, 1/16 and 1/8 of those of
S (one of each size per image, the same for all networks) the share whose affine bounds (`pruning.forms`) keep all
visible key points within tau, and the median over cells of the width of the widest bound. Differences are to the first
network, paired by image, with 95 % bootstrap intervals. Bounds of training: they tell networks apart and prove nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from pruning import Calibration, api, forms
from pruning.calibration import perturbation
from pruning.study import stats
from pruning.study.words import interval
from pruning.torch_bridge import TorchNet
from verifier.perturbation.perturbation import Perturbation
from verifier.training import train as training
from verifier.training.models import Architecture

BATCH = 50


def cells(semantic: Perturbation, side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles and half sides, both (count, d), of random cells with 1/side of the sides of S; repeatable."""
    low, high = semantic.box.T
    half = np.broadcast_to((high - low) / side / 2, (count, len(low))).astype(np.float32)
    return np.random.default_rng(side).uniform(low + half, high - half).astype(np.float32), half


def measure(
    model: TorchNet, held: training.DataSplit, semantic: Perturbation, side: int, tau: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image (n,): clean error as a share of the width, whether its cell is within tau, widest bound in px."""
    images = held.images.numpy()
    middle, half = cells(semantic, side, len(images))
    errors, within, widths = [], [], []
    for rows in np.split(np.arange(len(images)), range(BATCH, len(images), BATCH)):
        points, seen = held.points[rows], held.visibility[rows] == 2  # the property is about visible key points
        data = Calibration(images[rows], semantic=semantic)
        with torch.no_grad():
            clean = model(held.images[rows]).reshape(points.shape)
            bounds = forms.output_bounds(model, data, images[rows], middle[rows], half[rows])
        lower, upper = (end.reshape(points.shape) for end in bounds)
        furthest = torch.maximum((lower - points).abs(), (upper - points).abs()).amax(2)
        distance = torch.linalg.vector_norm(clean - points, dim=2)
        errors.append((distance * seen).sum(1) / seen.sum(1).clamp(min=1) / images.shape[-1])
        within.append((furthest * seen).amax(1) <= tau * images.shape[-1])
        widths.append(((upper - lower).amax(2) * seen).amax(1))
    shares, inside, widest = (torch.cat(part).double().numpy() for part in (errors, within, widths))
    return shares, inside, widest


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--sides", type=int, nargs="+", default=[40, 16, 8])
    parser.add_argument("--tau", type=float, default=0.05)
    parser.add_argument("--rectangle", default="medium")
    options = parser.parse_args()
    nets = [api.load(path) for path in options.networks]
    size = nets[0].shapes[nets[0].inputs[0]][-1]
    held = training.load("val", options.images, Architecture("cnn7", 8, size), training.Recipe.view)
    semantic, first = perturbation(options.rectangle), dict[int, tuple[np.ndarray, ...]]()
    for path, net in zip(options.networks, nets, strict=True):
        model = TorchNet(net)
        for side in options.sides:
            found = tuple(part[None, None] for part in measure(model, held, semantic, side, options.tau))
            error, within, width = found
            reference = first.setdefault(side, found)
            line = {
                "network": path.stem,
                "side": f"1/{side}",
                "error %": interval(stats.bootstrap(stats.mean, error), 100, decimals=2),
                "error, x": interval(stats.bootstrap(stats.ratio_of_means, error, reference[0])),
                "within tau %": interval(stats.bootstrap(stats.mean, within), 100),
                "within tau, points": interval(
                    stats.bootstrap(stats.difference_of_means, within, reference[1]), 100, sign=True
                ),
                "width, px": interval(stats.bootstrap(stats.median, width)),
                "width, x": interval(stats.bootstrap(stats.ratio_of_medians, width, reference[2])),
            }
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
