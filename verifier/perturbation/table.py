"""The table of semantic parameters: one row each, with the step that changes the image and the constants of that step.

Light on purpose: command lines build their options from these rows, and `--help` must not load NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verifier.console.arguments import Span
from verifier.errors import OptionsError

if TYPE_CHECKING:
    from verifier.perturbation.polynomial import Given, Polynomial

Step = Callable[["Polynomial", int, "Given"], "Polynomial"]
"""The image so far, the parameter's index, the unchanged image and the constants -> the image with the parameter."""

GREY_LEVELS = "pixels lie in [0, 1]"
"""Why a parameter that is added to pixels has limits."""


@dataclass(frozen=True)
class StepConstant:
    """A number, colour or place that a step needs and that does not vary. `default` None: it has to be given.

    parse: from the text of an option, ArgumentTypeError or OptionsError for one that means nothing; check: of any
    value, OptionsError with a reason; tell: a sentence about it for the files of a problem, or nothing.
    """

    name: str
    default: Any
    parse: Callable[[str], Any]
    help: str
    metavar: str | None = None
    check: Callable[[Any], None] = lambda value: None
    tell: Callable[[Any], str] = lambda value: ""


@dataclass(frozen=True)
class Parameter:
    """One parameter: `identity` changes nothing, `unit` says what its numbers mean, for axes.

    stage: steps are carried out by rising stage, and inputs are in this order. limits: what a range has to stay in,
    and `why`. pointwise: the step treats all values of an input alike, whether they are pixels or not; every other
    step needs to know which value is which pixel.
    """

    name: str
    identity: float
    unit: str
    step: Step
    stage: float
    limits: Span
    why: str
    pointwise: bool
    constants: tuple[StepConstant, ...]

    def check(self, low: float, high: float) -> None:
        """OptionsError for a range that is empty, not finite, or beyond the limits."""
        if not (math.isfinite(low) and math.isfinite(high)):
            raise OptionsError(f"the range of {self.name} must be finite, found {low} to {high}")
        if low > high:
            raise OptionsError(
                f"the range of {self.name} is empty: low {low} lies above high {high}; swap the two numbers"
            )
        least, most = self.limits
        if least <= low and high <= most:
            return
        limits = f"it has to lie in [{least:g}, {most:g}]"
        told = f"the range of {self.name} is {low:g} to {high:g}, but {self.why}, so {limits}"
        if self.why == GREY_LEVELS:
            told += f"; of 8-bit grey levels give 1/255 of it: {low / 255:.4g},{high / 255:.4g}"
        raise OptionsError(told)


PARAMETERS: dict[str, Parameter] = {}
"""All parameters by name, in the order of their steps."""

LAST = 100.0


def parameter(
    name: str,
    identity: float,
    unit: str,
    *,
    stage: float = LAST,
    limits: Span = (-math.inf, math.inf),
    why: str = "",
    pointwise: bool = False,
    constants: tuple[StepConstant, ...] = (),
) -> Callable[[Step], Step]:
    """Registers a parameter by its step; see `Parameter`. Parameters of one stage follow each other as registered.

    Commands get an option of that name. The step has to be linear in the parameter (`Polynomial.times`).
    """

    def register(step: Step) -> Step:
        row = Parameter(name, identity, unit, step, stage, limits, why, pointwise, constants)
        rows = sorted([*PARAMETERS.values(), row], key=lambda known: known.stage)
        PARAMETERS.clear()
        PARAMETERS.update({known.name: known for known in rows})
        return step

    return register


def known_constants() -> dict[str, StepConstant]:
    """The constants of all steps, by name."""
    return {constant.name: constant for row in PARAMETERS.values() for constant in row.constants}
