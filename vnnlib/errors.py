"""Every error of this package.

VnnLibError               base; `str(error)` is one line `file:line:column: message`
|-- VnnLibSyntaxError     the text is no VNN-LIB (first problem only)
|-- VnnLibSemanticError   well-formed text that breaks a static rule; `errors` holds all that were found
`-- VnnLibUnsupported     legal or plausible text outside what this package handles

Lines and columns count from 1 (columns in characters) and point at the offending token; 0 means "no position".
"""

from __future__ import annotations

from collections.abc import Sequence


def _printable(text: str, limit: int = 60) -> str:
    """Return `text` on one line, control characters escaped, cut to about `limit` characters."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return shown if len(text) <= limit else shown[:limit] + "..."


class VnnLibError(Exception):
    """A specification, witness or result file cannot be used.

    `found` and `expected` repeat, for programs, what the message says for people.
    """

    def __init__(
        self, message: str, *, path: str = "", line: int = 0, column: int = 0, found: str = "", expected: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.path, self.line, self.column = message, path, line, column
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        where = self.path
        if self.line:
            where += f":{self.line}:{self.column}"
        text = f"{where}: {self.message}" if where else self.message
        if self.expected:
            text += f"; expected {self.expected}"
        if self.found:
            text += f", found '{_printable(self.found)}'"
        return text


class VnnLibSyntaxError(VnnLibError):
    """The text does not follow the grammar."""


class VnnLibUnsupported(VnnLibError):
    """The construct is outside what this package, or its normal form, can express."""


class VnnLibSemanticError(VnnLibError):
    """One or more static rules (declarations, types, indices) are broken; `errors` lists each of them."""

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        line: int = 0,
        column: int = 0,
        found: str = "",
        expected: str = "",
        errors: Sequence[VnnLibError] = (),
    ) -> None:
        super().__init__(message, path=path, line=line, column=column, found=found, expected=expected)
        self.errors: tuple[VnnLibError, ...] = tuple(errors) or (self,)

    @classmethod
    def collect(cls, errors: Sequence[VnnLibError]) -> VnnLibSemanticError:
        """Bundle `errors` (at least one) under the position and message of the first."""
        first = errors[0]
        return cls(
            first.message,
            path=first.path,
            line=first.line,
            column=first.column,
            found=first.found,
            expected=first.expected,
            errors=errors,
        )

    def __str__(self) -> str:
        more = len(self.errors) - 1
        return super().__str__() + (f" (and {more} more error{'s' if more > 1 else ''})" if more > 0 else "")
