"""Pictures of the documentation, drawn from the tool itself, so that none of them can be out of date.

They are kept in `.cache/` by the sources that they depend on: drawing them takes longer than the site.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/docs"
RANGES = ["--contrast", "0.8,1.2", "--brightness=-0.1,0.1", "--tolerance", "2.2"]
LAYER = "gemm_11"
INK, CERTIFIED, REFUTED, OPEN = "#333a45", "#4c9a6a", "#c8574a", "#e8e4d8"


def all_pictures() -> dict[str, bytes]:
    """Every picture by its name under `assets/`."""
    drawn: dict[str, Callable[[], bytes]] = {
        "picture.png": picture, "map.png": coverage_map, "relu.png": relu, "search.png": search, "usn.png": usn,
    }  # fmt: skip
    return {name: _kept(name, draw) for name, draw in drawn.items()}


def _kept(name: str, draw: Callable[[], bytes]) -> bytes:
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted((ROOT / "verifier").rglob("*.py"))):
        digest.update(path.read_bytes())
    kept = CACHE / f"{digest.hexdigest()[:16]}-{name}"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(draw())
    return kept.read_bytes()


def picture() -> bytes:
    """A picture of aircraft23, and the same at the ends of the ranges."""
    from verifier.data import aircraft23

    image = aircraft23.load("test", 1).images[0, 0].astype(float)
    changes = [(1.0, 0.0), (0.8, -0.1), (0.8, 0.1), (1.2, -0.1), (1.2, 0.1)]
    figure, axes = _figure(len(changes), 9.6, 2.4)
    for axis, (contrast, brightness) in zip(axes, changes, strict=True):
        axis.imshow(np.clip(contrast * image + brightness, 0, 1), cmap="gray", vmin=0, vmax=1)
        words = f"contrast {contrast:g}\nbrightness {brightness:+g}"
        axis.set_title("unchanged" if contrast == 1 else words, fontsize=9)
        axis.set_axis_off()
    return _png(figure)


def coverage_map() -> bytes:
    """The map of *start here*, as the command draws it."""
    from verifier.semantic import coverage

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "map.png"
        code = coverage.main(["cnn7_w8", "--data", "aircraft23:test:0", *RANGES, "--picture", str(target), "--quiet"])
        assert code == 0
        return target.read_bytes()


def relu() -> bytes:
    """The two lines that enclose a ReLU, on a wide and on a narrow interval."""
    figure, axes = _figure(2, 7.2, 2.8)
    for axis, (low, high) in zip(axes, ((-2.0, 3.0), (-0.5, 0.75)), strict=True):
        x = np.linspace(low, high, 101)
        slope = high / (high - low)
        upper, lower = slope * (x - low), (0.6 if high > -low else 0.0) * x
        axis.fill_between(x, lower, upper, color=OPEN)
        axis.plot(x, upper, color=REFUTED, lw=1.5)
        axis.plot(x, lower, color=CERTIFIED, lw=1.5)
        axis.plot([-2.2, 0, 3.2], [0, 0, 3.2], color=INK, lw=2)
        axis.set_xlim(-2.4, 3.4)
        axis.set_ylim(-1.5, 3.4)
        axis.set_title(f"{low:g} <= z <= {high:g}", fontsize=10)
    axes[0].annotate("upper line", (0.2, 1.45), (-2.2, 2.4), fontsize=9, arrowprops={"arrowstyle": "-"})
    axes[0].annotate("lower line, slope alpha", (-1.2, -0.72), (-0.6, -1.3), fontsize=9, arrowprops={"arrowstyle": "-"})
    return _png(figure)


def search() -> bytes:
    """The boxes of one search of the map after few, more and many steps."""
    from verifier.semantic import coverage

    figure, axes = _figure(3, 9.6, 3.4)
    for axis, open_share in zip(axes, (0.6, 0.25, 0.03), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            cells = Path(folder) / "cells.npz"
            arguments = ["cnn7_w8", "--data", "aircraft23:test:0", *RANGES, "--open", str(open_share), "--quiet"]
            assert coverage.main([*arguments, "--npz", str(cells)]) == 0
            with np.load(cells) as found:
                size = 2.0 ** -found["level"].astype(float)
                corner, status, boxes = found["index"] * size, found["status"], int(found["boxes"][0])
        from matplotlib.patches import Rectangle

        for (x, y), (width, height), kind in zip(corner, size, status, strict=True):
            colour = (OPEN, CERTIFIED, REFUTED)[kind]
            axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", lw=0.4))
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_xticks([0, 1], ["0.8", "1.2"])
        axis.set_yticks([0, 1], ["-0.1", "0.1"])
        axis.set_title(f"{boxes} boxes bounded", fontsize=10)
        axis.set_xlabel("contrast", fontsize=9)
    axes[0].set_ylabel("brightness", fontsize=9)
    return _png(figure)


def usn() -> bytes:
    """Two channels of one layer of the shipped network, that with the highest USN and that with the lowest: each point
    is an image under one contrast and brightness, against the same image unchanged."""
    import pruning
    from pruning.calibration import Activations, perturbed
    from verifier.data import networks

    net = pruning.load(networks.path("cnn7_w8"))
    data = pruning.load_data("aircraft23:train:0-47", net, semantic=pruning.Perturbation.parse("medium"))
    scores = pruning.score(net, data, "usn")
    group = next(g for g in scores.groups.groups if g.name == LAYER)
    ranked = group.channels[np.argsort(scores.parts["R"][group.channels])]
    (output,) = next(node.outputs for node in net.nodes if node.name == LAYER)
    inside = Activations(net, [output])
    z = np.stack([inside(batch)[output] for batch in perturbed(data)])  # (images, 1 + samples, channels)
    figure, axes = _figure(2, 7.2, 3.2)
    for axis, channel, what in zip(axes, (ranked[-1], ranked[0]), ("high", "low"), strict=True):
        clean, moved = z[:, :1, channel - group.channels[0]], z[:, 1:, channel - group.channels[0]]
        axis.plot(np.broadcast_to(clean, moved.shape).ravel(), moved.ravel(), ".", ms=2, color=CERTIFIED)
        ends = [clean.min(), clean.max()]
        axis.plot(ends, ends, color=INK, lw=1)
        axis.set_title(f"{what} USN: R = {scores.parts['R'][channel]:.3f}", fontsize=10)
        axis.set_xlabel("z0, unchanged image", fontsize=9)
    axes[0].set_ylabel("z(s), changed image", fontsize=9)
    return _png(figure)


def _figure(count: int, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(width, height), layout="constrained")
    for axis in axes:
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white")
    pyplot.close(figure)
    return stream.getvalue()
