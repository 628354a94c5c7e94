"""What a network answers to unchanged pictures: its error and the span of its outputs, in one line, with warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.brief import brief

FACTOR = 3.0
"""Largest answer and largest target that differ by more than this are taken for numbers in different units."""


@dataclass(frozen=True, eq=False)
class UnchangedAnswer:
    """One picture: `output` flat; of key points `found` and `truth` (K, 2) in pixels (those that count); of a class the
    found and the true one; `truth` None where there is none. excess: by how much the property is broken, if known.
    """

    __repr__ = brief

    output: np.ndarray
    found: np.ndarray | int | None = None
    truth: np.ndarray | int | None = None
    excess: float | None = None

    @property
    def errors(self) -> np.ndarray:
        """Distances in pixels, (K,); empty where there is no truth or it is a class."""
        if isinstance(self.found, np.ndarray) and isinstance(self.truth, np.ndarray):
            return np.asarray(np.linalg.norm(self.found - self.truth, axis=-1))
        return np.zeros(0)


def line(answers: Sequence[UnchangedAnswer]) -> str:
    """ "unchanged image: error 1.2 px (largest 3.4), outputs span 5.1..60.2" for one picture or several."""
    many = f"{len(answers)} unchanged images" if len(answers) > 1 else "unchanged image"
    low, high = (float(f([f(a.output) for a in answers])) for f in (np.min, np.max))
    told = []
    errors = np.concatenate([a.errors for a in answers])
    if len(errors):
        told.append(f"error {errors.mean():.3g} px (largest {errors.max():.3g})")
    classes = [a for a in answers if isinstance(a.found, int)]
    if len(classes) == 1 and len(answers) == 1:
        truth = "" if classes[0].truth is None else f" (should be {classes[0].truth})"
        told.append(f"class {classes[0].found}{truth}")
    elif classes and all(a.truth is not None for a in classes):
        told.append(f"{sum(a.found != a.truth for a in classes)} of {len(classes)} classes wrong")
    told.append(f"outputs span {low:.4g}..{high:.4g}")
    return f"{many}: {', '.join(told)}"


def warnings(answers: Sequence[UnchangedAnswer]) -> list[str]:
    """What is likely to be a mistake: answers and targets in different units, a property broken from the start."""
    found = []
    points = [a for a in answers if len(a.errors)]
    if points:
        said, meant = (
            np.concatenate([np.asarray(getattr(a, name)).reshape(-1) for a in points]) for name in ("found", "truth")
        )
        if out_of_scale(said, meant):
            found.append(
                f"the targets span {meant.min():.4g}..{meant.max():.4g} px, the network's answers mean "
                f"{said.min():.4g}..{said.max():.4g} px: they differ in scale; say what outputs mean by --output-scale "
                "and --output-shift (pixel = scale * output + shift)"
            )
    broken = sum(a.excess is not None and a.excess >= 0 for a in answers)
    if broken:
        which = "the unchanged image violates"
        if len(answers) > 1:
            which = f"{broken} of {len(answers)} unchanged images violate"
        found.append(f"{which} the property already, before anything is changed")
    return found


def out_of_scale(found: np.ndarray, truth: np.ndarray) -> bool:
    """Whether answers and targets look like numbers in different units (see `FACTOR`)."""
    ratio = float(np.abs(found).max()) / max(float(np.abs(truth).max()), 1e-12)
    return not 1 / FACTOR <= ratio <= FACTOR
