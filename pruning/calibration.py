"""Calibration data and the semantic perturbation x'(s) = clip(alpha * x + beta, 0, 1), s = (alpha, beta).

Data that do not lie in [0, 1] (normalised images, other signals) are used as they are: nothing is clipped then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning import onnx_io, runtime, sobol
from pruning.errors import CriterionError, DataError
from pruning.net import Net
from verifier.brief import brief
from verifier.console.arguments import spans, unknown
from verifier.data.frame import check_unit
from verifier.errors import OptionsError

STRAY = 1e-6  # so far outside [0, 1] a value may lie by rounding alone


@dataclass(frozen=True)
class Semantic:
    """The rectangle S: ranges of the contrast factor alpha and of the brightness offset beta.

    clip: whether x'(s) is clipped to [0, 1].
    """

    contrast: tuple[float, float] = (1.0, 1.0)
    brightness: tuple[float, float] = (0.0, 0.0)
    clip: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in (("contrast", self.contrast), ("brightness", self.brightness)):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise DataError(f"semantic range {name}={low}:{high} is empty or not finite; expected low:high")

    @classmethod
    def parse(cls, text: str) -> Semantic:
        """Read `brightness=-0.1:0.1,contrast=0.8:1.2` (see `verifier.console.arguments.spans`)."""
        try:
            ranges = spans(text)
        except OptionsError as error:
            raise DataError(f"semantic ranges: {error}") from None
        for name in ranges:
            if name not in ("brightness", "contrast"):
                what = unknown("parameter", name, ("brightness", "contrast"))
                raise DataError(f"semantic ranges: {what}; expected brightness or contrast")
            check_unit(name, *ranges[name])
        return cls(ranges.get("contrast", (1.0, 1.0)), ranges.get("brightness", (0.0, 0.0)))

    @property
    def degenerate(self) -> bool:
        """True if S is a single point."""
        return self.contrast[0] == self.contrast[1] and self.brightness[0] == self.brightness[1]

    def points(self, count: int, seed: int) -> np.ndarray:
        """`count` scrambled Sobol points (count, 2) of S, columns alpha and beta."""
        unit = sobol.points(count, np.random.default_rng(seed))
        low, high = np.array([self.contrast, self.brightness]).T
        return low + unit * (high - low)

    def apply(self, images: np.ndarray, point: Sequence[float] | np.ndarray) -> np.ndarray:
        """x'(s) for one point, in float32."""
        moved = images * np.float32(point[0]) + np.float32(point[1])
        return np.clip(moved, 0.0, 1.0, out=moved) if self.clip else moved

    def apply_each(self, images: np.ndarray, points: np.ndarray) -> np.ndarray:
        """x'(s_i) with one point per image."""
        column = (-1, *[1] * (images.ndim - 1))
        moved = images * points[:, 0].reshape(column).astype(np.float32)
        moved += points[:, 1].reshape(column).astype(np.float32)
        return np.clip(moved, 0.0, 1.0, out=moved) if self.clip else moved


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images (n, *S) float32, optional labels (n, ...), the rectangle S, number of its sample points and the seed.

    Labels of an integer type are classes, of a floating type regression targets in the units of the network output;
    for heatmaps (n, K, R, C) they are positions (n, 2K) in cells, x before y. `unlabelled` says why there are none.
    Where the images leave [0, 1], `semantic.clip` is switched off: they are used as they are.
    """

    __repr__ = brief

    images: np.ndarray
    labels: np.ndarray | None = None
    semantic: Semantic = Semantic()
    samples: int = 32
    seed: int = 0
    unlabelled: str = ""

    def __post_init__(self) -> None:
        images = np.asarray(self.images, np.float32)
        if images.ndim < 2 or not len(images):
            raise DataError(f"calibration images have shape {images.shape}; expected (n, ...) with n > 0")
        if not np.isfinite(images).all():
            raise DataError("calibration images contain NaN or infinite values")
        if self.labels is not None and len(self.labels) != len(images):
            raise DataError(f"{len(images)} images but {len(self.labels)} labels")
        if self.samples < 1:
            raise DataError(f"{self.samples} samples of the perturbation; expected at least 1")
        object.__setattr__(self, "images", images)
        if self.semantic.clip and not (images.min() >= -STRAY and images.max() <= 1 + STRAY):
            object.__setattr__(self, "semantic", replace(self.semantic, clip=False))

    def fitted(self, net: Net) -> Calibration:
        """The same data in the shape the network reads; DataError if they cannot be its input."""
        if len(net.inputs) != 1:
            raise DataError(
                f"the network has {len(net.inputs)} inputs {list(net.inputs)}; calibration data feed only one"
            )
        want = net.shapes[net.inputs[0]]
        sample = want[1:] if len(want) > 1 else want
        if self.images.shape[1:] == sample:
            return self
        if self.images[0].size != np.prod(sample) or min(len(sample), self.images.ndim - 1) > 1:
            raise DataError(
                f"calibration images have shape {self.images.shape[1:]}, "
                f"the network input '{net.inputs[0]}' expects {sample}"
            )
        return replace(self, images=self.images.reshape(len(self.images), *sample))

    def part(self, rows: slice) -> Calibration:
        """Some of the images, with their labels."""
        return replace(self, images=self.images[rows], labels=None if self.labels is None else self.labels[rows])

    def need_labels(self, why: str) -> np.ndarray:
        """The labels, or a DataError naming what needs them."""
        if self.labels is None:
            reason = self.unlabelled or "give them as 'labels' or 'keypoints' in the .npz file"
            raise DataError(f"{why} needs labels; {reason}")
        return self.labels

    def need_range(self, why: str) -> None:
        """CriterionError if S is a single point."""
        if self.semantic.degenerate:
            raise CriterionError(
                f"{why} measures movement under a perturbation; give --semantic brightness=..,contrast=.."
            )


class Activations:
    """Values inside a network, by name, for batches of inputs."""

    def __init__(self, net: Net, values: Sequence[str]) -> None:
        self.values = tuple(dict.fromkeys(values))
        self._input = net.inputs[0]
        self._single = not net.batched
        self._rank = len(net.shapes[self._input])
        self._runner = runtime.Runner(onnx_io.to_bytes(net, extra_outputs=self.values))

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Values (n, ...) for images (n, ...); networks with a fixed batch of one run image by image."""
        if not self._single and self._rank > 1:
            return self._runner({self._input: images}, self.values)
        rows = [self._runner({self._input: image[None] if self._rank > 1 else image}, self.values) for image in images]
        join = np.concatenate if self._rank > 1 else np.stack
        return {name: join([row[name] for row in rows]) for name in self.values}


def perturbed(calibration: Calibration) -> Iterator[np.ndarray]:
    """For each image the batch (K + 1, *S): the image itself, then its K perturbed versions.

    The batch is one array that the next image overwrites. alpha * x + beta is a matrix product, (alpha, beta) times
    (x, 1).
    """
    points = calibration.semantic.points(calibration.samples, calibration.seed).astype(np.float32)
    shape = calibration.images.shape[1:]
    batch = np.empty((len(points) + 1, *shape), np.float32)
    rows = batch.reshape(len(batch), -1)
    pair = np.ones((2, rows.shape[1]), np.float32)
    for image in calibration.images:
        rows[0] = pair[0] = image.reshape(-1)
        np.matmul(points, pair, out=rows[1:])
        if calibration.semantic.clip:
            np.clip(rows[1:], 0.0, 1.0, out=rows[1:])
        yield batch


Place = tuple[str, int]


def channel_means(
    net: Net, places: Sequence[Place], calibration: Calibration, per_image: int = 4
) -> dict[Place, np.ndarray]:
    """E over images and S of each entry along an axis of a value: what folding puts in place of removed channels.

    Each image is seen under `per_image` of the K Sobol points, in rotation, so that the cost is a few inference passes.
    """
    return {place: moments.mean for place, moments in channel_moments(net, places, calibration, per_image).items()}


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, standard deviation and maximum of each entry along an axis."""

    mean: np.ndarray
    spread: np.ndarray
    highest: np.ndarray


def channel_moments(
    net: Net, places: Sequence[Place], calibration: Calibration, per_image: int = 4
) -> dict[Place, Moments]:
    """Moments of each entry along an axis of a value, over images, S and the other axes."""
    places = list(dict.fromkeys(places))
    if not places:
        return {}
    calibration = calibration.fitted(net)
    run = Activations(net, [value for value, _ in places])
    points = calibration.semantic.points(calibration.samples, calibration.seed)
    sums = {place: np.zeros((2, net.shapes[place[0]][place[1]])) for place in places}
    highest = {place: np.full(total.shape[1], -np.inf) for place, total in sums.items()}
    count = 0
    repeats = 1 if calibration.semantic.degenerate else per_image
    for start in range(0, len(calibration.images), 32):
        images = calibration.images[start : start + 32]
        for turn in range(repeats):
            chosen = points[(np.arange(start, start + len(images)) * repeats + turn) % len(points)]
            found = run(calibration.semantic.apply_each(images, chosen))
            for value, axis in places:
                array = found[value]
                others = tuple(a for a in range(array.ndim) if a != axis)
                mean = array.mean(others, dtype=np.float64)
                square = array.var(others, dtype=np.float64) + mean**2
                sums[value, axis] += np.stack([mean, square]) * len(images)
                highest[value, axis] = np.maximum(highest[value, axis], array.max(others))
            count += len(images)
    found_moments = {}
    for place, (mean, square) in ((place, total / count) for place, total in sums.items()):
        found_moments[place] = Moments(mean, np.sqrt(np.maximum(square - mean**2, 0)), highest[place])
    return found_moments
