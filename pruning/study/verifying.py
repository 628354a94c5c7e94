"""One network, one image: certified coverage by the verifier, checked against samples.

The search first runs until 1 % of the rectangle is open. It goes on until nothing is open only where no violation was
found so far, because only there the image can still be certified in full. Both parts share the time limit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pruning.calibration import Semantic
from pruning.study.errors import StudyFileError
from pruning.study.hands import Outcome, Witness
from pruning.study.spec import Task
from verifier.budget import Budget
from verifier.errors import UnsoundError
from verifier.semantic import Coordinates, Heatmap, Perturbation, Range, Study, network, prepare, properties, sources
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, Limits, State, audit, cover
from verifier.semantic.family import Family, bound_cells, from_studies
from verifier.semantic.network import Network
from verifier.semantic.sources import Example

OPEN_SHARE = 0.01
"""The search of an image that cannot be certified in full ends when no more than this is open."""

SIDE = 21
"""Points per side of the grid of samples."""

POINTS = 2000
"""Random points of the rectangle that a certified image has to survive in ONNX Runtime."""

AUDITED = 500
"""Random points inside certified cells, and as many inside refuted ones, in float64 (`coverage_search.audit`)."""

NOISE = 1e-3
"""Pixels by which a sample may miss the tolerance because float32 inference rounds; real violations are larger."""

CLOCKS = {"wall": time.monotonic, "processor": time.process_time}

CPU = torch.device("cpu")


@dataclass
class Images:
    """The images of a data set, each read once: `aircraft23` (its split `split`) or a COCO keypoints file."""

    data: str
    split: str = "test"
    held: dict[tuple[int, int, int], Example] = field(default_factory=dict)

    def check(self) -> None:
        """StudyFileError or OptionsError if there are no such data."""
        if self.data != "aircraft23":
            _annotations(self._file())

    def _file(self) -> Path:
        path = Path(self.data)
        if path.suffix != ".json":
            raise StudyFileError(f"data '{self.data}': expected aircraft23 or a COCO keypoints file (.json)")
        return path

    def example(self, net: Network, index: int) -> Example:
        """Image `index` at the size that `net` takes. StudyFileError if there is none."""
        key = (index, net.width, net.channels)
        if key not in self.held:
            self.held[key] = self._read(net, index)
        return self.held[key]

    def _read(self, net: Network, index: int) -> Example:
        if self.data == "aircraft23":
            return sources.rendered(net, self.split, index, index + 1)[0]
        path = self._file()
        found = _annotations(path)
        if index >= len(found):
            raise StudyFileError(
                f"{path}: image {index} was asked for, it has {len(found)} annotations with key points"
            )
        return sources.from_options(net, str(path.parent), path, found[index], None)[0]


@lru_cache(maxsize=8)
def _annotations(path: Path) -> tuple[int, ...]:
    from verifier.data import coco

    return tuple(a.identity for a in coco.read(path).annotations)


@lru_cache(maxsize=64)
def _network(path: Path, stamp: tuple[int, int]) -> Network:
    return network.load(path)


def verify(model: Path, images: Images, index: int, task: Task, semantic: Semantic) -> Outcome:
    """The answer for one image; UnsoundError if a sample contradicts it."""
    held = model.stat()
    net = _network(model, (held.st_mtime_ns, held.st_size))
    study = _study(net, images.example(net, index), task, semantic)
    clock = CLOCKS[task.clock]
    began = clock()
    budget = Budget.of(task.timeout, clock=clock)
    family = from_studies([study], CPU)
    state = cover(family, Limits(OPEN_SHARE), budget)
    witness = None
    if state.shares(CERTIFIED)[0] < 1:
        witness = _violation(family, study, state, _grid(family, 11))
    if witness is None and state.shares(OPEN)[0] > 0 and not state.shares(REFUTED)[0] and not budget.expired():
        state = cover(family, Limits(0.0), budget, state)
    seconds = clock() - began
    points = _grid(family, SIDE)
    margins = _margins(family, points)
    audit(family, state, AUDITED)
    _no_violation_in_certified_cells(family, state, points[margins < -NOISE], index)
    if witness is None and state.shares(CERTIFIED)[0] < 1:
        witness = _violation(family, study, state, points[np.argsort(margins)[:8]])
    certified = bool(state.shares(OPEN)[0] == 0 and state.shares(REFUTED)[0] == 0)
    if certified:
        _random_points_hold(study, index)
    verdict = "certified" if certified else "open" if witness is None else "refuted"
    return _outcome(family, study, state, verdict, seconds, float((margins > -NOISE).mean()), witness)


def _study(net: Network, example: Example, task: Task, semantic: Semantic) -> Study:
    tau = task.tau * net.width
    prop = Heatmap(tau) if len(net.output) > 2 else Coordinates(tau)
    return prepare(net, example.image, example.target, ranges(semantic), prop)


def ranges(semantic: Semantic) -> Perturbation:
    """The rectangle as ranges of parameters; OptionsError for an empty one."""
    return Perturbation((Range("contrast", *semantic.contrast), Range("brightness", *semantic.brightness)))


def _grid(family: Family, side: int) -> np.ndarray:
    low, high = (np.asarray(t.cpu())[0] for t in (family.lower, family.upper))
    edges = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*edges, indexing="ij"), -1).reshape(-1, len(low))


def _margins(family: Family, points: np.ndarray) -> np.ndarray:
    """Pixels left until the property is violated, at parameter points (P, d); negative beyond."""
    with torch.no_grad():
        parts = [family.margins(p, torch.zeros(len(p), dtype=torch.int64)) for p in torch.from_numpy(points).split(256)]
    return torch.cat(parts).numpy()


def _violation(family: Family, study: Study, state: State, points: np.ndarray) -> np.ndarray | None:
    """A parameter point at which ONNX Runtime, on the image's own file, violates the property; None if none was found.

    Candidates: the given points and the centres of refuted cells, the worst first.
    """
    cells = state.of(REFUTED)
    if len(cells):
        low, high = cells.corners(family.lower.numpy(), family.upper.numpy())
        points = np.concatenate([points, ((low + high) / 2)[np.argsort(cells.depth, kind="stable")[:8]]])
    margins = _margins(family, points)
    order = np.argsort(margins)[:8]
    found = family.judges[0](points[order[margins[order] <= 0]]) if (margins <= 0).any() else None
    if found is None:
        return None
    values = np.array(found.x[: family.inputs], np.float64)
    return values if study.excess(values) > 0 else None


def _no_violation_in_certified_cells(family: Family, state: State, bad: np.ndarray, index: int) -> None:
    cells = state.of(CERTIFIED)
    low, high = cells.corners(family.lower.numpy(), family.upper.numpy())
    for point in bad:
        if ((low <= point) & (point <= high)).all(1).any():
            raise UnsoundError(f"image {index}: the property is violated at {point.tolist()}, inside a certified cell")


def _random_points_hold(study: Study, index: int) -> None:
    """ONNX Runtime on the network itself at random points of the rectangle of a certified image."""
    rng = np.random.default_rng([index, 11])
    low, high = study.perturbation.box.T
    worst, at = -np.inf, low
    for values in low + rng.random((POINTS, len(low))) * (high - low):
        excess = study.excess(values)
        if excess > worst:
            worst, at = excess, values
    if worst > NOISE:
        raise UnsoundError(
            f"image {index}: certified, but ONNX Runtime exceeds the tolerance by {worst:g} at {at.tolist()}"
        )


def _outcome(
    family: Family, study: Study, state: State, verdict: str, seconds: float, sampled: float, point: np.ndarray | None
) -> Outcome:
    low, high = state.cells.corners(family.lower.numpy(), family.upper.numpy())
    signs = np.zeros(len(state.status), np.int8)
    signs[state.status == CERTIFIED], signs[state.status == REFUTED] = 1, -1
    certified, refuted, undecided = (float(state.shares(s)[0]) for s in (CERTIFIED, REFUTED, OPEN))
    unstable, count = _unstable(family)
    return Outcome(
        verdict=verdict,
        certified=certified,
        refuted=refuted,
        open=undecided,
        seconds=seconds,
        boxes=int(state.boxes[0]),
        unstable=unstable,
        unstable_ratio=unstable / max(1, count),
        clean_error=_clean_error(study),
        sampled=sampled,
        cells=np.stack([low, high], 1),
        states=signs,
        witness=None if point is None else _witness(study, point),
        axes=(family.names[0], family.names[1]),
    )


def _unstable(family: Family) -> tuple[float, int]:
    """Neurons of the network that are not affine, mean over 4 x 4 cells, and how many neurons there are.

    Pixels that the clip bends do not count as neurons.
    """
    network = family.twin.exact
    clips = [i for i in network.relaxed if network.ops[i].node.op == "Clip"]
    ends = [torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * (family.upper - family.lower) + family.lower]
    rows, columns = (ends[0][:, i] for i in (0, 1))
    low = torch.cartesian_prod(rows[:-1], columns[:-1])
    high = torch.cartesian_prod(rows[1:], columns[1:])
    zero = torch.zeros(len(low), dtype=torch.int64)
    with torch.no_grad():
        total = bound_cells(family, low, high, zero).unstable.double()
    if not clips:
        return float(total.mean()), network.neurons
    # contrast is not negative in any rectangle of interest, so the ends of a pixel are at two corners of the cell
    matrix, offset = family.matrix[0], family.offset[0]
    middle, half = offset + (low + high) / 2 @ matrix, (high - low) / 2 @ matrix.abs()
    bent = sum((((middle - half) < kink) & (kink < (middle + half))).double() for kink in (0.0, 1.0))
    pixels = (torch.as_tensor(bent) > 0).double().sum(1)
    return float((total - pixels).clamp(min=0).mean()), network.neurons - sum(
        int(np.prod(network.shapes[network.sources[i][0]])) for i in clips
    )


def _predicted(study: Study, values: np.ndarray) -> np.ndarray:
    tau = Heatmap(1.0) if len(study.network.output) > 2 else Coordinates(1.0)
    return properties.predict(study.network, study.answer(values), tau)


def _clean_error(study: Study) -> float:
    """Mean distance of the chosen key points on the unchanged image, as a share of its side."""
    assert study.target.keypoints is not None
    chosen = study.target.chosen()
    gap = _predicted(study, study.perturbation.identity)[chosen] - study.target.keypoints[chosen]
    return float(np.linalg.norm(gap, axis=1).mean() / study.network.width)


def _witness(study: Study, point: np.ndarray) -> Witness:
    assert study.target.keypoints is not None
    picture = np.round(255 * study.picture(point)).astype(np.uint8)
    predicted, truth = _predicted(study, point), study.target.keypoints
    chosen = study.target.chosen()
    worst = int(chosen[np.abs(predicted - truth)[chosen].max(1).argmax()])
    return Witness(point, picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0), predicted, truth, worst)
