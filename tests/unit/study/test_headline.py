"""The first screen of a study compares like with like, and says nothing from a handful of results."""

from __future__ import annotations

from pruning.study import analysis, goals, headline, report, select
from pruning.study.goals import GoalOutcome
from pruning.study.summary import ENOUGH
from tests.unit.study.made_rows import FEW, rows

CERT = "usn+cert"


def study(*parts, focus=CERT):
    return analysis.analyse([row for part in parts for row in part], "t", None, FEW, focus)


def test_a_certified_focus_is_told_against_dense_cert_first_and_then_dense_ft():
    found = study(
        rows(CERT, 0.5, [1.0] * 8, 2.0, 0.012),
        rows("dense+cert", None, [0.8] * 8, 4.0, 0.010),
        rows("dense+ft", None, [0.5] * 8, 8.0, 0.008),
    )
    assert headline.sentence(found) == (
        "Networks with 50% of the channels removed by usn+cert certify 2 x faster than dense+cert, at 20 % more error; "
        "20.0 points more of the changes are proven; and 4 x faster than dense+ft, at 50 % more error; 50.0 points "
        "more of the changes are proven."
    )
    assert found.reference == "dense+cert" and "against dense+cert" in headline.waiting(found)
    gains = {rates.label: rates.gains for rates in found.rates}
    assert gains["dense+cert"] == () and gains["usn+cert 50%"][-1].value == 1.0
    assert select.pairs(found)[0].before.arm == "dense+cert"


def test_a_plain_focus_is_not_held_against_certified_fine_tuning():
    found = study(
        rows("usn", 0.5, [1.0] * 8, 2.0),
        rows("dense+cert", None, [1.0] * 8, 1.0),
        rows("dense+ft", None, [0.5] * 8, 8.0),
        rows("l2", 0.5, [0.5] * 8),
        rows("l2+cert", 0.5, [1.0] * 8),
        focus="usn",
    )
    said = headline.sentence(found)
    assert found.reference == "dense+ft" and "4 x faster than dense+ft" in said and "dense+cert" not in said
    assert headline.controls(found).startswith("At the same ratio certify l2 less; ")


def test_an_unfinished_ratio_or_baseline_is_passed_over():
    """75 % and dense+cert have one image each: a difference of 100 points that nobody measured."""
    found = study(
        rows(CERT, 0.5, [0.6] * ENOUGH),
        rows(CERT, 0.75, [1.0]),
        rows("dense+cert", None, [0.0]),
        rows("dense+ft", None, [0.5] * ENOUGH),
    )
    said = headline.sentence(found)
    assert said.startswith("Networks with 50%") and "dense+cert" not in said and "10.0 points more" in said
    assert found.reference == "dense+ft"


def test_five_pairs_say_nothing_and_six_do():
    for count in (ENOUGH - 1, ENOUGH):
        found = study(rows("usn", 0.5, [1.0] * count), rows("dense+ft", None, [0.5] * count), focus="usn")
        said = headline.sentences(found)
        assert said.startswith("Nothing can be compared yet: usn shares 6 finished") == (count < ENOUGH), said
        assert ("%" in said) == (count == ENOUGH)


def test_a_comparison_uses_the_images_that_both_have():
    """usn+cert goes on with images that dense+cert lacks, on which nothing is proven."""
    found = study(rows(CERT, 0.5, [1.0] * 8 + [0.0] * 8), rows("dense+cert", None, [0.5] * 8))
    assert "50.0 points more" in headline.sentence(found)


def test_every_ratio_has_its_controls_and_its_goals():
    found = study(
        rows("usn", 0.5, [0.8] * 8),
        rows("l2", 0.5, [0.7] * 8),
        rows("usn", 0.6, [0.7] * 8),
        rows("small-scratch", 0.6, [1.0] * 8),
        rows("usn", 0.75, [0.6] * 8),
        rows("dense+ft", None, [0.5] * 8),
        focus="usn",
    )
    said = headline.controls(found)
    assert said.startswith("At 50% certify l2 less; at 60% certify small-scratch more; ") and "75%" not in said
    outcomes = {c.what: c.outcome for c in found.goals}
    assert outcomes["usn 60% vs small-scratch: verified rate"] is GoalOutcome.FAIL
    assert outcomes["usn 75% vs small-scratch: verified rate"] is GoalOutcome.UNMEASURED
    shown = [row[0] for row in report.first_table(found).rows]
    assert shown == ["dense+ft", "small-scratch 60%", "usn 50%", "usn 60%", "usn 75%"]


def test_the_goals_of_a_certified_focus_are_about_certified_controls():
    parts = [
        rows(CERT, 0.5, [1.0] * 20),
        rows("dense+cert", None, [0.5] * 20),
        rows("dense+ft", None, [0.5] * 20),
        rows("random-matched", 0.5, [0.5] * 20),
    ]
    without = {c.what: c.outcome for c in study(*parts).goals}
    assert without["usn+cert 50% vs random-matched+cert: verified rate"] is GoalOutcome.UNMEASURED
    assert without["usn+cert 50% vs dense+cert: verified rate"] is GoalOutcome.PASS
    assert without["usn+cert 50% vs dense+ft: verified rate"] is GoalOutcome.PASS
    held = {c.what: c.outcome for c in study(*parts, rows("random-matched+cert", 0.5, [0.5] * 20)).goals}
    assert held["usn+cert 50% vs random-matched+cert: verified rate"] is GoalOutcome.PASS
    assert not any("vs random-matched:" in what or "vs small-scratch:" in what for what in held)
    asked = {c.what for c in goals.criterion([], "usn+cert")}
    assert {w.split(" vs ")[1].split(":")[0] for w in asked} == {"random-matched+cert", "dense+cert", "dense+ft"}
