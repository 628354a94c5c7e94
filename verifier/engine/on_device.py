"""A problem as tensors on the device that computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from verifier.bounds.bound import Setting
from verifier.bounds.inputs import IdentityMap, InputMap
from verifier.bounds.network import Network, build, narrowed
from verifier.errors import OptionsError
from verifier.ops.affine import Dense
from verifier.ops.layout import Reshape
from verifier.ops.piecewise import Relu
from verifier.options import Options
from verifier.problem.problem import Problem
from verifier.problem.rows import RowTable
from verifier.search.domains import outward

MANY, FEW, PLAIN = 64, 8, (Dense, Relu, Reshape)
"""Where nothing is asked for, networks of these operators with few inputs are bounded in float32 in steps of so many
boxes (measured: `benchmarks/README.md`)."""


@dataclass(frozen=True, eq=False)
class OnDevice:
    """The `network` in float64, and in float32 (`single`) for steps of at least `many` boxes, where the options ask for
    it or it pays; the rows of the property; the box of every query, `lower` and `upper` (Q, n)."""

    problem: Problem
    network: Network
    single: Network | None
    table: RowTable
    inputs: InputMap
    lower: Tensor
    upper: Tensor
    many: int = 0

    @staticmethod
    def of(problem: Problem, options: Options) -> OnDevice:
        """OptionsError if there is no such device."""
        device, dtype = device_of(options.device), torch.float64
        network = build(problem.graph, dtype, device)
        auto = (
            options.dtype == "auto"
            and problem.free.shape[1] <= FEW
            and all(isinstance(op, PLAIN) for op in network.ops)
        )
        lower, upper = (t.to(device) for t in outward(problem.lower, problem.upper, dtype))
        return OnDevice(
            problem,
            network,
            narrowed(network, problem.graph) if options.dtype == "float32" or auto else None,
            RowTable.from_rows(problem.rows, dtype, device),
            IdentityMap(torch.from_numpy(problem.free).to(device)),
            lower,
            upper,
            MANY if auto else 0,
        )

    @cached_property
    def setting(self) -> Setting:
        """The same, as bounds take it."""
        return Setting(self.problem.graph, self.network, self.table, self.inputs, self.single, self.many)

    @property
    def queries(self) -> int:
        """Q."""
        return self.problem.queries

    @property
    def free(self) -> int:
        """Most inputs that vary in a query."""
        return self.inputs.generators

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.network.device


def device_of(name: str) -> torch.device:
    """The device that an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionsError("device cuda: this PyTorch finds no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
