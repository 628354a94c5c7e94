"""Tiles of pictures, so that rows over one tile are walked back through their receptive fields alone.

A row over an element of a picture reaches few elements of earlier pictures, but those of two rows lie at different
places. Rows over one tile share the receptive field of the tile: the larger the tile, the more of it no row needs, and
the smaller, the fewer rows there are to walk together.
"""

from __future__ import annotations

import itertools
import math

from verifier.bounds.network import Network
from verifier.ops.kinds import LinearOp
from verifier.ops.patch import Patch, Tiling

PASSES = 8
"""What a walk does to each element beside multiplying, about, in multiply-adds."""


def tiles(network: Network, slot: int, rows: int, elements: int) -> Tiling:
    """How to walk back `rows` rows over the value in `slot`, chunks of `elements` elements at a time."""
    known = network.tilings.get(slot)
    if known is None:
        known = network.tilings[slot] = _tilings(network, slot)
    return min(known, key=lambda tiling: tiling.cost(rows, elements))


def tiled(network: Network, slot: int) -> bool:
    """Whether there is more than one way to walk back rows over the value in `slot`."""
    return slot > 0 and max(network.shapes[slot][2:], default=1) > 1


def _tilings(network: Network, slot: int) -> list[Tiling]:
    """All that is needed of the value at once, and tiles of that with edges of 1, 2, 4, .. elements."""
    whole = network.wholes[slot]
    every = Patch(whole.whole, network.needed.get(slot, whole).ranges)
    every = whole if every.full else every
    found = [_tiling(network, slot, (every,), every)]
    edge, most = 1, max(every.shape[2:], default=1)
    while tiled(network, slot) and edge < most:
        cuts = [_pieces(*ends, edge) for ends in every.ranges[2:]]
        parts = [Patch(whole.whole, (*every.ranges[:2], *ranges)) for ranges in itertools.product(*cuts)]
        middle = tuple(pieces[len(pieces) // 2] for pieces in cuts)
        found.append(_tiling(network, slot, tuple(parts), Patch(whole.whole, (*every.ranges[:2], *middle))))
        edge *= 2
    return found


def _tiling(network: Network, slot: int, parts: tuple[Patch, ...], usual: Patch) -> Tiling:
    work, widest = 0.0, 1
    for s, part in network.reached(slot, usual).items():
        size = part.size
        widest = max(widest, size)
        if s:
            op = network.ops[s - 1]
            inference = op.multiply_adds / max(1, network.size(s)) if isinstance(op, LinearOp) else 0
            work += size * (inference + PASSES)
    return Tiling(parts, work, widest)


def _pieces(start: int, stop: int, edge: int) -> list[tuple[int, int]]:
    """A stretch of an axis in pieces of at most `edge`, about equally long."""
    size, count = stop - start, math.ceil((stop - start) / edge)
    return list(itertools.pairwise(start + size * k // count for k in range(count + 1)))
