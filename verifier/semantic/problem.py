"""One semantic verification problem, and the standard pair (ONNX, VNN-LIB) it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from verifier.brief import brief
from verifier.data.unchanged import UnchangedAnswer
from verifier.errors import OptionsError, ProblemError
from verifier.perturbation.perturbation import Perturbation, apply, describe, expand
from verifier.perturbation.polynomial import ImageMap, Polynomial
from verifier.semantic import composite, notes, properties, spec_text
from verifier.semantic import network as networks
from verifier.semantic.network import ImageNetwork
from verifier.semantic.properties import AbsTail, Compiled, Property
from verifier.semantic.rows import SparseRows
from verifier.semantic.target import Target

REFERENCE_WORDS = {"gt": "the ground truth", "self": "the network's own answer to the unchanged image"}
REFERENCES = tuple(REFERENCE_WORDS)


class Pair(NamedTuple):
    """model: bytes of the composite ONNX file; spec: VNN-LIB text; summary: lines for the user."""

    model: bytes
    spec: str
    summary: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SemanticProblem:
    """Network, image (C, H, W) in [0, 1], ranges and property, checked against each other.

    target is the reference the property was stated against (ground truth, or the clean prediction).
    """

    __repr__ = brief

    network: ImageNetwork
    image: np.ndarray
    perturbation: Perturbation
    target: Target
    compiled: Compiled
    reference: str
    clip: str

    @cached_property
    def polynomial(self) -> Polynomial:
        """The image before the clip as a polynomial in the parameters."""
        return expand(self.perturbation, self.image)

    @cached_property
    def input_map(self) -> ImageMap:
        """The first layer of the composite as arrays."""
        return composite.image_map(self.network, self.polynomial, len(self.perturbation.ranges))

    @cached_property
    def spec_rows(self) -> tuple[SparseRows, AbsTail | np.ndarray | None]:
        """Rows that a VNN-LIB file can state, and the tail they need behind the network."""
        rows = self.compiled.rows
        if self.compiled.tail is not None or rows.count == 0 or spec_text.is_simple(rows):
            return rows, self.compiled.tail
        count = np.arange(rows.count)  # every row becomes an output of its own: z = C y, violated where z <= rhs
        return SparseRows(rows.count, rows.clause, rows.rhs, count, count, np.ones(rows.count)), rows.dense()

    def picture(self, values: np.ndarray) -> np.ndarray:
        """The image at a parameter point, float64 (C, H, W), clipped as the problem says."""
        return apply(self.perturbation, self.image, values)

    def answer(self, values: np.ndarray) -> np.ndarray:
        """The network's flat output at a parameter point: transform in NumPy, then ONNX Runtime."""
        return self.network.run(self.picture(values)).reshape(-1)

    def excess(self, values: np.ndarray) -> float:
        """By how much the property is broken at a point (see `Compiled.excess`); above 0 it is broken."""
        return float(self.compiled.excess(self.answer(values)))

    def model(self) -> onnx.ModelProto:
        """The composite network."""
        _, tail = self.spec_rows
        note = "\n".join(self.summary)
        return composite.with_parameters(
            self.network, self.input_map, len(self.perturbation.ranges), self.clip, tail, note
        )

    def spec(self, version: int = 1) -> str:
        """The VNN-LIB text for `model`.

        Raises:
            OptionsError: the property has no such form.
        """
        rows, tail = self.spec_rows
        if rows.count == 0:
            raise OptionsError(
                "a joint error budget over heatmaps has no VNN-LIB form of a reasonable size; search it in process: "
                "secateur coverage --network MODEL --images A:B --property budget-mean (or budget-sum) --limit PIXELS"
            )
        shape = self.network.output if tail is None else (1, rows.n)
        head = ["Written by secateur spec. sat = a violation exists, unsat = the claim below holds.", *self.summary]
        return spec_text.write(version, self.perturbation.box, rows, shape, self.network.dtype, head)

    @property
    def claim(self) -> str:
        """What is asked of the image, in words."""
        return f"{self.compiled.claim}; reference: {REFERENCE_WORDS[self.reference]}"

    @cached_property
    def summary(self) -> tuple[str, ...]:
        """What is claimed and about which inputs, in words."""
        ranges = self.perturbation.ranges
        lines = [
            notes.claim_line(self.compiled.claim, REFERENCE_WORDS[self.reference]),
            notes.inputs_line(ranges),
        ]
        lines += self.perturbation.told
        clip = "clipped exactly to [0, 1]" if self.clip != "none" else "NOT clipped, values outside [0, 1] reach it"
        kind = describe(self.perturbation, self.polynomial.products)
        lines.append(f"Image: {kind}; then {clip}.")
        outside = [r.name for r in ranges if not r.holds_identity]
        if outside:
            lines.append(f"The unchanged image is not in the set: the range of {', '.join(outside)} excludes it.")
        return tuple(lines)


def prepare(
    model: ImageNetwork | str | Path | bytes | onnx.ModelProto, image: np.ndarray, target: Target | None,
    perturbed: Perturbation, prop: Property, *, reference: str = "gt", clip: str = "clip",
) -> SemanticProblem:  # fmt: skip
    """Check everything against each other and compile the property.

    image: float (C, H, W) in [0, 1]. With reference `self` the target is the network's clean answer; key points marked
    invisible in the given target (if any) stay out of the property.
    Raises ModelError, ProblemError or OptionsError with one clear sentence.
    """
    net = model if isinstance(model, ImageNetwork) else networks.load(model)
    picture = _checked(net, image)
    if reference not in REFERENCES:
        raise OptionsError(f"unknown reference '{reference}'; choose one of {', '.join(REFERENCES)}")
    if clip not in composite.CLIPS:
        raise OptionsError(f"unknown clip '{clip}'; choose one of {', '.join(composite.CLIPS)}")
    if clip == "none" or not perturbed.clip:
        clip, perturbed = "none", replace(perturbed, clip=False)
    if reference == "self":
        target = _own_answer(net, picture, target, prop)
    elif target is None:
        raise ProblemError(
            "a target is needed for the ground-truth reference: key points (--keypoints, or beside the picture) or a "
            "class (--label); or --reference self for the network's own answer"
        )
    else:  # a prediction may lie outside the frame, an annotation must not
        target.check_frame(net.width, net.frame.height)
    problem = SemanticProblem(net, picture, perturbed, target, prop.compile(net, target), reference, clip)
    _ = problem.polynomial  # constants that do not fit the image are reported now, not when the file is written
    return problem


def build(
    model: ImageNetwork | str | Path | bytes | onnx.ModelProto, image: np.ndarray, target: Target | None,
    parameters: Perturbation, property: Property, *, reference: str = "gt", clip: str = "clip", vnnlib: int = 1,
) -> Pair:  # fmt: skip
    """The standard pair for one image: composite ONNX with the parameters as inputs, and its VNN-LIB specification."""
    problem = prepare(model, image, target, parameters, property, reference=reference, clip=clip)
    return Pair(problem.model().SerializeToString(), problem.spec(vnnlib), problem.summary)


def unchanged(problem: SemanticProblem, prop: Property, known: Target | None = None) -> UnchangedAnswer:
    """What the network says to the unchanged image, held against `known` or else the target of the property."""
    output = problem.network.run(problem.image)
    flat, excess = output.reshape(-1), float(problem.compiled.excess(output.reshape(-1)))
    if isinstance(prop, properties.Label):
        label = problem.target.label if known is None or known.label is None else known.label
        return UnchangedAnswer(flat, int(flat.argmax()), label, excess)
    found = properties.predict(problem.network, output, prop)
    target = problem.target if known is None or known.keypoints is None else known
    if target.keypoints is None or target.visibility is None or len(target.keypoints) != len(found):
        return UnchangedAnswer(flat, excess=excess)
    index = np.flatnonzero(target.visibility >= (1 if prop.hidden else 2))
    return (
        UnchangedAnswer(flat, found[index], target.keypoints[index], excess)
        if len(index)
        else UnchangedAnswer(flat, excess=excess)
    )


def _checked(net: ImageNetwork, image: np.ndarray) -> np.ndarray:
    value = np.asarray(image, dtype=np.float64)
    if value.ndim != 3 or value.shape != net.frame.size:
        raise ProblemError(
            f"the image has shape {list(np.shape(image))}, the network expects [channels, height, width] = "
            f"{list(net.frame.size)}; resize or crop the image (and its key points) first"
        )
    if not np.isfinite(value).all() or value.min() < 0 or value.max() > 1:
        raise ProblemError("the image must hold finite values in [0, 1]; divide 8-bit values by 255")
    return value


def _own_answer(net: ImageNetwork, image: np.ndarray, given: Target | None, prop: Property) -> Target:
    output = net.run(image)
    if isinstance(prop, properties.Label):
        return Target(label=int(output.argmax()))
    if output.size % 2 and len(net.output) < 3:
        raise ProblemError(
            f"a coordinate head has 2K outputs x0, y0, ..; this network has {list(net.output)}; scores of classes need "
            "--property label"
        )
    points = properties.predict(net, output, prop)
    seen = None if given is None else given.visibility
    if seen is not None and len(seen) != len(points):
        raise ProblemError(f"the network gives {len(points)} key points, the target has {len(seen)}")
    return Target(points, seen)
