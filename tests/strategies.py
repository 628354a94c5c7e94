"""Hypothesis strategies: boxes, shapes and small graphs from input "x" (n,) to output "y" (m,)."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from verifier.graph.ir import Graph, Node, Shape

# Blocks that keep a graph inside the linear + Relu fragment, and others.
RELU_BLOCKS = ("dense", "relu", "residual", "concat", "conv", "relu")
SMOOTH_BLOCKS = ("sigmoid", "tanh", "sin", "exp")
OTHER_BLOCKS = ("leaky", "abs", "clip", "mul", "reduce_max", "square")
ALL_BLOCKS = (*RELU_BLOCKS, *SMOOTH_BLOCKS, *OTHER_BLOCKS)
_UNARY: dict[str, tuple[str, dict[str, float | int]]] = {
    "relu": ("Relu", {}),
    "leaky": ("LeakyRelu", {"alpha": 0.125}),
    "abs": ("Abs", {}),
    "clip": ("Clip", {"min": -0.5, "max": 0.75}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "sin": ("Sin", {}),
    "exp": ("Exp", {}),
    "square": ("Pow", {"exponent": 2}),
}


class GraphBuilder:
    """Grows a graph of vectors; each method appends nodes and returns the name of the new value."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shapes: dict[str, Shape] = {"x": (n,)}
        self.nodes: list[Node] = []

    def add(self, op: str, inputs: tuple[str, ...], shape: Shape, *, name: str = "", **fields: object) -> str:
        """One node: `params` and `attrs` in `fields`."""
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, name, source=f"{op} {name}", **fields))  # type: ignore[arg-type]
        self.shapes[name] = shape
        return name

    def width(self, value: str) -> int:
        """Length of a vector."""
        return self.shapes[value][-1]

    def dense(self, value: str, out: int, name: str = "") -> str:
        k = self.width(value)
        weight = self.rng.normal(size=(out, k)) / np.sqrt(k)
        return self.add(
            "Dense", (value,), (out,), name=name, params={"weight": weight, "bias": self.rng.normal(size=out) / 4}
        )

    def conv(self, value: str) -> str:
        k = self.width(value)
        image = self.add("Reshape", (value,), (1, 1, k))
        attrs = {"stride": (1,), "padding": (1,), "dilation": (1,), "groups": 1}
        params = {"weight": self.rng.normal(size=(2, 1, 3)) / 2, "bias": self.rng.normal(size=2) / 4}
        maps = self.add("Conv", (image,), (1, 2, k), params=params, attrs=attrs)
        return self.add("Reshape", (maps,), (2 * k,))

    def block(self, kind: str, value: str, width: int) -> str:
        """One block of ALL_BLOCKS on top of `value`."""
        k = self.width(value)
        if kind in ("exp", "square"):  # bounded first: five in a row would overflow
            value = self.add("Tanh", (value,), (k,))
        if kind in _UNARY:
            op, attrs = _UNARY[kind]
            return self.add(op, (value,), (k,), attrs=attrs)
        if kind == "dense":
            return self.dense(value, width)
        if kind == "residual":
            inner = self.add("Relu", (self.dense(value, k),), (k,))
            return self.add("Add", (value, self.dense(inner, k)), (k,))
        if kind == "concat":
            inner = self.add("Relu", (self.dense(value, 2),), (2,))
            return self.add("Concat", (value, inner), (k + 2,), attrs={"axis": 0})
        if kind == "conv":
            return self.dense(self.conv(value), width)
        if kind == "mul":
            return self.add("Mul", (self.dense(value, width), self.dense(value, width)), (width,))
        if kind == "reduce_max":
            grid = self.add("Reshape", (self.dense(value, 2 * width),), (width, 2))
            return self.add("ReduceMax", (grid,), (width,), attrs={"axis": 1})
        raise ValueError(f"unknown block {kind!r}; known are {sorted(set(ALL_BLOCKS))}")

    def finish(self, value: str, m: int) -> Graph:
        """A last Dense to "y"."""
        self.dense(value, m, "y")
        return Graph(("x",), ("y",), tuple(self.nodes), dict(self.shapes))


class PictureBuilder(GraphBuilder):
    """Grows a graph of pictures (1, C, H, W)."""

    def picture(self, channels: int, height: int, width: int) -> str:
        return self.add("Reshape", ("x",), (1, channels, height, width))

    def pad(self, value: str, before: tuple[int, int], after: tuple[int, int]) -> str:
        n, c, *size = self.shapes[value]
        grown = tuple(s + b + a for s, b, a in zip(size, before, after, strict=True))
        return self.add("Pad", (value,), (n, c, *grown), attrs={"before": (0, 0, *before), "after": (0, 0, *after)})

    def filtered(
        self,
        value: str,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> str:
        _, c, *size = self.shapes[value]
        attrs = {"stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2, "groups": groups}
        weight = self.rng.normal(size=(out, c // groups, kernel, kernel)) / kernel
        params = {"weight": weight, "bias": self.rng.normal(size=out) / 4}
        less = 2 * padding - dilation * (kernel - 1) - 1
        return self.add(
            "Conv", (value,), (1, out, *((s + less) // stride + 1 for s in size)), params=params, attrs=attrs
        )

    def bent(self, value: str, op: str = "Relu") -> str:
        return self.add(op, (value,), self.shapes[value])

    def sum(self, one: str, other: str) -> str:
        return self.add("Add", (one, other), self.shapes[one])


def build(n: int, m: int, blocks: list[str], seed: int, width: int = 4) -> Graph:
    """The graph of Dense, then the blocks in order, then Dense."""
    builder = GraphBuilder(n, seed)
    value = builder.dense("x", width)
    for kind in blocks:
        value = builder.block(kind, value, width)
    return builder.finish(value, m)


@st.composite
def graphs(
    draw: st.DrawFn,
    blocks: tuple[str, ...] = ALL_BLOCKS,
    max_blocks: int = 5,
    max_inputs: int = 3,
    max_outputs: int = 3,
) -> Graph:
    """Small acyclic graphs, residual and concatenating branches included."""
    kinds = draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=max_blocks))
    n, m = draw(st.integers(1, max_inputs)), draw(st.integers(1, max_outputs))
    return build(n, m, kinds, draw(st.integers(0, 2**16)), draw(st.integers(2, 5)))


def relu_graphs(max_blocks: int = 4, max_inputs: int = 3) -> st.SearchStrategy[Graph]:
    """Graphs of linear nodes and Relu only, as the LP and MILP oracles need them."""
    return graphs(RELU_BLOCKS, max_blocks, max_inputs)


@st.composite
def boxes(draw: st.DrawFn, n: int, span: float = 2.0, max_width: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (n,) each; some coordinates without width."""
    centres = draw(st.lists(st.floats(-span, span, width=32), min_size=n, max_size=n))
    widths = draw(st.lists(st.one_of(st.just(0.0), st.floats(0, max_width, width=32)), min_size=n, max_size=n))
    low = np.array(centres) - np.array(widths) / 2
    return low, low + np.array(widths)


def shapes(max_rank: int = 4, max_size: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes with at least one axis and no empty one."""
    return st.lists(st.integers(1, max_size), min_size=1, max_size=max_rank).map(tuple)
