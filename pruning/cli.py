"""The `prune` command: argument parsing, messages and exit codes, and nothing that computes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.console.arguments import NamedSpan, Parser
from verifier.data import options as shared
from verifier.errors import OutputError, SecateurError

if TYPE_CHECKING:
    from pruning.api import PrunedModel
    from pruning.calibration import Calibration
    from pruning.net import Net
    from pruning.planning import Plan

MODES = ("post-training", "one-shot", "progressive", "lottery")
_EPILOG = f"""
{shared.DATA}
how channels are chosen
  Our USN ("unbiased and smooth neuron"; the paper's own formula was not available to us, this is our definition):
      z0 = pre-activation of a channel for the clean image, z(s) for x'(s) = clip(alpha*x + beta, 0, 1), s in S
      Bias2 = E (mean_s z(s) - z0)^2,  Var = E var_s z(s),  Sig = variance of z0 over images and positions
      our USN = R * T^g,  R = Sig / (Sig + Bias2 + Var),  T = 1 - P[sign z(s) != sign z0],  g = --usn-stability-exp
  Channels with the lowest USN are removed. Channels that are inactive or constant on the data go first, for every
  criterion.

criteria
  from images and S   usn anti-usn random-matched rs nrs usn-cert* looseness*   (* proved bounds, slow: few --images)
  from weights        l1 l2 slim refill random
  from labels         taylor snip sensnorm hydra                    (need onnx2torch, see below)
  whole blocks        layer  (residual blocks whose removal changes the output least)
  random-matched takes as many channels per layer as usn would, but random ones.

what stands for a removed channel (--fold)
  zero   nothing
  mean   its average, moved into the biases of the layers that read it (default where there are data)
  graft  the channel stays, its ReLU becomes the best line
  sound  the centre of its certified interval, with a bound delta on the change of the output
  A pruned network is another network: its verdicts say nothing about the original, except with fold sound, where a
  verdict with tolerance tau - delta carries over to the original with tau.

examples
  prune net.onnx -o small.onnx --criterion l2 --ratio 0.3 --fold zero
  prune net.onnx -o small.onnx --ratio 0.5 --data images.npz --semantic brightness=-0.1:0.1,contrast=0.8:1.2
  prune net.onnx --dry-run --ratio 0.5 --criterion l1
  prune net.onnx -o small.onnx --ratio 0.75 --mode progressive --data aircraft23 --semantic brightness=-0.1:0.1

These criteria, and every --mode but post-training, need onnx2torch, which is not installed with this package:
  pip install --no-deps 'onnx2torch>=1.5.15'
(--no-deps leaves out torchvision, whose builds fit only one build of PyTorch and which is not needed here).

exit codes: 0 done, 2 the command or its files cannot be used (one line on standard error, nothing written)
"""


def parser() -> Parser:
    """The command line."""
    from pruning import names

    p = Parser("prune", "Remove whole channels from an ONNX network; inputs, outputs, names and opset stay.", _EPILOG)
    p.add_argument("model", help="the .onnx file to prune, or the name of a shipped network")
    p.add_argument(
        "-o", "--output", type=Path, help="where to write the pruned .onnx (its record goes beside it as .json)"
    )
    p.add_argument("--criterion", default="usn", metavar="NAME", help="see below (default: usn)")
    p.add_argument(
        "--ratio", type=float, default=0.5, help="share of the channels to remove, 0 <= ratio < 1 (default: 0.5)"
    )
    p.add_argument(
        "--sweep", type=_ratios, metavar="R,R,...", help="several ratios; writes OUTPUT with the ratio in its name"
    )
    p.add_argument(
        "--semantic", default="", metavar="RANGES", help="the rectangle S, e.g. brightness=-0.1:0.1,contrast=0.8:1.2"
    )
    for name in ("contrast", "brightness"):
        p.add_argument(f"--{name}", action=NamedSpan, dest="semantic", default="", metavar="LOW,HIGH", help="part of S")
    p.add_argument("--mode", choices=MODES, default="post-training", help="training around pruning (default: none)")
    p.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    p.add_argument("--report", type=Path, metavar="DIR", help="write a report with histograms and pictures")
    g = p.add_argument_group("data")
    shared.add_data(g)
    shared.add_network(g)
    g.add_argument("--images", type=int, default=256, help="calibration images used, drawn by --seed (default: 256)")
    g.add_argument("--samples", type=int, default=32, help="Sobol points of S per image (default: 32)")
    g = p.add_argument_group("selection")
    g.add_argument(
        "--allocation", choices=names.ALLOCATIONS, default="uniform", help="ratio per layer (default: uniform)"
    )
    g.add_argument("--mrs-form", choices=("prune", "weights"), default="prune", help="sensitivity for --allocation mrs")
    g.add_argument("--norm", choices=names.NORMS, default="layer-median", help="makes layers comparable for global")
    g.add_argument("--stream", action="store_true", help="also prune channels joined by residual sums")
    g.add_argument("--keep", action="append", default=[], metavar="NODE", help="never prune this layer (repeatable)")
    g.add_argument("--min-channels", type=int, default=4, help="channels every layer keeps at least (default: 4)")
    g.add_argument("--min-fraction", type=float, default=0.25, help="share every layer keeps at least (default: 0.25)")
    g.add_argument("--guard", type=float, default=0.0, help="protect this top share of channels by taylor (default: 0)")
    g.add_argument("--usn-stability-exp", type=int, default=0, help="g in USN = R * T^g: 0 or 1 (default: 0)")
    g.add_argument("--usn-bias", choices=("shift", "centred"), default="shift", help="meaning of Bias2 (ablation)")
    g.add_argument("--agg", choices=("mean", "q90"), default="mean", help="how positions of a channel are merged")
    g.add_argument("--unstructured", action="store_true", help="zero single weights instead (l1, random, snip)")
    g = p.add_argument_group("replacement")
    g.add_argument("--fold", choices=names.FOLDS, default=None, help="default: mean with data, else zero")
    g.add_argument(
        "--border", choices=names.BORDERS, default=None, help="default: exact for post-training, else interior"
    )
    g.add_argument(
        "--rescale", choices=names.RESCALES, default=None,
        help="give channels that stay their old mean and spread back (default: all for post-training with fold mean, "
        "silent ones before fine-tuning)",
    )  # fmt: skip
    g = p.add_argument_group("training")
    g.add_argument("--train-images", type=int, default=4096, help="images used by the training modes (default: 4096)")
    g.add_argument("--epochs", type=int, default=10, help="fine-tuning epochs per stage (default: 10)")
    g.add_argument("--max-drop", type=float, default=0.1, help="stop when the error rises by this share (default: 0.1)")
    g.add_argument("--wasserstein", type=float, default=0.3, help="weight of the concentration loss (default: 0.3)")
    g.add_argument("--stability", choices=("none", "rs", "nrs"), default="none", help="stability regulariser")
    g.add_argument("--certified", type=float, default=0.0, help="weight of the certified loss (default: 0)")
    g.add_argument(
        "--certified-bounds", choices=names.CERTIFIED_BOUNDS, default="interval", help="its bounds (default: interval)"
    )
    g.add_argument("--device", default="cpu", help="torch device for the training modes (default: cpu)")
    g.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except SecateurError as error:
        print(f"prune: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prune: interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from pruning import runs
    from pruning.errors import CriterionError

    if arguments.output is None and not arguments.dry_run:
        raise CriterionError("no output file; give -o small.onnx, or --dry-run to see the plan only")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        raise OutputError(f"{arguments.output}: the folder '{arguments.output.parent}' does not exist")
    _keep_inputs(arguments)
    settings = runs.settings(arguments)
    net = runs.network(arguments)
    data = runs.read_data(arguments, net, print)
    if data is not None and not data.semantic.clip:
        low, high = float(data.images.min()), float(data.images.max())
        print(f"data: values from {low:.4g} to {high:.4g}, used as they are: nothing is clipped to [0, 1]")
    ratios = arguments.sweep or [arguments.ratio]
    if arguments.criterion == "layer":
        return _blocks(arguments, net, data)
    if arguments.unstructured:
        return _unstructured(arguments, net, data, settings)
    results = []
    for ratio in ratios:
        plan = runs.make_plan(arguments, net, data, settings, ratio)
        print(runs.describe(plan))
        if arguments.dry_run:
            small, found = runs.preview(plan)
            _print_size(net, small)
            print(found)
            continue
        results.append(_carry_out(arguments, net, plan, data, settings, ratio))
    if arguments.report and results:
        from pruning.report import write_report

        print(f"report: {write_report(arguments.report, results, data, Path(arguments.model).name)}")
    return 0


def _carry_out(
    arguments: argparse.Namespace, net: Net, plan: Plan, data: Calibration | None, settings: object, ratio: float
) -> PrunedModel:
    from pruning import api, runs

    pruned = runs.carry_out(arguments, net, plan, data, settings, ratio, print)
    target = _target(arguments, ratio)
    beside = api.save(pruned, target)
    _print_size(net, pruned.net)
    _print_check(pruned)
    if pruned.delta is not None:
        print(f"delta: at most {float(pruned.delta.max()):.6g} on any output, for these images and all of S")
    print(f"wrote {target} and {beside}")
    return pruned


def _target(arguments: argparse.Namespace, ratio: float) -> Path:
    output: Path = arguments.output
    return output.with_name(f"{output.stem}_{ratio:g}{output.suffix}") if arguments.sweep else output


def _keep_inputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that are read, and a model that would take the place of its own record."""
    from verifier.console.outputs import keep_inputs
    from verifier.data import networks
    from verifier.data.source import files_read
    from verifier.graph.onnx_import.source import files_of

    written: list[Path] = []
    if arguments.output is not None and not arguments.dry_run:
        if arguments.output.suffix == ".json":
            raise OutputError(f"{arguments.output}: ends in .json, the name of the record; expected small.onnx")
        for ratio in arguments.sweep or [arguments.ratio]:
            target = _target(arguments, ratio)
            written += [target, target.with_suffix(".json")]
    if arguments.report is not None:
        pages = [arguments.report / name for name in ("report.html", "report.json")]
        written += [*pages, *arguments.report.glob("*.png"), *(arguments.report / "figures").glob("*")]

    def read() -> Iterator[str | Path | None]:
        yield arguments.data
        yield from files_read(arguments.data, arguments.pictures)
        yield from files_of(networks.find(arguments.model))

    keep_inputs(written, read())


def _unstructured(arguments: argparse.Namespace, net: Net, data: Calibration | None, settings: object) -> int:
    from pruning import api, runs
    from pruning.scores import Options

    if arguments.mode == "lottery":
        result = runs.unstructured_lottery(arguments, net, data, print)
    else:
        assert isinstance(settings, Options)
        result = api.prune_unstructured(net, arguments.criterion, arguments.ratio, data, settings)
    if not arguments.dry_run:
        api.save(result, arguments.output)
        print(f"wrote {arguments.output} (same shapes, {arguments.ratio:.0%} of the weights are zero)")
    return 0


def _blocks(arguments: argparse.Namespace, net: Net, data: Calibration | None) -> int:
    from pruning import api
    from pruning.blocks import drop_blocks
    from pruning.errors import DataError

    if data is None:
        raise DataError("criterion 'layer' measures output changes and needs --data")
    result, removed, ranked, found = drop_blocks(net, arguments.ratio, data)
    for block in ranked:
        print(f"{'drop' if block in removed else 'keep'}  {block.name}  mean squared output change {block.cost:.6g}")
    _print_size(net, result)
    print(found)
    if not arguments.dry_run:
        api.save(result, arguments.output)
        print(f"wrote {arguments.output}")
    return 0


def _print_size(before: Net, after: Net) -> None:
    from pruning.cost import cost
    from pruning.normalised import given

    sizes = (_counts(cost(given(net))) for net in (before, after))
    for name, old, new in zip(("parameters", "MACs", "non-linear neurons"), *sizes, strict=True):
        change = f"{new / old - 1:+.1%}" if old else "-"
        print(f"{name:>20}  {old:>12,} -> {new:>12,}  {change}")


def _print_check(pruned: PrunedModel) -> None:
    from pruning.agreement import Agreement

    found = Agreement.of(pruned.sidecar)
    if found is not None:
        print(found)


def _counts(size: object) -> tuple[int, int, int]:
    return size.parameters, size.macs, size.nonlinear  # type: ignore[attr-defined]


def _ratios(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers like 0.25,0.5,0.75") from None
    return values


if __name__ == "__main__":
    sys.exit(main())
