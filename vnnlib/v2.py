"""General parser for versions 2.0 and 2.1: declarations, typing and index rules, lenient repairs."""

from __future__ import annotations

import re

from vnnlib.expressions import number, parse_assertion
from vnnlib.lexer import ATOM, CLOSE, END, MARK, OPEN, STRING, Lexer, Token
from vnnlib.limits import Limits
from vnnlib.source import LineTable, position
from vnnlib.spec import (
    ALL_TYPES,
    FLOAT_TYPES,
    OTHER_TYPES,
    UNSIGNED_TYPES,
    NetworkDecl,
    Num,
    Spec,
    TensorDecl,
    Term,
    Variable,
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_STRICT_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_LENIENT_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_BROKEN_EXPONENT = re.compile(r"(-?[0-9]+\.[0-9]+[eE][-+][0-9]+)\.0")  # left by a public 1.0-to-2.0 converter
_RESERVED = frozenset(("and", "or", "initialized"))
_KINDS = {"declare-input": "input", "declare-hidden": "hidden", "declare-output": "output"}
_ORDER = ("input", "hidden", "output")


class Parser:
    """State of one run: the lexer, the declarations so far, and the comparison being read."""

    relations = {op: op for op in ("<=", ">=", "<", ">", "==", "!=")}  # noqa: RUF012

    def __init__(self, data: bytearray, name: str, strict: bool, limits: Limits) -> None:
        self.lexer = Lexer(data, 2, name, strict, limits)
        self.strict, self.infix = strict, not strict
        self.version = "2.0"
        self.networks: list[NetworkDecl] = []
        self.names: dict[str, Token] = {}  # networks and variables share one namespace
        self.tensors: dict[str, tuple[int, TensorDecl]] = {}
        self.sizes = 0
        self._typed: tuple[str, str] | None = None  # first variable of the comparison: (dtype, text)
        self._constants: list[Token] = []

    # -- header -------------------------------------------------------------------------------------------------

    def parse_header(self) -> Token:
        """Read the version and all networks; return the `(` of the first assertion, or the end token."""
        self._version_line()
        while (opened := self.lexer.next()).kind != END:
            if opened.kind != OPEN:
                self.lexer.fail(opened, "only declarations and assertions can stand here", "'('")
            head = self.lexer.next()
            if head.text == "declare-network":
                self._network(opened)
                continue
            if head.text != "assert":
                self._unknown(opened, head)
            if not self.networks:
                self.lexer.fail(head, "assertion before any network", "(declare-network ..)")
            self.lexer.push(head)
            break
        if not self.networks:
            self.lexer.fail(opened, "no network is declared", "(declare-network ..)")
        self._check_real()
        return opened

    def _version_line(self) -> None:
        """Read `(vnnlib-version <M.m>)`."""
        lexer = self.lexer
        opened, head = lexer.next(), lexer.next()
        if opened.kind != OPEN or head.text != "vnnlib-version":
            if self.strict or head.text != "declare-network":
                lexer.fail(head, "the version line is missing", "(vnnlib-version <2.0>)")
            lexer.warn(head, "the version line is missing, read as 2.0")
            lexer.push(head)
            lexer.push(opened)
            return
        token = lexer.next()
        text = token.text
        if re.fullmatch(r"<[0-9]+\.[0-9]+>", text):
            text = text[1:-1]
        elif not self.strict and re.fullmatch(r"[0-9]+\.[0-9]+", text):
            lexer.warn(token, "version written without angle brackets")
        else:
            lexer.fail(token, "malformed version", "<2.0>")
        if text.split(".")[0] != "2":
            lexer.semantic(token, "unknown major version", "<2.0>")
            lexer.raise_collected()
        if text not in ("2.0", "2.1"):
            lexer.warn(token, f"minor version {text} is not known, read as 2.1")
            text = "2.1"
        self.version = text
        lexer.expect_close(opened, "vnnlib-version")

    def _network(self, opened: Token) -> None:
        """Read the rest of `(declare-network ..)`."""
        lexer = self.lexer
        name = self._declare(lexer.next(), "network")
        equivalence: tuple[str, str] | None = None
        groups: dict[str, list[TensorDecl]] = {kind: [] for kind in _ORDER}
        equal_token, stage = name, -1
        while (token := lexer.next()).kind == OPEN:
            head = lexer.next()
            if head.text in ("equal-to", "isomorphic-to"):
                if equivalence is not None:
                    lexer.semantic(head, "a network has at most one equivalence statement")
                if stage >= 0:
                    lexer.fail(
                        head, "the equivalence stands before the inputs", "declare-hidden, declare-output or ')'"
                    )
                equal_token = self._name(lexer.next(), "a network name")
                equivalence = (head.text, equal_token.text)
                lexer.expect_close(token, head.text)
            elif head.text in _KINDS:
                kind = _KINDS[head.text]
                if _ORDER.index(kind) < stage:
                    lexer.fail(
                        head, f"{head.text} stands after a declaration of another kind", "inputs, hidden, outputs"
                    )
                stage = _ORDER.index(kind)
                groups[kind].append(self._tensor(token, kind))
            else:
                lexer.fail(head, "unknown part of a network", "declare-input, declare-hidden or declare-output")
        if token.kind != CLOSE:
            if token.kind == END:
                lexer.unclosed(token, opened)
            lexer.fail(token, "this cannot stand in a network declaration", "'(' or ')'")
        for kind in ("input", "output"):
            if not groups[kind]:
                lexer.fail(token, f"network {name.text} has no {kind}", f"(declare-{kind} ..)")
        network = NetworkDecl(
            name.text, equivalence, tuple(groups["input"]), tuple(groups["hidden"]), tuple(groups["output"])
        )
        if equivalence:
            self._check_equivalence(network, equal_token)
        self.networks.append(network)

    def _tensor(self, opened: Token, kind: str) -> TensorDecl:
        """Read the rest of one tensor declaration."""
        lexer = self.lexer
        name = self._declare(lexer.next(), "variable")
        dtype = self._dtype(lexer.next())
        shape = self._shape(lexer.next())
        node, initialized = "", False
        token = lexer.next()
        if kind == "hidden":
            node, token = self._string(token), lexer.next()
        elif kind == "input" and token.text == "initialized":
            initialized = True
            if self.version == "2.0":
                lexer.warn(token, "'initialized' exists since version 2.1")
            token = lexer.next()
        if token.kind != CLOSE:
            if token.kind == END:
                lexer.unclosed(token, opened)
            lexer.fail(token, f"too many parts in declare-{kind}", "')'")
        line = position(lexer.data, opened.at)[0]
        tensor = TensorDecl(name.text, dtype, shape, kind, node, initialized, line)
        self.sizes += tensor.size
        if self.sizes > lexer.limits.max_variables:
            lexer.unsupported(name, f"more than {lexer.limits.max_variables} tensor elements are declared")
        self.tensors.setdefault(name.text, (len(self.tensors), tensor))
        return tensor

    def _name(self, token: Token, what: str) -> Token:
        """Check the spelling of a name."""
        if token.kind != ATOM or not _NAME.fullmatch(token.text):
            hint = " (letters, digits and '_', first a letter)" if token.kind == ATOM else ""
            self.lexer.fail(token, "malformed name" if token.kind == ATOM else "missing name", what + hint)
        if token.text in _RESERVED:
            self.lexer.fail(token, "reserved word used as a name", what)
        return token

    def _declare(self, token: Token, what: str) -> Token:
        """Check and enter a new name."""
        self._name(token, f"a {what} name")
        if token.text in self.names:
            self.lexer.semantic(token, f"already declared at {self.lexer.where(self.names[token.text].at)}")
        self.names.setdefault(token.text, token)
        return token

    def _dtype(self, token: Token) -> str:
        """Check an element type; `Real` (in the standard's own tests) is `real`."""
        if token.kind != ATOM:
            self.lexer.fail(token, "missing element type", "real, float32, ..")
        if token.text == "Real":
            self.lexer.warn(token, "element type Real read as real")
            return "real"
        if token.text not in ALL_TYPES:
            self.lexer.semantic(token, "unknown element type", "real, float32, float64, int64, ..")
            return "real"
        return token.text

    def _shape(self, token: Token) -> tuple[int, ...]:
        """Read `[d1,d2,..]`, the bracket being `token`."""
        if token.text != "[" or token.kind != MARK:
            self.lexer.fail(token, "missing shape", "'['")
        if self.lexer.peek().text == "]":
            self.lexer.next()
            return ()
        shape = []
        for part in self._naturals("dimension"):
            size = int(part.text)
            if size < 1:
                self.lexer.semantic(part, "a dimension must be at least 1")
            shape.append(max(size, 1))
        return tuple(shape)

    def _naturals(self, what: str) -> list[Token]:
        """Read `nat {, nat} ]` after an opening bracket."""
        parts = []
        while True:
            part = self.lexer.next()
            if part.kind != ATOM or not (part.text.isascii() and part.text.isdigit()) or len(part.text) > 18:
                self.lexer.fail(part, f"malformed {what}", "a natural number")
            parts.append(part)
            token = self.lexer.next()
            if token.kind == MARK and token.text == "]":
                return parts
            if token.kind != MARK or token.text != ",":
                self.lexer.fail(token, f"malformed list after {what} {part.text}", "',' or ']'")

    def _string(self, token: Token) -> str:
        """Read the node name of a hidden tensor."""
        if token.kind != STRING:
            self.lexer.fail(token, "declare-hidden without the node's name", 'a string such as "relu_3/out"')
        if len(token.text) < 2 or not token.text.endswith('"'):
            self.lexer.fail(token, "the string is never closed", "'\"'")
        plain = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}

        def unescape(match: re.Match[str]) -> str:
            if match[1] not in plain:
                self.lexer.fail(token, f"unknown escape \\{match[1]} in a string", '\\" \\\\ \\n or \\t')
            return plain[match[1]]

        return re.sub(r"\\(.)", unescape, token.text[1:-1], flags=re.DOTALL)

    def _check_equivalence(self, network: NetworkDecl, token: Token) -> None:
        """Check target, chain and matching tensors of an equivalence statement."""
        assert network.equivalence is not None
        relation, target = network.equivalence
        other = next((n for n in self.networks if n.name == target), None)
        if other is None:
            why = (
                "a network cannot be equivalent to itself"
                if target == network.name
                else "no earlier network of this name"
            )
            self.lexer.semantic(token, why)
            return
        if other.equivalence is not None:
            self.lexer.semantic(
                token, f"chained equivalence: {target} is itself {other.equivalence[0]} another network"
            )
            return
        for kind, mine, theirs in (("input", network.inputs, other.inputs), ("output", network.outputs, other.outputs)):
            if len(mine) != len(theirs):
                self.lexer.semantic(token, f"{network.name} has {len(mine)} {kind}s, {target} has {len(theirs)}")
            for place, (a, b) in enumerate(zip(mine, theirs, strict=False), 1):
                if a.shape != b.shape:
                    shapes = f"{list(a.shape)} and {list(b.shape)}"
                    self.lexer.semantic(token, f"{kind} {place} ({a.name}, {b.name}): shapes differ, {shapes}")
                elif a.dtype != b.dtype and relation == "equal-to":
                    types = f"{a.dtype} and {b.dtype}"
                    self.lexer.semantic(token, f"{kind} {place} ({a.name}, {b.name}): types differ, {types}")
        for a in network.hidden if relation == "equal-to" else ():
            for b in other.hidden:
                if a.node == b.node and (a.shape, a.dtype) != (b.shape, b.dtype):
                    self.lexer.semantic(token, f"hidden node '{a.node}' is declared with two shapes or types")

    def _check_real(self) -> None:
        """Warn where `real` is mixed with element types."""
        types = {tensor.dtype for _, tensor in self.tensors.values()}
        if "real" in types and len(types) > 1:
            self.lexer.warnings.append(
                f"{self.lexer.name}: type real is mixed with {', '.join(sorted(types - {'real'}))}"
            )

    # -- assertions ---------------------------------------------------------------------------------------------

    def parse_assertions(self, opened: Token) -> list[Term]:
        """Read all assertions, the first opened by `opened`."""
        lexer, trees = self.lexer, []
        while opened.kind != END:
            if opened.kind != OPEN:
                lexer.fail(opened, "only assertions can stand here", "'('")
            head = lexer.next()
            if head.text != "assert":
                self._unknown(opened, head)
            trees.append(parse_assertion(lexer, self, opened, head))
            opened = lexer.next()
        if not trees:
            lexer.warnings.append(f"{lexer.name}: no assertion; every input satisfies the query")
        return trees

    def _unknown(self, opened: Token, head: Token) -> None:
        """Raise the error for a command that cannot stand at top level here."""
        if head.kind == END:
            self.lexer.unclosed(head, opened)
        if head.text == "declare-network":
            self.lexer.fail(head, "declare-network after an assertion", "assert")
        if head.text == "vnnlib-version":
            self.lexer.fail(head, "a second version line", "declare-network or assert")
        self.lexer.fail(head, "unknown command", "declare-network or assert")

    def is_operand(self, token: Token) -> bool:
        """Say whether the atom is a number or a declared variable."""
        return token.text in self.tensors or _LENIENT_NUMBER.fullmatch(token.text) is not None

    def operand(self, token: Token) -> Num | Variable:
        """Turn an atom, and the index list that may follow, into a leaf."""
        if _NAME.fullmatch(token.text):
            return self._variable(token)
        if not _STRICT_NUMBER.fullmatch(token.text):
            text = token.text
            if match := _BROKEN_EXPONENT.fullmatch(text):
                text = match[1]
            if self.strict or not _LENIENT_NUMBER.fullmatch(text):
                kind = "malformed name" if text[:1].isalpha() else "malformed number"
                self.lexer.fail(
                    token, kind, "digits, with a point inside if any, no exponent" if kind[-1] == "r" else ""
                )
            self.lexer.warn(token, f"number {token.text} is not written in the form of 2.0, read as {text}")
            token = token._replace(text=text)
        self._constants.append(token)
        return number(self.lexer, token)

    def _variable(self, token: Token) -> Num | Variable:
        """Read an element of a declared tensor; a placeholder is returned after a semantic error."""
        parts: list[Token] = []
        indexed = self.lexer.peek().text == "["
        if indexed:
            bracket = self.lexer.next()
            if self.lexer.peek().text == "]":
                self.lexer.fail(bracket, "empty index list", "an index, or the bare name of a scalar")
            parts = self._naturals("index")
        if token.text not in self.tensors:
            known = token.text in self.names
            self.lexer.semantic(token, "a network name is no variable" if known else "undeclared variable")
            return Num("0.0", token.at)
        order, tensor = self.tensors[token.text]
        self._check_type(token, tensor.dtype)
        if len(parts) != len(tensor.shape):
            dims = len(tensor.shape)
            why = f"{tensor.name} has {dims} dimension{'s' * (dims != 1)}, {len(parts)} indices are given"
            self.lexer.semantic(token, why if dims else f"{tensor.name} is a scalar and takes no index")
            return Num("0.0", token.at)
        element = 0
        for part, size in zip(parts, tensor.shape, strict=True):
            if int(part.text) >= size:
                self.lexer.semantic(part, f"index out of range for {tensor.name}, dimension of size {size}")
                return Num("0.0", token.at)
            element = element * size + int(part.text)
        return Variable(order, element, token.at)

    def _check_type(self, token: Token, dtype: str) -> None:
        """All variables of one comparison have one type."""
        if self._typed is None:
            self._typed = dtype, token.text
        elif self._typed[0] != dtype:
            first = f"{self._typed[1]} is {self._typed[0]}"
            self.lexer.semantic(token, f"type mismatch in one comparison: {first}, {token.text} is {dtype}")

    def begin_comparison(self) -> None:
        """Forget the types of the previous comparison."""
        self._typed, self._constants = None, []

    def end_comparison(self, token: Token) -> None:
        """Check constants against the type of the variables."""
        if self._typed is None:
            if not self.lexer.errors:
                self.lexer.warn(token, "comparison without a variable has no type")
            return
        dtype, name = self._typed
        if dtype in FLOAT_TYPES:
            return
        for constant in self._constants:
            if dtype in OTHER_TYPES:
                self.lexer.semantic(constant, f"type mismatch: {name} is {dtype}, a number does not fit")
            elif not constant.text.lstrip("-").isdigit():
                self.lexer.semantic(constant, f"type mismatch: {name} is {dtype}, the constant is no integer")
            elif dtype in UNSIGNED_TYPES and constant.text.startswith("-"):
                self.lexer.semantic(constant, f"type mismatch: {name} is {dtype}, the constant is negative")

    def spec(self, assertions: list[Term]) -> Spec:
        """Raise collected errors, or return the result of the general path."""
        self.lexer.raise_collected()
        return Spec(
            self.version,
            tuple(self.networks),
            tuple(assertions),
            tuple(self.lexer.warnings),
            self.lexer.name,
            (),
            self.lexer.limits,
            lines=LineTable(self.lexer.data),
        )


def parse(data: bytearray, name: str, strict: bool, limits: Limits) -> Spec:
    """Parse a whole 2.x text. Raises the errors of `vnnlib.errors`; semantic ones are collected."""
    parser = Parser(data, name, strict, limits)
    return parser.spec(parser.parse_assertions(parser.parse_header()))
