import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import OptionsError
from verifier.perturbation import PARAMETERS
from verifier.perturbation.perturbation import apply, expand
from verifier.perturbation.table import known_constants
from verifier.semantic import Perturbation, Range

IDENTITY = {name: row.identity for name, row in PARAMETERS.items()}
CONSTANTS = {
    "fog_colour": (0.9, 0.8, 0.6),
    "fog_depth": (0.1, 0.8),
    "defocus_radius": 1.5,
    "motion_length": 2.5,
    "motion_angle": 30.0,
    "haze_colour": (0.9, 0.8, 0.7),
    "patch_box": (1, 0, 4, 3),
    "patch_colour": (0.2, 0.5, 0.7),
}


def fog(x, f, constants):
    bottom, top = constants["fog_depth"]
    height = x.shape[1]
    for row in range(height):
        depth = top + (bottom - top) * (row + 0.5) / height
        x[:, row] = x[:, row] * (1 - f * depth) + f * depth * np.array(constants["fog_colour"])[:, None]
    return x


def averaged(x, places):
    """The mean over (weight, row, column) beside every pixel; pixels at the edge stand for those beyond it."""
    _, height, width = x.shape
    found = np.zeros_like(x)
    for weight, down, right in places:
        for row in range(height):
            for column in range(width):
                source = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                found[:, row, column] += weight * x[:, source[0], source[1]]
    return found


def defocus(x, t, constants):
    inside = [(y, x) for y in range(-9, 10) for x in range(-9, 10) if np.hypot(y, x) <= constants["defocus_radius"]]
    return (1 - t) * x + t * averaged(x, [(1 / len(inside), *place) for place in inside])


def motion(x, t, constants):
    angle, places = np.deg2rad(constants["motion_angle"]), []
    points = np.linspace(-0.5, 0.5, 2 * int(np.ceil(constants["motion_length"])) + 1) * constants["motion_length"]
    for along in points:
        y, right = -along * np.sin(angle), along * np.cos(angle)
        for row in range(-9, 10):
            for column in range(-9, 10):
                weight = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(right - column))  # bilinear
                if weight:
                    places.append((weight / len(points), row, column))
    return (1 - t) * x + t * averaged(x, places)


def contrast(x, a, constants):
    grey = constants["mean"] if constants["anchor"] == "mean" else constants["anchor"]
    return grey + a * (x - grey)


def gain(channel):
    def step(x, g, constants):
        x[channel] *= g
        return x

    return step


def gradient(across):
    def step(x, g, constants):
        _, height, width = x.shape
        for row in range(height):
            for column in range(width):
                x[:, row, column] += g * ((column + 0.5) / width - 0.5 if across else (row + 0.5) / height - 0.5)
        return x

    return step


def haze(x, h, constants):
    return (1 - h) * x + h * np.array(constants["haze_colour"])[:, None, None]


def patch(x, o, constants):
    x0, y0, x1, y1 = constants["patch_box"]
    part = x[:, y0:y1, x0:x1]
    part[:] = (1 - o) * part + o * np.array(constants["patch_colour"])[:, None, None]
    return x


DIRECT = {
    "gamma": lambda x, g, constants: x**g,
    "fog": fog,
    "defocus": defocus,
    "motion": motion,
    "contrast": contrast,
    **{f"gain_{c}": gain(c) for c in range(3)},
    "brightness": lambda x, b, constants: x + b,
    "gradient_x": gradient(True),
    "gradient_y": gradient(False),
    "haze": haze,
    "patch": patch,
}
"""Every step written out, in the order of the documentation: a row per parameter."""


def test_every_parameter_has_its_row_in_the_order_of_the_steps():
    assert list(DIRECT) == list(PARAMETERS)


def test_the_documentation_lists_every_parameter_in_order_with_its_constants():
    page = (Path(__file__).parents[3] / "docs/reference/perturbations.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert named == list(PARAMETERS)
    assert all(f"`{name}`" in page for name in known_constants())


def direct(image, values, constants, clip=True):
    """The steps one after the other."""
    x, constants = image.astype(float).copy(), {**constants, "mean": image.mean()}
    for name, step in DIRECT.items():
        if name in values:
            x = step(x, values[name], constants)
    return np.clip(x, 0, 1) if clip else x


def perturbation(names, anchor=0.0, clip=True):
    def ends(name):
        row = PARAMETERS[name]
        return max(row.identity - 0.3, row.limits[0]), min(row.identity + 0.6, row.limits[1])

    return Perturbation(tuple(Range(n, *ends(n)) for n in names), {**CONSTANTS, "anchor": anchor}, clip)


@settings(max_examples=80, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(IDENTITY)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, "mean"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_polynomial_equals_the_steps(names, anchor, clip, seed):
    names = names - {"defocus", "motion"} if "gamma" in names else names  # refused together
    draw = np.random.default_rng(seed)
    images = draw.random((2, 3, 4, 5))
    perturbed = perturbation(names, anchor, clip)
    values = np.array([[draw.uniform(r.low, r.high) for r in perturbed.ranges] for _ in images])
    together = apply(perturbed, images, values)
    single = apply(perturbed, images.astype(np.float32), values)
    assert single.dtype == np.float32 and np.abs(single - together).max() < 1e-5
    for image, point, found in zip(images, values, together, strict=True):
        named = dict(zip(perturbed.names, point, strict=True))
        wanted = direct(image, named, {**CONSTANTS, "anchor": anchor}, clip)
        assert np.abs(found - wanted).max() < 1e-12
        assert np.abs(apply(perturbed, image, point) - wanted).max() < 1e-12


def test_order_of_inputs_is_fixed():
    assert perturbation(["haze", "brightness", "contrast"]).names == ("contrast", "brightness", "haze")


@pytest.mark.parametrize("anchor", [0.0, 0.5, "mean"])
def test_identity_changes_nothing(anchor):
    image = np.random.default_rng(0).random((3, 4, 5))
    names = [n for n in PARAMETERS if n not in ("contrast", "haze", "patch", "gamma")]
    for some in (["contrast", "brightness"], names[:6], names[-6:], ["contrast", "haze", "patch"], ["gamma", "fog"]):
        perturbed = perturbation(some, anchor)
        assert np.abs(apply(perturbed, image, perturbed.identity) - image).max() < 1e-15


@pytest.mark.parametrize(
    ("names", "products"),
    [
        (["contrast", "brightness"], []),
        (["contrast", "brightness", "gradient_x", "gradient_y"], []),
        (["gain_0", "gain_1", "gain_2", "brightness"], []),
        (["haze"], []),
        (["patch"], []),
        (["contrast", "gain_0"], [(0, 1)]),
        (["contrast", "brightness", "haze"], [(0, 2), (1, 2)]),
        (["contrast", "haze", "patch"], [(0, 1), (0, 2), (1, 2), (0, 1, 2)]),
    ],
)
def test_which_combinations_multiply(names, products):
    image = np.random.default_rng(0).random((3, 4, 5))
    assert sorted(expand(perturbation(names), image).products) == sorted(products)


def test_bad_ranges_and_constants():
    for arguments in (("contrast", 1.2, 0.8), ("contrast", float("nan"), 1), ("haze", -0.1, 0.5), ("shine", 0, 1)):
        with pytest.raises(OptionsError):
            Range(*arguments)
    with pytest.raises(OptionsError, match="empty: low 1.2"):
        Range("contrast", 1.2, 0.8)
    two = (Range("contrast", 1, 1), Range("contrast", 1, 1))
    seven = [n for n in PARAMETERS if n != "patch"][:7]
    for ranges in ((), two, tuple(Range(n, IDENTITY[n], IDENTITY[n]) for n in seven)):
        with pytest.raises(OptionsError):
            Perturbation(ranges)
    one = (Range("contrast", 1, 1),)
    for options in ({"anchor": "median"}, {"anchor": 2.0}, {"haze_colour": (1.5,)}, {"shine": 1}):
        with pytest.raises(OptionsError):
            Perturbation(one, options)
    with pytest.raises(OptionsError, match="rectangle"):
        Perturbation((Range("patch", 0, 1),))
    grey = np.zeros((1, 4, 5))
    for bad in (
        Perturbation((Range("gain_1", 0, 1),)),
        Perturbation.of(patch=(0, 1), patch_box=(0, 0, 6, 2)),
        Perturbation.of(patch=(0, 1), patch_box=(2, 0, 2, 2)),
        Perturbation.of(haze=(0, 1), haze_colour=(0.1, 0.2, 0.3)),
    ):
        with pytest.raises(OptionsError):
            expand(bad, grey)


def test_range_without_the_identity_is_allowed_and_known():
    assert not Range("contrast", 1.1, 1.2).holds_identity
    assert Range("contrast", 0.9, 1.0).holds_identity


def test_a_text_says_the_same_as_values():
    found = Perturbation.parse("contrast=0.8:1.2, haze=0,0.2,haze_colour=0.9,0.8,0.7 anchor=mean")
    assert found == Perturbation.of(
        contrast=(0.8, 1.2), haze=(0, 0.2), haze_colour=(0.9, 0.8, 0.7), anchor="mean"
    )  # fmt: skip
    assert Perturbation.parse("medium") == Perturbation.of(contrast=(0.8, 1.2), brightness=(-0.1, 0.1))
    assert Perturbation.parse("small,anchor=0.5").constant("anchor") == 0.5
    plane = {"contrast": (1.0, 1.0), "brightness": (0.0, 0.0)}
    assert Perturbation.parse("brightness=0:0.1", plane).names == ("contrast", "brightness")
    assert Perturbation.parse("haze=0:0.1", plane).names == ("haze",)
    assert Perturbation.parse("", plane).degenerate
    for text in ("huge", "contrast=1", "contrast=0:1,contrast=0:1", "anchor=dark,contrast=0:1", "shine=0:1", "=1:2"):
        with pytest.raises(OptionsError):
            Perturbation.parse(text)


def test_enlarging_stops_at_the_limits_and_grids_keep_the_ends():
    wide = Perturbation.of(contrast=(0.8, 1.2), haze=(0.0, 0.4)).enlarged(1.5)
    assert wide.box == pytest.approx(np.array([[0.7, 1.3], [0.0, 0.5]]))
    grid = wide.grid(81)
    assert grid.shape == (81, 2) and (grid.min(0) == wide.box[:, 0]).all() and (grid.max(0) == wide.box[:, 1]).all()
    three = Perturbation.of(contrast=(0.8, 1.2), brightness=(0, 0.1), haze=(0.0, 0.4))
    assert len(three.grid(81)) == 64


def test_blur_and_gamma_are_refused_together_with_the_reason():
    image = np.full((1, 4, 5), 0.5)
    for name in ("defocus", "motion"):
        with pytest.raises(OptionsError, match=f"{name} cannot go with gamma, as it averages pixels"):
            expand(Perturbation.parse(f"gamma=0.9:1.1,{name}=0:1"), image)
    with pytest.raises(OptionsError, match="gamma needs pixels in"):
        expand(Perturbation.of(gamma=(0.9, 1.1)), image + 1)
    for bad in ("fog=0:1,fog_depth=0:2", "defocus=0:1,defocus_radius=99", "gamma=0:1", "motion=0:1,motion_angle=up"):
        with pytest.raises(OptionsError):
            Perturbation.parse(bad)
