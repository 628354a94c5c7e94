"""Problems made to break a verifier, verdicts known by construction: never the wrong answer, by any method.

`make adversarial` runs more of them, every one by every method, and says which are settled.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.adversarial import cases as made
from benchmarks.adversarial.cases import Case, in_version_2
from benchmarks.adversarial.judge import run
from verifier.options import AttackOptions, BoundOptions, Options, SearchOptions

METHODS = ("auto", "forward", "crown", "alpha", "lumped")
SETTLED = 0.75
"""The share of the cases of each family that is settled at least: a verifier that never answers is never wrong."""


def options(number: int) -> Options:
    return Options(
        bounds=BoundOptions(method=METHODS[number % 5], alpha_steps=3),
        dtype=("float64", "float32")[number // 5 % 2],
        attack=AttackOptions(restarts=2, steps=5),
        search=SearchOptions(max_depth=24, batch=16),
        timeout=100.0,  # the machine may be busy; each ends by itself long before
    )


@pytest.mark.parametrize("family", made.QUICK, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_never_the_wrong_answer(family: made.Family, kind: type) -> None:
    """Method and precision change from case to case, of many every other one; ties and cancellation may stay open."""
    chosen = list(enumerate(family(kind)))
    if len(chosen) > 6 and family is not made.refused:
        chosen = chosen[kind is np.float64 :: 2]
    found = [run(case, options(number + (kind is np.float64))) for number, case in chosen]
    assert not [f"{one.case.name}: {one.verdict}, {one.reason}" for one in found if one.wrong]
    if family in (made.radius_affine, made.radius_maximum, made.radius_distance, made.radius_mixed, made.refused):
        asked = [one for one in found if one.verdict != "refused" or one.case.truth == "refused"]
        assert sum(one.settled for one in asked) >= SETTLED * len(asked), [
            one.case.name for one in found if not one.settled
        ]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_other_version_of_the_language(kind: type) -> None:
    for number, case in enumerate(made.ties(kind)):
        if number % 8 == (kind is np.float64):
            outcome = run(
                Case(case.name, case.model, in_version_2(case.spec), case.truth, case.rounds), options(number)
            )
            assert not outcome.wrong and outcome.verdict != "refused", (case.name, outcome)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("family", [made.radius_distance, made.radius_mixed, made.spikes])
def test_neurons_are_split(family: made.Family, kind: type) -> None:
    """More than 8 inputs and nothing but ReLUs: the search decides neurons instead of cutting boxes."""
    for case in family(kind, 10):
        outcome = run(case, Options(timeout=1.0, attack=AttackOptions(restarts=0)))
        assert not outcome.wrong, (case.name, outcome.verdict)
