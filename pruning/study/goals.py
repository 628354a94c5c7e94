"""The success criterion of the protocol and the goals of the release: pass, fail, inconclusive or not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pruning.study.spec import alike, references
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


@dataclass(frozen=True)
class _Condition:
    """A limit on one figure of an effect, the one at the `good` end of its interval having to keep it.

    found: how the figure and its interval are told, after `told` has turned each number into what a reader sees.
    """

    figure: str
    part: str
    limit: float
    wanted: str
    found: str
    told: Callable[[float], float] = float
    rising: bool = True

    def check(self, focus: str, ratio: float, baseline: str, effect: Effect | None) -> Check:
        """What became of it for the focus arm at a ratio against a baseline."""
        what = f"{label((focus, ratio))} vs {baseline}: {self.figure}"
        if effect is None:
            return Check(what, self.wanted, "", GoalOutcome.UNMEASURED)
        e: Estimate = getattr(effect, self.part)
        worst, best = (
            (e.low - self.limit, e.high - self.limit) if self.rising else (self.limit - e.high, self.limit - e.low)
        )
        good = worst > 0 or (worst == 0 and self.limit != 0)  # no gain at all is none
        outcome = GoalOutcome.PASS if good else GoalOutcome.FAIL if best < 0 else GoalOutcome.INCONCLUSIVE
        return Check(what, self.wanted, self.found.format(*map(self.told, (e.value, e.low, e.high))), outcome)


_GAIN = _Condition(
    "verified rate", "verified", 0.0, "95 % interval above 0", "{:+.1f} points [{:+.1f}, {:+.1f}]", lambda v: 100 * v
)
_COVERAGE = replace(_GAIN, figure="coverage", part="coverage")
_POINTS = replace(_GAIN, limit=POINTS, wanted=f"at least +{100 * POINTS:.1f} points")
_TIME = _Condition("median time", "time", 1.0, "not worse", "x {:.3g} [{:.3g}, {:.3g}]", rising=False)
_FASTER = replace(_TIME, limit=1 / FASTER, wanted=f"at most 1/{FASTER:g}")
_ERROR = _Condition(
    "clean error", "clean_error", ERROR_LIMIT, f"at most {ERROR_LIMIT - 1:+.0%}", "{:+.1%} [{:+.1%}, {:+.1%}]",
    lambda v: v - 1, rising=False,
)  # fmt: skip


def criterion(effects: Sequence[Effect], focus: str = "usn") -> list[Check]:
    """The protocol: at 50 and 75 % better than random-matched and dense+ft in coverage and in verified rate with the
    whole interval above 0, median time not worse, clean error at most 10 % above dense+ft. A focus with `+cert` is held
    against random-matched+cert, and against dense+cert as well."""
    baselines = (alike("random-matched", focus), *references(focus)[:-1])
    both = [(name, wanted) for name in baselines for wanted in (_COVERAGE, _GAIN, _TIME)]
    return [_check(effects, focus, r, *one) for r in RATIOS for one in (*both, ("dense+ft", _ERROR))]


def goals(effects: Sequence[Effect], focus: str = "usn") -> list[Check]:
    """The release, at 50 and 75 % and whatever other ratio the focus has: verified rate at least 8.2 points above
    dense+ft, interval above 0 against random-matched and small-scratch, clean error at most 10 % above dense+ft; four
    times faster than dense at 75 %. A focus with `+cert` is held against the controls with it, and has to gain as much
    over dense+cert, too."""
    unpruned = references(focus)
    gains = [(name, _POINTS) for name in unpruned[:-1]]
    controls = [(alike(name, focus), _GAIN) for name in ("random-matched", "small-scratch")]
    wanted = (*gains, *controls, ("dense+ft", _ERROR))
    last, own = max(RATIOS), {c.treatment[1] for c in effects if c.treatment[0] == focus}
    ratios = sorted({*RATIOS, *(ratio for ratio in own if ratio is not None)})
    dense = next((name for name in reversed(unpruned) if _find(effects, focus, last, name)), "dense")
    return [_check(effects, focus, r, *one) for r in ratios for one in wanted] + [
        _check(effects, focus, last, dense, _FASTER)
    ]


def _check(effects: Sequence[Effect], focus: str, ratio: float, baseline: str, wanted: _Condition) -> Check:
    return wanted.check(focus, ratio, baseline, _find(effects, focus, ratio, baseline))


def _find(effects: Sequence[Effect], focus: str, ratio: float, baseline: str) -> Effect | None:
    for c in effects:
        if c.treatment == (focus, ratio) and c.baseline[0] == baseline and c.baseline[1] in (None, ratio):
            return c
    return None
