"""How often a search splits each input and each neuron: one addition a step, read at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.problem.problem import Problem
from verifier.result import Splits
from verifier.search.policy import Parts

MOST = 100
"""Inputs and neurons that are named."""


@dataclass(frozen=True, eq=False)
class SplitCounts:
    """`inputs` (n,) and `neurons` (N,), int64: counts by number, filled by `add`; neurons are numbered as in
    `Network.arguments`."""

    inputs: Tensor
    neurons: Tensor

    @staticmethod
    def of(network: Network) -> SplitCounts:
        """Nothing counted yet."""
        neurons = max((first + _size(network, *key) for key, first in network.arguments.items()), default=0)
        zeros = torch.zeros(network.n + neurons, dtype=torch.int64, device=network.device)
        return SplitCounts(zeros[: network.n], zeros[network.n :])

    def add(self, parts: Parts) -> None:
        """What a step has split."""
        for counts, numbers in ((self.inputs, parts.inputs), (self.neurons, parts.neurons)):
            if numbers is not None and len(numbers):
                counts.index_add_(0, numbers, torch.ones_like(numbers))

    def named(self, network: Network, problem: Problem) -> Splits:
        """The counts by name: inputs by their place in the network's input, neurons by the first ONNX node that reads
        their layer and their place in it."""
        inputs, neurons = _largest(self.inputs), _largest(self.neurons)
        layers, places = [], []
        read_by = {first: key for key, first in reversed(network.arguments.items())}
        for start, (i, k) in sorted(read_by.items()):
            node, end = network.ops[i].node, start + _size(network, i, k)
            name = (node.source or node.output) + (f", argument {k + 1}" if len(network.sources[i]) > 1 else "")
            part = self.neurons[start:end]
            if total := int(part.sum()):
                layers.append((name, total, int((part > 0).sum())))
            places += [(number, (name, number - start, count)) for number, count in neurons if start <= number < end]
        place = dict(places)
        return Splits(
            tuple((f"X_{problem.kept[number]}", count) for number, count in inputs),
            tuple(layers),
            tuple(place[number] for number, _ in neurons),
            int(self.inputs.sum()),
            int(self.neurons.sum()),
        )


def joined(parts: Sequence[Splits]) -> Splits:
    """What several searches split, of networks with the same names; how many neurons a layer's splits were is that of
    the search with most."""
    inputs: Counter[str] = Counter()
    layers: dict[str, tuple[int, int]] = {}
    neurons: Counter[tuple[str, int]] = Counter()
    for part in parts:
        inputs.update(dict(part.inputs))
        neurons.update({(name, number): count for name, number, count in part.neurons})
        for name, total, many in part.layers:
            known, most = layers.get(name, (0, 0))
            layers[name] = known + total, max(most, many)
    return Splits(
        tuple(inputs.most_common(MOST)),
        tuple((name, *counts) for name, counts in layers.items()),
        tuple((*name, count) for name, count in neurons.most_common(MOST)),
        sum(part.of_inputs for part in parts),
        sum(part.of_neurons for part in parts),
    )


def _size(network: Network, op: int, argument: int) -> int:
    return network.size(network.sources[op][argument])


def _largest(counts: Tensor) -> list[tuple[int, int]]:
    """Numbers and counts, the largest first; of equal ones the first."""
    order = counts.cpu().argsort(descending=True, stable=True)[:MOST]
    return [(i, c) for i, c in zip(order.tolist(), counts.cpu()[order].tolist(), strict=True) if c]
