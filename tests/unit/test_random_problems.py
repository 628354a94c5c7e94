"""Random valid problems through the public door: no exception, no `unsat` that is not true, no `sat` that does not
replay. Generator and truth are those of `make fuzz`; here is also what holds the truth itself.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.exact import Affine, Row, Tape, decide
from benchmarks.fuzz.models import Pick
from benchmarks.fuzz.problems import RandomProblem
from benchmarks.fuzz.verdicts import check, optimum, random_options


def pick_from(draw: st.DataObject) -> Pick:
    return lambda values: draw.draw(st.sampled_from(values))


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([False, False, True]))
def test_ordinary_weights(draw: st.DataObject, proof: bool) -> None:
    pick = pick_from(draw)
    check(RandomProblem(pick, huge=False), random_options(pick), "proof" if proof else "call")


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_large_weights_that_cancel(draw: st.DataObject) -> None:
    pick = pick_from(draw)
    check(RandomProblem(pick, huge=True), random_options(pick))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_network_in_fractions_is_the_network(draw: st.DataObject) -> None:
    """Against ONNX Runtime, which rounds."""
    problem = RandomProblem(pick_from(draw), huge=False)
    for point in problem.points(3)[:3]:
        exact = np.array([float(v) for v in problem.exact(point)])
        np.testing.assert_allclose(problem.run(point), exact, rtol=1e-3, atol=1e-3 * max(1, np.abs(exact).max()))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_decided_in_fractions(draw: st.DataObject) -> None:
    """A point that is found satisfies the rows; where none is, no sampled point and no optimum of a programme does."""
    problem = RandomProblem(pick_from(draw), huge=False)
    known = problem.violated()
    rows = problem.rows()
    if isinstance(known, tuple):
        values = problem.tape.values(known)
        assert any(all(row.holds(values) for row in clause) for clause in rows)
        assert all(
            Fraction(float(a)) <= v <= Fraction(float(b))
            for a, v, b in zip(problem.lower, known, problem.upper, strict=True)
        )
    elif known is None:
        points = [tuple(map(Fraction, p)) for p in problem.points(20).tolist()]
        if all(np.issubdtype(one.kind, np.floating) for one in problem.inputs):
            points += [p for clause in rows if (p := optimum(problem, clause)) is not None]
        for point in points:
            values = problem.tape.values(point)
            assert not any(all(row.holds(values) for row in clause) for clause in rows)


def test_touching_sets_are_decided_exactly() -> None:
    """|x| + |y| >= 1 and <= 1/3 on a line; a corner that is met, and that a strict row leaves out."""
    tape = Tape(2)
    total = Affine({})
    for k in range(2):
        x = tape.input(k)
        total = total + tape.relu(x) + tape.relu(x.times(Fraction(-1)))
    third, one = Fraction(1, 3), Fraction(1)
    box = ([-third, -third], [third, third])
    assert decide(tape, *box, [[Row(total.times(Fraction(-1)).plus(2 * third), False)]]) is not None  # |x| + |y| >= 2/3
    assert decide(tape, *box, [[Row(total.times(Fraction(-1)).plus(2 * third), True)]]) is None
    assert decide(tape, *box, [[Row(total, False)]]) == (0, 0)
    assert decide(tape, *box, [[Row(total, True)]]) is None
    assert decide(tape, *box, [[Row(total.times(Fraction(-1)).plus(one), False)]]) is None
