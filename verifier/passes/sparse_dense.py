"""Write a Dense with a few entries per row as selections, scaled and added."""

from __future__ import annotations

import numpy as np

from verifier.graph.ir import Graph, Node
from verifier.passes.drop_identity import pick
from verifier.passes.rewrite import Rewriter, uniform

_ENTRIES = 4  # per row at most
_SAVING = 8  # the matrix is at least this much wider
_SMALLEST = 8192  # elements, below which a matrix product is cheap anyway
# fuse_affine would multiply a narrower one out again
_NARROWEST = 65


def sparse_dense(graph: Graph) -> Graph:
    """Dense rows of at most 4 non-zero entries become sum_t f_t * x[i_t] (+ bias): Take, Scale, Add, Shift.

    A lattice network's selections, incidence matrices: thousands of columns, of which each row reads two.
    """
    new = Rewriter(graph)
    for node in graph.nodes:
        if node.op == "Dense" and node.exact and _is_sparse(node.params["weight"]):
            _emit(new, node)
        else:
            new.keep(node)
    return new.done()


def _is_sparse(weight: np.ndarray) -> bool:
    columns = weight.shape[1]
    if weight.size < _SMALLEST or columns < _NARROWEST:
        return False
    most = int(np.count_nonzero(weight, axis=1).max())
    return 1 <= most <= _ENTRIES and most * _SAVING <= columns


def _emit(new: Rewriter, node: Node) -> None:
    weight = node.params["weight"]
    shape, axis = new.shapes[node.output], len(new.shapes[node.output]) - 1
    most = int(np.count_nonzero(weight, axis=1).max())
    order = np.argsort(weight == 0, axis=1, kind="stable")[:, :most]  # non-zero columns first, in order
    factors = np.take_along_axis(weight, order, axis=1)
    value = ""
    for term in range(most):
        part = new.fresh(node.output, shape)
        new.keep(pick(node.inputs[0], part, axis, order[:, term], node.source))
        factor, op = factors[:, term], "Add"
        number = uniform(factor)
        if number == -1 and term:
            op, number = "Sub", 1.0
        if number != 1:
            factor = factor if number is None else np.array(number)
            part = new.add("Scale", [part], shape, node, {"factor": factor})
        value = new.add(op, [value, part], shape, node) if term else part
    if "bias" in node.params:
        new.add("Shift", [value], shape, node, {"offset": node.params["bias"]}, output=node.output)
    else:
        new.add("Reshape", [value], shape, node, output=node.output)
