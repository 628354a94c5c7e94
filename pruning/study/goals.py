"""The success criterion of the protocol and the goals of the release: pass, fail, inconclusive or not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pruning.study.stats import Estimate
from pruning.study.summary import Effect, label

RATIOS = (0.5, 0.75)
ERROR_LIMIT = 1.10  # clean error may be this many times the baseline's
POINTS = 0.082  # gain in verified rate over dense+ft
FASTER = 4.0  # median time of dense over that of the pruned network, at the highest ratio


class GoalOutcome(Enum):
    """How a condition came out; `value` is the word for people. Inconclusive: its 95 % interval holds the goal."""

    FAIL = "FAIL"
    INCONCLUSIVE = "inconclusive"
    UNMEASURED = "not measured"
    PASS = "pass"


@dataclass(frozen=True)
class Check:
    """One condition; UNMEASURED where the study does not hold what it needs."""

    what: str
    wanted: str
    found: str
    outcome: GoalOutcome


def measured(checks: Sequence[Check]) -> list[Check]:
    """The conditions that the study can say something about: those that are shown."""
    return [check for check in checks if check.outcome is not GoalOutcome.UNMEASURED]


def verdict(checks: Sequence[Check]) -> GoalOutcome:
    """The worst of them, in the order of `GoalOutcome`: a condition that nobody measured is none that passed."""
    found = {check.outcome for check in checks} or {GoalOutcome.UNMEASURED}
    return next(outcome for outcome in GoalOutcome if outcome in found)


def criterion(effects: Sequence[Effect], focus: str = "usn") -> list[Check]:
    """The protocol: at 50 and 75 % better than random-matched and dense+ft in coverage and in verified rate with the
    whole interval above 0, median time not worse, clean error at most 10 % above dense+ft."""
    checks = []
    for ratio in RATIOS:
        for baseline in ("random-matched", "dense+ft"):
            found = _find(effects, focus, ratio, baseline)
            what = f"{label((focus, ratio))} vs {baseline}"
            checks.append(_above(f"{what}: coverage", found, lambda c: c.coverage, 0.0))
            checks.append(_above(f"{what}: verified rate", found, lambda c: c.verified, 0.0))
            checks.append(_time(f"{what}: median time", found, 1.0))
        checks.append(_error(focus, ratio, _find(effects, focus, ratio, "dense+ft")))
    return checks


def goals(effects: Sequence[Effect], focus: str = "usn") -> list[Check]:
    """The release: verified rate at least 8.2 points above dense+ft, interval above 0 against random-matched and
    small-scratch, four times faster than dense at 75 %, clean error at most 10 % above."""
    checks = []
    for ratio in RATIOS:
        what = label((focus, ratio))
        dense = _find(effects, focus, ratio, "dense+ft")
        wanted = f"at least +{100 * POINTS:.1f} points"
        checks.append(_above(f"{what} vs dense+ft: verified rate", dense, lambda c: c.verified, POINTS, wanted))
        for baseline in ("random-matched", "small-scratch"):
            found = _find(effects, focus, ratio, baseline)
            checks.append(_above(f"{what} vs {baseline}: verified rate", found, lambda c: c.verified, 0.0))
        checks.append(_error(focus, ratio, dense))
    last = max(RATIOS)
    dense = _find(effects, focus, last, "dense") or _find(effects, focus, last, "dense+ft")
    name = "dense" if dense is None else dense.baseline[0]
    checks.append(_time(f"{label((focus, last))} vs {name}: median time", dense, 1 / FASTER))
    return checks


def _find(effects: Sequence[Effect], focus: str, ratio: float, baseline: str) -> Effect | None:
    for c in effects:
        if c.treatment == (focus, ratio) and c.baseline[0] == baseline and c.baseline[1] in (None, ratio):
            return c
    return None


def _above(
    what: str,
    effect: Effect | None,
    part: Callable[[Effect], Estimate],
    limit: float,
    wanted: str = "95 % interval above 0",
) -> Check:
    if effect is None:
        return Check(what, wanted, "", GoalOutcome.UNMEASURED)
    e = part(effect)
    good = e.low > limit if limit == 0 else e.low >= limit
    return Check(what, wanted, _points(e), _outcome(good, e.high < limit))


def _time(what: str, effect: Effect | None, limit: float) -> Check:
    wanted = "not worse" if limit == 1 else f"at most 1/{1 / limit:g}"
    if effect is None:
        return Check(what, wanted, "", GoalOutcome.UNMEASURED)
    t = effect.time
    text = f"x {t.value:.3g} [{t.low:.3g}, {t.high:.3g}]"
    return Check(what, wanted, text, _outcome(t.high <= limit, t.low > limit))


def _error(focus: str, ratio: float, effect: Effect | None) -> Check:
    what, wanted = f"{label((focus, ratio))} vs dense+ft: clean error", f"at most {ERROR_LIMIT - 1:+.0%}"
    if effect is None:
        return Check(what, wanted, "", GoalOutcome.UNMEASURED)
    e = effect.clean_error
    text = f"{e.value - 1:+.1%} [{e.low - 1:+.1%}, {e.high - 1:+.1%}]"
    return Check(what, wanted, text, _outcome(e.high <= ERROR_LIMIT, e.low > ERROR_LIMIT))


def _outcome(good: bool, bad: bool) -> GoalOutcome:
    """The whole interval is on the good side, on the bad side, or the goal lies in it."""
    return GoalOutcome.PASS if good else GoalOutcome.FAIL if bad else GoalOutcome.INCONCLUSIVE


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} points [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
