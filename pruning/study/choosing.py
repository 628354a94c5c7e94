"""Which pruned network to ship (`prune --target`): the one that certifies most within an error and a time per image.

Ratios and allocations are tried in turn; a fifth of the images is kept from scores and training and judges them. An
allocation is left at the first ratio that exceeds the error, since a network does not become more accurate by losing
more channels, after one attempt between that ratio and the one before. What stays within it is verified, the given
network as well, and the largest certified area wins; of equal ones the smallest network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from pruning import api, onnx_io, runs
from pruning.api import PrunedModel
from pruning.calibration import Calibration
from pruning.cost import cost
from pruning.errors import DataError, PruneError
from pruning.measure import error
from pruning.net import Net
from pruning.normalised import given
from pruning.options import TARGET_VERIFIED, PruneOptions, PruneTarget
from verifier.budget import Budget
from verifier.console.arguments import Tolerance
from verifier.data.frame import PIXELS, Frame, Head
from verifier.engine.on_device import device_of
from verifier.semantic import Coordinates, Label, Target, network, prepare
from verifier.semantic.coverage_search import CERTIFIED, CoverageLimits, cover
from verifier.semantic.family import from_problems
from verifier.semantic.properties import Property

RATIOS = (0.25, 0.5, 0.75, 0.9)
SHARED = ("uniform", "global", "marginal")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network with its figures on the images kept aside: error (root mean square in the unit of the outputs, or share
    of wrong classes), certified share of S (mean) and images certified in full; None where it was not verified.
    """

    label: str
    model: PrunedModel
    error: float
    certified: float | None = None
    full: int | None = None


@dataclass(frozen=True, eq=False)
class HeldImages:
    """Error and certified share of networks on some labelled images."""

    data: Calibration
    seconds: float
    tau: Tolerance
    frame: Frame
    head: Head

    def error(self, net: Net) -> float:
        """See `Candidate`."""
        found = error(net, self.data)
        return found if self.data.need_labels("--target").dtype.kind != "f" else float(np.sqrt(found))

    def certified(self, net: Net) -> tuple[float, int]:
        """Mean certified share of S, and images of which all of S is certified, within the seconds of each."""
        frame, shares = self.frame, []
        read = network.load(onnx_io.to_bytes(net), channels=frame.channels, layout=frame.layout)
        labels = self.data.need_labels("--target")
        for image, label in zip(self.data.images[:TARGET_VERIFIED], labels[:TARGET_VERIFIED], strict=True):
            target, prop = self._asked(label)
            problem = prepare(read, frame.restore(image).astype(np.float64), target, self.data.semantic, prop)
            budget = Budget.of(self.seconds, None, time.process_time)
            state = cover(from_problems([problem], device_of("cpu")), CoverageLimits(0.0), budget)
            shares.append(float(state.shares(CERTIFIED)[0]))
        return float(np.mean(shares)), sum(share == 1.0 for share in shares)

    def _asked(self, label: np.ndarray) -> tuple[Target, Property]:
        """All key points in the frame stay within the tolerance, or the class stays."""
        if label.dtype.kind != "f":
            return Target(label=int(label)), Label()
        points = self.head.pixels(label.astype(np.float64))
        inside = ((points >= 0) & (points <= (self.frame.width, self.frame.height))).all(1)
        return Target(points, np.where(inside, 2, 0)), Coordinates(self.tau.pixels(self.frame.width), head=self.head)


def choose(
    net: Net, data: Calibration | None, options: PruneOptions, target: PruneTarget, tau: Tolerance,
    frame: Frame, head: Head | None = None, say: Callable[[str], None] = print,
) -> tuple[PrunedModel, tuple[Candidate, ...]]:  # fmt: skip
    """The network to ship, and all that were tried, the given one first.

    Its record holds the figures of all and the reason under `target`. Raises DataError without labelled pictures in
    [0, 1] or without a rectangle.
    """
    fit, held = _parts(net, data)
    judge = HeldImages(held, target.seconds, tau, frame, head or PIXELS)
    start = PrunedModel(net, net, net, None, MappingProxyType({"tool": api.TOOL, "ratio": 0.0, "carries_over": True}))
    tried = [Candidate("as given", start, judge.error(net))]
    most = target.error * tried[0].error
    say(f"as given: error {tried[0].error:.4g}, at most {most:.4g} is allowed; judged on {len(held.images)} images")
    for shared in SHARED:
        tried += _search(net, fit, replace(options, allocation=shared), judge, most, say)
    for index, candidate in enumerate(tried):
        if candidate.error <= most:
            share, full = judge.certified(candidate.model.net)
            tried[index] = replace(candidate, certified=share, full=full)
            say(f"{candidate.label}: {share:.1%} of S certified within {target.seconds:g} s per image, {full} in full")
    best = max((c for c in tried if c.certified is not None), key=_rank)
    reason = _reason(best, tried, target, min(TARGET_VERIFIED, len(held.images)))
    say(f"ship {best.label}: {reason}")
    record = {
        **best.model.sidecar,
        "target": {
            "error": target.error, "seconds": target.seconds, "tau": f"{tau.value:g} {tau.unit}", "chosen": best.label,
            "reason": reason,
            "tried": [{"name": c.label, "error": c.error, "certified": c.certified, "full": c.full} for c in tried],
        },
    }  # fmt: skip
    return replace(best.model, sidecar=MappingProxyType(record)), tuple(tried)


def _search(
    net: Net, fit: Calibration, options: PruneOptions, judge: HeldImages, most: float, say: Callable[[str], None]
) -> list[Candidate]:
    """Networks of one allocation: ratios rising until one has too large an error, then one between the last two."""
    found, left, last = list[Candidate](), list(RATIOS), 0.0
    while left:
        ratio = left.pop(0)
        made = _made(net, fit, replace(options, ratio=ratio), say)
        if made is None:
            break
        candidate = Candidate(f"{ratio:.0%} {options.allocation}", made, judge.error(made.net))
        found.append(candidate)
        fits = candidate.error <= most
        say(f"{candidate.label}: error {candidate.error:.4g}{'' if fits else ', too much'}")
        if ratio not in RATIOS:
            break
        if not fits:
            left = [round((last + ratio) / 2, 3)]
        last = ratio
    return found


def _parts(net: Net, data: Calibration | None) -> tuple[Calibration, Calibration]:
    """Four fifths to prune with, one to judge by."""
    if data is None:
        raise DataError("--target judges networks by labelled pictures and needs --data")
    data.need_labels("--target")
    data.need_range("--target")
    if not data.semantic.clip:
        raise DataError("--target verifies pictures in [0, 1]; these leave it (give --mean and --std, not scaled data)")
    if len(data.images) < 20:
        raise DataError(f"{len(data.images)} labelled pictures; --target needs at least 20")
    count, data = len(data.images) // 5, data.fitted(net)
    return data.part(slice(0, -count)), data.part(slice(-count, None))


def _made(net: Net, fit: Calibration, options: PruneOptions, say: Callable[[str], None]) -> PrunedModel | None:
    """The pruned network; None, and the reason said, where it cannot be made like this."""
    try:
        return runs.prune(net, fit, options)
    except PruneError as refusal:
        say(f"{options.ratio:.0%} {options.allocation}: {refusal}")
        return None


def _rank(candidate: Candidate) -> tuple[float, float]:
    return candidate.certified or 0.0, -float(cost(given(candidate.model.net)).parameters)


def _reason(best: Candidate, tried: list[Candidate], target: PruneTarget, images: int) -> str:
    start, within = tried[0], [c for c in tried if c.certified is not None]
    rise = f"{best.error / start.error - 1:+.1%}" if start.error else f"{best.error:.4g}"
    in_full = f"{best.full} of {images} in full"
    found = f"{best.certified:.1%} of S is certified within {target.seconds:g} s per image ({in_full})"
    if best is start:
        return f"{found}, and none of the {len(within) - 1} pruned networks with so small an error certifies more"
    if best.certified == start.certified:
        smaller = 1 - cost(given(best.model.net)).parameters / max(1, cost(given(start.model.net)).parameters)
        return f"{found}, as much as of the given one, with {smaller:.0%} fewer parameters; its error is {rise}"
    return (
        f"{found}, the most of {len(within)} networks with an error of at most {target.error - 1:+.0%}; the given one "
        f"has {start.certified:.1%} ({start.full} in full); its error is {rise}"
    )
