"""The benchmarks that hold pruned networks against masked ones and against `verify` must notice what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pruning_nets import conv_net, mlp, mlp_weights

import pruning
from benchmarks import pruning_alike, pruning_verdicts
from pruning import onnx_io
from tests.end_to_end import nets


def test_a_pruned_network_equals_its_masked_twin():
    row = pruning_alike.compare(onnx_io.to_bytes(conv_net(bn=True)), 0.3)
    assert row["removed"] > 0 and 0 <= row["float32"] <= 1e-5 and pruning_alike.holds(row)


@pytest.mark.parametrize("change", [lambda w: w * 1.01, lambda w: w * np.nan])
def test_a_wrong_surgery_is_noticed(monkeypatch, change):
    apply = pruning.apply

    def spoiled(*args, **kwargs):
        made = apply(*args, **kwargs)
        return replace(made, net=made.net.changed(weights={"k0": change(made.net.weights["k0"])}))

    monkeypatch.setattr(pruning, "apply", spoiled)
    assert not pruning_alike.holds(pruning_alike.compare(onnx_io.to_bytes(conv_net()), 0.3))


def test_a_difference_counts_as_rounding_only_within_the_networks_own_errors():
    row = {"float32": 3e-5, "float64": 1e-12, "own float32 errors": [2e-5, 2e-5]}
    assert pruning_alike.holds(row) and pruning_alike.holds({"why not": "no hidden channels"})
    assert not pruning_alike.holds(row | {"float64": 1e-9})
    assert not pruning_alike.holds(row | {"own float32 errors": [1e-6, 1e-6]})
    assert not pruning_alike.holds({**row, "float32": float("nan")})


def test_networks_that_cannot_be_pruned_say_why(tmp_path, capsys):
    folder = tmp_path / "bench" / "onnx"
    folder.mkdir(parents=True)
    (folder / "a.onnx").write_bytes(onnx_io.to_bytes(conv_net()))
    (folder / "b.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    rows = pruning_alike.run(tmp_path, 0.3, 1 << 20, 9)
    assert [sorted(row.keys() & {"float32", "why not"}) for row in rows] == [["float32"], ["why not"]]
    assert "left out" in pruning_alike.run(tmp_path, 0.3, 100, 1)[0]
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("row", "is_wrong"),
    [
        ({"verdict": "sat", "replay": "holds"}, False),
        ({"verdict": "sat", "replay": "assertion 3 does not hold"}, True),
        ({"verdict": "unsat", "nearest": 0.25}, False),
        ({"verdict": "unsat", "nearest": 0.0}, True),
        ({"verdict": "unsat", "nearest": float("nan")}, True),
        ({"verdict": "timeout"}, False),
    ],
)
def test_what_counts_as_a_wrong_verdict(row, is_wrong):
    assert pruning_verdicts.wrong(row) == is_wrong
    assert pruning_verdicts.table([row | {"benchmark": "b"}]).endswith(f"| {int(is_wrong)} |")


@pytest.mark.parametrize(("threshold", "verdict"), [(50.0, "unsat"), (-50.0, "sat")])
def test_a_pruned_network_is_verified_and_the_answer_checked(tmp_path, threshold, verdict):
    """A network whose outputs stay far below 50 on [-1, 1]; instances already in the file are kept."""
    bench = tmp_path / "data" / "b"
    bench.mkdir(parents=True)
    onnx_io.save(mlp(mlp_weights(sizes=(2, 12, 10, 1))), bench / "n.onnx")
    nets.spec(bench / "s.vnnlib", f"(>= Y_0 {threshold})")
    (tmp_path / "data" / "instances.csv").write_text("benchmark,onnx,vnnlib,expected\nb,n.onnx,s.vnnlib,?\n")
    out = tmp_path / "rows.jsonl"
    (row,) = pruning_verdicts.run(tmp_path / "data", ["b"], 3, 0.3, 20, out)
    assert row["verdict"] == verdict and row["removed"] > 0 and not pruning_verdicts.wrong(row)
    assert ("replay" in row) == (verdict == "sat") and ("nearest" in row) == (verdict == "unsat")
    assert pruning_verdicts.run(tmp_path / "data", ["b"], 3, 0.3, 20, out) == [row]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [row]
