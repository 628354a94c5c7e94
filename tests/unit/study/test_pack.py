"""The benchmark set: same bytes from a seed, what its files mean by another route, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import vnnlib
from pruning.study import pack, pack_cli
from verifier.command.instances import read_list
from verifier.data import aircraft23
from verifier.errors import OptionsError, OutputError

SMALL = pack.PackSettings(ratios=(0.0, 0.5), pictures=1)


@pytest.fixture(scope="module")
def files() -> pack.PackFiles:
    return pack.build(SMALL)


@pytest.fixture(scope="module")
def folder(files: pack.PackFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    files.write(found := tmp_path_factory.mktemp("pack") / "set")
    return found


def digest(content: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}


def on_disk(folder: Path) -> dict[str, str]:
    return digest({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def test_the_same_seed_gives_the_same_bytes(files: pack.PackFiles, folder: Path) -> None:
    assert digest(pack.build(SMALL).content) == digest(files.content) == on_disk(folder)


def test_the_script_in_the_set_writes_another_seed_and_the_first_one_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(seed: int) -> dict[str, str]:
        script = str(folder / "generate_properties.py")
        monkeypatch.setattr(sys, "argv", [script, str(seed)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(script, run_name="__main__")
        assert left.value.code == 0
        return on_disk(folder)

    first = on_disk(folder)
    other = generate(7)
    assert other.keys() == first.keys()
    changed = {name.partition("/")[0] for name in first if first[name] != other[name]}
    assert changed == {"onnx", "vnnlib", "set.json", "README.md"}  # networks and lists stay
    assert generate(0) == first


def test_both_lists_name_files_that_are_there_and_mean_the_same(folder: Path) -> None:
    lists = [read_list(folder / name) for name in ("instances.csv", "instances_2.0.csv")]
    assert len(lists[0]) == 2 * len(pack.LEVELS) and len({job.vnnlib for job in lists[0]}) == len(lists[0])
    for one, two in zip(*lists, strict=True):
        assert one.model is not None and one.model == two.model and one.model.is_file() and one.timeout == 60
        forms = [vnnlib.normalise(vnnlib.loads(job.spec.read_text())) for job in (one, two)]
        x, draw = np.stack([forms[0].lower[0], forms[0].upper[0]]), np.random.default_rng(0)
        assert np.array_equal(x, np.stack([forms[1].lower[0], forms[1].upper[0]]))
        for y in draw.normal(32, 8, (50, 46)):
            assert forms[0].holds(x[0], y) == forms[1].holds(x[0], y)


def test_levels_below_the_largest_error_are_violated_and_the_others_not_on_the_grid(folder: Path) -> None:
    """The picture is changed by NumPy and goes through the network itself; the specification judges the answer."""
    reach = {level.name: level.reach for level in pack.LEVELS}
    seen = set()
    for job in read_list(folder / "instances.csv"):
        assert job.model is not None
        whole = session(job.model)
        alone = session(folder / "networks" / f"{job.model.stem.rpartition('_')[0]}.onnx")
        form = vnnlib.normalise(vnnlib.loads(job.spec.read_text()))
        base = aircraft23.load("test", 1, start=pack._pictures(SMALL)[0]).images[:, :1].astype(np.float64)
        axes = [np.linspace(a, b, pack.GRID) for a, b in zip(form.lower[0], form.upper[0], strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        images = np.clip(points[:, 0, None, None, None] * base + points[:, 1, None, None, None], 0, 1)
        (answers,) = alone.run(None, {alone.get_inputs()[0].name: images.astype(np.float32)})
        broken = sum(form.holds(p, y) for p, y in zip(points, answers.astype(np.float64), strict=True))
        for p, y in zip(points[::40], answers[::40], strict=True):
            (joined,) = whole.run(None, {whole.get_inputs()[0].name: p[None].astype(np.float32)})
            assert np.abs(joined.reshape(-1) - y).max() < 1e-3
        level = job.spec.stem.rpartition("_")[2]
        seen.add(level)
        assert (broken > 0) == (reach[level][1] < 1), (job.spec, broken)
    assert seen == set(reach)


def test_a_set_that_grows_too_large_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pack, "LIMIT", 300_000)
    monkeypatch.setattr(pack, "build", lambda settings, build=pack.build: build(settings, pack.LIMIT))
    assert pack_cli.main(["--out", str(tmp_path / "set"), "--ratios", "0"]) == 2
    assert "0.3 MB" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_left_alone(files: pack.PackFiles, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"other files \(notes.txt\)"):
        files.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    record = files.content[pack.RECORD].replace(b'"pictures": 1', b'"pictures": 2')
    with pytest.raises(OutputError, match="other settings"):
        pack._check_free(folder, record)
    pack._check_free(folder, files.content[pack.RECORD].replace(b'"seed": 0', b'"seed": 5'))


@pytest.mark.parametrize(
    "wrong",
    [{"pictures": 0}, {"pictures": 101}, {"timeout": 0.0}, {"timeout": float("nan")}, {"seed": -1}, {"models": ()}],
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionsError, match="expected|needs"):
        pack.PackSettings(**wrong)  # type: ignore[arg-type]


def test_solve_writes_verdicts_with_a_witness_and_goes_on_with_the_same_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pack, "LEVELS", pack.LEVELS[:1])
    out = tmp_path / "set"
    assert pack_cli.main(["--out", str(out), "--images", "1", "--ratios", "0", "--solve", "30"]) == 0
    with (out / "solved/seed_0/results.csv").open() as stream:
        (row,) = csv.reader(stream)
    assert row[2] == "vnnlib/1.0/cnn7_w8_00_violated.vnnlib" and row[4] == "sat"
    (witness,) = (out / "solved/seed_0/witnesses").iterdir()
    assert "X_1" in witness.read_text()
    monkeypatch.setitem(pack.WIDEST, "contrast", 0.6)  # another rule: other problems under the same names
    assert pack_cli.main(["--out", str(out), "--images", "1", "--ratios", "0", "--solve", "30"]) == 2
    assert "verdicts are about other files" in capsys.readouterr().err
