"""The hands of `secateur compare`: this package's training and pruning, and the verifier's coverage search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruning import api
from pruning.cost import cost
from pruning.study.hands import Hands, Size
from pruning.study.spec import Spec, Task

if TYPE_CHECKING:
    from pruning.calibration import Semantic


def hands(task: Task, study: Spec | None = None) -> Hands:
    """Everything a study needs; without a study (given networks) only sizes and verification.

    Raises SecateurError for data or a rectangle that cannot be used.
    """
    from pruning.study.making import Maker
    from pruning.study.verifying import Images, ranges, verify

    images, semantic = Images(task.data), rectangle(task.rectangle)
    images.check()
    ranges(semantic)  # what cannot be asked is refused here, before anything is made

    def check(model: Path, image: int, task: Task) -> object:
        return verify(model, images, image, task, semantic)

    if study is None:
        return Hands(measure, check)  # type: ignore[arg-type]
    maker = Maker.of(study, semantic)
    return Hands(measure, check, maker.train, maker.prune, maker.finetune)  # type: ignore[arg-type]


def measure(model: Path) -> Size:
    """Size of a network."""
    found = cost(api.load(model))
    return Size(found.parameters, found.macs, found.nonlinear)


def widths(models: Sequence[Path]) -> list[int]:
    """Width in pixels of the images each network takes."""
    from verifier.semantic import network

    return [network.load(model).width for model in models]


def rectangle(text: str) -> Semantic:
    """The ranges behind `small`, `medium` or `large`, or those written out: `contrast=0.8:1.2,brightness=-0.1:0.1`."""
    from pruning.calibration import Semantic
    from verifier.training.augment import LEVELS

    if text in LEVELS:
        contrast, brightness = LEVELS[text]
        return Semantic((1 - contrast, 1 + contrast), (-brightness, brightness))
    return Semantic.parse(text)
