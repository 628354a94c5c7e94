"""The report: one HTML file that needs nothing else, and its figures as SVG and PDF beside it."""

from __future__ import annotations

from pathlib import Path

from pruning.study import analysis as analyses
from pruning.study import details, goals, headline, select, words
from pruning.study.analysis import Analysis
from pruning.study.figures import area, curves, maps
from pruning.study.spec import MATCHED, alike
from pruning.study.summary import label, penalised
from verifier.files.whole import write as write_file
from verifier.page import cactus, style
from verifier.page import render as page
from verifier.page.style import Drawn
from verifier.page.table import Table


def write(analysis: Analysis, folder: Path) -> Path:
    """Write report.html, summary.json and figures/ into the study's folder; returns the path of the page."""
    drawn = {
        "curves": _curves(analysis),
        "cactus": _cactus(analysis),
        "maps": _maps(analysis, folder),
        "worst": _worst(analysis, folder),
    }
    for figures in drawn.values():
        for figure in figures:
            style.save(figure, folder / "figures")
    analyses.save(analysis, folder / "summary.json")
    target = folder / "report.html"
    write_file(target, render(analysis, drawn), "the report")
    return target


def render(analysis: Analysis, drawn: dict[str, list[Drawn]]) -> str:
    """The page as text."""
    first = analysis.rows[0]
    return page.render(
        "report.html",
        package="pruning.study",
        a=analysis,
        drawn=drawn,
        facts=_facts(analysis),
        headline=headline.sentences(analysis),
        first_table=first_table(analysis),
        proof=proof_table(analysis),
        cost=cost_table(analysis),
        effects=effect_table(analysis),
        rates=rate_table(analysis),
        areas=area_table(analysis),
        checks=_checklists(analysis),
        tau=f"{first.tau:.2%}".replace(".00", ""),
        first=first,
        runs=sorted({(r.versions, r.machine) for r in analysis.rows}),
    )


def first_table(analysis: Analysis) -> Table:
    """The figures that the sentences speak of: the unpruned networks, those of the focus and its two controls, or all
    that are given.
    """
    controls = {alike(name, analysis.focus) for name in MATCHED}
    columns = ("network", "certified %", "verified %", "clean error %", "median s", "parameters")
    rows = []
    for s in analysis.summaries:
        if analysis.baseline is not None or s.ratio is None or s.arm in {analysis.focus, *controls}:
            percent = [words.interval(e, 100) for e in (s.coverage, s.verified)]
            error = words.interval(s.clean_error, 100, decimals=2)
            rows.append((s.label, *percent, error, words.interval(s.seconds), words.number(s.parameters)))
    return Table(columns, tuple(rows))


def proof_table(analysis: Analysis) -> Table:
    """What is proven of every treatment, with its interval."""
    columns = ("network", "certified %", "verified %", "refuted %", "clean error %", "networks x images")
    rows = []
    for s in analysis.summaries:
        percent = [words.interval(e, 100) for e in (s.coverage, s.verified, s.refuted)]
        error = words.interval(s.clean_error, 100, decimals=2)
        rows.append((s.label, *percent, error, f"{s.networks} x {s.images}"))
    return Table(columns, tuple(rows))


def cost_table(analysis: Analysis) -> Table:
    """What it costs, with its interval, and the sizes of the networks."""
    columns = ("network", "median s", "PAR-2 s", "boxes", "unstable", "unstable %", "parameters", "MACs")
    rows = []
    for s in analysis.summaries:
        plain = [words.interval(e) for e in (s.seconds, s.par2, s.boxes, s.unstable)]
        sizes = (words.interval(s.unstable_ratio, 100), words.number(s.parameters), words.number(s.macs))
        rows.append((s.label, *plain, *sizes))
    return Table(columns, tuple(rows))


def effect_table(analysis: Analysis) -> Table:
    """The focus against everything else (or every network against the first), paired."""
    columns = (
        "comparison", "certified, points", "verified, points", "median time, x", "clean error, x", "McNemar p",
        "Holm p", "pairs",
    )  # fmt: skip
    rows = []
    for c in analysis.effects:
        points = [words.interval(e, 100, sign=True) for e in (c.coverage, c.verified)]
        factors = [words.interval(e) for e in (c.time, c.clean_error)]
        chances = (words.p_value(c.mcnemar), words.p_value(c.holm))
        rows.append((f"{label(c.treatment)} vs {label(c.baseline)}", *points, *factors, *chances, str(c.pairs)))
    return Table(columns, tuple(rows))


def rate_table(analysis: Analysis) -> Table:
    """Verified rates at shorter limits, and in brackets the points above the reference."""
    limits = analysis.rates[0].limits if analysis.rates else ()
    rows = []
    for r in analysis.rates:
        gains = [f" ({words.interval(g, 100, sign=True)})" for g in r.gains] or [""] * len(limits)
        rows.append((r.label, *(f"{100 * v.value:.1f}{g}" for v, g in zip(r.verified, gains, strict=True))))
    return Table(("network", *(f"{words.number(limit)} s" for limit in limits)), tuple(rows))


def area_table(analysis: Analysis) -> Table:
    """Certified areas at the same limits, and in brackets the points above the reference; empty without traces."""
    limits = analysis.rates[0].limits if analysis.rates else ()
    rows = []
    for r in analysis.rates:
        gains = [f" ({words.interval(g, 100, sign=True)})" for g in r.coverage_gains] or [""] * len(limits)
        if r.coverage:
            cells = (f"{words.interval(c, 100)}{g}" for c, g in zip(r.coverage, gains, strict=True))
            rows.append((r.label, *cells))
    return Table(("network", *(f"{words.number(limit)} s" for limit in limits)), tuple(rows))


def _checklists(analysis: Analysis) -> list[tuple[str, list[goals.Check], goals.GoalOutcome, int]]:
    """Title, the conditions that are measured, how they came out together, how many are not measured."""
    lists = [("Success criterion", analysis.criterion), ("Goals of the release", analysis.goals)]
    shown = [(title, goals.measured(checks), len(checks)) for title, checks in lists]
    return [(title, known, goals.verdict(known), count - len(known)) for title, known, count in shown if known]


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    first = analysis.rows[0]
    images, networks = {r.image for r in analysis.rows}, {r.name for r in analysis.rows}
    seconds = sum(r.seconds for r in analysis.rows)
    return [
        ("Data", first.data),
        ("Images", str(len(images))),
        ("Networks", str(len(networks))),
        ("Results", f"{len(analysis.rows):,}"),
        ("Tolerance", f"{first.tau:.1%} of the side"),
        ("Rectangle", first.rectangle),
        ("Time limit", f"{first.timeout:g} s" + (" of processor time" if first.clock == "processor" else "")),
        ("Verification", words.duration(seconds)),
    ]


def _curves(analysis: Analysis) -> list[Drawn]:
    """A curve per metric where there are several ratios, else one figure for all metrics."""
    if analysis.baseline is not None or len(curves.ratios(analysis.summaries)) < 2:
        return [curves.draw_together(analysis.summaries, analysis.focus)]
    return [curves.draw(analysis.summaries, metric, analysis.focus) for metric in curves.METRICS]


def _cactus(analysis: Analysis) -> list[Drawn]:
    known = sorted({s.ratio for s in analysis.summaries if s.ratio is not None})
    ratios: list[float | None] = [None] if analysis.baseline is not None or not known else [*known]
    drawn = []
    for ratio in ratios:
        page = [] if ratio is None else [s.arm for s in analysis.summaries]  # an arm looks the same at every ratio
        members = [s for s in analysis.summaries if ratio is None or s.ratio in (None, ratio)]
        members.sort(key=lambda s: (s.arm != analysis.focus, s.arm.startswith("dense")))
        times, totals, rows_of = {}, {}, {}
        for s in members:
            rows = [r for r in analysis.rows if (r.arm, r.ratio) == (s.arm, s.ratio)]
            name = s.label if ratio is None else s.arm
            rows_of[name] = rows
            times[name] = [r.seconds for r in rows if penalised(r) == r.seconds]
            totals[name] = len(rows)
        stem = "cactus" if ratio is None else f"cactus-{ratio:g}"
        title = "Images settled in time" + ("" if ratio is None else f", {ratio:.0%} removed")
        drawn.append(cactus.draw(times, totals, stem, title, "images", True, analysis.focus, page))
        title = title.replace("Images settled in time", "Certified area over time")
        over_time = area.draw(rows_of, stem.replace("cactus", "area"), title, analysis.focus, page)
        drawn += [] if over_time is None else [over_time]
    return drawn


def _maps(analysis: Analysis, folder: Path) -> list[Drawn]:
    drawn = []
    for pair in select.pairs(analysis):
        held = [(r, details.load(folder, r.name, r.image)) for r in (pair.before, pair.after)]
        panels = [
            (f"{label((r.arm, r.ratio))}\n{r.certified:.1%} certified", d)
            for r, d in held
            if d is not None and d.cells is not None and len(d.cells)
        ]
        if len(panels) == 2:
            title = f"Image {pair.after.image}: {pair.why}"
            caption = f"Before and after, seed {pair.after.seed}; every point of S is one change of the image."
            drawn.append(maps.draw_maps(panels, f"map-{pair.after.image}", title, caption))
    return drawn


def _worst(analysis: Analysis, folder: Path) -> list[Drawn]:
    drawn = []
    for row, held in select.worst(analysis, folder):
        assert held.witness is not None
        title = f"Image {row.image}: {row.refuted:.1%} refuted"
        drawn.append(maps.draw_witness(held.witness, row.tau, held.axes, f"worst-{row.image}", title))
    return drawn
