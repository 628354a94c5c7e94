"""`prune`: scores, plan and the chosen mode, for Python and the command line alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType, ModuleType

import numpy as np

from pruning import api
from pruning.agreement import agreement
from pruning.api import PrunedModel
from pruning.blocks import drop_blocks, silenced
from pruning.calibration import Calibration
from pruning.correction import corrected
from pruning.errors import CriterionError, DataError, NothingToPrune
from pruning.groups import Groups, find_groups
from pruning.net import Net
from pruning.options import BLOCKS, ChannelFloor, PruneOptions, ScoreOptions, TrainOptions
from pruning.planning import Plan, why_nothing
from pruning.scores import CRITERIA, Scores
from pruning.sensitivity import mrs_ratios
from pruning.surgery import mask, remove
from pruning.unstructured import zero_weights
from verifier.progress import Say


def quiet(line: str) -> None:
    """Say nothing."""


def prune(
    model: Net | str | os.PathLike[str],
    data: Calibration | None = None,
    options: PruneOptions | None = None,
    say: Say = quiet,
) -> PrunedModel:
    """Prune a network, given as a file, the name of a shipped one, or what `load` returned; `save` writes the result.

    data: calibration images from `load_data`, labelled ones for training, gradients and `mrs`. say: gets a line for
    each stage of training. Raises CriterionError, DataError, RatioError, NothingToPrune, WrongNetwork, ModelError.
    """
    options = options or PruneOptions()
    net = model if isinstance(model, Net) else api.load(model)
    known(options)
    if options.criterion == BLOCKS:
        return _without_blocks(net, data, options, say)
    if options.unstructured:
        return _without_weights(net, data, options, say)
    return carry_out(net, plan_for(net, data, options), data, options, say)


def known(options: PruneOptions) -> None:
    """CriterionError for a criterion that does not exist."""
    if options.criterion not in CRITERIA and options.criterion != BLOCKS:
        names = ", ".join(sorted([*CRITERIA, BLOCKS]))
        raise CriterionError(f"unknown criterion '{options.criterion}'; expected one of {names}")


def plan_for(net: Net, data: Calibration | None, options: PruneOptions) -> Plan:
    """Score and plan. Raises as `prune`."""
    return _plan(net, data, options, options.ratio, options.floor)


def _plan(net: Net, data: Calibration | None, options: PruneOptions, ratio: float, floor: ChannelFloor) -> Plan:
    part, settings = _calibration(data, options), _scores(options)
    groups = find_groups(net, options.keep)
    for name in set(options.keep) - {n for node in net.nodes for n in (node.name, *node.outputs)}:
        raise CriterionError(f"--keep {name}: the network has no such node")
    if not groups.prunable.any():
        raise NothingToPrune(why_nothing(groups, options.stream))
    counts_of = CRITERIA[options.criterion].counts_of
    scores = api.score(groups, part, counts_of or options.criterion, settings)
    plan = api.plan(
        net, scores, ratio, options.allocation, norm=options.norm, stream=options.stream, floor=floor,
        guard=_guarded(groups, part, options), layer_ratios=_layer_ratios(groups, part, options, ratio),
        counts=_counts(scores, part, options, ratio, floor),
    )  # fmt: skip
    return api.matched(api.score(groups, part, options.criterion, settings), plan, floor) if counts_of else plan


def _guarded(groups: Groups, data: Calibration | None, options: PruneOptions) -> np.ndarray | None:
    if not options.guard:
        return None
    importance = api.score(groups, data, "taylor", _scores(options)).values
    return importance >= np.quantile(importance, 1 - options.guard)


def _layer_ratios(
    groups: Groups, data: Calibration | None, options: PruneOptions, ratio: float
) -> Mapping[str, float] | None:
    if options.allocation != "mrs":
        return None
    if data is None:
        raise DataError("--allocation mrs measures losses and needs labelled --data")
    return mrs_ratios(groups, data, ratio, options.mrs_form, options.stream)


def _counts(
    scores: Scores, data: Calibration | None, options: PruneOptions, ratio: float, floor: ChannelFloor
) -> Mapping[int, int] | None:
    if options.allocation != "marginal":
        return None
    if data is None:
        raise DataError("--allocation marginal measures bounds on images and needs --data")
    from pruning.marginal import marginal_counts  # PyTorch

    return marginal_counts(scores, data, ratio, options.stream, floor)


def _calibration(data: Calibration | None, options: PruneOptions) -> Calibration | None:
    """The first images of the data, on which scores and constants are measured."""
    if data is None or len(data.images) <= options.images:
        return data
    return data.part(slice(0, options.images))


def _scores(options: PruneOptions) -> ScoreOptions:
    return replace(options.scores, seed=options.seed)


def _training(options: PruneOptions) -> TrainOptions:
    return replace(
        options.training, mode=options.mode, calibration=options.images, rescale=options.rescale or "silent",
        seed=options.seed,
    )  # fmt: skip


def carry_out(net: Net, plan: Plan, data: Calibration | None, options: PruneOptions, say: Say = quiet) -> PrunedModel:
    """Apply a plan of `plan_for`, with training around it where the mode asks for it."""
    fold = options.fold or ("mean" if data is not None else "zero")
    if not options.trains:
        part = _calibration(data, options)
        rescale = options.rescale or ("all" if fold == "mean" else "none")
        pruned = api.apply(net, plan, fold, part, options.border or "exact", _scores(options), rescale)
        return corrected(pruned, part) if part is not None and fold in ("zero", "mean") else pruned
    if data is None:
        raise DataError(f"mode '{options.mode}' trains and needs labelled data")

    def replan(model: Net, share: float, floor: ChannelFloor | None) -> Plan:
        return _plan(model, data, options, share, floor or options.floor)

    made: PrunedModel = _pytorch().train(
        net, data, options.ratio, replan, _training(options), fold, options.border or "interior", say
    )
    return made


def _pytorch() -> ModuleType:
    from pruning import training  # PyTorch

    return training


def _without_blocks(net: Net, data: Calibration | None, options: PruneOptions, say: Say) -> PrunedModel:
    if data is None:
        raise DataError(f"criterion '{BLOCKS}' measures output changes and needs --data")
    made, removed, ranked, found = drop_blocks(net, options.ratio, data)
    for block in ranked:
        say(f"{'drop' if block in removed else 'keep'}  {block.name}  mean squared output change {block.cost:.6g}")
    blocks = {block.name: {"output_change": block.cost, "kept": block not in removed} for block in ranked}
    record = {"tool": api.TOOL, "criterion": BLOCKS, "ratio": options.ratio, "blocks": blocks, "carries_over": False}
    return PrunedModel(made, net, silenced(net, removed), None, MappingProxyType({**record, "check": found.record()}))


def _without_weights(net: Net, data: Calibration | None, options: PruneOptions, say: Say) -> PrunedModel:
    if options.mode == "lottery":
        if data is None or options.criterion != "l1":
            raise CriterionError("the unstructured lottery ranks by l1 and needs labelled --data")
        made = _pytorch().lottery_weights(net, data, options.ratio, _training(options), say)
    else:
        made = zero_weights(net, options.criterion, options.ratio, data, _scores(options))
    record = {"tool": api.TOOL, "criterion": options.criterion, "ratio": options.ratio, "unstructured": True}
    return PrunedModel(made, net, None, None, MappingProxyType({**record, "carries_over": False}))


def preview(plan: Plan) -> PrunedModel:
    """The pruned network without folding, for its size, with its check in the record; WrongNetwork as `api.checked`."""
    net, masked = remove(plan.groups, plan.removed), mask(plan.groups, plan.removed)
    record = {"check": agreement(net, masked).record()}
    return PrunedModel(net, plan.groups.net, masked, plan, MappingProxyType(record))


def describe(plan: Plan) -> str:
    """The plan as a table: one line per group."""
    rows = [("layer", "kind", "channels", "kept", "remark")]
    for index, group in enumerate(plan.groups.groups):
        remark = (
            f"frozen: {group.reason}"
            if not len(group.free)
            else ""
            if index in plan.chosen
            else "not chosen (see --stream)"
        )
        if plan.scores is not None and index in plan.chosen:
            idle = int((plan.scores.free[group.channels] & plan.removed[group.channels]).sum())
            remark = f"{idle} idle" if idle else ""
        gone = int(plan.removed[group.channels].sum())
        rows.append((group.name, group.kind, str(len(group.channels)), str(len(group.channels) - gone), remark))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(row[c].ljust(widths[c]) for c in range(4)), row[4]]).rstrip() for row in rows]
    kinds = [group.kind for group in plan.groups.groups]
    head = (
        f"{plan.criterion}, ratio {plan.ratio:g} (reached {plan.reached:.1%}), {plan.allocation}: "
        f"{int(plan.removed.sum())} channels; {kinds.count('internal')} internal and {kinds.count('stream')} "
        "stream groups"
    )
    warnings = [f"warning: operator {name} has no channel rule; what it reads stays" for name in plan.groups.unknown]
    return "\n".join([head, *lines, *plan.notes, *warnings])
