"""`bounds.rounding: ignored`: what it switches off, and that nobody takes its answers for more than they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.end_to_end import nets
from verifier import Options, Verdict, verify
from verifier.bounds.bound import Setting, Turn
from verifier.bounds.sweep import Method
from verifier.command.verify import main
from verifier.engine import methods
from verifier.errors import ProofError
from verifier.options import ROUNDING_IGNORED, AttackOptions, BoundOptions
from verifier.search.bounding import Bounded, bound_boxes
from verifier.search.domains import DomainBatch

IGNORED = Options(bounds=BoundOptions(rounding="ignored"))


def test_every_unsat_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the reason, on stderr even with --quiet, in the JSON result; of a list as well. By default nothing of it."""
    net, spec = nets.absolute(tmp_path / "n.onnx"), nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.5)")
    (tmp_path / "o.yaml").write_text("bounds: {rounding: ignored}\n")
    files = [str(net), str(spec), "--quiet", "--json", str(tmp_path / "r.json")]
    for more, told in (([], False), (["--options", str(tmp_path / "o.yaml")], True)):
        assert main([*files, *more]) == 0
        out, err = capsys.readouterr()
        result = json.loads((tmp_path / "r.json").read_text())
        assert out == "unsat\n" and (ROUNDING_IGNORED in err) == told
        assert (ROUNDING_IGNORED in result["reason"]) == told
        assert result["settings"]["bounds"]["rounding"] == ("ignored" if told else "rigorous")
    (tmp_path / "l.csv").write_text("n.onnx,s.vnnlib,20\nn.onnx,s.vnnlib,20\n")
    listed = ["--instances", str(tmp_path / "l.csv"), "--results", str(tmp_path / "r.csv")]
    assert main([*listed, "--options", str(tmp_path / "o.yaml")]) == 0
    assert ROUNDING_IGNORED in capsys.readouterr().err


def test_a_witness_is_a_witness(tmp_path: Path) -> None:
    net, spec = nets.absolute(tmp_path / "n.onnx"), nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 1.5)")
    result = verify(net, spec, IGNORED)
    assert result.verdict is Verdict.SAT and ROUNDING_IGNORED not in result.reason


def test_no_proof_is_written(tmp_path: Path) -> None:
    net, spec = nets.absolute(tmp_path / "n.onnx"), nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.5)")
    with pytest.raises(ProofError, match="bounds.rounding"):
        verify(net, spec, IGNORED, proof=tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("kind", [Method(rows=True), Method(kind="zonotope")])
def test_bounds_are_those_of_floating_point_alone(
    tmp_path: Path, kind: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's bound is above the rigorous one, by no more than rounding."""
    asked = []

    def record(
        setting: Setting, batch: DomainBatch, method: Method, stop: Callable[[], bool], rule: str, turn: Turn
    ) -> Bounded:
        both = (replace(kind, rigorous=r) for r in (True, False))
        asked.append([bound_boxes(setting, batch, one, stop, rule).low for one in both])
        return bound_boxes(setting, batch, method, stop, rule)

    monkeypatch.setattr(methods, "bound_boxes", record)
    net, spec = nets.absolute(tmp_path / "n.onnx"), nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.1)", box=(-1, 1.1))
    verify(net, spec, Options(dtype="float64", attack=AttackOptions(restarts=0)))
    low, other = asked[0]
    assert low.shape == other.shape == (1, 1) and other > low
    assert torch.allclose(low, other, rtol=0, atol=1e-5)
