"""While bounds are computed float32 means float32, and afterwards what was set before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import verifier
import vnnlib
from tests import models
from verifier.bounds import single
from verifier.engine import one_search
from verifier.graph.onnx_import import load_model
from verifier.options import Options


def words() -> list[object]:
    return [getattr(holder, name) for holder, name, _ in single._switches()]


@pytest.fixture
def quick() -> Iterator[list[object]]:
    """A program that asks for quick products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield words()
    torch.set_float32_matmul_precision(before)


def test_what_a_program_asks_for_is_set_aside_and_comes_back(quick: list[object]) -> None:
    wanted = [value for *_, value in single._switches()]
    assert quick != wanted
    with pytest.raises(KeyError), single.full_precision():
        assert words() == wanted
        raise KeyError
    assert words() == quick
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_search_computes_so(quick: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[object]] = []
    real = one_search.prepare

    def prepare(*args: Any) -> object:
        seen.append(words())
        return real(*args)

    monkeypatch.setattr(one_search, "prepare", prepare)
    network = load_model(models.mlp((2, 3, 1), np.random.default_rng(0)))
    spec = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(assert (>= Y_0 100))" + "".join(
        f"(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(2)
    )
    assert verifier.verify(network, vnnlib.loads(spec), Options(timeout=20)).verdict.value == "unsat"
    assert seen == [[value for *_, value in single._switches()]]
    assert words() == quick
