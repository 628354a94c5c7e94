"""What the importer hands over: the graph, and the file it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.graph.ir import Graph, Shape


@dataclass(frozen=True)
class ModelLimits:
    """Bounds on what an untrusted file may ask for.

    `bytes`: size of the file with its external weights (protobuf itself stops at 2 GiB). `unpacked`: size of a gzip
    file after decompression, less, because a few megabytes can ask for it. `elements`: of any one tensor. `nodes`: of
    the ONNX graph and of the lowered graph. `depth`: of nesting in the protobuf message is bounded by protobuf (100).
    """

    bytes: int = 2**31 - 1
    unpacked: int = 2**30
    elements: int = 2**28
    nodes: int = 200_000


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the ONNX file declares it; symbolic dimensions are 1 in `shape`, listed in `symbolic`."""

    name: str
    shape: Shape
    dtype: np.dtype
    symbolic: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Final:
    """A Softmax or ArgMax that is the last thing the network does.

    The logits, flattened row-major, are an array (outer, n, inner) and the operator works along its middle axis. The
    network's output, flattened, is (outer, n, inner) for `softmax` and (outer, inner), holding indices, for `argmax`
    (`last`: the largest index wins a tie, otherwise the smallest).
    """

    kind: str
    outer: int
    n: int
    inner: int
    last: bool = False


@dataclass(frozen=True, eq=False)
class Model:
    """A network read from ONNX.

    `bytes` is the serialized model as stored (after gunzip, external weights brought in), for ONNX Runtime. `graph`
    computes the declared outputs. Where the network ends in a Softmax or ArgMax, `final` says so and `graph_logits` is
    the graph up to its input (one output). `half`: some values are float16, which ONNX Runtime rounds far more
    coarsely. `parts`: the names and models of several networks side by side (see `several`); empty for one.
    """

    bytes: bytes
    path: str
    graph: Graph
    input_infos: tuple[TensorInfo, ...]
    output_infos: tuple[TensorInfo, ...]
    opset: int
    final: Final | None = None
    graph_logits: Graph | None = None
    half: bool = False
    parts: tuple[tuple[str, Model], ...] = ()

    @property
    def input_shape(self) -> Shape:
        """The shape of the only input; () where there are several."""
        return self.input_infos[0].shape if len(self.input_infos) == 1 else ()

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, infos)) for infos in (self.input_infos, self.output_infos))
        return f"Model({self.path}, opset {self.opset}: {inputs} -> {outputs}; {self.graph!r})"
