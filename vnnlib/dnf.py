"""Disjunctive normal form of expression trees: atoms to literals, conjunctions pruned while they grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from vnnlib.errors import VnnLibUnsupported
from vnnlib.polynomial import Factors, StepLimit, Terms, TooMuchWork, difference
from vnnlib.rows import RowKey
from vnnlib.spec import RELATIONS, SIGNED_TYPES, UNSIGNED_TYPES, Application, Num, Spec, Term, Variable, postorder

Exact = Fraction | str  # a number kept as text until a tie has to be decided


class Bound(NamedTuple):
    """One side of a box; ties between equal floats are decided by `exact`."""

    value: float
    strict: bool
    exact: Exact


class BoundLiteral(NamedTuple):
    """`x[column] >= bound` (`upper` False) or `<=`."""

    column: int
    upper: bool
    bound: Bound


class RowLiteral(NamedTuple):
    """Row `number` of the row list; `inputs_only` rows belong to the case, others to the clause."""

    number: int
    inputs_only: bool


class OpaqueLiteral(NamedTuple):
    """A comparison the normal form cannot hold, with the reason."""

    relation: Application
    why: str


MOST_FACTORS, MOST_PRODUCTS = 8, 256
"""Of one product, and different products of one specification: each becomes an operation behind the network."""

Literal = BoundLiteral | RowLiteral | OpaqueLiteral | bool
_ONE = Fraction(1)
_MIRROR = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "==", "!=": "!="}


class Atoms:
    """Turns comparisons into literals; keeps the lists of different rows and of the products of variables in them."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.n_inputs, self.n_outputs = spec.size("input"), spec.size("output")
        self.budget = StepLimit(spec.limits.max_work)
        self.rows: dict[RowKey, int] = {}
        self.products: dict[Factors, int] = {}
        self.some_whole = any(t.dtype in SIGNED_TYPES | UNSIGNED_TYPES for t in spec.tensors)

    def column(self, var: Variable) -> int:
        """Return the position of a variable in the joint vector."""
        return self.spec.columns[var.tensor] + var.element

    def alternatives(self, relation: Application) -> list[list[Literal]]:
        """Return the comparison as a disjunction of conjunctions of literals."""
        op, (left, right) = relation.op, relation.args
        if isinstance(left, Num) and isinstance(right, Variable):
            op, left, right = _MIRROR[op], right, left
        whole = self._whole(relation)
        if isinstance(left, Variable) and isinstance(right, Num) and self.column(left) < self.n_inputs and not whole:
            column, value = self.column(left), float(right.text) + 0.0

            def make(op: str) -> list[Literal]:
                return [BoundLiteral(column, op[0] == "<", Bound(value, len(op) == 1, right.text))]

        else:
            polynomial = None if whole else self._leaves(left, right)
            if polynomial is None:
                try:
                    polynomial, op = difference(relation, self.column, self.budget), relation.op
                except TooMuchWork:
                    return [[OpaqueLiteral(relation, "arithmetic too large to multiply out")]]
            if why := self._outside(polynomial):
                opaque = OpaqueLiteral(relation, why)
                return [[opaque], [opaque]] if op == "!=" else [[opaque]]

            def make(op: str) -> list[Literal]:
                return self._linear(op, polynomial, relation)

        if op == "==":
            return [make("<=") + make(">=")]
        if op == "!=":
            return [make("<"), make(">")]
        return [make(op)]

    def _whole(self, relation: Application) -> bool:
        """Say whether the comparison is one of whole numbers, which are not rounded to float64: all are of one type."""
        if not self.some_whole:
            return False
        first = next((node for node in postorder(relation) if isinstance(node, Variable)), None)
        return first is not None and self.spec.tensors[first.tensor].dtype in SIGNED_TYPES | UNSIGNED_TYPES

    def _leaves(self, left: Term, right: Term) -> Terms | None:
        """Return left - right where that needs no arithmetic: a variable and a number or another variable."""
        if not isinstance(left, Variable) or isinstance(right, Application):
            return None
        column = (self.column(left),)
        if isinstance(right, Num):
            value = float(right.text)
            return {column: _ONE, (): -Fraction(value)} if value else {column: _ONE}
        other = (self.column(right),)
        return {column: _ONE, other: -_ONE} if column != other else {}

    def _outside(self, polynomial: Terms) -> str:
        """Say why the normal form cannot hold a polynomial; "" where it can, whose products are numbered then."""
        if any(m and m[-1] >= self.n_inputs + self.n_outputs for m in polynomial):
            return f"hidden variable of '{self._hidden(polynomial)}'"
        products = [m for m in polynomial if len(m) > 1]
        if any(len(m) > MOST_FACTORS for m in products):
            return f"nonlinear comparison (a product of more than {MOST_FACTORS} variables)"
        if len(self.products.keys() | set(products)) > MOST_PRODUCTS:
            return f"nonlinear comparison (more than {MOST_PRODUCTS} products of variables)"
        for product in products:
            self.products.setdefault(product, len(self.products))
        return ""

    def _place(self, factors: Factors) -> int:
        """Return the column of a variable or of a product."""
        return factors[0] if len(factors) == 1 else self.n_inputs + self.n_outputs + self.products[factors]

    def _hidden(self, polynomial: Terms) -> str:
        """Name the hidden tensor that a polynomial uses."""
        column = max(m[-1] for m in polynomial if m)
        for start, tensor in zip(self.spec.columns, self.spec.tensors, strict=True):
            if start <= column < start + tensor.size and tensor.kind == "hidden":
                return tensor.name
        raise AssertionError("column outside all tensors")

    def _linear(self, op: str, polynomial: Terms, relation: Application) -> list[Literal]:
        """Return the literals of `polynomial op 0` for one of <= >= < >.

        A limit of one input that had to be divided out (3 x <= 1) and is no float64 number is rounded outwards, so that
        the box holds every real that the comparison admits; the comparison itself stays as a row.
        """
        strict = len(op) == 1
        sign = 1 if op[0] == "<" else -1
        rhs = -sign * polynomial.get((), Fraction(0))
        terms = sorted((self._place(m), sign * c) for m, c in polynomial.items() if m)
        if not terms:
            return [rhs > 0 if strict else rhs >= 0]
        found: list[Literal] = []
        try:
            if self._whole(relation) and any(Fraction(float(c)) != c for c in (rhs, *(c for _, c in terms))):
                return [OpaqueLiteral(relation, "a whole number that float64 does not hold")]
            if len(terms) == 1 and terms[0][0] < self.n_inputs:
                column, coefficient = terms[0]
                limit, upper = rhs / coefficient, coefficient > 0
                value = float(limit) + 0.0
                exact = abs(coefficient) == 1 or Fraction(value) == limit
                if not exact and (Fraction(value) < limit) == upper:
                    value = math.nextafter(value, math.inf if upper else -math.inf)
                found = [BoundLiteral(column, upper, Bound(value, strict, limit))]
                if exact:
                    return found
            values = tuple(float(c) for _, c in terms)
            row = tuple(c for c, _ in terms), values, float(rhs) + 0.0, strict
        except OverflowError:
            return [OpaqueLiteral(relation, "a coefficient is outside the range of float64")]
        if 0.0 in values:
            return [OpaqueLiteral(relation, "a coefficient is too small for float64")]
        return [*found, RowLiteral(self.rows.setdefault(row, len(self.rows)), terms[-1][0] < self.n_inputs)]


def _beats(a: Bound, b: Bound, upper: bool) -> bool:
    """Say whether bound `a` is tighter than `b` on the same side."""
    if a.value != b.value:
        return (a.value < b.value) == upper
    if not a.strict and not b.strict:
        return False
    exact_a, exact_b = Fraction(a.exact), Fraction(b.exact)
    if exact_a != exact_b:
        return (exact_a < exact_b) == upper
    return a.strict and not b.strict


def _crossed(lower: Bound, upper: Bound) -> bool:
    """Say whether no number lies between the bounds."""
    if lower.value != upper.value or not (lower.strict or upper.strict):
        return lower.value > upper.value
    return Fraction(lower.exact) >= Fraction(upper.exact)


class Conjunction:
    """Literals that hold together: bounds by column and side, rows in order, lines they come from.

    `base` (the assertions without any disjunction) is consulted for emptiness but not copied.
    """

    __slots__ = ("alive", "base", "bounds", "in_rows", "opaque", "rows", "source")

    def __init__(self, base: Conjunction | None = None) -> None:
        self.base = base
        self.alive = True
        self.bounds: dict[tuple[int, bool], Bound] = {}
        self.rows: list[int] = []
        self.in_rows: list[int] = []
        self.opaque: list[OpaqueLiteral] = []
        self.source: list[int] = []

    def copy(self) -> Conjunction:
        """Return an independent copy with the same base."""
        new = Conjunction(self.base)
        new.alive, new.bounds, new.rows = self.alive, dict(self.bounds), list(self.rows)
        new.in_rows, new.opaque, new.source = list(self.in_rows), list(self.opaque), list(self.source)
        return new

    def add(self, literal: Literal) -> None:
        """Add one literal; an empty box or a false constant ends the life of the conjunction."""
        if isinstance(literal, BoundLiteral):
            self._bound((literal.column, literal.upper), literal.bound)
        elif isinstance(literal, RowLiteral):
            (self.in_rows if literal.inputs_only else self.rows).append(literal.number)
        elif isinstance(literal, OpaqueLiteral):
            self.opaque.append(literal)
        elif not literal:
            self.alive = False

    def join(self, other: Conjunction) -> None:
        """Add everything of `other`."""
        self.alive = self.alive and other.alive
        for key, bound in other.bounds.items():
            self._bound(key, bound)
        self.rows += other.rows
        self.in_rows += other.in_rows
        self.opaque += other.opaque
        self.source += other.source

    def effective(self, key: tuple[int, bool]) -> Bound | None:
        """Return the tighter of the own and the base's bound."""
        mine = self.bounds.get(key)
        base = self.base.bounds.get(key) if self.base is not None else None
        if mine is None or base is None:
            return mine or base
        return mine if _beats(mine, base, key[1]) else base

    def _bound(self, key: tuple[int, bool], bound: Bound) -> None:
        old = self.bounds.get(key)
        if old is None or _beats(bound, old, key[1]):
            self.bounds[key] = bound
        mine, other = self.effective(key), self.effective((key[0], not key[1]))
        if mine is not None and other is not None:
            lower, upper = (other, mine) if key[1] else (mine, other)
            self.alive = self.alive and not _crossed(lower, upper)


@dataclass
class Expansion:
    """Result: `base` plus a list of live alternatives; `disjuncts` counts the DNF before pruning."""

    base: Conjunction
    alternatives: list[Conjunction]
    disjuncts: int
    atoms: Atoms


def _children(node: Application) -> list[Term]:
    """Return the operands of `and`/`or` with nested uses of the same connective flattened, in order."""
    found: list[Term] = []
    stack: list[Term] = list(reversed(node.args))
    while stack:
        child = stack.pop()
        if isinstance(child, Application) and child.op == node.op:
            stack.extend(reversed(child.args))
        else:
            found.append(child)
    return found


def _boolean_postorder(root: Term) -> list[tuple[Application, list[Term]]]:
    """List the boolean nodes, operands before users, with flattened operands (none for comparisons)."""
    found: list[tuple[Application, list[Term]]] = []
    stack: list[tuple[Term, list[Term] | None]] = [(root, None)]
    while stack:
        node, ready = stack.pop()
        assert isinstance(node, Application)  # every boolean is one
        if ready is not None or node.op in RELATIONS:
            found.append((node, ready or []))
            continue
        operands = _children(node)
        stack.append((node, operands))
        stack.extend((child, None) for child in reversed(operands))
    return found


def _count(order: Sequence[tuple[Application, list[Term]]]) -> tuple[int, int]:
    """Return (disjuncts, literals with repetition) of the DNF of one tree."""
    stack: list[tuple[int, int]] = []
    for node, operands in order:
        if node.op in RELATIONS:
            stack.append((2, 2) if node.op == "!=" else (1, 1))
            continue
        parts = stack[-len(operands) :]
        del stack[-len(operands) :]
        if node.op == "or":
            stack.append((sum(n for n, _ in parts), sum(k for _, k in parts)))
        else:
            stack.append(_product(parts))
    return stack[0]


def _product(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Combine counts of conjuncts; saturates far above every limit so that integers stay small."""
    cases, literals = 1, 0
    for n, k in parts:
        cases, literals = min(cases * n, 1 << 60), min(literals * n + cases * k, 1 << 60)
    return cases, literals


def _expand_tree(order: Sequence[tuple[Application, list[Term]]], atoms: Atoms, base: Conjunction) -> list[Conjunction]:
    """Return the live disjuncts of one tree."""
    stack: list[list[Conjunction]] = []
    for node, operands in order:
        if node.op in RELATIONS:
            stack.append(_atom(node, atoms, base))
            continue
        parts = stack[-len(operands) :]
        del stack[-len(operands) :]
        if node.op == "or":
            stack.append(_union(operands, parts))
        else:
            stack.append(multiply(parts))
    return stack[0]


def _atom(node: Application, atoms: Atoms, base: Conjunction) -> list[Conjunction]:
    """Return the live alternatives of a comparison."""
    found = []
    choices = atoms.alternatives(node)
    for literals in choices:
        conjunction = Conjunction(base)
        for literal in literals:
            conjunction.add(literal)
        if len(choices) > 1:
            conjunction.source.append(node.at)
        if conjunction.alive:
            found.append(conjunction)
    return found


def _union(operands: Sequence[Term], parts: Sequence[list[Conjunction]]) -> list[Conjunction]:
    """Join alternatives of an `or`; each learns the position of its disjunct unless it knows a more precise one."""
    for operand, part in zip(operands, parts, strict=True):
        for conjunction in part:
            if not conjunction.source:
                conjunction.source.append(operand.at)
    return [conjunction for part in parts for conjunction in part]


def multiply(parts: Sequence[list[Conjunction]]) -> list[Conjunction]:
    """Distribute: every choice of one alternative per part, the first part varying slowest. Consumes the parts."""
    result = parts[0]
    for part in parts[1:]:
        grown = []
        for left in result:
            for number, right in enumerate(part):
                joined = left if number == len(part) - 1 else left.copy()
                joined.join(right)
                if joined.alive:
                    grown.append(joined)
        result = grown
    return result


def check_counts(spec: Spec, cases: int, literals: int) -> None:
    """Refuse an expansion with too many disjuncts or too many literals in them."""
    limits = spec.limits
    if cases > limits.max_cases or literals > limits.max_literals:
        what = f"{cases} disjuncts with {literals} comparisons"
        limit = f"{limits.max_cases} and {limits.max_literals}"
        raise VnnLibUnsupported(f"expanding the formula gives {what} (limits {limit})", path=spec.name)


def expand(spec: Spec) -> Expansion:
    """Bring the assertions of a general-path specification to disjunctive normal form.

    Raises `VnnLibUnsupported` when the expansion would exceed the limits.
    """
    atoms, base = Atoms(spec), Conjunction()
    orders = [_boolean_postorder(tree) for tree in spec.assertions]
    several = []
    for order in orders:
        if any(node.op in ("or", "!=") for node, _ in order):
            several.append(order)
            continue
        for node, _ in order:
            for literal in atoms.alternatives(node)[0] if node.op in RELATIONS else ():
                if isinstance(literal, RowLiteral) and not literal.inputs_only and not base.source:
                    base.source.append(node.at)
                base.add(literal)
    cases, literals = _product([_count(order) for order in several])
    check_counts(spec, cases, literals + cases * len(base.rows))
    parts = [_expand_tree(order, atoms, base) for order in several]
    alternatives = multiply(parts) if parts else [Conjunction(base)]
    return Expansion(base, alternatives if base.alive else [], cases, atoms)
