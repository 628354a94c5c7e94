"""Parts whose neurons are all decided: a linear program gives the multipliers that the checker needs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from scipy.optimize import linprog

from tests.models import build
from verifier import Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.network import CheckedNetwork, read_network
from verifier.checker.prove import Claim, Part, Prover
from verifier.checker.query import read_queries
from verifier.options import Options
from verifier.proof.hints import suggest

WIDTH = 5


def network_of(seed: int, path: Path, inputs: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {"w": rng.normal(size=(inputs, WIDTH)), "b": rng.normal(size=WIDTH) / 4,
               "v": rng.normal(size=(WIDTH, 2)), "c": rng.normal(size=2)}  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]
    path.write_bytes(build(nodes, {"x": (1, inputs)}, ["y"], weights, dtype=np.float64))
    return weights


def least_worst(weights: dict[str, np.ndarray], signs: tuple[int, ...]) -> float:
    """min max(y_0, y_1) over the part of the box [-1, 1]^n with these signs, by a linear program; inf where it is
    empty."""
    w, b, side = weights["w"], weights["b"], np.array(signs)
    active = side > 0
    row, shift = (w * active) @ weights["v"], (b * active) @ weights["v"] + weights["c"]
    a = np.r_[np.c_[row.T, -np.ones(2)], np.c_[-(w * side).T, np.zeros(WIDTH)]]
    box: list[tuple[float | None, float | None]] = [(-1, 1)] * len(w)
    found = linprog(np.r_[np.zeros(len(w)), 1.0], a, np.r_[-shift, b * side], bounds=[*box, (None, None)])
    return float(found.fun) if found.status == 0 else np.inf


def spec_of(limit: float, inputs: int) -> str:
    lines = [f"(declare-const X_{i} Real)\n(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(inputs)]
    lines += ["(declare-const Y_0 Real)", "(declare-const Y_1 Real)"]
    return "\n".join([*lines, f"(assert (<= Y_0 {limit!r}))", f"(assert (<= Y_1 {limit!r}))"])


def claims_of(network: CheckedNetwork) -> list[Claim]:
    v = network.tensors["r"]
    parts = [Part(0, signs=tuple((v, k, s) for k, s in enumerate(signs))) for signs in product((-1, 1), repeat=WIDTH)]
    return [Claim(part, (), intervals=fmt.ROOT) for part in parts]


@pytest.mark.parametrize("seed", range(6))
def test_decided_parts_are_proven_exactly_where_they_hold(tmp_path: Path, seed: int) -> None:
    """The smallest max(y_0, y_1) of every part is known: just below it the part is proven, just above it never."""
    model, spec = tmp_path / "m.onnx", tmp_path / "s.vnnlib"
    weights = network_of(seed, model, 3)
    network = read_network(model)
    exact = [least_worst(weights, signs) for signs in product((-1, 1), repeat=WIDTH)]
    limits = sorted(e for e in exact if np.isfinite(e))
    used = 0
    for limit in (limits[0] - 1e-4, limits[len(limits) // 2] + 1e-4):
        spec.write_text(spec_of(limit, 3))
        prover = Prover(network, read_queries(spec, network))
        claims = claims_of(network)
        hints = suggest(prover, claims, lambda: False)
        for hint, least in zip(hints, exact, strict=True):
            assert hint.holds == (least > limit), (least, limit)
            used += any(hint.claim.beta)
        margins = prover.prove([h.claim for h in hints])
        assert all(m.least > 0 for m, h in zip(margins, hints, strict=True) if h.holds)
    assert used, "no multiplier was needed"


def test_a_search_of_neurons_ends_at_the_last_one(tmp_path: Path) -> None:
    """A property that holds by 1e-5 needs no split of an input: with all neurons decided it is a linear program."""
    model, spec, proof = (tmp_path / name for name in ("m.onnx", "s.vnnlib", "p"))
    weights = network_of(2, model, 30)
    limit = min(least_worst(weights, signs) for signs in product((-1, 1), repeat=WIDTH)) - 1e-5
    spec.write_text(spec_of(limit, 30))
    options = Options.from_mapping({"attack": {"restarts": 0}})
    result = verify(model, spec, options, timeout=300, proof=proof)
    assert result.verdict is Verdict.UNSAT, result
    assert check(proof, model, spec).verdict == "unsat"
    with proof.open("rb") as stream:
        events = list(fmt.Reader(stream, "p").events())
    assert any(isinstance(e, fmt.Leaf) and any(e.beta) for e in events)
    assert not any(isinstance(e, fmt.InputSplit) for e in events)
