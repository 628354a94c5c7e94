"""The study file: what is trained, pruned and verified, as one checked value.

    name: aircraft23, cnn7 width 16     seeds: [0, 1]            images: 100 (the first ones) or a list of indices
    data: aircraft23                    ratios: [0.5, 0.75]      tau: 0.03    rectangle: medium    timeout: 60
    clock: wall                         (or processor: seconds of computing, for a machine that others use too)
    network: {name: cnn7, width: 16}    budget: {train: 60, finetune: 20}     stages: 1
    limits: [1, 5, 60]                  (seconds at which rates are told; default: shares of timeout)
    focus: usn                          (the arm that the report is about)
    arms:
      dense+ft:                         (an arm without settings)
      random: {draws: 2}
      l2: {ratios: [0.25, 0.5, 0.75]}
    dense: {0: nets/s0.onnx}            (optional: trained networks by seed, beside the study file; other seeds are
                                        trained. budget.train should say how long they were, for small-scratch.)

Arms: `dense` (as trained), `dense+ft` (with the same extra training as the pruned ones), `small-scratch` (the shape of
the `match` arm from new weights, same total training), `random-matched` (random channels, as many per layer as the
`match` arm), and any criterion of `prune`. With `+cert` behind its name an arm is fine-tuned with a loss on bounds as
well (`dense+cert`, `usn+cert`; as many epochs), with the name of an allocation its ratio is shared out over the layers
by that one (`usn+marginal`, `usn-taylor+marginal+cert`). With `+wasserstein` the channels of the next cut are pulled to
constants (L_conc, `pruning.concentration`) in all of the training before the last cut: the epochs are as many, but for
T stages they come in T + 1 equal parts, the first before the first cut.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pruning.options import ALLOCATIONS
from pruning.study.errors import StudyFileError
from verifier.console.arguments import SHARE, tolerance
from verifier.data.options import CROP
from verifier.files.checked import fit
from verifier.files.settings import read_yaml

UNPRUNED = ("dense", "dense+ft", "dense+cert")
MATCHED = ("random-matched", "small-scratch")
RECTANGLES = ("small", "medium", "large")
CLOCKS = ("wall", "processor")
SHARINGS = (*ALLOCATIONS, "dense-first")
"""How a ratio is shared out over the layers, see `pruning.study.allocation`."""
PROPERTIES = ("linf", "heatmap", "label")
MAX_NETWORKS = 10_000


@dataclass(frozen=True)
class VerificationTask:
    """What every image is verified against: data set and split, tolerance, rectangle, seconds per image.

    clock: `wall`, or `processor`: seconds that this process computed (on all its threads), for a machine that others
    use at the same time. The limit and the times of the results go by it. The rest says how pictures enter the network,
    what its outputs mean, and against what they are held, as the options of `secateur compare` do; `device` and
    `memory` (GB, None: no limit) are those of the machine at hand, and not recorded.
    """

    data: str
    tau: float = 0.03
    rectangle: str = "medium"
    timeout: float = 60.0
    clock: str = "wall"
    crop: str = CROP
    pictures: str = ""
    layout: str = "auto"
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output_scale: float | None = None
    output_shift: float | None = None
    reference: str = "gt"
    property: str = ""
    device: str = "cpu"
    memory: float | None = None

    def record(self) -> dict[str, Any]:
        """As JSON, without what is as it has always been: older folders of results can be gone on with."""
        given = asdict(self)
        asked = [f for f in fields(self) if f.name not in ("device", "memory")]
        return {f.name: given[f.name] for f in asked if f.name in _TASK_READERS or given[f.name] != f.default}

    def __post_init__(self) -> None:
        _require(self.clock in CLOCKS, f"clock '{self.clock}'; expected one of {', '.join(CLOCKS)}")
        _require(0 < self.tau < 1, f"tau {self.tau}; expected a share of the image side between 0 and 1")
        _require(0 < self.timeout < math.inf, f"timeout {self.timeout}; expected seconds above 0")
        _require(self.memory is None or self.memory > 0, f"memory {self.memory}; expected GB above 0")
        _require(bool(self.data), "no data set named; expected data: aircraft23, or other pictures")
        _require(bool(self.rectangle), f"no rectangle named; expected one of {', '.join(RECTANGLES)} or ranges")


@dataclass(frozen=True)
class Arm:
    """One treatment. draws: repetitions of its random choice; ratios: its own, where they differ from the study's."""

    name: str
    draws: int = 1
    ratios: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """What it is apart from its suffixes: `dense`, one of MATCHED, or a criterion."""
        return self.name.split("+")[0]

    @property
    def certified(self) -> bool:
        """Whether it is fine-tuned with a loss on bounds."""
        return "cert" in self.name.split("+")[1:]

    @property
    def concentrated(self) -> bool:
        """Whether the loss L_conc runs through its training up to the last cut."""
        return "wasserstein" in self.name.split("+")[1:]

    @property
    def shared(self) -> str:
        """Its own allocation over the layers; empty: the study's."""
        return next((part for part in self.name.split("+")[1:] if part in SHARINGS), "")


def references(focus: str) -> tuple[str, ...]:
    """The unpruned arms that an arm is held against: first the one that was fine-tuned as it was."""
    return ("dense+cert", "dense+ft", "dense") if Arm(focus).certified else ("dense+ft", "dense")


def alike(control: str, focus: str) -> str:
    """The form of a control that was fine-tuned as the focus was: of `random-matched` for `usn+cert` the one with
    `+cert`.
    """
    return f"{control}+cert" if Arm(focus).certified else control


@dataclass(frozen=True)
class EpochBudget:
    """Epochs of training and of fine-tuning, the same for every arm."""

    train: float
    finetune: float

    def __post_init__(self) -> None:
        _require(self.train > 0 and self.finetune >= 0, f"budget {self}; expected train above 0, finetune 0 or more")


@dataclass(frozen=True)
class Study:
    """A whole study. `match`: the arm whose layer widths random-matched and small-scratch take; `focus`: the arm that
    the report is about; `limits`: seconds at which it tells rates, from the one run at the task's timeout.

    dense: files of trained networks by seed, taken as the dense ones of those seeds instead of training them.
    """

    name: str
    task: VerificationTask
    images: tuple[int, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    budget: EpochBudget
    network: Mapping[str, Any] = field(default_factory=dict)
    stages: int = 1
    match: str = "usn"
    focus: str = "usn"
    limits: tuple[float, ...] = ()
    shuffle: int = 0
    dense: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        _require(bool(names), "no arms; name at least one")
        _unique("arms", names)
        _unique("seeds", self.seeds)
        _unique("images", self.images)
        _require(all(i >= 0 for i in self.images), "an image index is negative; indices start at 0")
        _require(self.stages >= 1, f"stages {self.stages}; expected 1 or more")
        fine = list(self.limits) == sorted(set(self.limits)) and all(0 < t <= self.task.timeout for t in self.limits)
        _require(fine, f"limits {list(self.limits)}; expected rising seconds up to the timeout {self.task.timeout:g}")
        lost = sorted(set(self.dense) - set(self.seeds))
        _require(not lost, f"dense: names a network for seeds {lost}, which are not in seeds {list(self.seeds)}")
        for arm in self.arms:
            self._check_arm(arm, names)
        count = len(self.seeds) * sum(a.draws * max(1, len(self.ratios_of(a))) for a in self.arms)
        _require(count <= MAX_NETWORKS, f"{count} networks; expected at most {MAX_NETWORKS}")

    def ratios_of(self, arm: Arm) -> tuple[float, ...]:
        """The ratios of an arm; none for an unpruned one."""
        return () if arm.name in UNPRUNED else (arm.ratios or self.ratios)

    def _check_arm(self, arm: Arm, names: list[str]) -> None:
        _require(1 <= arm.draws <= 1000, f"arm {arm.name}: draws {arm.draws}; expected 1 to 1000")
        ranked = (*SHARINGS, "wasserstein", "cert")
        known = ("ft", "cert") if arm.kind == "dense" else ("cert",) if arm.kind in MATCHED else ranked
        suffixes = arm.name.split("+")[1:]
        for suffix in suffixes:
            _require(suffix in known, f"arm {arm.name}: unknown '+{suffix}'; expected one of +{', +'.join(known)}")
        once = len(set(suffixes)) == len(suffixes) and len(set(suffixes) & set(SHARINGS)) <= 1
        _require(once, f"arm {arm.name}: more than one allocation, or +cert twice; expected such as usn+marginal+cert")
        _require(arm.name in UNPRUNED or arm.kind != "dense", f"arm {arm.name}: expected one of {', '.join(UNPRUNED)}")
        ratios = self.ratios_of(arm)
        _unique(f"ratios of arm {arm.name}", ratios)
        _require(all(0 < r < 1 for r in ratios), f"arm {arm.name}: ratios {ratios}; expected shares above 0, below 1")
        _require(bool(ratios) or arm.name in UNPRUNED, f"arm {arm.name} has no ratio; give ratios: [0.5]")
        if arm.kind in MATCHED:
            _require(self.match in names, f"arm {arm.name} takes its widths from arm {self.match}; add that arm")
            held = self.ratios_of(next(a for a in self.arms if a.name == self.match))
            lost = sorted(set(ratios) - set(held))
            _require(not lost, f"arm {arm.name}: ratios {lost} are missing in arm {self.match}, whose widths it takes")

    def fixed(self) -> dict[str, Any]:
        """What may not change when a study is continued; arms, ratios, seeds and images may grow."""
        return {
            "task": self.task.record(),
            "network": dict(self.network),
            "budget": asdict(self.budget),
            "stages": self.stages,
            "match": self.match,
        }

    def digest(self) -> str:
        """Short hash of the whole study."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:12]


def load(path: str | Path) -> Study:
    """Read a study file; StudyFileError names the file, the key, what was found and what was expected."""
    value = read_yaml(path, "the study", StudyFileError)
    try:
        spec = parse(value)
        beside = Path(path).resolve().parent
        return replace(spec, dense={seed: str(beside / file) for seed, file in spec.dense.items()})
    except StudyFileError as error:
        raise StudyFileError(f"{path}: {error}") from None


def parse(value: Any) -> Study:
    """A study from the content of its file."""
    top = _mapping("the study", value, (*(f.name for f in fields(Study) if f.name != "task"), *_TASK_READERS))
    for key in ("name", "data", "images", "arms", "seeds", "budget"):
        _require(key in top, f"'{key}' is missing")
    budget = _mapping("budget", top["budget"], ("train", "finetune"))
    _require(len(budget) == 2, "budget needs both train and finetune (epochs)")
    return Study(
        task=VerificationTask(**{key: read(key, top[key]) for key, read in _TASK_READERS.items() if key in top}),
        images=_images(top["images"]),
        arms=tuple(_arm(name, settings) for name, settings in _arms(top["arms"])),
        seeds=tuple(_integer("seeds", s) for s in _list("seeds", top["seeds"])),
        ratios=tuple(_number("ratios", r) for r in _list("ratios", top.get("ratios", []))),
        budget=EpochBudget(**{k: _number(f"budget.{k}", v) for k, v in budget.items()}),
        network=_plain("network", top.get("network", {})),
        limits=tuple(_number("limits", limit) for limit in _list("limits", top.get("limits", []))),
        dense=_dense(top.get("dense", {})),
        **{key: read(key, top[key]) for key, read in _PLAIN_READERS.items() if key in top},
    )


def with_images(spec: Study, count: int) -> Study:
    """The study on its first `count` images."""
    return replace(spec, images=spec.images[:count])


def _arms(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list):
        return [(_text("arms", name), None) for name in value]
    return list(_mapping("arms", value, None).items())


def _arm(name: str, settings: Any) -> Arm:
    given = _mapping(f"arm {name}", {} if settings is None else settings, ("draws", "ratios"))
    ratios = tuple(_number("ratios", r) for r in _list(f"arm {name}: ratios", given.get("ratios", [])))
    return Arm(name, _integer(f"arm {name}: draws", given.get("draws", 1)), ratios)


def _dense(value: Any) -> dict[int, str]:
    if not isinstance(value, dict):
        raise StudyFileError(f"dense: found {value!r:.60}, expected a file for some seeds, such as {{0: nets/s0.onnx}}")
    return {_integer("dense: seed", seed): _text(f"dense.{seed}", file) for seed, file in value.items()}


def _images(value: Any) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(_integer("images", v) for v in value)
    count = _integer("images", value)
    _require(1 <= count <= 1_000_000, f"images: {count}; expected 1 to 1000000, or a list of indices")
    return tuple(range(count))


def _mapping(what: str, value: Any, known: tuple[str, ...] | None) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise StudyFileError(f"{what}: found {type(value).__name__}, expected names with values (name: value)")
    for key in value:
        if known is not None and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
            raise StudyFileError(f"{what}: unknown key '{key}': {hint}")
    return value


def _plain(what: str, value: Any) -> dict[str, Any]:
    given = _mapping(what, value, None)
    for key, item in given.items():
        _require(
            isinstance(item, str | int | float | bool), f"{what}.{key}: found {item!r}, expected a number or a word"
        )
    return given


def _list(what: str, value: Any) -> list[Any]:
    _require(isinstance(value, list), f"{what}: found {value!r}, expected a list such as [0, 1]")
    return list(value)


def _integer(what: str, value: Any) -> int:
    return int(fit(what, value, int, StudyFileError))


def _number(what: str, value: Any) -> float:
    number = float(fit(what, value, float, StudyFileError))
    _require(math.isfinite(number), f"{what}: found {number}, expected a number")
    return number


def _share(what: str, value: Any) -> float:
    """A share of the image side, also written as percent: 0.03 or 3%."""
    if not isinstance(value, str):
        return _number(what, value)
    try:
        found = tolerance(value, SHARE)
    except ArgumentTypeError as error:
        raise StudyFileError(f"{what}: {error}") from None
    if found.unit != SHARE:
        raise StudyFileError(f"{what}: found {value!r:.60}, expected a share of the image side, such as 3%")
    return found.value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 300 or not value.isprintable():
        raise StudyFileError(f"{what}: found {value!r:.60}, expected a short text")
    return value


# what a study file says of the task; the rest is for given networks
_TASK_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "data": _text, "tau": _share, "rectangle": _text, "timeout": _number, "clock": _text,
}  # fmt: skip
_PLAIN_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "name": _text, "stages": _integer, "match": _text, "focus": _text, "shuffle": _integer,
}  # fmt: skip


def _unique(what: str, values: Any) -> None:
    _require(len(set(values)) == len(values), f"{what}: something is named twice in {list(values)[:20]}")
    if what in ("seeds", "images"):
        _require(bool(values), f"{what}: empty; give at least one")


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise StudyFileError(message)
