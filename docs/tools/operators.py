"""The operator tables of the documentation, made from the registries.

`python -m docs.tools.operators docs/reference/operators.md` rewrites them.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import verifier.ops
from verifier.graph.onnx_import import operators as onnx_operators
from verifier.graph.onnx_import.opaque import opaque
from verifier.graph.onnx_import.reader import OPSETS
from verifier.graph.onnx_import.registry import lookup
from verifier.ops.kinds import LinearOp, Op, RelaxedOp
from verifier.ops.registry import operators

BEGIN, END = "<!-- operators: begin (make operators) -->", "<!-- operators: end -->"


def tables() -> str:
    """Markdown: which ONNX operators are read, and which operators of the IR have bound rules, with their files."""
    for module in pkgutil.iter_modules(verifier.ops.__path__):
        import_module(f"verifier.ops.{module.name}")
    names = list(onnx_operators())
    run_only = [name for name in names if lookup(name, OPSETS[-1]) is opaque]
    lines = [
        f"Read from ONNX, opsets {OPSETS[0]} to {OPSETS[-1]}: {', '.join(x for x in names if x not in run_only)}.",
        "",
        f"Run but not bounded, unless constant (counterexamples can be found, nothing proven): {', '.join(run_only)}.",
        "",
        "| operator of the IR | kind | what it computes | file |",
        "| --- | --- | --- | --- |",
    ]
    for name, op in operators().items():
        file = Path(inspect.getfile(op)).name
        lines.append(f"| {name} | {_kind(op)} | {_first_sentence(op)} | `verifier/ops/{file}` |")
    return "\n".join(lines)


def splice(page: str, text: str) -> str:
    """`page` with everything between the markers replaced by `text`.

    Raises:
        ValueError: the markers are not there.
    """
    before, found, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"the markers {BEGIN!r} and {END!r} are not both there")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites the tables in the file named, or prints them."""
    names = sys.argv[1:] if argv is None else argv
    if not names:
        print(tables())
        return 0
    path = Path(names[0])
    path.write_text(splice(path.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    return 0


def _kind(op: type[Op]) -> str:
    return "linear" if issubclass(op, LinearOp) else "relaxed" if issubclass(op, RelaxedOp) else "other"


def _first_sentence(op: type[Op]) -> str:
    lines = (inspect.getdoc(op) or "").strip().splitlines()
    return (lines[0] if lines else "").split(". ")[0].rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
