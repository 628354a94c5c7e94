"""The training loop: seeds, augmentation, checkpoints, early stop, time limit, and the figures of the result.

`python -m verifier.training.train --out out/cnn7_w8` trains, exports `<out>.onnx` and writes `<out>.json` with the
command, the seed and the errors on the test split.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from verifier.console.arguments import CommandParser
from verifier.data import aircraft23
from verifier.engine.on_device import device_of
from verifier.errors import OptionsError, SecateurError
from verifier.files.whole import Whole, make_folder, write
from verifier.perturbation.options import add_perturbation
from verifier.perturbation.perturbation import Perturbation, apply
from verifier.perturbation.text import STILL
from verifier.progress import Say
from verifier.training import augment, measure
from verifier.training.export import to_onnx
from verifier.training.models import BUILDERS, Architecture, build

CPU = torch.device("cpu")

GRID = 9
"""Most points of the ranges at which the trained network is tried."""


@dataclass(frozen=True)
class Recipe:
    """How to train. `level`: the perturbation of the augmentation, as text. `minutes` limits wall time: the learning
    rate follows whichever of time and epochs is further.
    """

    level: str = "medium"
    images: int = 20_000
    epochs: int = 200
    batch: int = 128
    rate: float = 4e-3
    decay: float = 1e-4
    shift: int = 3
    patience: int = 40
    minutes: float = 1e9
    seed: int = 0
    view: str = "quarter"

    def __post_init__(self) -> None:
        _ = self.perturbation
        if min(self.images, self.epochs, self.batch, self.patience) < 1 or self.minutes <= 0 or self.rate <= 0:
            raise OptionsError("images, epochs, batch, patience, minutes and rate must be positive")

    @cached_property
    def perturbation(self) -> Perturbation:
        """What `level` means; OptionsError if it means nothing."""
        return Perturbation.parse(self.level, STILL)


@dataclass(frozen=True, eq=False)
class DataSplit:
    """Tensors of one split: images (n, C, H, W), points (n, K, 2) pixels, visibility (n, K)."""

    images: Tensor
    points: Tensor
    visibility: Tensor


def load(split: str, n: int, arch: Architecture, view: str, device: torch.device = CPU) -> DataSplit:
    """A split of `aircraft23` as tensors on a device."""
    data = aircraft23.load(split, n, size=arch.size, grey=arch.channels == 1, view=view)
    return DataSplit(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in data))


def batches(data: DataSplit, recipe: Recipe, draw: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of augmented batches, lazily; every batch shares one mirror flip and one shift."""
    order = torch.randperm(len(data.images), generator=draw).split(recipe.batch)
    return [(index, torch.randint(0, 2, (1,), generator=draw),
             torch.randint(-recipe.shift, recipe.shift + 1, (2,), generator=draw)) for index in order]  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """What the loss of one step was computed on: images before and after the perturbation, key points (n, K, 2) in
    pixels, weights (n, K), and what the network answered to `moved`. done: share of the training.
    """

    images: Tensor
    moved: Tensor
    points: Tensor
    weights: Tensor
    output: Tensor
    done: float


LossTerm = Callable[[TrainingStep, Tensor], Tensor]
"""A further term of the loss, of the step and the loss of the task."""


def augmented(
    data: DataSplit, plan: tuple[Tensor, Tensor, Tensor], semantic: Perturbation, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images, before and after the perturbation, points and weights of a batch."""
    index, flip, move = plan  # drawn on the host, like all of the augmentation
    index = index.to(data.images.device)
    images, points, seen = data.images[index], data.points[index], data.visibility[index]
    if int(flip):
        images, points, seen = augment.mirror(images, points, seen)
    images, points, seen = augment.shift(images, points, seen, int(move[0]), int(move[1]))
    return images, augment.semantic(images, semantic, draw), points, (seen > 0).float()


def epoch(
    model: nn.Module, data: DataSplit, recipe: Recipe, semantic: Perturbation, optimiser: torch.optim.Optimizer,
    draw: torch.Generator, progress: Callable[[int], float], terms: Sequence[LossTerm] = (), most: int | None = None,
) -> float:  # fmt: skip
    """One pass over the data, or its first `most` steps; `progress(step)` is the share of the training done before a
    step of it. The rate is that of the recipe, times `factor` of a group of parameters that has one. Returns the loss.
    """
    model.train()
    total, plans = 0.0, batches(data, recipe, draw)[:most]
    for step, plan in enumerate(plans):
        done = progress(step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * group.get("factor", 1.0) * schedule(done)
        images, moved, points, weights = augmented(data, plan, semantic, draw)
        output = model(moved)
        task = loss = measure.loss(output, points, weights, images.shape[-1])
        for term in terms:
            loss = loss + term(TrainingStep(images, moved, points, weights, output, done), task)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
        optimiser.step()
        total += float(loss.detach())
    return total / max(1, len(plans))


def schedule(done: float) -> float:
    """Warm up linearly over the first 3 %, then fall along a cosine to 0.2 %."""
    if done < 0.03:
        return 0.05 + 0.95 * done / 0.03
    return 0.002 + 0.998 * 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, (done - 0.03) / 0.97))))


def train(
    arch: Architecture,
    recipe: Recipe,
    out: Path,
    say: Say = print,
    resume: bool = False,
    device: torch.device = CPU,
) -> nn.Sequential:
    """Train on a device and return the network with the best validation error, which is there, too; `<out>.ckpt` allows
    `resume`. First weights and augmentation are drawn on the host: a seed means the same on every device."""
    torch.manual_seed(recipe.seed)
    draw = torch.Generator().manual_seed(recipe.seed + 1)
    model = build(arch).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    data = load("train", recipe.images, arch, recipe.view, device)
    held = load("val", 1000, arch, recipe.view, device)
    checkpoint = out.with_suffix(".ckpt")
    state = _State() if not resume else _restore(checkpoint, model, optimiser, draw)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{arch.name} width {arch.width}: {parameters} parameters, {len(data.images)} images, seed {recipe.seed}")
    began, steps = time.monotonic() - state.seconds, -(-len(data.images) // recipe.batch)
    for number in range(state.epoch, recipe.epochs):

        def progress(step: int, number: int = number) -> float:
            clock = (time.monotonic() - began) / (60.0 * recipe.minutes)
            return min(1.0, max((number + step / steps) / recipe.epochs, clock))

        loss = epoch(model, data, recipe, recipe.perturbation, optimiser, draw, progress)
        model.eval()
        found = measure.evaluate(model, held.images, held.points, held.visibility)
        if found.mean < state.best:
            state = state.better(found.mean, number, model)
        state = state.at(number + 1, time.monotonic() - began)
        say(f"epoch {number + 1:4d}  loss {loss:.5f}  val error {found.mean:.3f} px  pck@3% {found.pck[1]:.3f}"
            f"  {state.seconds:.0f} s")  # fmt: skip
        _store(checkpoint, state, model, optimiser, draw)
        if progress(steps) >= 1.0 or number - state.best_epoch >= recipe.patience:
            break
    if state.weights is not None:
        model.load_state_dict(state.weights)
    return model.eval()


@dataclass(frozen=True, eq=False)
class _State:
    """Where the training stands; `weights` are those of the best epoch."""

    epoch: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_epoch: int = 0
    weights: dict[str, Tensor] | None = None

    def better(self, error: float, number: int, model: nn.Module) -> _State:
        copy = {name: value.clone() for name, value in model.state_dict().items()}
        return _State(self.epoch, self.seconds, error, number, copy)

    def at(self, number: int, seconds: float) -> _State:
        return _State(number, seconds, self.best, self.best_epoch, self.weights)


def _store(
    path: Path, state: _State, model: nn.Module, optimiser: torch.optim.Optimizer, draw: torch.Generator
) -> None:
    content = {
        "state": vars(state),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "draw": draw.get_state(),
    }
    make_folder(path.parent)
    with Whole(path, "the checkpoint") as stream:
        torch.save(content, stream)


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, draw: torch.Generator) -> _State:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        model.load_state_dict(content["model"])
        optimiser.load_state_dict(content["optimiser"])
        draw.set_state(content["draw"])
        return _State(**content["state"])
    except Exception as error:  # a damaged file makes PyTorch's reader raise almost anything
        raise OptionsError(f"cannot resume from {path}: {type(error).__name__}: {error}") from error


def report(model: nn.Module, arch: Architecture, recipe: Recipe, command: Sequence[str]) -> dict[str, object]:
    """Figures on the test split: clean, and the worst of a grid of the trained ranges per key point."""
    device = next(model.parameters()).device
    test = load("test", 1000, arch, recipe.view, device)
    clean = measure.evaluate(model, test.images, test.points, test.visibility)
    worst = torch.zeros(test.points.shape[:2], device=device)
    with torch.no_grad():
        for point in recipe.perturbation.grid(GRID):
            shown = torch.from_numpy(apply(recipe.perturbation, test.images.cpu().numpy(), point)).to(device)
            found = torch.cat([measure.decode(model(part)) for part in shown.split(500)])
            worst = torch.maximum(worst, torch.linalg.vector_norm(found - test.points, dim=2))
    inside = test.visibility > 0
    return {
        "command": " ".join(command),
        "architecture": asdict(arch),
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "output": "heatmaps, stride 4" if arch.name == "heatmap" else "pixels x0, y0, x1, y1, ... of the input image",
        "keypoints": list(aircraft23.KEYPOINTS),
        "test": clean.as_dict(),
        "test_worst_of_grid": measure.errors(worst[inside].cpu().numpy(), arch.size).as_dict(),
    }


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser("secateur train", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix: .onnx, .json and .ckpt are added")
    parser.add_argument("--model", default="cnn7", choices=sorted(BUILDERS))
    for field in ("width", "size"):
        parser.add_argument(f"--{field}", type=int, default=getattr(Architecture, field))
    parser.add_argument("--rgb", action="store_true", help="three channels instead of grey")
    parser.add_argument("--view", default=Recipe.view, choices=list(aircraft23.VIEWS))
    augmentation = parser.add_argument_group("semantic augmentation: ranges of parameters, and constants")
    add_perturbation(augmentation, "--level", dest="level", default=Recipe.level)
    for field in ("images", "epochs", "batch", "shift", "patience", "seed"):
        parser.add_argument(f"--{field}", type=int, default=getattr(Recipe, field))
    for field in ("rate", "decay", "minutes"):
        parser.add_argument(f"--{field}", type=float, default=getattr(Recipe, field))
    parser.add_argument(
        "--keep-norm", action="store_true", help="write batch normalisation unfolded, for `prune --criterion slim`"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--resume", action="store_true", help="continue from <out>.ckpt")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `secateur train`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(arguments)
    try:
        arch = Architecture(options.model, options.width, options.size, 3 if options.rgb else 1)
        names = ("level", "images", "epochs", "batch", "rate", "decay", "shift", "patience", "minutes", "seed", "view")
        recipe = Recipe(**{name: getattr(options, name) for name in names})
        device = device_of(options.device)
        torch.set_num_threads(max(1, options.threads))
        model = train(arch, recipe, options.out, lambda line: print(line, flush=True), options.resume, device)
        figures = report(model, arch, recipe, ["secateur train", *arguments])
        make_folder(options.out.parent)
        note = f"trained by: secateur train {' '.join(arguments)}"
        write(f"{options.out}.onnx", to_onnx(model.cpu(), arch, note, options.keep_norm).SerializeToString())
        write(f"{options.out}.json", json.dumps(figures, indent=2) + "\n")
        print(json.dumps(figures["test"]))
        return 0
    except SecateurError as error:
        print(f"secateur train: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
