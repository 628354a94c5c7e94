"""`verify --coverage`: the search of `secateur coverage` behind the other command."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import vnnlib
from tests.unit.semantic.coverage_cases import image_problem
from verifier.budget import Budget
from verifier.checker import cli as checker
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected
from verifier.checker.network import read_network
from verifier.checker.query import read_queries
from verifier.command import verify as cli
from verifier.graph.onnx_import import load_model
from verifier.proof.encode import encode, encode_header, packed
from verifier.semantic import coverage
from verifier.semantic.coverage_search import CERTIFIED, REFUTED, CoverageLimits, audit, cover
from verifier.semantic.family import from_files


def image(tmp_path, tolerance):
    problem = image_problem(tolerance, seed=3)
    (tmp_path / "a.onnx").write_bytes(problem.model().SerializeToString())
    (tmp_path / "a.vnnlib").write_text(problem.spec())
    return str(tmp_path / "a.onnx"), str(tmp_path / "a.vnnlib")


@pytest.fixture
def pair(tmp_path):
    return image(tmp_path, 0.12)


def affine(tmp_path, inputs, fixed=0.1):
    """y = relu(sum of all inputs) + 0; four inputs, of which the first `inputs` vary in [0, 1]; violated: y <= 1."""
    tensors = [numpy_helper.from_array(np.ones((4, 1), np.float32), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "sum", [info("x", TensorProto.FLOAT, [1, 4])], [info("y", TensorProto.FLOAT, [1, 1])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    lines = [f"(declare-const X_{i} Real)" for i in range(4)] + ["(declare-const Y_0 Real)"]
    for i in range(4):
        low, high = (0, 1) if i < inputs else (fixed, fixed)
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    (tmp_path / "s.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "s.vnnlib").write_text("\n".join([*lines, "(assert (<= Y_0 1.0))"]))
    return str(tmp_path / "s.onnx"), str(tmp_path / "s.vnnlib")


def shares(path):
    member = json.loads(path.read_text())["members"][0]
    return [member["exact"][name] for name in ("certified", "refuted", "open")]


def test_it_writes_what_secateur_coverage_writes(pair, tmp_path, capsys):
    assert cli.main([*pair, "--coverage", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert coverage.main([*pair, f"--json={tmp_path / 'o.json'}", f"--npz={tmp_path / 'o.npz'}"]) == 0
    assert text.split(" (")[0] == capsys.readouterr().out.split(" (")[0]
    assert shares(tmp_path / "out" / "coverage.json") == shares(tmp_path / "o.json")
    with np.load(tmp_path / "out" / "coverage.npz") as a, np.load(tmp_path / "o.npz") as b:
        assert all((a[name] == b[name]).all() for name in ("query", "level", "index", "status", "fingerprint"))
    assert (tmp_path / "out" / "coverage.png").stat().st_size > 5000


@pytest.mark.parametrize("inputs", [1, 2])
def test_the_proof_of_a_map_covers_what_is_certified_and_no_more(inputs, tmp_path, capsys):
    model, spec = affine(tmp_path, inputs)
    proof = tmp_path / "map.proof"
    assert cli.main([model, spec, "--coverage", "--proof", str(proof)]) == 0
    text = capsys.readouterr().out
    claimed = float(text.split("certified ")[1].split(",")[0])
    assert f"proof: covers {claimed:.6f}" in text
    found = check(proof, model, spec)
    exact = 1 - (1 - 0.1 * (4 - inputs)) ** inputs / inputs  # where no violation lies
    assert found.verdict == "map" and exact - 0.02 <= found.shares[0] <= exact + 1e-6
    assert checker.main([str(proof), model, spec]) == 0
    assert capsys.readouterr().out.startswith("accepted map\nbox 0: certified 0.")
    # the same leaves for a network with another bias, or one of them left out
    reader = fmt.Reader(io.BytesIO(proof.read_bytes()), "p")
    events = list(reader.events())
    leaves = [k for k, e in enumerate(events) if isinstance(e, fmt.Leaf)]
    end = events[-1]
    assert isinstance(end, fmt.End)
    left_out = [*events[: leaves[0]], *events[leaves[0] + 1 : -1], fmt.End(end.splits, end.leaves - 1)]
    proof.write_bytes(packed([encode_header(reader.header), *map(encode, left_out)]))
    assert check(proof, model, spec).shares[0] < found.shares[0]
    (tmp_path / "t.vnnlib").write_text((tmp_path / "s.vnnlib").read_text().replace("(<= Y_0 1.0)", "(<= Y_0 1.4)"))
    digest = read_queries(tmp_path / "t.vnnlib", read_network(model)).digest
    proof.write_bytes(packed([encode_header(replace(reader.header, spec=digest)), *map(encode, events)]))
    with pytest.raises(Rejected, match="is not positive"):
        check(proof, model, tmp_path / "t.vnnlib")


def test_the_proof_of_a_semantic_map_is_accepted(tmp_path, capsys):
    pair = image(tmp_path, 0.3)  # 94 % are certified, and neither all nor nothing
    proof = tmp_path / "map.proof"
    assert cli.main([*pair, "--coverage", "--proof", str(proof)]) == 0
    covered = float(capsys.readouterr().out.split("proof: covers ")[1])
    assert covered > 0.1 and abs(float(check(proof, *pair).shares[0]) - covered) < 1e-6


def test_one_file_or_none(pair, tmp_path, capsys):
    assert cli.main([*pair, "--coverage"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("box 0: certified 0.") and out.out.count("\n") == 1 and not out.err
    assert cli.main([*pair, "--coverage", str(tmp_path / "map.png"), "--timeout", "0.001"]) == 0
    assert "open 1.000000" in capsys.readouterr().out
    assert (tmp_path / "map.png").exists() and not (tmp_path / "coverage.json").exists()


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_fixed_inputs_that_float32_moves_do_not_count(inputs, tmp_path):
    """The exact share of  sum <= 1  on the unit cube: a corner simplex of side 1 - 0.1 (4 - d)."""
    model, spec = affine(tmp_path, inputs)
    family = from_files(load_model(model), vnnlib.normalise(vnnlib.load(spec)), torch.device("cpu"))
    assert family.inputs == inputs and family.slack is not None
    state = cover(family, CoverageLimits(0.02), Budget.of(60))
    side = 1 - 0.1 * (4 - inputs)
    exact = side**inputs / {1: 1, 2: 2, 3: 6}[inputs]
    assert exact - 0.02 <= state.shares(REFUTED)[0] <= exact + 1e-9
    assert 1 - exact - 0.02 <= state.shares(CERTIFIED)[0] <= 1 - exact + 1e-9
    audit(family, state, 2000)
    assert family.judges[0](np.full((1, inputs), 0.01)) is not None
    assert family.judges[0](np.full((1, inputs), 1.0)) is None


def test_the_slack_of_fixed_inputs_is_part_of_the_proof(tmp_path):
    """A file whose fixed inputs are only almost fixed: both ends must be covered, not the middle."""
    model, spec = affine(tmp_path, 1)
    family = from_files(load_model(model), vnnlib.normalise(vnnlib.load(spec)), torch.device("cpu"))
    assert family.slack is not None
    wide = torch.full_like(family.slack, 0.1) * (family.slack > 0)
    state = cover(type(family)(**{**vars(family), "slack": wide}), CoverageLimits(0.0, depth=12), Budget.of(20))
    # sum = x + 0.3 + [-0.3, 0.3]: violated for all of them below x = 0.4, for none above x = 1.0
    assert abs(state.shares(REFUTED)[0] - 0.4) < 2e-3
    assert state.shares(CERTIFIED)[0] == 0


def test_one_input_and_three_have_no_map(tmp_path, capsys):
    pair = affine(tmp_path, 3)
    assert cli.main([*pair, "--coverage", str(tmp_path), "-q"]) == 0
    assert (tmp_path / "coverage.json").exists() and not (tmp_path / "coverage.png").exists()
    capsys.readouterr()
    assert cli.main([*pair, "--coverage", str(tmp_path / "m.png")]) == 2
    assert "needs two varying inputs, found 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coverage", "x.bmp"], "'.bmp', expected a folder"),
        (["--coverage", "no/such/folder/x.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(pair, arguments, message, capsys):
    assert cli.main([*pair, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_too_many_inputs_are_refused(tmp_path, capsys):
    assert cli.main([*affine(tmp_path, 4), "--coverage"]) == 2
    error = capsys.readouterr().err
    assert "4 inputs vary, coverage is made for at most 3" in error and error.count("\n") == 1


def test_files_of_a_verdict_are_refused(pair, capsys):
    for more in (["--json", "x.json"], ["--results", "x.txt"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*pair, "--coverage", *more])
        assert stop.value.code == 2 and "belong to a verdict" in capsys.readouterr().err
