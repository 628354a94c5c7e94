"""The report of a pruning run: one HTML page with pictures, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pruning.api import PrunedModel
from pruning.calibration import Activations, Calibration
from pruning.errors import WriteError
from pruning.onnx_io import write_whole
from pruning.planning import Plan


def write_report(folder: Path, results: Sequence[PrunedModel], data: Calibration | None) -> Path:
    """Write `report.html`, `report.json` and PNG pictures into `folder`; returns the page."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be created ({error.strerror or error})") from error
    sections, numbers = [], []
    for index, result in enumerate(results):
        entry = _numbers(result, data)
        pictures = _pictures(folder, index, result, data)
        numbers.append(entry)
        sections.append(_section(result, entry, pictures))
    page = folder / "report.html"
    write_whole(json.dumps(numbers, indent=1, default=str).encode(), folder / "report.json")
    write_whole(_page(sections).encode(), page)
    return page


def _numbers(result: PrunedModel, data: Calibration | None) -> dict[str, Any]:
    before, after = result.before, result.after
    entry: dict[str, Any] = {
        "criterion": result.sidecar.get("criterion"),
        "formula": result.sidecar.get("formula"),
        "ratio": result.sidecar.get("ratio"),
        "fold": result.sidecar.get("fold"),
        "stages": result.sidecar.get("stages", []),
        "parameters": [before.parameters, after.parameters],
        "macs": [before.macs, after.macs],
        "nonlinear": [before.nonlinear, after.nonlinear],
    }
    if data is not None:
        entry |= _changes(result, data)
    return entry


def _changes(result: PrunedModel, data: Calibration) -> dict[str, float]:
    """Root mean squared change of the output on the calibration images, relative to the spread of the original's."""
    name = result.original.outputs[0]
    images = data.fitted(result.original).images[:256]
    old, new = (Activations(net, [name])(images)[name].astype(np.float64) for net in (result.original, result.net))
    spread = float(old.std()) or 1.0
    return {"output_change": float(np.sqrt(((old - new) ** 2).mean())) / spread}


def _pictures(folder: Path, index: int, result: PrunedModel, data: Calibration | None) -> list[str]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plan, names = result.plan, []
    for kind, draw in (("scores", _draw_scores), ("parts", _draw_parts), ("kept", _draw_kept)):
        figure = draw(plt, plan)
        if figure is None:
            continue
        name = f"{kind}_{index}.png"
        try:
            figure.savefig(folder / name, dpi=100, bbox_inches="tight")
        except OSError as error:
            raise WriteError(f"{folder / name}: cannot be written ({error.strerror or error})") from error
        finally:
            plt.close(figure)
        names.append(name)
    return names


def _chosen(plan: Plan) -> list[Any]:
    return [plan.groups.groups[i] for i in plan.chosen]


def _draw_scores(plt: Any, plan: Plan) -> Any:
    """Histogram of the scores per layer, removed and kept channels apart."""
    if plan.scores is None:
        return None
    groups = _chosen(plan)
    figure, axes = plt.subplots(
        -(-len(groups) // 4), min(4, len(groups)), squeeze=False, figsize=(12, 2.4 * -(-len(groups) // 4))
    )
    for axis, group in zip(axes.flat, groups, strict=False):
        values = plan.scores.values[group.channels]
        gone, finite = plan.removed[group.channels], np.isfinite(values)
        if finite.any():
            bins = np.histogram_bin_edges(values[finite], 20)
            parts = [values[finite & ~gone], values[finite & gone]]
            axis.hist(parts, bins=bins, stacked=True, color=["#3b6ea5", "#c44e52"], label=["kept", "removed"])
        axis.set_title(group.name, fontsize=8)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.suptitle(y=1.02, t=f"scores ({plan.criterion}{', dB' if plan.scores.decibel else ''})")
    return figure


def _draw_parts(plt: Any, plan: Plan) -> Any:
    """Bias and variance parts of USN, per channel, relative to the signal."""
    if plan.scores is None or not {"Bias2", "Var", "Sig"} <= plan.scores.parts.keys():
        return None
    groups, parts = _chosen(plan), plan.scores.parts
    members = np.concatenate([group.channels for group in groups])
    signal = np.maximum(parts["Sig"][members], 1e-30)
    figure, axis = plt.subplots(figsize=(10, 3))
    place = np.arange(len(members))
    bias, var = parts["Bias2"][members] / signal, np.maximum(parts["Var"][members], 0) / signal
    axis.bar(place, bias, width=1.0, color="#dd8452", label="Bias2 / Sig")
    axis.bar(place, var, width=1.0, bottom=bias, color="#8172b3", label="Var / Sig")
    limit = float(np.quantile(bias + var, 0.95)) * 1.2
    axis.set_ylim(0, limit or 1.0)
    axis.set_xlabel("channel, layer after layer")
    axis.legend(fontsize=7)
    return figure


def _draw_kept(plt: Any, plan: Plan) -> Any:
    """Kept and removed channels per layer."""
    groups = _chosen(plan)
    figure, axis = plt.subplots(figsize=(8, 0.35 * len(groups) + 1))
    gone = [int(plan.removed[group.channels].sum()) for group in groups]
    kept = [len(group.channels) - count for group, count in zip(groups, gone, strict=True)]
    names = [group.name for group in groups]
    axis.barh(range(len(groups)), kept, color="#3b6ea5", label="kept")
    axis.barh(range(len(groups)), gone, left=kept, color="#c44e52", label="removed")
    axis.set_yticks(range(len(groups)), names, fontsize=7)
    axis.invert_yaxis()
    axis.legend(fontsize=7)
    return figure


def _section(result: PrunedModel, entry: dict[str, Any], pictures: list[str]) -> str:
    plan = result.plan
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{old:,}</td><td>{new:,}</td><td>{new / old - 1 if old else 0:+.1%}</td></tr>"
        for name, (old, new) in (
            ("parameters", entry["parameters"]),
            ("MACs", entry["macs"]),
            ("non-linear neurons", entry["nonlinear"]),
        )
    )
    kept = "".join(
        f"<tr><td>{escape(g.name)}</td><td>{g.kind}</td><td>{len(g.channels)}</td>"
        f"<td>{len(g.channels) - int(plan.removed[g.channels].sum())}</td><td>{escape(g.reason)}</td></tr>"
        for g in plan.groups.groups
    )
    stages = "".join(f"<li>{escape(json.dumps(stage))}</li>" for stage in entry["stages"])
    change = (
        f"<p>Output change on the calibration images: {entry['output_change']:.2%} of its spread.</p>"
        if "output_change" in entry
        else ""
    )
    images = "".join(f'<p><img src="{name}" alt="{name}"></p>' for name in pictures)
    return (
        f"<h2>{escape(str(entry['criterion']))}, ratio {entry['ratio']:g}</h2><p>{escape(str(entry['formula']))}</p>"
        f"<table><tr><th></th><th>before</th><th>after</th><th></th></tr>{rows}</table>{change}"
        f"<ul>{stages}</ul>{images}"
        f"<table><tr><th>layer</th><th>kind</th><th>channels</th><th>kept</th><th>frozen because</th></tr>{kept}"
        "</table>" + "".join(f"<p>{escape(note)}</p>" for note in plan.notes)
    )


def _page(sections: Sequence[str]) -> str:
    style = "body{font:14px sans-serif;max-width:70em;margin:2em auto}td,th{padding:2px 10px;text-align:left}"
    style += "img{max-width:100%}"
    return (
        f"<!doctype html><meta charset=utf-8><title>prune report</title><style>{style}</style><h1>Pruning report</h1>"
        "<p>A pruned network is another network: its verdicts are not the original's (except with fold "
        "<code>sound</code>, within its bound). Criteria named USN are our own definition.</p>" + "".join(sections)
    )
