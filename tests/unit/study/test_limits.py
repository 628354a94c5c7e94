"""Verified rates at shorter limits, against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pruning.study import analysis, headline, limits, report
from pruning.study.figures import area
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


def traced(arm, ratio, steps):
    """One row per image with the trace (seconds, share), ... of each."""
    made = timed(arm, ratio, [s[-1][0] for s in steps], [s[-1][1] == 1 for s in steps])
    left = [{"certified": s[-1][1], "open": 1 - s[-1][1], "trace": tuple(s)} for s in steps]
    return [replace(r, **parts) for r, parts in zip(made, left, strict=True)]


QUICK = [[(0.5, 0.25), (1.5, 0.75), (9.0, 0.8)], [(0.4, 0.5), (0.9, 1.0)]]
SLOW = [[(3.0, 0.5), (6.0, 1.0)], [(4.0, 1.0)]]


def test_certified_areas_at_each_limit_by_hand():
    held = traced("usn", 0.5, QUICK) + traced("dense+ft", None, SLOW)
    dense, usn = limits.rates(held, replicates=FEW, limits=(0.45, 1, 2, 5, 10))
    assert [e.value for e in usn.coverage] == pytest.approx([0.25, 0.625, 0.875, 0.875, 0.9])
    assert [e.value for e in dense.coverage] == pytest.approx([0, 0, 0, 0.75, 1])
    assert [e.value for e in usn.coverage_gains] == pytest.approx([0.25, 0.625, 0.875, 0.125, -0.1])
    assert [e.value for e in usn.gains] == pytest.approx([0, 0.5, 0.5, 0, -0.5]) and limits.crossing(usn) is None
    two = limits.rates(held, replicates=FEW, limits=(2, 10))[1]
    assert limits.crossing(two) == (2, 10)
    table = report.area_table(analysis.analyse(held, "t", replicates=FEW, at=(2, 10)))
    assert table.columns == ("network", "2 s", "10 s") and len(table.rows) == 2
    assert table.rows[1][1].startswith("87.5 [75.0, 100.0] (+87.5")


def test_folders_without_traces_have_no_areas():
    held = timed("usn", 0.5, [2.5, 3.0], [1, 1]) + traced("dense+ft", None, SLOW)
    dense, usn = limits.rates(held, replicates=FEW)
    assert usn.coverage == usn.coverage_gains == () and dense.coverage
    found = analysis.analyse(held, "t", replicates=FEW)
    assert [row[0] for row in report.area_table(found).rows] == ["dense+ft"]
    assert area.curve(held[:2]) is None and area.draw({"usn": held[:2]}, "area", "t", "usn") is None


def test_the_curve_is_the_mean_of_the_steps():
    seconds, shares = area.curve(traced("usn", 0.5, QUICK))
    for s, share in zip(seconds, shares, strict=True):
        want = [max((v for t, v in steps if t <= s), default=0.0) for steps in QUICK]
        assert share == pytest.approx(sum(want) / 2)
    assert seconds[0] < 0.1 and seconds[-1] == pytest.approx(10)
    drawn = area.draw({"usn": traced("usn", 0.5, QUICK)}, "area", "Certified area over time", "usn")
    assert "90 % at the end" in drawn.spoken


def test_the_second_sentence_says_where_the_lines_cross():
    many = [[(1.5, 1.0)]] * 12, [[(4.0, 0.5), (8.0, 1.0)]] * 12
    held = traced("usn", 0.5, [*many[0], *[[(0.2, 0.1)]] * 9]) + traced("dense+ft", None, [*many[1], *many[1][:9]])
    held += traced("l2", 0.5, [[(0.2, 0.1)]] * 21)
    found = analysis.analyse(held, "t", replicates=FEW)
    said = headline.waiting(found)
    assert said.startswith("Of images certified in full, usn 50% has, against dense+ft, after 2 s +57.1 [")
    assert "after 10 s -42.9 [" in said and said.endswith("; they cross between 5 and 10 s.")
    assert headline.controls(found).startswith("At the same ratio certify l2 less; ")
    assert headline.sentences(found).endswith("goals that were measured are reached.")
    level = analysis.analyse(traced("usn", 0.5, QUICK * 3) + traced("dense+ft", None, QUICK * 3), "t", replicates=FEW)
    assert headline.waiting(level).count("as many within chance (+0.0 [+0.0, +0.0] points)") >= 1


def test_nothing_to_compare_says_nothing_more():
    found = analysis.analyse(timed("usn", 0.5, [1.0], [1]), "t", replicates=FEW)
    assert headline.waiting(found) == headline.controls(found) == ""
