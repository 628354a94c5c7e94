"""Criterion `layer`: drop whole residual blocks, those whose removal changes the output least (form is our own)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pruning.agreement import Agreement, agreement
from pruning.calibration import Activations, Calibration
from pruning.errors import NothingToPrune
from pruning.net import Net, OnnxNode
from pruning.options import share
from pruning.surgery import clean


@dataclass(frozen=True)
class Block:
    """A residual sum `output = skip + branch(skip)`; `cost` is the mean squared change of the network output without
    it.
    """

    node: int
    name: str
    skip: str
    cost: float = float("nan")


def find_blocks(net: Net) -> list[Block]:
    """Sums whose one input comes from the other through a branch that reads nothing else, and has its shape."""
    found = []
    for index, node in enumerate(net.nodes):
        if node.type != "Add" or any(name in net.weights for name in node.inputs):
            continue
        for skip, branch in (node.inputs, node.inputs[::-1]):
            same = net.shapes.get(skip) == net.shapes.get(branch) is not None
            if same and skip not in net.inputs and skip != branch and _only_from(net, branch, skip):
                found.append(Block(index, node.label, skip))
                break
    return found


def _only_from(net: Net, value: str, source: str) -> bool:
    """Does `value` depend on the inputs through `source` alone?"""
    todo, seen = [value], set()
    while todo:
        name = todo.pop()
        if name == source or name in seen or name in net.weights:
            continue
        seen.add(name)
        if name in net.inputs:
            return False
        todo.extend(n for n in net.nodes[net.producer[name]].inputs if n)
    return True


def without(net: Net, blocks: list[Block]) -> Net:
    """The network with these blocks replaced by their shortcuts."""
    moved = {net.nodes[block.node].outputs[0]: block.skip for block in blocks}

    def target(name: str) -> str:
        while name in moved:
            name = moved[name]
        return name

    nodes = []
    for node in net.nodes:
        made = node.outputs[0] if node.outputs else ""
        if made in moved and made in net.outputs:  # an output must keep its name
            nodes.append(replace(node, type="Identity", inputs=(target(made),), attrs={}, raw=b""))
        elif made not in moved:
            nodes.append(replace(node, inputs=tuple(target(name) for name in node.inputs)))
    return clean(net.changed(nodes))


def silenced(net: Net, blocks: list[Block]) -> Net:
    """The masked counterpart of `without`: everything stays, but these blocks add zero (branch minus branch)."""
    skips = {block.node: block.skip for block in blocks}
    nodes: list[OnnxNode] = []
    for index, node in enumerate(net.nodes):
        if index in skips:
            slot = 1 if node.inputs[0] == skips[index] else 0
            quiet, branch = net.fresh_name(f"{node.outputs[0]}_quiet"), node.inputs[slot]
            nodes.append(OnnxNode("Sub", (branch, branch), (quiet,)))
            node = replace(node, inputs=tuple(quiet if s == slot else name for s, name in enumerate(node.inputs)))
        nodes.append(node)
    return net.changed(nodes)


def drop_blocks(net: Net, ratio: float, data: Calibration) -> tuple[Net, list[Block], list[Block], Agreement]:
    """Remove the share `ratio` of the blocks: (network, removed blocks, all blocks by cost, its check).

    Raises WrongNetwork if the result is not the network with the branches of these blocks at zero.
    """
    share(ratio)
    blocks = find_blocks(net)
    if not blocks:
        raise NothingToPrune("nothing to prune: the network has no residual block with an identity shortcut")
    data = data.fitted(net)
    want = _outputs(net, data)
    costs = [float(((_outputs(without(net, [block]), data) - want) ** 2).mean()) for block in blocks]
    ranked = sorted((replace(b, cost=c) for b, c in zip(blocks, costs, strict=True)), key=lambda b: (b.cost, b.node))
    chosen = ranked[: round(ratio * len(blocks))]
    result = without(net, chosen) if chosen else net
    return result, chosen, ranked, agreement(result, silenced(net, chosen))


def _outputs(net: Net, data: Calibration) -> np.ndarray:
    points = data.points()[np.arange(len(data.images)) % data.samples]
    return Activations(net, [net.outputs[0]])(data.moved(data.images, points))[net.outputs[0]].astype(float)
