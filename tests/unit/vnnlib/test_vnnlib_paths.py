"""Fast and general path: equal results on every layout, and on texts damaged at random."""

from __future__ import annotations

import random

import pytest

import vnnlib
from vnnlib import fast, reading


def both(text: str | bytes, strict: bool = False) -> tuple[object, object, bool]:
    """Return what each path makes of a text (a form or an error's text), and whether the fast path took it."""
    raw = text.encode() if isinstance(text, str) else text
    found: list[object] = []
    took = False
    for general in (False, True):
        try:
            spec = reading._parse(bytearray(raw), "t", strict, vnnlib.Limits(), general=general)
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
    """The same layouts with tensors of several ranks."""

    def head(self) -> str:
        return (
            "(vnnlib-version <2.0>)\n(declare-network Nd ; remark\n (declare-input Xd float32 [2,3])"
            "(declare-input a_1 float32 [2])"
            '(declare-input k int8 [1]) (declare-hidden H real [2] "; )")\n'
            " (declare-output Y float32 [1,2,1]) (declare-output S float32 []))\n"
        )

    def number(self) -> str:
        return f"{self.rng.choice([0.0, 1.0, -1.0, self.rng.uniform(-2, 2)]):.{self.rng.randrange(1, 20)}f}"

    def x(self) -> str:
        a, b = self.rng.randrange(2), self.rng.randrange(3)
        return self.rng.choice([f"Xd[{a},{b}]", f"Xd[{a}, {b}]", f"a_1[{a}]"])

    def y(self) -> str:
        return self.rng.choice(["S", f"Y[0,{self.rng.randrange(2)},0]"])

    def input(self) -> str:
        return f"({self.rng.choice(['<=', '>=', '<=', '>=', '=='])} {self.x()} {self.number()})"


@pytest.mark.parametrize("kind", [Version1, Version2])
def test_paths_agree_on_generated_files(kind: type[Version1]) -> None:
    taken = 0
    for seed in range(400):
        text = kind(seed).text()
        quick, slow, took = both(text)
        assert same(quick, slow), text
        assert isinstance(quick, vnnlib.NormalForm), (text, quick)
        taken += took
    assert taken > 200  # the comparison must not be one of the general path with itself


def test_bulk_conversion_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_SMALL", 0)
    test_paths_agree_on_generated_files(Version1)
    test_paths_agree_on_damaged_files(Version1)


@pytest.mark.parametrize("kind", [Version1, Version2])
def test_paths_agree_on_damaged_files(kind: type[Version1]) -> None:
    rng = random.Random(7)
    pieces = [
        *"()<>=XY_0123456789.-+eE \n;[],\"\t",
        "(and", "(or", "assert", "X_0", "Y_0", "X_9", "1e5", "1.", ".5", "(assert (<= X_0 1))", "\r\n", "==", "<", "00",
        "Xd[0,0]",
        "é", "\x0c", "declare-const", " real", "1e999", "(<= Y_0 Y_0)", "nan", "(assert (or (and (<= Y_0 1))))",
    ]  # fmt: skip
    taken = 0
    for seed in range(1500):
        text = kind(seed % 60).text()
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(text))
            cut = rng.choice([0, 0, 1, 1, 5])
            text = text[:at] + rng.choice([rng.choice(pieces), "", text[at : at + 8]]) + text[at + cut :]
        quick, slow, took = both(text, strict=bool(seed % 2))
        assert same(quick, slow), (text, quick, slow)
        taken += took
    assert taken > 100


def test_windows_split_large_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [kind(seed).text() for kind in (Version1, Version2) for seed in range(60)]
    whole = [both(text)[0] for text in texts]
    monkeypatch.setattr(fast, "_WINDOW", 40)
    monkeypatch.setattr(fast, "_CHUNK", 4)
    monkeypatch.setattr(fast, "_SMALL", 0)
    for text, want in zip(texts, whole, strict=True):
        quick = both(text)[0]
        assert same(quick, want), text


@pytest.mark.parametrize("line", ["\r\n", "\n\n", "\x0c\n", " \t\n"])
def test_line_ends_do_not_matter(line: str) -> None:
    text = Version1(3).text()
    quick, slow, _ = both(text.replace("\n", line))
    assert same(quick, slow)
    assert isinstance(quick, vnnlib.NormalForm) and quick.same_as(vnnlib.normalise(vnnlib.loads(text)), sources=False)


@pytest.mark.parametrize("count", [13, 2000])
def test_declarations_out_of_order_are_not_read_as_if_in_order(count: int) -> None:
    """Few and many variables are checked in different ways; the same digits in other places do not count up."""
    good = [*range(count), 0, 1]
    for wrong in (
        [*range(11), 1, 112, *range(13, count), 0, 1],
        [1, 0, *good[2:]],
        [*good[:-1], 2],
        [*good[:-2], 1, 0],
    ):
        assert len(wrong) == len(good)
        text = " ".join(map(str, wrong)).encode()
        assert not fast._counts_up(text, count, 2)
    assert fast._counts_up(b"  " + b"  ".join(b"%d" % i for i in good) + b" ", count, 2)
