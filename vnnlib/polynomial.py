"""Exact arithmetic on expression trees: a comparison becomes `sum c_k m_k REL rhs` over monomials."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from vnnlib.spec import Application, Num, Term, Variable, fold

Factors = tuple[int, ...]  # sorted columns, () for the constant
Terms = dict[Factors, Fraction]

_MAX_BITS = 100_000  # of a coefficient; longer ones come only from deeply nested products of constants


class TooMuchWork(Exception):
    """Multiplying out would exceed the limits."""


class StepLimit:
    """Elementary steps left for one specification."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Use up `steps`; raise `TooMuchWork` when there are none left."""
        self.left -= steps
        if self.left < 0:
            raise TooMuchWork


def expand(root: Term, column: Callable[[Variable], int], budget: StepLimit) -> Terms:
    """Multiply out an arithmetic tree. Zero coefficients are dropped, exactly.

    Raises `TooMuchWork` when the budget is used up or a coefficient grows beyond reason.
    """

    def leaf(node: Num | Variable) -> Terms:
        if isinstance(node, Variable):
            return {(column(node),): Fraction(1)}
        value = Fraction(node.text)
        return {(): value} if value else {}

    return fold(root, leaf, lambda node, operands: _combine(node, operands, budget))


def difference(relation: Application, column: Callable[[Variable], int], budget: StepLimit) -> Terms:
    """Return left side minus right side of a comparison."""
    left, right = (expand(arg, column, budget) for arg in relation.args)
    return _add(left, right, -1, budget)


def _combine(node: Application, operands: list[Terms], budget: StepLimit) -> Terms:
    """Apply + - or * to polynomials, which may be consumed."""
    total = operands[0]
    if node.op == "-" and len(operands) == 1:
        budget.spend(len(total) + 1)
        return {m: -c for m, c in total.items()}
    for other in operands[1:]:
        if node.op == "*":
            total = _multiply(total, other, budget)
        else:
            total = _add(total, other, 1 if node.op == "+" else -1, budget)
    return total


def _add(a: Terms, b: Terms, sign: int, budget: StepLimit) -> Terms:
    """Return a + sign * b; the smaller is added into the larger where no negation is needed for that."""
    if sign > 0 and len(b) > len(a):
        a, b = b, a
    budget.spend(len(b) + 1)
    for monomial, coefficient in b.items():
        _accumulate(a, monomial, sign * coefficient, budget)
    return a


def _multiply(a: Terms, b: Terms, budget: StepLimit) -> Terms:
    """Return the product of two polynomials."""
    result: Terms = {}
    for left, c in a.items():
        for right, d in b.items():
            monomial = tuple(sorted(left + right))
            budget.spend(len(monomial) + 1)
            _accumulate(result, monomial, c * d, budget)
    return result


def _accumulate(terms: Terms, monomial: Factors, coefficient: Fraction, budget: StepLimit) -> None:
    """Add to one coefficient; charge for long fractions, and refuse absurd ones."""
    value = terms.get(monomial, 0) + coefficient
    if not value:
        terms.pop(monomial, None)
        return
    bits = value.numerator.bit_length() + value.denominator.bit_length()
    if bits > _MAX_BITS:
        raise TooMuchWork
    budget.spend(bits >> 10)
    terms[monomial] = value
