"""Images over cells, and the network that `spec` writes, against the image map in fractions and in mpmath."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.unit.semantic.semantic_helpers import network, run, session
from verifier.bounds.inputs import centre_radius
from verifier.budget import Budget
from verifier.perturbation import PARAMETERS
from verifier.perturbation.enclosure import ImageMaps
from verifier.perturbation.perturbation import Perturbation, Range, apply, expand
from verifier.perturbation.polynomial import BLACK, ImageMap
from verifier.semantic import Coordinates, composite, prepare
from verifier.semantic import network as networks
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, audit, cover
from verifier.semantic.family import from_problems

CONSTANTS = {"patch_box": (1, 1, 4, 3), "fog_depth": (0.2, 0.9), "motion_angle": 40.0, "defocus_radius": 1.5}
SIDE = 5
UNIT = 2.0**-24


def picture(seed: int) -> np.ndarray:
    """Random grey values, with a black, a white, and a very dark pixel."""
    image = np.random.default_rng(seed).random((1, SIDE, SIDE))
    image[0, 0, :3] = 0.0, 1.0, 1e-30
    return image


def identity() -> networks.ImageNetwork:
    """A network that answers the picture it sees."""
    shape = [1, 1, SIDE, SIDE]
    node = helper.make_node("Flatten", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIDE * SIDE])],
    )  # fmt: skip
    return networks.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def some_ranges(names: set[str], draw: np.random.Generator) -> Perturbation:
    ranges = []
    for name in names:
        row = PARAMETERS[name]
        low, high = np.sort(
            draw.uniform(max(row.limits[0], row.identity - 0.7), min(row.limits[1], row.identity + 0.7), 2)
        )
        ranges.append(Range(name, float(low), float(high)))
    return Perturbation(tuple(ranges), CONSTANTS)


GREY = sorted(set(PARAMETERS) - {"gain_1", "gain_2"})  # those that a grey picture has
NAMES = st.sets(st.sampled_from(GREY), min_size=1, max_size=4).map(
    lambda names: names - {"defocus", "motion"} if "gamma" in names else names
)


def exact(image: ImageMap, point: list[Fraction], entry: int) -> mpmath.mpf | Fraction:
    """One entry of an image map at a point, in fractions; in 60 digits where there is a power."""

    def product(monomial: tuple[int, ...]) -> Fraction:
        found = Fraction(1)
        for i in monomial:
            found *= point[i]
        return found

    plain, factor = Fraction(float(image.offset[entry])), Fraction(0)
    for k, monomial in enumerate(image.monomials):
        coefficient = Fraction(float(image.matrix[entry, k]))
        if image.power in monomial:
            factor += coefficient * product(tuple(i for i in monomial if i != image.power))
        else:
            plain += coefficient * product(monomial)
    if image.power is None or image.logs is None:
        return plain
    with mpmath.workdps(60):
        power = mpmath.exp(_real(point[image.power]) * mpmath.mpf(float(image.logs[entry])))
        return _real(plain) + _real(factor) * power


def _real(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / mpmath.mpf(value.denominator)


@settings(max_examples=60, deadline=None)
@given(st.one_of(NAMES, st.just({"gamma"}), st.just({"gamma", "contrast"})), st.integers(0, 2**32 - 1))
def test_a_cell_encloses_every_image_in_it(names: set[str], seed: int) -> None:
    """Cells from the whole range down to a point, their corners and points inside; nothing is rounded in favour."""
    draw = np.random.default_rng(seed)
    perturbed = some_ranges(names, draw)
    terms = expand(perturbed, picture(seed))
    image = terms.flat(len(perturbed.ranges), lambda part: part.reshape(-1))
    low, high = perturbed.box.T
    halvings = draw.choice([0, 0, 1, 2, 3, 4, 6, 10, 20, 40], len(low))
    centre, half = low + draw.random(len(low)) * (high - low), (high - low) * 2.0**-halvings / 2
    low, high = np.maximum(low, centre - half), np.minimum(high, centre + half)
    middle, reach = centre_radius(*(torch.from_numpy(end[None].copy()) for end in (low, high)))
    maps, query = ImageMaps.of([image], torch.device("cpu")), torch.zeros(1, dtype=torch.int64)
    cell, centre, radius = maps.over(middle, reach, query), middle[0].tolist(), reach[0].tolist()
    share = draw.integers(0, 3, (3, len(low))) / 2
    for point in np.clip(low + share * (high - low), low, high):
        at = [Fraction(float(v)) for v in point]
        moved = [p - Fraction(c) for p, c in zip(at, centre, strict=True)]
        units = [v / Fraction(r) if r else Fraction(0) for v, r in zip(moved, radius, strict=True)]
        assert all(abs(unit) <= 1 for unit in units)
        symbols = [unit(part, units, maps.power) for part in cell.symbols]
        for entry in (0, 1, 2, *draw.integers(3, len(image.offset), 3)):
            weights = [*cell.slopes[0, :, entry].tolist(), *cell.shared[0, :, entry].tolist()]
            line = Fraction(float(cell.value[0, entry]))
            line += sum(Fraction(w) * v for w, v in zip(weights, [*moved, *symbols], strict=True))
            with mpmath.workdps(60):
                assert abs(_real(line) - exact(image, at, entry)) <= float(cell.slack[0, entry])


def unit(part: tuple[tuple[int, ...], int], units: list[Fraction], power: int | None) -> Fraction:
    """What a symbol stands for, in [-1, 1], at a point with these distances from the centre in units of the radii."""
    chosen, degree = part
    value = Fraction(1)
    for i in chosen:
        value *= units[i]
    for _ in range(degree):
        value *= units[power if power is not None else 0]
    value = 2 * value - 1 if not chosen and degree % 2 == 0 else value
    assert abs(value) <= 1
    return value


@pytest.mark.parametrize(("names", "order"), [({"contrast", "haze"}, 2), ({"gamma"}, 2), ({"gamma", "contrast"}, 2)])
def test_what_is_not_affine_falls_with_the_square_of_the_cell_and_what_is_not_shared_faster(
    names: set[str], order: int
) -> None:
    perturbed = some_ranges(names, np.random.default_rng(3))
    image = expand(perturbed, 0.2 + 0.8 * picture(1)).flat(len(names), lambda part: part.reshape(-1))
    maps, query = ImageMaps.of([image], torch.device("cpu")), torch.zeros(1, dtype=torch.int64)
    low, high = (torch.from_numpy(end[None].copy()) for end in perturbed.box.T)
    cells = [maps.over((low + high) / 2, share * (high - low), query) for share in (0.25, 0.0625)]
    shared = [float(cell.shared.abs().max()) for cell in cells]
    slack = [float(cell.slack.max()) for cell in cells]
    assert 0 < shared[1] < 1.01 * shared[0] / 4**order
    assert 0 < slack[1] < 1e-12 if maps.power is None else slack[1] < slack[0] / 4**5 + 1e-12


@settings(max_examples=30, deadline=None)
@given(NAMES, st.booleans(), st.integers(0, 2**32 - 1))
def test_the_written_network_computes_the_image(names: set[str], clip: bool, seed: int) -> None:
    """ONNX Runtime on the composite against the steps in float64 and the stored weights in fractions: what differs is
    float32's rounding of weights and sums, a few units of the magnitudes that are added."""
    draw = np.random.default_rng(seed)
    perturbed = some_ranges(names, draw)
    net, image = identity(), picture(seed)
    count = len(perturbed.ranges)
    stored = composite.image_map(net, expand(perturbed, image), count)
    model = composite.with_parameters(net, stored, count, "clip" if clip else "none", None)
    onnx.checker.check_model(model, full_check=True)
    low, high = perturbed.box.T
    for _ in range(2):
        point = np.clip((low + draw.random(count) * (high - low)).astype(np.float32), low, high).astype(np.float32)
        y = run(session(model), point[None]).ravel().astype(np.float64)
        wanted = apply(perturbed, image, point.astype(np.float64), clip).ravel()
        size = np.abs(stored.matrix).sum(1) * 4 + np.abs(stored.offset)
        # of the power: its exponent is rounded, and the runtime's exp has its own error
        size = size + (0.0 if stored.logs is None else 4 * np.minimum(-stored.logs, 100.0) + 20)
        allowed = 64 * UNIT * size
        assert (np.abs(y - wanted) <= allowed).all()
        at = [Fraction(float(v)) for v in point]
        for entry in draw.integers(0, len(y), 4):
            value = float(exact(stored, at, int(entry)))
            assert abs(y[entry] - (min(max(value, 0.0), 1.0) if clip else value)) <= allowed[entry]


def test_black_stays_black() -> None:
    perturbed = Perturbation.of(gamma=(0.05, 20.0))
    image = expand(perturbed, np.zeros((1, SIDE, SIDE))).flat(1, lambda part: part.reshape(-1))
    assert image.logs is not None and (image.logs == BLACK).all()
    assert (image(np.array([0.05])) < 1e-200).all()
    assert (apply(perturbed, np.zeros((1, SIDE, SIDE)), np.array([0.05])) == 0).all()


PAIRS = [
    "gamma=0.5:2,fog=0:0.6",
    "contrast=0.4:1.6,haze=0:0.6",
    "defocus=0:1,gradient_y=-0.6:0.6",
    "motion=0:1,gain_0=0.4:1.6",
]


@pytest.mark.parametrize("text", PAIRS)
def test_any_two_parameters_are_the_axes_of_an_exact_map(text: str) -> None:
    """Certified and refuted cells against samples in float64 and in ONNX Runtime on the member's own file (`audit`)."""
    net = networks.load(network())
    image = np.random.default_rng(7).random((1, 8, 8))
    problems = [
        prepare(net, image, None, Perturbation.parse(text), Coordinates(t), reference="self") for t in (0.02, 0.2)
    ]
    family = from_problems(problems, torch.device("cpu"))
    state = cover(family, CoverageLimits(0.1), Budget.of(60.0))
    audit(family, state, 200)
    assert (state.shares(OPEN) <= 0.1).all() and state.shares(CERTIFIED).max() > 0 and state.shares(REFUTED).max() > 0
