"""Rows to figures: by hand on small cases, and the pass or fail of the protocol on cases built to pass or fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pruning.study import analysis, details, goals, select, summary
from pruning.study.errors import ResultsError
from pruning.study.goals import GoalOutcome
from pruning.study.hands import PictureWitness
from tests.unit.study.made_rows import FEW, rows


def test_a_summary_by_hand():
    held = rows("usn", 0.5, [1.0, 0.5, 1.0, 0.25], seconds=3.0)
    s = summary.summarise(held, ("usn", 0.5), FEW)
    assert s.coverage.value == pytest.approx(0.6875) and s.verified.value == 0.5
    assert s.seconds.value == 3 and s.par2.value == pytest.approx((3 + 120 + 3 + 120) / 4)
    assert (s.networks, s.images, s.seeds, s.parameters) == (1, 4, 1, 100)
    assert s.coverage.low <= s.coverage.value <= s.coverage.high


def test_networks_count_equally_and_unfinished_images_are_left_out():
    held = rows("random", 0.5, {(0, 0): [1.0, 1.0, 0.0], (0, 1): [0.5, 0.5]}, draws=(0, 1))
    s = summary.summarise(held, ("random", 0.5), FEW)
    assert s.images == 2 and s.coverage.value == pytest.approx(0.75) and s.networks == 2


def test_an_effect_pairs_seeds_and_images():
    generator = np.random.default_rng(0)
    base = {(s, 0): list(0.2 + 0.5 * generator.random(30)) for s in (0, 1)}
    better = {key: [v + 0.1 for v in values] for key, values in base.items()}
    held = rows("usn", 0.5, better, 0.5, 0.02, seeds=(0, 1)) + rows("l2", 0.5, base, 2.0, 0.01, seeds=(0, 1))
    c = summary.effect(held, ("usn", 0.5), ("l2", 0.5), FEW)
    for part, value in ((c.coverage, 0.1), (c.time, 0.25), (c.clean_error, 2.0)):
        assert (part.value, part.low, part.high) == pytest.approx((value,) * 3)
    assert c.pairs == 60 and c.mcnemar == 1


def test_mcnemar_counts_the_pairs_that_differ():
    held = rows("usn", 0.5, [1.0] * 8 + [0.0] * 4) + rows("l2", 0.5, [1.0] * 2 + [0.0] * 9 + [1.0])
    c = summary.effect(held, ("usn", 0.5), ("l2", 0.5), FEW)
    assert c.mcnemar == pytest.approx(2 * (1 + 7) / 2**7)  # 6 against 1


def test_effects_meet_the_same_ratio_and_the_unpruned_with_holm_inside_a_ratio():
    held = rows("dense+ft", None, [0.5] * 10)
    for ratio in (0.5, 0.75):
        held += rows("usn", ratio, [1.0] * 10) + rows("l2", ratio, [0.5] * 10)
    found = summary.effects(held, "usn", FEW)
    assert [(c.treatment[1], c.baseline) for c in found] == [
        (0.5, ("dense+ft", None)), (0.5, ("l2", 0.5)), (0.75, ("dense+ft", None)), (0.75, ("l2", 0.75)),
    ]  # fmt: skip
    assert all(c.holm == pytest.approx(2 * c.mcnemar) for c in found)


def test_nothing_in_common_is_no_effect():
    held = rows("usn", 0.5, [1.0], seeds=(0,)) + rows("l2", 0.5, [1.0], seeds=(1,))
    assert summary.effects(held, "usn", FEW) == []
    with pytest.raises(ValueError, match="in common"):
        summary.effect(held, ("usn", 0.5), ("l2", 0.5), FEW)


def whole(usn, slow=1.0, error=0.01, without=()):
    base = [1.0, 0.2] * 30
    held = rows("dense+ft", None, base, 8.0)
    for ratio in (0.5, 0.75):
        held += rows("usn", ratio, usn, slow, error)
        for arm in ("random-matched", "small-scratch"):
            held += [] if arm in without else rows(arm, ratio, base, 2.0)
    found = summary.effects(held, "usn", FEW)
    return goals.criterion(found), goals.goals(found)


BETTER = [1.0, 0.2] * 15 + [1.0, 1.0] * 15


def test_a_study_that_keeps_every_promise_passes():
    for checks in whole(BETTER):
        assert goals.verdict(checks) is GoalOutcome.PASS and {c.outcome for c in checks} == {GoalOutcome.PASS}


@pytest.mark.parametrize(
    ("change", "missed", "outcome"),
    [
        ({"usn": [1.0, 0.2] * 30}, {"coverage", "verified rate"}, GoalOutcome.INCONCLUSIVE),
        ({"usn": [1.0, 0.2] * 29 + [1.0, 1.0]}, {"coverage", "verified rate"}, GoalOutcome.INCONCLUSIVE),  # no proof
        ({"usn": [0.2] * 60}, {"coverage", "verified rate"}, GoalOutcome.FAIL),
        ({"usn": BETTER, "slow": 9.0}, {"median time"}, GoalOutcome.FAIL),
        ({"usn": BETTER, "error": 0.0112}, {"clean error"}, GoalOutcome.FAIL),
    ],
)
def test_each_promise_can_fail_alone(change, missed, outcome):
    checks, _ = whole(**change)
    assert goals.verdict(checks) is outcome
    assert {c.what.split(": ")[1] for c in checks if c.outcome is not GoalOutcome.PASS} == missed


def test_a_gain_whose_interval_holds_the_goal_is_inconclusive():
    base = [1.0, 0.2] * 50
    for better, outcome in (
        (1, GoalOutcome.FAIL),
        (8, GoalOutcome.INCONCLUSIVE),
        (9, GoalOutcome.INCONCLUSIVE),
        (30, GoalOutcome.PASS),
    ):
        held = rows("dense+ft", None, base) + rows("usn", 0.5, base[2 * better :] + [1.0] * 2 * better)
        gain = summary.effect(held, ("usn", 0.5), ("dense+ft", None), FEW).verified
        check = next(c for c in goals.goals(summary.effects(held, "usn", FEW)) if "8.2" in c.wanted)
        assert check.outcome is outcome, (better, gain)
        assert (gain.low < goals.POINTS <= gain.high) == (outcome is GoalOutcome.INCONCLUSIVE)


def test_four_times_faster_means_four():
    for slow, outcome in ((2.0, GoalOutcome.PASS), (2.01, GoalOutcome.FAIL)):
        _, checks = whole(BETTER, slow)
        assert next(c for c in checks if "1/4" in c.wanted).outcome is outcome


def test_what_was_not_measured_is_no_pass():
    checks, more = whole(BETTER, without=("random-matched",))
    assert goals.verdict(checks) is GoalOutcome.UNMEASURED and goals.verdict(more) is GoalOutcome.UNMEASURED
    assert {c.outcome for c in checks} == {GoalOutcome.PASS, GoalOutcome.UNMEASURED}
    assert goals.verdict([]) is GoalOutcome.UNMEASURED


def test_the_notes_warn():
    held = rows("usn", 0.5, [1.0] * 5) + rows("l2", 0.5, [1.0] * 4)
    held[0] = replace(held[0], machine="another")
    notes = " ".join(analysis.analyse(held, "t", replicates=FEW).notes)
    for words in ("1 of 5 images are not finished", "several machines", "1 training seed:", "Only"):
        assert words in notes


def test_images_are_chosen_by_rule():
    held = rows("dense+ft", None, [0.5, 0.5, 0.5, 0.5, 0.5]) + rows("usn", 0.75, [0.6, 0.9, 0.55, 0.3, 0.7])
    found = select.pairs(analysis.analyse(held, "t", replicates=FEW))
    assert [(p.why, p.after.image) for p in found] == [("largest gain", 1), ("median image", 0), ("largest loss", 3)]


def test_a_network_compared_with_nothing_shows_its_worst_images(tmp_path, monkeypatch):
    held = [
        replace(r, verdict="refuted", refuted=1 - r.certified, open=0.0) for r in rows("one", None, [0.5, 0.2, 0.8])
    ]
    witness = PictureWitness(np.zeros(2), np.zeros((4, 4)), np.zeros((1, 2)), np.ones((1, 2)), 0)
    monkeypatch.setattr(details, "load", lambda *_: details.Details(None, None, (), witness))
    found = analysis.analyse(held, "t", baseline="one", replicates=FEW)
    assert [r.image for r, _ in select.worst(found, tmp_path)] == [1, 0, 2]
    assert select.pairs(found) == []


def test_no_results_is_an_error(tmp_path):
    (tmp_path / "results.jsonl").write_bytes(b"")
    with pytest.raises(ResultsError, match="no results yet"):
        analysis.of_folder(tmp_path)
    with pytest.raises(ResultsError, match="cannot read"):
        analysis.of_folder(tmp_path / "none")
