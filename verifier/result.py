"""What a run ends with: a verdict with its reason, the witness, and what was reached. Immutable; numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np


class Verdict(Enum):
    """The four answers. `value` is the word of the VNN-COMP result file, `sentence` what it means."""

    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"

    @property
    def sentence(self) -> str:
        """One sentence for the user."""
        return _SENTENCES[self]

    @property
    def settled(self) -> bool:
        """Whether the question has been answered."""
        return self in (Verdict.SAT, Verdict.UNSAT)


_SENTENCES = {
    Verdict.SAT: "the property is violated: the witness was replayed in ONNX Runtime on the original file",
    Verdict.UNSAT: "the property holds: no input of the set violates it",
    Verdict.UNKNOWN: "the search ended without an answer",
    Verdict.TIMEOUT: "the time limit was reached before an answer was found",
}


@dataclass(frozen=True, eq=False)
class Witness:
    """An input that violates the property, exactly as it was fed to ONNX Runtime.

    `x` (n,) holds all inputs of the network in row-major order, as float64 values of the numbers fed; `y` (m,) holds
    ONNX Runtime's outputs likewise.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        for name, values in (("x", self.x), ("y", self.y)):
            if values.ndim != 1 or values.dtype != np.float64:
                raise ValueError(f"Witness.{name}: found {values.dtype}{list(values.shape)}, expected float64 [n]")
            if not np.isfinite(values).all():
                raise ValueError(f"Witness.{name} holds NaN or infinity; such a point proves nothing")

    def __repr__(self) -> str:
        return f"Witness({len(self.x)} inputs, {len(self.y)} outputs)"


@dataclass(frozen=True)
class Splits:
    """How often a search split what, the most often first, at most 100 of each.

    `inputs`: name (`X_3`: the fourth number of the input) and count. `layers`: ONNX node, splits of its neurons, how
    many neurons that were. `neurons`: ONNX node, number in its layer, count. `of_inputs`, `of_neurons`: all splits.
    """

    inputs: tuple[tuple[str, int], ...] = ()
    layers: tuple[tuple[str, int, int], ...] = ()
    neurons: tuple[tuple[str, int, int], ...] = ()
    of_inputs: int = 0
    of_neurons: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one instance.

    `reason` says in words why this verdict (for `unknown` and `timeout`: what stopped the search), `seconds` is the
    wall time of the run, `counters` counts work (boxes, bounded, iterations, ..), `open_fraction` is the share of the
    input volume that is neither proven nor refuted (None where it is not known), `settings` are the options in force,
    `splits` says what the search split (empty where it did not come to that, or several questions shared it).
    """

    verdict: Verdict
    reason: str = ""
    witness: Witness | None = None
    seconds: float = 0.0
    counters: Mapping[str, int | float] = field(default_factory=dict)
    open_fraction: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    splits: Splits = Splits()

    def __post_init__(self) -> None:
        # A `sat` that cannot be shown, or a witness beside another verdict, is a contradiction, not an answer.
        if (self.verdict is Verdict.SAT) != (self.witness is not None):
            raise ValueError(f"verdict {self.verdict.value} {'without' if self.witness is None else 'with'} a witness")
