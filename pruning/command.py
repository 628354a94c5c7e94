"""What `prune` does with its arguments: reads, prints, writes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pruning import api, runs
from pruning.agreement import Agreement
from pruning.api import PrunedModel
from pruning.calibration import Calibration, perturbation
from pruning.datasets import load_data
from pruning.errors import CriterionError, DataError
from pruning.net import Net
from pruning.options import BLOCKS, PruneOptions, PruneTarget
from verifier.console.outputs import keep_inputs
from verifier.data import networks
from verifier.data.frame import Frame, Head
from verifier.data.source import files_read
from verifier.errors import OutputError
from verifier.graph.onnx_import.source import files_of


def run(arguments: argparse.Namespace, options: PruneOptions) -> None:
    """Everything between the arguments and the files. Raises SecateurError."""
    if arguments.output is None and not arguments.dry_run:
        raise CriterionError("no output file; give -o small.onnx, or --dry-run to see the plan only")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        raise OutputError(f"{arguments.output}: the folder '{arguments.output.parent}' does not exist")
    _keep_inputs(arguments)
    target = None if arguments.target is None else PruneTarget.parse(arguments.target)
    if target is not None and (arguments.sweep or arguments.dry_run or options.unstructured):
        raise CriterionError("--target searches by itself; leave out --sweep, --dry-run and --unstructured")
    each = [replace(options, ratio=ratio) for ratio in arguments.sweep or [arguments.ratio]]

    runs.known(each[0])
    net = api.load(arguments.model, arguments.mean, arguments.std, arguments.layout, arguments.channels)
    data = _read_data(arguments, net)
    if target is not None:
        _ship(arguments, net, data, options, target)
        return
    results = [made for options in each if (made := _one(arguments, net, data, options)) is not None]
    if arguments.report and any(result.plan is not None for result in results):
        from pruning.report import write_report  # Matplotlib and Jinja

        print(f"report: {write_report(arguments.report, results, data, Path(arguments.model).name)}")


def _read_data(arguments: argparse.Namespace, net: Net) -> Calibration | None:
    """Calibration data, if the command names any."""
    semantic, training = perturbation(arguments.semantic), arguments.mode != PruneOptions.mode
    if arguments.data is None:
        if training:
            raise DataError(f"--mode {arguments.mode} trains and needs labelled --data")
        return None
    data = load_data(
        arguments.data, net, semantic, max(arguments.images, arguments.train_images if training else 0),
        arguments.samples, arguments.seed, crop=arguments.crop, folder=arguments.pictures, layout=arguments.layout,
        channels=arguments.channels, head=Head.given(arguments.output_scale, arguments.output_shift), say=print,
    )  # fmt: skip
    if not data.semantic.clip:
        low, high = float(data.images.min()), float(data.images.max())
        print(f"data: values from {low:.4g} to {high:.4g}, used as they are: nothing is clipped to [0, 1]")
    return data


def _ship(
    arguments: argparse.Namespace, net: Net, data: Calibration | None, options: PruneOptions, target: PruneTarget
) -> None:
    """The network that `--target` asks for, written."""
    from pruning.study.choosing import choose  # the verifier

    frame = Frame.of(net.shapes[net.inputs[0]], arguments.layout, arguments.channels)
    head = Head.given(arguments.output_scale, arguments.output_shift)
    model, _ = choose(net, data, options, target, arguments.tau, frame, head)
    beside = api.save(model, arguments.output)
    _print_size(model)
    print(f"wrote {arguments.output} and {beside}")


def _one(
    arguments: argparse.Namespace, net: Net, data: Calibration | None, options: PruneOptions
) -> PrunedModel | None:
    """One ratio: printed and, without --dry-run, written."""

    if options.unstructured or options.criterion == BLOCKS:
        pruned = runs.prune(net, data, options, print)
    else:
        plan = runs.plan_for(net, data, options)
        print(runs.describe(plan))
        pruned = runs.preview(plan) if arguments.dry_run else runs.carry_out(net, plan, data, options, print)
    if arguments.dry_run:
        _print_size(pruned)
        return None
    target = _target(arguments, options.ratio)
    beside = api.save(pruned, target)
    _print_size(pruned)
    if pruned.delta is not None:
        print(f"delta: at most {float(pruned.delta.max()):.6g} on any output, for these images and all of S")
    if options.unstructured:
        print(f"same shapes, {options.ratio:.0%} of the weights are zero")
    print(f"wrote {target} and {beside}")
    return pruned


def _target(arguments: argparse.Namespace, ratio: float) -> Path:
    output: Path = arguments.output
    return output.with_name(f"{output.stem}_{ratio:g}{output.suffix}") if arguments.sweep else output


def _keep_inputs(arguments: argparse.Namespace) -> None:
    """Refuse outputs that are read, and a model that would take the place of its own record."""
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


def _print_size(pruned: PrunedModel) -> None:
    for name in ("parameters", "macs", "nonlinear"):
        old, new = getattr(pruned.before, name), getattr(pruned.after, name)
        change = f"{new / old - 1:+.1%}" if old else "-"
        print(f"{_SIZES[name]:>20}  {old:>12,} -> {new:>12,}  {change}")
    found = Agreement.of(pruned.sidecar)
    if found is not None:
        print(found)


_SIZES = {"parameters": "parameters", "macs": "MACs", "nonlinear": "non-linear neurons"}
