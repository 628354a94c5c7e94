"""VNN-COMP result files: words, matching, truth and points, each by hand."""

from __future__ import annotations

import json

import pytest

from pruning.study.errors import ResultsError
from pruning.study.tools import output, results, scoring, truth
from pruning.study.tools.results import ResultWord


def file(tmp_path, name, lines):
    path = tmp_path / f"{name}.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def lines(*words, category="cat", seconds=1.0):
    """One instance per word, each with the same name in every file."""
    return [f"{category},onnx/n{i}.onnx,vnnlib/p{i}.vnnlib,0.5,{word},{seconds}" for i, word in enumerate(words)]


def compared(tmp_path, known=None, timeout=60.0, **files):
    tools = results.read_all([file(tmp_path, name, content) for name, content in files.items()])
    return scoring.compare(tools, known, timeout)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("unsat", ResultWord.UNSAT), ("sat", ResultWord.SAT), ("timeout", ResultWord.TIMEOUT),
        ("timed-out", ResultWord.TIMEOUT), ("run_instance_timeout", ResultWord.TIMEOUT),
        ("prepare_instance_timeout", ResultWord.TIMEOUT), ("no_result_in_file", ResultWord.UNKNOWN),
        ("prepare_instance_error_1", ResultWord.UNKNOWN), ("", ResultWord.UNKNOWN), ("unknown", ResultWord.UNKNOWN),
        ("error_exit_code_139", ResultWord.ERROR), ("error", ResultWord.ERROR),
        ("holds", ResultWord.UNSAT), ("violated", ResultWord.SAT), (" UNSAT ", ResultWord.UNSAT), ("maybe", None),
    ],
)  # fmt: skip
def test_words(word, meaning):
    assert results.answer(word) is meaning


@pytest.mark.parametrize(
    "network",
    [
        "onnx/a/n.onnx",
        "./onnx/a/n.onnx.gz",
        "/home/u/benchmarks/cat/onnx/a/n.onnx",
        "a/n.onnx",
        "..\\cat\\onnx\\a\\n.onnx",
    ],
)
def test_spellings_of_one_instance_meet(network):
    assert results.instance("cat", network, "vnnlib/p.vnnlib") == ("cat", "a/n.onnx", "p.vnnlib")


def test_subfolders_keep_equal_names_apart(tmp_path):
    content = [f"safenlp,onnx/{kind}/p.onnx,vnnlib/{kind}/h.vnnlib,0,unsat,1" for kind in ("medical", "ruarobot")]
    assert len(results.read_all([file(tmp_path, "a", content)])[0].entries) == 2


def test_repeated_lines_are_matched_by_order(tmp_path):
    again = [*lines("sat"), *lines("timeout")]
    found = compared(tmp_path, a=again, b=[*lines("sat"), *lines("unsat")])
    assert [(s.right, s.sat, s.unsat) for s in found.overall] == [(1, 1, 0), (2, 1, 1)]


def test_points_of_2025_by_hand(tmp_path):
    #        agreed  contradicted 2:1  nobody   alone
    found = compared(
        tmp_path,
        a=lines("unsat", "sat", "timeout", "unsat"),
        b=lines("unsat", "unsat", "unknown", "error_exit_code_1"),
        c=lines("unsat", "unsat", "", "timeout"),
    )
    a, b, c = found.overall
    assert (a.right, a.wrong, a.unique, a.points) == (2, 1, 1, 20 - 150)
    assert (b.right, b.wrong, b.unique, b.points) == (2, 0, 0, 20) == (c.right, c.wrong, c.unique, c.points)
    assert [s.score for s in found.categories["cat"]] == [0, 100, 100]
    assert a.par2 == pytest.approx((1 + 120 + 120 + 1) / 4) and b.par2 == pytest.approx((1 + 1 + 120 + 120) / 4)
    (odd,) = found.contradictions
    assert (odd.key[1], odd.sat, odd.unsat, odd.truth.source) == ("n1.onnx", ("a",), ("b", "c"), "majority")
    assert any("guess by majority" in note for note in found.notes)
    assert found.times == {"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 1.0)}


def test_a_tie_stays_open_and_costs_nobody(tmp_path):
    found = compared(tmp_path, a=lines("sat"), b=lines("unsat"))
    assert [(s.right, s.wrong, s.points) for s in found.overall] == [(0, 0, 0)] * 2
    assert found.contradictions[0].truth == truth.ReferenceVerdict(None, "open")
    assert [s.score for s in found.overall] == [0, 0]


def test_a_list_overrules_the_majority_and_the_lonely(tmp_path):
    listed = tmp_path / "instances.csv"
    listed.write_text(
        "benchmark,onnx,vnnlib,timeout_s,expected\n"
        "cat,n0.onnx.gz,p0.vnnlib.gz,30,sat\ncat,n1.onnx,p1.vnnlib,,not known\ncat,n2.onnx,p2.vnnlib,10,unsat\n"
    )
    known = truth.read(listed)
    found = compared(tmp_path, known, a=lines("sat", "unsat", "sat"), b=lines("unsat", "unsat", "timeout"))
    a, b = found.overall
    assert (a.right, a.wrong, a.points) == (2, 1, -130) and (b.right, b.wrong, b.points) == (1, 1, -140)
    assert a.par2 == pytest.approx((1 + 1 + 20) / 3) and b.par2 == pytest.approx((60 + 1 + 20) / 3)
    assert {c.key[1] for c in found.contradictions} == {"n0.onnx", "n2.onnx"}
    assert found.limits["cat"] == "the list and --timeout 60"
    assert "the list names 3 of these 3 instances and gives a verdict for 2" in found.notes


def test_categories_are_scored_apart_and_added_up(tmp_path):
    one, two = lines("unsat", "unsat", category="one"), lines("sat", category="two")
    found = compared(tmp_path, a=one + lines("timeout", category="two"), b=one[:1] + two)
    assert {n: [s.score for s in rows] for n, rows in found.categories.items()} == {"one": [100, 50], "two": [0, 100]}
    assert [s.score for s in found.overall] == [100, 150]
    assert found.overall[1].missing == 1 and any("b: 1 of 3 instances" in note for note in found.notes)


def test_without_a_limit_the_longest_run_of_the_category_stands_in(tmp_path):
    found = compared(tmp_path, timeout=None, a=lines("timeout", seconds=116.2), b=lines("sat"))
    assert found.limits["cat"] == "longest run, 116.2 s" and found.overall[0].par2 == pytest.approx(232.4)


def test_strange_words_are_counted_as_unknown_and_told(tmp_path):
    found = compared(tmp_path, a=lines("sat", "perhaps"))
    assert found.overall[0].other == 1 and any("'perhaps'" in note for note in found.notes)


def test_names_of_tools(tmp_path):
    (tmp_path / "abc").mkdir()
    path = file(tmp_path / "abc", "results", lines("sat"))
    assert results.read_all([path])[0].name == "abc"
    assert results.read_all([f"my tool={path}"])[0].name == "my tool"
    with pytest.raises(ResultsError, match="two files are called 'abc'"):
        results.read_all([path, path])


def test_a_header_is_skipped(tmp_path):
    found = results.read_all([file(tmp_path, "a", ["category,onnx,vnnlib,prepare,result,time", *lines("sat")])])
    assert len(found[0].entries) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b,c\n", ":1: found 'a,b,c', expected category,onnx"),
        ("c,n,p,0,sat,1\nc,n,p,0,sat,soon\n", ":2: found"),
        ("c,n,p,0,sat,nan\n", ":1: found"),
        ("c,n,p,0,sat,-1\n", ":1: found"),
        ("", "no results in it"),
        ("\0\0\0", "not a results file"),
    ],
)
def test_files_that_are_no_results(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(ResultsError) as caught:
        results.read_all([str(path)])
    assert words in str(caught.value) and "a.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [("onnx,vnnlib,expected\na,b,sat\n", "no column 'category'"), ("category,onnx,vnnlib\na,b,c\n", "'expected'"),
     ("category,onnx,vnnlib,expected,timeout\na,b,c,sat,soon\n", "time limit 'soon'")],
)  # fmt: skip
def test_lists_that_are_no_lists(tmp_path, content, words):
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(ResultsError) as caught:
        truth.read(path)
    assert words in str(caught.value)


def test_json_and_cactus(tmp_path):
    found = compared(tmp_path, a=lines("sat", "unsat", "unsat"), b=lines("sat", "unsat", "sat"))
    output.write_json(found, tmp_path / "o.json")
    value = json.loads((tmp_path / "o.json").read_text())
    assert value["overall"][0]["points"] == 20 and value["contradictions"][0]["truth"] is None
    for kind, magic in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        output.write_cactus(found, tmp_path / f"c.{kind}")
        assert (tmp_path / f"c.{kind}").read_bytes().startswith(magic)
