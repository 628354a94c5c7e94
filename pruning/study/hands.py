"""What a study needs done by others: training, pruning, sizes and verification, as callables with small arguments.

Files are the currency: every callable reads ONNX files and writes one, so a killed study goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from verifier.brief import brief

if TYPE_CHECKING:
    import numpy as np

    from pruning.study.spec import VerificationTask


@dataclass(frozen=True)
class Size:
    """A network's parameters, multiply-accumulates per image, and non-linear neurons."""

    parameters: int
    macs: int
    nonlinear: int


@dataclass(frozen=True, eq=False)
class PictureWitness:
    """A point of the rectangle where the property fails, with what is needed to draw it.

    point (d,) parameter values; picture (H, W) or (H, W, 3) uint8, the image at that point; predicted and truth (K, 2)
    keypoints in pixels of that picture; worst: index of the keypoint that is off the most.
    """

    __repr__ = brief

    point: np.ndarray
    picture: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    worst: int


@dataclass(frozen=True, eq=False)
class ImageVerdict:
    """The verifier's answer for one network and one image; the numbers are explained in `row.StudyRow`.

    cells (n, 2, 2) float64: low and high corner of each closed cell of a 2-D rectangle; states (n,) int8: 1 certified,
    -1 refuted, 0 open. Both None where the rectangle is not 2-D or no map is wanted. axes: names of its parameters.
    trace: seconds and the share certified by then, both rising, from one run.
    """

    __repr__ = brief

    verdict: str
    certified: float
    refuted: float
    open: float
    seconds: float
    boxes: int
    unstable: float
    unstable_ratio: float
    clean_error: float
    sampled: float | None = None
    cells: np.ndarray | None = field(default=None, repr=False)
    states: np.ndarray | None = field(default=None, repr=False)
    witness: PictureWitness | None = field(default=None, repr=False)
    axes: tuple[str, ...] = ()
    trace: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ImageAnswer:
    """An outcome, and what it was obtained with: see `machine`."""

    outcome: ImageVerdict
    versions: str
    machine: str


class Train(Protocol):
    """Train a network from new weights for `epochs` epochs and write it to `out`.

    `like` None: the architecture of the study. Otherwise the layer widths of that ONNX file (small-scratch). May keep
    checkpoints in `work`, a folder of its own that survives a kill.
    """

    def __call__(self, *, seed: int, epochs: float, like: Path | None, work: Path, out: Path) -> None:
        """Do it; see the class."""
        ...


class Prune(Protocol):
    """Remove `ratio` of the channels of `model` ranked by `criterion` and write the result to `out`.

    `like`: an ONNX file (pruned from the same parent) whose number of channels per layer is to be hit exactly. `seed`
    settles every random choice. `shared`: how the ratio is shared out over the layers; empty: as the study says.
    `concentrate`: epochs of fine-tuning (`certified`: as `FineTune` has it) between the choice of the channels and the
    cut, in which these are pulled to constants.
    """

    def __call__(
        self, *, model: Path, criterion: str, ratio: float, like: Path | None, seed: int, work: Path, out: Path,
        shared: str, concentrate: float, certified: bool,
    ) -> None:  # fmt: skip
        """Do it; see the class."""
        ...


class FineTune(Protocol):
    """Train `model` on for `epochs` epochs at the fine-tuning rate and write it to `out`.

    `certified`: with a loss on bounds over the rectangle beside that of the task.
    """

    def __call__(self, *, model: Path, seed: int, epochs: float, certified: bool, work: Path, out: Path) -> None:
        """Do it; see the class."""
        ...


class Measure(Protocol):
    """Size of a network."""

    def __call__(self, model: Path) -> Size:
        """Do it; see the class."""
        ...


class VerifyImage(Protocol):
    """Verify one image under the study's task within its time limit. It raises for a broken file only."""

    def __call__(self, model: Path, image: int, task: VerificationTask) -> ImageVerdict:
        """Do it; see the class."""
        ...


class Describe(Protocol):
    """Lines for the user before a comparison: how pictures get the networks' size, what the networks answer to them."""

    def __call__(self, models: Sequence[Path], images: Sequence[int]) -> list[str]:
        """Do it; see the class."""
        ...


class Spread(Protocol):
    """Verify many (network, image) elsewhere: their places in `pairs` and answers, in the order in which they come."""

    def __call__(self, pairs: Sequence[tuple[Path, int]], task: VerificationTask) -> Iterator[tuple[int, ImageAnswer]]:
        """Do it; see the class."""
        ...


@dataclass(frozen=True)
class Hands:
    """Everything handed in. A comparison of given files needs only `measure` and `verify`.

    count: how many pictures the data have, None where there is no limit. spread: takes the place of `verify`, if it is
    there.
    """

    measure: Measure
    verify: VerifyImage
    train: Train | None = None
    prune: Prune | None = None
    finetune: FineTune | None = None
    count: Callable[[], int | None] = lambda: None
    describe: Describe | None = None
    spread: Spread | None = None
