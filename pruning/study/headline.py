"""What a study found, in three sentences: time, error and proof of the pruned networks against the unpruned ones; what
waiting longer changes; and how it compares with the controls and the goals.
"""

from __future__ import annotations

from pruning.study import goals, limits, words
from pruning.study.analysis import Analysis
from pruning.study.goals import GoalOutcome
from pruning.study.spec import Arm, references
from pruning.study.stats import Estimate
from pruning.study.summary import ENOUGH, Effect, label


def sentences(analysis: Analysis) -> str:
    """All that can be said of the three."""
    return " ".join(text for text in (sentence(analysis), waiting(analysis), controls(analysis)) if text)


def waiting(analysis: Analysis) -> str:
    """How the gain in verified rate over the reference depends on the limit; empty where there is none to compare."""
    found = chosen(analysis)
    rates = next((r for r in analysis.rates if found is not None and r.treatment == found.treatment), None)
    if rates is None or not rates.gains:
        return ""
    best = max(range(len(rates.gains)), key=lambda at: rates.gains[at].value)
    told = [
        f"after {words.number(rates.limits[at])} s {_images(rates.gains[at])}"
        for at in sorted({best, len(rates.gains) - 1})
    ]
    cross = limits.crossing(rates)
    turn = f"; they cross between {words.number(cross[0])} and {words.number(cross[1])} s" if cross else ""
    who = label(rates.treatment)
    return f"Of images certified in full, {who} has, against {analysis.reference}, {', '.join(told)}{turn}."


def _images(gain: Estimate) -> str:
    interval = f"{words.interval(gain, 100, sign=True)} points"
    return f"as many within chance ({interval})" if gain.low <= 0 <= gain.high else interval


def controls(analysis: Analysis) -> str:
    """What others with the same kind of fine-tuning certify, ratio by ratio; how many goals are reached."""
    if chosen(analysis) is None or analysis.baseline is not None:
        return ""
    ratios = sorted({s.ratio for s in analysis.summaries if s.arm == analysis.focus and s.ratio is not None})
    told = [(ratio, text) for ratio in ratios if (text := "; ".join(_beside(analysis, ratio)))]
    checks = goals.measured(analysis.goals)
    passed = sum(check.outcome is GoalOutcome.PASS for check in checks)
    parts = [f"at {'the same ratio' if len(ratios) == 1 else f'{ratio:.0%}'} certify {text}" for ratio, text in told]
    parts += [f"{passed} of {len(checks)} goals that were measured are reached"] if checks else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _beside(analysis: Analysis, ratio: float) -> list[str]:
    """Controls that certify less, more, or no different area than the focus at a ratio."""
    certified = Arm(analysis.focus).certified
    others = [
        c
        for c in analysis.effects
        if c.treatment == (analysis.focus, ratio)
        and c.baseline[1] is not None
        and c.pairs >= ENOUGH
        and Arm(c.baseline[0]).certified == certified
    ]
    groups = {
        "less": [c for c in others if c.coverage.low > 0],
        "more": [c for c in others if c.coverage.high < 0],
        "no different area within chance": [c for c in others if c.coverage.low <= 0 <= c.coverage.high],
    }
    return [f"{', '.join(c.baseline[0] for c in members)} {how}" for how, members in groups.items() if members]


def sentence(analysis: Analysis) -> str:
    """What was found, for the treatment of `chosen`; a difference that may be chance is called none.

    A focus with `+cert` is told against dense+cert first, then against dense+ft.
    """
    found = chosen(analysis)
    if found is None:
        what = analysis.focus if analysis.baseline is None else "no other network"
        return f"Nothing can be compared yet: {what} shares {ENOUGH} finished images with no unpruned network."
    arm, ratio = found.treatment
    who, verb = label(found.treatment), "certifies"  # a given network, or one that is not pruned
    if ratio is not None and analysis.baseline is None:
        who, verb = f"Networks with {ratio:.0%} of the channels removed by {arm}", "certify"
    told = [found, *(c for c in _held_against(analysis, "dense+ft") if c.treatment == found.treatment and c != found)]
    return f"{who} {verb} {'; and '.join(map(_compared, told))}."


def chosen(analysis: Analysis) -> Effect | None:
    """The focus at its highest ratio against the unpruned network most like it; of given ones the smallest against the
    first. In a study only of those with at least `ENOUGH` pairs of results: it may be far from finished.
    """
    if analysis.baseline is not None:
        size = {s.arm: s.parameters for s in analysis.summaries}
        return min(analysis.effects, key=lambda c: size[c.treatment[0]], default=None)
    for baseline in references(analysis.focus):
        mine = _held_against(analysis, baseline)
        if mine:
            return max(mine, key=lambda c: c.treatment[1] or 0.0)
    return None


def _held_against(analysis: Analysis, baseline: str) -> list[Effect]:
    """The focus against one unpruned arm of a study, where both have enough results."""
    mine = [c for c in analysis.effects if c.treatment[0] == analysis.focus and c.baseline[0] == baseline]
    return [] if analysis.baseline is not None else [c for c in mine if c.pairs >= ENOUGH]


def _compared(found: Effect) -> str:
    """Time, error and proof of one treatment beside a baseline."""
    return f"{_speed(found.time)} {label(found.baseline)}, {_error(found.clean_error)}; {_coverage(found.coverage)}"


def _speed(time: Estimate) -> str:
    if time.high < 1 and time.value > 0:
        return f"{_times(1 / time.value)} x faster than"
    return f"{_times(time.value)} x slower than" if time.low > 1 else "no faster or slower, beyond chance, than"


def _times(ratio: float) -> str:
    """A ratio above 1 with two digits, or three where two would say 1."""
    return f"{ratio:.{2 if ratio >= 1.05 else 3}g}"


def _error(ratio: Estimate) -> str:
    change = f"{abs(ratio.value - 1):.0%} {'more' if ratio.value >= 1 else 'less'}"
    if ratio.low > 1 or ratio.high < 1:
        return f"at {change.replace('%', ' %')} error"
    return f"at an error that differs by no more than chance ({change.replace('%', ' %')})"


def _coverage(gain: Estimate) -> str:
    """Certified coverage in percentage points."""
    if gain.low > 0 or gain.high < 0:
        return f"{abs(100 * gain.value):.1f} points {'more' if gain.value > 0 else 'less'} of the changes are proven"
    return f"how much is proven differs by no more than chance ({100 * gain.value:+.1f} points)"
