from pathlib import Path

import pytest

from verifier.command.ledger import Finished, open_results
from verifier.errors import OutputError

ONE = Finished("acas", "a.onnx", "p.vnnlib", "unsat", 1.25)
TWO = Finished("acas", "[('f', 'a,b.onnx')]", "q.vnnlib", "sat", 0.5)


def fill(path: Path, *rows: Finished) -> None:
    ledger = open_results(path)
    for row in rows:
        ledger.append(row)
    ledger.close()


def read(path: Path) -> list[Finished]:
    ledger = open_results(path)
    ledger.close()
    return ledger.rows


def test_lines_have_the_competition_form_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    fill(path, ONE, TWO)
    assert path.read_text().splitlines()[0] == "acas,a.onnx,p.vnnlib,0.000,unsat,1.250"
    assert read(path) == [ONE, TWO]


@pytest.mark.parametrize("cut", range(1, 45))
def test_a_torn_last_line_is_cut_off_wherever_it_is_torn(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "results.csv"
    fill(path, ONE, TWO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read(path) == [ONE]
    fill(path, TWO)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "text", ["dear diary\n", "a,b,c,d,e,f\n", "1,2,3\n", "dear diary", "a,b,c,0.0,sat,0.1\nnotes\n"]
)
def test_another_kind_of_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    before = path.read_bytes()
    with pytest.raises(OutputError):
        open_results(path)
    assert path.read_bytes() == before


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    first = open_results(path)
    with pytest.raises(OutputError, match="another run"):
        open_results(path)
    first.close()
    open_results(path).close()


def test_a_name_with_a_line_break_cannot_tear_the_file(tmp_path: Path) -> None:
    ledger = open_results(tmp_path / "r.csv")
    with pytest.raises(OutputError, match="line break"):
        ledger.append(Finished("c", "a\nb", "s", "sat", 1.0))
    ledger.close()
    assert read(tmp_path / "r.csv") == []


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no_such"):
        open_results(tmp_path / "no_such" / "r.csv")
    with pytest.raises(OutputError):
        open_results(tmp_path)


@pytest.mark.parametrize("end", ['"1.250\n', "1.2\r50\n", "1.250\x00\n", "1.25" + "0" * 200_000 + "\n"])
def test_lines_that_csv_cannot_read_are_named(tmp_path: Path, end: str) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(f"acas,a.onnx,p.vnnlib,0.000,unsat,{end}".encode())
    before = path.read_bytes()
    with pytest.raises(OutputError, match=":1: found"):
        open_results(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1e", "\u2028", "\x85", '"', ","])
def test_any_name_reads_back(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "results.csv"
    row = Finished("acas", f"a{odd}.onnx", "p.vnnlib", "unsat", 1.25)
    fill(path, row, ONE)
    assert read(path) == [row, ONE]
