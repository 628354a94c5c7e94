"""One result of a study: what the verifier said about one network on one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, get_args, get_type_hints

from pruning.study.ledger import json_lines
from verifier.errors import UnsoundError

VERDICTS = ("certified", "refuted", "open")
MOST_TRACED = 1000
AREA_SLACK = 1e-6  # areas are sums of up to 1e6 cells in float64; their total may miss 1 by far less than this


@dataclass(frozen=True)
class StudyRow:
    """One line of `results.jsonl`.

    name: the network's name in the study, unique there; network: sha256 of its file. arm: the treatment (usn,
    dense+ft, ..); criterion: what its channels were ranked by (empty for unpruned ones); ratio: share of channels
    asked for, None where it is not known; seed: of training; draw: repetition of a random choice.
    image: index in `data`; tau: tolerance as a share of the image side; rectangle: name or ranges of S; timeout: in
    seconds.
    verdict: `certified` (all of S proven), `refuted` (a violation was found), `open`.
    certified, refuted, open: shares of the area of S, together 1. sampled: share of a grid on S within
    tau, if computed.
    seconds: wall time; boxes: cells opened; unstable: neurons whose sign is not fixed, mean over 4x4 cells of S, and
    unstable_ratio: the same as a share of all non-linear neurons.
    clock: what seconds and timeout are counted by, see `spec.VerificationTask`.
    clean_error: mean keypoint error on the unchanged image, as a share of its side.
    trace: seconds and the share certified by then, both rising; empty in folders of older versions.
    parameters, macs, nonlinear: size of the network. versions, machine: what it ran on.
    """

    name: str
    network: str
    arm: str
    criterion: str
    ratio: float | None
    seed: int
    draw: int
    data: str
    image: int
    tau: float
    rectangle: str
    timeout: float
    verdict: str
    certified: float
    refuted: float
    open: float
    sampled: float | None
    seconds: float
    boxes: int
    unstable: float
    unstable_ratio: float
    clean_error: float
    parameters: int
    macs: int
    nonlinear: int
    versions: str
    machine: str
    clock: str = "wall"
    trace: tuple[tuple[float, float], ...] = ()

    def certified_by(self, limit: float) -> float | None:
        """Share of the rectangle that was certified after so many seconds; None where that is not known."""
        if limit >= self.timeout or limit >= self.seconds:
            return self.certified
        return max((share for seconds, share in self.trace if seconds <= limit), default=0.0) if self.trace else None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies a result within one results file."""
        return self.name, self.image

    @property
    def verified(self) -> bool:
        """Whether all of S is proven."""
        return self.verdict == "certified"


def encode(row: StudyRow) -> dict[str, Any]:
    """The row as a JSON object, fields in their order here."""
    return asdict(row)


def decode(value: Mapping[str, Any]) -> StudyRow:
    """A row from its JSON object; ValueError names the field that is missing, unknown or impossible."""
    names = [f.name for f in fields(StudyRow) if f.default is MISSING or f.name in value]
    missing, extra = [n for n in names if n not in value], [n for n in value if n not in names]
    if missing or extra:
        raise ValueError(f"fields missing: {missing}, unknown: {extra[:5]}")
    types = _types()
    row = StudyRow(**{name: _typed(name, value[name], types[name]) for name in names})
    check(row)
    return row


def check(row: StudyRow) -> None:
    """Raise ValueError for impossible numbers, UnsoundError for an answer that contradicts itself."""
    if row.verdict not in VERDICTS:
        raise ValueError(f"verdict {row.verdict!r}; expected one of {', '.join(VERDICTS)}")
    areas = (row.certified, row.refuted, row.open)
    if not all(-AREA_SLACK <= a <= 1 + AREA_SLACK for a in areas) or abs(sum(areas) - 1) > AREA_SLACK:
        raise ValueError(f"certified, refuted and open area are {areas}; expected shares of 1 that add up to 1")
    for name in ("seconds", "boxes", "unstable", "unstable_ratio", "clean_error", "parameters", "macs", "nonlinear"):
        if getattr(row, name) < 0:
            raise ValueError(f"{name} is negative: {getattr(row, name)}")
    for (a, b), (c, d) in pairwise(row.trace):
        if not (0 <= a <= c and -AREA_SLACK <= b <= d + AREA_SLACK):
            raise ValueError(f"trace falls from {(a, b)} to {(c, d)}; expected seconds and certified shares that rise")
    if row.trace and abs(row.trace[-1][1] - row.certified) > AREA_SLACK:
        raise ValueError(f"trace ends with a share of {row.trace[-1][1]}, certified are {row.certified}")
    where = f"network {row.name}, image {row.image}"
    if row.verified and (row.refuted > 0 or row.open > AREA_SLACK):
        raise UnsoundError(f"{where}: called certified with refuted area {row.refuted:g} and open area {row.open:g}")
    if row.verified and row.sampled is not None and row.sampled < 1:
        raise UnsoundError(f"{where}: called certified, but only {row.sampled:.4%} of the samples are within tau")


LINES = json_lines(encode, decode, lambda row: row.key)
"""The lines of `results.jsonl`."""


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(StudyRow)


def _typed(name: str, value: Any, expected: Any) -> Any:
    if name == "trace":
        pairs = [] if not isinstance(value, list | tuple) or len(value) > MOST_TRACED else value
        if pairs != value or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"trace is {value!r:.60}; expected at most {MOST_TRACED} pairs of seconds and share")
        return tuple((_typed("trace: seconds", a, float), _typed("trace: share", b, float)) for a, b in pairs)
    options = get_args(expected) if isinstance(expected, UnionType) else (expected,)
    if value is None and type(None) in options:
        return None
    if float in options and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a finite number")
        return float(value)
    if int in options and isinstance(value, int) and not isinstance(value, bool):
        return value
    if str in options and isinstance(value, str):
        return value
    raise ValueError(f"{name} is {value!r:.60}; expected {expected}")
