"""The shared grammar of both versions below `assert`: booleans, comparisons, arithmetic.

A pushdown parser with an explicit stack of frames, so that nesting depth is limited by memory only.
"""

from __future__ import annotations

from typing import Protocol

from vnnlib.lexer import ATOM, CLOSE, END, OPEN, Lexer, Token
from vnnlib.spec import RELATIONS, Application, Num, Term

_CONNECTIVES = frozenset(("and", "or"))
_ARITHMETIC = frozenset(("+", "-", "*"))
_COMMANDS = frozenset(("assert", "declare-const", "declare-fun", "declare-network", "vnnlib-version"))
_UNSUPPORTED = frozenset(
    ["not", "=>", "xor", "ite", "let", "forall", "exists", "distinct", "/", "div", "mod", "abs", "!", "implies", "iff"]
)


class Dialect(Protocol):
    """What differs between the versions: operands and comparison checks."""

    relations: dict[str, str]
    infix: bool

    def operand(self, token: Token) -> Term:
        """Turn an atom (and what follows it, such as indices) into a number or variable, or raise."""

    def is_operand(self, token: Token) -> bool:
        """Say whether the atom is a number or a declared variable."""

    def begin_comparison(self) -> None:
        """Take note that a comparison starts."""

    def end_comparison(self, token: Token) -> None:
        """Check the comparison that started at `token`."""


class _Frame:
    """An open parenthesis: its operator, operands so far, and whether operands are booleans."""

    __slots__ = ("args", "boolean", "head", "op", "opened")

    def __init__(self, op: str, head: Token, opened: Token, boolean: bool) -> None:
        self.op, self.head, self.opened, self.boolean = op, head, opened, boolean
        self.args: list[Term] = []


def parse_assertion(lexer: Lexer, dialect: Dialect, opened: Token, head: Token) -> Term:
    """Parse the rest of `(assert ...)` after its head and return the boolean tree.

    Raises `VnnLibSyntaxError` at the first token that does not fit, `VnnLibUnsupported` for known foreign operators.
    """
    stack = [_Frame("assert", head, opened, True)]
    while True:
        frame, token = stack[-1], lexer.next()
        if token.kind == OPEN:
            _check_room(lexer, frame, token)
            stack.append(_open(lexer, dialect, frame, token))
        elif token.kind == CLOSE:
            done = _close(lexer, dialect, frame, token)
            stack.pop()
            if not stack:
                return done
            stack[-1].args.append(done)
        elif token.kind == END:
            lexer.unclosed(token, frame.opened)
        elif frame.boolean:
            lexer.fail(token, f"'{frame.op}' takes comparisons, 'and' and 'or'", "'('")
        elif token.kind == ATOM:
            _check_room(lexer, frame, token)
            frame.args.append(dialect.operand(token))
        else:
            lexer.fail(token, "this cannot stand here", "a number, a variable or '('")


def _check_room(lexer: Lexer, frame: _Frame, token: Token) -> None:
    """Refuse an operand too many, at that operand."""
    if frame.op in RELATIONS and len(frame.args) == 2:
        lexer.fail(token, f"comparison '{frame.head.text}' takes exactly 2 operands", "')'")
    if frame.op == "assert" and frame.args:
        lexer.fail(token, f"assert (opened at {lexer.where(frame.opened.at)}) takes exactly one formula", "')'")


def _open(lexer: Lexer, dialect: Dialect, parent: _Frame, opened: Token) -> _Frame:
    """Read the operator after `(` and return its frame."""
    head = lexer.next()
    if head.kind == END:
        lexer.unclosed(head, opened)
    word = head.text
    if head.kind == ATOM and parent.boolean:
        if word in _CONNECTIVES:
            return _Frame(word, head, opened, True)
        if word in dialect.relations:
            dialect.begin_comparison()
            return _Frame(dialect.relations[word], head, opened, False)
        if dialect.infix and dialect.is_operand(head):
            return _infix(lexer, dialect, head, opened)
    elif head.kind == ATOM and word in _ARITHMETIC:
        return _Frame(word, head, opened, False)
    if word in _COMMANDS:
        lexer.fail(opened, f"the '(' opened at {lexer.where(parent.opened.at)} is not closed before '({word}'", "')'")
    if word in _UNSUPPORTED:
        lexer.unsupported(head, f"operator '{word}' is not part of VNN-LIB")
    if parent.boolean:
        if word in ("=", "!=", "=="):
            lexer.fail(head, f"comparison operator '{word}' does not exist in this version", "'==' for equality")
        lexer.fail(head, "unknown boolean operator", f"and, or, {', '.join(dialect.relations)}")
    lexer.fail(head, "unknown arithmetic operator", "+, - or *")


def _infix(lexer: Lexer, dialect: Dialect, head: Token, opened: Token) -> _Frame:
    """Repair `(a < b)`, met in the wild: read the first operand and the relation."""
    dialect.begin_comparison()
    operand = dialect.operand(head)
    relation = lexer.next()
    if relation.kind != ATOM or relation.text not in dialect.relations:
        lexer.fail(head, "unknown boolean operator", f"and, or, {', '.join(dialect.relations)}")
    lexer.warn(head, f"infix comparison read as ({relation.text} {head.text} ..)")
    frame = _Frame(dialect.relations[relation.text], relation, opened, False)
    frame.args.append(operand)
    return frame


def _close(lexer: Lexer, dialect: Dialect, frame: _Frame, token: Token) -> Term:
    """Check the number of operands and build the node (the formula itself for `assert`)."""
    if frame.op in RELATIONS:
        if len(frame.args) != 2:
            lexer.fail(token, f"comparison '{frame.head.text}' takes exactly 2 operands", "another operand")
        dialect.end_comparison(frame.head)
    elif not frame.args:
        if frame.op == "assert":
            lexer.fail(token, "assert without a formula", "'('")
        lexer.fail(frame.head, f"'{frame.op}' without operands", "at least one operand")
    if frame.op == "assert":
        return frame.args[0]
    return Application(frame.op, tuple(frame.args), frame.opened.at)


def number(lexer: Lexer, token: Token) -> Num:
    """Return the node of a number whose spelling is already checked.

    Refuses numbers too long, outside the range of float64, or so tiny that exact arithmetic would be hopeless; a zero
    with an exponent becomes plain zero.
    """
    text, limit = token.text, lexer.limits.max_number
    if len(text) > limit:
        lexer.unsupported(token, f"number with {len(text)} characters (limit {limit})")
    mantissa, _, exponent = text.lower().partition("e")
    if exponent:
        if not mantissa.strip("+-0."):
            return Num("0.0", token.at)
        if int(exponent) < -limit:
            lexer.unsupported(token, "number too close to zero for exact arithmetic")
    if abs(float(text)) == float("inf"):
        lexer.unsupported(token, "number outside the range of float64")
    return Num(text, token.at)
