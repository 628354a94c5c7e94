"""A problem as tensors on the device that computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from verifier.bounds.bound import Setting
from verifier.bounds.inputs import IdentityMap
from verifier.bounds.network import Network, build, narrowed
from verifier.errors import OptionsError
from verifier.ops.affine import Dense
from verifier.ops.layout import Reshape
from verifier.ops.piecewise import Relu
from verifier.options import Options
from verifier.problem.problem import Problem
from verifier.problem.rows import RowTable

MANY, FEW, PLAIN = 64, 8, (Dense, Relu, Reshape)
"""Where nothing is asked for, networks of these operators with few inputs are bounded in float32 in steps of so many
boxes (measured: `benchmarks/README.md`)."""


@dataclass(frozen=True, eq=False)
class OnDevice(Setting):
    """What is bounded, in float32 too (`single`) for steps of at least `many` boxes, where the options ask for it or it
    pays; and the box of every query, `lower` and `upper` (Q, n)."""

    problem: Problem = field(kw_only=True)
    lower: Tensor = field(kw_only=True)
    upper: Tensor = field(kw_only=True)

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
        return OnDevice(
            problem.graph,
            network,
            RowTable.from_rows(problem.rows, dtype, device),
            IdentityMap(torch.from_numpy(problem.free).to(device)),
            narrowed(network, problem.graph) if options.dtype == "float32" or auto else None,
            MANY if auto else 0,
            problem=problem,
            lower=torch.from_numpy(problem.lower).to(device),
            upper=torch.from_numpy(problem.upper).to(device),
        )

    @cached_property
    def float32(self) -> Network:
        """The network in float32, for what has to be quick and proves nothing."""
        return build(self.graph, torch.float32, self.device)

    @property
    def queries(self) -> int:
        """Q."""
        return self.problem.queries

    @property
    def free(self) -> int:
        """Most inputs that vary in a query."""
        return self.inputs.generators

    @property
    def own(self) -> int | None:
        """How many of the coordinates, the first ones, are inputs; None where all are (see `problem.FixedValues`)."""
        return None if self.problem.computed is None else len(self.problem.kept)

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
