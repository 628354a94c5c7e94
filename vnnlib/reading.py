"""`load` and `loads`: choose version and path."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from vnnlib import fast, v1, v2
from vnnlib.errors import VnnLibSyntaxError
from vnnlib.limits import Limits
from vnnlib.source import clean, position, read_file
from vnnlib.spec import Spec

_HEAD = re.compile(rb"(?:[ \t\r\n\f\v]++|;[^\n]*+)*+(\()?+(?:[ \t\r\n\f\v]++|;[^\n]*+)*+([^ \t\r\n\f\v();]*+)")
_COMMENT = re.compile(rb"[ \t\r\n\f\v]*+;([^\n]{0,1000}+)[^\n]*+")
_DEFAULT = Limits()
MOST_COMMENTS = 100


def load(path: str | os.PathLike[str], *, strict: bool = False, limits: Limits = _DEFAULT) -> Spec:
    """Read a specification file of either version, gzipped or not (decided by content).

    Where `path` does not exist, `path` + ".gz" is tried. `strict` turns the repairs of common defects of 2.0 files
    (exponents, infix comparisons, missing version line) into errors. Raises `VnnLibError` and its subclasses.
    """
    data, name = read_file(path, limits)
    return _parse(data, name, strict, limits)


def loads(
    text: str | bytes | bytearray, *, name: str = "<string>", strict: bool = False, limits: Limits = _DEFAULT
) -> Spec:
    """Read a specification from text (see `load`); `name` stands in error messages."""
    data = bytearray(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else bytearray(text)
    return _parse(data, name, strict, limits)


def _parse(data: bytearray, name: str, strict: bool, limits: Limits, general: bool = False) -> Spec:
    """Parse clean text: the fast path where it recognises the whole text, else the general one."""
    clean(data, name, limits)
    header = leading_comments(data)
    version = detect_version(data, name)
    # the fast path blanks comments, which moves columns behind other characters, and takes ';' in a string for one
    kept = data if general or (data.isascii() and b'"' not in data) else bytearray(data)
    spec = None if general else fast.parse(data, version, name, strict, limits)
    if spec is None:
        spec = (v1 if version == 1 else v2).parse(kept, name, strict, limits)
    return replace(spec, header=header)


def leading_comments(data: bytearray) -> tuple[str, ...]:
    """The comment lines before the first command, without `;`; at most 100, each at most 1000 bytes."""
    found: list[str] = []
    at = 0
    while len(found) < MOST_COMMENTS and (match := _COMMENT.match(data, at)) is not None:
        found.append(match[1].decode(errors="replace").strip())
        at = match.end()
    return tuple(found)


def detect_version(data: bytearray, name: str) -> int:
    """Return 1 or 2 by the first command; raise `VnnLibSyntaxError` where there is none."""
    match = _HEAD.match(data)
    assert match is not None
    head = match[2].decode()
    if match[1] is None:
        at, found = match.start(2), head or data[match.end() : match.end() + 1].decode() or "end of file"
        line, column = position(data, at)
        raise VnnLibSyntaxError(
            "this is no VNN-LIB text", path=name, line=line, column=column, found=found,
            expected="(vnnlib-version <2.0>) or (declare-const X_0 Real)",
        )  # fmt: skip
    return 2 if head in ("vnnlib-version", "declare-network") else 1
