"""ONNX -> PyTorch and back, through onnx2torch; the graph's weights stay addressable by their ONNX names.

onnx2torch imports torchvision for two operators (NMS, RoiAlign) that no network here needs, and torchvision fails to
load beside a CPU build of torch, so a stand-in without content is offered while onnx2torch is imported. It is removed
afterwards and is never used if a working torchvision is already loaded.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.func import functional_call

from pruning import onnx_io, runtime
from pruning.errors import CriterionError
from pruning.net import Net, OnnxNode

INSTALL = "install it with: pip install --no-deps 'onnx2torch>=1.5.15'"
"""Without its dependencies, all of which are here but torchvision, whose builds do not go with every build of torch."""
TOLERANCE = 1e-4  # relative; torch and ONNX Runtime sum in different orders
# attribute of the torch module -> input slot of the ONNX node it was made from
_PLACES = {
    "Conv": {"weight": 1, "bias": 2},
    "ConvTranspose": {"weight": 1, "bias": 2},
    "Gemm": {"weight": 1, "bias": 2},
    "BatchNormalization": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4},
    "InstanceNormalization": {"weight": 1, "bias": 2},
}


def import_onnx2torch() -> Any:
    """The onnx2torch package; CriterionError says what to install if it is missing."""
    if "onnx2torch" in sys.modules:
        return sys.modules["onnx2torch"]
    names = ("torchvision", "torchvision.ops")
    stand_in = names[0] not in sys.modules
    if stand_in:
        root, ops = types.ModuleType(names[0]), types.ModuleType(names[1])
        root.ops = ops  # type: ignore[attr-defined]
        ops.roi_align = ops.nms = ops.box_convert = _no_torchvision  # type: ignore[attr-defined]
        sys.modules.update(zip(names, (root, ops), strict=True))
    try:
        return importlib.import_module("onnx2torch")
    except ImportError as error:
        raise CriterionError(
            f"gradients and fine-tuning need PyTorch and onnx2torch ({error}); {INSTALL}, or use --mode post-training "
            "with a criterion that needs no gradients"
        ) from error
    finally:
        if stand_in:
            for name in names:
                sys.modules.pop(name, None)


def _no_torchvision(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("this operator needs torchvision")


class TorchNet:
    """A network in PyTorch.

    `leaves` maps ONNX weight names to leaf tensors in the ONNX layout; change or differentiate those. Calling it
    returns the output and the requested intermediate values by ONNX name.
    """

    def __init__(self, net: Net, device: str = "cpu") -> None:
        onnx2torch = import_onnx2torch()
        self.net, self.device = net, torch.device(device)
        if len(net.inputs) != 1 or len(net.outputs) != 1:
            raise CriterionError("training needs a network with one input and one output")
        ready = self._ready = _batchable(net)
        try:
            graph = onnx2torch.convert(onnx_io.model_for_conversion(ready))
        except Exception as error:  # converters raise many types
            raise CriterionError(
                f"onnx2torch cannot read this model ({type(error).__name__}: {str(error)[:160]}); "
                "it can still be pruned with --mode post-training and a criterion without gradients"
            ) from error
        found = _find_weights(graph, ready)  # compares them on the host
        self._module = _Tapped(graph, ready).module.to(self.device)
        self._map: dict[str, tuple[str, Callable[[Any], Any]]] = {}
        self.leaves: dict[str, Any] = {}
        for state, (name, change) in found.items():
            if name not in self.leaves:
                leaf = torch.tensor(net.weights[name], device=self.device)
                self.leaves[name] = leaf.requires_grad_(leaf.is_floating_point())
            self._map[f"graph.{state}"] = (name, change)
        self.trainable = {name: leaf for name, leaf in self.leaves.items() if name not in _statistics(net)}
        for name in self.leaves.keys() - self.trainable.keys():
            self.leaves[name].requires_grad_(False)
        self._module.eval()
        self._validate()

    def __call__(self, images: Any, values: Sequence[str] = (), leaves: Mapping[str, Any] | None = None) -> Any:
        """Output (n, ...) and, if `values` are named, a dictionary of them; `leaves` overrides weights."""
        found = self.tapped(images, values, leaves)
        return found if values else found[0]

    def tapped(
        self, images: Any, values: Sequence[str], leaves: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Output (n, ...) and the values by name, however many."""
        source = self.leaves if leaves is None else {**self.leaves, **leaves}
        state = {key: change(source[name]) for key, (name, change) in self._map.items()}
        with warnings.catch_warnings():  # onnx2torch indexes in a way that recent torch versions comment on
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            output, tapped = functional_call(self._module, state, (images, tuple(values)))
        return output, tapped

    def weight(self, name: str) -> Any:
        """A stored value: the leaf if it has one."""
        return self.leaves[name] if name in self.leaves else self.tensor(np.array(self._ready.weights[name]))

    def run_node(
        self, node: OnnxNode, inputs: Sequence[Any], change: Callable[[Any], Any] | None = None, offset: bool = True
    ) -> Any:
        """One node alone on other inputs; `change` maps its kernel or matrix, `offset` False drops its bias."""
        index = self.net.producer[node.outputs[0]]
        module = getattr(self._module.graph, f"n{index}")
        prefix, state = f"graph.n{index}.", {}
        for key, (name, layout) in self._map.items():
            if key.startswith(prefix):
                value = layout(self.leaves[name])
                if key.rsplit(".", 1)[-1] == "bias" and not offset:
                    value = value * 0
                elif change is not None:
                    value = change(value)
                state[key[len(prefix) :]] = value
        names = self._ready.nodes[index].inputs[len(inputs) :]  # reshape targets there take any batch
        stored = [self.weight(name) for name in names] if not state else []
        if change is not None and stored:
            stored = [change(stored[0]), *(value if offset else value * 0 for value in stored[1:])]
        takes = len(next(s.args for s in self._module.graph.graph.nodes if s.target == f"n{index}"))
        return functional_call(module, state, (*inputs, *stored[: takes - len(inputs)]))

    def tensor(self, array: np.ndarray) -> Any:
        """An array on the device of the network."""
        return torch.as_tensor(array, device=self.device)

    def exported(self) -> Net:
        """The ONNX network with the present values of the weights; structure and names unchanged."""
        values = {
            name: leaf.detach().cpu().numpy().astype(self.net.weights[name].dtype) for name, leaf in self.leaves.items()
        }
        return self.net.changed(weights=values)

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set weights by ONNX name."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                if name in weights:
                    leaf.copy_(self.tensor(weights[name]))

    def _validate(self) -> None:
        """Compare with ONNX Runtime on two random inputs; a converter that is silently wrong must not train
        anything.
        """
        shape = self.net.shapes[self.net.inputs[0]]
        inputs = np.random.default_rng(0).uniform(0, 1, (2, *shape[1:])).astype(np.float32)
        runner = runtime.Runner(onnx_io.to_bytes(self.net))
        want = np.concatenate([runner({self.net.inputs[0]: row[None]})[self.net.outputs[0]] for row in inputs])
        try:
            with torch.no_grad():
                got = self(self.tensor(inputs)).cpu().numpy()
        except Exception as error:
            raise CriterionError(
                f"the model cannot run in PyTorch with a batch of inputs: {str(error)[:200]}"
            ) from error
        if got.shape != want.shape or not np.allclose(
            got, want, rtol=TOLERANCE, atol=TOLERANCE * (1 + np.abs(want).max())
        ):
            raise CriterionError("onnx2torch reads this model differently from ONNX Runtime; it cannot be trained")


class _Tapped:
    """Builds the module that runs the converted graph and remembers intermediate values."""

    def __init__(self, graph: Any, net: Net) -> None:
        names = {f"n{index}": node.outputs for index, node in enumerate(net.nodes)}

        class Interpreter(fx.Interpreter):
            def __init__(self, module: Any, values: tuple[str, ...]) -> None:
                super().__init__(module)
                self.values, self.found = set(values), dict[str, Any]()

            def run_node(self, n: Any) -> Any:
                result = super().run_node(n)
                if n.op == "call_module" and self.values:
                    outputs = names[n.target]
                    parts = result if isinstance(result, tuple | list) else (result,)
                    self.found.update({k: v for k, v in zip(outputs, parts, strict=False) if k in self.values})
                return result

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.graph = graph

            def forward(self, images: Any, values: tuple[str, ...]) -> Any:
                interpreter = Interpreter(self.graph, values)
                output = interpreter.run(images)
                if net.inputs[0] in values:
                    interpreter.found[net.inputs[0]] = images
                return output, interpreter.found

        self.module = Module()


def _find_weights(graph: Any, net: Net) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """For each state entry of the converted graph: ONNX weight and the map from its layout to torch's."""
    found: dict[str, tuple[str, Callable[[Any], Any]]] = {}
    state = dict(graph.state_dict())
    for index, node in enumerate(net.nodes):
        for key, value in state.items():
            owner, _, attribute = key.partition(".")
            slot = _PLACES.get(node.type, {}).get(attribute.rsplit(".", 1)[-1])
            if owner != f"n{index}" or slot is None or not node.input(slot) or node.input(slot) not in net.weights:
                continue
            change = _gemm_layout(node, slot) if node.type == "Gemm" else _same
            _claim(found, key, value, net, node.input(slot), change)
    for step in graph.graph.nodes:
        if step.op == "call_module":
            node = net.nodes[int(str(step.target)[1:])]
            for place, argument in enumerate(step.args):
                if getattr(argument, "op", "") == "get_attr" and place < len(node.inputs):
                    name = node.inputs[place]
                    if name in net.weights and net.weights[name].dtype.kind == "f":
                        _claim(found, str(argument.target), state[str(argument.target)], net, name, _same)
    return found


def _claim(
    found: dict[str, tuple[str, Callable[[Any], Any]]],
    key: str,
    value: Any,
    net: Net,
    name: str,
    change: Callable[[Any], Any],
) -> None:
    mine = change(torch.as_tensor(np.array(net.weights[name])))
    if mine.shape == value.shape and torch.equal(mine.to(value.dtype), value):
        found[key] = (name, change)


def _same(value: Any) -> Any:
    return value


def _gemm_layout(node: OnnxNode, slot: int) -> Callable[[Any], Any]:
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if slot == 2:
        return lambda value: value * beta
    if node.attrs.get("transB", 0):
        return lambda value: value * alpha
    return lambda value: value.T * alpha


def _statistics(net: Net) -> set[str]:
    """Running means and variances: followed, not trained."""
    return {node.input(slot) for node in net.nodes if node.type == "BatchNormalization" for slot in (3, 4)}


def _batchable(net: Net) -> Net:
    """Node names n0, n1, ... for the converter, and reshape targets that name a batch of one opened to any batch."""
    nodes: list[OnnxNode] = []
    weights: dict[str, np.ndarray] = {}
    for index, node in enumerate(net.nodes):
        target = net.constant(node.input(1)) if node.type == "Reshape" else None
        before, after = net.shapes.get(node.input(0)), net.shapes.get(node.outputs[0])
        if target is not None and before and after and before[0] == after[0] == 1 and len(after) > 1 and target[0] == 1:
            name = net.changed(weights=weights).fresh_name(f"{node.outputs[0]}_target")
            weights[name] = np.array([-1, *after[1:]], np.int64)
            node = replace(node, inputs=(node.inputs[0], name))
        nodes.append(replace(node, name=f"n{index}"))
    return net.changed(nodes, weights)
