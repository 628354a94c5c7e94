"""The success criterion of the protocol and the goals of the release: checks that pass, fail, or were not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruning.study.stats import Estimate
from pruning.study.summary import Contrast, label

RATIOS = (0.5, 0.75)
ERROR_LIMIT = 1.10  # clean error may be this many times the baseline's
POINTS = 0.082  # gain in verified rate over dense+ft
FASTER = 4.0  # median time of dense over that of the pruned network, at the highest ratio


@dataclass(frozen=True)
class Check:
    """One condition. passed None: the study does not hold what it needs."""

    what: str
    wanted: str
    found: str
    passed: bool | None

    @property
    def word(self) -> str:
        """pass, FAIL or not measured."""
        return "not measured" if self.passed is None else "pass" if self.passed else "FAIL"


def verdict(checks: Sequence[Check]) -> bool | None:
    """False if any check failed, else None if any was not measured (or there is none), else True."""
    words = {check.passed for check in checks}
    return False if False in words else None if None in words or not words else True


def criterion(contrasts: Sequence[Contrast], focus: str = "usn") -> list[Check]:
    """The protocol: at 50 and 75 % better than random-matched and dense+ft in coverage and in verified rate with the
    whole interval above 0, median time not worse, clean error at most 10 % above dense+ft."""
    checks = []
    for ratio in RATIOS:
        for baseline in ("random-matched", "dense+ft"):
            found = _find(contrasts, focus, ratio, baseline)
            what = f"{label((focus, ratio))} vs {baseline}"
            checks.append(_above(f"{what}: coverage", found, lambda c: c.coverage, 0.0))
            checks.append(_above(f"{what}: verified rate", found, lambda c: c.verified, 0.0))
            checks.append(_time(f"{what}: median time", found, 1.0))
        checks.append(_error(focus, ratio, _find(contrasts, focus, ratio, "dense+ft")))
    return checks


def goals(contrasts: Sequence[Contrast], focus: str = "usn") -> list[Check]:
    """The release: verified rate at least 8.2 points above dense+ft, interval above 0 against random-matched and
    small-scratch, four times faster than dense at 75 %, clean error at most 10 % above."""
    checks = []
    for ratio in RATIOS:
        what = label((focus, ratio))
        dense = _find(contrasts, focus, ratio, "dense+ft")
        gain = None if dense is None else dense.verified
        passed = None if gain is None else gain.value >= POINTS
        wanted = f"at least +{100 * POINTS:.1f} points"
        checks.append(Check(f"{what} vs dense+ft: verified rate", wanted, _points(gain), passed))
        for baseline in ("random-matched", "small-scratch"):
            found = _find(contrasts, focus, ratio, baseline)
            checks.append(_above(f"{what} vs {baseline}: verified rate", found, lambda c: c.verified, 0.0))
        checks.append(_error(focus, ratio, dense))
    last = max(RATIOS)
    dense = _find(contrasts, focus, last, "dense") or _find(contrasts, focus, last, "dense+ft")
    name = "dense" if dense is None else dense.baseline[0]
    checks.append(_time(f"{label((focus, last))} vs {name}: median time", dense, 1 / FASTER))
    return checks


def _find(contrasts: Sequence[Contrast], focus: str, ratio: float, baseline: str) -> Contrast | None:
    for c in contrasts:
        if c.treatment == (focus, ratio) and c.baseline[0] == baseline and c.baseline[1] in (None, ratio):
            return c
    return None


def _above(what: str, contrast: Contrast | None, part: Callable[[Contrast], Estimate], limit: float) -> Check:
    found = None if contrast is None else part(contrast)
    return Check(what, "95 % interval above 0", _points(found), None if found is None else found.low > limit)


def _time(what: str, contrast: Contrast | None, limit: float) -> Check:
    wanted = "not worse" if limit == 1 else f"at most 1/{1 / limit:g}"
    if contrast is None:
        return Check(what, wanted, "", None)
    t = contrast.time
    return Check(what, wanted, f"x {t.value:.3g} [{t.low:.3g}, {t.high:.3g}]", t.value <= limit)


def _error(focus: str, ratio: float, contrast: Contrast | None) -> Check:
    what, wanted = f"{label((focus, ratio))} vs dense+ft: clean error", f"at most {ERROR_LIMIT - 1:+.0%}"
    if contrast is None:
        return Check(what, wanted, "", None)
    e = contrast.clean_error
    text = f"{e.value - 1:+.1%} [{e.low - 1:+.1%}, {e.high - 1:+.1%}]"
    return Check(what, wanted, text, e.value <= ERROR_LIMIT)


def _points(e: Estimate | None) -> str:
    return "" if e is None else f"{100 * e.value:+.1f} points [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
