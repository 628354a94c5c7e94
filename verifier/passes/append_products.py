"""Products of inputs and outputs, which a specification asks for, behind a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from verifier.graph.ir import Attribute, Graph, Node, unused
from verifier.passes.flatten_io import X


def append_products(graph: Graph, products: Sequence[Sequence[int]]) -> Graph:
    """The network y(x), both flat (see `flatten_io`), with the products of these elements of [x; y] after y."""
    y, source = graph.outputs[0], "specification"
    shapes, nodes = dict(graph.shapes), list(graph.nodes)

    def add(op: str, inputs: tuple[str, ...], size: int, **attrs: Attribute) -> str:
        name = unused(f"product/{op}", shapes)
        shapes[name] = (size,)
        nodes.append(Node(op, inputs, name, attrs=attrs, source=source))
        return name

    n = graph.size(X)
    elements: dict[int, str] = {}
    made = []
    for product in products:
        factors = []
        for place, power in sorted(Counter(product).items()):
            if place not in elements:
                of, at = (X, place) if place < n else (y, place - n)
                elements[place] = add("Slice", (of,), 1, axis=0, start=at, stop=at + 1, step=1)
            one = elements[place]
            factors.append(one if power == 1 else add("Pow", (one,), 1, exponent=power))
        while len(factors) > 1:
            factors[:2] = [add("Mul", (factors[0], factors[1]), 1)]
        made += factors
    output = add("Concat", (y, *made), graph.size(y) + len(made), axis=0)
    return Graph(graph.inputs, (output,), tuple(nodes), shapes)
