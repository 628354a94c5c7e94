"""Classification of a query in the standard's theories, such as NH-SNET-SIO-SNC-OUTC-FLOAT32."""

from __future__ import annotations

from collections.abc import Iterable

from vnnlib.polynomial import Terms
from vnnlib.spec import RELATIONS, Application, Num, Spec, Term, Variable, postorder

BND, OUTC, LIN, POLY = range(4)


def name_logic(spec: Spec, arithmetic: int, several_nodes: bool) -> str:
    """Put the name together from the declarations and what the comparisons need."""
    networks = spec.networks
    relations = [n.equivalence[0] for n in networks if n.equivalence]
    if len(networks) == 1:
        nets = "SNET"
    elif len(relations) < len(networks) - 1:
        nets = "MNET"
    else:
        nets = "MENET" if all(r == "equal-to" for r in relations) else "MINET"
    hidden = "H" if any(n.hidden for n in networks) else "NH"
    several = any(len(n.inputs) > 1 or len(n.outputs) > 1 for n in networks)
    types = sorted({t.dtype.upper() for t in spec.tensors})
    nodes = "MNC" if several_nodes else "SNC"
    return "-".join(
        (hidden, nets, "MIO" if several else "SIO", nodes, ("BND", "OUTC", "LIN", "POLY")[arithmetic], *types)
    )


def arithmetic_of(relation: Application, spec: Spec, polynomial: Terms | None) -> int:
    """Return the arithmetic class of one comparison; `polynomial` is needed unless both sides are leaves."""
    sides = relation.args
    if all(isinstance(side, Num | Variable) for side in sides):
        variables = [side for side in sides if isinstance(side, Variable)]
        if len(variables) < 2:
            return BND
        return OUTC if any(spec.tensors[v.tensor].kind != "input" for v in variables) else LIN
    nonlinear = polynomial is not None and any(len(monomial) > 1 for monomial in polynomial)
    return POLY if nonlinear else LIN


def mixes_nodes(relation: Application, network_of: tuple[int, ...]) -> bool:
    """Say whether one comparison uses two tensors of the same network."""
    tensors = {node.tensor for node in postorder(relation) if isinstance(node, Variable)}
    return len(tensors) > len({network_of[t] for t in tensors})


def network_numbers(spec: Spec) -> tuple[int, ...]:
    """Return, for each tensor in declaration order, the number of its network."""
    return tuple(number for number, network in enumerate(spec.networks) for _ in network.tensors)


def comparisons(trees: Iterable[Term]) -> Iterable[Application]:
    """Yield every comparison of boolean trees, in order, without entering arithmetic."""
    for tree in trees:
        stack: list[Term] = [tree]
        while stack:
            node = stack.pop()
            if isinstance(node, Application) and node.op in RELATIONS:
                yield node
            elif isinstance(node, Application):
                stack.extend(reversed(node.args))
