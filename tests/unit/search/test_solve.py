"""The whole engine on small networks: its verdict is the one of a mixed-integer programme, its witnesses replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests import models
from tests.unit.search.known import GAP, Net, _clause, check, form, moved, net, options
from verifier import engine
from verifier.attack import campaign
from verifier.budget import Budget, OutOfTime
from verifier.engine import methods, on_device, one_search, solve, strategy
from verifier.errors import OptionsError
from verifier.graph.onnx_import import load_model
from verifier.result import Verdict
from verifier.search.domains import DomainBatch
from verifier.search.shallow import form as one_layer
from vnnlib import Case, Row


@pytest.mark.parametrize("method", ["auto", "forward", "crown", "lumped"])
@pytest.mark.parametrize("kind", ["single", "several", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_the_exact_programme(seed: int, kind: str, method: str) -> None:
    """Both sides of the truth, by a small gap: disjunctions of clauses over one or two boxes."""
    rng = np.random.default_rng(100 * seed + len(kind))
    network = net(seed)
    cases, margins = [], []
    for _ in range(1 + seed % 2):
        centre, width = rng.normal(size=3) * 0.5, np.array([0.6, 0.5, 0.0 if seed else 0.4])
        low = np.round(centre - width / 2, 4)
        high = np.where(width > 0, np.round(centre + width / 2, 4), low)
        case = Case(low, high, [_clause(rng, 3, 3, kind) for _ in range(int(rng.integers(1, 4)))])
        cases.append(case)
        margins.append([network.worst(case, clause) for clause in case.clauses])
    # shift every clause to the same distance from its own truth: all impossible, or one of them possible
    safe = [Case(c.lower, c.upper, [moved(rows, t - GAP) for rows, t in zip(c.clauses, m, strict=True)])
            for c, m in zip(cases, margins, strict=True)]  # fmt: skip
    if method == "lumped" and kind == "mixed":
        with pytest.raises(OptionsError, match="rows over inputs too; expected"):
            solve(network.model(), form(safe, 3, 3), options(method), Budget.of(120))
        return
    check(network.model(), form(safe, 3, 3), options(method), sat=False)
    clauses = list(safe[-1].clauses)
    clauses[-1] = moved(clauses[-1], 2 * GAP)
    unsafe = [*safe[:-1], Case(safe[-1].lower, safe[-1].upper, clauses)]
    for restarts in (0, 8):
        result = check(network.model(), form(unsafe, 3, 3), options(method, restarts), sat=True)
        assert restarts or "branch and bound" in result.reason


@pytest.mark.parametrize("kind", ["single", "several", "mixed"])
@pytest.mark.parametrize("seed", range(4))
def test_networks_of_one_hidden_layer(seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own search, without an attack before it, against the tests' mixed-integer programme."""
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0)
    monkeypatch.setattr(strategy, "FEW_INPUTS", 0)
    ends = []
    search = one_search.search
    monkeypatch.setattr(one_search, "search", lambda *args: ends.append(search(*args)) or ends[-1])
    rng = np.random.default_rng(seed)
    network = net(40 + seed, (3, 12, 3))
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [_clause(rng, 3, 3, kind) for _ in range(2)])
    margins = [network.worst(case, clause) for clause in case.clauses]
    for by, sat in ((-GAP, False), (GAP, True)):
        clauses = [moved(rows, t + by) for rows, t in zip(case.clauses, margins, strict=True)]
        check(network.model(), form([Case(case.lower, case.upper, clauses)], 3, 3), options(), sat)
    assert [end.found is not None for end in ends] == [False, True]  # of all clauses at once
    assert ends[0].open_share == 0 and not ends[0].tally.stuck


def test_a_deeper_network_is_not_taken_for_a_shallow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0)
    monkeypatch.setattr(strategy, "FEW_INPUTS", 0)
    monkeypatch.delattr(methods, "OneLayer")
    network = net(3)
    case = Case(np.full(3, -0.3), np.full(3, 0.3), [[Row({}, {0: 1.0})]])
    margin = network.worst(case, case.clauses[0])
    spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], margin - GAP)])], 3, 3)
    check(network.model(), spec, options(), sat=False)


def test_inputs_are_split_where_they_are_few_for_the_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "FEW_INPUTS", 2)
    network = net(3)
    case = Case(np.full(3, -0.3), np.full(3, 0.3), [[Row({}, {0: 1.0})]])
    margin = network.worst(case, case.clauses[0])
    spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], margin - GAP)])], 3, 3)
    for most, split in ((strategy.FEW_NEURONS, "neurons"), (1, "inputs")):
        monkeypatch.setattr(strategy, "FEW_NEURONS", most)
        result = check(network.model(), spec, options(), sat=False)
        assert str(result.settings["split"]).startswith(split)


@pytest.mark.parametrize("neurons", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_float32_searches_and_float64_proves(seed: int, neurons: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verdicts, a hair's breadth from the truth, by input and by neuron splits."""
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0 if neurons else 20)
    monkeypatch.setattr(strategy, "FEW_QUERIES", 0)
    network = net(60 + seed)
    rng = np.random.default_rng(seed)
    case = Case(np.full(3, -0.4), np.full(3, 0.4), [_clause(rng, 3, 3, "single")])
    margin = network.worst(case, case.clauses[0])
    for by, sat in ((-GAP, False), (GAP, True)):
        spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], margin + by)])], 3, 3)
        result = check(network.model(), spec, options(dtype="float32"), sat)
        assert result.settings["dtype"] == "float32"


@pytest.mark.parametrize("shallow", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rows_over_inputs_only_belong_to_their_case(seed: int, shallow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the box where x_0 - x_1 <= t: from none of it to all of it."""
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0 if shallow else 20)
    monkeypatch.setattr(strategy, "FEW_INPUTS", 0 if shallow else 20)
    rng = np.random.default_rng(seed)
    network = net(10 + seed, (3, 10, 3) if shallow else (3, 6, 6, 3))
    clause = _clause(rng, 3, 3, "several")
    box = np.full(3, -0.4), np.full(3, 0.4)
    alone = network.worst(Case(*box, [clause]), clause)
    seen = set()
    for level in (-0.9, -0.6, -0.2, 0.3, 0.9):
        for by in (alone + 0.05, alone + 0.5):
            rows = moved(clause, by)
            case = Case(*box, [rows], [Row({0: 1.0, 1: -1.0}, {}, level)])
            truth = network.worst(case, rows)
            if abs(truth) > GAP:
                seen.add(check(network.model(), form([case], 3, 3), options(), truth < 0).verdict)
    assert seen == {Verdict.SAT, Verdict.UNSAT}


def test_several_inputs() -> None:
    network = net(21)
    case = Case(np.full(3, -0.3), np.array([0.2, 0.3, 0.3]), [[Row({}, {0: 1.0})]])
    margin = network.worst(case, case.clauses[0])
    model = network.model(inputs=(1, 2))
    for by, sat in ((margin - GAP, False), (margin + GAP, True)):
        check(model, form([Case(case.lower, case.upper, [moved(case.clauses[0], by)])], 3, 3), options(), sat)


@pytest.mark.parametrize("last", ["Softmax", "ArgMax"])
@pytest.mark.parametrize("seed", range(3))
def test_classes(last: str, seed: int) -> None:
    """ "Some other class wins somewhere": decided on the logits, against the exact programme."""
    network = net(30 + seed)
    centre = np.round(np.random.default_rng(seed).normal(size=3), 3)
    label = int(network.value(centre).argmax())
    others = [j for j in range(3) if j != label]
    verdicts = set()
    for radius in (0.02, 0.1, 0.4, 1.0):
        case = Case(centre - radius, centre + radius, [])
        margins = [network.worst(case, [Row({}, {label: 1.0, j: -1.0})]) for j in others]
        if abs(min(margins)) < GAP:
            continue
        if last == "Softmax":
            clauses = [[Row({}, {label: 1.0, j: -1.0})] for j in others]
        else:
            clauses = [[Row({}, {0: 1.0}, label - 0.5)], [Row({}, {0: -1.0}, -label - 0.5)]]
        spec = form([Case(case.lower, case.upper, clauses)], 3, 3 if last == "Softmax" else 1)
        sat = min(margins) < 0
        verdicts.add(check(network.model(last), spec, options(), sat).verdict)
    assert verdicts


@pytest.mark.parametrize("seed", range(2))
def test_classes_with_rows_over_inputs(seed: int) -> None:
    """x_0 + x_1 <= t and "the class is j", and  x_0 + x_1 + index <= t: both sides of the exact programme's answer."""
    network = net(30 + seed)
    box = np.full(3, -0.8), np.full(3, 0.8)
    sums = []
    for j in range(3):  # least x_0 + x_1 where class j wins
        wins = [Row({}, {k: 1.0, j: -1.0}) for k in range(3) if k != j]
        levels = np.linspace(-1.6, 1.6, 17)
        for level in levels:
            if network.worst(Case(*box, [wins], [Row({0: 1.0, 1: 1.0}, {}, level)]), wins) < -GAP:
                sums.append((j, float(level)))
                break
    model, verdicts = network.model("ArgMax"), set()
    j, level = sums[seed % len(sums)]
    only = [Row({}, {0: 1.0}, j + 0.5), Row({}, {0: -1.0}, 0.5 - j)]
    for by, sat in ((-0.25, False), (0.02, True)):
        if level + by > -1.6:
            case = Case(*box, [only], [Row({0: 1.0, 1: 1.0}, {}, level + by)])
            verdicts.add(check(model, form([case], 3, 1), options(), sat).verdict)
    least = min(k + t for k, t in sums)
    for by, sat in ((-0.25, False), (0.02, True)):
        case = Case(*box, [[Row({0: 1.0, 1: 1.0}, {0: 1.0}, least + by)]])
        verdicts.add(check(model, form([case], 3, 1), options(), sat).verdict)
    assert verdicts == {Verdict.SAT, Verdict.UNSAT}


def test_single_precision_does_not_change_a_verdict() -> None:
    """Asked for float32, the engine may know less, never something else."""
    for seed in range(4):
        network = net(40 + seed)
        case = Case(np.full(3, -0.4), np.full(3, 0.4), [_clause(np.random.default_rng(seed), 3, 3, "single")])
        margin = network.worst(case, case.clauses[0])
        for by, sat in ((margin - 0.01, False), (margin + 0.01, True)):
            spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], by)])], 3, 3)
            check(network.model(), spec, options(dtype="float32"), sat)


def test_strict_and_touching_bounds_are_never_proven_wrongly() -> None:
    """y = relu(x) + relu(-x) on [-1, 1]: y <= 0 holds at 0 exactly, y < 0 nowhere."""
    network = Net((np.array([[1.0], [-1.0]]), np.ones((1, 2))), (np.zeros(2), np.zeros(1)))
    low, high = np.array([-1.0]), np.array([1.0])
    closed = form([Case(low, high, [[Row({}, {0: 1.0}, 0.0)]])], 1, 1)
    result = check(network.model(), closed, options(), sat=True)
    assert result.witness is not None and float(result.witness.x[0]) == 0.0
    strict = form([Case(low, high, [[Row({}, {0: 1.0}, 0.0, strict=True)]])], 1, 1)
    result = solve(network.model(), strict, options(), Budget.of(60))
    assert result.verdict in (Verdict.UNSAT, Verdict.UNKNOWN)


def test_the_same_seed_gives_the_same_run() -> None:
    network = net(50)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [_clause(np.random.default_rng(0), 3, 3, "several")])
    margin = network.worst(case, case.clauses[0])
    for by, restarts in ((margin - GAP, 4), (margin + GAP, 0), (margin + 0.3, 8)):
        spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], by)])], 3, 3)
        runs = [solve(network.model(), spec, options("crown", restarts, seed=7), Budget.of(60)) for _ in range(2)]
        assert runs[0].verdict is runs[1].verdict and runs[0].counters == runs[1].counters
        if runs[0].witness is not None and runs[1].witness is not None:
            assert np.array_equal(runs[0].witness.x, runs[1].witness.x)
            assert np.array_equal(runs[0].witness.y, runs[1].witness.y)


def test_no_time_proves_nothing() -> None:
    network = net(60)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [[Row({}, {0: 1.0}, -100.0)]])
    spec = form([case], 3, 3)
    assert solve(network.model(), spec, options(), Budget.of(0.0)).verdict is Verdict.TIMEOUT
    stopped = Budget.of(60)
    stopped.stop("enough")
    assert solve(network.model(), spec, options(), stopped).verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)


def test_networks_with_a_pole_are_not_proven() -> None:
    """1 / x on [-1, 1] takes every large value; on [1, 2] it lies in [0.5, 1]."""
    data = models.build([helper.make_node("Reciprocal", ["x"], ["y"])], {"x": (1, 1)}, ["y"])
    model = load_model(data)
    for low, sat in ((-1.0, True), (1.0, False)):
        spec = form([Case(np.array([low]), np.array([2.0]), [[Row({}, {0: 1.0}, 0.4)]])], 1, 1)
        check(model, spec, options(), sat)


@pytest.mark.parametrize("shallow", [False, True])
@pytest.mark.parametrize("top", [1 / 3, 0.1, 0.7, 0.9])
def test_cancellation_is_no_proof(top: float, shallow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """relu(x + 1e9) - 1e9 = x on [0, top], but float64 knows it to 1e-7 only: y >= top - 1e-9 is possible, and no
    rounding may say otherwise."""
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0 if shallow else 20)
    monkeypatch.setattr(strategy, "FEW_INPUTS", 0 if shallow else 20)
    network = Net((np.ones((1, 1)), np.ones((1, 1))), (np.array([1e9]), np.array([-1e9])))
    spec = form([Case(np.zeros(1), np.array([top]), [[Row({}, {0: -1.0}, -(top - 1e-9))]])], 1, 1)
    result = solve(network.model(), spec, options(), Budget.of(3))
    assert result.verdict is not Verdict.UNSAT


@pytest.mark.parametrize("neurons", [False, True])
def test_little_memory_changes_no_verdict(neurons: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that fail for more than 3 boxes at once, an attack and a programme that never fit."""
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0 if neurons else 20)
    bound, failed = methods.bound_boxes, []

    def narrow(setting: object, batch: DomainBatch, *rest: object) -> object:
        if len(batch) > 3:
            failed.append(len(batch))
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return bound(setting, batch, *rest)

    def refuse(*arguments: object) -> object:
        raise MemoryError

    monkeypatch.setattr(methods, "bound_boxes", narrow)
    monkeypatch.setattr(campaign, "sample", refuse)
    monkeypatch.setattr(one_layer, "formulate", refuse)
    network = net(62)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [_clause(np.random.default_rng(2), 3, 3, "single")])
    margin = network.worst(case, case.clauses[0])
    for by, sat in ((-GAP, False), (GAP, True)):
        spec = form([Case(case.lower, case.upper, [moved(case.clauses[0], margin + by)])], 3, 3)
        check(network.model(), spec, options("crown", restarts=4), sat)
    assert failed


def test_a_run_without_room_is_unknown_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net(62)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [[Row({}, {0: 1.0}, -100.0)]])
    spec, how = form([case], 3, 3), options()
    assert solve(network.model(), spec, how, Budget.of(60)).verdict is Verdict.UNSAT
    result = solve(network.model(), spec, how, Budget.of(60, memory_bytes=1))
    assert result.verdict is Verdict.UNKNOWN and result.open_fraction == 1.0
    assert result.reason.startswith("memory: ") and "--memory" in result.reason

    def refuse(*arguments: object, **named: object) -> object:
        raise MemoryError

    for place, part in ((methods, "bound_boxes"), (on_device, "build"), (engine, "assemble")):
        with monkeypatch.context() as patch:
            patch.setattr(place, part, refuse)
            result = solve(network.model(), spec, how, Budget.of(60))
        assert result.verdict is Verdict.UNKNOWN and result.open_fraction == 1.0
        assert result.reason.startswith("memory: "), part


@pytest.mark.parametrize("when", ["before the search", "before the first bound"])
def test_a_run_that_is_stopped_did_not_reach_its_time_limit(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget()

    def prepare(*_: object) -> None:
        budget.stop("stopped by SIGINT")
        raise OutOfTime

    if when == "before the search":
        budget.stop("stopped by SIGINT")
    monkeypatch.setattr(one_search, "prepare", prepare)
    case = Case([0.0] * 3, [1.0] * 3, [[Row(y={0: 1.0}, rhs=-1e3)]])
    result = solve(net(0).model(), form([case], 3, 3), options("auto"), budget)
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, "stopped by SIGINT")


@pytest.mark.parametrize("which", ["compare", "compare_problem"])
def test_a_comparison_that_the_time_does_not_suffice_for_is_a_timeout(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The property holds everywhere; nothing is searched, and nothing claimed, before all has been compared."""
    seconds, real = [0.0], getattr(engine, which)

    def compared(*arguments: Any) -> float:
        seconds[0] = 100.0
        return float(real(*arguments))

    def decide(*_: object) -> None:
        raise AssertionError("searched without a comparison")

    monkeypatch.setattr(engine, which, compared)
    monkeypatch.setattr(engine, "decide", decide)
    case = Case([0.0] * 3, [1.0] * 3, [[Row(y={0: 1.0}, rhs=-1e3)]])
    result = solve(net(0).model(), form([case], 3, 3), options("auto"), Budget.of(60, clock=lambda: seconds[0]))
    assert (result.verdict, result.reason) == (Verdict.TIMEOUT, "the time limit was reached")
