"""What a run ends with: the verdict that an ending of the search means, its counters, and the settings in force."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from verifier.budget import Budget
from verifier.engine.on_device import OnDevice
from verifier.engine.strategy import Kind, Strategy
from verifier.options import ROUNDING_IGNORED, Options
from verifier.progress import Progress
from verifier.result import Result, Splits, Verdict, Witness
from verifier.search.bab import Ending
from verifier.search.memory import Memory
from verifier.search.policy import Tally


class Answer:
    """The answer of one run in the making: what has been counted so far, and the clock."""

    def __init__(self, budget: Budget, progress: Callable[[Progress], None] | None = None) -> None:
        self.budget, self.progress, self.start = budget, progress, time.monotonic()
        self.tally, self.before = Tally(), Tally()
        self.settings: dict[str, object] = {}
        self.splits: Callable[[], Splits] = Splits
        self.counters: Callable[[], dict[str, int | float]] = dict
        self.earlier = 0

    def explain(self, on: OnDevice, strategy: Strategy, tried: Callable[[], int]) -> None:
        """Notes what was chosen, and what is counted from now on; `tried` are the points in ONNX Runtime."""
        self.counters = lambda: {
            "boxes": self.before.boxes + self.tally.boxes,
            "steps": self.before.steps + self.tally.steps,
            "deepest": max(self.before.deepest, self.tally.deepest),
            "queries": on.queries,
            "replays": tried(),
        }
        single = "float32" if on.many == 0 else f"float32 from {on.many} boxes a step"
        other = strategy.bounds.kind != "crown" or (on.many > 0 and strategy.kind is not Kind.INPUTS)
        plain = on.single is None or other
        self.settings = {
            "method": strategy.method,
            "batch": strategy.batch,
            "processes": strategy.processes,
            "dtype": "float64" if plain else single,
            "device": str(on.device),
            "free_inputs": on.free,
            "split": "neurons" if strategy.neurons else "inputs",
            "strategy": f"{strategy.kind.value}: {strategy.reason}",
            "neurons": on.network.neurons,
        }

    def resume(self, tally: Tally) -> None:
        """The search goes on from what an earlier run has done, if that is anything."""
        if tally.boxes:
            self.tally, self.earlier = tally, tally.boxes
            self.settings = {**self.settings, "resumed_after_boxes": tally.boxes}

    def over(self, settled: float) -> None:
        """A search is over that others follow, which count from their own start; `settled` of all queries' volume is
        behind them."""
        before, own = self.before, self.tally
        deepest = max(before.deepest, own.deepest)
        self.before = Tally(before.boxes + own.boxes, before.steps + own.steps, deepest=deepest)
        self.tally = Tally(settled=settled)

    def report(self, tally: Tally) -> None:
        """A step of the search is over."""
        self.tally = tally
        if self.progress is not None:
            so_far = replace(tally, boxes=self.before.boxes + tally.boxes)
            self.progress(progress_of(so_far, time.monotonic() - self.start, self.budget))

    def of(
        self,
        verdict: Verdict,
        reason: str,
        counters: Mapping[str, int | float] | None = None,
        witness: Witness | None = None,
        open_fraction: float | None = None,
    ) -> Result:
        """The result with this verdict."""
        return Result(
            verdict,
            reason,
            witness,
            time.monotonic() - self.start,
            self.counters() if counters is None else counters,
            open_fraction,
            self.settings,
            self.splits(),
        )

    def without_room(self) -> Result:
        """Memory ran out before the search began."""
        return self.of(Verdict.UNKNOWN, "memory: not enough for the network itself", open_fraction=1.0)

    def out_of_time(self, open_fraction: float | None = None) -> Result:
        """The time is over, or the run was stopped."""
        verdict = Verdict.UNKNOWN if self.budget.stopped else Verdict.TIMEOUT
        return self.of(verdict, self.budget.stopped or "the time limit was reached", open_fraction=open_fraction)

    def ending(self, ending: Ending, memory: Memory) -> Result:
        """What the end of a search means."""
        self.tally = ending.tally
        if ending.lost:
            self.settings = {**self.settings, "processes": f"1; another was given up: {ending.lost}"}
        if isinstance(ending.found, Witness):
            return self.of(Verdict.SAT, "found by branch and bound", witness=ending.found)
        if ending.no_room:
            return self.of(Verdict.UNKNOWN, memory.reason, open_fraction=ending.open_share)
        if ending.out_of_time:
            return self.out_of_time(ending.open_share)
        if ending.tally.stuck:
            return self.of(
                Verdict.UNKNOWN,
                f"a tie: {ending.tally.stuck} boxes cannot be split any further: rounding decides there",
                open_fraction=ending.open_share,
            )
        return self.of(Verdict.UNSAT, "every box is proven", open_fraction=0.0)


def admitting(result: Result, options: Options) -> Result:
    """The result, which says so where it is an `unsat` that ignored rounding."""
    if result.verdict is not Verdict.UNSAT or options.bounds.rounding == "rigorous":
        return result
    return replace(result, reason=f"{result.reason}; {ROUNDING_IGNORED}")


def progress_of(tally: Tally, seconds: float, budget: Budget) -> Progress:
    """A look at a search for its progress line."""
    return Progress(
        boxes=tally.boxes,
        open_boxes=tally.open_boxes,
        seconds=seconds,
        lower=tally.lower,
        settled=tally.settled,
        remaining=budget.remaining(),
    )
