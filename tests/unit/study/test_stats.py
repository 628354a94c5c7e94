"""Every interval and test against a computation of another kind."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.study import stats


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 1), (7, 20), (20, 20), (155, 200)])
def test_wilson_solves_its_quadratic(k, n):
    # Wilson: the limits are the p with |k/n - p| = z sqrt(p (1 - p) / n)
    found = stats.wilson(k, n)
    z = NormalDist().inv_cdf(0.975)
    for limit in (found.low, found.high):
        assert abs(k / n - limit) == pytest.approx(z * math.sqrt(limit * (1 - limit) / n), abs=1e-9)
    assert found.low <= k / n <= found.high and found.n == n


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError):
        stats.wilson(0, 0)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_sums_the_binomial_tails(b, c):
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    assert stats.mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail) if b != c else 1.0, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    # A hypothesis falls if every intersection that contains it falls by Bonferroni.
    indices = range(len(p))
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(indices, size)]
    for i, adjusted in enumerate(stats.holm(p)):
        expected = max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s)
        assert adjusted == pytest.approx(expected, abs=1e-12)


def test_holm_of_nothing():
    assert stats.holm([]) == []


def every_replicate(values: np.ndarray) -> list[float]:
    """Means of all equally likely nested resamples of (S, D, N) values, by enumeration."""
    seeds, draws, images = values.shape
    per_seed = []
    for s in range(seeds):
        means = []
        for d in itertools.product(range(draws), repeat=draws):
            for i in itertools.product(range(images), repeat=images):
                means.append(values[s][np.ix_(d, i)].mean())
        per_seed.append(means)
    found = []
    for chosen in itertools.product(range(seeds), repeat=seeds):
        found += [float(np.mean(m)) for m in itertools.product(*(per_seed[s] for s in chosen))]
    return found


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 2, 2), (1, 1, 4), (3, 1, 2)])
def test_the_bootstrap_draws_from_the_distribution_found_by_enumeration(shape):
    values = np.random.default_rng(5).normal(size=shape)
    exact = np.sort(every_replicate(values))
    drawn: list[np.ndarray] = []

    def keep(sample):
        result = stats.mean(sample)
        drawn.append(result)
        return result

    found = stats.bootstrap(keep, values, replicates=20_000)
    sample = np.sort(np.concatenate(drawn[:-1]))  # the last call is the plain value
    # Kolmogorov distance between the drawn and the exact distribution: below its 1 - 1e-6 quantile for 20 000 draws
    grid = exact + 1e-9
    distance = np.abs(
        np.searchsorted(sample, grid, "right") / len(sample) - np.searchsorted(exact, grid, "right") / len(exact)
    ).max()
    assert distance < math.sqrt(math.log(2 / 1e-6) / 2 / 20_000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.percentile(exact, 2.5), abs=0.06)
    assert found.high == pytest.approx(np.percentile(exact, 97.5), abs=0.06)


def test_one_seed_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).exponential(size=80)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    found = stats.bootstrap(stats.mean, values[None, None], replicates=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_pairing_removes_what_both_share():
    generator = np.random.default_rng(2)
    shared = generator.normal(scale=10, size=(3, 1, 50))
    a, b = shared + 1 + 0.01 * generator.normal(size=(3, 2, 50)), shared
    found = stats.bootstrap(stats.difference_of_means, a, b)
    assert found.value == pytest.approx(1, abs=0.01) and found.high - found.low < 0.01
    alone = stats.bootstrap(stats.mean, a)
    assert alone.high - alone.low > 1


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(3)
    inside = generator.normal(size=(4, 1, 100))
    same = stats.bootstrap(stats.mean, inside)
    apart = stats.bootstrap(stats.mean, inside + np.array([-2, -1, 1, 2.0])[:, None, None])
    assert apart.high - apart.low > 4 * (same.high - same.low)


def test_statistics_by_hand():
    a, b = np.array([[[[1.0, 2, 6]]]]), np.array([[[[2.0, 4, 6]]]])
    assert stats.median(a) == [2] and stats.mean(a) == [3]
    assert stats.ratio_of_medians(a, b) == [0.5] and stats.ratio_of_means(a, b) == [0.75]
    assert stats.difference_of_means(a, b) == [-1]


def test_the_interval_is_the_same_every_time():
    values = np.random.default_rng(0).normal(size=(2, 3, 20))
    assert stats.bootstrap(stats.mean, values) == stats.bootstrap(stats.mean, values)


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="agree"):
        stats.bootstrap(stats.difference_of_means, np.zeros((2, 1, 3)), np.zeros((2, 1, 4)))


def test_coverage_of_the_nested_interval():
    """Across many made-up studies with seed and image effects, about 95 % of intervals hold the true mean."""
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(150):
        values = generator.normal(scale=0.7, size=(12, 1, 1)) + generator.normal(size=(12, 1, 25))
        found = stats.bootstrap(stats.mean, values, replicates=400)
        hits += found.low <= 0 <= found.high
    assert 0.85 <= hits / 150 <= 1.0
