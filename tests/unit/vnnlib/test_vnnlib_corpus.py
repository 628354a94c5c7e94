"""Every file of the corpus gives what is written beside it; the fast and the general path agree on all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vnnlib
from vnnlib import reading

CORPUS = Path(__file__).parents[2] / "corpus" / "vnnlib"
VALID = sorted((CORPUS / "valid").glob("*.vnnlib"))
INVALID = dict(
    line.split(" ", 1) for line in (CORPUS / "invalid" / "expected.txt").read_text().splitlines() if line[0] != "#"
)


def general(data: bytes | str, strict: bool = True) -> vnnlib.Spec:
    raw = data.encode() if isinstance(data, str) else data
    return reading._parse(bytearray(raw), "<string>", strict, vnnlib.Limits(), general=True)


def test_corpus_is_complete() -> None:
    assert len(VALID) > 40
    assert {p.stem for p in (CORPUS / "invalid").glob("*.vnnlib")} == set(INVALID)


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_valid(path: Path) -> None:
    expected = dict(item.split("=") for item in path.read_text().rpartition("; expect: ")[2].split())
    spec = vnnlib.load(path, strict=True)
    assert (spec.size("input"), spec.size("output")) == (int(expected["inputs"]), int(expected["outputs"]))
    if "refuse" in expected:
        with pytest.raises(vnnlib.VnnLibUnsupported, match=expected["refuse"]) as caught:
            vnnlib.normalise(spec)
        assert caught.value.line > 0
        return
    form = vnnlib.normalise(spec)
    assert (form.n_clauses, form.n_cases) == (int(expected["clauses"]), int(expected["cases"]))
    assert form.n_rows == int(expected.get("rows", form.n_rows))
    assert form.logic == expected.get("logic", form.logic)
    assert form.unbounded == tuple(map(int, filter(None, expected.get("unbounded", "").split(","))))
    strict = any(a is not None and a.any() for a in (form.strict_lower, form.strict_upper, form.row_strict))
    assert strict == ("strict" in expected)
    assert form.same_as(vnnlib.normalise(general(path.read_bytes())))


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_valid_survives_the_writer(path: Path) -> None:
    spec = vnnlib.load(path)
    text = vnnlib.dumps(spec, compatible=False)
    again = vnnlib.loads(text, strict=True)
    assert again.networks == spec.networks or [n.name for n in again.networks] == [n.name for n in spec.networks]
    if "refuse" not in path.read_text():
        assert vnnlib.normalise(again).same_as(vnnlib.normalise(spec), sources=False, logic=False)


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    path = CORPUS / "invalid" / f"{name}.vnnlib"
    with pytest.raises(vnnlib.VnnLibError) as caught:
        vnnlib.load(path, strict=True)
    error = caught.value
    errors = error.errors if isinstance(error, vnnlib.VnnLibSemanticError) else (error,)
    found = " ".join(f"{e.line}:{e.column}" for e in errors)
    assert found + " unsupported" * isinstance(error, vnnlib.VnnLibUnsupported) == INVALID[name]
    assert str(error).startswith(f"{path}:{error.line}:{error.column}: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    "name", ["v2_exponent", "v2_infix", "v2_no_version", "v2_leading_point", "v2_trailing_point", "v2_plus"]
)
def test_lenient_reading_repairs_with_a_warning(name: str) -> None:
    text = (CORPUS / "invalid" / f"{name}.vnnlib").read_text()
    spec = vnnlib.loads(text)
    assert any("<string>" in w for w in spec.warnings)
    assert vnnlib.normalise(spec).n_cases == 1


def test_lenient_repair_of_a_converter_defect() -> None:
    head = "(vnnlib-version 2.0)(declare-network f (declare-input X real [1]) (declare-output Y real [1]))"
    form = vnnlib.normalise(vnnlib.loads(head + "(assert (<= X[0] 9.3E-10.0))(assert (>= X[0] -1.0E+1.0))"))
    assert np.array_equal(form.upper, [[9.3e-10]]) and np.array_equal(form.lower, [[-10.0]])
    for broken in ("9.3E-10.5", "9E-10.0", "9.3E10.0"):
        with pytest.raises(vnnlib.VnnLibSyntaxError):
            vnnlib.loads(head + f"(assert (<= X[0] {broken}))")
