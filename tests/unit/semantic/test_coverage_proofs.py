"""`secateur coverage --proof`: the certified cells of every picture, in a proof that the checker accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from verifier.checker.check import check
from verifier.semantic import coverage


def test_every_picture_has_a_proof_of_its_own_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "proofs"
    ranges = ["--contrast", "0.8,1.2", "--brightness=-0.1,0.1", "--tolerance", "6"]
    asked = ["cnn7_w8", "--data", "aircraft23", "--images", "0,3", *ranges, "--open", "0.5", "--per-image", "4", "-q"]
    assert coverage.main([*asked, "--samples", "0", "--proof", str(folder)]) == 0
    said = capsys.readouterr().out
    certified = {m[1]: float(m[2]) for m in re.finditer(r"^(\w+): certified ([\d.]+)", said, re.M)}
    shares = {}
    for name in certified:
        found = check(*(folder / f"{name}.{ending}" for ending in ("proof", "onnx", "vnnlib")))
        assert found.verdict == "map"
        shares[name] = float(found.shares[0])
        assert shares[name] <= certified[name] + 1e-6
    assert len(shares) == 2 and max(shares.values()) > 0 and min(certified.values()) < 1, said
    mean = re.search(r"proof: covers ([\d.]+)", said)
    assert mean is not None and float(mean[1]) == pytest.approx(sum(shares.values()) / 2, abs=1e-5)


def test_a_folder_that_cannot_be_made_is_refused_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert coverage.main(["cnn7_w8", "--images", "1", "--contrast", "0.9,1", "--proof", str(tmp_path / "file")]) == 2
    assert "the folder for proofs" in capsys.readouterr().err
