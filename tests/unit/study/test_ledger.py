"""The append-only file: what was written is there, what was torn is cut, what is foreign is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.study import ledger
from pruning.study.errors import ResultsError
from pruning.study.ledger import Ledger
from verifier.errors import OutputError


def decode(value):
    if set(value) != {"k", "v"}:
        raise ValueError(f"fields {sorted(value)}")
    return value["k"], value["v"]


LINES = ledger.json_lines(lambda row: {"k": row[0], "v": row[1]}, decode, lambda row: row[0])


def opened(path: Path) -> Ledger:
    return ledger.opened(path, LINES)


ROWS = [("a", 1.5), ("b", "é\n\x00 ü"), ("c", None), ("d", [1, 2])]


def write(path: Path, rows=ROWS) -> bytes:
    with opened(path) as held:
        for row in rows:
            assert held.append(row)
    return path.read_bytes()


def test_rows_come_back_in_order(tmp_path):
    write(tmp_path / "deep" / "r.jsonl")
    with opened(tmp_path / "deep" / "r.jsonl") as held:
        assert held.rows == ROWS
        assert "c" in held and "e" not in held


def test_a_key_is_written_once(tmp_path):
    data = write(tmp_path / "r.jsonl")
    with opened(tmp_path / "r.jsonl") as held:
        assert not held.append(("a", "something else"))
        assert held.rows == ROWS
    assert (tmp_path / "r.jsonl").read_bytes() == data


def test_torn_anywhere_in_the_last_line_loses_that_line_only_and_goes_on_to_the_same_file(tmp_path):
    data = write(tmp_path / "whole.jsonl")
    start = data[:-1].rfind(b"\n") + 1
    for cut in range(start, len(data)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(data[:cut])
        with opened(path) as held:
            assert held.rows == ROWS[:-1]
            assert held.append(ROWS[-1])
        assert path.read_bytes() == data


def test_blocks_of_zeros_after_a_loss_of_power_are_a_torn_line(tmp_path):
    data = write(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_bytes(data + b"\0" * 4096)
    with opened(tmp_path / "r.jsonl") as held:
        assert held.rows == ROWS
    assert (tmp_path / "r.jsonl").read_bytes() == data


def test_reading_leaves_a_torn_file_as_it_is(tmp_path):
    data = write(tmp_path / "r.jsonl")[:-3]
    (tmp_path / "r.jsonl").write_bytes(data)
    assert LINES.read(tmp_path / "r.jsonl") == ROWS[:-1]
    assert (tmp_path / "r.jsonl").read_bytes() == data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello, I am somebody's only copy", "torn"),
        (b'{"k": 1, "v": 2}\nnot json\n{"k": 2, "v": 3}\n', ":2: found 'not json'"),
        (b'{"k": 1, "v": 2}\n{"k": 1, "v": 3}\n', ":2: 1 is already in line 1"),
        (b'{"k": 1}\n', ":1: no result"),
        (b"[1, 2]\n", ":1: found list"),
        (b"[" * 100_000 + b"\n", ":1: found"),
        (b'{"k": 1, "v": "' + b"x" * ledger.MAX_LINE + b'"}\n', ":1: a line of"),
        (b'{"k": 1, "v": 2}\n' + b"x" * (ledger.MAX_LINE + 1), "torn"),
    ],
)
def test_what_is_no_ledger_is_refused_and_not_touched(tmp_path, content, words):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        opened(path)
    assert words in str(caught.value)
    assert path.read_bytes() == content


def test_numbers_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    with opened(tmp_path / "r.jsonl") as held, pytest.raises(ValueError):
        held.append(("a", float("nan")))
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    data = write(tmp_path / "r.jsonl")
    real = os.write
    with opened(tmp_path / "r.jsonl") as held:
        monkeypatch.setattr(os, "write", lambda file, line: real(file, line[:5]))
        with pytest.raises(OutputError, match="full"):
            held.append(("e", 1))
        monkeypatch.undo()
        assert "e" not in held
        assert (tmp_path / "r.jsonl").read_bytes() == data
        assert held.append(("e", 1))


def test_a_second_process_is_kept_out(tmp_path):
    program = f"""
import tests.unit.study.test_ledger as t, pathlib
try:
    t.opened(pathlib.Path({str(tmp_path / "r.jsonl")!r}))
except t.OutputError as error:
    print("refused:", error)
"""
    with opened(tmp_path / "r.jsonl"):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "another run" in done.stdout
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""


def test_a_folder_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "r.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"r\.jsonl"):
        opened(tmp_path / "r.jsonl")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.text(max_size=8), values), max_size=6, unique_by=lambda r: r[0]), data=st.data())
def test_any_rows_survive_a_cut_at_any_byte(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("ledger") / "r.jsonl"
    whole = write(path, rows)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with opened(path) as held:
        assert held.rows == rows[: whole[:cut].count(b"\n")]
        for row in rows:
            held.append(row)
    assert path.read_bytes() == whole
