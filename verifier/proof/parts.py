"""The open nodes of a proof that the search does not know itself: what they were narrowed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verifier.checker.prove import Part


class OpenParts:
    """Parts by node. What a step puts or takes counts from when it has happened."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self._made: dict[int, Part] = {}
        self._gone: set[int] = set()

    def get(self, node: int) -> Part | None:
        """That of a node; None for one that is not known."""
        return self._made.get(node) or self.parts.get(node)

    def put(self, parts: Mapping[int, Part]) -> None:
        """New nodes."""
        self._made.update(parts)

    def take(self, nodes: Iterable[int]) -> None:
        """Nodes that were split or proven."""
        self._gone.update(nodes)

    def commit(self) -> None:
        """The step has happened."""
        self.parts.update(self._made)
        for node in self._gone:
            self.parts.pop(node, None)
        self.rollback()

    def rollback(self) -> None:
        """The step has not happened."""
        self._made, self._gone = {}, set()
