"""Structured pruning of ONNX networks for certifiability: `load`, `load_data`, `prune`, `save`; the steps of
`prune` are `score`, `plan` and `apply`.

Names are imported on first use, so that `import pruning` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "load": "api", "save": "api", "score": "api", "plan": "api", "apply": "api", "matched": "api",
    "PrunedModel": "api",
    "prune": "runs",
    "Calibration": "calibration", "Perturbation": "calibration",
    "load_data": "datasets",
    "CRITERIA": "scores", "Scores": "scores",
    "PruneOptions": "options", "ScoreOptions": "options", "TrainOptions": "options", "ChannelFloor": "options",
    "Plan": "planning",
    "Groups": "groups", "find_groups": "groups",
    "Net": "net", "NetworkCost": "cost",
    "train": "training",
    "PruneError": "errors", "NothingToPrune": "errors", "RatioError": "errors",
    "DataError": "errors", "CriterionError": "errors", "WrongNetwork": "errors",
}  # fmt: skip
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pruning' has no attribute '{name}'")
    return getattr(import_module(f"pruning.{_WHERE[name]}"), name)
