"""Every small number of the product that a bound, a search or a verdict meets is in `verifier/tolerance.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import verifier

ROOT = Path(verifier.__file__).parent
SMALL = 1e-4

ELSEWHERE = {
    "checker": "shares no code with the search, on purpose",
    "graph": "numpy alone; the constants of exact sums are beside the lemmas (exact.py, enclose.py)",
    "passes/absorb_factors.py": "numpy alone; rounding of factors, as in graph/exact.py",
    "perturbation/polynomial.py": "numpy alone; how far from [0, 1] a given picture may be, not its map",
    "proof/hints.py": "hints only: the checker decides",
    "data": "pictures and geometry, before any bound",
    "training": "settings of the optimiser",
    "semantic/pose.py": "geometry in numpy: key points to poses",
    "semantic/properties.py": "geometry in numpy: what is asked, not what is answered",
    "command/witness_picture.py": "a picture",
    "problem/runtime.py": "whether a batch may be used at all; verdicts replay points one by one",
    "search/neurons.py": "a tie-break between scores of neurons",
}


def _small_numbers(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant | ast.BinOp):
            try:  # a literal, or a power of literals
                value = eval(ast.unparse(node), {"__builtins__": {}})
            except (NameError, AttributeError, TypeError, ArithmeticError, ValueError):  # no literal
                continue
            if isinstance(value, float) and 0 < abs(value) < SMALL:
                yield node.lineno, ast.unparse(node)


def _exempt(path: Path) -> bool:
    parts = path.relative_to(ROOT).as_posix()
    return any(parts == name or parts.startswith(f"{name}/") for name in ELSEWHERE)


def test_small_numbers_have_a_name_and_a_reason() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "tolerance.py" and not _exempt(path)
        for line, text in _small_numbers(path)
    ]
    assert not found, "move to verifier/tolerance.py, with the reason: " + ", ".join(found)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_exempt_still_has_some(name: str) -> None:
    path = ROOT / name
    assert any(True for file in ([path] if path.is_file() else path.rglob("*.py")) for _ in _small_numbers(file))


def test_the_scan_sees_literals_and_powers(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("a = 1e-9\nb = x.clamp(min=1e-300)\nc = 2.0**-52\nd = 0.5\ne = 2.0**-8\n")
    assert sorted(line for line, _ in _small_numbers(file)) == [1, 2, 3]
