"""The hands of `secateur compare`: this package's training and pruning, and the verifier's coverage search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pruning import api
from pruning.calibration import perturbation
from pruning.cost import cost
from pruning.study.hands import Hands, ImageAnswer, ImageVerdict, Size
from pruning.study.making import Maker
from pruning.study.spec import Study, VerificationTask
from pruning.study.spread import Asking, ImageQuestion, answers
from pruning.study.verifying import Images, describe, verify
from verifier.executors.executor import Executor
from verifier.semantic import network


def hands(task: VerificationTask, study: Study | None = None) -> Hands:
    """Everything a study needs; without a study (given networks) only sizes and verification.

    Raises SecateurError for data or a rectangle that cannot be used.
    """
    held, semantic = Images(task), perturbation(task.rectangle)
    held.check()

    def check(model: Path, image: int, task: VerificationTask) -> ImageVerdict:
        return verify(model, held, image, task, semantic)

    def tell(models: Sequence[Path], images: Sequence[int]) -> list[str]:
        return describe(models, held, images, task, semantic)

    if study is None:
        return Hands(measure, check, count=lambda: held.source.count, describe=tell)
    maker = Maker.of(study, semantic)
    return Hands(measure, check, maker.train, maker.prune, maker.finetune)


def on_cluster(hands: Hands, task: VerificationTask, cluster: Callable[[Asking], Executor[ImageQuestion]]) -> Hands:
    """The same, but that images are verified on a cluster, made for the one who answers there."""
    given = replace(task, device="cpu") if task.device == "auto" else task  # a GPU is for the task that asked for it
    asking, held = Asking(given, perturbation(task.rectangle)), Images(given)

    def spread(pairs: Sequence[tuple[Path, int]], task: VerificationTask) -> Iterator[tuple[int, ImageAnswer]]:
        return answers(cluster(asking), held, given, pairs) if pairs else iter(())

    return replace(hands, spread=spread)


def measure(model: Path) -> Size:
    """Size of a network."""
    found = cost(api.load(model))
    return Size(found.parameters, found.macs, found.nonlinear)


def widths(models: Sequence[Path], layout: str = "auto", channels: int | None = None) -> list[int]:
    """Width in pixels of the images each network takes."""
    return [network.load(model, channels=channels, layout=layout).width for model in models]
