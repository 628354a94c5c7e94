"""The benchmark of error against ratio: rows are made once, refusals are rows, the table averages over networks."""

import json

import numpy as np
import onnx
import pytest
import torch

from benchmarks import pruning_errors as bench
from pruning import Perturbation
from verifier.training.export import to_onnx
from verifier.training.models import Architecture, build

BUDGET = bench.Budget(images=64, batch=16, calibration=16, samples=4, tested=16)
S = Perturbation.of(contrast=(0.9, 1.1), brightness=(-0.05, 0.05))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, arch, keep in (("plain_s0", "cnn7", False), ("norm_s0", "cnn7", True), ("residual_s0", "resnet8", False)):
        shape = Architecture(arch, width=4, size=64)
        onnx.save(to_onnx(build(shape).eval(), shape, keep_norm=keep), folder / f"{name}.onnx")
    return folder


def test_rows_are_made_once_and_a_cut_line_again(networks, tmp_path):
    out = tmp_path / "rows.jsonl"
    bench.measure([networks / "plain_s0.onnx"], [0.5], out, BUDGET, S, ["l2", "random"])
    rows = bench.read(out)
    assert [(r["arm"], r["ratio"]) for r in rows] == [("dense", 0.0), ("l2", 0.5), ("random", 0.5)]
    assert all(np.isfinite([r["error"], r["tuned"]]).all() for r in rows)
    assert rows[0]["error"] != rows[1]["error"]
    whole = out.read_text()
    out.write_text(whole[:-20])
    bench.measure([networks / "plain_s0.onnx"], [0.5], out, BUDGET, S, ["l2", "random"])
    again = bench.read(out)
    assert len(again) == 3
    assert [bench.key(r) for r in again] == [bench.key(r) for r in rows]
    assert again[-1]["error"] == pytest.approx(rows[-1]["error"], rel=1e-4)


def test_slim_wants_batch_normalisation_and_layer_residual_blocks(networks, tmp_path):
    out = tmp_path / "rows.jsonl"
    paths = [networks / f"{name}_s0.onnx" for name in ("plain", "norm", "residual")]
    bench.measure(paths, [0.75], out, BUDGET, S, ["slim", "layer"])
    found = {(r["network"], r["arm"]): r for r in bench.read(out)}
    assert "error" in found["norm_s0", "slim"] and "error" in found["residual_s0", "layer"]
    assert "BatchNormalization" in found["plain_s0", "slim"]["refused"]
    assert "residual" in found["plain_s0", "layer"]["refused"]
    table = bench.table(list(found.values()))
    assert "| slim | 1 |" in table and "| layer | 1 |" in table


def test_the_table_gives_mean_and_spread_over_networks():
    row = {"arm": "l2", "ratio": 0.5, "seed": 0}
    rows = [{**row, "network": f"n{i}", "error": e, "tuned": e / 2} for i, e in enumerate((1.0, 2.0, 3.0))]
    rows.append({**row, "network": "n0", "arm": "dense", "ratio": 0.0, "error": 0.5, "tuned": 0.25})
    lines = bench.table(json.loads(json.dumps(rows))).splitlines()
    assert lines[2] == "| dense | 1 | 0.50 | 0.25 |"
    assert lines[3] == "| l2 | 3 | 2.00 ± 1.00 | 1.00 ± 0.50 |"


def test_draws_of_random_are_networks_of_their_own(networks, tmp_path):
    out = tmp_path / "rows.jsonl"
    bench.measure([networks / "plain_s0.onnx"], [0.5], out, BUDGET, S, ["random", "l2"], draws=2)
    rows = [r for r in bench.read(out) if r["arm"] != "dense"]
    assert [(r["arm"], r["draw"]) for r in rows] == [("random", 0), ("random", 1), ("l2", 0)]
    assert rows[0]["error"] != rows[1]["error"]
