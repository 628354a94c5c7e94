"""Networks that end in Softmax or ArgMax: specifications that can be asked of the logits instead.

Softmax keeps the order of its inputs, so a row that compares two outputs of one softmax (c Y_i - c Y_j <= 0) asks the
same of the logits. The index an ArgMax returns is c exactly when logit c is largest, so a row on the index selects
classes, and may ask of the inputs what depends on the class.
"""

from __future__ import annotations

from verifier.errors import ProblemError
from verifier.graph.onnx_import import Final
from verifier.problem.problem import Condition, remaining


def through_softmax(conditions: list[Condition], final: Final) -> bool:
    """Whether every row reads the same over the logits as over the probabilities."""

    def group(index: int) -> tuple[int, int]:
        return index // (final.n * final.inner), index % final.inner

    for c in conditions:
        if not c.y:
            continue
        if c.x or c.rhs != 0 or len(c.y) != 2:
            return False
        (i, a), (j, b) = c.y
        if a != -b or group(i) != group(j):
            return False
    return True


def through_argmax(
    conditions: list[Condition], clauses_of: list[list[list[int]]], final: Final
) -> tuple[list[Condition], list[list[list[int]]]]:
    """Rows on one index as rows on the logits: one clause per class that the original clause admits.

    Where a row also speaks of inputs, the index is a number once the class is chosen, and what is left is a row over
    inputs. A tie is counted for every class that shares it, and right-hand sides are rounded up, which can only add
    violations: `unsat` stays sound, and a witness is replayed anyway.

    Raises:
        ProblemError: several indices.
    """
    if final.outer * final.inner != 1:
        raise ProblemError(
            "the network ends in an ArgMax over several groups; only one index can be decided "
            "(export the network up to its logits instead)"
        )
    logits: list[Condition] = []
    number: dict[tuple[int, int], int] = {}

    def at_most(j: int, c: int) -> int:
        """Number of the row  logit_j - logit_c <= 0."""
        if (j, c) not in number:
            number[j, c] = len(logits)
            logits.append(Condition(((j, 1.0), (c, -1.0)), (), 0.0, False))
        return number[j, c]

    def over_inputs(k: int, c: int) -> int:
        """Number of row k over the inputs, with the index c put in."""
        key = -1 - k, c if conditions[k].y else 0
        if key not in number:
            number[key] = len(logits)
            logits.append(Condition((), conditions[k].x, _remaining(conditions[k], c), conditions[k].strict))
        return number[key]

    result = []
    for clauses in clauses_of:
        per_query = []
        for clause in clauses:
            index_rows = [conditions[k] for k in clause if not conditions[k].x]
            input_rows = [k for k in clause if conditions[k].x]
            for c in range(final.n):
                if all(_holds(condition, c) for condition in index_rows):
                    wins = [at_most(j, c) for j in range(final.n) if j != c]
                    per_query.append(wins + [over_inputs(k, c) for k in input_rows])
        result.append(per_query)
    return logits, result


def _remaining(condition: Condition, index: int) -> float:
    """The right-hand side once the index is put in: exact, or rounded up."""
    return remaining(condition.rhs, ((v, index) for _, v in condition.y))


def _holds(condition: Condition, index: int) -> bool:
    """Whether a row on the index alone holds."""
    left = _remaining(condition, index)  # rounding up keeps its sign
    return left > 0 if condition.strict else left >= 0
