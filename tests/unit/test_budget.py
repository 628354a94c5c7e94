import math
from pathlib import Path

import pytest

from verifier import budget
from verifier.budget import Budget, available_memory, memory_limit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_runs_out_on_the_injected_clock() -> None:
    clock = Clock()
    budget = Budget.of(5.0, clock=clock)
    assert budget.remaining() == 5.0 and not budget.expired()
    clock.now = 104.5
    assert budget.remaining() == 0.5 and not budget.expired()
    clock.now = 105.0
    assert budget.remaining() == 0.0 and budget.expired()
    clock.now = 200.0
    assert budget.remaining() == 0.0


def test_stopping_is_seen_at_once_and_told_from_running_out() -> None:
    budget = Budget.of(None)
    assert budget.remaining() == math.inf and not budget.expired() and not budget.stopped
    budget.stop("stopped by SIGINT")
    budget.stop("too late")
    assert budget.expired() and budget.remaining() == 0.0 and budget.stopped == "stopped by SIGINT"


def test_budgets_do_not_share_their_stop() -> None:
    one, other = Budget.of(1.0), Budget.of(1.0)
    one.stop()
    assert not other.stopped


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Budget(math.nan)
    with pytest.raises(ValueError, match="memory_bytes"):
        Budget(memory_bytes=0)


def test_free_memory_is_the_smaller_of_machine_and_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemAvailable:    600 kB\n")
    assert available_memory(meminfo, tmp_path) == 600 * 1024
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert available_memory(meminfo, tmp_path) == 400000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 600 * 1024
    assert available_memory(tmp_path / "none", tmp_path / "none") is None


def test_the_limit_is_what_the_user_says_or_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "available_memory", lambda: 10_000_000)
    assert memory_limit(2.5) == 2_500_000_000 == memory_limit(2.5, processes=4)
    assert memory_limit(None) == 8_000_000 and memory_limit(None, processes=4) == 2_000_000
    assert memory_limit(1e-12) == 1 and memory_limit(math.inf) == 10**18
    monkeypatch.setattr(budget, "available_memory", lambda: None)
    assert memory_limit(None) is None
