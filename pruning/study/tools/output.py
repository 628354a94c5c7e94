"""A comparison of result files as JSON and as a cactus plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruning.study.errors import StudyFileError
from pruning.study.tools.scoring import Comparison
from verifier.files.whole import Whole, write


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, with tools and categories by name."""
    return {
        "tools": list(comparison.tools),
        "categories": {
            name: {"limit_from": comparison.limits[name], "tools": [asdict(s) for s in standings]}
            for name, standings in comparison.categories.items()
        },
        "overall": [asdict(s) for s in comparison.overall],
        "contradictions": [
            {
                "category": c.key[0],
                "onnx": c.key[1],
                "vnnlib": c.key[2],
                "sat": c.sat,
                "unsat": c.unsat,
                "truth": None if c.truth.answer is None else c.truth.answer.value,
                "truth_from": c.truth.source,
            }
            for c in comparison.contradictions
        ],
        "notes": list(comparison.notes),
    }


def write_json(comparison: Comparison, path: Path) -> None:
    """Write `as_json` to a file."""
    write(path, json.dumps(as_json(comparison), indent=1, allow_nan=False) + "\n")


def write_cactus(comparison: Comparison, path: Path) -> None:
    """Draw the cactus plot as .svg, .pdf or .png."""
    from verifier.page import cactus, style  # Matplotlib

    kind = path.suffix.lower()
    if kind not in (".svg", ".pdf", ".png"):
        raise StudyFileError(f"{path}: cannot draw {kind or 'a file without ending'}; expected .svg, .pdf or .png")
    totals = {s.tool: s.instances for s in comparison.overall}
    with style.drawing("cactus"):
        figure = cactus.figure(comparison.times, totals, "instances", share=False)
        with Whole(path, "the picture") as stream:
            figure.savefig(stream, format=kind[1:], dpi=200)
