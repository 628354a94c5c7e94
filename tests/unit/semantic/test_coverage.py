from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import vnnlib
from tests import models
from tests.unit.semantic.coverage_cases import MEDIUM, image_problem, mlp
from tests.unit.semantic.plane_oracle import safe_share
from tests.unit.semantic.semantic_helpers import network as small_network
from verifier.budget import Budget
from verifier.errors import OptionsError, ProblemError, UnsoundError
from verifier.graph.onnx_import import load_model
from verifier.semantic import Coordinates, grid, prepare, rectangle
from verifier.semantic import network as networks
from verifier.semantic.coverage_report import collect, fingerprint, load_state, save_state
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, State, audit, cover
from verifier.semantic.family import from_files, from_problems

CPU = torch.device("cpu")


def spec_of(rows, low=-1.0, high=1.0):
    """VNN-LIB text: a box [low, high]^2 and an OR of one-row clauses (c, rhs)."""
    lines = [
        "(declare-const X_0 Real)",
        "(declare-const X_1 Real)",
        "(declare-const Y_0 Real)",
        "(declare-const Y_1 Real)",
    ]
    for i in range(2):
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    parts = [
        f"(and ({'<=' if c[k] > 0 else '>='} Y_{k} {rhs * np.sign(c[k])}))"
        for c, rhs in rows
        for k in (int(np.argmax(np.abs(c))),)
    ]
    lines.append(f"(assert (or {' '.join(parts)}))")
    return vnnlib.normalise(vnnlib.loads("\n".join(lines)))


@pytest.mark.parametrize("seed", range(6))
def test_certified_area_is_the_exact_safe_area_of_an_mlp(seed):
    model, layers = mlp(seed)
    draw = np.random.default_rng(seed + 50)
    rows = [
        (np.array([1.0, 0.0]), round(float(draw.normal() - 1), 3)),
        (np.array([0.0, -1.0]), round(float(draw.normal() - 1), 3)),
    ]
    family = from_files(model, spec_of(rows), CPU)
    state = cover(family, CoverageLimits(0.0005), Budget.of(60))
    safe = safe_share(layers, [-1, -1], [1, 1], rows)
    certified, refuted = state.shares(CERTIFIED)[0], state.shares(REFUTED)[0]
    assert state.shares(OPEN)[0] <= 0.0005
    assert safe - 1e-3 <= certified <= safe + 1e-6
    assert 1 - safe - 1e-3 <= refuted <= 1 - safe + 1e-6


@pytest.mark.parametrize("clip", ["clip", "none"])
def test_certified_area_is_the_exact_safe_area_of_a_convolution_behind_a_clip(clip):
    problem = image_problem(0.12, seed=3, clip=clip)
    family = from_problems([problem], CPU)
    state = cover(family, CoverageLimits(0.0005), Budget.of(60))
    safe = safe_share(_layers(problem), problem.perturbation.box[:, 0], problem.perturbation.box[:, 1], _rows(problem))
    assert 0.05 < safe < 0.95
    assert abs(state.shares(CERTIFIED)[0] - safe) < 1e-3
    assert abs(state.shares(REFUTED)[0] - (1 - safe)) < 1e-3


def _layers(problem):
    """Image map, clip, convolution as a matrix by applying it to unit images, relu, dense."""
    image = problem.input_map
    tensors = {t.name: numpy_helper.to_array(t).astype(float) for t in problem.network.proto.graph.initializer}
    size = problem.network.width
    unit = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    weight = torch.from_numpy(tensors["w1"])
    matrix = torch.nn.functional.conv2d(unit, weight, stride=2, padding=1).flatten(1).T.numpy()
    bias = np.repeat(tensors["b1"], matrix.shape[0] // len(tensors["b1"]))
    clip = [("clip", 0.0, 1.0)] if problem.clip == "clip" else []
    return [
        ("affine", image.matrix, image.offset),
        *clip,
        ("affine", matrix, bias),
        ("clip", 0.0, np.inf),
        ("affine", tensors["w3"].T, tensors["b3"]),
    ]


def _rows(problem):
    return list(zip(problem.compiled.rows.dense(), problem.compiled.rows.rhs, strict=True))


def test_areas_add_up_to_one_exactly_and_cells_do_not_overlap():
    family = _two()
    state = cover(family, CoverageLimits(0.01), Budget.of(60))
    for found in collect(family, state, maps=False):
        assert found.certified + found.refuted + found.open == Fraction(1)
        _check_tiling(found.cells)


def _two():
    net = networks.load(small_network("coordinates", size=8, points=3, seed=0))
    problems = [
        prepare(net, np.random.default_rng(i).random((1, 8, 8)), None, MEDIUM, Coordinates(t), reference="self")
        for i, t in enumerate((0.08, 0.3))
    ]
    return from_problems(problems, CPU)


def _check_tiling(cells):
    """Every point of a fine random sample lies in exactly one cell."""
    low, high = cells.unit()
    points = np.random.default_rng(0).random((300, 2))
    inside = ((low[None] <= points[:, None]) & (points[:, None] < high[None])).all(2).sum(1)
    assert (inside == 1).all()


def test_no_sample_contradicts_a_certified_or_a_refuted_cell():
    family = _two()
    state = cover(family, CoverageLimits(0.005), Budget.of(60))
    audit(family, state, 3000)
    for found in collect(family, state):
        for point in found.examples:
            assert family.judges[int(found.cells.query[0])](point[None]) is not None


def linear_file(weight, bounds, row, kind=np.float32):
    """y = weight x as float32, x of the type `kind` (n,) in `bounds`, and the violation `row`."""
    n = len(weight)
    nodes = [helper.make_node("Cast", [name], [f"{name}/c"], to=1) for name in ("in", "w")]
    nodes.append(helper.make_node("MatMul", ["in/c", "w/c"], ["out"]))
    model = load_model(models.build(nodes, {"in": (1, n)}, ["out"], {"w": np.array(weight)[:, None]}, dtype=kind))
    text = "".join(f"(declare-const X_{i} Real)" for i in range(n)) + "(declare-const Y_0 Real)"
    text += "".join(f"(assert (>= X_{i} {low!r}))(assert (<= X_{i} {high!r}))" for i, (low, high) in enumerate(bounds))
    return from_files(model, vnnlib.normalise(vnnlib.loads(text + row)), CPU)


@pytest.mark.parametrize(
    "family",
    [
        linear_file([1], [(0.0, 4.0)], "(assert (<= Y_0 1.0))", np.int64),  # 1.3 is fed as 1
        linear_file([10**8, -(10**8)], [(0.5, 0.500001)] * 2, "(assert (<= Y_0 0.3))"),
    ],
)
def test_what_onnx_runtime_is_fed_and_rounds_contradicts_no_cell(family):
    audit(family, cover(family, CoverageLimits(0.0, depth=16), Budget.of(60)), 300)


def test_a_wrongly_certified_cell_is_reported():
    family = _two()
    state = cover(family, CoverageLimits(0.01), Budget.of(60))
    assert (state.status == REFUTED).any()
    wrong = State(
        state.cells,
        np.where(state.status == REFUTED, CERTIFIED, state.status).astype(np.uint8),
        state.seconds,
        state.boxes,
    )
    with pytest.raises(UnsoundError, match="inside a certified cell"):
        audit(family, wrong, 200)
    wrong = State(
        state.cells,
        np.where(state.status == CERTIFIED, REFUTED, state.status).astype(np.uint8),
        state.seconds,
        state.boxes,
    )
    with pytest.raises(UnsoundError, match="inside a refuted cell"):
        audit(family, wrong, 200)


class _After:
    """A clock that lets a number of budget questions pass."""

    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return 0.0 if self.left >= 0 else 10.0


def test_an_interrupted_run_that_goes_on_equals_an_uninterrupted_one(tmp_path):
    family = _two()
    whole = cover(family, CoverageLimits(0.02), Budget.of(60), batch=4)
    path, mark = tmp_path / "run.npz", fingerprint(family)
    state = None
    for steps in (2, 1, 4, 3):
        cover(
            family,
            CoverageLimits(0.02),
            Budget(5.0, clock=_After(steps)),
            state,
            lambda s: save_state(path, s, mark),
            batch=4,
        )
        state = load_state(path, family, mark)
        assert (state.status == OPEN).any()
        assert len(state.cells) < len(whole.cells)
    state = cover(family, CoverageLimits(0.02), Budget.of(60), state, batch=4)
    for status in (CERTIFIED, REFUTED, OPEN):
        assert grid.area(state.of(status), 2) == grid.area(whole.of(status), 2)
    assert (state.boxes == whole.boxes).all()


def test_a_checkpoint_survives_a_write_that_is_cut_short(tmp_path, monkeypatch):
    family, path = _two(), tmp_path / "run.npz"
    mark = fingerprint(family)
    save_state(path, State.new(family), mark)
    before = path.read_bytes()

    def cut_short(stream, **_):
        stream.write(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", cut_short)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, State.new(family), mark)
    assert path.read_bytes() == before
    assert len(load_state(path, family, mark).cells) == 2


def test_checkpoints_of_other_problems_and_damaged_ones_are_refused(tmp_path):
    family, path = _two(), tmp_path / "run.npz"
    save_state(path, State.new(family), "other")
    with pytest.raises(ProblemError, match="belongs to another"):
        load_state(path, family, fingerprint(family))
    state = State.new(family)
    halves = state.cells.split(np.array([[1, 0], [0, 0]]))
    save_state(path, State(halves.select(slice(0, 2)), np.zeros(2, np.uint8), state.seconds, state.boxes), "m")
    with pytest.raises(ProblemError, match="do not tile"):
        load_state(path, family, "m")
    path.write_bytes(b"not a file")
    with pytest.raises(ProblemError, match="cannot be read"):
        load_state(path, family, "m")


def test_limits_are_obeyed_and_checked():
    family = _two()
    state = cover(family, CoverageLimits(0.0, depth=6), Budget.of(60))
    assert state.cells.depth.max() <= 6
    assert cover(family, CoverageLimits(), Budget.of(0.0)).shares(OPEN).tolist() == [1, 1]
    for bad in ({"open_share": 1.0}, {"open_share": -0.1}, {"seconds": 0.0}, {"depth": 0}):
        with pytest.raises(OptionsError):
            CoverageLimits(**bad)


def test_cases_with_one_box_are_one_member():
    model, layers = mlp(0)
    rows = [(np.array([1.0, 0.0]), -0.5), (np.array([0.0, 1.0]), -0.8)]
    text = vnnlib.normalise(
        vnnlib.loads("""
        (declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
        (assert (or (and (>= X_0 -1) (<= X_0 1) (>= X_1 -1) (<= X_1 1) (<= Y_0 -0.5))
                    (and (>= X_0 -1) (<= X_0 1) (>= X_1 -1) (<= X_1 1) (<= Y_1 -0.8))))""")
    )
    family = from_files(model, text, CPU)
    assert family.members == 1
    state = cover(family, CoverageLimits(0.0005), Budget.of(60))
    assert abs(state.shares(CERTIFIED)[0] - safe_share(layers, [-1, -1], [1, 1], rows)) < 1e-3


def test_conjunctions_are_refuted_only_where_every_row_holds():
    model, layers = mlp(1)
    points = np.random.default_rng(0).uniform(-1, 1, (20000, 2))
    y = points.T
    for kind, first, second in layers:
        y = first @ y + second[:, None] if kind == "affine" else np.clip(y, first, second)
    a, b = np.round(np.median(y, axis=1), 3)
    form = vnnlib.normalise(
        vnnlib.loads(f"""
        (declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
        (assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))
        (assert (<= Y_0 {a})) (assert (>= Y_1 {b}))""")
    )
    family = from_files(model, form, CPU)
    state = cover(family, CoverageLimits(0.003), Budget.of(60))
    share = ((y[0] <= a) & (y[1] >= b)).mean()
    assert 0.02 < share < 0.98
    assert abs(state.shares(REFUTED)[0] - share) < 0.015
    audit(family, state, 1000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 7), st.integers(0, 7)), max_size=12),
    st.integers(0, 16),
    st.integers(0, 16),
)
def test_largest_rectangle_against_all_rectangles(parts, x, y):
    level = np.array([p[:2] for p in parts], np.int8).reshape(-1, 2)
    index = np.array([[i % (1 << a), j % (1 << b)] for a, b, i, j in parts], np.int32).reshape(-1, 2)
    cells = grid.Cells(np.zeros(len(parts), np.int32), level, index)
    point = np.array([x, y]) / 16
    found = rectangle.largest(cells, point)
    best = _best_rectangle(cells, point)
    assert (found[1] if found else 0) == best
    if found:
        low, high = cells.unit()
        (x0, x1), (y0, y1) = found[0]
        assert x0 <= point[0] <= x1 and y0 <= point[1] <= y1
        assert not ((low[:, 0] < x1) & (high[:, 0] > x0) & (low[:, 1] < y1) & (high[:, 1] > y0)).any()


def _best_rectangle(cells, point):
    low, high = cells.unit()
    blocked = np.zeros((8, 8), bool)
    for (x0, y0), (x1, y1) in zip(low, high, strict=True):
        blocked[int(x0 * 8) : int(x1 * 8), int(y0 * 8) : int(y1 * 8)] = True
    best = Fraction(0)
    for x0 in range(8):
        for x1 in range(x0 + 1, 9):
            for y0 in range(8):
                for y1 in range(y0 + 1, 9):
                    holds = x0 <= 8 * point[0] <= x1 and y0 <= 8 * point[1] <= y1
                    if holds and not blocked[x0:x1, y0:y1].any():
                        best = max(best, Fraction((x1 - x0) * (y1 - y0), 64))
    return best


def test_pairs_that_cannot_be_covered_are_refused():
    model, _ = mlp(0)
    form = vnnlib.normalise(
        vnnlib.loads("""
        (declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
        (assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1)) (assert (<= Y_0 X_0))""")
    )
    with pytest.raises(ProblemError, match="mixes inputs and outputs"):
        from_files(model, form, CPU)


def _one_of(nodes):
    weights = {"w": np.array([[1.0, -2.0], [0.5, 1.0]]), "v": np.array([[1.0], [-1.0]])}
    data = models.build([helper.make_node("MatMul", ["x", "w"], ["h"]), *nodes], {"x": (1, 2)}, ["y"], weights, 9)
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
    text += "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(2)) + "(assert (<= Y_0 0))"
    return from_files(load_model(data), vnnlib.normalise(vnnlib.loads(text)), CPU)


def test_a_checkpoint_knows_attributes_and_wiring_too():
    """Networks with the same operators and the same weights: what was certified of one is nothing about another."""
    node = helper.make_node
    out = node("MatMul", ["r", "v"], ["y"])
    others = [
        *([node("LeakyRelu", ["h"], ["r"], alpha=alpha), out] for alpha in (0.1, 0.2)),
        *([node("Clip", ["h"], ["c"], min=-1.0, max=top), node("Relu", ["c"], ["r"]), out] for top in (0.5, 0.75)),
        *(
            [node("Relu", ["h"], ["a"]), node("Sigmoid", ["h"], ["b"]), node("Sub", pair, ["r"]), out]
            for pair in (["a", "b"], ["b", "a"])
        ),
        *(
            [node("Relu", ["h"], ["a"]), node("Transpose", ["a"], ["t"], perm=[1, 0]), node("Relu", ["t"], ["s"]),
             node("Slice", ["s"], ["r"], starts=[k], ends=[k + 1], axes=[0]), node("ReduceSum", ["r"], ["y"], axes=[0])]
            for k in (0, 1)
        ),
    ]  # fmt: skip
    marks = [fingerprint(_one_of(nodes)) for nodes in others]
    assert len(set(marks)) == len(others)
    assert marks[0] == fingerprint(_one_of(others[0]))


@pytest.mark.parametrize("seed", range(20))
def test_fixed_inputs_keep_all_of_their_width(seed):
    """The box of a file's fixed input holds its bound and the nearest float32 number: both lie within the slack."""
    fixed = np.random.default_rng(seed).normal() * 10.0 ** (seed % 7 - 3)
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))"
    text += f"(assert (>= X_0 -1))(assert (<= X_0 1))(assert (>= X_1 {fixed:.17f}))(assert (<= X_1 {fixed:.17f}))"
    data = models.build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (1, 2)}, ["y"], {"w": np.ones((2, 1))})
    form = vnnlib.normalise(vnnlib.loads(text))
    family = from_files(load_model(data), form, CPU)
    assert family.slack is not None
    at, slack = (Fraction(float(t[0, 1])) for t in (family.image.offset, family.slack))
    for end in (float(form.lower[0, 1]), float(np.float32(form.lower[0, 1]))):
        assert abs(Fraction(end) - at) <= slack
