"""Tokens with byte offsets, and raising errors at them."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from vnnlib.errors import VnnLibError, VnnLibSemanticError, VnnLibSyntaxError, VnnLibUnsupported
from vnnlib.limits import Limits
from vnnlib.source import position

# Numbered groups, all optional: 1 "("  2 ")"  3 atom  4 string  5 bracket or comma. Blanks and comments match none.
_V1 = re.compile(rb"[ \t\r\n\f\v]++|;[^\n]*+|(\()|(\))|([^ \t\r\n\f\v();]++)")
_V2 = re.compile(
    rb"[ \t\r\n\f\v]++|;[^\n]*+|(\()|(\))"
    rb"|(<[0-9.]++>|[<>=!]++|[-+*](?=[A-Za-z])|[^ \t\r\n\f\v()\[\],;\"<>=!]++)"
    rb'|("(?:[^"\\]|\\.)*+"?)|([\[\],])',
    re.DOTALL,
)
OPEN, CLOSE, ATOM, STRING, MARK, END = 1, 2, 3, 4, 5, 6


class Token(NamedTuple):
    """`kind` is one of the constants above; `at` the byte offset; `text` the decoded text ("" at the end)."""

    kind: int
    text: str
    at: int


class Lexer:
    """One pass over the tokens of `data`, with a pushed-back token, collected warnings and semantic errors."""

    def __init__(self, data: bytearray, version: int, name: str, strict: bool, limits: Limits, start: int = 0) -> None:
        self.data, self.name, self.strict, self.limits = data, name, strict, limits
        self.warnings: list[str] = []
        self.errors: list[VnnLibError] = []
        self._matches = (_V1 if version == 1 else _V2).finditer(data, start)
        self._pushed: list[Token] = []

    def next(self) -> Token:
        """Return the next token and move on; at the end, a token of kind END (again and again)."""
        if self._pushed:
            return self._pushed.pop()
        for match in self._matches:
            kind = match.lastindex
            if kind is not None:
                return Token(kind, match[0].decode(), match.start())
        return Token(END, "", len(self.data))

    def push(self, token: Token) -> None:
        """Make `token` the next one."""
        self._pushed.append(token)

    def peek(self) -> Token:
        """Return the next token without moving on."""
        token = self.next()
        self._pushed.append(token)
        return token

    def where(self, at: int) -> str:
        """Return "line:column" of an offset."""
        line, column = position(self.data, at)
        return f"{line}:{column}"

    def fail(self, token: Token, message: str, expected: str = "") -> NoReturn:
        """Raise a syntax error at `token`."""
        line, column = position(self.data, token.at)
        found = token.text or "end of file"
        raise VnnLibSyntaxError(message, path=self.name, line=line, column=column, found=found, expected=expected)

    def unsupported(self, token: Token, message: str) -> NoReturn:
        """Raise "unsupported" at `token`."""
        line, column = position(self.data, token.at)
        raise VnnLibUnsupported(message, path=self.name, line=line, column=column, found=token.text)

    def semantic(self, token: Token, message: str, expected: str = "") -> None:
        """Note a semantic error at `token`; raise all of them once there are too many."""
        line, column = position(self.data, token.at)
        found = token.text
        self.errors.append(
            VnnLibSemanticError(message, path=self.name, line=line, column=column, found=found, expected=expected)
        )
        if len(self.errors) >= self.limits.max_errors:
            self.raise_collected()

    def raise_collected(self) -> None:
        """Raise the semantic errors noted so far, in order of position, if there are any."""
        if self.errors:
            raise VnnLibSemanticError.collect(sorted(self.errors, key=lambda e: (e.line, e.column)))

    def warn(self, token: Token, message: str) -> None:
        """Note a warning at `token` (the first few of a kind are enough for people; all kinds are kept)."""
        if len(self.warnings) < self.limits.max_errors:
            self.warnings.append(f"{self.name}:{self.where(token.at)}: {message}")

    def expect_close(self, opened: Token, what: str) -> None:
        """Consume `)`; otherwise name the token and the unclosed parenthesis."""
        token = self.next()
        if token.kind != CLOSE:
            if token.kind == END:
                self.unclosed(token, opened)
            self.fail(token, f"too many parts in {what}", "')'")

    def unclosed(self, token: Token, opened: Token) -> NoReturn:
        """Raise the error for a parenthesis that is still open at `token`."""
        self.fail(token, f"the '(' opened at {self.where(opened.at)} is never closed", "')'")
