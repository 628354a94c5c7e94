"""What can be chosen, as values that are checked when they are made; light, so that a command line can show them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruning.errors import CriterionError, RatioError

if TYPE_CHECKING:
    from pruning.groups import Group

MODES = ("post-training", "one-shot", "progressive", "lottery")
ALLOCATIONS = ("uniform", "global", "mrs", "marginal")
MRS_FORMS = ("prune", "weights")
NORMS = ("layer-median", "layer-rank", "none")
FOLDS = ("zero", "mean", "graft", "sound")
BORDERS = ("interior", "exact")
RESCALES = ("none", "silent", "all")
CERTIFIED_BOUNDS = ("interval", "affine")
SPANS = ("warm-up", "all")
STABILITIES = ("none", "rs", "nrs")
BLOCKS = "layer"
"""The criterion that drops whole residual blocks; all others rank channels."""


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """CriterionError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise CriterionError(f"{name} '{value}' is unknown; expected one of {', '.join(map(str, allowed))}")


def share(ratio: float) -> float:
    """The same ratio; RatioError unless 0 <= ratio < 1."""
    if not 0 <= ratio < 1:
        raise RatioError(f"ratio {ratio:g}; expected 0 <= ratio < 1 (1 would empty every layer)")
    return ratio


@dataclass(frozen=True)
class ChannelFloor:
    """What stays in every group at least: max(`channels`, `fraction` of them), never less than one."""

    channels: int = 4
    fraction: float = 0.25
    by_name: Mapping[str, int] | None = None  # numbers that replace the rule, by group name

    def __post_init__(self) -> None:
        if self.channels < 1 or not 0 <= self.fraction <= 1:
            raise RatioError(f"floor of {self.channels} channels and {self.fraction:g}; expected at least 1 and 0..1")

    def least(self, group: Group) -> int:
        """Channels of this group that stay."""
        if self.by_name is not None and group.name in self.by_name:
            return min(len(group.channels), self.by_name[group.name])
        return min(len(group.channels), max(self.channels, math.ceil(self.fraction * len(group.channels) - 1e-9)))


@dataclass(frozen=True)
class ScoreOptions:
    """Settings of the criteria; the formulas say which one reads which.

    `mask_ratio` is the share that the inner masks of `refill` and `hydra` take; use the ratio that will be pruned. The
    oracles (see `pruning.scores.certified`) take the place of the verifier's bounds; `rs` and `nrs` use sampled ranges
    without one.
    """

    seed: int = 0
    stability_exponent: int = 0
    aggregate: str = "mean"
    join: str = "mean"
    bias: str = "shift"
    cells: int = 4
    mask_ratio: float = 0.5
    batches: int = 8
    batch_size: int = 32
    interval_oracle: Callable[..., Any] | None = None
    slope_oracle: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        one_of("aggregate", self.aggregate, ("mean", "q90"))
        one_of("join", self.join, ("mean", "min"))
        one_of("bias", self.bias, ("shift", "centred"))
        one_of("stability exponent", self.stability_exponent, (0, 1))


@dataclass(frozen=True)
class TrainOptions:
    """Settings of the training modes.

    wasserstein: the concentration loss starts at this share of the task loss; wasserstein_span: it runs in a `warm-up`
    before each cut, or in `all` training before the last cut, between two cuts on the channels of the next; separation
    and across: weights of the optional terms relative to it; stability: none, rs or nrs with weight `stability_weight`
    (VITA's 0.01 for adversarial training); consistency: weight of |f(x') - f(x)|^2; certified: weight of the task loss
    of the bounds (certified_bounds: `affine` in the parameters, or `interval`) over a random sub-rectangle of S per
    image, whose sides grow to `cell` times those of S while the weight does (`pruning.curriculum`); exposure: training
    uses S enlarged by this factor; rescale: see `pruning.apply`.
    """

    mode: str = "one-shot"
    epochs: int = 10
    stages: int = 4
    batch_size: int = 64
    rate: float = 1e-3
    max_drop: float = 0.1
    wasserstein: float = 0.3
    wasserstein_span: str = SPANS[0]
    separation: float = 0.0
    across: float = 0.0
    stability: str = "none"
    stability_weight: float = 0.01
    consistency: float = 0.0
    certified: float = 0.0
    certified_bounds: str = "affine"
    cell: float = 1 / 16
    exposure: float = 1.5
    calibration: int = 256
    rescale: str = "silent"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES[1:])
        one_of("wasserstein span", self.wasserstein_span, SPANS)
        one_of("stability", self.stability, STABILITIES)
        one_of("certified bounds", self.certified_bounds, CERTIFIED_BOUNDS)
        one_of("rescale", self.rescale, RESCALES)
        if self.epochs < 1 or self.stages < 1 or self.batch_size < 1:
            raise CriterionError("epochs, stages and batch size must be at least 1")


TARGET = "error<=+10%,certify<=5s"
"""What a target looks like."""
TARGET_VERIFIED = 8
"""Images that each network within the error of a target is verified on."""


@dataclass(frozen=True)
class PruneTarget:
    """error: most, as a multiple of that of the given network; seconds: of processor time that the verifier gets for
    each image.
    """

    error: float
    seconds: float

    @staticmethod
    def parse(text: str) -> PruneTarget:
        """Read `error<=+10%,certify<=5s`; CriterionError for anything else."""
        match = re.fullmatch(r"error<=\+?(\d+(?:\.\d+)?)%,certify<=(\d+(?:\.\d+)?)s", re.sub(r"\s", "", text))
        if match is None or not 0 < float(match[2]) < float("inf"):
            raise CriterionError(
                f"--target '{text[:60]}'; expected such as '{TARGET}': how much the error may rise, and the seconds of "
                "processor time per image within which as much as possible is to be certified"
            )
        return PruneTarget(1 + float(match[1]) / 100, float(match[2]))


@dataclass(frozen=True)
class PruneOptions:
    """Everything that `pruning.prune` can be told; the command `prune` fills one in.

    criterion: a name of `pruning.CRITERIA`, or `layer`, which drops whole residual blocks; ratio: share of the channels
    (blocks) to remove; mode: `post-training`, or the training around pruning. allocation: ratio per layer, for `mrs` by
    a sensitivity of the form `mrs_form`, for `marginal` by what the next channels cost in certified loss; norm: makes
    layers comparable for `global`. stream: also prune channels joined by residual sums; keep: nodes never pruned;
    floor: what stays of every layer; guard: protects this top share of channels by taylor. unstructured: zero single
    weights instead. fold, border, rescale: see `pruning.apply`; None takes `mean` with data, else `zero`; `exact`
    post-training, else `interior`; `all` post-training with fold `mean`, `silent` channels before fine-tuning. images:
    of the data, on which scores and constants are measured.
    scores, training: the settings of criteria and training; `mode`, `images`, `rescale` and `seed` given here hold in
    them as well.
    """

    criterion: str = "usn"
    ratio: float = 0.5
    mode: str = MODES[0]
    allocation: str = "uniform"
    mrs_form: str = "prune"
    norm: str = "layer-median"
    stream: bool = False
    keep: tuple[str, ...] = ()
    floor: ChannelFloor = field(default_factory=ChannelFloor)
    guard: float = 0.0
    unstructured: bool = False
    fold: str | None = None
    border: str | None = None
    rescale: str | None = None
    images: int = 256
    seed: int = 0
    scores: ScoreOptions = field(default_factory=ScoreOptions)
    training: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        share(self.ratio)
        one_of("mode", self.mode, MODES)
        one_of("allocation", self.allocation, ALLOCATIONS)
        one_of("mrs form", self.mrs_form, MRS_FORMS)
        one_of("norm", self.norm, NORMS)
        one_of("fold", self.fold, (None, *FOLDS))
        one_of("border", self.border, (None, *BORDERS))
        one_of("rescale", self.rescale, (None, *RESCALES))
        if not 0 <= self.guard < 1:
            raise RatioError(f"guard {self.guard:g}; expected a share between 0 and 1")

    @property
    def trains(self) -> bool:
        """Whether there is training around the pruning."""
        return self.mode != MODES[0]
