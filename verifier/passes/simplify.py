"""All simplifications, to a fixed point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from verifier.graph.ir import Graph
from verifier.passes.absorb_factors import absorb_factors
from verifier.passes.clip_pattern import clip_pattern
from verifier.passes.drop_identity import drop_identity
from verifier.passes.fold_constants import fold_constants
from verifier.passes.fuse_affine import fuse_affine
from verifier.passes.merge_affine import merge_affine
from verifier.passes.opposite_relus import opposite_relus
from verifier.passes.sparse_dense import sparse_dense
from verifier.passes.spline_pattern import spline_pattern

# the patterns before the fusions: they are read from single nodes
PASSES = (drop_identity, fold_constants, clip_pattern, spline_pattern, merge_affine, fuse_affine, opposite_relus)
_ROUNDS = 10  # every pass shrinks the graph or its work, so this is a guard, not a limit that is met


def simplify(graph: Graph, splines: bool = True) -> Graph:
    """The same function in fewer and cheaper nodes; inputs and outputs keep their names and shapes. Without `splines`
    functions written with ReLUs stay ReLUs."""
    passes = PASSES if splines else tuple(rewrite for rewrite in PASSES if rewrite is not spline_pattern)
    with np.errstate(all="ignore"):  # what overflows is not exact, and stays as it is
        return _simplified(graph, passes)


def _simplified(graph: Graph, passes: Sequence[Callable[[Graph], Graph]]) -> Graph:
    for _ in range(_ROUNDS):
        before = _fingerprint(graph)
        for rewrite in passes:
            graph = rewrite(graph)
        if _fingerprint(graph) == before:
            break
    return drop_identity(absorb_factors(sparse_dense(graph)))


def _fingerprint(graph: Graph) -> list[tuple[object, ...]]:
    position = {name: index for index, name in enumerate((*graph.inputs, *(node.output for node in graph.nodes)))}
    return [(node.op, *(position[name] for name in node.inputs), graph.shapes[node.output]) for node in graph.nodes]
