"""Which mechanisms of the verifier a problem has made use of: a run that never reaches one says nothing about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import verifier.engine as engine
from verifier.bounds.clipped import NeuronPlanes
from verifier.bounds.joint import Joint
from verifier.search import neurons, ties
from verifier.search.neurons import NeuronBounding
from verifier.search.row_trees import RowTrees
from verifier.search.shallow.step import OneLayer

WATCHED: dict[str, tuple[Any, str]] = {
    "query groups": (engine, "decide_in_groups"),
    "splits of neurons": (NeuronBounding, "__call__"),
    "one hidden layer": (OneLayer, "bound"),
    "clipped intervals": (NeuronPlanes, "within"),
    "row trees": (RowTrees, "step"),
    "quadratic intervals": (Joint, "tighten"),
    "triangles": (neurons, "optimal"),
    "pieces": (ties, "decide"),
}
"""By what they are called in the output: where the function is looked up that does it."""

_seen: set[str] = set()
_watched: set[str] = set()


def watch() -> None:
    """From now on calls are noted, once however often this is called."""
    for name in WATCHED.keys() - _watched:
        owner, attribute = WATCHED[name]
        setattr(owner, attribute, _noting(name, getattr(owner, attribute)))
        _watched.add(name)


def _noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def noted(*args: Any, **more: Any) -> Any:
        _seen.add(name)
        return call(*args, **more)

    return noted


def used() -> list[str]:
    """What has been called since the last time this was asked."""
    found = sorted(_seen)
    _seen.clear()
    return found
