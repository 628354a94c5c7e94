"""Fast and general path: equal results on every layout, and on texts damaged at random."""

from __future__ import annotations

import random

import pytest

import vnnlib
from benchmarks.fuzz.texts import Version1, Version2, both, same
from vnnlib import fast, literals


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
    monkeypatch.setattr(literals, "_SMALL", 0)
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
    monkeypatch.setattr(literals, "_SMALL", 0)
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


def test_a_name_may_hold_the_word_assert() -> None:
    inputs = "(declare-input x float32 [1]) (declare-input assertx float32 [1])"
    head = f"(vnnlib-version <2.0>)(declare-network f {inputs} (declare-output Y float32 [1]))"
    quick, slow, took = both(f"{head}(assert (<= x[0] 1.0))(assert (<= assertx[0] 2.0))")
    assert took and same(quick, slow)
    assert isinstance(quick, vnnlib.NormalForm) and quick.upper.tolist() == [[1.0, 2.0]]


def test_columns_after_a_comment_of_other_characters() -> None:
    quick, slow, _ = both("(;\N{ZERO WIDTH NO-BREAK SPACE}é")
    assert quick == slow
    assert "t:1:5: the '(' opened at 1:1 is never closed" in str(quick)


def test_a_string_where_none_can_stand_is_shown_as_written() -> None:
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [1]) (declare-output Y real [1]))"
    quick, slow, _ = both(f'{head}(assert (<= X[0] ";a\n"))')
    assert quick == slow and '";a' in str(quick)
