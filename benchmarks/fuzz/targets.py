"""What is fuzzed besides whole problems: every reader of a file that may come from anywhere.

A target takes bytes. It returns a word for the statistics, or raises `Fault` where its promise is broken: an error of
another kind than the reader's own, or two readers that disagree. What takes too long or too much memory is seen from
outside (`benchmarks/fuzz/run.py`).
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

import vnnlib
from benchmarks.fuzz.chains import operators
from benchmarks.fuzz.texts import both, same
from benchmarks.fuzz.verdicts import grouped, planar, problems
from pruning.study.errors import ResultsError
from pruning.study.tools.results import read as read_results
from pruning.study.tools.truth import read as read_truth
from verifier.checker import format as proof_format
from verifier.checker.errors import Unreadable
from verifier.checker.network import read_network
from verifier.command.ledger import Finished, open_results
from verifier.errors import OutputError, SecateurError
from verifier.graph.onnx_import import ModelLimits, load_model
from verifier.graph.onnx_import.source import read_model
from verifier.problem.runtime import compare
from verifier.proof.encode import encode

SMALL = vnnlib.Limits(
    max_bytes=1 << 20,
    max_cases=2000,
    max_literals=20_000,
    max_variables=1 << 14,
    max_box_values=1 << 16,
    max_work=20_000,
)
"""The limits while fuzzing: a text of 200 bytes may ask for a million cases, and get them, in a second or two."""


class Fault(AssertionError):
    """A promise is broken; the message says which."""


@contextmanager
def only(*allowed: type[Exception]) -> Iterator[None]:
    """Errors of the `allowed` kinds pass; every other exception, and every warning, is a fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except Exception as error:
        if isinstance(error, (*allowed, Fault)):
            raise
        raise Fault(f"{type(error).__name__}: {error}") from error


def specification(data: bytes) -> str:
    """Both readers of specifications give the same normal form, or the same error with the file's name in it."""
    with only():
        quick, slow, took = both(data, strict=len(data) % 2 == 1, limits=SMALL)
        if not same(quick, slow):
            raise Fault(f"the fast reader gives {quick!r}, the full one {slow!r}")
    if isinstance(quick, str):
        if " t:" not in quick and quick[-2:] != " t":
            raise Fault(f"no file in the error: {quick}")
        return quick.partition(" ")[0]
    return "fast" if took else "full"


def witness(data: bytes) -> str:
    with only(vnnlib.VnnLibError):
        try:
            vnnlib.parse_witness(data.decode("utf-8", "replace"))
        except vnnlib.VnnLibError:
            return "VnnLibError"
    return "read"


def results(data: bytes) -> str:
    """The readers of lists, of their truth and of the result files of any verifier."""
    found = []
    allowed = (vnnlib.VnnLibError, ResultsError)
    readers: tuple[Callable[[Path], object], ...] = (
        vnnlib.read_instances,
        lambda path: read_results(path, "t"),
        read_truth,
    )
    with _file(data) as path:
        for read in readers:
            with only(*allowed):
                try:
                    read(path)
                    found.append("read")
                except allowed as error:
                    if str(path) not in str(error):
                        raise Fault(f"no file in the error: {error}") from None
                    found.append("refused")
    return " ".join(found)


def ledger(data: bytes) -> str:
    """The results file of a list: what is no results file stays as it is, byte by byte."""
    with _file(data) as path, only(OutputError):
        try:
            opened = open_results(path)
        except OutputError:
            if path.read_bytes() != data:
                raise Fault("a file was refused, and changed") from None
            return "OutputError"
        before = len(opened.rows)
        opened.append(Finished("c", "n", "s", "unsat", 1.0))
        opened.close()
        again = open_results(path)
        again.close()
        if len(again.rows) != before + 1:
            raise Fault(f"{before} rows and one more are {len(again.rows)} when read again")
        return "read"


def proof(data: bytes) -> str:
    """The proof format: all events, or `Unreadable` with the byte."""
    with only(Unreadable):
        try:
            reader = proof_format.Reader(io.BytesIO(data), "t")
            if reader.header.kind == proof_format.WITNESS:
                reader.witness()
            else:
                for event in reader.events():
                    if not isinstance(event, proof_format.End):
                        encode(event)
        except Unreadable as error:
            if "t" not in str(error):
                raise Fault(f"no file in the error: {error}") from None
            return "Unreadable"
    return "read"


def model(data: bytes) -> str:
    """The importer: `ModelError`, or a network that computes what ONNX Runtime computes; and the checker's reader."""
    with only(SecateurError):
        try:
            loaded = load_model(data, limits=ModelLimits(elements=1 << 20, nodes=5000))
        except SecateurError:
            loaded = None
    with _file(data) as path, only(Unreadable), suppress(Unreadable):
        read_network(path)
    if loaded is None:
        return "refused"
    with only(SecateurError):
        try:
            points = np.random.default_rng(0).normal(size=(1, sum(info.size for info in loaded.input_infos)))
            compare(loaded, loaded.graph, points)
        except SecateurError as error:
            return type(error).__name__
    return "read"


def packed(data: bytes) -> str:
    """Gzip: the same for specifications and for models."""
    with _file(data) as path, only(SecateurError, vnnlib.VnnLibError):
        for read in (lambda: vnnlib.load(path, limits=SMALL), lambda: read_model(path)):
            with suppress(SecateurError, vnnlib.VnnLibError):
                read()
    return "read"


@contextmanager
def _file(data: bytes) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        yield Path(name)
    finally:
        os.unlink(name)


TARGETS: dict[str, Callable[[bytes], str]] = {
    f.__name__: f
    for f in (specification, witness, results, ledger, proof, model, packed, problems, planar, grouped, operators)
}
