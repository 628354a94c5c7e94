import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import OptionsError
from verifier.semantic import Patch, Perturbation, Range
from verifier.semantic.perturbation import IDENTITY, apply, expand

PATCH = Patch(1, 0, 4, 3, (0.2, 0.5, 0.7))


def direct(image, values, anchor, patch=PATCH, haze=(0.9, 0.8, 0.7), clip=True):
    """The steps of the documentation, one after the other."""
    v = {**IDENTITY, **values}
    x = image.astype(float).copy()
    channels, height, width = x.shape
    grey = x.mean() if anchor == "mean" else anchor
    x = grey + v["contrast"] * (x - grey)
    for c in range(channels):
        x[c] *= v[f"gain_{c}"]
    for row in range(height):
        for column in range(width):
            u, w = (column + 0.5) / width - 0.5, (row + 0.5) / height - 0.5
            x[:, row, column] += v["brightness"] + v["gradient_x"] * u + v["gradient_y"] * w
    for c in range(channels):
        x[c] = (1 - v["haze"]) * x[c] + v["haze"] * haze[c]
        part = x[c, patch.y0 : patch.y1, patch.x0 : patch.x1]
        part[:] = (1 - v["patch"]) * part + v["patch"] * patch.colour[c]
    return np.clip(x, 0, 1) if clip else x


def perturbation(names, anchor=0.0, **options):
    ends = {n: (0.1, 0.9) if n in ("haze", "patch") else (v - 0.3, v + 0.3) for n, v in IDENTITY.items()}
    ranges = tuple(Range(n, *ends[n]) for n in names)
    return Perturbation(ranges, anchor, (0.9, 0.8, 0.7), PATCH, **options)


@settings(max_examples=80, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(IDENTITY)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, "mean"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_polynomial_equals_the_steps(names, anchor, clip, seed):
    draw = np.random.default_rng(seed)
    image = draw.random((3, 4, 5))
    perturbed = perturbation(names, anchor)
    values = np.array([draw.uniform(r.low, r.high) for r in perturbed.ranges])
    named = dict(zip(perturbed.names, values, strict=True))
    found = apply(perturbed, image, values, clip)
    assert np.abs(found - direct(image, named, anchor, clip=clip)).max() < 1e-12


def test_order_of_inputs_is_fixed():
    assert perturbation(["haze", "brightness", "contrast"]).names == ("contrast", "brightness", "haze")


@pytest.mark.parametrize("anchor", [0.0, 0.5, "mean"])
def test_identity_changes_nothing(anchor):
    image = np.random.default_rng(0).random((3, 4, 5))
    for names in (["contrast", "brightness"], list(IDENTITY)[2:8], ["contrast", "haze", "patch"]):
        perturbed = perturbation(names, anchor)
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
    for ranges in ((), two, tuple(Range(n, 0, 1) for n in list(IDENTITY)[:7])):
        with pytest.raises(OptionsError):
            Perturbation(ranges)
    one = (Range("contrast", 1, 1),)
    for options in ({"anchor": "median"}, {"anchor": 2.0}, {"haze_colour": (1.5,)}):
        with pytest.raises(OptionsError):
            Perturbation(one, **options)
    with pytest.raises(OptionsError, match="rectangle"):
        Perturbation((Range("patch", 0, 1),))
    grey = np.zeros((1, 4, 5))
    for bad in (
        Perturbation((Range("gain_1", 0, 1),)),
        Perturbation((Range("patch", 0, 1),), patch=Patch(0, 0, 6, 2)),
        Perturbation((Range("patch", 0, 1),), patch=Patch(2, 0, 2, 2)),
        Perturbation((Range("haze", 0, 1),), haze_colour=(0.1, 0.2, 0.3)),
    ):
        with pytest.raises(OptionsError):
            expand(bad, grey)


def test_range_without_the_identity_is_allowed_and_known():
    assert not Range("contrast", 1.1, 1.2).holds_identity
    assert Range("contrast", 0.9, 1.0).holds_identity
