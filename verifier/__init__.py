"""Complete neural-network verification by batched branch and bound.

>>> from verifier import verify
>>> result = verify("model.onnx", "property.vnnlib", timeout=60)  # doctest: +SKIP
>>> result.verdict  # doctest: +SKIP
<Verdict.UNSAT: 'unsat'>

Importing this package is cheap: torch, onnx and the engine are imported by the first call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verifier.api import load, verify
    from verifier.budget import Budget
    from verifier.errors import (
        ModelError,
        OptionsError,
        OutputError,
        ProblemError,
        SecateurError,
        UnsoundError,
        UnsupportedOperator,
    )
    from verifier.options import Options
    from verifier.progress import Progress
    from verifier.result import Result, Verdict, Witness

_HOMES = {
    "load": "api",
    "verify": "api",
    "Budget": "budget",
    "Options": "options",
    "Progress": "progress",
    "Result": "result",
    "Verdict": "result",
    "Witness": "result",
    "ModelError": "errors",
    "OptionsError": "errors",
    "OutputError": "errors",
    "ProblemError": "errors",
    "SecateurError": "errors",
    "UnsoundError": "errors",
    "UnsupportedOperator": "errors",
}

__all__ = [
    "Budget",
    "ModelError",
    "Options",
    "OptionsError",
    "OutputError",
    "ProblemError",
    "Progress",
    "Result",
    "SecateurError",
    "UnsoundError",
    "UnsupportedOperator",
    "Verdict",
    "Witness",
    "load",
    "verify",
]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'verifier' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"verifier.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
