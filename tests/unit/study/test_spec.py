"""Study files: read, checked, and turned into networks and an order."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import synthetic_study as synthetic
from pruning import planning
from pruning.study import plan, spec
from pruning.study.errors import StudyFileError

STUDIES = Path(__file__).parents[3] / "benchmarks" / "studies"
GOOD = {
    "name": "n", "data": "d", "images": 3, "arms": ["dense+ft", "usn"], "seeds": [0], "ratios": [0.5],
    "budget": {"train": 1, "finetune": 1},
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_studies_that_ship_are_valid(path):
    study = spec.load(path)
    assert {"dense+ft", "usn"} <= {a.name.removesuffix("+cert") for a in study.arms}
    assert plan.jobs(study)


def test_numbers_may_be_written_as_yaml_reads_for_text():
    """1e-2 without a point is text to YAML 1.1."""
    study = spec.parse({**GOOD, "timeout": "1e2", "ratios": ["5e-1"], "budget": {"train": "1e1", "finetune": 1}})
    assert (study.task.timeout, study.ratios, study.budget.train) == (100.0, (0.5,), 10.0)


def test_a_count_of_images_means_the_first_ones_and_a_list_means_itself():
    assert spec.parse(GOOD).images == (0, 1, 2)
    assert spec.parse({**GOOD, "images": [7, 3]}).images == (7, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taus": 0.1}, "unknown key 'taus': did you mean 'tau'"),
        ({"tau": 0}, "tau 0.0"),
        ({"tau": "3 px"}, "tau: found '3 px'"),
        ({"timeout": float("inf")}, "timeout: found inf"),
        ({"images": 0}, "images: 0"),
        ({"images": []}, "images: empty"),
        ({"images": [1, 1]}, "named twice"),
        ({"images": [-1]}, "negative"),
        ({"images": True}, "images: found True"),
        ({"seeds": []}, "seeds: empty"),
        ({"seeds": 2}, "seeds: found 2"),
        ({"ratios": [1.0]}, "ratios (1.0,)"),
        ({"ratios": []}, "usn has no ratio"),
        ({"arms": {}}, "no arms"),
        ({"arms": {"usn": {"draw": 2}}}, "unknown key 'draw': did you mean 'draws'"),
        ({"arms": {"usn": {"draws": 0}}}, "draws 0"),
        ({"arms": ["small-scratch"]}, "takes its widths from arm usn"),
        ({"arms": {"usn": None, "random-matched": {"ratios": [0.25]}}}, "[0.25] are missing in arm usn"),
        ({"arms": "usn"}, "arms: found str"),
        ({"budget": {"train": 1}}, "budget needs both"),
        ({"budget": {"train": 0, "finetune": 1}}, "train above 0"),
        ({"stages": 0}, "stages 0"),
        ({"limits": [5, 1]}, "limits [5.0, 1.0]; expected rising seconds up to the timeout 60"),
        ({"limits": [1, 90]}, "limits [1.0, 90.0]"),
        ({"limits": [0]}, "limits [0.0]"),
        ({"arms": ["usn+certified"]}, "unknown '+certified'; expected one of +uniform"),
        ({"arms": ["dense+marginal"]}, "unknown '+marginal'; expected one of +ft, +cert"),
        ({"arms": ["usn", "random-matched+mrs"]}, "unknown '+mrs'; expected one of +cert"),
        ({"arms": ["dense+wasserstein"]}, "unknown '+wasserstein'; expected one of +ft, +cert"),
        ({"arms": ["usn+wasserstein+wasserstein"]}, "arm usn+wasserstein+wasserstein: "),
        ({"arms": ["usn+mrs+global"]}, "more than one allocation"),
        ({"arms": ["usn+cert+cert"]}, "or +cert twice"),
        ({"arms": ["dense+ft+cert"]}, "arm dense+ft+cert: "),
        ({"clock": "sun"}, "clock 'sun'; expected one of wall, processor"),
        ({"dense": ["a.onnx"]}, "dense: found ['a.onnx']"),
        ({"dense": {"0": "a.onnx"}}, "dense: seed: found '0'"),
        ({"dense": {3: "a.onnx"}}, "dense: names a network for seeds [3]"),
        ({"network": {"name": [1]}}, "network.name"),
        ({"name": "two\nlines"}, "name: found"),
        ({"arms": {"random": {"draws": 1000}}, "ratios": [r / 100 for r in range(1, 90)]}, "89000 networks"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    with pytest.raises(StudyFileError) as caught:
        spec.parse({**GOOD, **change})
    assert words in str(caught.value)


def test_suffixes_say_how_an_arm_is_tuned_and_shared_out():
    arms = [
        "dense+cert",
        "usn",
        "usn+marginal",
        "usn-taylor+marginal+cert",
        "usn-taylor+wasserstein+cert",
        "random-matched+cert",
        "small-scratch+cert",
    ]
    found = {job.arm: job for job in plan.jobs(spec.parse({**GOOD, "arms": arms}))}
    assert {name: (job.kind, job.criterion, job.shared, job.certified) for name, job in found.items()} == {
        "dense": ("train", "", "", False),
        "dense+cert": ("tune", "", "", True),
        "usn": ("prune", "usn", "", False),
        "usn+marginal": ("prune", "usn", "marginal", False),
        "usn-taylor+marginal+cert": ("prune", "usn-taylor", "marginal", True),
        "usn-taylor+wasserstein+cert": ("prune", "usn-taylor", "", True),
        "random-matched+cert": ("prune", "random-matched", "", True),
        "small-scratch+cert": ("scratch", "", "", True),
    }
    assert [name for name, job in found.items() if job.concentrated] == ["usn-taylor+wasserstein+cert"]
    assert found["small-scratch+cert"].like == found["random-matched+cert"].like == "usn-r0.5-s0"
    assert found["dense+cert"].name == "dense+cert-s0" and found["usn"].parent == "dense-s0"


@pytest.mark.parametrize("key", ["name", "data", "images", "arms", "seeds", "budget"])
def test_what_is_missing_is_named(key):
    with pytest.raises(StudyFileError, match=f"'{key}' is missing"):
        spec.parse({k: v for k, v in GOOD.items() if k != key})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1, 2", "study.yaml:1:9"),
        (b"- 1\n", "found list"),
        (b"", "found NoneType"),
        (b"\xff\xfe\x00", "study.yaml"),
        (b"x: !!python/object/apply:os.system ['true']", "not YAML"),
        (b"#" * (1 << 21), "larger than"),
    ],
)
def test_files_that_are_no_study(tmp_path, content, words):
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        spec.load(tmp_path / "study.yaml")
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StudyFileError, match="cannot read"):
        spec.load(tmp_path / "none.yaml")


def test_every_network_comes_after_those_it_is_made_from():
    jobs = plan.jobs(synthetic.study())
    seen: set[str] = set()
    for job in jobs:
        assert {job.parent, job.like} - {None} <= seen
        seen.add(job.name)
    assert len(seen) == len(jobs)


def test_the_plan_has_every_arm_ratio_seed_and_draw():
    study = synthetic.study(seeds=3, ratios=(0.25, 0.5))
    shown = Counter((j.arm, j.ratio, j.seed) for j in plan.jobs(study) if j.shown)
    assert shown == {
        (arm.name, ratio, seed): arm.draws
        for arm in study.arms
        for ratio in (study.ratios_of(arm) or (None,))
        for seed in (0, 1, 2)
    }


def test_every_image_meets_every_network_once_in_an_order_of_its_own():
    names, images = [f"n{i}" for i in range(6)], range(40)
    pairs = list(plan.schedule(names, images))
    assert sorted(pairs) == sorted((n, i) for n in names for i in images)
    orders = {image: tuple(n for n, i in pairs if i == image) for image in images}
    assert [i for _, i in pairs] == [i for i in images for _ in names]
    assert len(set(orders.values())) > 30
    assert min(Counter(order[0] for order in orders.values()).values()) >= 1


def test_the_order_does_not_depend_on_how_names_are_listed_or_on_other_images():
    a = [n for n, i in plan.schedule(["x", "y", "z"], [5, 9]) if i == 9]
    b = [n for n, i in plan.schedule(["z", "x", "y"], [9]) if i == 9]
    assert a == b


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("ratio", [0.25, 0.9])
def test_stages_remove_the_ratio_in_all_and_less_and_less(stages, ratio):
    reached, steps = zip(*planning.stages(ratio, stages), strict=True)
    left = math.prod(1 - step for step in steps)
    assert len(steps) == stages and 1 - left == pytest.approx(ratio)
    gone = [1 - math.prod(1 - s for s in steps[: t + 1]) for t in range(stages)]
    expected = [ratio * (1 - (1 - (t + 1) / stages) ** 3) for t in range(stages)]
    assert gone == pytest.approx(expected) and list(reached) == pytest.approx(expected)
