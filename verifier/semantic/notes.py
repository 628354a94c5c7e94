"""What `secateur spec` writes into its files for people, and reads back for pictures: the claim, names of the inputs.

The same two lines stand in the comments of the specification and in the description of the network's graph:

    Claim: key points 0-2 stay within 3 px of the reference, L-infinity; reference: the ground truth; ..
    Inputs: X_0 = contrast in [0.8, 1.2], X_1 = brightness in [-0.1, 0.1].

They are words: nothing that is proven depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from verifier.graph.onnx_import import Model
from verifier.perturbation import PARAMETERS
from verifier.perturbation.perturbation import Range

LONGEST = 400
_INPUT = re.compile(r"X_(\d{1,3}) = (\w{1,20}) in ")


@dataclass(frozen=True)
class Notes:
    """`claim`: what is asked, "" where nothing says so; `names`: semantic parameter per input, as far as known."""

    claim: str = ""
    names: tuple[tuple[int, str], ...] = ()

    def name(self, index: int) -> str:
        """What input `index` is called."""
        return dict(self.names).get(index, f"X_{index}")

    def identity(self, columns: Sequence[int]) -> list[float] | None:
        """The values of these inputs that leave the image unchanged; None unless all are known parameters."""
        names = dict(self.names)
        return [PARAMETERS[names[i]].identity for i in columns] if all(i in names for i in columns) else None


def claim_line(claim: str, reference: str) -> str:
    """The line about the claim."""
    return f"Claim: {claim}; reference: {reference}; a tie counts as a violation."


def inputs_line(ranges: Sequence[Range]) -> str:
    """The line about the inputs."""
    return "Inputs: " + ", ".join(f"X_{i} = {r.name} in [{r.low:g}, {r.high:g}]" for i, r in enumerate(ranges)) + "."


def read(lines: Iterable[str]) -> Notes:
    """The notes in some lines, which may be anybody's: only known parameters count, and a claim is one short line."""
    claim, names = "", {}
    for line in lines:
        if line.startswith("Claim: ") and line.isprintable() and len(line) <= LONGEST:
            claim = line.removeprefix("Claim: ").split("; a tie counts")[0].rstrip(".")
        elif line.startswith("Inputs: "):
            names = {int(i): name for i, name in _INPUT.findall(line[:LONGEST]) if name in PARAMETERS}
    return Notes(claim, tuple(sorted(names.items())))


def of_files(model: Model, header: Iterable[str]) -> Notes:
    """Notes of a pair: those of the specification's comments; names also from the network, a claim never.

    Another specification of the same network asks something else, but its inputs are the same.
    """
    found = read(header)
    if found.names:
        return found
    return Notes(found.claim, read(onnx.load_from_string(model.bytes).graph.doc_string.splitlines()).names)
