"""Verdicts of many images in one search, against the same images as files through the ordinary path."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import verifier
from tests.unit.semantic.coverage_files import by_files
from tests.unit.semantic.semantic_helpers import network as small_network
from tests.unit.semantic.semantic_helpers import run, session, violated
from verifier.budget import Budget
from verifier.data import networks as shipped
from verifier.errors import ProblemError
from verifier.options import AttackOptions, Options
from verifier.result import Witness
from verifier.search.domains import whole
from verifier.semantic import Coordinates, ErrorBudget, Label, Perturbation, Range, network, prepare, sources
from verifier.semantic.conditions import LinearRows
from verifier.semantic.family import from_problems
from verifier.semantic.many import FamilyAttack, verify_family, verify_problems

MEDIUM = Perturbation((Range("contrast", 0.8, 1.2), Range("brightness", -0.1, 0.1)))


def small_problems(kind, props, seed=0):
    net = network.load(small_network(kind, size=8, points=3, seed=seed))
    draw = np.random.default_rng(seed)
    images = [draw.random((1, 8, 8)) for _ in props]
    return [
        prepare(net, image, None, MEDIUM, prop, reference="self") for image, prop in zip(images, props, strict=True)
    ]


def check_witness(problem, result):
    """The witness violates the problem's own files, judged by ONNX Runtime alone."""
    assert result.witness is not None
    y = run(session(problem.model().SerializeToString()), result.witness.x[None])
    assert np.array_equal(y.reshape(-1).astype(np.float64), result.witness.y)
    rows, _ = problem.spec_rows
    assert violated(rows, y.reshape(-1).astype(np.float64))


@pytest.mark.parametrize(
    ("kind", "props"),
    [
        ("coordinates", [Coordinates(t) for t in (0.02, 0.3, 1.5, 4.0)]),
        ("coordinates", [Coordinates(t, "l2") for t in (0.05, 5.0)]),
        ("coordinates", [ErrorBudget(t) for t in (0.05, 5.0)]),
        ("labels", [Label()] * 4),
    ],
    ids=["linf", "l2", "budget", "label"],
)
def test_the_verdicts_are_those_of_the_files(kind, props, tmp_path):
    problems = small_problems(kind, props)
    found = verify_problems(problems, Options(), Budget.of(60))
    for problem, result in zip(problems, found, strict=True):
        assert result.verdict is by_files(problem, folder=tmp_path).verdict
        if result.verdict is verifier.Verdict.SAT:
            check_witness(problem, result)
    if kind == "coordinates":
        assert len({result.verdict for result in found}) == 2


def test_the_shipped_network_gives_the_verdicts_of_the_files(tmp_path):
    net = network.load(shipped.path())
    examples = sources.rendered(net, "test", 4, 8)
    prop = [Coordinates(t) for t in (6.0, 1.0, 1.5, 6.0)]
    problems = [prepare(net, e.image, e.target, MEDIUM, p) for e, p in zip(examples, prop, strict=True)]
    found = verify_problems(problems, Options(), Budget.of(120))
    options = Options(attack=AttackOptions(restarts=8, steps=10))
    assert [r.verdict.value for r in found] == ["unsat", "sat", "sat", "unsat"]
    for problem, result in list(zip(problems, found, strict=True))[1:3]:
        check_witness(problem, result)
        assert by_files(problem, folder=tmp_path, options=options).verdict is result.verdict


def test_one_member_at_a_time_gives_the_same_verdicts():
    problems = small_problems("coordinates", [Coordinates(t) for t in (0.03, 0.1, 0.2, 0.5)])
    together = verify_problems(problems, Options(), Budget.of(60))
    alone = [verify_problems([s], Options(), Budget.of(60))[0] for s in problems]
    assert [r.verdict for r in together] == [r.verdict for r in alone]


def test_tolerances_next_to_the_worst_error_are_settled():
    problems = small_problems("coordinates", [Coordinates(0.3)])
    family = from_problems(problems, torch.device("cpu"))
    side = torch.linspace(0, 1, 201, dtype=torch.float64)
    points = family.lower[0] + torch.cartesian_prod(side, side) * (family.upper[0] - family.lower[0])
    margin = family.margins(points, torch.zeros(len(points), dtype=torch.int64), exact=True)
    worst = 0.3 - float(margin.min())
    problems = small_problems("coordinates", [Coordinates(worst * f) for f in (0.999, 1.001)][:1])
    assert verify_problems(problems, Options(), Budget.of(60))[0].verdict is verifier.Verdict.SAT
    problems = small_problems("coordinates", [Coordinates(worst * 1.001)])
    assert verify_problems(problems, Options(), Budget.of(60))[0].verdict is verifier.Verdict.UNSAT


def test_no_time_is_a_timeout_and_a_stop_is_unknown():
    problems = small_problems("coordinates", [Coordinates(0.3)] * 2)
    assert [r.verdict.value for r in verify_problems(problems, Options(), Budget.of(0.0))] == ["timeout"] * 2
    budget = Budget.of(60)
    budget.stop("enough")
    results = verify_problems(problems, Options(), budget)
    assert [(r.verdict.value, r.reason) for r in results] == [("unknown", "enough")] * 2
    assert all(r.open_fraction == 1.0 for r in results)


def test_the_limit_of_one_image_does_not_stop_the_others():
    family = from_problems(small_problems("coordinates", [Coordinates(0.3)] * 3), torch.device("cpu"))
    assert {r.verdict.value for r in verify_family(family, Budget.of(60), per_image=1e-9)} <= {"timeout", "sat"}


def test_studies_of_different_networks_are_refused():
    problems = small_problems("coordinates", [Coordinates(0.3)]) + small_problems(
        "coordinates", [Coordinates(0.3)], seed=1
    )
    with pytest.raises(ProblemError, match="another network"):
        verify_problems(problems, Options(), Budget.of(60))


def test_the_engine_bounds_convolutional_semantic_pairs_by_zonotopes(tmp_path):
    net = network.load(shipped.path())
    example = sources.rendered(net, "test", 4, 5)[0]
    problem = prepare(net, example.image, example.target, MEDIUM, Coordinates(6.0))
    result = by_files(problem, folder=tmp_path)
    assert (result.verdict.value, result.settings["method"]) == ("unsat", "zonotope")
    tight = prepare(net, example.image, example.target, MEDIUM, Coordinates(1.0))
    assert by_files(tight, folder=tmp_path).verdict.value == "sat"


def test_the_gradient_campaign_attacks_families():
    """An open box of which only a sliver violates: a descent finds it, once it is paid for."""
    problems = small_problems("coordinates", [Coordinates(t) for t in (0.3, 0.3)])
    family = from_problems(problems, torch.device("cpu"))
    share = torch.linspace(0, 1, 41, dtype=torch.float64)
    grid = family.lower[1] + torch.cartesian_prod(share, share) * (family.upper[1] - family.lower[1])
    margins = family.margins(grid, torch.ones(len(grid), dtype=torch.int64))
    assert isinstance(family.conditions, LinearRows)
    table = family.conditions.table
    tight = replace(table, rhs=table.rhs + 0.98 * margins.min())  # violated about the deepest of these points alone
    family = replace(family, conditions=replace(family.conditions, table=tight))
    asked = []

    def judge(points):
        asked.append(points)
        return Witness(points[0], np.zeros(1))

    family = replace(family, judges=(family.judges[0], judge))  # type: ignore[arg-type]
    boxes = whole(family.lower, family.upper).select(torch.tensor([1]))
    with torch.no_grad():
        for restarts, boxes_done, hits in ((0, 10**9, False), (20, 0, False), (20, 10**9, True)):
            attack = FamilyAttack.of(family, Options(attack=AttackOptions(restarts=restarts)), Budget.of(60))
            if attack is None:
                assert restarts == 0
                continue
            attack.boxes = boxes_done
            found = attack(boxes)
            assert (set(found) == {1}) == hits
    point, member = torch.from_numpy(asked[0]), torch.ones(len(asked[0]), dtype=torch.int64)
    assert (family.margins(point, member) <= 0).all()
    assert ((point >= family.lower[1]) & (point <= family.upper[1])).all()
