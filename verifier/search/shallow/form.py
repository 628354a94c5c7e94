"""A network with one hidden layer of ReLUs written down as matrices, and its clauses as functions of the input.

On a box every output row is  g(x) = linear . x + constant + sum_j gain_j relu(weight_j . x + bias_j),  and a clause is
violated at x exactly when all of its K functions are <= 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.bounder import Sweep
from verifier.bounds.network import Network
from verifier.ops.kinds import LinearOp
from verifier.rows import RowTable
from verifier.tolerance import proof_margin

MOST_ELEMENTS = 20_000_000
"""Elements of the largest matrix that is written down."""


@dataclass(frozen=True, eq=False)
class Layer:
    """All outputs: `outputs` (m, n + N) over inputs and ReLU outputs, `constant` (m,); `weight` (N, n), `bias` (N,) the
    arguments of the ReLUs. `largest` () is the largest magnitude met on the way, which rounding is relative to.
    """

    outputs: Tensor
    constant: Tensor
    weight: Tensor
    bias: Tensor
    largest: Tensor


@dataclass(frozen=True, eq=False)
class Clause:
    """K functions on a box `lower`, `upper` (n,), float64; all <= 0 at once is a violation.

    `linear` (K, n), `constant` (K,), `gain` (K, N), `weight` (N, n), `bias` (N,): only the neurons whose argument
    changes sign on the box, with arguments in [`low`, `high`] (N,). The first `loose` neurons have a negative gain
    somewhere: there the ReLU has to be bounded from above, which only knowing the sign makes exact. The others are
    convex and are bounded exactly by the best slope in [0, 1].
    `argument_size` (N,), `row_size` (K,): what rounding errors of the arguments and functions are relative to.
    """

    linear: Tensor
    constant: Tensor
    gain: Tensor
    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor
    lower: Tensor
    upper: Tensor
    loose: int
    argument_size: Tensor
    row_size: Tensor

    def values(self, x: Tensor) -> Tensor:
        """The functions at points (B, n): (B, K)."""
        return x @ self.linear.T + self.constant + (x @ self.weight.T + self.bias).clamp(min=0) @ self.gain.T


def suits(network: Network) -> bool:
    """Whether every non-linear operator is a ReLU of a linear function of the input, and the matrices fit."""
    if set(network.relaxed) != set(network.relus) or not network.relus:
        return False
    if any(isinstance(op, LinearOp) and op.inexact() is not None for op in network.ops):
        return False  # offsets known to within an error: there is no place for it here
    bent = {0: False}  # by slot: whether a ReLU lies before it
    for i, (op, sources) in enumerate(zip(network.ops, network.sources, strict=True)):
        if not isinstance(op, LinearOp) and bent[sources[0]]:
            return False
        bent[i + 1] = not isinstance(op, LinearOp) or any(bent[s] for s in sources)
    return (network.n + network.neurons) * network.widest <= MOST_ELEMENTS


def formulate(network: Network, known: Sweep) -> Layer:
    """The matrices of a network that `suits`, with magnitudes from a sweep over one box."""
    n, neurons = network.n, network.neurons
    variables = n + neurons
    unit = torch.eye(n, dtype=torch.float64, device=network.device)
    columns: dict[int, Tensor] = {0: torch.cat([unit, unit.new_zeros(neurons, n)])}
    constants: dict[int, Tensor] = {0: unit.new_zeros(1, n)}
    weights, biases, place = [], [], n
    for i, (op, sources) in enumerate(zip(network.ops, network.sources, strict=True)):
        if isinstance(op, LinearOp):
            part = op.linear(*(columns[s] for s in sources))
            columns[i + 1] = part if sources else part.new_zeros(variables, *part.shape[1:])
            constants[i + 1] = op.forward(*(constants[s] for s in sources))
        else:
            weights.append(columns[sources[0]].flatten(1).T[:, :n])
            biases.append(constants[sources[0]].flatten())
            size = len(biases[-1])
            fresh = unit.new_zeros(variables, size)
            fresh[place : place + size] = torch.eye(size, dtype=unit.dtype, device=unit.device)
            columns[i + 1] = fresh.reshape(variables, *network.shapes[i + 1])
            constants[i + 1] = unit.new_zeros(1, *network.shapes[i + 1])
            place += size
        network.release(columns, i)
        network.release(constants, i)
    outputs = columns[network.output].flatten(1).T
    constant = constants[network.output].flatten()
    return Layer(outputs, constant, torch.cat(weights), torch.cat(biases), known.largest[0])


def clauses(layer: Layer, table: RowTable, query: int, lower: Tensor, upper: Tensor) -> list[Clause]:
    """The clauses of a query on its box (n,), float64; a padded row (right side +inf) belongs to none."""
    result = []
    for number in range(int(table.clauses[query])):
        picked = (table.clause[query] == number) & torch.isfinite(table.rhs[query])
        rows = layer.outputs[table.row[query][picked]]
        n = len(lower)
        linear = rows[:, :n]
        if table.mixed is not None:
            linear = linear + table.mixed[table.row[query][picked]].double()
        rhs = table.rhs[query][picked].double()
        constant = layer.constant[table.row[query][picked]] - rhs
        result.append(_clause(layer, linear, constant, rows[:, n:], rhs.abs(), lower, upper))
    return result


def _clause(
    layer: Layer, linear: Tensor, constant: Tensor, gain: Tensor, rhs: Tensor, lower: Tensor, upper: Tensor
) -> Clause:
    """Folds the neurons whose sign is known on the box into the linear part; the loose ones come first."""
    centre, radius, reach = (lower + upper) / 2, (upper - lower) / 2, torch.maximum(lower.abs(), upper.abs())
    size = layer.weight.abs() @ reach + layer.bias.abs() + layer.largest
    middle, spread = layer.weight @ centre + layer.bias, layer.weight.abs() @ radius
    slack = proof_margin(torch.float64) * size
    low, high = middle - spread - slack, middle + spread + slack
    row_size = linear.abs() @ reach + constant.abs() + rhs + gain.abs() @ size + layer.largest
    on = (low >= 0).double()
    linear = linear + (gain * on) @ layer.weight
    constant = constant + (gain * on) @ layer.bias
    loose = (gain < 0).any(0)
    open_ = ~((low >= 0) | (high <= 0))  # NaN stays open
    order = torch.cat([(open_ & loose).nonzero()[:, 0], (open_ & ~loose).nonzero()[:, 0]])
    return Clause(
        linear,
        constant,
        gain[:, order],
        layer.weight[order],
        layer.bias[order],
        low[order],
        high[order],
        lower,
        upper,
        int((open_ & loose).sum()),
        size[order],
        row_size,
    )
