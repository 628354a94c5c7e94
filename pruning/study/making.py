"""Makes the networks of a study: training from new weights, pruning, fine-tuning.

Fine-tuning takes any network that PyTorch reads (`pruning.torch_bridge`) as it is, with the loop, the augmentation and
the loss of the dense network, starts at a tenth of the rate (`fine`) and follows a cosine; certified, with a loss on
bounds over sub-rectangles of S beside it (`pruning.curriculum`). From new weights (small-scratch) networks are chains
of Conv, Relu, Flatten and Gemm (`cnn7` is), with batch normalisation behind each hidden layer. The dense network has it
behind convolutions only and loses most neurons of its hidden dense layer in the first steps, which wide it can spare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from pruning import api, forms
from pruning.calibration import Calibration, Perturbation
from pruning.concentration import RAMP, Concentration
from pruning.curriculum import Curriculum
from pruning.errors import CriterionError
from pruning.groups import Groups, find_groups
from pruning.net import Net
from pruning.options import ChannelFloor, ScoreOptions, TrainOptions
from pruning.planning import Plan, make_plan
from pruning.scores import CRITERIA, Scores, movement
from pruning.study import allocation
from pruning.study.errors import StudyFileError
from pruning.study.spec import SHARINGS, Study
from pruning.torch_bridge import TorchNet
from verifier.engine.on_device import device_of
from verifier.files.checked import Checked, at_least, one_of, registered
from verifier.training import measure
from verifier.training import train as training
from verifier.training.export import to_onnx
from verifier.training.models import BUILDERS, Architecture, Pixels, build

SCORED = {"usn-cert": 24, "looseness": 8}
"""Images that scores with proved bounds are computed on; every other criterion gets `calibration` of them."""


@dataclass(frozen=True)
class NetworkSettings(Checked, prefix="network.", error=StudyFileError):
    """The key `network` of a study file. images, batch, rate: of training; scratch_images: of training from new
    weights (0: `images`), where given dense networks have seen others than fine-tuning does; fine: share of that rate
    in fine-tuning; calibration: images for scores; allocation, least: how a ratio is shared out over the layers
    (`pruning.study.allocation`); certified, cell, bounded: weight of the certified loss of arms with `+cert`, sides of
    its sub-rectangles at the end as a share of those of S (`pruning.curriculum`), images of a batch that are bounded.
    """

    name: str = registered("cnn7", sorted(BUILDERS))
    width: int = at_least(1, 8)
    size: int = at_least(1, 64)
    images: int = at_least(1, 20_000)
    scratch_images: int = at_least(0, 0)
    batch: int = at_least(1, 128)
    rate: float = at_least(0, 4e-3, strict=True)
    fine: float = at_least(0, 0.1, strict=True)
    calibration: int = at_least(1, 256)
    allocation: str = one_of(*SHARINGS)
    least: int = at_least(1, 12)
    certified: float = at_least(0, 0.1, strict=True)
    cell: float = at_least(0, 1 / 16, strict=True, most=1)
    bounded: int = at_least(1, 24)


@dataclass
class Maker:
    """Training, pruning and fine-tuning for one study; the images are read when first needed.

    Training computes on `device`; what is drawn is drawn on the host, so that a seed means the same everywhere.
    """

    settings: NetworkSettings
    data: str
    semantic: Perturbation
    floor: ChannelFloor = field(default_factory=ChannelFloor)
    device: torch.device = training.CPU

    @staticmethod
    def of(study: Study, semantic: Perturbation) -> Maker:
        """StudyFileError for data or settings that cannot be trained on, OptionsError if there is no such device."""
        if study.task.data != "aircraft23":
            raise StudyFileError(
                f"data '{study.task.data}': networks can be trained on aircraft23 only; compare given files"
            )
        for arm in study.arms:
            if arm.kind not in ("dense", "small-scratch", *CRITERIA):
                known = ", ".join(sorted(CRITERIA))
                raise StudyFileError(f"arm {arm.name}: no criterion of that name; expected one of {known}")
        highest = max([r for arm in study.arms for r in study.ratios_of(arm)], default=0.0)
        settings = NetworkSettings.from_mapping(study.network)
        if settings.name != "cnn7" and any(arm.kind == "small-scratch" for arm in study.arms):
            raise StudyFileError(
                f"arm small-scratch starts from new weights, which only chains (cnn7) can here; leave it out for "
                f"{settings.name}"
            )
        share = 0.0 if settings.allocation == "dense-first" else min(0.25, 1 - highest)
        floor = ChannelFloor(2, share)  # the floor must not keep a ratio from being reached
        return Maker(settings, study.task.data, semantic, floor, device_of(study.task.device))

    @cached_property
    def arch(self) -> Architecture:
        """The dense network."""
        return Architecture(self.settings.name, self.settings.width, self.settings.size)

    @cached_property
    def split(self) -> training.DataSplit:
        """The training images."""
        return self._first(self.settings.images)

    def _first(self, images: int) -> training.DataSplit:
        return training.load("train", images, self.arch, training.Recipe.view, self.device)

    def train(self, *, seed: int, epochs: float, like: Path | None, work: Path, out: Path) -> None:
        """New weights; see `hands.Train`."""
        torch.manual_seed(seed)
        model = build(self.arch) if like is None else chain(api.load(like), self.settings.size, fresh=True)
        # the order of elements that a CPU's convolutions are quickest with; PyTorch's annotations leave the word out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        own = self.settings.scratch_images
        self.fit(model.to(self.device), epochs, self.settings.rate, seed, images=self._first(own) if own else None)
        self.write(model, out)

    def finetune(self, *, model: Path, seed: int, epochs: float, certified: bool, work: Path, out: Path) -> None:
        """See `hands.FineTune`."""
        api.save(self.tuned(api.load(model), epochs, seed, certified), out)

    def tuned(self, net: Net, epochs: float, seed: int, certified: bool = False, plan: Plan | None = None) -> Net:
        """The network trained on as a study fine-tunes; with a plan, its channels are pulled to constants meanwhile."""
        torch.manual_seed(seed)
        tuned = Tuned(net, self.settings.size, plan, self.device)
        terms: list[training.LossTerm] = []
        if certified:
            terms.append(_Certified(tuned, self.settings, self.semantic, seed))
        if tuned.pull is not None and tuned.pull.values:
            terms.append(tuned.concentration)
        self.fit(tuned, epochs, self.settings.fine * self.settings.rate, seed + 500_000, terms)
        return tuned.exported()

    def prune(
        self, *, model: Path, criterion: str, ratio: float, like: Path | None, seed: int, work: Path, out: Path,
        shared: str = "", concentrate: float = 0.0, certified: bool = False,
    ) -> None:  # fmt: skip
        """See `hands.Prune`. Removed channels are folded as their mean; channels that fall silent by it are woken.

        Whole layers do at 75 %, and no gradient passes a silent layer: every such network answered a constant.
        """
        net = api.load(model)
        counts = None if like is None else _removed(find_groups(net), find_groups(api.load(like)))
        plan, data = self.plan(net, criterion, ratio, seed, counts, shared), self.calibration("", 0)
        if concentrate:
            net = self.tuned(net, concentrate, seed, certified, plan)
            plan = plan.on(net)
        pruned = api.apply(net, plan, "mean", data, "interior", rescale="silent")
        api.save(pruned.net, out)

    def plan(
        self,
        net: Net,
        criterion: str,
        ratio: float,
        seed: int,
        counts: Mapping[int, int] | None = None,
        shared: str = "",
    ) -> Plan:
        """The channels to remove; counts: how many of each group, instead of an allocation; shared: an allocation
        instead of the study's.
        """
        groups, common = find_groups(net), self.calibration("", 0)
        scores = api.score(
            groups, self.calibration(criterion, seed), criterion, ScoreOptions(seed=seed, mask_ratio=ratio)
        )
        scores = _idle_first(scores, movement.idle_channels(groups, common))
        if counts is not None:
            return make_plan(scores, ratio, floor=self.floor, counts=counts)
        name = shared or self.settings.allocation
        how = allocation.settings(name, scores, common, ratio, self.settings.least, self.floor)
        return make_plan(scores, ratio, **how, floor=self.floor)

    def calibration(self, criterion: str, seed: int) -> Calibration:
        """The first training images, with keypoints in pixels; as many for every criterion but those in `SCORED`."""
        count = min(SCORED.get(criterion, self.settings.calibration), len(self.split.images))
        images, points = (part[:count].cpu().numpy() for part in (self.split.images, self.split.points))
        return Calibration(images, points.reshape(count, -1), self.semantic, seed=seed)

    def fit(
        self, model: nn.Module, epochs: float, rate: float, seed: int, terms: Sequence[training.LossTerm] = (),
        images: training.DataSplit | None = None,
    ) -> None:  # fmt: skip
        """Train in place for `epochs` passes over images (None: `split`), warm-up and cosine, random s in 1.5 S."""
        split = images or self.split
        draw = torch.Generator().manual_seed(seed + 1)
        recipe = training.Recipe(batch=self.settings.batch, rate=rate)
        groups = model.groups(recipe.decay) if isinstance(model, Tuned) else model.parameters()
        optimiser = torch.optim.AdamW(groups, weight_decay=recipe.decay)
        count = len(split.images)
        steps, done = max(1, round(epochs * count / recipe.batch)), 0
        while done < steps:
            most = min(steps - done, -(-count // recipe.batch))

            def progress(step: int, past: int = done) -> float:
                return (past + step) / steps

            training.epoch(model, split, recipe, self.semantic, optimiser, draw, progress, terms, most)
            done += most
        model.eval()

    def write(self, model: nn.Sequential, out: Path) -> None:
        """As ONNX."""
        out.write_bytes(to_onnx(_folded(model.cpu()), self.arch).SerializeToString())


class Tuned(nn.Module):
    """A network of a file, trained on as it is. Raises CriterionError for one that PyTorch does not read."""

    def __init__(self, net: Net, size: int, plan: Plan | None = None, device: torch.device = training.CPU) -> None:
        super().__init__()
        self.model, self.reach = TorchNet(net, str(device)), Pixels(size).reach
        self.pull = None if plan is None else Concentration(self.model, plan, TrainOptions.wasserstein)
        self.seen: dict[str, torch.Tensor] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, size, size) -> what the network answers."""
        output, self.seen = self.model.tapped(images, self.pull.values if self.pull else ())
        answer: torch.Tensor = output
        return answer

    def concentration(self, step: training.TrainingStep, loss: torch.Tensor) -> torch.Tensor:
        """L_conc of the plan, at what the network computed last."""
        assert self.pull is not None
        term: torch.Tensor = self.pull(self.seen, loss, step.done / RAMP)
        return term

    def groups(self, decay: float) -> list[dict[str, Any]]:
        """Parameters for the optimiser; `factor`: of the rate.

        The last layer of a coordinate head has Pixels folded in: its weights are `reach` times those that were trained,
        and have to move, and to decay, as those would.
        """
        last = self.model.net.nodes[-1]
        scaled = set(last.inputs) if last.type == "Gemm" else set()
        own = [
            [p for name, p in self.model.trainable.items() if (name in scaled) == chosen] for chosen in (False, True)
        ]
        return [{"params": own[0]}, {"params": own[1], "factor": self.reach, "weight_decay": decay / self.reach}]

    def exported(self) -> Net:
        """The network with its present weights. CriterionError if they are not finite."""
        net = self.model.exported()
        if not all(np.isfinite(net.weights[name]).all() for name in self.model.trainable):
            raise CriterionError("training diverged (weights are not finite); lower network.rate or network.fine")
        return net


class _Certified:
    """The loss of the worst outputs over a random sub-rectangle of S for some images of each batch (a `LossTerm`)."""

    def __init__(self, tuned: Tuned, settings: NetworkSettings, semantic: Perturbation, seed: int) -> None:
        self.model, self.semantic, self.bounded = tuned.model, semantic, settings.bounded
        self.curriculum = Curriculum(settings.certified, settings.cell)
        self.rng = np.random.default_rng([seed, 31])

    def __call__(self, batch: training.TrainingStep, loss: torch.Tensor) -> torch.Tensor:
        images, points = batch.images[: self.bounded], batch.points[: self.bounded]
        middle, half = self.curriculum.cells(self.semantic, len(images), batch.done, self.rng)
        data = Calibration(images.cpu().numpy(), semantic=self.semantic)
        bounds = forms.output_bounds(self.model, data, data.images, middle, half)
        worst = forms.furthest(*bounds, points.reshape(len(points), -1))
        weights = batch.weights[: self.bounded]
        return self.curriculum.influence(batch.done) * measure.loss(worst, points, weights, images.shape[-1])


def chain(net: Net, size: int, fresh: bool) -> nn.Sequential:
    """A network that is a chain of Conv, Relu, Flatten and Gemm as a module; its last layer speaks in pixels.

    fresh: the same widths with new weights, and batch normalisation behind every layer but the last. Otherwise the
    weights of the file. StudyFileError for any other network.
    """
    layers: list[nn.Module] = []
    value = net.inputs[0]
    for node in net.nodes:
        if node.inputs[0] != value:
            raise StudyFileError(
                f"node '{node.label}' does not read the one before it; only chains can be trained here"
            )
        layers += _layer(net, node, fresh)
        value = node.outputs[0]
    if fresh and isinstance(layers[-1], nn.BatchNorm1d):
        layers.pop()
    last = layers[-1]
    if not isinstance(last, nn.Linear):
        raise StudyFileError("the network does not end in a Gemm; only coordinate heads can be trained here")
    pixels = Pixels(size)
    if not fresh:
        with torch.no_grad():  # the file holds y = reach * (W x + b + 1)
            last.weight /= pixels.reach
            last.bias.copy_(last.bias / pixels.reach - 1.0)
    return nn.Sequential(*layers, pixels)


def _folded(model: nn.Sequential) -> nn.Sequential:
    """The same function in evaluation, without batch normalisation behind dense layers (the export folds the rest)."""
    layers: list[nn.Module] = []
    for layer in model:
        before = layers[-1] if layers else None
        if isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            layers[-1] = fuse_linear_bn_eval(before, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _layer(net: Net, node: Any, fresh: bool) -> list[nn.Module]:
    if node.type == "Relu":
        return [nn.ReLU()]
    if node.type == "Flatten" and node.attrs.get("axis", 1) == 1:
        return [nn.Flatten()]
    weight, bias = (net.constant(node.input(slot)) for slot in (1, 2))
    if node.type == "Gemm" and weight is not None and bias is not None and node.attrs.get("transB", 0) == 1:
        layer = _filled(nn.Linear(weight.shape[1], weight.shape[0]), weight, bias, fresh)
        return [layer, *([nn.BatchNorm1d(weight.shape[0])] if fresh else [])]
    pads = tuple(node.attrs.get("pads", (0, 0, 0, 0)))
    plain = int(node.attrs.get("group", 1)) == 1 and pads[:2] == pads[2:] and len(pads) == 4
    if node.type == "Conv" and weight is not None and bias is not None and plain and "auto_pad" not in node.attrs:
        strides = tuple(node.attrs.get("strides", (1, 1)))
        made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], strides, pads[:2], bias=not fresh)
        return [_filled(made, weight, bias, fresh), *([nn.BatchNorm2d(weight.shape[0])] if fresh else [])]
    raise StudyFileError(
        f"node '{node.label}' ({node.type}): only chains of Conv, Relu, Flatten, Gemm can be trained here"
    )


def _filled(layer: nn.Conv2d | nn.Linear, weight: np.ndarray, bias: np.ndarray, fresh: bool) -> nn.Module:
    if not fresh and layer.bias is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            layer.bias.copy_(torch.from_numpy(bias.copy()))
    return layer


def _idle_first(scores: Scores, idle: np.ndarray) -> Scores:
    """Idle channels rank below all others, but within the share to remove: so all arms end up equally wide.

    `idle` must not depend on the arm: a criterion scored on fewer images would call more of them idle.
    """
    values = np.where(idle, -np.inf, scores.values)
    return replace(scores, values=values, free=np.zeros(len(idle), bool))


def _removed(groups: Groups, like: Groups) -> dict[int, int]:
    """How many channels each group has to lose to be as wide as in `like`."""
    wide = {group.name: len(group.channels) for group in like.groups}
    missing = [group.name for group in groups.groups if group.name not in wide]
    if missing:
        raise StudyFileError(f"the network to match has no layer '{missing[0]}'; it is not pruned from the same parent")
    return {i: len(group.channels) - wide[group.name] for i, group in enumerate(groups.groups)}
