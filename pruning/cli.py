"""The `prune` command: argument parsing, messages and exit codes, and nothing that computes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning import options as choices
from pruning.options import ChannelFloor, PruneOptions, ScoreOptions, TrainOptions
from verifier.console.arguments import CommandParser, share
from verifier.data import options as shared
from verifier.errors import SecateurError
from verifier.perturbation.options import add_perturbation

if TYPE_CHECKING:
    pass

_PLAIN = PruneOptions()
_EPILOG = f"""
{shared.DATA}
how channels are chosen
  Our USN ("unbiased and smooth neuron"; the paper's own formula was not available to us, this is our definition):
      z0 = pre-activation of a channel for the clean image, z(s) for the changed image x'(s), s in S
      Bias2 = E (mean_s z(s) - z0)^2,  Var = E var_s z(s),  Sig = variance of z0 over images and positions
      our USN = R * T^g,  R = Sig / (Sig + Bias2 + Var),  T = 1 - P[sign z(s) != sign z0],  g = --usn-stability-exp
  Channels with the lowest USN are removed. Channels that are inactive or constant on the data go first, for every
  criterion.

criteria
  from images and S   usn anti-usn random-matched rs nrs usn-cert* looseness*   (* proved bounds, slow: few --images)
  from weights        l1 l2 slim refill random
  from labels         taylor snip sensnorm hydra                    (need onnx2torch, see below)
  from the outputs    output-taylor usn-taylor   (what a channel is worth; images and S, onnx2torch, no labels)
  whole blocks        layer  (residual blocks whose removal changes the output least)
  random-matched takes as many channels per layer as usn would, but random ones.

what stands for a removed channel (--fold)
  zero   nothing
  mean   its average, moved into the biases of the layers that read it (default where there are data)
  graft  the channel stays, its ReLU becomes the best line
  sound  the centre of its certified interval, with a bound delta on the change of the output
  A pruned network is another network: its verdicts say nothing about the original, except with fold sound, where a
  verdict with tolerance tau - delta carries over to the original with tau.

which network to ship (--target)
  A fifth of the labelled pictures is kept from pruning and training. 25, 50, 75 and 90 % are removed, shared out over
  the layers uniformly, globally and by marginal certified loss, each until the error on the kept pictures rises by more
  than asked, and then one ratio between the last two. Of those within it, and the given network, the one is written of
  which most of S is certified on the first {choices.TARGET_VERIFIED} kept pictures; on a tie the smallest. Its figures
  are of the pictures that it was chosen by: measure it on others before you quote them. --mode one-shot or
  progressive fine-tunes each (with --certified for bounds as well).

examples
  prune net.onnx -o small.onnx --target "error<=+10%,certify<=5s" --data aircraft23 --semantic brightness=-0.1:0.1
  prune net.onnx -o small.onnx --criterion l2 --ratio 0.3 --fold zero
  prune net.onnx -o small.onnx --ratio 0.5 --data images.npz --semantic medium
  prune net.onnx --dry-run --ratio 0.5 --criterion l1
  prune net.onnx -o small.onnx --ratio 0.75 --mode progressive --data aircraft23 --semantic brightness=-0.1:0.1

Criteria from labels or the outputs, --allocation marginal, and every --mode but post-training, need
onnx2torch, which is not installed with this package:
  pip install --no-deps 'onnx2torch>=1.5.15'
(--no-deps leaves out torchvision, whose builds fit only one build of PyTorch and which is not needed here).

exit codes: 0 done, 2 the command or its files cannot be used (one line on standard error, nothing written)
"""


def parser() -> CommandParser:
    """The command line."""
    p = CommandParser(
        "prune", "Remove whole channels from an ONNX network; inputs, outputs, names and opset stay.", _EPILOG
    )
    p.add_argument("model", help="the .onnx file to prune, or the name of a shipped network")
    p.add_argument(
        "-o", "--output", type=Path, help="where to write the pruned .onnx (its record goes beside it as .json)"
    )
    _add(p, "criterion", "see below", metavar="NAME")
    _add(p, "ratio", "share of the channels to remove, 0 <= ratio < 1")
    p.add_argument(
        "--sweep", type=_ratios, metavar="R,R,...", help="several ratios; writes OUTPUT with the ratio in its name"
    )
    _add(p, "mode", "training around pruning, if not post-training", choices=choices.MODES)
    p.add_argument(
        "--target", metavar="T",
        help="such as 'error<=+10%%,certify<=5s': search ratio and allocation with validation images, keep the network "
        "that certifies most of S in that time per image at no more error (see below)",
    )  # fmt: skip
    p.add_argument(
        "--tau", type=share, default=share("3%"), metavar="T",
        help="tolerance of key points for --target: 3px, or 5%% of the image side (default: 3%%)",
    )  # fmt: skip
    p.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    p.add_argument("--report", type=Path, metavar="DIR", help="write a report with histograms and pictures")
    g = p.add_argument_group("data")
    shared.add_data(g)
    shared.add_network(g)
    _add(g, "images", "calibration images used, drawn by --seed")
    g.add_argument("--samples", type=int, default=32, help="Sobol points of S per image (default: 32)")
    add_perturbation(p.add_argument_group("the perturbation: ranges S of parameters s, and constants"))
    g = p.add_argument_group("selection")
    _add(g, "allocation", "ratio per layer; marginal: by certified loss", choices=choices.ALLOCATIONS)
    _add(g, "mrs_form", "sensitivity for --allocation mrs", choices=choices.MRS_FORMS)
    _add(g, "norm", "makes layers comparable for global", choices=choices.NORMS)
    g.add_argument("--stream", action="store_true", help="also prune channels joined by residual sums")
    g.add_argument("--keep", action="append", default=[], metavar="NODE", help="never prune this layer (repeatable)")
    _add(g, "min_channels", "channels every layer keeps at least", ChannelFloor.channels)
    _add(g, "min_fraction", "share every layer keeps at least", ChannelFloor.fraction)
    _add(g, "guard", "protect this top share of channels by taylor")
    _add(g, "usn_stability_exp", "g in USN = R * T^g: 0 or 1", ScoreOptions.stability_exponent)
    _add(g, "usn_bias", "meaning of Bias2 (ablation)", ScoreOptions.bias, choices=("shift", "centred"))
    _add(g, "agg", "how positions of a channel are merged", ScoreOptions.aggregate, choices=("mean", "q90"))
    g.add_argument("--unstructured", action="store_true", help="zero single weights instead (l1, random, snip)")
    g = p.add_argument_group("replacement")
    g.add_argument("--fold", choices=choices.FOLDS, help="default: mean with data, else zero")
    g.add_argument("--border", choices=choices.BORDERS, help="default: exact for post-training, else interior")
    g.add_argument(
        "--rescale", choices=choices.RESCALES,
        help="give channels that stay their old mean and spread back (default: all for post-training with fold mean, "
        "silent ones before fine-tuning)",
    )  # fmt: skip
    g = p.add_argument_group("training")
    g.add_argument("--train-images", type=int, default=4096, help="images used by the training modes (default: 4096)")
    for name, text, more in _TRAINING:
        _add(g, name, text, getattr(TrainOptions, name), **more)
    _add(g, "seed", "same seed, same result")
    return p


_TRAINING: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("epochs", "fine-tuning epochs per stage", {}),
    ("max_drop", "stop when the error rises by this share", {}),
    ("wasserstein", "weight of the concentration loss", {}),
    ("wasserstein_span", "before each cut, or between cuts as well", {"choices": choices.SPANS}),
    ("stability", "stability regulariser", {"choices": choices.STABILITIES}),
    ("certified", "weight of the loss on bounds over random sub-rectangles of S", {}),
    ("certified_bounds", "its bounds", {"choices": choices.CERTIFIED_BOUNDS}),
    ("cell", "sides of the sub-rectangles after the warm-up, share of those of S", {}),
    ("device", "torch device for the training modes", {}),
)


def _add(group: Any, name: str, text: str, default: object = None, **more: Any) -> None:
    """An option called after a field of PruneOptions, or with another default; its type is that of the default."""
    value = getattr(_PLAIN, name) if default is None else default
    flag = f"--{name.replace('_', '-')}"
    group.add_argument(flag, type=type(value), default=value, help=f"{text} (default: {value})", **more)


def _options(a: argparse.Namespace) -> PruneOptions:
    """What the command line asks for, whatever number of ratios it names."""
    return PruneOptions(
        criterion=a.criterion, ratio=a.ratio, mode=a.mode, allocation=a.allocation, mrs_form=a.mrs_form, norm=a.norm,
        stream=a.stream, keep=tuple(a.keep), floor=ChannelFloor(a.min_channels, a.min_fraction), guard=a.guard,
        unstructured=a.unstructured, fold=a.fold, border=a.border, rescale=a.rescale, images=a.images, seed=a.seed,
        scores=ScoreOptions(
            stability_exponent=a.usn_stability_exp, aggregate=a.agg, bias=a.usn_bias,
            mask_ratio=max(a.sweep or [a.ratio]),
        ),
        training=TrainOptions(**{name: getattr(a, name) for name, *_ in _TRAINING}),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        options = _options(arguments)
        from pruning.command import run  # NumPy, ONNX and the data sets: not for --help

        run(arguments, options)
        return 0
    except SecateurError as error:
        print(f"prune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prune: interrupted", file=sys.stderr)
        return 130


def _ratios(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers like 0.25,0.5,0.75") from None
    return values


if __name__ == "__main__":
    sys.exit(main())
