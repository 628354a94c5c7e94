"""A network with one hidden layer of ReLUs written down as matrices, and its clauses as functions of the input.

On a box every output row is  g(x) = linear . x + constant + sum_j gain_j relu(weight_j . x + bias_j),  and a clause is
violated at x exactly when all of its K functions are <= 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.ops.kinds import LinearOp, Op
from verifier.problem.rows import RowTable
from verifier.tolerance import EXACT, LAYER_FLOOR, gamma, lost

MOST_ELEMENTS = 20_000_000
"""Elements of the largest matrix that is written down."""


@dataclass(frozen=True, eq=False)
class Layer:
    """All outputs: `outputs` (m, n + N) over inputs and ReLU outputs, `constant` (m,); `weight` (N, n), `bias` (N,) the
    arguments of the ReLUs. Each entry is a sum of products over all paths; `*_size` are the sums of their magnitudes,
    which rounding is relative to (`unit`), however much cancels.
    """

    outputs: Tensor
    constant: Tensor
    weight: Tensor
    bias: Tensor
    outputs_size: Tensor
    constant_size: Tensor
    weight_size: Tensor
    bias_size: Tensor
    unit: float


@dataclass(frozen=True, eq=False)
class Clause:
    """K functions on a box `lower`, `upper` (n,), float64; all <= 0 at once is a violation.

    `linear` (K, n), `constant` (K,), `gain` (K, N), `weight` (N, n), `bias` (N,): only the neurons whose argument
    changes sign on the box, with arguments in [`low`, `high`] (N,). The first `loose` neurons have a negative gain
    somewhere: there the ReLU has to be bounded from above, which only knowing the sign makes exact. The others are
    convex and are bounded exactly by the best slope in [0, 1].
    `argument_error` (N,), `row_error` (K,): what rounding may add to the arguments and functions on the box, for these
    matrices and for any bound computed from them; `unit` is the relative error of one such sum. `neuron`
    (N,) are their numbers in the layer; for whoever writes a proof, `on` says of its every neuron whether it is never
    negative.
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
    argument_error: Tensor
    row_error: Tensor
    unit: float
    neuron: Tensor
    on: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def values(self, x: Tensor) -> Tensor:
        """The functions at points (B, n): (B, K)."""
        return x @ self.linear.T + self.constant + (x @ self.weight.T + self.bias).clamp(min=0) @ self.gain.T


def suits(network: Network) -> bool:
    """Whether every non-linear operator is a ReLU of a linear function of the input, and the matrices fit."""
    if set(network.relaxed) != set(network.relus) or not network.relus:
        return False
    if any(isinstance(op, LinearOp) and not op.exact for op in network.ops):
        return False  # weights and offsets known to within an error: there is no place for it here
    bent = {0: False}  # by slot: whether a ReLU lies before it
    for i, (op, sources) in enumerate(zip(network.ops, network.sources, strict=True)):
        if not isinstance(op, LinearOp) and bent[sources[0]]:
            return False
        bent[i + 1] = not isinstance(op, LinearOp) or any(bent[s] for s in sources)
    return (network.n + network.neurons) * network.widest <= MOST_ELEMENTS


def formulate(network: Network) -> Layer:
    """The matrices of a network that `suits`."""
    n, neurons = network.n, network.neurons
    variables = n + neurons
    unit = torch.eye(n, dtype=torch.float64, device=network.device)
    start = torch.cat([unit, unit.new_zeros(neurons, n)]), unit.new_zeros(1, n)
    first: tuple[Tensor, ...] = (*start, *start)
    found: list[tuple[Tensor, ...]] = []
    place, terms = n, 0

    # by slot: columns (variables, *S) and constants (1, *S), each with the sums of magnitudes beside it
    def step(i: int, op: Op, given: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        nonlocal place, terms
        if isinstance(op, LinearOp):
            # what underflows is as good as lost: a magnitude whose rounding is that much
            least = lost(op.terms, torch.float64) / EXACT if op.terms else 0.0
            part, size = op.linear(*(v[0] for v in given)), op.absolute(*(v[2] for v in given)) + least
            offset = op.offset()
            more = op.absolute(*(v[3] for v in given)) + least
            terms += op.terms + 2
            return (
                part if given else part.new_zeros(variables, *part.shape[1:]),
                op.forward(*(v[1] for v in given)),
                size if given else part.new_zeros(variables, *part.shape[1:]),
                more if offset is None else more + offset.abs(),
            )
        columns, constants, size, more = given[0]
        found.append((columns.flatten(1).T[:, :n], constants.flatten(), size.flatten(1).T[:, :n], more.flatten()))
        count = constants.numel()
        fresh = unit.new_zeros(variables, count)
        fresh[place : place + count] = torch.eye(count, dtype=unit.dtype, device=unit.device)
        fresh = fresh.reshape(variables, *network.shapes[i + 1])
        zero = unit.new_zeros(1, *network.shapes[i + 1])
        place += count
        return fresh, zero, fresh, zero

    columns, constants, size, more = network.walk(first, step)
    weight, bias, weight_size, bias_size = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Layer(
        columns.flatten(1).T,
        constants.flatten(),
        weight,
        bias,
        size.flatten(1).T,
        more.flatten(),
        weight_size,
        bias_size,
        gamma(terms + 4 * (n + neurons), torch.float64),
    )


def clauses(layer: Layer, table: RowTable, query: int, lower: Tensor, upper: Tensor) -> list[Clause]:
    """The clauses of a query on its box (n,), float64; a padded row (right side +inf) belongs to none."""
    result = []
    for number in range(int(table.clauses[query])):
        picked = (table.clause[query] == number) & torch.isfinite(table.rhs[query])
        row = table.row[query][picked]
        functions, size = layer.outputs[row], layer.outputs_size[row]
        n = len(lower)
        rhs = table.rhs[query][picked].double()
        linear, constant = functions[:, :n], layer.constant[row] - rhs
        linear_size, constant_size = size[:, :n], layer.constant_size[row] + rhs.abs()
        if table.mixed is not None:
            mixed = table.mixed[row].double()
            linear, linear_size = linear + mixed, linear_size + mixed.abs()
        sizes = linear_size, constant_size, size[:, n:]
        result.append(_clause(layer, linear, constant, functions[:, n:], sizes, lower, upper))
    return result


def _clause(
    layer: Layer,
    linear: Tensor,
    constant: Tensor,
    gain: Tensor,
    sizes: tuple[Tensor, Tensor, Tensor],
    lower: Tensor,
    upper: Tensor,
) -> Clause:
    """Folds the neurons whose sign is known on the box into the linear part; the loose ones come first."""
    centre, radius, reach = (lower + upper) / 2, (upper - lower) / 2, torch.maximum(lower.abs(), upper.abs())
    size = layer.weight_size @ reach + layer.bias_size
    middle, spread = layer.weight @ centre + layer.bias, layer.weight.abs() @ radius
    error = 4 * layer.unit * size + LAYER_FLOOR
    low, high = middle - spread - error, middle + spread + error
    # 4 units: the entries' own rounding, that of the sums below, and that of a bound and of its minimum over the box
    row_error = 4 * layer.unit * (sizes[0] @ reach + sizes[1] + sizes[2] @ size) + LAYER_FLOOR
    # products of multipliers and gains that underflow are missed at the size of what they meet
    row_error = row_error + lost(len(lower) + len(size), torch.float64) * (1 + reach.sum() + size.sum())
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
        error[order],
        row_error,
        layer.unit,
        order,
        low >= 0,
    )
