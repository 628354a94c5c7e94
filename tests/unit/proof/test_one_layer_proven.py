"""Networks of one hidden layer: proofs that narrow their parts, against fractions, points and the exact minimum."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier import Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_network
from verifier.checker.prove import Claim, Part, Prover, _risen
from verifier.checker.query import read_queries
from verifier.options import Options
from verifier.proof.encode import encode, encode_header, packed

INPUTS, WIDTH = 22, 28


def files(folder: Path, seed: int, limits: tuple[float, ...]) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """y = V relu(W x + b) of one layer, and a violation  y_0 <= l_0 and y_1 <= l_1 ..  on [-1, 1]^n."""
    rng = np.random.default_rng(seed)
    outputs = len(limits)
    weights = {"w": rng.normal(size=(INPUTS, WIDTH)) / np.sqrt(INPUTS), "b": rng.normal(size=WIDTH) / 4,
               "v": rng.normal(size=(WIDTH, outputs)) / 3, "c": rng.normal(size=outputs)}  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]
    model, spec = folder / "m.onnx", folder / "s.vnnlib"
    model.write_bytes(build(nodes, {"x": (1, INPUTS)}, ["y"], weights, dtype=np.float64))
    lines = [f"(declare-const X_{i} Real)\n(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(INPUTS)]
    lines += [f"(declare-const Y_{k} Real)" for k in range(outputs)]
    spec.write_text("\n".join([*lines, *(f"(assert (<= Y_{k} {v!r}))" for k, v in enumerate(limits))]))
    return model, spec, weights


def descended(weights: dict[str, np.ndarray], count: int, rate: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Points that descent of the sum of the outputs finds, and these sums."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (count, INPUTS))
    for _ in range(60):
        on = (x @ weights["w"] + weights["b"] > 0) * weights["v"].sum(1)
        x = np.clip(x - rate * np.sign(on @ weights["w"].T) * rng.random(x.shape), -1, 1)
    return x, (np.maximum(x @ weights["w"] + weights["b"], 0) @ weights["v"] + weights["c"]).sum(1)


def least(weights: dict[str, np.ndarray]) -> float:
    """The smallest sum of the outputs that descent finds."""
    return float(descended(weights, 3000)[1].min())


def proven(folder: Path, seed: int, slack: float) -> tuple[Path, Path, Path]:
    _, _, weights = files(folder, seed, (0.0,))
    model, spec, _ = files(folder, seed, (least(weights) - slack,))
    proof = folder / "p.proof"
    result = verify(model, spec, Options.from_mapping({"attack": {"restarts": 0}}), timeout=60, proof=proof)
    assert result.verdict is Verdict.UNSAT, result
    return proof, model, spec


def events_of(proof: Path) -> tuple[fmt.Header, list[fmt.Event]]:
    reader = fmt.Reader(io.BytesIO(proof.read_bytes()), "p")
    return reader.header, list(reader.events())


@pytest.mark.parametrize("seed", range(1, 4))
def test_their_proofs_narrow_and_are_accepted(tmp_path: Path, seed: int) -> None:
    made = proven(tmp_path, seed, 0.2)
    header, events = events_of(made[0])
    found = check(*made)
    assert found.verdict == "unsat"
    assert any(isinstance(e, fmt.Leaf) and e.kind == "narrow" for e in events)
    lines = [encode_header(header), *map(encode, events)]
    assert b"".join(lines) == gzip.decompress(made[0].read_bytes()[len(fmt.MAGIC) :])
    assert made[0].stat().st_size < 300 + 200 * found.leaves
    # of a violation that exists it is no proof, whatever its multipliers
    _, spec, weights = files(tmp_path, seed, (0.0,))
    model, spec, _ = files(tmp_path, seed, (least(weights) + 1e-6,))
    digest = read_queries(spec, read_network(model)).digest
    made[0].write_bytes(packed([encode_header(replace(header, spec=digest)), *lines[1:]]))
    with pytest.raises(Rejected, match="is not positive"):
        check(made[0], model, spec)


def test_several_rows_share_their_weights(tmp_path: Path) -> None:
    """A clause of two rows that each hold somewhere, and never together."""
    _, _, weights = files(tmp_path, 5, (0.0, 0.0))
    alone = [least({**weights, "v": weights["v"][:, [k]], "c": weights["c"][[k]]}) for k in range(2)]
    room = least(weights) - 0.3 - sum(alone)
    assert room > 0
    limits = alone[0] + room / 2, alone[1] + room / 2
    model, spec, _ = files(tmp_path, 5, limits)
    result = verify(model, spec, timeout=60, proof=tmp_path / "p")
    assert result.verdict is Verdict.UNSAT
    assert check(tmp_path / "p", model, spec).verdict == "unsat"


@pytest.mark.parametrize("seed", range(40))
def test_what_a_row_leaves_is_below_every_point_it_allows(seed: int) -> None:
    """In fractions: at points where  sum |row_j| d_j <= most  no function lies below its least value and the rise."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    scale = 10.0 ** rng.integers(-9, 9, n)
    low, width = rng.normal(size=n) * scale, np.abs(rng.normal(size=n)) * scale * (rng.random(n) < 0.9)
    row = rng.normal(size=n) * (rng.random(n) < 0.8) / scale
    rows = rng.normal(size=(7, n)) * (rng.random((7, n)) < 0.8) * 10.0 ** rng.integers(-3, 3, (7, n)) / scale
    most = float(np.abs(row) @ width * rng.random())
    risen = _risen(rows, row, width, most, np.zeros(7))
    assert (risen >= -1e-9 * np.abs(rows) @ width - 1e-300).all()
    exact = [[Fraction(float(v)) for v in r] for r in (row, low, width)]
    for k in range(7):
        own = [Fraction(float(v)) for v in rows[k]]
        bottom = sum((min(a * x, a * (x + w)) for a, x, w in zip(own, *exact[1:], strict=True)), Fraction(0))
        # the worst point: inputs are moved to the function's end, those first that cost the least of the row
        order = sorted(range(n), key=lambda j: abs(float(own[j])) / max(abs(float(exact[0][j])), 1e-300), reverse=True)
        left, value = Fraction(most), Fraction(0)
        for j in order:
            r, x, w = (e[j] for e in exact)
            start, end = (x, x + w) if r > 0 else (x + w, x)
            if r == 0:
                value += min(own[j] * x, own[j] * (x + w))
                continue
            move = Fraction(0)
            if own[j] * r < 0:
                move = min(w, left / abs(r))
                left -= move * abs(r)
            value += own[j] * (start + (move if end > start else -move))
        assert value - bottom >= Fraction(float(risen[k]))
        if seed % 2:  # and not far below
            assert (
                float(value - bottom) <= float(risen[k]) * (1 + 1e-9) + 1e-9 * float(np.abs(rows[k]) @ width) + 1e-290
            )


def test_points_of_a_violation_stay_in_what_is_left(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    _, _, weights = files(tmp_path, 2, (0.0,))
    model, spec, _ = files(tmp_path, 2, (least(weights) + 0.05,))
    network = read_network(model)
    prover = Prover(network, read_queries(spec, network))
    v = network.tensors["r"]
    x, y = descended(weights, 4000, 0.1)
    z, bad = x @ weights["w"] + weights["b"], y <= least(weights) + 0.05
    assert bad.sum() > 20
    part = Part(0, 0, signs=((v, 3, 1),))
    cut = 0
    for _ in range(3):
        slopes = {v: np.where(z[y.argmin()] > 0, 255 - rng.integers(9), 0).astype(np.uint8)}
        beta = (float(np.float32(rng.random() * 0.01)),) if part.signs else ()
        where = prover.prove([Claim(part, ((0, ((0, 1.0),)),), beta, slopes, fmt.ROOT, kind="narrow")])[0].part
        assert where is not None
        mine, box = bad & (z[:, 3] >= 0), prover.box(where)
        assert (x[mine] >= box[0]).all() and (x[mine] <= box[1]).all()
        neuron, side, least_ = where.ends[v]
        assert (side * z[mine][:, neuron] - least_ >= -1e-12).all()
        known = prover.root(0).low[network.argument(v)][0, neuron]
        cut += int(((side > 0) & (least_ > known + 0.01)).sum())
        part = where
    assert cut >= 3


def test_what_may_not_be_narrowed_is_refused(tmp_path: Path) -> None:
    made = proven(tmp_path, 1, 0.5)
    header, events = events_of(made[0])
    first = next(e for e in events if isinstance(e, fmt.Leaf) and e.kind == "narrow")
    for wrong, message in (
        (replace(first, rows=((0, ((0, 1.0), (0, 1.0))),)), "each once"),
        (replace(first, rows=((1, ((0, 1.0),)),)), "of clause 1 with 0 rows"),
        (replace(first, node=77), "not open"),
    ):
        changed = [wrong if e is first else e for e in events]
        made[0].write_bytes(packed([encode_header(header), *map(encode, changed)]))
        with pytest.raises(Rejected, match=message):
            check(*made)
    made[0].write_bytes(packed([encode_header(header), b'["narrow",0,"whole",[],[],[]]\n']))
    with pytest.raises(Unreadable, match="found intervals 'whole'"):
        check(*made)
