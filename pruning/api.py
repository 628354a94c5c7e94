"""The three calls: `score`, `plan`, `apply`, on immutable values; `load` and `save` around them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pruning import onnx_io
from pruning.agreement import agreement
from pruning.calibration import Calibration, channel_means
from pruning.cost import NetworkCost, cost
from pruning.errors import CriterionError, DataError
from pruning.fold import Constants, fold, readers
from pruning.graft import fit_lines, graft
from pruning.groups import Groups, find_groups
from pruning.net import Net
from pruning.normalised import given, normalised
from pruning.options import BORDERS, FOLDS, RESCALES, ChannelFloor, ScoreOptions, one_of
from pruning.planning import Plan, make_plan
from pruning.rescale import restored
from pruning.scores import Scores, score_groups
from pruning.sound import centres, intervals, transfer_bound
from pruning.surgery import mask, remove
from verifier.brief import brief
from verifier.data import networks
from verifier.data.frame import Frame
from verifier.errors import OutputError
from verifier.files.whole import write

TOOL = "secateur prune 0.1.0"


@dataclass(frozen=True, eq=False)
class PrunedModel:
    """A pruned network, the network it came from, and the record of how (`sidecar`, JSON-ready).

    `masked` computes the same function with all shapes kept (None for fold `graft`, which removes nothing). `plan` is
    None where no single channels were chosen (whole blocks, single weights). `delta` is the transfer bound per output
    element for fold `sound`.
    """

    __repr__ = brief

    net: Net
    original: Net
    masked: Net | None
    plan: Plan | None
    sidecar: Mapping[str, Any] = field(repr=False)
    delta: np.ndarray | None = None

    @property
    def before(self) -> NetworkCost:
        """Size of the original."""
        return cost(given(self.original))

    @property
    def after(self) -> NetworkCost:
        """Size of the pruned network."""
        return cost(given(self.net))


def load(
    path: str | os.PathLike[str],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    layout: str = "auto",
    channels: int | None = None,
) -> Net:
    """Read an ONNX file (see `pruning.onnx_io.load`), or a shipped network by its name.

    With `mean` and `std` (one number, or one per channel) data stay pixels in [0, 1]: the network is seen behind the
    normalisation (x - mean) / std, and written without it. `layout` and `channels` say what image it takes, where its
    input shape alone does not. Raises ModelError, DataError, OptionsError.
    """
    net = onnx_io.load(networks.find(path))
    if mean is None and std is None:
        return net
    if len(net.inputs) != 1:
        raise DataError(f"the network has {len(net.inputs)} inputs; --mean and --std need one")
    return normalised(net, Frame.of(net.shapes[net.inputs[0]], layout, channels), mean, std)


def score(
    model: Net | Groups,
    data: Calibration | None = None,
    criterion: str = "usn",
    options: ScoreOptions | None = None,
    keep: Sequence[str] = (),
) -> Scores:
    """Score every channel of a model by a criterion of `pruning.CRITERIA`; layers named in `keep` are never pruned."""
    groups = model if isinstance(model, Groups) else find_groups(model, keep)
    return score_groups(groups, data, criterion, options)


def plan(model: Net, scores: Scores, ratio: float, allocation: str = "uniform", **settings: Any) -> Plan:
    """Choose which channels go; see `pruning.planning.make_plan` for the settings."""
    if scores.groups.net is not model:
        raise CriterionError("these scores belong to another network; score this one first")
    return make_plan(scores, ratio, allocation, **settings)


def matched(scores: Scores, other: Plan, floor: ChannelFloor | None = None) -> Plan:
    """The per-layer counts of `other` with the channels `scores` would take (random-matched)."""
    stream = any(other.groups.groups[i].kind == "stream" for i in other.chosen)
    made = make_plan(scores, other.ratio, "uniform", "none", stream, floor, counts=other.counts)
    return replace(made, criterion="random-matched" if scores.criterion == "random" else scores.criterion)


def apply(
    model: Net,
    plan: Plan,
    fold: str = "mean",
    data: Calibration | None = None,
    border: str = "interior",
    options: ScoreOptions | None = None,
    rescale: str = "none",
) -> PrunedModel:
    """Carry out a plan.

    fold: what stands for a removed channel: `zero`; `mean`, its average over images and S, moved into the biases of its
    readers; `graft`, the channel stays but its activation becomes linear; `sound`, the centre of its certified
    interval, with the bound `delta`. border: `interior` (kernel sums) or `exact` (a bias map where zero padding
    matters). rescale, after `zero` or `mean`: `all` channels that stay get back the mean and spread of their
    pre-activation by a factor and an offset in their layer, or only those that fell `silent`, or `none`.
    The result is checked against the masked network (see `checked`). Raises CriterionError for an unknown mode,
    DataError if a mode needs data and none is given, WrongNetwork if the check fails.
    """
    one_of("fold", fold, FOLDS)
    one_of("border", border, BORDERS)
    one_of("rescale", rescale, RESCALES)
    if rescale != "none" and fold not in ("zero", "mean"):
        raise CriterionError(f"rescale '{rescale}' with fold '{fold}'; it only goes with zero and mean")
    groups = plan.groups
    if groups.net is not model:
        raise CriterionError("this plan belongs to another network; plan for this one first")
    removed = plan.removed
    if not removed.any():
        return PrunedModel(model, model, model, plan, _sidecar(plan, fold, border, {}))
    if fold != "zero" and data is None:
        raise DataError(f"fold '{fold}' needs calibration images; give --data, or use fold 'zero'")
    if rescale != "none" and data is None:
        raise DataError(f"rescale '{rescale}' needs calibration images; give --data, or use rescale 'none'")
    if fold == "graft":
        return _graft(model, plan, data, border)
    constants, delta = _constants(groups, removed, fold, data, border, options or ScoreOptions())
    folded = _fold(groups, removed, constants, border)
    if fold == "sound":
        delta = _delta(groups, folded, removed, delta)
    after = find_groups(folded, groups.kept_names)
    if rescale != "none" and data is not None:
        after = find_groups(restored(model, after, removed, data, rescale), groups.kept_names)
    record = MappingProxyType({**_sidecar(plan, fold, border, constants), "rescale": rescale})
    if delta is not None:
        record = MappingProxyType({**record, "delta": np.asarray(delta).reshape(-1).tolist()})
    return checked(PrunedModel(remove(after, removed), model, mask(after, removed), plan, record, delta))


def checked(model: PrunedModel) -> PrunedModel:
    """The same model with what `agreement` found in its record, under `check`.

    Raises WrongNetwork if the pruned network does not compute what the masked one does. A model without a masked
    network (fold `graft`, which removes nothing; one trained after it was checked) comes back as it is.
    """
    if model.masked is None:
        return model
    found = agreement(model.net, model.masked)
    return replace(model, sidecar=MappingProxyType({**model.sidecar, "check": found.record()}))


def save(model: PrunedModel | Net, path: str | os.PathLike[str]) -> Path | None:
    """Write the network, and for a PrunedModel the record beside it as `<name>.json`, whose path is returned.

    A PrunedModel is checked once more before anything is written (see `checked`).
    """
    if isinstance(model, Net):
        onnx_io.save(given(model), path)
        return None
    model = checked(model)
    beside = Path(path).with_suffix(".json")
    text = json.dumps(dict(model.sidecar), indent=1, allow_nan=False, default=_plain)
    data = onnx_io.to_bytes(given(model.net), check=True)  # whatever can fail does so before anything is written
    write(beside, text, "the record")
    try:
        write(path, data, "the network")
    except OutputError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _fold(groups: Groups, removed: np.ndarray, constants: Constants, border: str) -> Net:
    return fold(groups, removed, constants, border) if constants else groups.net


def _constants(
    groups: Groups, removed: np.ndarray, mode: str, data: Calibration | None, border: str, options: ScoreOptions
) -> tuple[Constants, Any]:
    places = list(dict.fromkeys((cut.data, cut.data_axis) for cut in readers(groups, removed)))
    if mode == "zero" or data is None:
        return {}, None
    if mode == "mean":
        return channel_means(groups.net, places, data), None
    if border != "exact":
        raise CriterionError("fold 'sound' needs --border exact: an interior approximation would not be sound")
    bounds = intervals(groups, removed, data, options)
    return centres(bounds), bounds


def _delta(groups: Groups, folded: Net, removed: np.ndarray, bounds: Any) -> np.ndarray:
    errors = transfer_bound(groups, folded, removed, bounds)
    return np.concatenate([value.reshape(-1) for value in errors.values()])


def _graft(model: Net, plan: Plan, data: Calibration | None, border: str) -> PrunedModel:
    assert data is not None
    lines = fit_lines(plan.groups, plan.removed, data)
    net = graft(plan.groups, plan.removed, lines)
    return PrunedModel(net, model, None, plan, _sidecar(plan, "graft", border, {}))


def _sidecar(plan: Plan, mode: str, border: str, constants: Constants) -> Mapping[str, Any]:
    groups, scores = plan.groups, plan.scores
    layers = []
    for group in groups.groups:
        taken = plan.removed[group.channels]
        layers.append(
            {
                "name": group.name,
                "kind": group.kind,
                "channels": len(group.channels),
                "kept": np.flatnonzero(~taken).tolist(),
                "frozen": group.reason if group.frozen.any() else "",
                "scores": [] if scores is None else _finite(scores.values[group.channels]),
                "idle": [] if scores is None else np.flatnonzero(scores.free[group.channels]).tolist(),
                "parts": {} if scores is None else {k: _finite(v[group.channels]) for k, v in scores.parts.items()},
            }
        )
    return MappingProxyType(
        {
            "tool": TOOL,
            "criterion": plan.criterion,
            "formula": "" if scores is None else scores.formula,
            "options": {} if scores is None else dict(scores.options),
            "ratio": plan.ratio,
            "reached": plan.reached,
            "allocation": plan.allocation,
            "norm": plan.norm,
            "fold": mode,
            "border": border,
            "notes": list(plan.notes),
            "carries_over": mode == "sound",
            "layers": layers,
            "folded": {
                f"{value} axis {axis}": _finite(
                    np.asarray(held)[~groups.keep(plan.removed, groups.labelled[value][axis])]
                )
                for (value, axis), held in constants.items()
            },
        }
    )


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in np.asarray(values, np.float64)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in the record")
