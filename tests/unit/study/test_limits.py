"""Verified rates at shorter limits, against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pruning.study import analysis, limits, report
from tests.unit.study.made_rows import FEW, rows


def timed(arm, ratio, seconds, verified, limit=10.0):
    """One row per image."""
    made = rows(arm, ratio, [1.0 if v else 0.5 for v in verified], limit=limit)
    return [replace(r, seconds=s) for r, s in zip(made, seconds, strict=True)]


def test_rates_by_hand():
    held = timed("usn", 0.5, [0.5, 1.0, 1.5, 9.0], [1, 1, 1, 0])
    held += timed("dense+ft", None, [1.5, 4.0, 10.2, 6.0], [1, 1, 1, 1])
    dense, usn = limits.rates(held, replicates=FEW)
    assert (dense.treatment, usn.treatment) == (("dense+ft", None), ("usn", 0.5))
    assert dense.limits == pytest.approx((1.0, 2.0, 5.0, 10.0))
    assert [e.value for e in usn.verified] == [0.5, 0.75, 0.75, 0.75]
    # the last one took a little longer than the limit, which the run allowed
    assert [e.value for e in dense.verified] == [0.0, 0.25, 0.5, 1.0]
    assert [e.value for e in usn.gains] == pytest.approx([0.5, 0.5, 0.25, -0.25]) and dense.gains == ()
    assert all(g.low <= g.value <= g.high for g in usn.gains)


def test_at_the_whole_limit_the_rate_is_the_summary_s():
    held = timed("usn", 0.5, [0.1, 20.0, 3.0], [1, 1, 0]) + timed("l2", 0.5, [1.0, 2.0, 3.0], [1, 1, 1])
    found = analysis.analyse(held, "t", replicates=FEW)
    for summary, rate in zip(found.summaries, found.rates, strict=True):
        assert summary.verified == rate.verified[-1] and rate.gains == ()


def test_nothing_in_common_gives_rates_without_gains():
    held = timed("usn", 0.5, [1.0], [1]) + [replace(r, seed=7) for r in timed("dense+ft", None, [1.0], [1])]
    assert all(r.gains == () for r in limits.rates(held, replicates=FEW))
    assert limits.rates([]) == []


def test_the_report_shows_rate_and_gain():
    held = timed("usn", 0.5, [0.5, 1.0], [1, 1]) + timed("dense+ft", None, [8.0, 9.0], [1, 1])
    table = report.rate_table(analysis.analyse(held, "t", replicates=FEW))
    assert table.columns == ("network", "1 s", "2 s", "5 s", "10 s")
    assert dict((r[0], r[1:]) for r in table.rows)["usn 50%"][0] == "100.0 (+100.0 [+100.0, +100.0])"
    assert dict((r[0], r[1:]) for r in table.rows)["dense+ft"] == ("0.0", "0.0", "0.0", "100.0")
