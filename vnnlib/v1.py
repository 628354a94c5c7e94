"""General parser for version 1.0: any layout of the grammar, precise errors."""

from __future__ import annotations

import re

from vnnlib.expressions import number, parse_assertion
from vnnlib.lexer import ATOM, CLOSE, END, OPEN, Lexer, Token
from vnnlib.limits import Limits
from vnnlib.source import LineTable
from vnnlib.spec import NetworkDecl, Num, Spec, TensorDecl, Term, Variable

_NAME = re.compile(r"([XY])_(0|[1-9][0-9]{0,11})")
_INDEXED = re.compile(r"[XY](_[0-9]+){2,}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_IGNORED = frozenset(
    ["set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit", "echo", "push", "pop"]
)
_UNSUPPORTED = frozenset(["define-fun", "define-const", "declare-datatype", "declare-sort", "define-sort"])
_COMMANDS = ("declare-const", "declare-fun", "assert")


class _Dialect:
    """Operands of version 1.0: numbers and X_i / Y_j; uses are checked against declarations at the end."""

    relations = {"<=": "<=", ">=": ">=", "<": "<", ">": ">", "=": "==", "==": "==", "!=": "!="}  # noqa: RUF012
    infix = False

    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.used: dict[tuple[str, int], Token] = {}

    def is_operand(self, token: Token) -> bool:
        return _NUMBER.fullmatch(token.text) is not None or _NAME.fullmatch(token.text) is not None

    def operand(self, token: Token) -> Num | Variable:
        if match := _NAME.fullmatch(token.text):
            letter, index = match[1], int(match[2])
            self.used.setdefault((letter, index), token)
            return Variable("XY".index(letter), index, token.at)
        if _NUMBER.fullmatch(token.text):
            return number(self.lexer, token)
        if _INDEXED.fullmatch(token.text):
            self.lexer.unsupported(token, "variables with one index per dimension; write X_i with the flat index")
        if token.text[:1].isalpha():
            self.lexer.semantic(token, "undeclared variable", "X_i or Y_j")
            return Num("0.0", token.at)
        self.lexer.fail(token, "malformed number", "a decimal number, X_i or Y_j")

    def begin_comparison(self) -> None:
        pass

    def end_comparison(self, token: Token) -> None:
        pass


def parse(data: bytearray, name: str, strict: bool, limits: Limits) -> Spec:
    """Parse a whole 1.0 text. Raises the errors of `vnnlib.errors`; semantic ones are collected."""
    lexer = Lexer(data, 1, name, strict, limits)
    dialect = _Dialect(lexer)
    declared: dict[tuple[str, int], Token] = {}
    assertions: list[Term] = []
    while (opened := lexer.next()).kind != END:
        if opened.kind != OPEN:
            lexer.fail(opened, "only commands can stand here", "'('")
        head = lexer.next()
        if head.text == "assert":
            assertions.append(parse_assertion(lexer, dialect, opened, head))
        elif head.text in ("declare-const", "declare-fun"):
            _declaration(lexer, opened, head, declared)
        else:
            _other_command(lexer, opened, head)
    _check_uses(lexer, dialect.used, declared)
    sizes = _sizes(lexer, declared)
    lexer.raise_collected()
    return Spec("1.0", networks_v1(*sizes), tuple(assertions), tuple(lexer.warnings), name, (), limits,
                lines=LineTable(data))  # fmt: skip


def networks_v1(inputs: int, outputs: int) -> tuple[NetworkDecl, ...]:
    """Return the one network of a 1.0 text: flat tensors X and Y of type real."""
    x, y = TensorDecl("X", "real", (inputs,), "input"), TensorDecl("Y", "real", (outputs,), "output")
    return (NetworkDecl("N", None, (x,), (), (y,)),)


def _declaration(lexer: Lexer, opened: Token, head: Token, declared: dict[tuple[str, int], Token]) -> None:
    """Read the rest of a declaration."""
    variable = lexer.next()
    if variable.kind != ATOM:
        lexer.fail(variable, f"{head.text} without a variable", "X_i or Y_j")
    if head.text == "declare-fun":
        for kind in (OPEN, CLOSE):
            token = lexer.next()
            if token.kind != kind:
                lexer.fail(token, "functions with arguments do not exist", "'()'")
    sort = lexer.next()
    if sort.kind != ATOM:
        lexer.fail(sort, f"{head.text} without a sort", "Real")
    if sort.text != "Real":
        lexer.semantic(sort, "unsupported sort", "Real")
    lexer.expect_close(opened, head.text)
    match = _NAME.fullmatch(variable.text)
    if match is None:
        if _INDEXED.fullmatch(variable.text):
            lexer.unsupported(variable, "variables with one index per dimension; write X_i with the flat index")
        lexer.semantic(variable, "wrong variable name", "X_i or Y_j")
        return
    key = match[1], int(match[2])
    if key in declared:
        lexer.semantic(variable, f"declared twice, first at {lexer.where(declared[key].at)}")
    else:
        declared[key] = variable


def _other_command(lexer: Lexer, opened: Token, head: Token) -> None:
    """Skip a harmless SMT-LIB command with a warning; refuse everything else."""
    if head.kind == END:
        lexer.unclosed(head, opened)
    if head.kind != ATOM:
        lexer.fail(head, "an empty or nested list is no command", "declare-const or assert")
    if head.text in _UNSUPPORTED:
        lexer.unsupported(head, "this SMT-LIB command is not part of VNN-LIB")
    if head.text not in _IGNORED:
        import difflib  # rarely needed and slow to import

        near = difflib.get_close_matches(head.text, _COMMANDS, 1)
        hint = f"{near[0]} (did you mean that?)" if near else "declare-const or assert"
        lexer.fail(head, "unknown command", hint)
    depth = 1
    while depth:
        token = lexer.next()
        if token.kind == END:
            lexer.unclosed(token, opened)
        depth += (token.kind == OPEN) - (token.kind == CLOSE)
    lexer.warn(head, f"command {head.text} ignored")


def _check_uses(lexer: Lexer, used: dict[tuple[str, int], Token], declared: dict[tuple[str, int], Token]) -> None:
    """Every variable in an assertion must be declared somewhere."""
    for key, token in used.items():
        if key not in declared:
            lexer.semantic(token, "undeclared variable")


def _sizes(lexer: Lexer, declared: dict[tuple[str, int], Token]) -> tuple[int, int]:
    """Return the numbers of inputs and outputs; indices must run from 0 without gaps."""
    sizes = []
    for letter in "XY":
        indices = sorted(i for kind, i in declared if kind == letter)
        for want, have in enumerate(indices):
            if want != have:
                lexer.semantic(declared[letter, have], f"{letter}_{want} is not declared, although this is")
                break
        sizes.append(len(indices))
    if not sizes[0] and not lexer.errors:
        lexer.semantic(Token(END, "", len(lexer.data)), "no input variable is declared", "(declare-const X_0 Real)")
    if not sizes[1]:
        lexer.warnings.append(f"{lexer.name}: no output variable is declared")
    return sizes[0], sizes[1]
