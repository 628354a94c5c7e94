"""Events of a proof as bytes: the other side of `verifier.checker.format`, which is not needed to check."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from verifier.checker.format import (
    BETA,
    CLAUSES,
    CLIP,
    END,
    EXACT,
    INPUT,
    LEAF,
    MAGIC,
    NARROWS,
    NEURON,
    PICKS,
    SHORT,
    SLOPES,
    USES_SLOPES,
    VERSION,
    WEIGHTS,
    ClauseSplit,
    End,
    Event,
    Header,
    InputClip,
    InputSplit,
    Leaf,
    NeuronSplit,
    Slopes,
)


def varint(value: int) -> bytes:
    """A number >= 0, seven bits a byte, the least first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str) -> bytes:
    """Its bytes after their number."""
    data = value.encode()
    return varint(len(data)) + data


def encode_header(header: Header) -> bytes:
    """The beginning of a file."""
    names = b"".join(text(name) for name in header.tensors)
    fixed = MAGIC + struct.pack("<H", VERSION) + header.model + header.spec
    return fixed + text(header.tool) + bytes([header.kind]) + varint(len(header.tensors)) + names


def encode(event: Event) -> bytes:
    """What a reader turns into this event."""
    match event:
        case InputSplit(node, coordinate, at):
            return bytes([INPUT]) + varint(node) + varint(coordinate) + struct.pack("<d", at)
        case NeuronSplit(node, tensor, neuron):
            return bytes([NEURON]) + varint(node) + varint(tensor) + varint(neuron)
        case ClauseSplit(node):
            return bytes([CLAUSES]) + varint(node)
        case Leaf():
            return _encode_leaf(event)
        case InputClip(node, rows, slabs, intervals):
            picked = b"".join(varint(c) + varint(k) for c, k in rows)
            cuts = b"".join(varint(2 * j + (side > 0)) + struct.pack("<d", at) for j, side, at in slabs)
            head = bytes([CLIP]) + varint(node) + bytes([intervals << 4])
            return head + varint(len(rows)) + picked + varint(len(slabs)) + cuts
        case Slopes(tables):
            packed = zlib.compress(b"".join(t.astype(np.uint8).tobytes() for t in tables), 9)
            sizes = b"".join(varint(t.size) for t in tables)
            return bytes([SLOPES]) + varint(len(tables)) + sizes + varint(len(packed)) + packed
        case End(splits, leaves):
            return bytes([END]) + varint(splits) + varint(leaves)


def _encode_leaf(leaf: Leaf) -> bytes:
    plain = all(len(row) == 1 and row[0][1] == 1 for row in leaf.rows)
    first = plain and all(row[0][0] == 0 for row in leaf.rows)
    flags = 0 if first else PICKS if plain else WEIGHTS
    flags |= BETA * bool(leaf.beta) | USES_SLOPES * (leaf.slopes >= 0) | leaf.intervals << 4
    flags |= NARROWS * leaf.narrows | EXACT * leaf.exact
    out = bytes([LEAF]) + varint(leaf.node) + bytes([flags])
    if flags & (PICKS | WEIGHTS):
        out += varint(len(leaf.rows))
    for row in leaf.rows if flags & (PICKS | WEIGHTS) else ():
        if plain:
            out += varint(row[0][0])
        else:
            out += varint(len(row)) + b"".join(varint(k) + struct.pack("<f", w) for k, w in row)
    if leaf.beta:
        beta = np.asarray(leaf.beta, "<f4")
        places = np.searchsorted(SHORT, beta).clip(max=255)
        short = bool((SHORT[places] == beta).all())
        out += varint(2 * len(beta) + short) + (places.astype(np.uint8) if short else beta).tobytes()
    return out + (varint(leaf.slopes) if leaf.slopes >= 0 else b"")


def encode_witness(x: np.ndarray) -> bytes:
    """The input (n,) of a `sat`, after its header."""
    return varint(len(x)) + np.asarray(x, "<f8").tobytes()
