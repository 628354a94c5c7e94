"""What a run leaves behind: the verdict lines, the VNN-COMP result file, the JSON record, one line for people."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

import vnnlib
from verifier.options import dotted
from verifier.result import Result, Verdict, Witness

if TYPE_CHECKING:
    from vnnlib import Spec


def witness_text(witness: Witness, spec: Spec) -> str:
    """The witness in the form that belongs to the version of the specification, ending in a newline."""
    if spec.version.startswith("1"):
        return vnnlib.format_witness_v1(witness.x, witness.y).rstrip("\n") + "\n"
    return vnnlib.format_witness_v2(spec, tensors(witness, spec)).rstrip("\n") + "\n"


def tensors(witness: Witness, spec: Spec) -> dict[str, np.ndarray]:
    """The witness by tensor name, each array in its declared shape."""
    values: dict[str, np.ndarray] = {}
    for group, flat in (("inputs", witness.x), ("outputs", witness.y)):
        at = 0
        for tensor in (t for network in spec.networks for t in getattr(network, group)):
            values[tensor.name] = flat[at : at + tensor.size].reshape(tensor.shape)
            at += tensor.size
    return values


def result_text(result: Result, spec: Spec | None) -> str:
    """The VNN-COMP result file: the verdict word on the first line, then the witness of a `sat`.

    `spec` may be None where there is no witness to print.
    """
    text = result.verdict.value + "\n"
    if result.witness is not None:
        if spec is None:
            raise ValueError("a witness is printed in the terms of its specification; `spec` is None")
        text += witness_text(result.witness, spec)
    return text


def result_json(result: Result, model: str, spec: str) -> str:
    """The whole result as one JSON object: verdict, reason, seconds, counters, open share, settings, witness."""
    record: dict[str, Any] = {
        "model": model,
        "spec": spec,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "seconds": round(result.seconds, 6),
        "counters": dict(result.counters),
        "open_fraction": result.open_fraction,
        "settings": dict(result.settings),
        "splits": asdict(result.splits),
        "witness": None,
    }
    if result.witness is not None:
        record["witness"] = {"x": result.witness.x.tolist(), "y": result.witness.y.tolist()}
    return json.dumps(_plain(record), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """`value` with what JSON does not know replaced: NumPy scalars by numbers, infinities and NaN by null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def summary(result: Result) -> str:
    """One line for people: what the verdict means, why, how long it took, what is open."""
    # where nothing was decided, the reason says all there is to say
    parts = [result.verdict.sentence] if result.verdict.settled or not result.reason else []
    if result.reason:
        parts.append(result.reason)
    text = f"{result.verdict.value} after {result.seconds:.2f} s: " + "; ".join(parts)
    if "boxes" in result.counters:
        text += f"; {result.counters['boxes']:,} boxes"
    if result.open_fraction is not None and result.verdict not in (Verdict.SAT, Verdict.UNSAT):
        # rounded up: 0 % must mean none; the shares of the boxes may add up to a little more than all
        text += f"; {math.ceil(min(result.open_fraction, 1.0) * 1000) / 10:.1f} % of the input volume open"
    return text


FEW_BOXES = 16
"""A run that gets no further than this has spent its time on single boxes, not on cutting the set."""

NEARLY = 0.1
"""Share of the input volume below which more time is the first thing to try."""

MANY_INPUTS = 20
"""The engine splits neurons above this many varying inputs."""


def advice(result: Result) -> str:
    """One line after an answer that is none: what was tried and what would help; "" where the question is settled."""
    if result.verdict.settled:
        return ""
    return f"tried: {tried(result)}; may help: {remedy(result)}"


def tried(result: Result) -> str:
    """How far the search came, and by what."""
    counters, settings = result.counters, result.settings
    parts = []
    if "boxes" in counters:
        how = f" by splitting {settings['split']}" if "split" in settings else ""
        parts.append(f"{counters['boxes']:,} boxes{how}, at most {counters.get('deepest', 0)} splits deep")
    if "method" in settings:
        parts.append(f"{settings['method']} bounds of {settings.get('neurons', 0):,} neurons")
    tries = counters.get("replays", counters.get("points"))
    if tries is not None:
        parts.append(f"{tries:,} points in ONNX Runtime")
    return ", ".join(parts) or "nothing beyond reading the files"


def remedy(result: Result) -> str:
    """What would help after an answer that is none: the first rule that fits, by what stopped the run, then by what its
    counters say about the problem; "" where the question is settled."""
    if result.verdict.settled:
        return ""
    reason, counters, settings = result.reason, result.counters, result.settings
    boxes, inputs = counters.get("boxes", 0), settings.get("free_inputs")
    box = f"a smaller input box ({inputs} inputs vary; fix those that need not)" if inputs else "a smaller input box"
    if "memory" in reason:
        return "more --memory, or a smaller search.batch"
    if "no bound rule" in reason:
        return "a network without that operator (bounded: docs/reference/operators.md); with it only sat is found"
    if "split any further" in reason or "tie" in reason.split():
        return "a specification that does not touch the exact extreme of the network: move a limit by about 1e-6"
    if result.verdict is Verdict.UNKNOWN:
        return "the same command again, left to run to its end"
    if not boxes:
        return "more --timeout: the limit went into reading, the attack or the first bounds"
    if boxes <= FEW_BOXES:
        return f"more --timeout or --device cuda, since single boxes take long here; {box}"
    if result.open_fraction is not None and result.open_fraction <= NEARLY:
        return "more --timeout: little is open"
    if isinstance(inputs, int) and inputs > MANY_INPUTS:
        return f"{box}; bounds.method alpha; more --timeout"
    return f"{box}; more --timeout"


def details(result: Result) -> list[str]:
    """Lines for `-v`: every counter and every setting in force."""
    counters = [f"  {name} = {value:,}" for name, value in result.counters.items()]
    settings = [f"  {name} = {value}" for name, value in dotted(dict(result.settings)).items()]
    return ["counters", *counters, "settings", *settings]
