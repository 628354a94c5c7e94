"""A search's open boxes and counters in a file, written between steps: what is in no box of the file was settled then.

The file is an uncompressed NPZ (no pickle): `about`, a JSON text with what identifies the problem and the counters, and
one array for each field of the boxes. What only speeds a search up (slopes, multipliers, scores) is left out. Like the
program itself the file is trusted: it is checked for damage, not for forgery; a proof is what convinces others.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verifier.errors import OutputError, ProblemError
from verifier.files.whole import Whole
from verifier.search.bab import Ending
from verifier.search.domains import DomainBatch
from verifier.search.memory import attempt
from verifier.search.policy import Tally
from verifier.tolerance import BALANCE

FORMAT = 2
MOST_BYTES = 1 << 33
"""Largest file that is read."""

PART = 10.0
"""A file is written no sooner than after so many times what the last one took."""

COUNTERS = tuple(f.name for f in fields(Tally) if f.name not in ("lower", "open_boxes"))
_FLOAT, _INT = np.dtype("<f8"), np.dtype("<i8")
ARRAYS = {
    "lower": (_FLOAT, 2),
    "upper": (_FLOAT, 2),
    "query": (_INT, 1),
    "share": (_FLOAT, 1),
    "depth": (_INT, 1),
    "signs": (_INT, 2),
    "points": (_FLOAT, 2),
    "clause": (_INT, 2),
}
"""Type and number of dimensions of the stored fields of `DomainBatch`."""


@dataclass(frozen=True, eq=False)
class _Saved:
    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Checkpoint:
    """The checkpoint of one run in the file `path`, written every `every` seconds of `clock` and at the end.

    `problem` (plain data) says what is searched and how; a file that is there already has to say the same.

    Raises:
        ProblemError: the file is damaged, no checkpoint, or one of another problem (what differs is named).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        problem: Mapping[str, object],
        every: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path, self.problem, self.every, self.clock = Path(path), dict(problem), every, clock
        self._strategy, self._cost, self._failed, self._over = "", 0.0, "", False
        self._written = clock()
        self._saved = _read(self.path) if os.path.lexists(self.path) else None
        if self._saved is not None:
            self._same(self._saved.about["problem"], self.problem)

    def start(self, strategy: str, first: DomainBatch, queries: int, neurons: int) -> tuple[DomainBatch, Tally]:
        """The boxes to search, and what was done before: those of the file, or `first`, those of a new search of
        `queries` queries whose network has so many `neurons`.

        Raises:
            ProblemError: the file's boxes are none of this search.
        """
        self._strategy, saved = strategy, self._saved
        self._written = self.clock()
        if saved is None:
            return first, Tally()
        self._same({"strategy": saved.about["strategy"]}, {"strategy": strategy})
        self._saved = None  # the memory is needed
        if why := _misfit(saved, first, queries, neurons):
            raise _damaged(self.path, why)
        # what is not stored is as at the root of the same search
        boxes = first.select(torch.zeros(len(saved.arrays["query"]), dtype=torch.int64, device=first.query.device))
        stored = {name: torch.from_numpy(array).to(first.query.device) for name, array in saved.arrays.items()}
        return replace(boxes, **stored), Tally(**saved.about["tally"])

    def step(self, tally: Tally, rest: Callable[[], DomainBatch | None]) -> None:
        """Hook of the search (`Limits.checkpoint`), between two steps. A disk that refuses does not cost the search;
        the file is as it was, and the next time is tried again."""
        now = self.clock()
        if not 0 <= now - self._written < max(self.every, PART * self._cost):
            self._write(tally, rest)
            self._cost, self._written = max(0.0, self.clock() - now), self.clock()

    def ended(self, ending: Ending) -> None:
        """The search is over: writes what is left of it, if anything is."""
        self._over = ending.rest is None
        if ending.rest is not None:
            self._write(ending.tally, lambda: ending.rest)

    def close(self, settled: bool) -> str:
        """Removes the file where the run `settled` the question or its search has come to an end. What went wrong with
        the last writing, for the user; empty if nothing did."""
        if settled or self._over:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                return f"the checkpoint {self.path} could not be removed: {error.strerror or error}"
            return ""
        return self._failed

    def _write(self, tally: Tally, rest: Callable[[], DomainBatch | None]) -> None:
        try:
            done, fits = attempt(partial(self._save, tally, rest))
            self._failed = "" if done and fits else "no checkpoint was written: there is not enough memory for it"
        except OutputError as error:
            self._failed = f"no checkpoint was written: {error}"

    def _save(self, tally: Tally, rest: Callable[[], DomainBatch | None]) -> bool:
        boxes = rest()
        if boxes is None:
            return True  # the next thing that happens is a verdict
        about = {
            "format": FORMAT,
            "problem": self.problem,
            "strategy": self._strategy,
            "tally": {name: getattr(tally, name) for name in COUNTERS},
        }
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        arrays = {name: getattr(boxes, name).cpu().numpy().astype(kind) for name, (kind, _) in ARRAYS.items()}
        with Whole(self.path, "the checkpoint") as stream:
            np.savez(stream, about=text, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a flag for an array
        return True

    def _same(self, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
        differ = [
            f"{name}: found {found.get(name)!r:.80}, expected {expected.get(name)!r:.80}"
            for name in sorted({*found, *expected})
            if found.get(name) != expected.get(name)
        ]
        if differ:
            raise ProblemError(
                f"{self.path}: the checkpoint of another run ({'; '.join(differ)}); name another file, or delete this"
                " one to begin anew"
            )


def digest(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 of the bytes of files, one after the other, in hexadecimal.

    Raises:
        ProblemError: one cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ProblemError(f"{path}: cannot be read: {error.strerror or error}") from None
    return found.hexdigest()


def _damaged(path: Path, why: str) -> ProblemError:
    return ProblemError(
        f"{path}: not a checkpoint, or a damaged one ({why}); name another file, or delete this one to begin anew"
    )


def _read(path: Path) -> _Saved:
    """ProblemError unless the file is a whole checkpoint: what a stored checksum cannot tell is looked at as well."""
    try:
        if not path.is_file():
            raise ValueError("this is no plain file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes, more than {MOST_BYTES}")
        with zipfile.ZipFile(path) as stored:
            members = stored.infolist()
            if sorted(m.filename for m in members) != sorted(f"{name}.npy" for name in ("about", *ARRAYS)):
                raise ValueError("it holds other arrays")
            # nothing is unpacked, so that no more memory is taken than the file is long
            if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                raise ValueError("its arrays are compressed")
            if sum(m.file_size for m in members) > size:
                raise ValueError("its arrays are longer than the file")
            arrays = {m.filename[:-4]: _array(stored.read(m)) for m in members}
        about = json.loads(arrays.pop("about").astype(np.uint8, casting="no").tobytes())
        _check(about, arrays)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (
        *(zipfile.BadZipFile, struct.error, ValueError, TypeError, KeyError, EOFError, OverflowError),
        *(RuntimeError, NotImplementedError, RecursionError, SyntaxError, MemoryError),
    ) as error:
        raise _damaged(path, str(error)[:200] or type(error).__name__) from None
    return _Saved(about, arrays)


def _array(data: bytes) -> np.ndarray:
    """The array of NPY data: its header is held against the number of bytes before an array is made."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    if kind.hasobject or len(shape) > 2 or any(n < 0 for n in shape):
        raise ValueError("an array of another kind")
    if math.prod(shape) * kind.itemsize != len(data) - stream.tell():
        raise ValueError("an array whose length is not that of its shape")
    return np.frombuffer(data, kind, offset=stream.tell()).reshape(shape, order="F" if fortran else "C").copy()


def _check(about: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError or KeyError where the content is not what `Checkpoint` writes."""
    if not isinstance(about, dict) or about["format"] != FORMAT:
        raise ValueError(f"format {about['format']!r:.20}, expected {FORMAT}")
    tally = about["tally"]
    if not isinstance(about["problem"], dict) or not isinstance(about["strategy"], str) or set(tally) != set(COUNTERS):
        raise ValueError("its description has other fields")
    for name in COUNTERS:
        expected = float if name in ("settled", "stuck_share") else int
        if type(tally[name]) is not expected or not 0 <= tally[name] < 2**62:
            raise ValueError(f"counter {name}: {tally[name]!r:.20}")
    count = len(arrays["query"])
    for name, (kind, dimensions) in ARRAYS.items():
        found = arrays[name]
        if found.dtype != kind or found.ndim != dimensions or len(found) != count:
            raise ValueError(f"array {name}: {found.dtype}{list(found.shape)}")
        if kind is _FLOAT and not np.isfinite(found).all():
            raise ValueError(f"array {name}: NaN or infinity")
    if count == 0 or (arrays["lower"].shape != arrays["upper"].shape) or (arrays["lower"] > arrays["upper"]).any():
        raise ValueError("no boxes, or empty ones")
    if (arrays["share"] < 0).any() or (arrays["depth"] < 0).any():
        raise ValueError("negative shares or depths")
    if arrays["points"].shape[1] > arrays["signs"].shape[1]:
        raise ValueError("more split points than decided neurons")


def _misfit(saved: _Saved, first: DomainBatch, queries: int, neurons: int) -> str:
    """Why these boxes cannot come from a search that began with `first`; empty if they can."""
    of, tally = saved.arrays, saved.about["tally"]
    if of["lower"].shape[1] != first.lower.shape[1] or of["clause"].shape[1] != first.clause.shape[1]:
        return "boxes of another shape"
    known = {*zip(first.query.tolist(), map(tuple, first.clause.tolist()), strict=True)}
    if not known.issuperset(zip(of["query"].tolist(), map(tuple, of["clause"].tolist()), strict=True)):
        return "boxes of queries that there are not"
    if (np.abs(of["signs"]) > neurons).any():
        return "neurons that there are not"
    query, lower, upper = (t.cpu().numpy() for t in (first.query, first.lower, first.upper))
    least, most = np.full((queries, lower.shape[1]), np.inf), np.full((queries, lower.shape[1]), -np.inf)
    np.minimum.at(least, query, lower)
    np.maximum.at(most, query, upper)
    if (of["lower"] < least[of["query"]]).any() or (of["upper"] > most[of["query"]]).any():
        return "boxes outside the input set"
    total = tally["settled"] + (tally["stuck_share"] + float(of["share"].sum())) / queries
    if abs(total - 1) > BALANCE:
        return f"settled and open shares that add up to {total:.9g}, not 1"
    return ""
