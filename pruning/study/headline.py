"""One sentence that says what a study found: time, error and proof of the pruned networks against the unpruned ones."""

from __future__ import annotations

from pruning.study.analysis import Analysis
from pruning.study.stats import Estimate
from pruning.study.summary import Contrast, label

UNPRUNED = ("dense+ft", "dense")


def sentence(analysis: Analysis) -> str:
    """What was found, for the treatment of `chosen`; a difference that may be chance is called none."""
    found = chosen(analysis)
    if found is None:
        return "Nothing can be compared yet: no two treatments share a finished image."
    arm, ratio = found.treatment
    who, verb = label(found.treatment), "certifies"  # a given network, or one that is not pruned
    if ratio is not None and analysis.baseline is None:
        who, verb = f"Networks with {ratio:.0%} of the channels removed by {arm}", "certify"
    return (
        f"{who} {verb} {_speed(found.time)} {label(found.baseline)}, {_error(found.clean_error)}; "
        f"{_coverage(found.coverage)}."
    )


def chosen(analysis: Analysis) -> Contrast | None:
    """The focus at its highest ratio against the unpruned networks; of given ones the smallest against the first."""
    if analysis.baseline is not None:
        size = {s.arm: s.parameters for s in analysis.summaries}
        return min(analysis.contrasts, key=lambda c: size[c.treatment[0]], default=None)
    for baseline in UNPRUNED:
        mine = [c for c in analysis.contrasts if c.treatment[0] == analysis.focus and c.baseline[0] == baseline]
        if mine:
            return max(mine, key=lambda c: c.treatment[1] or 0.0)
    return analysis.contrasts[-1] if analysis.contrasts else None


def _speed(time: Estimate) -> str:
    if time.high < 1 and time.value > 0:
        return f"{1 / time.value:.2g} x faster than"
    return f"{time.value:.2g} x slower than" if time.low > 1 else "no faster or slower, beyond chance, than"


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
