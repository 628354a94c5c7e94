"""The results file of a list. Line: `category,onnx,vnnlib,prepare_seconds,result,run_seconds`, no header (the
results.csv of VNN-COMP).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from verifier.files.ledger import Ledger, Lines
from verifier.files.whole import AnyPath

_FIELDS = "category,onnx,vnnlib,prepare_seconds,result,run_seconds"


@dataclass(frozen=True)
class Instance:
    """An instance of a list: the names as they stand there."""

    category: str
    onnx: str
    vnnlib: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it (together with how often it stands there)."""
        return self.category, self.onnx, self.vnnlib


@dataclass(frozen=True)
class Finished(Instance):
    """One finished instance. `result` is a verdict word or `error`; `seconds` is the wall time of the instance."""

    result: str
    seconds: float
    prepare_seconds: float = 0.0


def open_results(path: AnyPath) -> Ledger[Finished]:
    """Open or begin a results file. Raises OutputError as `Ledger` does."""
    return Ledger(path, Lines(_encode, _decode, lambda torn: b"," in torn, blank=True))


def _encode(row: Finished) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        (*row.key, f"{row.prepare_seconds:.3f}", row.result, f"{row.seconds:.3f}")
    )
    return text.getvalue()


def _decode(line: str) -> Finished:
    try:
        category, onnx, vnnlib, prepare, result, seconds = next(csv.reader([line], strict=True), [])
        return Finished(category, onnx, vnnlib, result, float(seconds), float(prepare))
    except (ValueError, csv.Error):
        raise ValueError(f"found {line[:80]!r}, expected {_FIELDS}; is this another kind of file?") from None
