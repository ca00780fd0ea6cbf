"""Intervals over seeds: thin over scipy.stats.

Seeds are the unit of replication. A value that is not finite makes the answer NaN: a diverged run is excluded by name
before a statistic is asked for, or it voids the finding; it is never averaged in.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    interval: tuple[float, float]


NOTHING = Estimate(float("nan"), (float("nan"), float("nan")))


def over_seeds(values: Any, statistic: Callable[..., Any] = np.mean) -> Estimate:
    """`statistic` of one number a seed, with its BCa bootstrap interval (Efron 1987; 9999 resamples, fixed seed).

    NaN for fewer than two values or any that is not finite; where all are equal, the interval is that point, and where
    BCa is undefined (a statistic that hardly varies), it is the percentile interval.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if sample.size < 2 or not np.isfinite(sample).all():
        return NOTHING
    value = float(statistic(sample))
    if np.ptp(sample) <= 1e-14 * np.abs(sample).max():
        return Estimate(value, (value, value))
    vectorized = statistic in (np.mean, np.median)  # of all resamples at once, which takes a twentieth of the time
    for method in ("BCa", "percentile"):  # the first is undefined for a statistic that resampling hardly moves
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            answer = stats.bootstrap(
                (sample,), statistic, vectorized=vectorized, method=method, rng=np.random.default_rng(0)
            ).confidence_interval
        if np.isfinite(answer).all():
            break
    return Estimate(value, (float(answer.low), float(answer.high)))


def every_seed(values: Any) -> Estimate:
    """The median of one number a seed, with the range over all seeds: for a theorem that spares no seed.

    The range of n seeds covers the median with probability 1 − 2 · 2⁻ⁿ: more than 95 % from six seeds on. Several
    numbers a seed (its least and largest run) are rows, seeds last. NaN for fewer than two seeds and for any number
    that is not finite.
    """
    sample = np.asarray(values, dtype=float)
    if not sample.ndim or sample.shape[-1] < 2 or not np.isfinite(sample).all():
        return NOTHING
    return Estimate(float(np.median(sample)), (float(sample.min()), float(sample.max())))


def median(values: Any) -> Estimate:
    """The median of one number a seed, with the exact interval between two of them (order statistics).

    The k-th least and the k-th largest of n, k as large as 95 % allow: a bootstrapped median of few seeds promises more
    than it keeps. That is all of them up to eight seeds, and too few below six: see `every_seed` and `few`.
    """
    sample = np.sort(np.asarray(values, dtype=float).ravel())
    if sample.size < 2 or not np.isfinite(sample).all():
        return NOTHING
    outside = max(int(stats.binom.ppf(0.025, sample.size, 0.5)) - 1, 0)  # P(Binomial(n, 1/2) <= outside) <= 2.5 %
    return Estimate(float(np.median(sample)), (float(sample[outside]), float(sample[-1 - outside])))


def few(seeds: int) -> str:
    """What a statement says of an interval from fewer than six seeds: that it is their range, short of 95 %."""
    return f" (the range of {seeds} seeds)" if seeds < 6 else ""


def share(hits: Any) -> Estimate:
    """The share of true values among independent ones, with the exact binomial interval (Clopper & Pearson 1934)."""
    numbers = np.asarray(hits, dtype=float).ravel()
    if not numbers.size or np.isnan(numbers).any():  # to NumPy a NaN is true
        return NOTHING
    sample = numbers.astype(bool)
    answer = stats.binomtest(int(sample.sum()), sample.size).proportion_ci(0.95, method="exact")
    return Estimate(float(sample.mean()), (float(answer.low), float(answer.high)))


def largest_score(scores: Any, degrees: int | float = np.inf) -> tuple[Estimate, float]:
    """The largest |score| of several means, and what all of them stay below with probability 95 % (Bonferroni).

    A score is (mean − theory) / its standard error: of Student's law with so many degrees of freedom, by default the
    normal one. NaN where there is none, or one of them is NaN.
    """
    sizes = np.abs(np.asarray(scores, dtype=float)).ravel()
    worst = float(sizes.max()) if sizes.size else float("nan")
    return Estimate(worst, (worst, worst)), float(stats.t.ppf(1 - 0.025 / max(sizes.size, 1), degrees))


def slope(x: Any, y: Any) -> np.ndarray:
    """The least-squares slope of y on x along the last axis; NaN where a pair is not finite."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    with np.errstate(invalid="ignore"):
        x = x - x.mean(axis=-1, keepdims=True)
        return np.asarray((x * (y - y.mean(axis=-1, keepdims=True))).sum(axis=-1) / (x**2).sum(axis=-1))


def slope_within(x: Any, y: Any, window: xr.DataArray, along: str = "step") -> xr.DataArray:
    """The least-squares slope of y on x over the places of a dimension that lie in the window and are not NaN."""
    x, y = xr.broadcast(x, y.where(window))
    x = x.where(y.notnull()) - x.where(y.notnull()).mean(along)
    return (x * y).sum(along, min_count=2) / (x**2).sum(along, min_count=2)


def crossing(x: Any, y: Any, level: float) -> float:
    """Where y first rises through `level` along x, by linear interpolation; NaN where it never does."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    (before,) = np.nonzero((y[:-1] < level) & (y[1:] >= level))
    return float(np.interp(level, y[before[0] :][:2], x[before[0] :][:2])) if before.size else float("nan")


def rank_correlation(x: Any, y: Any) -> np.ndarray:
    """Spearman's correlation along the last axis, of mean ranks where there are ties; NaN where one does not vary."""
    x, y = (stats.rankdata(each, axis=-1, nan_policy="propagate") for each in np.broadcast_arrays(x, y))
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))
