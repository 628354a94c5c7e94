"""Questions of a comparison as tasks of an executor: a network and a picture each, answered in any order.

The pictures are read here and travel with the question, as the networks do: nodes need neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pruning.calibration import Perturbation
from pruning.study.hands import ImageAnswer
from pruning.study.machine import machine, versions
from pruning.study.spec import VerificationTask
from pruning.study.verifying import Images, open_network, verify
from verifier.console import process
from verifier.executors.executor import Emit, Executor, Servant, run_each
from verifier.graph.onnx_import.source import files_of


@dataclass(frozen=True)
class ImageQuestion:
    """A network and one picture, which `images` hold."""

    model: Path
    images: Images
    image: int


class Asking(Servant[ImageQuestion]):
    """Answers questions of a task: an `ImageAnswer` each."""

    def __init__(self, task: VerificationTask, semantic: Perturbation) -> None:
        self.task, self.semantic = task, semantic

    def prepare(self, beside: int) -> None:
        """See `Servant`."""
        process.keep_freed_memory()

    def do(self, task: ImageQuestion, emit: Emit) -> None:
        """See `Servant`."""
        outcome = verify(task.model, task.images, task.image, self.task, self.semantic)
        emit(ImageAnswer(outcome, versions(), machine()))

    def files(self, task: ImageQuestion) -> Mapping[Path, tuple[Path, ...]]:
        """See `Servant`."""
        return {task.model: tuple(files_of(task.model)[1:])}

    def moved(self, task: ImageQuestion, places: Mapping[Path, Path], folder: Path) -> ImageQuestion:
        """See `Servant`."""
        return replace(task, model=places[task.model])


def answers(
    executor: Executor[ImageQuestion], images: Images, task: VerificationTask, pairs: Sequence[tuple[Path, int]]
) -> Iterator[tuple[int, ImageAnswer]]:
    """See `hands.Spread`."""

    def question(i: int) -> ImageQuestion:
        model, image = pairs[i]
        net = open_network(model, task)
        return ImageQuestion(model, Images(task, {(image, net.frame): images.example(net, image)}), image)

    told: set[int] = set()
    with executor:
        for i, answer in run_each(executor, len(pairs), question):
            if i not in told:  # a process may be lost between its answer and its end
                told.add(i)
                yield i, answer
