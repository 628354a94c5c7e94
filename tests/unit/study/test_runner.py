"""Whole studies with made-up networks: complete, interleaved, fair, and the same after any number of kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import synthetic_study as synthetic
from pruning.study import analysis, build, details, plan, row, runner
from pruning.study.errors import ResultsError, StudyFileError
from pruning.study.hands import Hands
from pruning.study.spec import Arm, VerificationTask

ARMS = {"dense+ft": None, "usn": None, "random": {"draws": 2}, "random-matched": None, "small-scratch": None}


def small(images: int = 4, **more):
    return synthetic.study(images, seeds=2, arms=ARMS, ratios=(0.5,), **more)


def steps(folder: Path, name: str):
    return json.loads((folder / "networks" / f"{name}.onnx").read_text())["steps"]


def test_one_row_for_every_network_and_image(tmp_path):
    study = small()
    seen = []
    rows = runner.run(study, tmp_path, synthetic.hands(), seen.append)
    names = {r.name for r in rows}
    assert len(names) == 2 * 6 and len(rows) == len(names) * 4 == len({r.key for r in rows})
    assert row.LINES.read(tmp_path / "results.jsonl") == rows
    assert [p.done for p in seen] == list(range(len(rows) + 1)) and {p.total for p in seen} == {len(rows)}
    assert seen[0].seconds_left is None and seen[-1].seconds_left == 0
    assert all(r.versions and r.machine and len(r.network) == 64 for r in rows)


def test_every_pruned_arm_gets_the_same_training(tmp_path):
    runner.run(small(), tmp_path, synthetic.hands())
    totals = {}
    for path in (tmp_path / "networks").glob("*.onnx"):
        history = json.loads(path.read_text())["steps"]
        totals[path.stem] = sum(step[1] for step in history if step[0] != "prune")
    dense = {totals.pop("dense-s0"), totals.pop("dense-s1")}
    assert dense == {6} and set(totals.values()) == {8}


def test_certified_arms_get_the_same_training_and_say_so(tmp_path):
    asked = []

    def finetune(*, certified, **rest):
        asked.append((rest["out"].parent.name, certified))
        synthetic.finetune(**rest)

    arms = ["dense+ft", "dense+cert", "usn", "usn+mrs+cert", "small-scratch+cert"]
    study = replace(small(1), arms=tuple(map(Arm, arms)), seeds=(0,))
    hands = replace(synthetic.hands(), finetune=finetune)
    build.build(study, plan.jobs(study), tmp_path, hands, lambda _: None)
    tuned = {"dense+ft-s0": False, "dense+cert-s0": True, "usn-r0.5-s0": False, "usn+mrs+cert-r0.5-s0": True}
    assert {name: certified for name, certified in asked if "scratch" not in name and "0.75" not in name} == {
        name: certified for name, certified in tuned.items()
    }
    assert dict(asked)["small-scratch+cert-r0.5-s0"]
    history = json.loads((tmp_path / "small-scratch+cert-r0.5-s0.onnx").read_text())["steps"]
    assert [step[:2] for step in history] == [["train", 6], ["finetune", 2]]


def test_matched_arms_copy_the_widths_and_draws_differ(tmp_path):
    runner.run(small(), tmp_path, synthetic.hands())
    assert steps(tmp_path, "random-r0.5-s1") != steps(tmp_path, "random-r0.5-s1-d1")
    assert steps(tmp_path, "small-scratch-r0.5-s1") == [["train", 8]]
    sizes = {json.loads(p.read_text())["width"] for p in (tmp_path / "networks").glob("*-r0.5-*.onnx")}
    assert sizes == {0.5}


def test_random_networks_never_share_their_choice():
    """Where all arms are equally wide, random-matched would otherwise be the first draw of random over again."""
    random = [job for job in plan.jobs(small()) if job.arm.startswith("random")]
    assert len(random) == 6 == len({build._seed(job) for job in random})


def test_stages_prune_and_tune_in_turn(tmp_path):
    runner.run(replace(small(1), stages=2), tmp_path, synthetic.hands())
    kinds = [s[0] for s in steps(tmp_path, "usn-r0.5-s0")]
    assert kinds == ["train", "prune", "finetune", "prune", "finetune"]
    assert [s[1] for s in steps(tmp_path, "usn-r0.5-s0") if s[0] == "finetune"] == [1, 1]
    width = json.loads((tmp_path / "networks" / "random-matched-r0.5-s0.onnx").read_text())["width"]
    assert width == pytest.approx(0.5)


@pytest.mark.parametrize("stages", [1, 2])
def test_widths_are_those_of_the_finished_network_where_the_work_folder_is_gone(tmp_path, stages):
    """Of an earlier stage they cannot be: the error says how to get it back."""
    study = replace(small(1), stages=stages, seeds=(0,))
    matched = next(arm for arm in study.arms if arm.name == "random-matched")
    runner.run(replace(study, arms=tuple(arm for arm in study.arms if arm != matched)), tmp_path, synthetic.hands())
    shutil.rmtree(tmp_path / "networks" / "work")
    if stages == 1:
        runner.run(study, tmp_path, synthetic.hands())
        width = json.loads((tmp_path / "networks" / "random-matched-r0.5-s0.onnx").read_text())["width"]
        assert width == pytest.approx(0.5)
    else:
        with pytest.raises(ResultsError, match=r"stage1-cut\.onnx: .*expected stage 1 of usn-r0.5-s0.*remove"):
            runner.run(study, tmp_path, synthetic.hands())


def test_the_concentration_loss_takes_the_epochs_before_the_last_cut(tmp_path):
    """As many in all: for two stages in three parts."""
    study = replace(small(1), stages=2, arms=(Arm("usn"), Arm("usn+wasserstein")), seeds=(0,))
    build.build(study, plan.jobs(study), tmp_path, synthetic.hands(), lambda _: None)
    plain, pulled = (
        json.loads((tmp_path / f"{arm}-r0.5-s0.onnx").read_text())["steps"] for arm in ("usn", "usn+wasserstein")
    )
    assert [s[0] for s in plain] == ["train", "prune", "finetune", "prune", "finetune"]
    assert [s[0] for s in pulled] == ["train", "concentrate", "prune", "concentrate", "prune", "finetune"]
    spent = [sum(s[1] for s in steps if s[0] in ("concentrate", "finetune")) for steps in (plain, pulled)]
    assert spent == pytest.approx([2, 2])


def test_images_come_in_turn_and_networks_shuffled_within(tmp_path):
    rows = runner.run(small(8), tmp_path, synthetic.hands())
    assert [r.image for r in rows] == [i for i in range(8) for _ in range(12)]
    orders = {tuple(r.name for r in rows if r.image == i) for i in range(8)}
    assert len(orders) > 6


def test_a_study_may_grow_and_keeps_what_it_has(tmp_path):
    first = runner.run(small(2), tmp_path, synthetic.hands())
    before = (tmp_path / "results.jsonl").read_bytes()
    asked = []
    hands = synthetic.hands()

    def verify(model, image, task):
        asked.append((model.stem, image))
        return hands.verify(model, image, task)

    grown = synthetic.study(3, seeds=3, arms={**ARMS, "l2": None, "random": {"draws": 3}}, ratios=(0.5,))
    rows = runner.run(grown, tmp_path, replace(hands, verify=verify))
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    assert not {r.key for r in first} & set(asked) and len(rows) == 3 * 8 * 3 == len(first) + len(asked)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, task=replace(s.task, tau=0.02)),
        lambda s: replace(s, budget=replace(s.budget, train=7.0)),
        lambda s: replace(s, network={"name": "other"}),
        lambda s: replace(s, stages=2),
    ],
)
def test_another_study_is_kept_out_of_the_folder(tmp_path, change):
    runner.run(small(1), tmp_path, synthetic.hands())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ResultsError, match="--out"):
        runner.run(change(small(1)), tmp_path, synthetic.hands())
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_network_that_changed_under_its_results_is_found(tmp_path):
    runner.run(small(1), tmp_path, synthetic.hands())
    path = tmp_path / "networks" / "usn-r0.5-s0.onnx"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ResultsError, match="has changed"):
        runner.run(small(2), tmp_path, synthetic.hands())


def test_given_files_are_compared_and_guarded_the_same_way(tmp_path):
    paths = [tmp_path / "dense.onnx", tmp_path / "pruned.onnx"]
    synthetic.train(seed=0, epochs=1, like=None, work=tmp_path, out=paths[0])
    synthetic.prune(model=paths[0], criterion="usn", ratio=0.5, like=None, seed=0, work=tmp_path, out=paths[1])
    record = {"tool": "secateur prune 0.1.0", "criterion": "usn", "ratio": 0.5}
    paths[1].with_suffix(".json").write_text(json.dumps(record))
    task = VerificationTask("synthetic")
    rows = runner.compare(paths, range(5), task, tmp_path / "out", synthetic.hands())
    assert {(r.name, r.criterion, r.ratio) for r in rows} == {("dense", "", None), ("pruned", "usn", 0.5)}
    assert len(rows) == 10
    paths[1].write_text(paths[1].read_text().replace("0.5", "0.25"))
    with pytest.raises(ResultsError, match="another file"):
        runner.compare(paths, range(5), task, tmp_path / "out", synthetic.hands())
    with pytest.raises(StudyFileError, match="no such file"):
        runner.compare([tmp_path / "none.onnx"], range(5), task, tmp_path / "two", synthetic.hands())


def test_a_given_dense_network_is_copied_and_not_trained(tmp_path):
    given = tmp_path / "good.onnx"
    synthetic.train(seed=9, epochs=80, like=None, work=tmp_path, out=given)
    study, asked = replace(small(1), dense={1: str(given)}), []
    hands = synthetic.hands()

    def train(**kw):
        asked.append((kw["seed"], kw["like"]))
        hands.train(**kw)

    folder = tmp_path / "out"
    runner.run(study, folder, replace(hands, train=train))
    assert [seed for seed, like in asked if like is None] == [0]
    assert (folder / "networks" / "dense-s1.onnx").read_bytes() == given.read_bytes()
    assert steps(folder, "usn-r0.5-s1")[0] == ["train", 80] and steps(folder, "usn-r0.5-s0")[0] == ["train", 6]
    held = [json.loads(line) for line in (folder / "networks" / "networks.jsonl").read_text().splitlines()]
    assert {m["name"]: m["source"] for m in held if m["source"]} == {"dense-s1": str(given)}
    notes = analysis.of_folder(folder, replicates=20).notes
    assert any("given, not trained by the study: seed 1: good.onnx" in note for note in notes)
    before = (folder / "results.jsonl").read_bytes()
    runner.run(study, folder, replace(hands, train=None))
    assert (folder / "results.jsonl").read_bytes() == before
    with pytest.raises(ResultsError, match="wants it trained"):
        runner.run(small(1), folder, hands)
    given.write_text(given.read_text() + " ")
    with pytest.raises(ResultsError, match="which differs"):
        runner.run(study, folder, hands)
    with pytest.raises(StudyFileError, match="cannot copy"):
        runner.run(replace(small(1), dense={0: str(tmp_path / "none.onnx")}), tmp_path / "other", hands)


def test_a_study_without_the_hands_to_train_says_so(tmp_path):
    only = Hands(synthetic.measure, synthetic.hands().verify)
    with pytest.raises(StudyFileError, match="Train"):
        runner.run(small(1), tmp_path, only)


def test_an_impossible_answer_of_the_verifier_is_not_written(tmp_path):
    hands = synthetic.hands()

    def verify(model, image, task):
        return replace(hands.verify(model, image, task), certified=2.0)

    with pytest.raises(ResultsError, match="impossible"):
        runner.run(small(1), tmp_path, replace(hands, verify=verify))
    assert (tmp_path / "results.jsonl").read_bytes() == b""


def test_details_hold_what_the_verifier_gave(tmp_path):
    outcome = synthetic.hands().verify
    model = tmp_path / "dense.onnx"
    synthetic.train(seed=0, epochs=1, like=None, work=tmp_path, out=model)
    found = [(i, outcome(model, i, VerificationTask("synthetic"))) for i in range(10)]
    image, given = next((i, o) for i, o in found if o.witness is not None)
    details.save(tmp_path, "dense", image, given)
    held = details.load(tmp_path, "dense", image)
    assert (held.cells == given.cells).all() and (held.states == given.states).all()
    assert held.axes == ("contrast", "brightness") and held.witness.worst == given.witness.worst
    assert (held.witness.picture == given.witness.picture).all()
    assert details.load(tmp_path, "dense", 99) is None
    details.path(tmp_path, "dense", image).write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ResultsError, match="cannot read"):
        details.load(tmp_path, "dense", image)


PROGRAM = """
import sys, time
from dataclasses import replace
from pathlib import Path
from pruning.study import runner
from benchmarks import synthetic_study as synthetic
from tests.unit.study.test_runner import small
hands = synthetic.hands(maps=False)
def verify(model, image, task):
    time.sleep(0.02)
    return hands.verify(model, image, task)
print("ready", flush=True)
runner.run(small(8), Path(sys.argv[1]), replace(hands, verify=verify))
"""


def test_kill_9_at_ten_random_moments_changes_nothing(tmp_path):
    """The file of a run killed again and again equals, byte for byte, that of a run left alone."""
    runner.run(small(8), tmp_path / "calm", synthetic.hands(maps=False))
    expected = (tmp_path / "calm" / "results.jsonl").read_bytes()
    held, moments, sizes = tmp_path / "killed" / "results.jsonl", random.Random(7), []

    def size() -> int:
        return held.stat().st_size if held.exists() else 0

    for kill in range(10):
        before = size()
        with started(held.parent) as process:
            while kill % 2 and size() == before and process.poll() is None:  # every other kill waits for a new row
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.08))
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        sizes.append(size())
    assert len(set(sizes)) >= 5 and sizes[-1] < len(expected)  # the kills hit a study under way
    with started(held.parent) as process:
        assert process.wait(60) == 0
    assert held.read_bytes() == expected


def started(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process
