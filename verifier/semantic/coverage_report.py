"""What a coverage run found, per member: exact areas, cells, counterexamples, the certified rectangle; its files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from verifier.brief import brief
from verifier.console.arguments import version
from verifier.errors import ProblemError
from verifier.files.whole import Whole, write
from verifier.semantic import grid, rectangle
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, State
from verifier.semantic.family import Family
from verifier.semantic.grid import Cells
from verifier.tolerance import NARROWEST

FORMAT = "secateur-coverage-1"
MAX_FILE = 1 << 31
MAP_SIDE = 41
"""Points per side of the grid on which the property's margin is evaluated for the picture."""

EXAMPLES = 3
"""Counterexamples per member that are confirmed by ONNX Runtime and reported."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """One member. `certified` + `refuted` + `open` = 1 exactly, shares of the box `lower`, `upper` (d,).

    `cells`, `status`: the tiling. `examples` (E, d): parameters of counterexamples confirmed on the member's own file.
    `rectangle` (d, 2): the largest certified rectangle around the identity, its exact share `rectangle_share` (2 inputs
    only). `margin` (side, side): the property's margin on a grid of the plane, [first, second parameter], <= 0 where
    violated; `measure` is what minus that margin is, or `tolerance` minus it where there is one. `claim`: what is
    asked, in words, where it is known.
    """

    __repr__ = brief

    title: str
    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    identity: np.ndarray | None
    certified: Fraction
    refuted: Fraction
    open: Fraction
    cells: Cells
    status: np.ndarray
    seconds: float
    boxes: int
    examples: np.ndarray
    rectangle: np.ndarray | None
    rectangle_share: Fraction
    margin: np.ndarray | None
    tolerance: float | None = None
    measure: str = "amount of violation"
    claim: str = ""

    def __post_init__(self) -> None:
        assert self.certified + self.refuted + self.open == 1, (self.certified, self.refuted, self.open)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON: every area as a float and as an exact fraction."""
        areas = {"certified": self.certified, "refuted": self.refuted, "open": self.open}
        found: dict[str, object] = {
            "title": self.title,
            "claim": self.claim,
            "parameters": [
                {"name": n, "low": float(a), "high": float(b)}
                for n, a, b in zip(self.names, self.lower, self.upper, strict=True)
            ],
            **{name: float(value) for name, value in areas.items()},
            "exact": {name: str(value) for name, value in areas.items()},
            "cells": {
                "certified": int((self.status == CERTIFIED).sum()),
                "refuted": int((self.status == REFUTED).sum()),
                "open": int((self.status == OPEN).sum()),
            },
            "counterexamples": self.examples.tolist(),
            "boxes": self.boxes,
            "seconds": self.seconds,
        }
        if self.rectangle is not None:
            found["certified_rectangle"] = {
                "low": self.rectangle[:, 0].tolist(),
                "high": self.rectangle[:, 1].tolist(),
                "share": float(self.rectangle_share),
                "exact_share": str(self.rectangle_share),
            }
        return found


def collect(
    family: Family, state: State, *, maps: bool = True, tolerance: float | None = None, measure: str | None = None
) -> list[Coverage]:
    """The state as one `Coverage` per member. Where the margin is what is left of a `tolerance`, `measure` says of
    what; else it is the conditions' own.
    """
    areas = {status: grid.area(state.of(status), family.members) for status in (CERTIFIED, REFUTED, OPEN)}
    lower, upper = family.lower.cpu().numpy(), family.upper.cpu().numpy()
    result = []
    for q in range(family.members):
        mine = state.cells.query == q
        cells, status = state.cells.select(mine), state.status[mine]
        flat = family.inputs == 2
        found, share = _rectangle(family, q, cells, status) if flat else (None, Fraction(0))
        result.append(
            Coverage(
                family.titles[q],
                family.names,
                lower[q],
                upper[q],
                family.identity,
                areas[CERTIFIED][q],
                areas[REFUTED][q],
                areas[OPEN][q],
                cells,
                status,
                float(state.seconds[q]),
                int(state.boxes[q]),
                _examples(family, q, cells, status),
                found,
                share,
                _margin_map(family, q) if maps and flat else None,
                tolerance,
                measure or family.conditions.measure,
                family.claims[q] if family.claims else "",
            )
        )
    return result


def _rectangle(family: Family, q: int, cells: Cells, status: np.ndarray) -> tuple[np.ndarray | None, Fraction]:
    lower, upper = family.lower[q].cpu().numpy(), family.upper[q].cpu().numpy()
    width = upper - lower
    if family.identity is None or not (width > 0).all():
        return None, Fraction(0)
    found = rectangle.largest(cells.select(status != CERTIFIED), (family.identity - lower) / width)
    if found is None:
        return None, Fraction(0)
    corners, share = found
    return lower[:, None] + corners * width[:, None], share


def _examples(family: Family, q: int, cells: Cells, status: np.ndarray) -> np.ndarray:
    """Centres of refuted cells, the largest and far apart, that ONNX Runtime confirms."""
    refuted = cells.select(status == REFUTED)
    if len(refuted) == 0:
        return np.zeros((0, family.inputs))
    low, high = refuted.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    centres, found = (low + high) / 2, []
    width = (family.upper[q] - family.lower[q]).clamp(min=NARROWEST).cpu().numpy()
    value = np.ldexp(1.0, -refuted.depth)
    for _ in range(EXAMPLES):
        point = centres[int(value.argmax())]
        witness = family.judges[q](point[None])
        if witness is not None:
            found.append(point)
        distance = np.abs((centres - point) / width).max(1)
        value = np.where(distance < 0.25, 0.0, value)
        if value.max() == 0:
            break
    return np.array(found).reshape(-1, family.inputs)


def _margin_map(family: Family, q: int) -> np.ndarray:
    side = torch.linspace(0, 1, MAP_SIDE, dtype=torch.float64, device=family.device)
    points = family.lower[q] + torch.cartesian_prod(side, side) * (family.upper[q] - family.lower[q])
    with torch.no_grad():
        parts = [family.margins(p, torch.full((len(p),), q, device=family.device)) for p in points.split(256)]
    return torch.cat(parts).reshape(MAP_SIDE, MAP_SIDE).cpu().numpy()


def fingerprint(family: Family) -> str:
    """A hash of everything the cells of a checkpoint depend on: the network as a graph with its attributes and
    weights, the image maps, the boxes, what is asked, and the version of this program.
    """
    network, image = family.twin.exact, family.image
    said: list[object] = [FORMAT, version(), type(family.conditions).__name__, image.monomials, image.power]
    said += [network.output, network.sources, network.shapes]
    said += [(op.node.op, sorted(op.node.attrs.items()), sorted(op.params)) for op in network.ops]
    tensors = [family.lower, family.upper, *image.tensors, *family.conditions.tensors()]
    tensors += () if family.slack is None else (family.slack,)
    tensors += [op.params[name] for op in network.ops for name in sorted(op.params)]
    digest = hashlib.sha256(repr(said).encode())
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


def save_state(path: Path, state: State, mark: str) -> None:
    """Writes the cells of all members, atomically: a killed process leaves the last complete file.

    Raises:
        OutputError: the file cannot be written.
    """
    cells = state.cells
    with Whole(path) as stream:
        np.savez_compressed(
            stream,
            format=FORMAT,
            fingerprint=mark,
            query=cells.query,
            level=cells.level,
            index=cells.index,
            status=state.status,
            seconds=state.seconds,
            boxes=state.boxes,
        )


def load_state(path: Path, family: Family, mark: str) -> State:
    """Reads a file of `save_state` back, and checks that its cells tile the boxes of this family.

    Raises:
        ProblemError: the file cannot be read, is damaged, or belongs to another problem.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise ProblemError(f"{path}: larger than {MAX_FILE >> 30} GiB")
        with np.load(path, allow_pickle=False) as data:
            if str(data["format"]) != FORMAT:
                raise ProblemError(f"{path}: found format {data['format']}, expected {FORMAT}")
            if str(data["fingerprint"]) != mark:
                raise ProblemError(
                    f"{path}: belongs to another network, image or range; delete it or name another file"
                )
            cells = Cells(data["query"], data["level"], data["index"])
            state = State(cells, data["status"], data["seconds"], data["boxes"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ProblemError(f"{path}: cannot be read as a coverage file: {' '.join(str(error).split())[:200]}") from None
    _check(path, state, family)
    return state


def _check(path: Path, state: State, family: Family) -> None:
    cells, n = state.cells, len(state.status)
    shapes = (
        cells.query.shape == (n,)
        and cells.level.shape == cells.index.shape == (n, family.inputs)
        and state.seconds.shape == state.boxes.shape == (family.members,)
    )
    kinds = (
        cells.query.dtype == np.int32
        and cells.level.dtype == np.int8
        and cells.index.dtype == np.int32
        and state.status.dtype == np.uint8
        and state.seconds.dtype == np.float64
        and state.boxes.dtype == np.int64
    )
    good = shapes and kinds and n > 0 and (state.status <= REFUTED).all()
    good = good and ((cells.query >= 0) & (cells.query < family.members)).all()
    good = good and ((cells.level >= 0) & (cells.level <= grid.MAX_LEVEL) & (cells.index >= 0)).all()
    good = good and (cells.index < (1 << cells.level.astype(np.int64))).all()
    if not good or any(total != 1 for total in grid.area(cells, family.members)):
        raise ProblemError(f"{path}: the cells do not tile the boxes; the file is damaged")


def write_json(path: Path, found: Sequence[Coverage], settings: dict[str, object]) -> None:
    """The figures of all members.

    Raises:
        OutputError: the file cannot be written.
    """
    content = {"format": FORMAT, **settings, "members": [c.as_dict() for c in found]}
    write(path, json.dumps(content, indent=1) + "\n")
