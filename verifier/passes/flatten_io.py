"""One flat input, one flat output."""

from __future__ import annotations

from verifier.graph.ir import Graph, Node, Shape, unused

X, Y = "x", "y"


def flatten_io(graph: Graph) -> Graph:
    """The same network with a single input `x` (n,) and a single output `y` (m,).

    `x` is all inputs in the order of declaration, each row-major; `y` likewise. Values of the graph that have one of
    these two names are renamed. A graph that already has this form is returned as it is.
    """
    if graph.inputs == (X,) and graph.outputs == (Y,) and len(graph.shapes[X]) == len(graph.shapes[Y]) == 1:
        return graph
    renamed = {name: unused(name, graph.shapes) for name in (X, Y) if name in graph.shapes}
    new = {name: renamed.get(name, name) for name in graph.shapes}
    shapes: dict[str, Shape] = {new[name]: shape for name, shape in graph.shapes.items()}
    shapes[X] = (graph.n_inputs,)
    nodes: list[Node] = []
    start = 0
    for name in graph.inputs:
        stop = start + graph.size(name)
        part = X
        if len(graph.inputs) > 1:
            part = unused(f"{X}/{new[name]}", shapes)
            shapes[part] = (stop - start,)
            nodes.append(Node("Slice", (X,), part, attrs={"axis": 0, "start": start, "stop": stop, "step": 1}))
        nodes.append(Node("Reshape", (part,), new[name]))
        start = stop
    for node in graph.nodes:
        inputs = tuple(new[name] for name in node.inputs)
        nodes.append(Node(node.op, inputs, new[node.output], node.params, node.attrs, node.source))
    parts = []
    for index, name in enumerate(graph.outputs):
        part = Y if len(graph.outputs) == 1 else unused(f"{Y}/{index}", shapes)
        shapes[part] = (graph.size(name),)
        nodes.append(Node("Reshape", (new[name],), part))
        parts.append(part)
    if len(parts) > 1:
        shapes[Y] = (graph.n_outputs,)
        nodes.append(Node("Concat", tuple(parts), Y, attrs={"axis": 0}))
    return Graph((X,), (Y,), tuple(nodes), shapes)
