"""Specification to text, versions 1.0 and 2.0, such that reading it back gives the same normal form.

2.0 numbers are positional decimals with a point (bare integers for integer types), as the reference parser wants; it
cannot read denormal numbers, so bounds and right sides below the smallest normal float64 are rounded outward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from math import prod

import numpy as np

from vnnlib.errors import VnnLibError, VnnLibUnsupported
from vnnlib.form import NormalForm
from vnnlib.normalise import normalise
from vnnlib.rows import slices
from vnnlib.spec import (
    FLOAT_TYPES,
    RELATIONS,
    Application,
    NetworkDecl,
    Num,
    Spec,
    TensorDecl,
    Term,
    Variable,
    postorder,
)

_TINY = float(np.finfo(np.float64).tiny)


def dumps(
    spec: Spec,
    *,
    version: str | None = None,
    compatible: bool = True,
    input_shape: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    dtype: str | None = None,
) -> str:
    """Return the text of a specification.

    version: "1.0" or "2.0"; by default the specification's own. compatible: write only 1.0 text that the competition's
    reader accepts, and raise where that is impossible. The shapes and the type replace the declared ones of a
    specification with one network, one input and one output (a 1.0 text knows no shapes). Raises `VnnLibUnsupported`
    for what the version cannot express, `VnnLibError` for shapes that do not fit.
    """
    if input_shape is not None or output_shape is not None or dtype is not None:
        spec = _redeclare(spec, input_shape, output_shape, dtype)
    version = version or spec.version
    lines = [f"; {part}".rstrip() for line in spec.header for part in line.splitlines() or [""]]
    if version == "1.0":
        _check_single(spec)
        lines += _Form(normalise(spec), _Style1(compatible)).lines()
    elif version in ("2.0", "2.1"):
        if version == "2.0" and any(t.initialized for t in spec.tensors):
            version = "2.1"
        lines.append(f"(vnnlib-version <{version}>)")
        lines += [line for network in spec.networks for line in _network(network)]
        lines += _Form(spec.form, _Style2(spec)).lines() if spec.form is not None else _trees(spec)
    else:
        raise VnnLibUnsupported(f"version {version} cannot be written", expected="1.0, 2.0 or 2.1")
    return "\n".join(lines) + "\n"


def _check_single(spec: Spec) -> None:
    """Version 1.0 knows one network with one input and one output."""
    kinds = [t.kind for t in spec.tensors]
    if len(spec.networks) != 1 or kinds != ["input", "output"]:
        raise VnnLibUnsupported("version 1.0 holds one network with one input and one output tensor")


def _redeclare(
    spec: Spec, input_shape: Sequence[int] | None, output_shape: Sequence[int] | None, dtype: str | None
) -> Spec:
    """Return the specification with other shapes and types."""
    _check_single(spec)
    network, tensors = spec.networks[0], []
    for tensor, shape in zip(network.tensors, (input_shape, output_shape), strict=True):
        new = tensor.shape if shape is None else tuple(shape)
        if prod(new) != tensor.size:
            raise VnnLibError(f"shape {list(new)} has {prod(new)} elements, {tensor.name} has {tensor.size}")
        tensors.append(replace(tensor, shape=new, dtype=dtype or tensor.dtype))
    changed = replace(spec, networks=(replace(network, inputs=(tensors[0],), outputs=(tensors[1],)),))
    if spec.form is None:
        return changed
    inputs, outputs = slices(changed)
    return replace(changed, form=replace(spec.form, input_tensors=inputs, output_tensors=outputs))


# -- spelling of variables, numbers and rows in the two versions ------------------------------------------------


class _Style1:
    """Version 1.0: X_i, Y_j, shortest decimals; checks what the competition's reader can take."""

    def __init__(self, compatible: bool) -> None:
        self.compatible = compatible

    def check(self, form: NormalForm) -> None:
        """Refuse, in compatible mode, forms that the reader cannot hold."""
        if not self.compatible:
            return
        why = ""
        if form.n_cases == 0:
            why = "a query without any input"
        elif form.unbounded:
            why = f"input X_{form.unbounded[0]} without a finite bound"
        elif form.strict_lower is not None or form.strict_upper is not None or form.row_strict.any():
            why = "a strict comparison"
        elif form.products:
            why = "a product of variables"
        elif len(form.case_in_rows):
            why = "a linear constraint over inputs"
        elif (np.diff(form.clause_ptr) == 0).any():
            why = "a clause without output constraints"
        elif (form.row_col < form.n_inputs).any():
            why = "a constraint that mixes inputs and outputs"
        if why:
            raise VnnLibUnsupported(f"{why} cannot be written for the competition's 1.0 reader")

    def declarations(self, form: NormalForm) -> Iterator[str]:
        yield from (f"(declare-const X_{i} Real)" for i in range(form.n_inputs))
        yield from (f"(declare-const Y_{j} Real)" for j in range(form.n_outputs))

    def variables(self, form: NormalForm) -> list[str]:
        return [f"X_{i}" for i in range(form.n_inputs)] + [f"Y_{j}" for j in range(form.n_outputs)]

    def number(self, value: float, column: int, up: bool | None) -> str:
        return repr(float(value))

    def arithmetic(self) -> None:
        if self.compatible:
            raise VnnLibUnsupported(
                "a row that is not Y-constant or Y-Y cannot be written for the competition's 1.0 reader"
            )

    def connective(self, op: str, parts: Sequence[str], nested: bool) -> str:
        return parts[0] if len(parts) == 1 and not nested else f"({op} {' '.join(parts)})"


class _Style2:
    """Version 2.0: indexed names, positional decimals."""

    def __init__(self, spec: Spec) -> None:
        tensors = [t for kind in ("input", "output") for t in spec.tensors if t.kind == kind]
        self.types = [t.dtype for t in tensors]
        self.ends = np.cumsum([t.size for t in tensors])
        self.tensors = tensors

    def check(self, form: NormalForm) -> None:
        """Comparisons cannot mix element types."""
        if len(set(self.types)) < 2:
            return
        for r in range(form.n_rows):
            if len({self._dtype(c) for c in form.row(r)[0].tolist()}) > 1:
                raise VnnLibUnsupported(
                    "a row over tensors of different element types cannot be written in version 2.0"
                )

    def declarations(self, form: NormalForm) -> Iterator[str]:
        return iter(())

    def variables(self, form: NormalForm) -> list[str]:
        return [name for tensor in self.tensors for name in _elements(tensor)]

    def _dtype(self, column: int) -> str:
        return self.types[int(np.searchsorted(self.ends, column, side="right"))]

    def number(self, value: float, column: int, up: bool | None) -> str:
        if self._dtype(column) not in FLOAT_TYPES:
            if value != int(value):
                raise VnnLibUnsupported(f"{value} cannot be written for an integer type")
            return str(int(value))
        if 0 < abs(value) < _TINY:
            if up is None:
                raise VnnLibUnsupported("a denormal coefficient cannot be written in version 2.0")
            value = 0.0 if (value < 0) == up else _TINY if up else -_TINY
        return positional(value)

    def arithmetic(self) -> None:
        pass

    def connective(self, op: str, parts: Sequence[str], nested: bool) -> str:
        return parts[0] if len(parts) == 1 else f"({op} {' '.join(parts)})"


def positional(value: float) -> str:
    """Return the shortest decimal without exponent that reads back as `value`, with a point."""
    return np.format_float_positional(float(value) + 0.0, unique=True, trim="0")


def _elements(tensor: TensorDecl) -> list[str]:
    """Return the spelling of all elements of a tensor, row-major."""
    if not tensor.shape:
        return [tensor.name]
    return [f"{tensor.name}[{','.join(map(str, index))}]" for index in np.ndindex(tensor.shape)]


class _Form:
    """Writes the declarations (1.0) and assertions of a normal form."""

    def __init__(self, form: NormalForm, style: _Style1 | _Style2) -> None:
        style.check(form)
        self.form, self.style = form, style
        self.names = style.variables(form)
        self.names += [f"(* {' '.join(self.names[k] for k in product)})" for product in form.products]
        self.cache: dict[int, str] = {}

    def lines(self) -> Iterator[str]:
        form = self.form
        yield from self.style.declarations(form)
        if form.n_cases == 0:
            number = [self.style.number(v, 0, False) for v in (1.0, 0.0)]
            yield f"(assert (>= {self.names[0]} {number[0]}))"
            yield f"(assert (<= {self.names[0]} {number[1]}))"
        elif form.n_cases == 1:
            yield from self._single()
        else:
            yield "(assert (or"
            for case in range(form.n_cases):
                shared = self._bounds(case) + self._input_rows(case)
                for k in range(int(form.case_ptr[case]), int(form.case_ptr[case + 1])):
                    parts = shared + self._clause(k)
                    yield "    " + self.style.connective("and", parts or [self._always()], True)
            yield "))"

    def _single(self) -> Iterator[str]:
        """One box: bounds at top level, then the clauses."""
        parts = self._bounds(0) + self._input_rows(0)
        yield from (f"(assert {part})" for part in parts)
        clauses = [self._clause(k) for k in range(self.form.n_clauses)]
        if len(clauses) == 1:
            yield from (f"(assert {part})" for part in clauses[0])
            if not parts and not clauses[0]:
                yield f"(assert {self._always()})"
            return
        yield "(assert (or"
        yield from ("    " + self.style.connective("and", clause or [self._always()], True) for clause in clauses)
        yield "))"

    def _always(self) -> str:
        """A comparison that always holds and has a variable."""
        return f"(<= {self.names[0]} {self.names[0]})"

    def _bounds(self, case: int) -> list[str]:
        form, parts = self.form, []
        flags = form.strict_lower, form.strict_upper
        for column in range(form.n_inputs):
            for upper, edges in ((False, form.lower), (True, form.upper)):
                value, flag = float(edges[case, column]), flags[upper]
                if np.isfinite(value):
                    op = ("<" if upper else ">") + ("=" if flag is None or not flag[case, column] else "")
                    parts.append(f"({op} {self.names[column]} {self.style.number(value, column, upper)})")
        return parts

    def _input_rows(self, case: int) -> list[str]:
        ptr = self.form.case_in_ptr
        return [self._row(int(r)) for r in self.form.case_in_rows[ptr[case] : ptr[case + 1]]]

    def _clause(self, k: int) -> list[str]:
        return [self._row(int(r)) for r in self.form.clause(k)]

    def _row(self, r: int) -> str:
        if r not in self.cache:
            self.cache[r] = self._spell(r)
        return self.cache[r]

    def _spell(self, r: int) -> str:
        """Return one row as a comparison."""
        columns, values, rhs, strict = self.form.row(r)
        names, number, equal = [self.names[c] for c in columns.tolist()], self.style.number, "" if strict else "="
        first = int(columns[0])
        signs = values.tolist()
        if signs == [1.0]:
            return f"(<{equal} {names[0]} {number(rhs, first, True)})"
        if signs == [-1.0]:
            return f"(>{equal} {names[0]} {number(-rhs + 0.0, first, False)})"
        if signs in ([1.0, -1.0], [-1.0, 1.0]) and rhs == 0:
            plus = signs.index(1.0)
            return f"(<{equal} {names[plus]} {names[1 - plus]})"
        self.style.arithmetic()
        terms = [
            name if value == 1.0 else f"(* {number(value, first, None)} {name})"
            for name, value in zip(names, signs, strict=True)
        ]
        left = f"(+ {' '.join(terms)})" if len(terms) > 1 else terms[0]
        return f"(<{equal} {left} {number(rhs, first, True)})"


# -- version 2.0 from declarations and trees --------------------------------------------------------------------


def _network(network: NetworkDecl) -> Iterator[str]:
    """Write the declaration of one network."""
    yield f"(declare-network {network.name}"
    if network.equivalence is not None:
        yield f"    ({network.equivalence[0]} {network.equivalence[1]})"
    for tensor in network.tensors:
        shape = ",".join(map(str, tensor.shape))
        tail = " initialized" if tensor.initialized else ""
        if tensor.kind == "hidden":
            node = tensor.node.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            tail = f' "{node}"'
        yield f"    (declare-{tensor.kind} {tensor.name} {tensor.dtype} [{shape}]{tail})"
    yield ")"


def _trees(spec: Spec) -> list[str]:
    """Write the assertions of a general-path specification as they are."""
    name = _namer(spec)
    lines = [f"(assert {_tree(tree, spec, name)})" for tree in spec.assertions]
    first = next(t for t in spec.tensors if t.kind == "input")
    anything = name(Variable(spec.tensors.index(first), 0, -1))
    return lines or [f"(assert (<= {anything} {anything}))"]


def _namer(spec: Spec) -> Callable[[Variable], str]:
    """Return a function from variables to their spelling."""

    def name(var: Variable) -> str:
        tensor = spec.tensors[var.tensor]
        if not tensor.shape:
            return tensor.name
        index = np.unravel_index(var.element, tensor.shape)
        return f"{tensor.name}[{','.join(str(int(i)) for i in index)}]"

    return name


def _tree(root: Term, spec: Spec, name: Callable[[Variable], str]) -> str:
    """Return the text of one tree; connectives and sums of one operand are written as that operand."""
    pieces: list[str] = []
    integers = False
    todo: list[Term | str] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            pieces.append(node)
        elif isinstance(node, Num):
            pieces.append(f" {_decimal(node.text, integers)}")
        elif isinstance(node, Variable):
            pieces.append(f" {name(node)}")
        elif len(node.args) == 1 and node.op != "-":
            todo.append(node.args[0])
        else:
            if node.op in RELATIONS:
                variables = [v for v in postorder(node) if isinstance(v, Variable)]
                integers = bool(variables) and spec.tensors[variables[0].tensor].dtype not in FLOAT_TYPES
                if not variables:
                    pieces.append(_constant(node, spec, name))
                    continue
            pieces.append(f" ({node.op}")
            todo.append(")")
            todo.extend(reversed(node.args))
    return "".join(pieces).strip()


def _constant(node: Application, spec: Spec, name: Callable[[Variable], str]) -> str:
    """Replace a comparison without variables, which version 2.0 forbids, by one about an input."""
    number = next(k for k, t in enumerate(spec.tensors) if t.kind == "input")
    variable = name(Variable(number, 0, -1))
    truth = replace(spec, assertions=(node,), form=None).evaluate({})
    if truth:
        return f" (<= {variable} {variable})"
    one, zero = ("1.0", "0.0") if spec.tensors[number].dtype in FLOAT_TYPES else ("1", "0")
    return f" (and (>= {variable} {one}) (<= {variable} {zero}))"


def _decimal(text: str, integer: bool) -> str:
    """Return a number in the strict form of version 2.0, exactly."""
    digits = format(Decimal(text), "f")
    return digits if integer or "." in digits else digits + ".0"
