"""Each property, judged by its text alone: run the written network, evaluate the written specification."""

import numpy as np
import pytest

from tests.unit.semantic.semantic_helpers import Spec, network, official_reader_accepts, run, session
from verifier.errors import OptionsError, ProblemError
from verifier.semantic import (
    Coordinates,
    ErrorBudget,
    Head,
    Heatmap,
    Label,
    Perturbation,
    Pose,
    Range,
    Target,
    pose,
    prepare,
)
from verifier.semantic import network as networks
from vnnlib.writer import positional

TWO = Perturbation((Range("contrast", 0.3, 1.8), Range("brightness", -0.5, 0.5)), {"anchor": 0.5})
PIXELS = Head()
BORDER = 2e-3  # verdicts of points nearer than this to the tolerance may depend on rounding


def study(prop, kind="coordinates", seed=0, shift=0.3, seen=(2, 2, 2), perturbed=TWO, dtype=np.float32):
    """Target: the clean prediction moved a little, so that both verdicts occur."""
    net = networks.load(network(kind, seed=seed, size=16 if kind == "heatmap" else 8, dtype=dtype))
    draw = np.random.default_rng(seed)
    image = draw.random((1, net.frame.height, net.width))
    if kind == "labels":
        return prepare(net, image, Target(label=int(net.run(image).argmax())), perturbed, prop)
    clean = net.run(image)
    if kind == "heatmap":
        best = clean.reshape(3, -1).argmax(axis=1)
        points = 4.0 * np.stack([best % 4, best // 4], 1) + 2 + draw.uniform(-1, 1, (3, 2))
    else:
        head = getattr(prop, "head", Head())
        points = head.pixels(clean.ravel()) + shift * draw.uniform(-1, 1, (3, 2))
        seen = np.where((points < 0).any(1) | (points > 8).any(1), 0, seen)
    return prepare(net, image, Target(points, np.array(seen)), perturbed, prop)


def sampled(problem, n=150, seed=1):
    low, high = problem.perturbation.box.T
    return np.random.default_rng(seed).uniform(low, high, (n, len(low)))


def verdicts(problem, version, truth):
    """Pairs (text says violated, `truth(network output, values)` > 0) away from the border."""
    spec, composite, plain = Spec(problem.spec(version)), session(problem.model()), session(problem.network.proto)
    found = []
    for values in sampled(problem):
        assert spec.inside(values)
        excess = truth(run(plain, problem.picture(values)[None])[0].astype(float))
        if abs(excess) > BORDER:
            found.append((spec.violated(values, run(composite, values[None])), excess > 0))
    assert len(found) > 100
    return np.array(found)


def gap(problem, head=PIXELS):
    points, seen = problem.target.keypoints, problem.target.visibility
    return lambda y: (head.scale * y.reshape(3, 2) + head.shift - points)[seen == 2]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("head", [Head(), Head(0.5, 2.0)], ids=["pixels", "signed"])
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_coordinates(version, head, norm):
    problem = study(Coordinates(0.9 * head.scale, norm, head=head), seen=(2, 1, 2))
    order = {"linf": np.inf, "l1": 1}[norm]
    pairs = verdicts(
        problem, version, lambda y: np.linalg.norm(gap(problem, head)(y), order, axis=1).max() - 0.9 * head.scale
    )
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert set(pairs[:, 0]) == {True, False}


@pytest.mark.parametrize("sides", [3, 8, 16, 61])
def test_polygon_lies_inside_the_disc(sides):
    """Proven means inside the disc; and the polygon is no smaller than it has to be."""
    problem = study(Coordinates(0.8, "l2", sides))
    excess = gap(problem)
    pairs = verdicts(problem, 1, lambda y: np.linalg.norm(excess(y), axis=1).max() - 0.8)
    assert not (~pairs[:, 0] & pairs[:, 1]).any()  # whatever leaves the disc violates the text
    inner = 0.8 * np.cos(np.pi / sides)
    pairs = verdicts(problem, 1, lambda y: np.linalg.norm(excess(y), axis=1).max() - inner)
    assert not (pairs[:, 0] & ~pairs[:, 1]).any()  # whatever stays in the inner circle does not


def test_polygon_is_inside_to_the_last_bit():
    """Its corners, in exact arithmetic from the stored float32 normals, lie within the disc."""
    from fractions import Fraction

    for sides in (3, 4, 7, 16, 64):
        prop = Coordinates(1.0, "l2", sides)
        directions = [(u.astype(np.float32), Fraction(r)) for u, r in prop._directions(1.0)]
        for (u, r), (v, s) in zip(directions, directions[1:] + directions[:1], strict=True):
            a, b, c, d = (Fraction(float(x)) for x in (u[0], u[1], v[0], v[1]))
            det = a * d - b * c
            x, y = (r * d - b * s) / det, (a * s - r * c) / det
            assert x * x + y * y <= 1


def test_tolerance_per_key_point_and_hidden_points():
    problem = study(Coordinates((0.5, 100.0, 1.5), hidden=True), seen=(2, 1, 1))
    points = problem.target.keypoints
    chosen = problem.target.visibility > 0
    tau = np.array([0.5, 100.0, 1.5])

    def truth(y):
        return (np.abs(y.reshape(3, 2) - points).max(axis=1) - tau)[chosen].max()

    pairs = verdicts(problem, 1, truth)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert problem.excess(TWO.identity) == pytest.approx(truth(problem.answer(TWO.identity)))


@pytest.mark.parametrize("version", [1, 2])
def test_heatmap(version):
    tau = 5.0
    problem = study(Heatmap(tau), "heatmap", seen=(2, 2, 0))
    points = problem.target.keypoints

    def truth(y):
        worst = -np.inf
        for k in range(2):
            inside: list = []
            outside: list = []
            for row in range(4):
                for column in range(4):
                    near = max(abs(4 * column + 2 - points[k, 0]), abs(4 * row + 2 - points[k, 1])) <= tau
                    (inside if near else outside).append(y[k, row, column])
            worst = max(worst, max(outside) - max(inside))
        return worst

    pairs = verdicts(problem, version, truth)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert set(pairs[:, 0]) == {True, False}
    assert problem.excess(TWO.identity) == pytest.approx(truth(problem.answer(TWO.identity).reshape(3, 4, 4)))


def test_heatmap_offset_moves_the_decoded_positions():
    problem = study(Heatmap(3.0, offset=0.0), "heatmap")
    clean = problem.answer(TWO.identity).reshape(3, -1).argmax(axis=1)
    own = prepare(problem.network, problem.image, None, TWO, Heatmap(3.0, offset=0.0), reference="self")
    assert own.target.keypoints is not None
    assert np.array_equal(own.target.keypoints, 4.0 * np.stack([clean % 4, clean // 4], axis=1))
    assert own.excess(TWO.identity) < 0


def test_rounded_budgets_are_stricter_than_the_budget():
    """In exact arithmetic: whatever the stored rows accept keeps the true budget."""
    from fractions import Fraction

    draw = np.random.default_rng(5)
    weights = draw.uniform(0.1, 3, 3)
    problem = study(ErrorBudget(1.0, True, tuple(weights)))
    rows, tail = problem.spec_rows
    points = [Fraction(float(v)) for v in problem.target.keypoints.ravel()]
    exact = [Fraction(float(w)) / 3 for w in np.repeat(weights, 2)]
    centre = [Fraction(float(c)) for c in tail.centre]
    stored = [Fraction(float(m)) for m in tail.matrix[0]]
    bound = -Fraction(float(rows.rhs[0]))
    for _ in range(50):
        step = [Fraction(float(v)) for v in draw.normal(size=6)]
        reach = bound / sum(m * abs(d) for m, d in zip(stored, step, strict=True))
        y = [c + reach * d for c, d in zip(centre, step, strict=True)]  # on the boundary of what the rows accept
        assert sum(w * abs(v - p) for w, v, p in zip(exact, y, points, strict=True)) <= 1
    assert 0.999999 < -rows.rhs[0] < 1.0


def test_a_tie_counts_as_a_violation():
    flat = network("heatmap", size=16)
    for tensor in flat.graph.initializer:
        tensor.CopyFrom(onnx_zero(tensor))
    target = Target(np.array([[2.0, 2.0]] * 3))
    problem = prepare(flat, np.zeros((1, 16, 16)), target, TWO, Heatmap(2.5))
    y = run(session(problem.model()), np.array([[1.0, 0.0]]))
    assert Spec(problem.spec()).violated(np.array([1.0, 0.0]), y)


def onnx_zero(tensor):
    from onnx import numpy_helper

    return numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("mean", [True, False])
def test_budget(version, mean):
    weights, head = np.array([1.0, 2.0, 0.5]), Head(0.5, 1.0)
    limit = 1.0 if mean else 3.0
    problem = study(ErrorBudget(limit, mean, tuple(weights), head=head))
    seen = problem.target.visibility == 2

    def truth(y):
        terms = weights[seen] * np.abs(gap(problem, head)(y)).sum(axis=1)
        return (terms.mean() if mean else terms.sum()) - limit

    pairs = verdicts(problem, version, truth)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert set(pairs[:, 0]) == {True, False}


@pytest.mark.parametrize("version", [1, 2])
def test_label(version):
    problem = study(Label(), "labels", seed=4)
    label = problem.target.label
    pairs = verdicts(problem, version, lambda y: np.delete(y, label).max() - y[label])
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert set(pairs[:, 0]) == {True, False}


def many(points=5):
    """A camera and a network with as many key points as a pose needs."""
    draw = np.random.default_rng(2)
    view = pose.View(draw.uniform(-0.5, 0.5, (points, 3)), np.array([0.1, 0.0, 3.0]), 12.0, np.array([4.0, 4.0]))
    net = networks.load(network(points=points, seed=4))
    image = draw.random((1, 8, 8))
    own = net.run(image).reshape(-1, 2)
    return view, net, image, Target(np.clip(own + 0.2 * draw.uniform(-1, 1, own.shape), 0, 8))


@pytest.mark.parametrize("allocation", pose.ALLOCATIONS)
def test_pose(allocation):
    view, net, image, target = many()
    matrix = np.abs(np.linalg.pinv(view.jacobian()))
    limits = matrix @ np.full(10, 0.4)
    problem = prepare(net, image, target, TWO, Pose(view.jacobian(), limits, allocation))
    assert "linearised" in problem.summary[0]
    points = target.keypoints

    def truth(y):
        return (matrix @ np.abs(y - points.ravel()) / limits - 1).max()

    pairs = verdicts(problem, 1, truth)
    if allocation == "coupled":
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert set(pairs[:, 0]) == {True, False}
    assert not (~pairs[:, 0] & pairs[:, 1]).any()  # tolerances per coordinate are the stricter property


@pytest.mark.parametrize(
    "prop",
    [
        Coordinates(1.0),
        Coordinates(1.0, "l1"),
        Coordinates(1.0, "l2"),
        ErrorBudget(1.0),
        Coordinates((0.1, 1e-7, 12345.678)),
    ],
)
def test_version_1_text_stays_inside_the_official_reader(prop):
    text = study(prop).spec(1)
    assert official_reader_accepts(text)
    assert not official_reader_accepts(text.replace("(assert (>= Y", "(assert (> Y").replace("(and ", "("))
    assert official_reader_accepts(study(Label(), "labels").spec(1))
    assert official_reader_accepts(study(Heatmap(4.0), "heatmap").spec(1))


def test_declarations_and_shapes_fit_the_network():
    for prop, kind in ((Coordinates(1.0), "coordinates"), (ErrorBudget(1.0), "coordinates"), (Heatmap(4.0), "heatmap")):
        problem = study(prop, kind)
        output = session(problem.model()).get_outputs()[0].shape
        declared = Spec(problem.spec(1)).declared
        assert len([name for name in declared if name[0] == "Y"]) == np.prod(output)
        assert len([name for name in declared if name[0] == "X"]) == 2
        assert f"(declare-output Y float32 [{','.join(map(str, output))}])" in problem.spec(2)
        assert problem.spec(2).count("(vnnlib-version <2.0>)") == 1


def test_numbers_read_back_exactly():
    for value in [0.1, -1e-9, 1e20, 123456.789012345, 5e-324, 0.0, -0.0, 3.0]:
        text = positional(value)
        assert float(text) == value
        assert "e" not in text
        assert "." in text
        assert not text.startswith("-0.0") or value < 0


def test_the_header_says_what_is_claimed():
    text = study(Coordinates(1.5)).spec()
    head = "\n".join(line for line in text.splitlines() if line.startswith(";"))
    for words in ("within 1.5 px", "ground truth", "X_0 = contrast in [0.3, 1.8]", "clipped exactly", "jointly affine"):
        assert words in head
    problem = study(Coordinates(1.5))
    free = prepare(problem.network, problem.image, problem.target, TWO, Coordinates(1.5), clip="none", reference="self")
    assert "NOT clipped" in free.spec()
    assert "own answer" in free.spec()
    away = Perturbation((Range("contrast", 1.1, 1.2),))
    assert (
        "range of contrast excludes it"
        in prepare(problem.network, problem.image, problem.target, away, Coordinates(1.5)).spec()
    )


def test_self_reference_has_no_excess_at_the_identity():
    for prop, kind in ((Coordinates(0.3), "coordinates"), (Heatmap(1.0), "heatmap"), (Label(), "labels")):
        net = networks.load(network(kind, size=16))
        image = np.random.default_rng(0).random((1, 16, 16))
        problem = prepare(net, image, None, TWO, prop, reference="self")
        excess = problem.excess(TWO.identity)
        assert excess == pytest.approx(-0.3, abs=1e-5) if kind == "coordinates" else excess < 0


def bad(prop, message, kind="coordinates", error=ProblemError, image=None, target=None, **options):
    net = networks.load(network(kind))
    target = target or Target(np.array([[2.0, 3.0], [5.0, 6.0], [4.0, 1.0]]), label=1)
    with pytest.raises(error, match=message):
        prepare(net, np.zeros((1, 8, 8)) if image is None else image, target, TWO, prop, **options)


def test_bad_input_gets_one_clear_error():
    three = np.array([[2.0, 3.0], [5.0, 6.0], [4.0, 1.0]])
    ok = Coordinates(1.0)
    bad(ok, r"shape \[1, 9, 8\], the network expects .* \[1, 8, 8\]", image=np.zeros((1, 9, 8)))
    bad(ok, "divide 8-bit values by 255", image=np.full((1, 8, 8), 200.0))
    bad(ok, "finite", image=np.full((1, 8, 8), np.nan))
    bad(ok, r"key point 1 at \(8.5, 6\) lies outside", target=Target(three + np.array([[0, 0], [3.5, 0], [0, 0]])))
    bad(ok, "no key point is visible", target=Target(three, np.array([0, 1, 0])))
    bad(ok, "gives 3 key points .* the target has 2", target=Target(three[:2]))
    bad(ok, "a coordinate head has 2K outputs", kind="labels")
    bad(ok, "a coordinate head has 2K outputs", kind="labels", reference="self")
    bad(ok, "a coordinate head has 2K outputs", kind="heatmap")
    bad(Heatmap(4.0), "a heatmap head has output", kind="coordinates")
    bad(Heatmap(0.5), "no cell of heatmap 0 .* cells are 4 px apart", kind="heatmap", target=Target(three * 0 + 4.0))
    bad(Heatmap(40.0), "covers every cell", kind="heatmap")
    bad(Label(), "class 9 does not exist", kind="labels", error=OptionsError, target=Target(label=9))
    bad(Label(), "label is needed", kind="labels", error=OptionsError, target=Target(three))
    bad(Label(), "one axis of scores", kind="heatmap", target=Target(label=1))
    bad(ok, "target has none", target=Target(label=1))
    for wrong in (0.0, -1.0, float("nan"), (1.0, 1.0), (1.0, 1.0, 0.0)):
        bad(Coordinates(wrong), "tolerances", error=OptionsError)
    bad(Coordinates(1.0, "l3"), "unknown norm", error=OptionsError)
    bad(Coordinates(1.0, "l2", 2), "3 to 360 sides", error=OptionsError)
    bad(ErrorBudget(0.0), "budget must be positive", error=OptionsError)
    bad(ErrorBudget(1e-9), "below the resolution", error=OptionsError, target=Target(three + 1e-3))
    bad(ErrorBudget(1.0, weights=(1.0, 2.0)), "3 non-negative", error=OptionsError)
    bad(ErrorBudget(1.0, weights=(1.0, -2.0, 1.0)), "3 non-negative", error=OptionsError)
    bad(Pose(np.zeros((6, 6)), np.ones(6)), "do not determine the pose")
    bad(Pose(np.zeros((4, 6)), np.ones(6)), "must be 6 x 6", error=OptionsError)
    bad(ok, "unknown reference", error=OptionsError, reference="both")
    bad(ok, "unknown clip", error=OptionsError, clip="soft")
    with pytest.raises(OptionsError, match="scale"):
        Head(0.0)
    with pytest.raises(ProblemError, match="target"):
        prepare(network(), np.zeros((1, 8, 8)), None, TWO, ok)
    with pytest.raises(OptionsError, match="version 3"):
        study(ok).spec(3)
    for points in (np.zeros((3, 3)), np.zeros((0, 2)), np.full((3, 2), np.inf)):
        with pytest.raises(ProblemError, match="pairs"):
            Target(points)
    with pytest.raises(ProblemError, match="visibility"):
        Target(three, np.array([1, 2, 3]))
