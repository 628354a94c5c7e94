"""Intervals and tests of the protocol (SciPy where it has them).

Wilson 1927 for rates; a percentile bootstrap over images nested in seeds (and draws of a random choice nested in seeds)
for means, medians and paired differences (Davison & Hinkley 1997, ch. 3.8: resample whole clusters, then inside them);
McNemar 1947, exact, for paired yes/no answers; Holm 1979 for several comparisons at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
REPLICATES = 10_000
_CHUNK = 2_000_000  # elements resampled at a time: about 50 MB


@dataclass(frozen=True)
class Estimate:
    """A figure with its two-sided interval; `n` observations stand behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, trials: int, level: float = LEVEL) -> Estimate:
    """Share of successes with Wilson's score interval. Raises ValueError without trials."""
    if trials < 1:
        raise ValueError("a rate needs at least one trial")
    interval = _binomial(successes, trials).proportion_ci(level, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high), trials)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *samples: np.ndarray,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of a statistic of one sample, or of two paired ones.

    samples: (S, D, N) values of S training seeds, D draws, N images; S and N agree between samples, D may differ. Each
    replicate draws seeds with replacement, in each of them draws (for every sample on its own) and images (the same for
    all samples: that is the pairing), with replacement. statistic: maps arrays (R, S, D, N), one per sample, to (R,).
    """
    seeds, _, images = samples[0].shape
    if any((a.shape[0], a.shape[2]) != (seeds, images) for a in samples) or samples[0].size == 0:
        raise ValueError(f"paired samples of shapes {[a.shape for a in samples]}; seeds and images must agree")
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // sum(a.size for a in samples))
    values = []
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        chosen = generator.integers(seeds, size=(count, seeds, 1, 1))
        image = generator.integers(images, size=(count, seeds, 1, images))
        drawn = []
        for a in samples:
            draw = generator.integers(a.shape[1], size=(count, seeds, a.shape[1], 1))
            drawn.append(a.ravel().take((chosen * a.shape[1] + draw) * images + image))  # a[chosen, draw, image]
        values.append(statistic(*drawn))
    found = np.concatenate(values)
    tail = 50 * (1 - level)
    low, high = np.percentile(found, [tail, 100 - tail])
    value = float(statistic(*(a[None] for a in samples))[0])
    return Estimate(value, float(low), float(high), seeds * images)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean of each replicate."""
    return values.mean(axis=(1, 2, 3))


def median(values: np.ndarray) -> np.ndarray:
    """Median of each replicate."""
    return np.median(values.reshape(len(values), -1), axis=1)


def difference_of_means(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """mean(a) - mean(b)."""
    return mean(a) - mean(b)


def ratio_of_medians(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """median(a) / median(b); times are compared by how many times longer, not by seconds."""
    return median(a) / _positive(median(b))


def ratio_of_means(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """mean(a) / mean(b)."""
    return mean(a) / _positive(mean(b))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 1e-9)  # a nanosecond, a billionth of an image: below what is measured


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that a and b succeed equally often, from the pairs in which just one of them did."""
    return 1.0 if only_a + only_b == 0 else float(_binomial(only_a, only_a + only_b).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: reject those at or below the level and the family's error stays there.

    SciPy has false discovery rates only, so this is Holm's rule itself: the k-th smallest of m values times m - k + 1,
    made non-decreasing and cut at 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = running
    return adjusted


def _binomial(hits: int, trials: int) -> Any:
    from scipy.stats import binomtest  # half a second that only tables with rates pay

    return binomtest(hits, trials)
