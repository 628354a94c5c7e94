"""Networks that end in Softmax or ArgMax: specifications that can be asked of the logits instead.

Softmax keeps the order of its inputs, so a row that compares two outputs of one softmax (c Y_i - c Y_j <= 0) asks the
same of the logits. The index an ArgMax returns is c exactly when logit c is largest, so a row on the index selects
classes.
"""

from __future__ import annotations

from verifier.errors import ProblemError
from verifier.graph.onnx_import import Final
from verifier.problem import Condition


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

    A tie is counted for every class that shares it, which can only add violations: `unsat` stays sound, and a witness
    is replayed anyway.

    Raises:
        ProblemError: several indices, or a row that mixes the index with inputs.
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

    def holds(condition: Condition, index: int) -> bool:
        if condition.x:
            raise ProblemError("a row mixes the ArgMax index with inputs; export the network up to its logits instead")
        value = sum(v * index for _, v in condition.y)
        return value < condition.rhs if condition.strict else value <= condition.rhs

    result = []
    for clauses in clauses_of:
        per_query = []
        for clause in clauses:
            for c in range(final.n):
                if all(holds(conditions[k], c) for k in clause):
                    per_query.append([at_most(j, c) for j in range(final.n) if j != c])
        result.append(per_query)
    return logits, result
