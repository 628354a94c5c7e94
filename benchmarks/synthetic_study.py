"""SYNTHETIC studies: made-up networks and answers, to run and to draw the machinery. No figure here is a result.

A "network" is a small JSON text; its strength decides how large a disc of the rectangle an image survives. The fake
verifier splits the rectangle into cells, so maps look like maps, and everything is a function of the arguments.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from pruning.study.hands import Hands, ImageVerdict, PictureWitness, Size
from pruning.study.spec import Study, VerificationTask, parse

STRENGTH = {
    "dense": 0.0, "dense+ft": 0.02, "usn": 0.16, "usn-cert": 0.18, "l2": 0.1, "taylor": 0.09, "random": 0.04,
    "random-matched": 0.05, "anti-usn": -0.12, "small-scratch": 0.08,
}  # fmt: skip
AXES = ((0.8, 1.2), (-0.1, 0.1))


def study(images: int = 12, seeds: int = 2, arms: dict | None = None, ratios: tuple[float, ...] = (0.5, 0.75)) -> Study:
    names = ("dense+ft", "usn", "usn-cert", "l2", "taylor", "random-matched", "small-scratch", "anti-usn")
    return parse(
        {
            "name": "SYNTHETIC study, made-up numbers",
            "data": "synthetic",
            "images": images,
            "seeds": list(range(seeds)),
            "ratios": list(ratios),
            "arms": arms or {**dict.fromkeys(names), "random": {"draws": 2}},
            "budget": {"train": 6, "finetune": 2},
            "network": {"name": "made-up", "width": 4},
            "timeout": 60,
        }
    )


def unit(*parts: object) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6]) / 2**48


def hands(maps: bool = True) -> Hands:
    return Hands(measure, lambda model, image, task: verify(model, image, task, maps), train, prune, finetune)


def train(*, seed: int, epochs: float, like: Path | None, work: Path, out: Path) -> None:
    assert work.is_dir()
    width = json.loads(like.read_text())["width"] if like else 1.0
    value = {
        "arm": "dense" if like is None else "small-scratch",
        "seed": seed,
        "width": width,
        "steps": [["train", epochs]],
    }
    out.write_text(json.dumps(value))


def prune(
    *, model: Path, criterion: str, ratio: float, like: Path | None, seed: int, work: Path, out: Path, shared: str = "",
    concentrate: float = 0.0, certified: bool = False,
) -> None:  # fmt: skip
    value = json.loads(model.read_text())
    width = json.loads(like.read_text())["width"] if like else value["width"] * (1 - ratio)
    pulled = [["concentrate", concentrate, seed]] if concentrate else []
    steps = [*value["steps"], *pulled, ["prune", criterion, round(ratio, 9), seed]]
    out.write_text(json.dumps({**value, "arm": criterion, "draw": seed, "width": width, "steps": steps}))


def finetune(*, model: Path, seed: int, epochs: float, work: Path, out: Path, certified: bool = False) -> None:
    value = json.loads(model.read_text())
    arm = "dense+ft" if value["arm"] == "dense" else value["arm"]
    out.write_text(json.dumps({**value, "arm": arm, "steps": [*value["steps"], ["finetune", epochs, seed]]}))


def measure(model: Path) -> Size:
    width = json.loads(model.read_text())["width"]
    return Size(round(400_000 * width**2), round(9_000_000 * width**2), round(12_000 * width))


def verify(model: Path, image: int, task: VerificationTask, maps: bool = True) -> ImageVerdict:
    net = json.loads(model.read_text())
    arm, width = net["arm"], net["width"]
    luck = unit("image", image) + 0.1 * unit("net", arm, net["seed"], net.get("draw", 0), width, image)
    gain = STRENGTH[arm] * min(1.5, 2 * (1 - width)) if width < 1 else STRENGTH[arm]
    radius = (0.55 + 1.1 * luck + gain) * task.tau / 0.03
    cells, states = _cells(radius)
    areas = [float(_area(cells[states == s])) for s in (1, -1, 0)]
    total = sum(areas)
    certified, refuted, left = (a / total for a in areas)
    verdict = "certified" if refuted == 0 and left == 0 else "refuted" if refuted > 0 else "open"
    seconds = 0.02 + 0.3 * width**2 * len(cells) / 40 * (0.6 + 0.8 * unit("t", arm, image, net["seed"]))
    nonlinear = 12_000 * width
    unstable = nonlinear * (0.05 + 0.08 * (1 - width) + 0.04 * unit("u", arm, image))
    error = 0.011 * (1 + max(0.0, 0.35 - 2 * STRENGTH[arm]) * (1 - width)) * (0.7 + 0.6 * unit("e", image, arm))
    return ImageVerdict(
        verdict, certified, refuted, left, seconds, len(cells), unstable, unstable / nonlinear, error,
        cells=cells if maps else None, states=states if maps else None,
        witness=_witness(image, radius, task.tau) if maps and verdict == "refuted" else None,
        axes=("contrast", "brightness"),
    )  # fmt: skip


def _cells(radius: float, depth: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Cells of [-1, 1]^2 split towards the circle of that radius, mapped to the rectangle; the last ones stay open."""
    todo, done, states = [(-1.0, -1.0, 2.0, 0)], [], []
    while todo:
        x, y, side, level = todo.pop()
        near = math.hypot(max(x, -x - side, 0.0), max(y, -y - side, 0.0))
        far = math.hypot(max(abs(x), abs(x + side)), max(abs(y), abs(y + side)))
        state = 1 if far <= radius else -1 if near >= radius else 0
        if state == 0 and level < depth:
            half = side / 2
            todo += [(x + i * half, y + j * half, half, level + 1) for i in (0, 1) for j in (0, 1)]
        else:
            done.append(((x, y), (x + side, y + side)))
            states.append(state)
    low, high = np.array([a[0] for a in AXES]), np.array([a[1] for a in AXES])
    return low + (np.array(done) + 1) / 2 * (high - low), np.array(states, np.int8)


def _area(cells: np.ndarray) -> float:
    return np.prod(cells[:, 1] - cells[:, 0], axis=1).sum()


def _witness(image: int, radius: float, tau: float) -> PictureWitness:
    side = 64
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    picture = 90 + 60 * down / side + 70 * np.exp(-((across - 32) ** 2 / 300 + (down - 34) ** 2 / 40))
    angle = 2 * math.pi * np.arange(23) / 23
    truth = np.stack([32 + 20 * np.cos(angle), 34 + 8 * np.sin(angle)], axis=1)
    shift = np.array([[unit("x", image, k), unit("y", image, k)] for k in range(23)]) - 0.5
    guess = truth + 2 * shift
    worst = image % 23
    guess[worst] = truth[worst] + (2.6 * tau * side, -1.2 * tau * side)
    return PictureWitness(np.array([1.2, 0.1 * min(1.0, radius)]), picture.astype(np.uint8), guess, truth, worst)
