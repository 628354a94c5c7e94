"""Calibration data, and what a perturbation makes of them: x'(s) = clip(image(x, s), 0, 1) for parameters s in a set S.

Data that do not lie in [0, 1] (normalised images, other signals) are used as they are: nothing is clipped then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning import onnx_io, runtime, sobol
from pruning.errors import CriterionError, DataError
from pruning.net import Net
from verifier.brief import brief
from verifier.data.frame import Frame
from verifier.errors import ModelError, OptionsError
from verifier.perturbation import PARAMETERS
from verifier.perturbation.perturbation import Perturbation, apply, expand
from verifier.perturbation.polynomial import ImageMap, Monomial, feature
from verifier.perturbation.text import STILL

STRAY = 1e-6  # so far outside [0, 1] a value may lie by rounding alone


def perturbation(text: str) -> Perturbation:
    """S from a text (see `Perturbation.parse`); an empty one moves nothing."""
    return Perturbation.parse(text, STILL)


UNMOVED = perturbation("")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images (n, *S) float32, optional labels (n, ...), the perturbation, number of its sample points and the seed.

    Labels of an integer type are classes, of a floating type regression targets in the units of the network output;
    for heatmaps (n, K, R, C) they are positions (n, 2K) in cells, x before y. `unlabelled` says why there are none.
    Where the images leave [0, 1], `semantic.clip` is switched off: they are used as they are. `frame` says how an image
    lies in S, where its shape alone does not tell.
    """

    __repr__ = brief

    images: np.ndarray
    labels: np.ndarray | None = None
    semantic: Perturbation = UNMOVED
    samples: int = 32
    seed: int = 0
    unlabelled: str = ""
    frame: Frame | None = None

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
        frame = self.frame
        if frame is None and len(sample) == 1 and self.images.ndim == 4:  # a picture that is read as one row
            frame = replace(Frame.of(self.images.shape[1:]), shape=(1, *sample), layout="flat")
        return replace(self, images=self.images.reshape(len(self.images), *sample), frame=frame)

    def points(self, count: int | None = None, seed: int | None = None) -> np.ndarray:
        """Scrambled Sobol points (count, d) of S; as many as there are samples, where no number is given."""
        rng = np.random.default_rng(self.seed if seed is None else seed)
        low, high = self.semantic.box.T
        return np.asarray(low + sobol.points(self.samples if count is None else count, rng, len(low)) * (high - low))

    def moved(self, images: np.ndarray, points: Sequence[float] | np.ndarray) -> np.ndarray:
        """x'(s) of images (n, *S) in float32, with one point for all (d,) or one each (n, d)."""
        frame = self._frame(images)
        moved = apply(self.semantic, frame.restored(images), np.asarray(points, np.float64))
        return frame.arranged(moved).reshape(images.shape)

    def image_map(self, image: np.ndarray) -> ImageMap:
        """x'(s) of one image (*S) before the clip, as exact coefficients."""
        frame = self._frame(image[None])
        terms = expand(self.semantic, frame.restored(np.asarray(image[None], np.float64)))
        return terms.flat(len(self.semantic.ranges), lambda part: frame.arranged(part).reshape(-1))

    def _frame(self, images: np.ndarray) -> Frame:
        """Where the pixels of an image lie; of no matter to steps that treat all values alike, and to other signals."""
        if all(PARAMETERS[name].pointwise for name in self.semantic.names):
            size = images[0].size
            return Frame((1, size), "flat", 1, 1, size)
        try:
            return self.frame or Frame.of((1, *images.shape[1:]))
        except (ModelError, OptionsError) as error:
            named = [name for name in self.semantic.names if not PARAMETERS[name].pointwise]
            raise DataError(f"parameter {named[0]} changes pictures, and the data are none: {error}") from error

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
                f"{why} measures movement under a perturbation; give --semantic, such as brightness=-0.1:0.1"
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

    The batch is one array that the next image overwrites. The changed images are a matrix product: features of the
    points (alpha and beta, say) times coefficients of the image (x and 1).
    """
    points = calibration.points()
    shape = calibration.images.shape[1:]
    batch = np.empty((len(points) + 1, *shape), np.float32)
    rows = batch.reshape(len(batch), -1)
    frame = calibration._frame(calibration.images)

    def matrices(parts: Mapping[Monomial, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        features = np.stack([feature(points, m) for m in parts], 1).astype(np.float32)
        whole = [frame.arranged(np.broadcast_to(part, (1, *frame.size))).reshape(-1) for part in parts.values()]
        return features, np.stack(whole)

    for image in calibration.images:
        rows[0] = image.reshape(-1)
        changed = expand(calibration.semantic, frame.restored(image[None]))
        plain, powered = changed.split()
        if plain:
            np.matmul(*matrices(plain), out=rows[1:])
        else:
            rows[1:] = 0.0
        if changed.power is not None:
            index, base = changed.power
            power = frame.arranged(base).reshape(1, -1) ** points[:, [index]].astype(np.float32)
            rows[1:] += np.matmul(*matrices(powered)) * power
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
    points = calibration.points()
    sums = {place: np.zeros((2, net.shapes[place[0]][place[1]])) for place in places}
    highest = {place: np.full(total.shape[1], -np.inf) for place, total in sums.items()}
    count = 0
    repeats = 1 if calibration.semantic.degenerate else per_image
    for start in range(0, len(calibration.images), 32):
        images = calibration.images[start : start + 32]
        for turn in range(repeats):
            chosen = points[(np.arange(start, start + len(images)) * repeats + turn) % len(points)]
            found = run(calibration.moved(images, chosen))
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
