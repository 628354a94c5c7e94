"""Prunes and fine-tunes one network in many ways and measures each on validation images.

    python -m benchmarks.studies.remedies.run dense.onnx benchmarks/studies/remedies/variants.yaml out/remedies.jsonl

One line per variant is appended; those already there are skipped. Test images are never touched.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import nn

from benchmarks.studies.remedies import terms
from pruning import api
from pruning.calibration import perturbation
from pruning.groups import find_groups
from pruning.net import Net
from pruning.planning import ChannelFloor, Plan, stages
from pruning.study.making import Maker, NetworkSettings, Tuned, chain
from verifier.perturbation.perturbation import apply
from verifier.training import augment, measure
from verifier.training import train as training
from verifier.training.models import Architecture

GRID = 5
"""Points per side of the grid of the rectangle on which `within` is measured."""

TOLERANCES = (0.03, 0.05, 0.08)


@dataclass(frozen=True)
class Variant:
    """One way to prune. epochs: of fine-tuning, split over the stages; rate: its highest learning rate.

    shares: of the channels of each layer, per stage, instead of an allocation. concentrate: epochs with L_conc before
    each cut; norm: batch normalisation behind each convolution while fine-tuning; teach: weight of the loss against the
    answers of the dense network; rescale: as of `prune --rescale`, right after the cut.
    """

    ratio: float
    criterion: str = "usn"
    epochs: float = 5
    rate: float = 0.004
    stages: int = 1
    allocation: str = "uniform"
    least: int = 16
    shares: tuple[float, ...] = ()
    concentrate: float = 0
    norm: bool = False
    teach: float = 0
    rescale: str = "none"
    seed: int = 0


@dataclass(frozen=True)
class Bench:
    """The dense network and the images."""

    dense: Net
    maker: Maker
    held: training.DataSplit

    def run(self, variant: Variant, work: Path) -> dict[str, object]:
        """Widths, and figures right after the first cut and at the end."""
        began, current, cut = time.monotonic(), self.dense, None
        for _, ratio in stages(variant.ratio, variant.stages):
            plan = self._plan(variant, current, ratio)
            if variant.concentrate:
                current = self._concentrated(variant, current, plan)
                plan = plan.on(current)
            images = self.maker.calibration("", 0)
            pruned = api.apply(current, plan, "mean", images, "interior", rescale=variant.rescale).net
            cut = cut or self.figures(chain(pruned, 64, fresh=False))
            model = self._tuned(variant, pruned)
            self.maker.write(model, work)
            current = api.load(work)
        widths = [len(group.channels) for group in find_groups(current).groups]
        return {"widths": widths, "cut": cut, "after": self.figures(model), "seconds": round(time.monotonic() - began)}

    def _plan(self, variant: Variant, net: Net, ratio: float) -> Plan:
        settings = replace(self.maker.settings, allocation=variant.allocation, least=variant.least)
        maker = replace(self.maker, settings=settings, floor=ChannelFloor(2, 0.1))
        maker.__dict__["split"] = self.maker.split
        counts = None
        if variant.shares:
            groups = find_groups(net).groups
            counts = {i: round(s * len(groups[i].channels)) for i, s in enumerate(variant.shares)}
        return maker.plan(net, variant.criterion, ratio, variant.seed, counts)

    def _concentrated(self, variant: Variant, net: Net, plan: Plan) -> Net:
        model = Tuned(net, 64, plan)
        self.maker.fit(model, variant.concentrate, variant.rate / 4, 77, [model.concentration])
        return model.exported()

    def _tuned(self, variant: Variant, net: Net) -> nn.Sequential:
        model = chain(net, 64, fresh=False)
        if variant.norm:
            images = self.maker.split.images[:1024]
            draw = torch.Generator().manual_seed(3)
            model = terms.normalised(model, augment.semantic(images, self.maker.semantic, draw))
        more = [terms.Teacher(chain(self.dense, 64, fresh=False), variant.teach)] if variant.teach else []
        self.maker.fit(model, variant.epochs / variant.stages, variant.rate, 500_000 + variant.seed, more)
        return model

    def figures(self, model: nn.Module, images: int = 300) -> dict[str, float]:
        """Mean error in percent of the side, and the share of images with all key points within tau on a grid of S.

        Of all key points inside the frame; the property of a study speaks about the visible ones only.
        """
        model.eval()
        held, semantic = self.held, self.maker.semantic
        side = held.images.shape[-1]
        worst = torch.zeros(images)
        with torch.no_grad():
            for point in semantic.grid(GRID * GRID):
                moved = torch.from_numpy(apply(semantic, held.images[:images].numpy(), point))
                gap = (measure.decode(model(moved)) - held.points[:images]).abs().amax(2)
                gap[held.visibility[:images] == 0] = 0
                worst = torch.maximum(worst, gap.amax(1))
        mean = measure.evaluate(model, held.images, held.points, held.visibility).mean
        within = {f"within {t:.0%}": round(float((worst <= t * side).float().mean()), 3) for t in TOLERANCES}
        return {"error": round(100 * mean / side, 3), **within}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("network", "variants", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    variants = [Variant(**{**v, "shares": tuple(v.get("shares", ()))}) for v in yaml.safe_load(options.variants.open())]
    dense = api.load(options.network)
    maker = Maker(NetworkSettings(width=16), "aircraft23", perturbation("medium"))
    held = training.load("val", 1000, Architecture("cnn7", 16, 64), training.Recipe.view)
    bench = Bench(dense, maker, held)
    print("dense", bench.figures(chain(dense, 64, fresh=False)), flush=True)
    done = options.out.read_text().splitlines() if options.out.exists() else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line)["variant"] for line in done]
    for variant in variants:
        described = json.loads(json.dumps(asdict(variant)))
        if described in known:
            continue
        found = bench.run(variant, options.out.with_suffix(".onnx"))
        with options.out.open("a") as stream:
            stream.write(json.dumps({"variant": described, **found}) + "\n")
        print(described, found, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
