"""Specifications as text: random ones in the layouts of competition files, free ones from the grammar, damaged ones."""

from __future__ import annotations

import random

import vnnlib
from vnnlib import reading

_ALL = vnnlib.Limits()


def both(text: str | bytes, strict: bool = False, limits: vnnlib.Limits | None = None) -> tuple[object, object, bool]:
    """Return what each path makes of a text (a form or an error's text), and whether the fast path took it."""
    raw = text.encode() if isinstance(text, str) else text
    found: list[object] = []
    took = False
    for general in (False, True):
        try:
            spec = reading._parse(bytearray(raw), "t", strict, limits or _ALL, general=general)
            took = took or spec.form is not None
            found.append(vnnlib.normalise(spec))
        except vnnlib.VnnLibError as error:
            found.append(f"{type(error).__name__} {error}")
    return found[0], found[1], took


def same(a: object, b: object) -> bool:
    return a.same_as(b) if isinstance(a, vnnlib.NormalForm) and isinstance(b, vnnlib.NormalForm) else a == b


def number(rng: random.Random) -> str:
    value = rng.choice([0.0, 1.0, -1.0, 0.5, rng.uniform(-2, 2), rng.gauss(0, 1e-5), rng.gauss(0, 1e5)])
    return rng.choice([repr(value), f"{value:.3f}", str(int(value)), f"{value:.20f}", f"{value:.4e}", "-0.0"])


class Version1:
    """Random texts in the five layouts of competition files."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.n, self.m = self.rng.choice([1, 2, 5]), self.rng.choice([1, 3])

    def number(self) -> str:
        return number(self.rng)

    def x(self) -> str:
        return f"X_{self.rng.randrange(self.n)}"

    def y(self) -> str:
        return f"Y_{self.rng.randrange(self.m)}"

    def head(self) -> str:
        names = [f"X_{i}" for i in range(self.n)] + [f"Y_{j}" for j in range(self.m)]
        return "; head (\n" + "".join(f"(declare-const {name} Real)\n" for name in names)

    def input(self) -> str:
        return f"({self.rng.choice(['<=', '>='])} {self.x()} {self.number()})"

    def output(self) -> str:
        left, right = self.y(), self.y() if self.rng.random() < 0.4 else self.number()
        if left == right and self.rng.random() < 0.9:  # the fast path leaves these to the general one
            right = self.number()
        return f"({self.rng.choice(['<=', '>='])} {left} {right})"

    def conjunction(self, inputs: bool, outputs: bool) -> str:
        rng = self.rng
        parts = [self.input() for _ in range(rng.randrange(1, 4)) if inputs]
        parts += [self.output() for _ in range(rng.randrange(1, 4)) if outputs]
        return f"(and {rng.choice([' ', '', chr(9)]).join(parts)})"

    def disjunction(self, inputs: bool, outputs: bool) -> str:
        parts = [self.conjunction(inputs, outputs) for _ in range(self.rng.randrange(1, 6))]
        return "(assert (or" + self.rng.choice([" ", "\n", "\n\t"]) + self.rng.choice([" ", "\n"]).join(parts) + "))\n"

    def text(self) -> str:
        rng = self.rng
        lines = [f"(assert {self.input()})\n" for _ in range(rng.randrange(8))]
        if rng.random() < 0.3:
            lines += [f"(assert {self.conjunction(True, False)})\n"]
        layout = rng.randrange(5)
        if layout in (0, 3):
            lines += [f"(assert {self.output()})\n" for _ in range(rng.randrange(4))]
        if layout in (1, 2, 3):
            lines.insert(rng.randrange(len(lines) + 1), self.disjunction(layout == 2, True))
        if layout == 4:
            lines += [self.disjunction(True, False), self.disjunction(False, True)]
        if rng.random() < 0.3:
            lines.insert(rng.randrange(len(lines) + 1), "; remark 1.0 (<= X_0 3\n")
        return self.head() + "".join(lines)


class Version2(Version1):
    """The same layouts with tensors of several ranks, and names that hold words of the language or each other."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.names = self.rng.choice([("Xd", "a_1", "Y", "S"), self.rng.sample(ODD_NAMES, 4)])

    def head(self) -> str:
        matrix, vector, output, scalar = self.names
        return (
            f"(vnnlib-version <2.0>)\n(declare-network Nd ; remark\n (declare-input {matrix} float32 [2,3])"
            f"(declare-input {vector} float32 [2])"
            '(declare-input k int8 [1]) (declare-hidden H real [2] "; )")\n'
            f" (declare-output {output} float32 [1,2,1]) (declare-output {scalar} float32 []))\n"
        )

    def number(self) -> str:
        return f"{self.rng.choice([0.0, 1.0, -1.0, self.rng.uniform(-2, 2)]):.{self.rng.randrange(1, 20)}f}"

    def x(self) -> str:
        a, b = self.rng.randrange(2), self.rng.randrange(3)
        matrix, vector, _, _ = self.names
        return self.rng.choice([f"{matrix}[{a},{b}]", f"{matrix}[{a}, {b}]", f"{vector}[{a}]"])

    def y(self) -> str:
        _, _, output, scalar = self.names
        return self.rng.choice([scalar, f"{output}[0,{self.rng.randrange(2)},0]"])

    def input(self) -> str:
        return f"({self.rng.choice(['<=', '>=', '<=', '>=', '=='])} {self.x()} {self.number()})"


class Free1(Version1):
    """Any text of the grammar of 1.0: deep formulas, arithmetic, every comparison, numbers at the ends of the range."""

    def number(self) -> str:
        rng = self.rng
        if rng.random() < 0.6:
            return number(rng)
        return rng.choice(ODD_NUMBERS)

    def term(self, depth: int = 3) -> str:
        rng = self.rng
        if depth == 0 or rng.random() < 0.6:
            return rng.choice([self.x, self.y, self.number])()
        parts = " ".join(self.term(depth - 1) for _ in range(rng.randrange(1, 4)))
        return f"({rng.choice('+-*')} {parts})"

    def formula(self, depth: int = 3) -> str:
        rng = self.rng
        if depth == 0 or rng.random() < 0.5:
            return f"({rng.choice(RELATIONS)} {self.term()} {self.term()})"
        parts = " ".join(self.formula(depth - 1) for _ in range(rng.randrange(1, 4)))
        return f"({rng.choice(['and', 'or'])} {parts})"

    def text(self) -> str:
        return self.head() + "".join(f"(assert {self.formula()})\n" for _ in range(self.rng.randrange(4)))


class Free2(Free1, Version2):
    """The same for 2.0, with declarations in every form."""


ODD_NAMES = ("x", "assertx", "xassert", "assert", "d", "dd", "e1", "E", "and1", "or_", "X_0", "Y_0", "inf", "Real", "z")
RELATIONS = ("<=", ">=", "<", ">", "==", "!=", "=")
ODD_NUMBERS = (
    *(
        "1e308",
        "-1e308",
        "1e309",
        "5e-324",
        "1e-400",
        "16777217",
        "16777216.0",
        "9007199254740993",
        "-0",
        "0e0",
        "1e-7",
    ),
    *("0." + "0" * 30 + "1", "1" + "0" * 40, "nan", "inf", "-inf", "NaN", "+1", ".5", "5.", "1_0", "0x1", "1e", "--1"),
    *("1/3", "٣"),
)
PIECES = (
    *'()<>=XY_0123456789.-+eE \n;[],"\t|',
    *("(and", "(or", "assert", "X_0", "Y_0", "X_9", "1e5", "(assert (<= X_0 1))", "\r\n", "==", "!=", "Xd[0,0]", "é"),
    *("\x0c", "\x0b", "declare-const", "declare-fun", " real", "1e999", "(<= Y_0 Y_0)", "\0", "\ufeff", "()"),
    *("(assert (or (and (<= Y_0 1))))", "(vnnlib-version <2.0>)", "(declare-network f", "(declare-input X real [1])"),
    *(
        "(equal-to f)",
        "(isomorphic-to f)",
        "(check-sat)",
        "(set-logic QF_LRA)",
        "X_00",
        "X_-1",
        "X_18446744073709551616",
    ),
    *ODD_NUMBERS,
)
KINDS = (Version1, Version2, Free1, Free2)


def damaged(text: bytes, rng: random.Random) -> bytes:
    """One to three cuts, copies, insertions or flipped bytes."""
    data = bytearray(text)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        cut = rng.choice([0, 0, 1, 1, 5, 40])
        piece = rng.choice(PIECES).encode() if rng.random() < 0.6 else bytes(data[at : at + 8]) if data else b""
        data[at : at + cut] = b"" if rng.random() < 0.2 else piece
        if data and rng.random() < 0.2:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)
