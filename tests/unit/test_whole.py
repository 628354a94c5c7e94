"""A file appears whole or not at all, and where it cannot be written that is known before the work."""

import os
import stat
from pathlib import Path

import pytest

from verifier.errors import OutputError
from verifier.files.whole import Whole, check_writable, make_folder, move, write


def test_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"
    write(path, "new\n")
    assert path.read_text() == "new\n" and os.listdir(tmp_path) == ["result.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_checking_creates_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "result.txt")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["no_such_folder/result.txt", ".", "file/result.txt"])
def test_impossible_places_are_refused_before_and_after(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for action in (check_writable, lambda path: write(path, "x")):
        with pytest.raises(OutputError, match="cannot write the file"):
            action(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_failed_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "r.txt", "text")
    assert os.listdir(tmp_path) == []


def test_special_files_are_written_to_not_replaced() -> None:
    check_writable("/dev/null")
    write("/dev/null", "text")
    assert not Path("/dev/null").is_file()


def test_an_exception_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError), Whole(path) as stream:
        stream.write(b"half")
        raise ValueError
    with pytest.raises(OutputError, match=r"r\.bin: cannot write the picture: No space"), Whole(path, "the picture"):
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["r.bin"]


def test_folders_and_finished_files(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    with pytest.raises(OutputError, match="cannot make the folder"):
        make_folder(tmp_path / "no" / "b", parents=False)
    write(tmp_path / "fresh", "text")
    move(tmp_path / "fresh", tmp_path / "a" / "b" / "done")
    assert (tmp_path / "a" / "b" / "done").read_text() == "text" and not (tmp_path / "fresh").exists()
    with pytest.raises(OutputError, match="cannot write"):
        move(tmp_path / "fresh", tmp_path / "a" / "other")
