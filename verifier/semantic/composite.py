"""The composite network: parameters -> image -> clip -> normalisation -> the user's network -> extra rows."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import compose

from verifier.errors import OptionsError
from verifier.graph.onnx_import.build import ModelBuilder, checked
from verifier.perturbation.polynomial import ImageMap, Monomial, Polynomial
from verifier.semantic.network import ImageNetwork, graph_inputs
from verifier.semantic.properties import AbsTail

CLIPS = ("clip", "relu", "none")
PREFIX = "net/"


def image_map(network: ImageNetwork, polynomial: Polynomial, parameters: int) -> ImageMap:
    """The first layer of the composite as numbers: the flat image before the clip, in the network's layout.

    Coefficients are rounded to its element type: float64 numbers that are exactly the weights in the file.
    """

    def flat(image: np.ndarray) -> np.ndarray:
        return network.frame.arrange(image).reshape(-1).astype(network.dtype).astype(np.float64)

    return polynomial.flat(parameters, flat)


def with_parameters(
    network: ImageNetwork,
    image: ImageMap,
    parameters: int,
    clip: str,
    tail: AbsTail | np.ndarray | None,
    note: str = "",
) -> onnx.ModelProto:
    """The composite with input `parameters` (1, d): products, one Gemm with the image as weights, clip, network, tail.

    tail: an AbsTail, or a matrix (R, n_outputs) whose product with the flat output becomes the output, or None.
    """
    graph = _Composer(network)
    offset, matrix, monomials = image.layer(powered=False)
    factor, factors, powered = image.layer(powered=True)
    products = tuple(sorted({m for m in (*monomials, *powered) if len(m) > 1}, key=lambda m: (len(m), m)))
    features = graph.products("parameters", products, parameters)
    known = [*((i,) for i in range(parameters)), *products]

    def layer(name: str, offset: np.ndarray, matrix: np.ndarray, monomials: tuple[Monomial, ...], output: str) -> str:
        whole = np.zeros((len(offset), len(known)))
        whole[:, [known.index(m) for m in monomials]] = matrix
        weights = [graph.weight(f"{name}_map", whole.T), graph.weight(f"{name}_base", offset)]
        return graph.node("Gemm", [features, *weights], output)

    if image.power is None or image.logs is None:
        graph.feed(layer("image", offset, matrix, monomials, "image_before_clip"), clip)
    else:
        logs = np.zeros((parameters, len(image.logs)))
        logs[image.power] = image.logs
        power = graph.node("MatMul", ["parameters", graph.weight("logs", logs)], "exponents")
        power = graph.node("Exp", [power], "powers")
        if factors.any() or (factor != 1).any():
            scale = layer("factor", factor, factors, powered, "factors")
            power = graph.node("Mul", [power, scale], "scaled_powers")
        rest = layer("image", offset, matrix, monomials, "rest_of_image")
        graph.feed(graph.node("Add", [power, rest], "image_before_clip"), clip)
    given = ("parameters", [1, parameters])
    if tail is None:
        return graph.close(given, graph.answer, list(network.output), note)
    if isinstance(tail, AbsTail):
        value, matrix = graph.distance(graph.weight("target", tail.centre[None])), tail.matrix
    else:
        value, matrix = graph.flat_answer(), tail
    value = graph.node("MatMul", [value, graph.weight("property_rows", matrix.T)], "property")
    return graph.close(given, value, [1, len(matrix)], note)


def with_image(network: ImageNetwork, clip: str, distance: bool, note: str = "") -> onnx.ModelProto:
    """The network shared by a batch: input `flat` (1, n) is the image before the clip, in the network's layout.

    With `distance` the input is (1, n + m), the image followed by a target t for the m outputs, and the output is
    |y - t| (1, m); otherwise the output is the network's own.
    """
    n, m = math.prod(network.frame.size), network.n_outputs
    graph = _Composer(network)
    if not distance:
        graph.feed("flat", clip)
        return graph.close(("flat", [1, n]), graph.answer, list(network.output), note)
    graph.feed(graph.cut("flat", 0, n, "image_before_clip"), clip)
    value = graph.distance(graph.cut("flat", n, n + m, "target"))
    return graph.close(("flat", [1, n + m]), value, [1, m], note)


class _Composer(ModelBuilder):
    """Collects the nodes before and behind the network, which is `inner`, under prefixed names."""

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network
        self.inner = compose.add_prefix(network.proto, PREFIX)
        self.entry = graph_inputs(self.inner)[0].name
        self.answer = self.inner.graph.output[0].name
        self.before = 0  # how many of the nodes come before the network

    def weight(self, name: str, value: np.ndarray) -> str:
        """Store a constant; numbers take the network's element type, indices stay int64."""
        return self.constant(name, value if value.dtype == np.int64 else value.astype(self.network.dtype))

    def take(self, value: str, index: list[int], name: str) -> str:
        """Columns of a (1, m) value."""
        return self.node("Gather", [value, self.weight(f"{name}_index", np.array(index, np.int64))], name, axis=1)

    def cut(self, value: str, start: int, stop: int, name: str) -> str:
        """Columns start .. stop-1 of a (1, m) value; allowed on both sides of the network."""
        if self.network.opset < 10:
            return self.node("Slice", [value], name, starts=[start], ends=[stop], axes=[1])
        ends = (("start", start), ("stop", stop), ("axis", 1))
        return self.node(
            "Slice", [value, *(self.weight(f"{name}_{k}", np.array([v], np.int64)) for k, v in ends)], name
        )

    def products(self, value: str, products: tuple[Monomial, ...], parameters: int) -> str:
        """[p, products of p]: a product of k parameters is a product of k-1 of them times the last one."""
        known: dict[Monomial, int] = {(i,): i for i in range(parameters)}
        # A shorter product may be needed on the way although its own image is zero.
        wanted = {m[:k] for m in products for k in range(2, len(m) + 1)}
        features = value
        for degree in sorted({len(m) for m in wanted}):
            level = sorted(m for m in wanted if len(m) == degree)
            left = self.take(features, [known[m[:-1]] for m in level], f"left_{degree}")
            right = self.take(features, [known[m[-1:]] for m in level], f"right_{degree}")
            product = self.node("Mul", [left, right], f"products_{degree}")
            known.update({m: len(known) + i for i, m in enumerate(level)})
            features = self.node("Concat", [features, product], f"features_{degree}", axis=1)
        order = [*range(parameters), *(known[m] for m in products)]
        return features if order == list(range(len(known))) else self.take(features, order, "features")

    def feed(self, value: str, clip: str) -> None:
        """Clip, reshape, normalise; the last of these nodes gets the name of the network's input."""
        network = self.network
        value = self._clipped(value, clip)
        value = self.node(
            "Reshape", [value, self.weight("image_shape", np.array(network.frame.shape, np.int64))], "image"
        )
        if network.mean is not None and network.std is not None:
            value = self.node("Sub", [value, self.weight("mean", network.frame.per_channel(network.mean))], "centred")
            self.node("Div", [value, self.weight("std", network.frame.per_channel(network.std))], "normalised")
        self.nodes[-1].output[0] = self.entry
        self.before = len(self.nodes)

    def _clipped(self, value: str, clip: str) -> str:
        if clip not in CLIPS:
            raise OptionsError(f"unknown clip '{clip}'; choose one of {', '.join(CLIPS)}")
        if clip == "none":
            return value
        if clip == "relu":  # 1 - relu(1 - relu(v))
            one = self.weight("one", np.array(1.0))
            value = self.node("Sub", [one, self.node("Relu", [value], "above_0")], "below_1")
            return self.node("Sub", [one, self.node("Relu", [value], "room")], "clipped")
        if self.network.opset < 11:
            return self.node("Clip", [value], "clipped", min=0.0, max=1.0)
        ends = [self.weight("clip_min", np.array(0.0)), self.weight("clip_max", np.array(1.0))]
        return self.node("Clip", [value, *ends], "clipped")

    def flat_answer(self) -> str:
        """The network's output as (1, m)."""
        if self.network.output == (1, self.network.n_outputs):
            return self.answer
        shape = self.weight("flat_shape", np.array([1, self.network.n_outputs], np.int64))
        return self.node("Reshape", [self.answer, shape], "flat_output")

    def distance(self, centre: str) -> str:
        """|y - t| as relu(y - t) + relu(t - y), which every reader of ONNX networks knows."""
        value = self.flat_answer()
        over = self.node("Relu", [self.node("Sub", [value, centre], "gap")], "over")
        under = self.node("Relu", [self.node("Sub", [centre, value], "gap_negated")], "under")
        return self.node("Add", [over, under], "distance")

    def close(self, given: tuple[str, list[int]], output: str, shape: list[int], note: str) -> onnx.ModelProto:
        """The finished model, checked. `given` is name and shape of its input."""
        inner, outer, kind = self.inner.graph, self.network.proto, self.network.dtype
        self.nodes[self.before : self.before] = inner.node
        self.tensors.extend(inner.initializer)
        inputs, outputs = {given[0]: (kind, given[1])}, {output: (kind, shape)}
        model = self.model(inputs, outputs, outer.opset_import, max(4, outer.ir_version), "semantic", note)
        model.graph.sparse_initializer.extend(inner.sparse_initializer)
        model.functions.extend(self.inner.functions)
        return checked(model, "the composite network")
