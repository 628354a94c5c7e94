"""One network, one image: certified coverage by the verifier, checked against samples.

The search first runs until 1 % of the rectangle is open. It goes on until nothing is open only where no violation was
found so far, because only there the image can still be certified in full. Both parts share the time limit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from pruning.study.hands import ImageVerdict, PictureWitness
from pruning.study.spec import VerificationTask
from verifier.budget import Budget, memory_limit
from verifier.data import source, unchanged
from verifier.data.frame import PIXELS, Frame, Head
from verifier.data.source import PictureSource
from verifier.data.unchanged import UnchangedAnswer
from verifier.engine.on_device import device_of
from verifier.errors import UnsoundError
from verifier.progress import Progress
from verifier.semantic import (
    Coordinates,
    Heatmap,
    Label,
    Perturbation,
    SemanticProblem,
    Target,
    network,
    prepare,
    properties,
    sources,
)  # fmt: skip
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, State, audit, cover
from verifier.semantic.family import Family, bound_cells, from_problems
from verifier.semantic.network import ImageNetwork
from verifier.semantic.problem import unchanged as clean
from verifier.semantic.properties import Property
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

TRACED = 0.005
"""Of the rectangle: how much more has to be certified for another point of the trace."""

CELLS = 16
"""Parts of the set in which unstable neurons are counted."""

DESCRIBED = 100
"""Pictures whose unchanged answer is told before a comparison."""

CLOCKS = {"wall": time.monotonic, "processor": time.process_time}


@dataclass
class Images:
    """The pictures of a task's data, each read once (of aircraft23 those of the test split)."""

    task: VerificationTask
    held: dict[tuple[int, Frame], Example] = field(default_factory=dict)

    @cached_property
    def source(self) -> PictureSource:
        """What `--data` names."""
        folder = Path(self.task.pictures) if self.task.pictures else None
        found = source.find(self.task.data, crop=self.task.crop, folder=folder)
        if self.task.reference == "gt":
            sources.check_truth(found)
        return found

    def check(self) -> None:
        """SecateurError if there are no such data."""
        _ = self.source.count

    def example(self, net: ImageNetwork, index: int) -> Example:
        """Picture `index` at the size that `net` takes. ProblemError if there is none."""
        key = (index, net.frame)
        if key not in self.held:
            self.held[key] = sources.examples(net, self.source, [index])[0]
        return self.held[key]


@lru_cache(maxsize=64)
def _loaded(
    path: Path, stamp: tuple[int, int], layout: str, channels: int | None, mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> ImageNetwork:  # fmt: skip
    return network.load(path, layout=layout, channels=channels, mean=mean, std=std)


def open_network(path: Path, task: VerificationTask) -> ImageNetwork:
    """A network as the task has it; one that has been read before is kept."""
    held = path.stat()
    stamp = (held.st_mtime_ns, held.st_size)
    return _loaded(path, stamp, task.layout, task.channels, task.mean, task.std)


def describe(
    models: Sequence[Path], images: Images, indices: Sequence[int], task: VerificationTask, semantic: Perturbation
) -> list[str]:
    """See `hands.Describe`: of up to 100 pictures."""
    lines: list[str] = []
    for path in models:
        net = open_network(path, task)
        note = images.source.note(net.frame)
        lines += [] if note in lines else [note]
        answers = []
        for index in indices[:DESCRIBED]:
            problem = _problem(net, images.example(net, index), task, semantic)
            answers.append(_answer(problem, images.example(net, index), task))
        lines.append(f"{path.stem}: {unchanged.line(answers)}")
        lines += [f"secateur compare: warning: {path.stem}: {text}" for text in unchanged.warnings(answers)]
    return lines


def verify(model: Path, images: Images, index: int, task: VerificationTask, semantic: Perturbation) -> ImageVerdict:
    """The answer for one image; UnsoundError if a sample contradicts it."""
    net = open_network(model, task)
    example = images.example(net, index)
    problem = _problem(net, example, task, semantic)
    clock = CLOCKS[task.clock]
    began = clock()
    budget = Budget.of(task.timeout, None if task.memory is None else memory_limit(task.memory), clock)
    family = from_problems([problem], device_of(task.device))
    trace: list[tuple[float, float]] = []

    def watch(progress: Progress) -> None:
        certified = progress.certified or 0.0
        if certified >= TRACED + (trace[-1][1] if trace else 0.0):
            trace.append((clock() - began, certified))

    state = cover(family, CoverageLimits(OPEN_SHARE), budget, progress=watch)
    witness = None
    if state.shares(CERTIFIED)[0] < 1:
        witness = _violation(family, problem, state, _grid(family, 11))
    if witness is None and state.shares(OPEN)[0] > 0 and not state.shares(REFUTED)[0] and not budget.expired():
        state = cover(family, CoverageLimits(0.0), budget, state, progress=watch)
    seconds = clock() - began
    trace.append((seconds, float(state.shares(CERTIFIED)[0])))
    points = _grid(family, SIDE)
    margins = _margins(family, points)
    audit(family, state, AUDITED)
    _no_violation_in_certified_cells(family, state, points[margins < -NOISE], index)
    if witness is None and state.shares(CERTIFIED)[0] < 1:
        witness = _violation(family, problem, state, points[np.argsort(margins)[:8]])
    certified = bool(state.shares(OPEN)[0] == 0 and state.shares(REFUTED)[0] == 0)
    if certified:
        _random_points_hold(problem, index)
    verdict = "certified" if certified else "open" if witness is None else "refuted"
    sampled = float((margins > -NOISE).mean())
    found = _outcome(family, problem, example, task, state, verdict, seconds, sampled, witness)
    return replace(found, trace=tuple(trace))


def _property(net: ImageNetwork, target: Target | None, task: VerificationTask) -> Property:
    """The property of the task; without one key points as heatmaps or coordinates, or the class, as the truth is."""
    tau = task.tau * net.width
    classes = target is not None and target.keypoints is None and target.label is not None
    kind = task.property or ("heatmap" if len(net.output) > 2 else "label" if classes else "linf")
    if kind == "label":
        return Label()
    if kind == "heatmap":
        return Heatmap(tau)
    return Coordinates(tau, head=Head.given(task.output_scale, task.output_shift) or PIXELS)


def _problem(net: ImageNetwork, example: Example, task: VerificationTask, semantic: Perturbation) -> SemanticProblem:
    prop = _property(net, example.target, task)
    return prepare(net, example.image, example.target, semantic, prop, reference=task.reference)


def _answer(problem: SemanticProblem, example: Example, task: VerificationTask) -> UnchangedAnswer:
    """What the network says to the unchanged picture."""
    return clean(problem, _property(problem.network, example.target, task), example.target)


def _grid(family: Family, side: int) -> np.ndarray:
    low, high = (np.asarray(t.cpu())[0] for t in (family.lower, family.upper))
    edges = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*edges, indexing="ij"), -1).reshape(-1, len(low))


def _margins(family: Family, points: np.ndarray) -> np.ndarray:
    """Pixels left until the property is violated, at parameter points (P, d); negative beyond."""
    with torch.no_grad():
        parts = [
            family.margins(p, torch.zeros(len(p), dtype=torch.int64, device=family.device))
            for p in torch.from_numpy(points).to(family.device).split(256)
        ]
    return torch.cat(parts).cpu().numpy()


def _violation(family: Family, problem: SemanticProblem, state: State, points: np.ndarray) -> np.ndarray | None:
    """A parameter point at which ONNX Runtime, on the image's own file, violates the property; None if none was found.

    Candidates: the given points and the centres of refuted cells, the worst first.
    """
    cells = state.of(REFUTED)
    if len(cells):
        low, high = cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
        points = np.concatenate([points, ((low + high) / 2)[np.argsort(cells.depth, kind="stable")[:8]]])
    margins = _margins(family, points)
    order = np.argsort(margins)[:8]
    found = family.judges[0](points[order[margins[order] <= 0]]) if (margins <= 0).any() else None
    if found is None:
        return None
    values = np.array(found.x[: family.inputs], np.float64)
    return values if problem.excess(values) > 0 else None


def _no_violation_in_certified_cells(family: Family, state: State, bad: np.ndarray, index: int) -> None:
    cells = state.of(CERTIFIED)
    low, high = cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    for point in bad:
        if ((low <= point) & (point <= high)).all(1).any():
            raise UnsoundError(f"image {index}: the property is violated at {point.tolist()}, inside a certified cell")


def _random_points_hold(problem: SemanticProblem, index: int) -> None:
    """ONNX Runtime on the network itself at random points of the rectangle of a certified image."""
    rng = np.random.default_rng([index, 11])
    low, high = problem.perturbation.box.T
    worst, at = -np.inf, low
    for values in low + rng.random((POINTS, len(low))) * (high - low):
        excess = problem.excess(values)
        if excess > worst:
            worst, at = excess, values
    if worst > NOISE:
        raise UnsoundError(
            f"image {index}: certified, but ONNX Runtime exceeds the tolerance by {worst:g} at {at.tolist()}"
        )


def _outcome(
    family: Family, problem: SemanticProblem, example: Example, task: VerificationTask, state: State, verdict: str,
    seconds: float, sampled: float, point: np.ndarray | None,
) -> ImageVerdict:  # fmt: skip
    low, high = state.cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    signs = np.zeros(len(state.status), np.int8)
    signs[state.status == CERTIFIED], signs[state.status == REFUTED] = 1, -1
    certified, refuted, undecided = (float(state.shares(s)[0]) for s in (CERTIFIED, REFUTED, OPEN))
    unstable, count = _unstable(family)
    return ImageVerdict(
        verdict=verdict,
        certified=certified,
        refuted=refuted,
        open=undecided,
        seconds=seconds,
        boxes=int(state.boxes[0]),
        unstable=unstable,
        unstable_ratio=unstable / max(1, count),
        clean_error=_clean_error(_answer(problem, example, task), problem.network.width),
        sampled=sampled,
        cells=np.stack([low, high], 1) if family.inputs == 2 else None,
        states=signs if family.inputs == 2 else None,
        witness=None if point is None or problem.target.keypoints is None else _witness(problem, point, task),
        axes=family.names,
    )


def _unstable(family: Family) -> tuple[float, int]:
    """Neurons of the network that are not affine, mean over at most `CELLS` cells, and how many neurons there are.

    Pixels that the clip bends do not count as neurons.
    """
    network = family.twin.exact
    clips = [i for i in network.relaxed if network.ops[i].node.op == "Clip"]
    parts = max(1, int(CELLS ** (1 / family.inputs)))
    side = torch.linspace(0, 1, parts + 1, dtype=torch.float64, device=family.device)[:, None]
    ends = side * (family.upper - family.lower) + family.lower
    low, high = (torch.cartesian_prod(*part.unbind(1)).reshape(-1, family.inputs) for part in (ends[:-1], ends[1:]))
    zero = torch.zeros(len(low), dtype=torch.int64, device=family.device)
    with torch.no_grad():
        total = bound_cells(family, low, high, zero).unstable.double()
    if not clips:
        return float(total.mean()), network.neurons
    cell = family.image.over((low + high) / 2, (high - low) / 2, zero)
    middle = cell.value
    half = torch.bmm((high - low)[:, None] / 2, cell.slopes.abs())[:, 0] + cell.shared.abs().sum(1) + cell.slack
    bent = sum((((middle - half) < kink) & (kink < (middle + half))).double() for kink in (0.0, 1.0))
    pixels = (torch.as_tensor(bent) > 0).double().sum(1)
    return float((total - pixels).clamp(min=0).mean()), network.neurons - sum(
        int(np.prod(network.shapes[network.sources[i][0]])) for i in clips
    )


def _clean_error(answer: UnchangedAnswer, width: int) -> float:
    """Mean distance of the chosen key points on the unchanged image, as a share of its side; of a class 0 or 1."""
    if isinstance(answer.found, int):
        return float(answer.truth is not None and answer.found != answer.truth)
    return float(answer.errors.mean() / width) if len(answer.errors) else 0.0


def _witness(problem: SemanticProblem, point: np.ndarray, task: VerificationTask) -> PictureWitness:
    assert problem.target.keypoints is not None
    picture = np.round(255 * problem.picture(point)).astype(np.uint8)
    prop = _property(problem.network, problem.target, task)
    predicted, truth = properties.predict(problem.network, problem.answer(point), prop), problem.target.keypoints
    chosen = problem.target.chosen()
    worst = int(chosen[np.abs(predicted - truth)[chosen].max(1).argmax()])
    return PictureWitness(
        point, picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0), predicted, truth, worst
    )
