"""Depth, size, damage: untrusted files give a clear error or a result, in bounded time and memory."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

import vnnlib
from vnnlib import reading
from vnnlib.source import blank_comments, lines_of

HEAD1 = "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
HEAD2 = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [1]) (declare-output Y real [2]))"
DEPTH = 100_000  # nesting that plain recursion could not survive


@pytest.mark.parametrize(
    ("opening", "core"),
    [
        ("(and ", "(<= Y_0 1.0)"),
        ("(or ", "(<= Y_0 1.0)"),
        ("(or (<= Y_0 2.0) ", "(<= Y_0 1.0)"),
        ("(or (and ", "(<= Y_0 1.0)"),
    ],
)
def test_deep_booleans(opening: str, core: str) -> None:
    closing = ")" * (opening.count("(") - opening.count(")"))
    text = f"(assert {opening * DEPTH}{core}{closing * DEPTH})"
    one = vnnlib.normalise(vnnlib.loads(HEAD1 + text))
    assert one.n_cases == 1


def test_deep_text_of_version_2_survives_the_writer() -> None:
    spec = vnnlib.loads(
        HEAD2 + f"(assert {'(or (and (<= Y[0] 2.0) ' * 20_000}(<= Y[1] 1.0){'))' * 20_000})", strict=True
    )
    again = vnnlib.loads(vnnlib.dumps(spec), strict=True)
    assert vnnlib.normalise(again).same_as(vnnlib.normalise(spec), sources=False)
    assert vnnlib.normalise(again).n_rows == 2


@pytest.mark.parametrize("opening", ["(- ", "(- 0.5 ", "(+ Y_0 "])
def test_deep_arithmetic(opening: str) -> None:
    spec = vnnlib.loads(HEAD1 + f"(assert (<= {opening * DEPTH}Y_1{')' * DEPTH} 1.0))")
    form = vnnlib.normalise(spec)
    assert form.n_rows == 1


def test_deep_evaluation() -> None:
    spec = vnnlib.loads(HEAD1 + f"(assert (<= {'(- 0.5 ' * 20_001}Y_1{')' * 20_001} 1.0))")
    form = vnnlib.normalise(spec)
    for y, want in ((-0.5, True), (-0.75, False)):
        assert spec.evaluate({"X": [0], "Y": [0, y]}) is want
        assert form.holds([0], [0, y]) is want


def test_alternating_depth_is_refused_not_endured() -> None:
    text = HEAD1 + "(assert " + "(and (<= Y_0 1.0) (or (<= Y_1 1.0) " * 20_000 + "(<= Y_0 0)" + "))" * 20_000 + ")"
    with pytest.raises(vnnlib.VnnLibUnsupported, match="disjuncts"):
        vnnlib.normalise(vnnlib.loads(text))


def test_large_products_are_refused() -> None:
    either = "(assert (or (<= Y_0 0) (<= Y_1 0)))"
    with pytest.raises(vnnlib.VnnLibUnsupported, match=str(2**40)):
        vnnlib.normalise(vnnlib.loads(HEAD1 + either * 40))
    power = "(* " + " ".join(["(+ X_0 Y_0 Y_1 1.0)"] * 200) + ")"
    with pytest.raises(vnnlib.VnnLibUnsupported, match="too large"):
        vnnlib.normalise(vnnlib.loads(HEAD1 + f"(assert (<= {power} 1))"))
    with pytest.raises(vnnlib.VnnLibUnsupported):
        vnnlib.normalise(vnnlib.loads(HEAD1 + f"(assert (<= (* {'1e-300 ' * 5000} Y_0) 1))"))


def test_time_grows_linearly_on_the_general_path() -> None:
    def seconds(count: int) -> float:
        text = HEAD1 + "(assert (or " + "(and (<= X_0 1.0) (<= (+ Y_0 Y_1) 1.0))" * count + "))"
        start = time.process_time()
        vnnlib.normalise(vnnlib.loads(text))
        return time.process_time() - start

    small = min(seconds(1000) for _ in range(3))
    assert seconds(10_000) < 30 * small + 0.2


def test_huge_declarations_are_refused_before_allocation() -> None:
    with pytest.raises(vnnlib.VnnLibUnsupported, match="elements"):
        vnnlib.loads(HEAD2.replace("[2]", "[1000000,1000000]"))
    with pytest.raises(vnnlib.VnnLibSemanticError):
        vnnlib.loads("(declare-const X_99999999999 Real)")


def test_box_values_are_limited() -> None:
    boxes = "(assert (or" + "".join(f"(and (<= X_0 {k}) (<= Y_0 0))" for k in range(20)) + "))"
    with pytest.raises(vnnlib.VnnLibUnsupported, match="20 input boxes"):
        vnnlib.normalise(vnnlib.loads(HEAD1 + boxes, limits=vnnlib.Limits(max_box_values=10)))


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    text = (HEAD1 + "(assert (<= Y_0 1))").encode()
    want = vnnlib.normalise(vnnlib.loads(text))
    members = gzip.compress(text[:40], mtime=0) + gzip.compress(text[40:])
    for name, data in (
        ("a.vnnlib", gzip.compress(text, mtime=0)),
        ("b.gz", text),
        ("c.vnnlib.gz", members + b"\0" * 8),
    ):
        (tmp_path / name).write_bytes(data)
        assert vnnlib.normalise(vnnlib.load(tmp_path / name)).same_as(want)
    assert vnnlib.load(tmp_path / "c.vnnlib").name.endswith("c.vnnlib.gz")
    (tmp_path / "d").write_bytes(b"\xef\xbb\xbf" + text)
    assert vnnlib.normalise(vnnlib.load(tmp_path / "d")).same_as(want)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(HEAD1.encode() * 100, mtime=0)[:-20], "truncated"),
        (gzip.compress(HEAD1.encode(), mtime=0)[:20] + b"xxxxxxxxxxxxxxxxxxxx", "damaged"),
        (gzip.compress(HEAD1.encode(), mtime=0) + b"tail", "after the end"),
        (b"\x80\x04pickle", "binary"),
        (HEAD1.encode() + b"\0", "binary"),
        (b"; \xff\xfe\n" + HEAD1.encode(), "not text"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.vnnlib"
    path.write_bytes(data)
    with pytest.raises(vnnlib.VnnLibError, match=message) as caught:
        vnnlib.load(path)
    assert str(caught.value).startswith(str(path))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(vnnlib.VnnLibError, match="No such file"):
        vnnlib.load(tmp_path / "none.vnnlib")
    with pytest.raises(vnnlib.VnnLibError, match="cannot read"):
        vnnlib.load(tmp_path)


def test_gzip_bomb(tmp_path: Path) -> None:
    engine = zlib.compressobj(9, wbits=31)
    (tmp_path / "bomb").write_bytes(b"".join(engine.compress(b" " * (1 << 20)) for _ in range(64)) + engine.flush())
    with pytest.raises(vnnlib.VnnLibError, match="after decompression"):
        vnnlib.load(tmp_path / "bomb", limits=vnnlib.Limits(max_bytes=1 << 22))
    (tmp_path / "big").write_bytes(b" " * 2000)
    with pytest.raises(vnnlib.VnnLibError, match="limit is 1000"):
        vnnlib.load(tmp_path / "big", limits=vnnlib.Limits(max_bytes=1000))
    with pytest.raises(vnnlib.VnnLibError, match="limit is 1000"):
        vnnlib.loads(" " * 2000, limits=vnnlib.Limits(max_bytes=1000))


def test_errors_stop_at_a_limit_and_print_on_one_line() -> None:
    text = HEAD1 + "".join(f"(assert (<= X_{k} 1))" for k in range(1, 200))
    with pytest.raises(vnnlib.VnnLibSemanticError, match="and 49 more errors") as caught:
        vnnlib.loads(text, name="many.vnnlib")
    assert len(caught.value.errors) == 50
    error = vnnlib.VnnLibError("m", found="a\nb" + "c" * 500)
    assert "\n" not in str(error) and len(str(error)) < 100


def test_columns_count_characters() -> None:
    text = (
        HEAD2.replace("(declare-output", '(declare-hidden H real [1] "äöü") (declare-output') + "(assert (<= Z[0] 1.0))"
    )
    with pytest.raises(vnnlib.VnnLibSemanticError) as caught:
        vnnlib.loads(text)
    assert caught.value.column == text.index("Z[0]") + 1


def test_comment_blanking_keeps_offsets() -> None:
    data = bytearray(b"a ; x\nb;\n;c")
    blank_comments(data)
    assert data == b"a    \nb \n  "


def test_lines_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    data = bytearray(b"ab\ncd\n\nef" * 3)
    offsets = np.arange(len(data))
    want = [1 + data[:k].count(b"\n") for k in range(len(data))]
    assert lines_of(data, offsets).tolist() == want


def test_unicode_comments_and_detection() -> None:
    assert vnnlib.normalise(vnnlib.loads("; ünïcode ∀\n" + HEAD1 + "(assert (<= Y_0 1))")).n_clauses == 1
    assert reading.detect_version(bytearray(b"; c\n ( ; d\n declare-network"), "x") == 2


def test_import_is_light() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import vnnlib; new = set(sys.modules) - before;"
        "assert not new & {'torch', 'onnx', 'csv', 'difflib', 'hashlib', 'vnnlib.writer', 'vnnlib.witness'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names() -> None:
    assert all(getattr(vnnlib, name) is not None for name in vnnlib.__all__)
    with pytest.raises(AttributeError):
        vnnlib.nothing  # noqa: B018
