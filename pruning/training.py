"""Training around pruning: one-shot, progressive and lottery modes.

    one-shot     score -> (concentrate) -> fold and cut -> wake channels that fell silent -> fine-tune
    progressive  the same in stages, rho_t = rho * (1 - (1 - t/T)^3); stops at the last good stage
    lottery      train -> cut 11 % -> rewind what is left to the given weights, round after round; then train once more

Weights travel ONNX -> onnx2torch -> ONNX by name; BatchNormalization statistics and Dropout stay as in inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from pruning import forms, losses
from pruning.agreement import Agreement, agreement
from pruning.api import PrunedModel, apply
from pruning.calibration import Calibration
from pruning.concentration import RAMP, Concentration, channels
from pruning.curriculum import Curriculum
from pruning.errors import CriterionError, DataError
from pruning.groups import find_groups
from pruning.measure import error
from pruning.net import Net
from pruning.options import ChannelFloor, TrainOptions
from pruning.planning import Plan, stages
from pruning.scores.weights import prunable_weights
from pruning.surgery import mask, remove
from pruning.torch_bridge import TorchNet

Replan = Callable[[Net, float, ChannelFloor | None], Plan]
LOTTERY_SHARE = 0.11  # channels cut per round, VITA's structured schedule (12 rounds leave 24.7 %)
LOTTERY_WEIGHTS_SHARE = 0.2  # weights per round, the unstructured schedule (16 rounds leave 2.8 %)


def train(
    net: Net,
    data: Calibration,
    ratio: float,
    replan: Replan,
    options: TrainOptions,
    fold: str = "mean",
    border: str = "interior",
    say: Callable[[str], None] = lambda line: None,
) -> PrunedModel:
    """Prune `net` to `ratio` with training; `replan(net, share, floor)` scores and plans. Raises DataError without
    labels.
    """
    data = data.fitted(net)
    data.need_labels(f"mode '{options.mode}'")
    if fold not in ("zero", "mean"):
        raise CriterionError(f"the training modes fold by zero or mean, not by '{fold}'")
    fit, held_out = _split(data)
    run = _Training(net, fit, held_out, ratio, replan, options, fold, border, say)
    return run.lottery() if options.mode == "lottery" else run.stages()


class _Training:
    """One training run; its methods return new networks and keep a log for the record."""

    def __init__(
        self, net: Net, fit: Calibration, held_out: Calibration, ratio: float, replan: Replan, options: TrainOptions,
        fold: str, border: str, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.net, self.fit, self.held_out, self.ratio, self.replan = net, fit, held_out, ratio, replan
        self.options, self.fold, self.border, self.say = options, fold, border, say
        self.log: list[dict[str, Any]] = []
        self.kept: dict[str, np.ndarray] = {}
        self.checks: list[Agreement] = []

    def stages(self) -> PrunedModel:
        """One stage (one-shot) or several (progressive)."""
        count = self.options.stages if self.options.mode == "progressive" else 1
        start = error(self.net, self.held_out)
        current, floor, plan, following = self.net, None, None, None
        steps = stages(self.ratio, count)
        for stage, (reach, share) in enumerate(steps, 1):
            stage_plan = following or self.replan(current, share, floor)
            later = steps[stage][1] if stage < count else None
            candidate, stage_plan, following = self._stage(current, stage_plan, later)
            now = error(candidate, self.held_out)
            self.log.append({"stage": stage, "ratio": reach, "error": now, "dense_error": start})
            self.say(
                f"stage {stage}/{count}: {reach:.0%} of the channels removed, "
                f"held-out error {now:.5g} (dense {start:.5g})"
            )
            if now > start * (1 + self.options.max_drop) and count > 1 and plan is not None:
                self.say(f"stopped: the error rose by more than {self.options.max_drop:.0%}; keeping the stage before")
                self.log[-1]["kept"] = False
                break
            floor = floor or _absolute_floor(stage_plan)
            self._record(stage_plan)
            current, plan = candidate, stage_plan
        assert plan is not None
        return self._result(current, plan)

    def _stage(self, current: Net, plan: Plan, following: float | None) -> tuple[Net, Plan, Plan | None]:
        """The network after a cut and what follows it, the plan that was cut, and that of the next cut (share
        `following`) where it is already made.
        """
        options = self.options
        if options.wasserstein > 0 or options.separation > 0 or options.across > 0:
            warm = max(1, options.epochs // 3)
            trained = fine_tune(current, self.fit, options, warm, plan)
            plan = plan.on(trained)
            current = trained
        pruned = apply(current, plan, self.fold, self.fit.part(slice(0, options.calibration)), self.border,
                       rescale=options.rescale)  # fmt: skip
        found = Agreement.of(pruned.sidecar)
        if found is not None:
            self.checks.append(found)
        if following is None:
            return fine_tune(pruned.net, self.fit, options, options.epochs), plan, None
        planned = None
        if options.wasserstein_span == "all":
            planned = self.replan(pruned.net, following, _absolute_floor(plan))
        tuned = fine_tune(pruned.net, self.fit, options, max(1, options.epochs // 2), planned)
        return tuned, plan, planned.on(tuned) if planned else None

    def lottery(self) -> PrunedModel:
        """Rounds of training, cutting and rewinding, then a last training."""
        current, left, plan, floor = self.net, 1.0, None, None
        while left > 1 - self.ratio + 1e-9:
            share = min(LOTTERY_SHARE, 1 - (1 - self.ratio) / left)
            trained = fine_tune(current, self.fit, self.options, self.options.epochs)
            plan = self.replan(trained, share, floor)
            floor = floor or _absolute_floor(plan)
            self._record(plan)
            groups = plan.on(current).groups
            current = remove(groups, plan.removed)  # rewound: the given weights, cut alike
            self.checks.append(agreement(current, mask(groups, plan.removed)))
            left *= 1 - share
            self.log.append({"round": len(self.log) + 1, "left": left, "error": error(trained, self.held_out)})
            before = self.log[-1]["error"]
            self.say(f"round {len(self.log)}: {left:.1%} of the channels left, error before the cut {before:.5g}")
            if not plan.removed.any():
                break
        if plan is None:
            plan = self.replan(current, 0.0, None)
        return self._result(fine_tune(current, self.fit, self.options, self.options.epochs), plan)

    def _record(self, plan: Plan) -> None:
        """Kept channels by layer, as numbers of the network the run started with."""
        for group in plan.groups.groups:
            past = self.kept.get(group.name, np.arange(len(group.channels)))
            self.kept[group.name] = past[~plan.removed[group.channels]]

    def _result(self, net: Net, plan: Plan) -> PrunedModel:
        final = error(net, self.held_out)
        self.say(f"held-out error {final:.5g}")
        record = {
            "tool": "secateur prune",
            "mode": self.options.mode,
            "criterion": plan.criterion,
            "formula": "" if plan.scores is None else plan.scores.formula,
            "options": {} if plan.scores is None else dict(plan.scores.options),
            "training": {k: getattr(self.options, k) for k in self.options.__dataclass_fields__},
            "ratio": self.ratio,
            "fold": self.fold,
            "border": self.border,
            "carries_over": False,
            "stages": self.log,
            "held_out_error": final,
            "layers": [{"name": name, "kept": kept.tolist()} for name, kept in self.kept.items()],
        }
        if self.checks:  # of every cut, before the training that follows it
            record["check"] = max(self.checks, key=lambda check: check.difference).record()
        return PrunedModel(net, self.net, None, plan, MappingProxyType(record))


def fine_tune(
    net: Net,
    data: Calibration,
    options: TrainOptions,
    epochs: int,
    plan: Plan | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> Net:
    """Train for some epochs under random s; with `plan`, its removed channels are pulled towards constants meanwhile.

    `masks` (by weight name, 0 or 1) keeps pruned single weights at zero.
    """
    model = TorchNet(net, options.device)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng([options.seed, 7])
    labels = data.need_labels("training")
    exposed = replace(data, semantic=data.semantic.enlarged(options.exposure))
    steps = max(1, -(-len(data.images) // options.batch_size)) * epochs
    optimiser = torch.optim.Adam(list(model.trainable.values()), lr=options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    objective = _Objective(model, plan, options, steps, data)
    fixed = {name: model.tensor(mask.astype(np.float32)) for name, mask in (masks or {}).items()}
    for step in range(steps):
        rows = rng.choice(len(data.images), min(options.batch_size, len(data.images)), replace=False)
        clean = data.images[rows]
        moved = exposed.moved(clean, exposed.semantic.uniform(len(rows), rng))
        loss = objective(
            model.tensor(clean), model.tensor(moved), model.tensor(labels[rows]), step, rng, exposed, clean
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for name, mask in fixed.items():
                model.leaves[name].mul_(mask)
    trained = model.exported()
    if not all(np.isfinite(trained.weights[name]).all() for name in model.trainable):
        raise CriterionError("training diverged (weights are not finite); lower the learning rate")
    return trained


class _Objective:
    """L = L_task + l_w * (L_conc + a*L_sep + b*L_layer) + l_r * L_stab + l_k * |f(x') - f(x)|^2."""

    def __init__(
        self, model: TorchNet, plan: Plan | None, options: TrainOptions, steps: int, data: Calibration
    ) -> None:
        self.model, self.plan, self.options, self.steps, self.data = model, plan, options, steps, data
        self.curriculum = Curriculum(options.certified, options.cell)
        self.pull = Concentration(model, plan, options.wasserstein) if plan and options.wasserstein > 0 else None
        self.units = list(plan.groups.units) if plan is not None else []

    def __call__(
        self,
        clean: Any,
        moved: Any,
        labels: Any,
        step: int,
        rng: np.random.Generator,
        exposed: Calibration,
        raw: np.ndarray,
    ) -> Any:
        output, seen = self.model.tapped(moved, self.pull.values if self.pull else ())
        loss = losses.task_loss(output, labels)
        if self.pull and self.pull.values:
            loss = loss + self.pull(seen, loss, (step + 1) / max(1.0, RAMP * self.steps))
        if self._needs_scores():
            loss = loss + self._score_terms(clean, raw, exposed, rng)
        if self.options.certified > 0:
            loss = loss + self._certified(raw, labels, step, rng)
        if self.options.consistency > 0:
            loss = loss + self.options.consistency * (output - self.model(clean)).pow(2).mean()
        return loss

    def _certified(self, raw: np.ndarray, labels: Any, step: int, rng: np.random.Generator) -> Any:
        middle, half = self.curriculum.cells(self.data.semantic, len(raw), step / self.steps, rng)
        weight = self.curriculum.influence((step + 1) / self.steps)
        if self.options.certified_bounds == "affine":
            return weight * forms.worst_loss(*forms.output_bounds(self.model, self.data, raw, middle, half), labels)
        # a pixel is monotone in every parameter while the others are fixed: least and largest at corners of the cell
        corners = [self.data.moved(raw, middle + half * signs) for signs in product((-1, 1), repeat=half.shape[1])]
        ends = [self.model.tensor(end(corners)) for end in (np.minimum.reduce, np.maximum.reduce)]
        return weight * forms.worst_loss(*forms.interval_bounds(self.model, *ends), labels)

    def _needs_scores(self) -> bool:
        o = self.options
        return bool(self.units) and (o.separation > 0 or o.across > 0 or o.stability != "none")

    def _score_terms(self, clean: Any, raw: np.ndarray, data: Calibration, rng: np.random.Generator) -> Any:
        names = [unit.value for unit in self.units]
        _, base = self.model(clean, names)
        batches = [self.model.tensor(data.moved(raw, point)) for point in data.semantic.uniform(4, rng)]
        seen = [self.model(batch, names)[1] for batch in batches]
        scores, terms, o = [], torch.zeros((), device=clean.device), self.options
        for unit in self.units:
            z0 = channels(base[unit.value], unit.axis)
            z = torch.stack([channels(values[unit.value], unit.axis) for values in seen])
            scores.append(losses.ratio_scores(z0, z))
            if o.stability != "none":
                gamma = self._gamma(unit.value) if o.stability == "nrs" else None
                low, high = torch.minimum(z.amin(0), z0), torch.maximum(z.amax(0), z0)
                terms = terms + o.stability_weight * losses.stability(low, high, gamma) / len(self.units)
        share = self.plan.ratio if self.plan is not None else 0.0
        if o.separation > 0:
            terms = terms + o.separation * sum(losses.separation(s, share) for s in scores) / len(scores)
        if o.across > 0:
            terms = terms + o.across * losses.across_layers(scores)
        return terms

    def _gamma(self, value: str) -> Any:
        index = self.model.net.producer.get(value)
        if index is None or self.model.net.nodes[index].type != "BatchNormalization":
            return None
        return self.model.leaves[self.model.net.nodes[index].input(1)].detach().reshape(1, -1, 1)


def lottery_weights(
    net: Net, data: Calibration, ratio: float, options: TrainOptions, say: Callable[[str], None] = lambda line: None
) -> Net:
    """The unstructured lottery: 20 % of the remaining weights per round by |w|, rewinding to the given weights."""
    names = prunable_weights(find_groups(net))
    masks = {name: np.ones(net.weights[name].shape, bool) for name in names}
    left = 1.0
    while left > 1 - ratio + 1e-9:
        share = min(LOTTERY_WEIGHTS_SHARE, 1 - (1 - ratio) / left)
        trained = fine_tune(_masked(net, masks), data, options, options.epochs, masks=masks)
        left *= 1 - share
        alive = np.concatenate([np.abs(trained.weights[name])[masks[name]] for name in names])
        limit = np.sort(alive)[min(len(alive) - 1, int(share * len(alive)))]
        masks = {name: masks[name] & (np.abs(trained.weights[name]) >= limit) for name in names}
        say(f"{left:.1%} of the weights left")
    return fine_tune(_masked(net, masks), data, options, options.epochs, masks=masks)


def _masked(net: Net, masks: Mapping[str, np.ndarray]) -> Net:
    return net.changed(
        weights={name: net.weights[name] * mask.astype(net.weights[name].dtype) for name, mask in masks.items()}
    )


def _absolute_floor(plan: Plan) -> ChannelFloor:
    """The floor of the first stage as numbers, so that later stages do not take a share of a share."""
    least = {group.name: plan.floor.least(group) for group in plan.groups.groups}
    return replace(plan.floor, by_name=MappingProxyType(least))


def _split(data: Calibration) -> tuple[Calibration, Calibration]:
    """Nine tenths to train on, the last tenth to judge."""
    count = max(1, len(data.images) // 10)
    if len(data.images) < 10:
        raise DataError(f"{len(data.images)} labelled images; training needs at least 10")
    return data.part(slice(0, -count)), data.part(slice(-count, None))
