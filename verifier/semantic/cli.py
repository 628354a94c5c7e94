"""`secateur spec`: an image, a network and ranges -> files any VNN-COMP tool can run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from verifier.console.arguments import CommandParser, numbers
from verifier.console.outputs import keep_inputs
from verifier.data import networks, unchanged
from verifier.data import options as shared
from verifier.errors import OptionsError, SecateurError
from verifier.files.whole import write
from verifier.graph.onnx_import.source import files_of
from verifier.perturbation import PARAMETERS
from verifier.semantic import arguments, draw, network, pose
from verifier.semantic.problem import SemanticProblem
from verifier.semantic.problem import unchanged as answer
from verifier.semantic.properties import Pose, Property
from verifier.semantic.sources import Example

EPILOG = f"""\
Inputs of the written network, in this order (those given), which is that of the steps; then the clip to [0, 1]:
{", ".join(PARAMETERS)}.
{shared.DATA}"""


def parser() -> CommandParser:
    """The options of `secateur spec`."""
    p = CommandParser("secateur spec", __doc__, EPILOG)
    p.add_argument("model", help="network.onnx, or the name of a shipped network: " + ", ".join(networks.names()))
    p.add_argument("--out", type=Path, required=True, help="prefix of the files written: .onnx, .vnnlib, .json")
    inputs = p.add_argument_group("images and their truth")
    shared.add_data(inputs, "--image")
    inputs.add_argument("--images", metavar="N|A:B|A,B,C", help=f"{shared.IMAGES} (default: all)")
    arguments.add_truth(inputs)
    shared.add_network(p.add_argument_group("the network"))
    arguments.add_ranges(p.add_argument_group("parameters and their ranges, each LOW,HIGH (1 to 6 of them)"))
    arguments.add_property(p.add_argument_group("the property"))
    out = p.add_argument_group("output")
    out.add_argument("--vnnlib", type=int, choices=(1, 2), default=1, help="version of the specification language")
    out.add_argument("--timeout", type=float, default=60.0, help="seconds, for the instances.csv of several images")
    out.add_argument("--draw", type=Path, help="write a picture: the image unchanged and at the point --at")
    out.add_argument("--at", type=numbers, metavar="P0,..", help="parameter values, such as a counterexample")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 when the files were written, 2 with one line on stderr for bad input."""
    options = parser().parse_args(argv)
    try:
        path = networks.find(options.model)
        net = network.load(path, channels=options.channels, layout=options.layout, mean=options.mean, std=options.std)
        perturbed = arguments.perturbation(options)
        examples, note, read = arguments.pictures(options, net)
        prefixes = [_prefix(options, example, len(examples)) for example in examples]
        keep_inputs(_outputs(options, prefixes, examples), (*files_of(path), *read))
        names = []
        for prefix, example in zip(prefixes, examples, strict=True):
            prop = arguments.properties(options, net, example)
            problem = arguments.problem(options, net, example, perturbed, prop)
            _write(options, problem, prop, example, prefix, example.note or note)
            names.append(prefix.name)
        if len(examples) > 1:
            lines = [f"{name}.onnx,{name}.vnnlib,{options.timeout:g}\n" for name in names]
            write(options.out.with_name(f"{options.out.name}_instances.csv"), "".join(lines))
        return 0
    except SecateurError as error:
        print(f"secateur spec: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _prefix(options: argparse.Namespace, example: Example, count: int) -> Path:
    out: Path = options.out
    return out if count == 1 else out.with_name(f"{out.name}_{example.name}")


def _picture(options: argparse.Namespace, prefix: Path, example: Example) -> Path:
    """Where --draw of one of several examples goes."""
    draw: Path = options.draw
    return draw if prefix == options.out else draw.with_name(f"{draw.stem}_{example.name}{draw.suffix}")


def _outputs(options: argparse.Namespace, prefixes: list[Path], examples: list[Example]) -> Iterator[Path]:
    yield options.out.with_name(f"{options.out.name}_instances.csv")
    for prefix, example in zip(prefixes, examples, strict=True):
        yield from (prefix.with_name(f"{prefix.name}.{ending}") for ending in ("onnx", "vnnlib", "json"))
        if options.draw is not None:
            yield _picture(options, prefix, example)


def _write(
    options: argparse.Namespace, problem: SemanticProblem, prop: Property, example: Example, prefix: Path, note: str
) -> None:
    at = problem.perturbation.identity if options.at is None else np.array(options.at)
    if at.shape != problem.perturbation.identity.shape:  # before anything is written
        raise OptionsError(f"--at needs {len(problem.perturbation.ranges)} values, found {len(at)}")
    write(prefix.with_name(f"{prefix.name}.onnx"), problem.model().SerializeToString())
    write(prefix.with_name(f"{prefix.name}.vnnlib"), problem.spec(options.vnnlib))
    clean = answer(problem, prop, example.target)
    notes = [*problem.summary, note, unchanged.line([clean])]
    if isinstance(prop, Pose) and example.view is not None:
        notes.append(_pose_note(problem, prop, example.view))
    record = _record(options, problem, example, notes)
    write(prefix.with_name(f"{prefix.name}.json"), json.dumps(record, indent=1) + "\n")
    for line in [f"{prefix}.onnx {prefix}.vnnlib", *notes]:
        print(line)
    for line in unchanged.warnings([clean]):
        print(f"secateur spec: warning: {example.name}: {line}", file=sys.stderr)
    if options.draw is not None:
        draw.counterexample(problem, at, _picture(options, prefix, example), prop)


def _pose_note(problem: SemanticProblem, prop: Pose, view: pose.View) -> str:
    """How far first order can be trusted, by exact PnP on sampled errors."""
    index = problem.target.chosen(prop.hidden)
    tau = None
    if prop.allocation != "coupled":
        used = (2 * index[:, None] + np.arange(2)).ravel()
        tau = pose.allocate(pose.sensitivity(prop.jacobian[used]), prop.limits, prop.allocation)
    worst = pose.worst_ratio(view, index, prop.limits, tau)
    return (
        "Pose limits are linearised: exact PnP on 200 sampled key point errors inside the tolerance gives pose errors"
        f" of up to {worst:.3f} times the limits."
    )


def _record(
    options: argparse.Namespace, problem: SemanticProblem, example: Example, notes: list[str]
) -> dict[str, object]:
    target = problem.target
    clean = problem.answer(problem.perturbation.identity)
    points, seen = target.keypoints, target.visibility
    return {
        "image": example.name,
        "parameters": [{"name": r.name, "low": r.low, "high": r.high} for r in problem.perturbation.ranges],
        "identity": problem.perturbation.identity.tolist(),
        "clip": problem.clip,
        "property": arguments.kind(options, problem.network, example),
        "reference": problem.reference,
        "summary": notes,
        "keypoints": None if points is None or seen is None else np.column_stack([points, seen]).tolist(),
        "label": target.label,
        "excess_of_unchanged_image": float(problem.compiled.excess(clean)),
    }


if __name__ == "__main__":
    sys.exit(main())
