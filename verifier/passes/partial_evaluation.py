"""Cut a network in two: what no free coordinate reaches, to be computed once, and the rest (partial evaluation).

Where many questions fix most inputs, each to numbers of its own, the fixed part is most of the work of every
bound. An element that no free coordinate reaches is constant within a question; sums over elements that are reached
and such that are not (Dense, ReduceSum) are split in two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from verifier.graph.ir import Graph, Node, Shape, alive
from verifier.graph.operators import OPERATORS
from verifier.passes.drop_identity import pick, picked
from verifier.passes.flatten_io import X
from verifier.passes.reached import coordinates, reached
from verifier.passes.rewrite import Rewriter

Index = tuple[np.ndarray, ...]
"""Positions along every axis of a value; together they mean their product."""


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """`fixed` maps x (n,) to values that depend on none of the coordinates `free` (f,), its outputs; `rest` maps
    x[free], its first input, and these, its other inputs, to the network's outputs."""

    fixed: Graph
    rest: Graph
    free: np.ndarray

    def joined(self, constant: Mapping[str, np.ndarray]) -> Graph:
        """`rest` with one flat input `x`: the free coordinates, then every fixed value, row-major, but those that are
        the same in all questions, of which it makes constants."""
        names = [name for name in self.fixed.outputs if name not in constant]
        sizes = [len(self.free), *(self.fixed.size(name) for name in names)]
        shapes = {**self.rest.shapes, X: (sum(sizes),)}
        new = Rewriter(Graph((X,), self.rest.outputs, self.rest.nodes, shapes))
        like, start = Node("Slice", (X,), X, source="fixed inputs"), sizes[0]
        new.keep(pick(X, self.rest.inputs[0], 0, np.arange(start), like.source))
        for name, value in constant.items():
            new.add("Constant", [], value.shape, like, {"value": np.array(value)}, output=name)
        for name, size in zip(names, sizes[1:], strict=True):
            part = new.fresh(name, (size,))
            new.keep(pick(X, part, 0, np.arange(start, start + size), like.source))
            new.reshape(part, self.rest.shapes[name], like, output=name)
            start += size
        for node in self.rest.nodes:
            new.keep(node)
        return new.done()


def partially_evaluated(graph: Graph, free: np.ndarray) -> CutNetwork:
    """The network cut at what the coordinates `free`, int (f,), distinct, f >= 1, reach.

    Raises:
        ValueError: the graph is not flat, or `free` is empty, repeats itself or is out of range.
    """
    return _Evaluation(graph, np.sort(coordinates(graph, free))).cut()


def _whole(shape: Shape) -> Index:
    return tuple(np.arange(size) for size in shape)


def _sizes(index: Index) -> Shape:
    return tuple(len(axis) for axis in index)


def _hull(mask: np.ndarray) -> Index:
    """The smallest product of positions that holds all marked ones."""
    others = [tuple(a for a in range(mask.ndim) if a != axis) for axis in range(mask.ndim)]
    return tuple(np.flatnonzero(mask.any(axis=other)) for other in others)


def _broadcast(index: Index, shape: Shape) -> Index:
    """Positions in a result as those in an argument of `shape` that is repeated along axes of size 1."""
    own = index[len(index) - len(shape) :]
    return tuple(axis if size > 1 else np.zeros(1, np.int64) for axis, size in zip(own, shape, strict=True))


def _at(array: np.ndarray, index: Index) -> np.ndarray:
    """The elements of a parameter that belong to those of a result."""
    return np.array(array[np.ix_(*_broadcast(index, array.shape))])


@dataclass(frozen=True, eq=False)
class _Part:
    """The elements `index` of a value, all of them that are reached, as the value `name` of the rest."""

    name: str
    index: Index


@dataclass(eq=False)
class _Evaluation:
    graph: Graph
    free: np.ndarray
    parts: dict[str, _Part] = field(default_factory=dict)
    made: dict[tuple[str, tuple[bytes, ...]], str] = field(default_factory=dict)
    """Names of fixed values, by the value that they are a part of and its positions."""

    def __post_init__(self) -> None:
        self.mask = reached(self.graph, self.free)
        self.fixed, self.rest = Rewriter(self.graph), Rewriter(self.graph)
        self.rest.shapes = self.fixed.shapes  # a name means one value in both
        for node in self.graph.nodes:
            self.fixed.keep(node)
        self.outputs: list[str] = []

    def cut(self) -> CutNetwork:
        """Both graphs."""
        own = self.rest.fresh(X, (len(self.free),))
        self.parts[X] = _Part(own, (self.free,))
        for node in self.graph.nodes:
            if self.mask[node.output].any():
                self.parts[node.output] = self._evaluated(node)
        for name in self.graph.outputs:
            shape = self.graph.shapes[name]
            self.rest.reshape(self._part(name, _whole(shape)), shape, Node("Reshape", (), name), output=name)
        fixed = alive((X,), self.outputs, self.fixed.nodes, self.fixed.shapes)
        rest = alive((own, *self.outputs), self.graph.outputs, self.rest.nodes, self.rest.shapes)
        return CutNetwork(fixed, rest, self.free)

    def _evaluated(self, node: Node) -> _Part:
        """The part of a node's value that is reached, computed from such parts."""
        row, index = OPERATORS[node.op], _hull(self.mask[node.output])
        if row.elementwise or row.broadcasts:
            return self._elementwise(node, index)
        match node.op:
            case "Dense":
                return self._dense(node, index)
            case "ReduceSum" if len(node.integers("axes")) == 1:
                return self._sum(node, index)
            case "Slice" | "Take":
                return self._picked(node, index)
            case "Concat":
                return self._joined(node, index)
            case "Expand":
                value = self._part(node.inputs[0], _broadcast(index, self.graph.shapes[node.inputs[0]]))
                return self._new(node, [value], index)
            case "Transpose":
                perm = node.integers("perm")
                source = [index[perm.index(axis)] for axis in range(len(perm))]
                return self._new(node, [self._part(node.inputs[0], tuple(source))], index)
            case "Reshape":
                places = np.ravel_multi_index(np.ix_(*index), self.graph.shapes[node.output]).reshape(-1)
                return self._new(node, [self._flat(node.inputs[0], places)], index)
        whole = [self._part(name, _whole(self.graph.shapes[name])) for name in node.inputs]
        return self._new(node, whole, _whole(self.graph.shapes[node.output]))

    def _new(
        self, node: Node, inputs: list[str], index: Index, params: Mapping[str, np.ndarray] | None = None
    ) -> _Part:
        """A node like this one over `inputs`, whose value is the elements `index`."""
        given = node.params if params is None else params
        return _Part(self.rest.add(node.op, inputs, _sizes(index), node, given, node.attrs), index)

    def _elementwise(self, node: Node, index: Index) -> _Part:
        shapes, params = self.graph.shapes, dict(node.params)
        if not OPERATORS[node.op].shared:
            params = {name: _at(array, index) for name, array in params.items()}
        inputs = [self._part(name, _broadcast(index, shapes[name])) for name in node.inputs]
        return self._new(node, inputs, index, params)

    def _dense(self, node: Node, index: Index) -> _Part:
        """Columns that are reached, and beside them what the others add up to."""
        (name,) = node.inputs
        *rows, features = index
        columns = _hull(self.mask[name])[-1]
        constant = {key: _at(node.params[key], index) for key in ("bias", "bias_error") if key in node.params}
        roundings = {key: node.params[key] for key in ("roundings",) if key in node.params}
        weight = node.params["weight"][features]
        if len(columns) == self.graph.shapes[name][-1]:
            params = {"weight": weight, **constant, **roundings}
            return self._new(node, [self._part(name, (*rows, columns))], index, params)
        others = np.setdiff1d(np.arange(self.graph.shapes[name][-1]), columns)
        mine = self._new(node, [self._part(name, (*rows, columns))], index, {"weight": weight[:, columns], **roundings})
        rest = self.fixed.add(
            "Dense",
            [self._taken(self.fixed, name, (*rows, others), node)],
            _sizes(index),
            node,
            {"weight": weight[:, others], **roundings, **constant},
        )
        return self._plus(mine, rest, node)

    def _sum(self, node: Node, index: Index) -> _Part:
        """Terms that are reached, and beside them the sum of the others."""
        (name,), (axis,) = node.inputs, node.integers("axes")
        terms, size = _hull(self.mask[name])[axis], self.graph.shapes[name][axis]
        before, after = index[:axis], index[axis:]
        mine = self._new(node, [self._part(name, (*before, terms, *after))], index)
        if len(terms) == size:
            return mine
        others = (*before, np.setdiff1d(np.arange(size), terms), *after)
        rest = self.fixed.add(
            node.op, [self._taken(self.fixed, name, others, node)], _sizes(index), node, node.params, node.attrs
        )
        return self._plus(mine, rest, node)

    def _plus(self, mine: _Part, rest: str, node: Node) -> _Part:
        """A part and a fixed value of its shape, added."""
        self._output(rest)
        like = Node("Add", (), node.output, source=node.source)
        name = self.rest.add("Add", [mine.name, rest], _sizes(mine.index), like)
        return _Part(name, mine.index)

    def _picked(self, node: Node, index: Index) -> _Part:
        axis = node.integer("axis")
        source = (*index[:axis], picked(node)[index[axis]], *index[axis + 1 :])
        return _Part(self._part(node.inputs[0], source), index)

    def _joined(self, node: Node, index: Index) -> _Part:
        """From each part what is wanted of it."""
        axis, start, parts = node.integer("axis"), 0, []
        for name in node.inputs:
            stop = start + self.graph.shapes[name][axis]
            own = index[axis][(index[axis] >= start) & (index[axis] < stop)] - start
            if len(own):
                parts.append(self._part(name, (*index[:axis], own, *index[axis + 1 :])))
            start = stop
        return _Part(parts[0], index) if len(parts) == 1 else self._new(node, parts, index)

    def _part(self, name: str, index: Index) -> str:
        """The elements `index` of a value, as a value of the rest."""
        part = self.parts.get(name)
        if part is None:
            return self._fixed(name, index)
        inside = [np.isin(axis, own) for axis, own in zip(index, part.index, strict=True)]
        if all(mask.all() for mask in inside):
            places = tuple(np.searchsorted(own, axis) for axis, own in zip(index, part.index, strict=True))
            return self._taken(self.rest, part.name, places, Node("Take", (), name))
        flat = np.ravel_multi_index(np.ix_(*index), self.graph.shapes[name]).reshape(-1)
        return self.rest.reshape(self._flat(name, flat), _sizes(index), Node("Reshape", (), name))

    def _flat(self, name: str, places: np.ndarray) -> str:
        """The elements of a value at flat positions, as a vector (len(places),)."""
        part, shape, like = self.parts.get(name), self.graph.shapes[name], Node("Reshape", (), name)
        if part is None:
            return self._fixed(name, (places,), flat=True)
        number = np.full(shape, -1)
        number[np.ix_(*part.index)] = np.arange(math.prod(_sizes(part.index))).reshape(_sizes(part.index))
        at = number.reshape(-1)[places]
        own = self.rest.reshape(part.name, (math.prod(_sizes(part.index)),), like)
        missing = at < 0
        if missing.any():
            others = self._fixed(name, (places[missing],), flat=True)
            at[missing] = len(number[number >= 0]) + np.arange(missing.sum())
            size = math.prod(_sizes(part.index)) + int(missing.sum())
            own = self.rest.add("Concat", [own, others], (size,), like, attrs={"axis": 0})
        return self._taken(self.rest, own, (at,), like)

    def _fixed(self, name: str, index: Index, flat: bool = False) -> str:
        """Elements that nothing free reaches, of a value or of it `flat`: an input of the rest."""
        maker = self.fixed.maker.get(name)
        if maker is not None and maker.op == "Expand" and not flat:
            source = maker.inputs[0]
            own = self._fixed(source, _broadcast(index, self.graph.shapes[source]))
            return self.rest.add("Expand", [own], _sizes(index), maker)
        key = name, (b"flat" if flat else b"", *(axis.tobytes() for axis in index))
        if key not in self.made:
            like = Node("Take", (), name)
            value = self.fixed.reshape(name, (self.graph.size(name),), like) if flat else name
            value = self._taken(self.fixed, value, index, like)
            if value in self.graph.outputs:  # the rest has a value of that name
                value = self.fixed.add("Reshape", [value], self.fixed.shapes[value], like)
            self.made[key] = value
            self._output(value)
        return self.made[key]

    def _output(self, name: str) -> None:
        """Hands a value of the fixed graph to the rest, under the same name."""
        if name not in self.outputs:
            self.outputs.append(name)

    def _taken(self, new: Rewriter, name: str, index: Index, like: Node) -> str:
        """Positions of a value of either graph, axis by axis."""
        for axis, places in enumerate(index):
            shape = new.shapes[name]
            if len(places) == shape[axis] and bool((places == np.arange(shape[axis])).all()):
                continue
            output = new.fresh(like.output, (*shape[:axis], len(places), *shape[axis + 1 :]))
            new.keep(pick(name, output, axis, places, like.source))
            name = output
        return name
