"""One adversarial case through the verifier, and what became of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

import verifier
import vnnlib
from benchmarks.adversarial.cases import REFUSED, SAT, UNSAT, Case
from verifier.errors import OptionsError, SecateurError
from verifier.graph.onnx_import import load_model
from verifier.options import Options


@dataclass(frozen=True)
class Outcome:
    """`verdict`: what was said, or "refused". wrong: it is not true. settled: it is the truth, and not an open end."""

    case: Case
    verdict: str
    reason: str
    wrong: bool
    settled: bool


def run(case: Case, options: Options) -> Outcome:
    """Every exception but a refusal passes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = verifier.verify(load_model(case.model), vnnlib.loads(case.spec), options)
        except OptionsError as error:
            return Outcome(case, "refused", str(error), False, False)
        except (SecateurError, vnnlib.VnnLibError) as error:
            return Outcome(case, REFUSED, str(error), case.truth != REFUSED, case.truth == REFUSED)
    verdict = result.verdict.value
    if verdict == SAT:
        replays = result.witness is not None and np.isfinite(result.witness.y).all()  # the verifier has replayed it
        wrong = not replays or case.truth == REFUSED or (case.truth == UNSAT and not case.rounds)
        return Outcome(case, verdict, result.reason, wrong, not wrong)
    wrong = verdict == UNSAT and case.truth != UNSAT
    return Outcome(case, verdict, result.reason, wrong, verdict == case.truth)
