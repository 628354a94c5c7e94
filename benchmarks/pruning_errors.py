"""Clean error against ratio for every criterion, on aircraft23: rows that can be added to, a table, a picture.

A row per network, criterion and ratio: mean distance of the key points in pixels on the 1000 test images, for the
pruned network as `prune --mode post-training` leaves it (fold mean, rescaled, output corrected), and after fine-tuning
(fold mean, silent channels woken), with the same number of steps for every arm. Rows already in the file are not made
again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pruning
from pruning import Calibration, ChannelFloor, Net, Perturbation, Plan, ScoreOptions, TrainOptions, oracles
from pruning.blocks import drop_blocks
from pruning.calibration import Activations
from pruning.correction import corrected
from pruning.errors import NothingToPrune
from pruning.training import fine_tune
from verifier.errors import SecateurError

CRITERIA = ("usn", "anti-usn", "random", "random-matched", "l1", "l2", "refill", "snip", "taylor", "sensnorm", "hydra",
            "rs", "nrs", "usn-cert", "looseness", "slim", "layer")  # fmt: skip
"""`slim` needs a network with its batch normalisation kept, `layer` one with residual blocks; others refuse."""
FLOOR = ChannelFloor(4, 0.0)
PROVED_IMAGES = 4
"""Images for the criteria from proved bounds, on 2 x 2 cells."""
Key = tuple[str, str, float, int]


@dataclass(frozen=True)
class Budget:
    """Of every arm: training images of one epoch, batch, highest rate, calibration images and Sobol points; `tested`
    images of the test split.
    """

    images: int = 12800
    batch: int = 64
    rate: float = 4e-3
    calibration: int = 128
    samples: int = 16
    tested: int = 1000


def measure(
    networks: Sequence[Path],
    ratios: Sequence[float],
    out: Path,
    budget: Budget,
    semantic: Perturbation,
    criteria: Sequence[str] = CRITERIA,
    draws: int = 1,
) -> None:
    """Append what is missing in `out`; a line that a kill cut short is made again. draws: of the random criteria."""
    done = {key(row) for row in read(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and not out.read_bytes().endswith(b"\n"):
        with out.open("a", encoding="utf-8") as file:
            file.write("\n")  # after a cut line
    for place, path in enumerate(networks):
        found = re.search(r"_s(\d+)$", path.stem)
        bench = _Bench(path, int(found[1]) if found else place, budget, semantic)
        for ratio in (0.0, *ratios):
            arms = [(name, d) for name in criteria for d in range(draws if name.startswith("random") else 1)]
            for name, draw in arms if ratio else [("dense", 0)]:
                if (path.stem, name, ratio, draw) in done:
                    continue
                row = bench.row(name, ratio, draw)
                print(json.dumps(row), flush=True)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict]:
    """Whole rows of a file, none if it does not exist."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("{") and line.endswith("}"):
            rows.append(json.loads(line))
    return rows


def key(row: dict) -> Key:
    """What a row is about."""
    return row["network"], row["arm"], row["ratio"], row.get("draw", 0)


class _Bench:
    """One network with its data; scores are kept between ratios where they do not depend on it."""

    def __init__(self, path: Path, seed: int, budget: Budget, semantic: Perturbation) -> None:
        self.name, self.seed, self.budget = path.stem, seed, budget
        self.net = pruning.load(path)
        self.train = self._data(budget.images, "train", semantic)
        self.test = self._data(budget.tested, "test", semantic)
        self.part = self.train.part(slice(0, budget.calibration))
        self.scores: dict[tuple[str, float], pruning.Scores] = {}

    def _data(self, images: int, split: str, semantic: Perturbation) -> Calibration:
        return pruning.load_data("aircraft23", self.net, semantic, images, self.budget.samples, 0, split)

    def row(self, arm: str, ratio: float, draw: int = 0) -> dict:
        row = {"network": self.name, "arm": arm, "ratio": ratio, "seed": self.seed, "draw": draw, **vars(self.budget)}
        start = time.process_time()
        try:
            cut, woken = self.pruned(arm, ratio, draw) if ratio else (self.net, self.net)
        except SecateurError as refusal:
            return {**row, "refused": str(refusal)}
        row["pruning_s"] = round(time.process_time() - start, 2)
        start = time.process_time()
        options = TrainOptions(epochs=1, rate=self.budget.rate, batch_size=self.budget.batch, seed=self.seed)
        tuned = fine_tune(woken, self.train, options, 1)
        row["tuning_s"] = round(time.process_time() - start, 2)
        return {**row, "error": self.error(cut), "tuned": self.error(tuned)}

    def pruned(self, arm: str, ratio: float, draw: int) -> tuple[Net, Net]:
        """The network as post-training pruning leaves it, and as fine-tuning takes it up."""
        if arm == "layer":
            cut, dropped, *_ = drop_blocks(self.net, ratio, self.part)
            if not dropped:
                raise NothingToPrune(f"{ratio:.0%} of the residual blocks is less than one")
            return cut, cut
        plan = self.plan(arm, ratio, draw)
        cut = corrected(pruning.apply(self.net, plan, "mean", self.part, rescale="all"), self.part).net
        return cut, pruning.apply(self.net, plan, "mean", self.part, rescale="silent").net

    def plan(self, arm: str, ratio: float, draw: int = 0) -> Plan:
        seed = self.seed + 10_000 * draw
        if arm == "random-matched":
            return pruning.matched(self.score("random", ratio, seed + 1000), self.plan("usn", ratio), FLOOR)
        return pruning.plan(self.net, self.score(arm, ratio, seed), ratio, floor=FLOOR)

    def score(self, name: str, ratio: float, seed: int) -> pruning.Scores:
        where = (f"{name} {seed}", ratio if name in ("hydra", "refill") else 0.0)
        if where not in self.scores:
            proved = name in ("usn-cert", "looseness")
            options = ScoreOptions(
                seed=seed, mask_ratio=ratio, cells=2,
                interval_oracle=oracles.interval_oracle if proved else None,
                slope_oracle=oracles.slope_oracle if proved else None,
            )  # fmt: skip
            data = self.part.part(slice(0, PROVED_IMAGES)) if proved else self.part
            self.scores[where] = pruning.score(self.net, data, name, options)
        return self.scores[where]

    def error(self, net: Net) -> float:
        """Mean distance in pixels on the test images."""
        labels = self.test.need_labels("the error").reshape(len(self.test.images), -1, 2)
        found = Activations(net, net.outputs)(self.test.images)[net.outputs[0]].reshape(labels.shape)
        return float(np.linalg.norm(found - labels, axis=2).mean())


def table(rows: Sequence[dict]) -> str:
    """Markdown: a line per criterion, for each ratio the error after the cut and after fine-tuning, mean +- spread."""
    ratios = sorted({row["ratio"] for row in rows} - {0.0})
    lines = ["| criterion | networks | " + " | ".join(f"{r:.0%} cut | tuned" for r in ratios) + " |",
             "| --- | --- |" + " --- | --- |" * len(ratios)]  # fmt: skip
    dense = [row for row in rows if row["arm"] == "dense"]
    if dense:
        same = " | ".join([_spread(dense, "error"), _spread(dense, "tuned")] * len(ratios))
        lines.append(f"| dense | {len(dense)} | {same} |")
    for arm in CRITERIA:
        mine = [row for row in rows if row["arm"] == arm and "error" in row]
        if mine:
            cells = [_spread([r for r in mine if r["ratio"] == q], part) for q in ratios for part in ("error", "tuned")]
            lines.append(f"| {arm} | {len({row['network'] for row in mine})} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(rows: Sequence[dict], part: str) -> str:
    values = np.array([row[part] for row in rows])
    if not len(values):
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def picture(rows: Sequence[dict], path: Path) -> None:
    """Error after fine-tuning against ratio, a line per criterion with its spread, the controls set off."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    marked = {"usn": "#1b6ca8", "anti-usn": "#c0392b", "random": "#555555"}
    ratios = sorted({row["ratio"] for row in rows} - {0.0})
    for axis, part, title in zip(axes, ("error", "tuned"), ("after the cut", "after fine-tuning"), strict=True):
        for arm in (a for a in CRITERIA if any(row["arm"] == a and part in row for row in rows)):
            groups = [[r[part] for r in rows if r["arm"] == arm and r["ratio"] == q and part in r] for q in ratios]
            points = [(q, np.mean(g), np.std(g)) for q, g in zip(ratios, groups, strict=True) if g]
            x, y, s = map(np.array, zip(*points, strict=True))
            own = arm in marked
            axis.plot(x, y, color=marked.get(arm, "#b9b9b9"), lw=2 if own else 1, zorder=3 if own else 1,
                      label=arm if own else None, marker="o" if own else None, ms=4)  # fmt: skip
            if own:
                axis.fill_between(x, y - s, y + s, color=marked[arm], alpha=0.15, lw=0)
        axis.set(title=title, xlabel="share of channels removed", ylabel="mean error, pixels of 64", ylim=(0, None))
        axis.set_xticks(ratios, [f"{q:.0%}" for q in ratios])
    axes[0].plot([], [], color="#b9b9b9", lw=1, label="other criteria")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
