"""What the command does between reading and writing: data, scores, plan, and the chosen mode."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pruning import api, oracles
from pruning.agreement import Agreement, agreement
from pruning.calibration import Calibration, Semantic
from pruning.datasets import load_data
from pruning.errors import CriterionError, DataError, RatioError
from pruning.groups import find_groups
from pruning.net import Net
from pruning.normalised import normalised
from pruning.planning import Floor, Plan
from pruning.scores import CRITERIA, Options
from pruning.surgery import mask, remove
from verifier.data import networks
from verifier.data.frame import Frame, Head

if TYPE_CHECKING:
    from pruning.training import TrainOptions


def settings(arguments: argparse.Namespace) -> Options:
    """Criterion options from the command line; also checks the names that need no data."""
    if arguments.criterion not in {*CRITERIA, "random-matched", "layer"}:
        known = ", ".join(sorted([*CRITERIA, "random-matched", "layer"]))
        raise CriterionError(f"unknown criterion '{arguments.criterion}'; expected one of {known}")
    for ratio in arguments.sweep or [arguments.ratio]:
        if not 0 <= ratio < 1:
            raise RatioError(f"ratio {ratio:g}; expected 0 <= ratio < 1 (1 would empty every layer)")
    proved = arguments.criterion in ("usn-cert", "looseness") or arguments.fold == "sound"
    return Options(
        seed=arguments.seed,
        stability_exponent=arguments.usn_stability_exp,
        aggregate=arguments.agg,
        bias=arguments.usn_bias,
        mask_ratio=max(arguments.sweep or [arguments.ratio]),
        interval_oracle=oracles.interval_oracle if proved else None,
        slope_oracle=oracles.slope_oracle if proved else None,
    )


def network(arguments: argparse.Namespace) -> Net:
    """The network of the command line, behind its normalisation where one is given."""
    net = api.load(networks.find(arguments.model))
    if arguments.mean is None and arguments.std is None:
        return net
    if len(net.inputs) != 1:
        raise DataError(f"the network has {len(net.inputs)} inputs; --mean and --std need one")
    frame = Frame.of(net.shapes[net.inputs[0]], arguments.layout, arguments.channels)
    return normalised(net, frame, arguments.mean, arguments.std)


def read_data(
    arguments: argparse.Namespace, net: Net, say: Callable[[str], None] = lambda line: None
) -> Calibration | None:
    """Calibration data, if the command names any; `say` gets what they are and what the network answers to them."""
    semantic = Semantic.parse(arguments.semantic)
    if arguments.data is None:
        if arguments.mode != "post-training":
            raise DataError(f"--mode {arguments.mode} trains and needs labelled --data")
        return None
    count = arguments.images if arguments.mode == "post-training" else max(arguments.images, arguments.train_images)
    return load_data(
        arguments.data, net, semantic, count, arguments.samples, arguments.seed,
        crop=arguments.crop, folder=arguments.pictures, layout=arguments.layout, channels=arguments.channels,
        head=Head.given(arguments.output_scale, arguments.output_shift), say=say,
    )  # fmt: skip


def calibration_part(arguments: argparse.Namespace, data: Calibration | None) -> Calibration | None:
    """The first images of the training data, on which scores and constants are measured."""
    if data is None or len(data.images) <= arguments.images:
        return data
    return data.part(slice(0, arguments.images))


def make_plan(
    arguments: argparse.Namespace,
    net: Net,
    data: Calibration | None,
    options: Options,
    ratio: float,
    floor: Floor | None = None,
) -> Plan:
    """Score and plan as the command line asks."""
    part = calibration_part(arguments, data)
    floor = floor or Floor(arguments.min_channels, arguments.min_fraction)
    groups = find_groups(net, arguments.keep)
    for name in set(arguments.keep) - {n for node in net.nodes for n in (node.name, *node.outputs)}:
        raise CriterionError(f"--keep {name}: the network has no such node")
    if not groups.prunable.any():
        from pruning.errors import NothingToPrune
        from pruning.planning import why_nothing

        raise NothingToPrune(why_nothing(groups, arguments.stream))
    first = "usn" if arguments.criterion == "random-matched" else arguments.criterion
    scores = api.score(groups, part, first, options)
    guard = _guard(arguments, groups, part, options)
    plan = api.plan(
        net, scores, ratio, arguments.allocation, norm=arguments.norm, stream=arguments.stream, floor=floor,
        guard=guard, layer_ratios=_layer_ratios(arguments, groups, part, ratio),
    )  # fmt: skip
    if arguments.criterion == "random-matched":
        plan = api.matched(api.score(groups, part, "random", options), plan, floor)
    return plan


def _guard(
    arguments: argparse.Namespace, groups: object, data: Calibration | None, options: Options
) -> np.ndarray | None:
    if not arguments.guard:
        return None
    if not 0 < arguments.guard < 1:
        raise RatioError(f"--guard {arguments.guard:g}; expected a share between 0 and 1")
    importance = api.score(groups, data, "taylor", options).values  # type: ignore[arg-type]
    return importance >= np.quantile(importance, 1 - arguments.guard)


def _layer_ratios(
    arguments: argparse.Namespace, groups: object, data: Calibration | None, ratio: float
) -> Mapping[str, float] | None:
    if arguments.allocation != "mrs":
        return None
    from pruning.sensitivity import mrs_ratios

    if data is None:
        raise DataError("--allocation mrs measures losses and needs labelled --data")
    return mrs_ratios(groups, data, ratio, arguments.mrs_form, arguments.stream)  # type: ignore[arg-type]


def carry_out(
    arguments: argparse.Namespace,
    net: Net,
    plan: Plan,
    data: Calibration | None,
    options: object,
    ratio: float,
    say: Callable[[str], None],
) -> api.PrunedModel:
    """Apply the plan, with training around it where the mode asks for it."""
    assert isinstance(options, Options)
    fold = arguments.fold or ("mean" if data is not None else "zero")
    part = calibration_part(arguments, data)
    if arguments.mode == "post-training":
        rescale = arguments.rescale or ("all" if fold == "mean" else "none")
        pruned = api.apply(net, plan, fold, part, arguments.border or "exact", options, rescale)
        if part is not None and fold in ("zero", "mean"):
            return correct_output(pruned, part)
        return pruned
    from pruning.training import train

    assert data is not None
    train_options = _train_options(arguments)

    def replan(model: Net, share: float, floor: Floor | None) -> Plan:
        return make_plan(arguments, model, data, options, share, floor)

    return train(net, data, ratio, replan, train_options, fold, arguments.border or "interior", say)


def _train_options(arguments: argparse.Namespace) -> TrainOptions:
    from pruning.training import TrainOptions

    return TrainOptions(
        mode=arguments.mode,
        epochs=arguments.epochs,
        max_drop=arguments.max_drop,
        wasserstein=arguments.wasserstein,
        stability=arguments.stability,
        certified=arguments.certified,
        certified_bounds=arguments.certified_bounds,
        device=arguments.device,
        seed=arguments.seed,
        calibration=arguments.images,
        rescale=arguments.rescale or "silent",
    )


def unstructured_lottery(
    arguments: argparse.Namespace, net: Net, data: Calibration | None, say: Callable[[str], None]
) -> Net:
    """Rounds of training and masking single weights."""
    from pruning.training import lottery_weights

    if data is None or arguments.criterion != "l1":
        raise CriterionError("the unstructured lottery ranks by l1 and needs labelled --data")
    return lottery_weights(net, data, arguments.ratio, _train_options(arguments), say)


def correct_output(pruned: api.PrunedModel, data: Calibration) -> api.PrunedModel:
    """Bias correction: add to the last layer the mean difference of the outputs, original minus pruned."""
    from pruning.correction import corrected

    return corrected(pruned, data)


def preview(plan: Plan) -> tuple[Net, Agreement]:
    """The pruned network without folding, for its size, and what its check says; WrongNetwork as `api.checked`."""
    net = remove(plan.groups, plan.removed)
    return net, agreement(net, mask(plan.groups, plan.removed))


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
