import numpy as np
import onnx
import pytest

from tests.unit.semantic.semantic_helpers import margins, network, run, session, violated
from verifier.errors import ModelError, OptionsError, ProblemError
from verifier.semantic import (
    Coordinates,
    ErrorBudget,
    Heatmap,
    Label,
    Perturbation,
    Range,
    Target,
    batch,
    prepare,
)
from verifier.semantic import network as networks

TWO = (Range("contrast", 0.5, 1.6), Range("brightness", -0.4, 0.3))
FIVE = (*TWO, Range("gradient_y", -0.2, 0.2), Range("haze", 0.0, 0.5), Range("patch", 0.0, 1.0))


def study(kind="coordinates", ranges=TWO, prop=None, clip="clip", mean=None, std=None, target=None, **options):
    channels = options.get("channels", 1)
    net = networks.load(network(kind, **options), channels=channels if kind == "flat" else None, mean=mean, std=std)
    image = np.random.default_rng(7).random((channels, 8, 8))
    perturbed = Perturbation(ranges, {"anchor": 0.5, "patch_box": (2, 3, 6, 8), "patch_colour": (0.1,)})
    target = target or Target(np.array([[2.0, 3.0], [5.0, 6.0], [4.0, 1.0]]))
    return prepare(net, image, target, perturbed, prop or Coordinates(1.0), clip=clip)


def samples(problem, n=20, seed=0):
    low, high = problem.perturbation.box.T
    inside = np.random.default_rng(seed).uniform(low, high, (n, len(low)))
    return np.concatenate([inside, [low, high]])


def check(problem, expected, tolerance=2e-4):
    """The composite file equals `expected(values)` on samples; returns the largest output seen."""
    composite = session(problem.model())
    for values in samples(problem):
        found, wanted = run(composite, values[None]), expected(values)
        assert np.abs(found.ravel() - wanted).max() < tolerance * (1 + np.abs(wanted).max())


@pytest.mark.parametrize("clip", ["clip", "relu", "none"])
@pytest.mark.parametrize("ranges", [TWO, FIVE, FIVE[3:], (TWO[0],)], ids=["affine", "products", "blends", "single"])
def test_composite_is_transform_then_network(clip, ranges):
    problem = study(ranges=ranges, clip=clip)
    net = session(problem.network.proto)

    def expected(values):
        return run(net, problem.picture(values)[None]).ravel()

    check(problem, expected)


@pytest.mark.parametrize("kind", ["coordinates", "nhwc", "flat", "labels", "heatmap"])
@pytest.mark.parametrize("channels", [1, 3])
def test_layouts_and_normalisation(kind, channels):
    mean, std = ((0.4,), (0.3,)) if channels == 1 else ((0.4, 0.5, 0.2), (0.3, 0.2, 0.6))
    prop: Coordinates | Label | Heatmap = Coordinates(1.0)
    target = None
    if kind == "labels":
        prop, target = Label(), Target(label=2)
    if kind == "heatmap":
        prop, target = Heatmap(2.0), Target(np.array([[2.0, 2.0], [5.0, 6.0], [6.0, 1.0]]))
    problem = study(kind, FIVE, prop, mean=mean, std=std, channels=channels, target=target)
    net = session(problem.network.proto)

    def expected(values):
        x = (problem.picture(values) - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        x = x.transpose(1, 2, 0) if kind == "nhwc" else x.ravel() if kind == "flat" else x
        return run(net, x[None]).ravel()

    check(problem, expected)
    assert np.abs(problem.answer(problem.perturbation.identity) - expected(problem.perturbation.identity)).max() < 1e-4


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17])
@pytest.mark.parametrize("clip", ["clip", "relu"])
def test_opsets(opset, clip):
    problem = study(ranges=FIVE, opset=opset, clip=clip, prop=ErrorBudget(1.0))
    model = problem.model()
    assert next(o.version for o in model.opset_import if o.domain == "") == opset
    check(problem, lambda v: np.abs(problem.answer(v).reshape(3, 2) - problem.target.keypoints).sum() / 3)
    shared, _ = batch([study(opset=opset, clip=clip, prop=ErrorBudget(1.0))])
    onnx.checker.check_model(shared, full_check=True)


def test_double_networks_stay_double():
    problem = study("flat", dtype=np.float64, batch=1)
    net = session(problem.network.proto)
    check(problem, lambda v: run(net, problem.picture(v).reshape(1, -1)).ravel(), tolerance=1e-12)


def test_names_are_prefixed_and_input_is_the_parameters():
    model = study().model()
    assert [v.name for v in model.graph.input] == ["parameters"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 2]
    ours = {"image_map", "image_base", "image_shape", "clip_min", "clip_max"}
    names = {t.name for t in model.graph.initializer}
    assert ours <= names
    assert all(name.startswith("net/") for name in names - ours)


def test_file_weights_are_the_input_map():
    problem = study()
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in problem.model().graph.initializer}
    assert np.array_equal(weights["image_map"].T, problem.input_map.matrix)
    assert np.array_equal(weights["image_base"], problem.input_map.offset)


def test_product_nodes_appear_only_where_needed():
    def operators(ranges):
        return {node.op_type for node in study(ranges=ranges).model().graph.node}

    assert "Mul" not in operators(TWO)
    assert "Mul" in operators(FIVE)
    assert "jointly affine" in " ".join(study().summary)
    assert "contrast*haze*patch" in " ".join(study(ranges=FIVE).summary)


def test_old_style_networks_with_weights_among_the_inputs():
    model = network(opset=9)
    for tensor in model.graph.initializer:
        shape = list(tensor.dims)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    model.ir_version = 3
    problem = prepare(model, np.full((1, 8, 8), 0.5), Target(np.ones((3, 2))), Perturbation(TWO), Coordinates(1.0))
    composite = session(problem.model())
    values = np.array([1.2, 0.1])
    assert np.abs(run(composite, values[None]).ravel() - problem.answer(values)).max() < 1e-3


def test_layout_is_found_or_refused():
    assert networks.load(network("nhwc", channels=3)).frame.layout == "nhwc"
    assert networks.load(network("flat")).frame.layout == "flat"
    assert networks.load(network("flat", channels=3), channels=3).frame.channels == 3
    with pytest.raises(ModelError, match="cannot be read"):
        networks.load(network("flat", size=7), channels=3)
    with pytest.raises(ModelError, match="as nhwc"):
        networks.load(network(), layout="nhwc")
    with pytest.raises(OptionsError):
        networks.load(network(), layout="chw")
    for options in ({"mean": (0.1, 0.2)}, {"std": (0.0,)}, {"std": (float("nan"),)}):
        with pytest.raises(OptionsError):
            networks.load(network(), **options)


def test_unusable_models(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not an ONNX model"):
        networks.load(tmp_path / "junk.onnx")
    with pytest.raises(ModelError, match="no such file"):
        networks.load(tmp_path / "none.onnx")
    two = network()
    two.graph.output.append(onnx.helper.make_tensor_value_info("c1", 1, None))
    with pytest.raises(ModelError, match="2 outputs"):
        networks.load(two)
    whole = network()
    whole.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises(ModelError, match="INT64"):
        networks.load(whole)
    old = network()
    old.opset_import[0].version = 6
    with pytest.raises(ModelError, match="opset 6"):
        networks.load(old)


def test_output_shape_is_inferred_where_it_is_not_declared():
    model = network("heatmap")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert networks.load(model).output == (1, 3, 2, 2)


class TestBatch:
    def problems(self, prop, kind="coordinates"):
        net = networks.load(network(kind))
        draw = np.random.default_rng(3)
        perturbed = Perturbation(TWO, {"anchor": 0.5})
        images = draw.random((3, 1, 8, 8))
        return [prepare(net, image, None, perturbed, prop, reference="self") for image in images]

    @pytest.mark.parametrize(
        "prop", [Coordinates(0.5), Coordinates(0.6, "l2"), ErrorBudget(0.6)], ids=["linf", "l2", "budget"]
    )
    def test_arrays_and_files_say_the_same(self, prop):
        problems = self.problems(prop)
        model, queries = batch(problems)
        shared = session(model)
        verdicts = set()
        for problem, query in zip(problems, queries, strict=True):
            own = session(problem.model())
            rows, _ = problem.spec_rows
            assert query.image.matrix.shape == (len(query.image.offset), 2)
            assert query.rows.dense().shape == (query.rows.count, query.rows.n)
            for values in samples(problem, 40):
                y = run(shared, query.image(values)[None]).ravel().astype(float)
                z = run(own, values[None]).ravel().astype(float)
                assert np.abs(margins(query.rows, y) - margins(rows, z)).max() < 1e-3
                if np.abs(margins(rows, z)).min() > 1e-3:
                    assert violated(query.rows, y) == violated(rows, z)
                    verdicts.add(violated(rows, z))
        assert len(verdicts) == 2

    def test_offset_and_matrix_give_the_picture(self):
        problem = self.problems(Coordinates(1.0))[0]
        _, (query,) = batch([problem])
        values = np.array([1.3, -0.2])
        assert np.abs(query.image(values) - problem.polynomial(values).ravel()).max() < 1e-6

    def test_mixed_batches_are_refused(self):
        one, two = self.problems(Coordinates(1.0))[0], self.problems(Coordinates(1.0))[0]
        with pytest.raises(ProblemError, match="another network"):
            batch([one, two])
        net, image, target = one.network, one.image, one.target
        other = prepare(net, image, target, one.perturbation, ErrorBudget(1.0), reference="self")
        with pytest.raises(ProblemError, match="kind of property"):
            batch([one, other])
        with pytest.raises(ProblemError, match="at least one"):
            batch([])


def test_constants_that_do_not_fit_the_image_fail_at_once():
    with pytest.raises(OptionsError, match="gain_1 needs 2 channels"):
        study(ranges=(Range("gain_1", 0.9, 1.1),))
    net = networks.load(network())
    perturbed = Perturbation((Range("patch", 0, 1),), {"patch_box": (0, 0, 9, 2)})
    with pytest.raises(OptionsError, match="leaves the 8x8 image"):
        prepare(net, np.zeros((1, 8, 8)), Target(np.ones((3, 2))), perturbed, Coordinates(1.0))
