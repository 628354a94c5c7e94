"""Shallow ReLU problems decided by mixed-integer programming (Tjeng et al. 2019, with HiGHS).

A clause is possible on a box exactly when a mixed-integer linear program is feasible: one variable per input and per
ReLU
output, one binary per ReLU that is undecided there. Asked as a question of feasibility (all rows <= a small margin)
and not as
a minimisation, a shallow network with a hundred neurons takes seconds where branch and bound takes minutes.

An undecided ReLU that only feeds the rows of the clause, and with coefficients >= 0 in all of them, needs no binary:
whatever value above the true one satisfies the rows, the true one does.

What the solver's tolerances can do is bounded by `milp_margin`: the rows may be missed by that much and still count as
possible, so an infeasible program means that they are missed by more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.bounder import Sweep
from verifier.bounds.network import Network
from verifier.ops.kinds import LinearOp
from verifier.rows import RowTable
from verifier.tolerance import milp_margin

MOST_BINARIES = 200
"""Undecided ReLUs up to which a program is worth a try."""

MOST_ELEMENTS = 20_000_000
"""Elements of the largest matrix that is written down."""


@dataclass(frozen=True, eq=False)
class Program:
    """A network on one box as linear constraints over variables v = [inputs; ReLU outputs] (V,).

    `outputs` (m, V) and `constant` (m,) give the network's outputs. For each ReLU output: `argument` (N, V) and `shift`
    (N,) its argument, `low`, `high` (N,) the argument's interval, `last` (N,) whether no other ReLU depends on it.
    """

    lower: np.ndarray
    upper: np.ndarray
    outputs: np.ndarray
    constant: np.ndarray
    argument: np.ndarray
    shift: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def undecided(self) -> np.ndarray:
        """ReLUs that are not affine on the box: mask (N,)."""
        return (self.low < 0) & (self.high > 0)


def formulate(network: Network, known: Sweep, box: int, lower: Tensor, upper: Tensor) -> Program | None:
    """The program of box `box` of a sweep, or None where the network is too large, has other non-linear operators, or a
    ReLU that depends on another one (there the solver's tolerances would pass through weights, and no margin is known).
    """
    if set(network.relaxed) != set(network.relus):
        return None
    n = network.n
    neurons = sum(known.pre[i][0].lower[0].numel() for i in network.relaxed)
    variables = n + neurons
    if variables * network.widest > MOST_ELEMENTS:
        return None
    dtype, device = torch.float64, network.device
    unit = torch.eye(n, dtype=dtype, device=device)
    columns: dict[int, Tensor] = {0: torch.cat([unit, unit.new_zeros(neurons, n)])}
    constants: dict[int, Tensor] = {0: unit.new_zeros(1, n)}
    arguments, shifts, lows, highs, place = [], [], [], [], n
    for i, (op, sources) in enumerate(zip(network.ops, network.sources, strict=True)):
        if isinstance(op, LinearOp):
            part = op.linear(*(columns[s] for s in sources))
            columns[i + 1] = part if sources else part.new_zeros(variables, *part.shape[1:])
            constants[i + 1] = op.forward(*(constants[s] for s in sources))
        else:
            bound = known.pre[i][0]
            arguments.append(columns[sources[0]].flatten(1).T)
            shifts.append(constants[sources[0]].flatten())
            lows.append(bound.lower[box].flatten())
            highs.append(bound.upper[box].flatten())
            size = lows[-1].numel()
            fresh = unit.new_zeros(variables, size)
            fresh[place : place + size] = torch.eye(size, dtype=dtype, device=device)
            columns[i + 1] = fresh.reshape(variables, *network.shapes[i + 1])
            constants[i + 1] = unit.new_zeros(1, *network.shapes[i + 1])
            place += size
        network.release(columns, i)
        network.release(constants, i)
    argument = torch.cat(arguments).cpu().numpy()
    if (argument[:, n:] != 0).any():
        return None
    program = Program(
        lower[box].cpu().numpy(),
        upper[box].cpu().numpy(),
        columns[network.output].flatten(1).T.cpu().numpy(),
        constants[network.output].flatten().cpu().numpy(),
        argument,
        torch.cat(shifts).cpu().numpy(),
        torch.cat(lows).cpu().numpy(),
        torch.cat(highs).cpu().numpy(),
    )
    return program if 0 < program.undecided.sum() <= MOST_BINARIES else None


def decide(program: Program, table: RowTable, query: int, seconds: float) -> tuple[bool, np.ndarray | None]:
    """Whether no point of the box can violate the query, and otherwise a point where the program says one can.

    Returns:
        (True, None): every clause is infeasible, by more than the margin.
        (False, point (n,)): a clause is feasible, at least within the margin.
        (False, None): out of time, or the solver gave no clear answer.
    """
    for clause in range(int(table.clauses[query])):
        rows, limits = _rows(program, table, query, clause)
        possible, point = _solve(program, rows, limits, seconds)
        if possible is None or possible:
            return False, point
    return True, None


def _rows(program: Program, table: RowTable, query: int, clause: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (K, V) and limits (K,) of a clause:  rows . v <= limits."""
    picked = (table.clause[query] == clause) & torch.isfinite(table.rhs[query])
    index = table.row[query][picked].cpu().numpy()
    rows = program.outputs[index].copy()
    if table.mixed is not None:
        rows[:, : len(program.lower)] += table.mixed[table.row[query][picked]].double().cpu().numpy()
    return rows, table.rhs[query][picked].double().cpu().numpy() - program.constant[index]


def _solve(
    program: Program, rows: np.ndarray, limits: np.ndarray, seconds: float
) -> tuple[bool | None, np.ndarray | None]:
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and few problems come here
    from scipy.sparse import coo_array, csr_array, hstack, vstack

    n, neurons = len(program.lower), len(program.low)
    tame = (rows[:, n:] >= 0).all(0)
    binary = np.flatnonzero(program.undecided & ~tame)
    k = len(binary)
    argument, shift, low, high = program.argument, program.shift, program.low, program.high
    own = coo_array(
        (np.ones(neurons), (np.arange(neurons), n + np.arange(neurons))), shape=(neurons, n + neurons)
    ).tocsr()
    gap = own - csr_array(argument)  # ReLU output minus argument

    def with_binaries(block: csr_array, coefficients: np.ndarray | None = None) -> csr_array:
        shape = (block.shape[0], k)
        right = (
            csr_array(shape) if coefficients is None else coo_array((coefficients, (np.arange(k), np.arange(k))), shape)
        )
        return hstack([block, right], format="csr")

    alive = np.flatnonzero(low >= 0)
    margin = milp_margin(rows[:, n:], low, high)
    blocks = [
        (with_binaries(gap), shift, np.inf),  # output >= argument
        (with_binaries(gap[alive]), -np.inf, shift[alive]),  # output <= argument where it is never negative
        (with_binaries(gap[binary], -low[binary]), -np.inf, shift[binary] - low[binary]),  # .. where the binary is 1
        (with_binaries(own[binary], -high[binary]), -np.inf, 0.0),  # output <= 0 where the binary is 0
        (with_binaries(csr_array(rows)), -np.inf, limits + margin),
    ]
    matrix = vstack([block for block, _, _ in blocks], format="csr")
    least = np.concatenate([np.broadcast_to(np.asarray(a, float), (block.shape[0],)) for block, a, _ in blocks])
    most = np.concatenate([np.broadcast_to(np.asarray(b, float), (block.shape[0],)) for block, _, b in blocks])
    answer = milp(
        np.concatenate([rows.sum(0), np.zeros(k)]),
        constraints=LinearConstraint(matrix, least, most),
        bounds=Bounds(
            np.concatenate([program.lower, np.zeros(neurons + k)]),
            np.concatenate([program.upper, np.maximum(high, 0), np.ones(k)]),
        ),
        integrality=np.concatenate([np.zeros(n + neurons), np.ones(k)]),
        options={"time_limit": max(0.1, seconds)},
    )
    if answer.status == 2:
        return False, None
    if answer.x is not None:
        return True, answer.x[:n]
    return None, None
