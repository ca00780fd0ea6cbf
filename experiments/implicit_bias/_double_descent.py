"""The problems of `double_descent`, designs whose first columns are in use, and the statistics of its risks."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from scipy import stats

from research import data as problems
from research.labels import select, table

Data = Literal["gaussian", "digits"]
NOISE = 1.0
USUAL = 0.9  # learning rate, of gradient descent's threshold
VARIANCES, SHARES = (5.5, 0.5), (0.1, 0.9)  # of the spiked features, 1 on average


def problem(
    key: Array, active: Array, signal: float, spike: float, data: Data, samples: int, width: int
) -> tuple[Array, Array, Callable[[Array], Array]]:
    """X with zeros in all columns but the first `active`, y, and the risk of weights."""
    used = jnp.arange(width) < active
    if data == "digits":
        inputs_key, feature_key, key = jax.random.split(key, 3)
        images, labels = problems.digits()
        chosen = jax.random.permutation(inputs_key, len(images))[: samples + 200]
        features = problems.random_features(feature_key, jnp.asarray(images)[chosen], width, bandwidth=1.5)
        features = features * width**0.5 * used[None, :]
        odd = signal * jnp.asarray(problems.signed(labels, (1, 3, 5, 7, 9)))[chosen]
        noise = NOISE * jax.random.normal(key, (samples,))
        X, beyond = features[:samples], features[samples:]
        return X, odd[:samples] + noise, lambda w: jnp.mean((beyond @ w - odd[samples:]) ** 2)
    # One draw for the planted weights, the noise and the inputs, as each more costs time to compile.
    normal = jax.random.normal(key, (samples + 2, width))
    first = jnp.arange(width) < SHARES[0] * active
    variances = used * (1 + spike * (jnp.where(first, VARIANCES[0], VARIANCES[1]) - 1))
    X = normal[2:] * jnp.sqrt(variances)[None, :]
    planted = used * normal[0]
    planted = signal * planted / jnp.linalg.norm(planted)
    return X, X @ planted + NOISE * normal[1, :samples], lambda w: variances @ (w - planted) ** 2


def parts(dataset: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The runs at the usual rate with few draws, and those with many, in which sizes are compared."""
    runs, fewest = select(dataset, learning_rate=USUAL, acceleration=1.0), np.min(dataset.repeats.values)
    sizes = select(runs, data="gaussian", aspect_ratio=0.5, strength=0.0, spike=0.0)
    return select(runs, repeats=lambda count: count == fewest), select(sizes, repeats=lambda count: count > fewest)


def deviations(runs: xr.Dataset, predicted: xr.DataArray, error: xr.DataArray | None = None) -> np.ndarray:
    """The mean risk of each cell minus the prediction, in standard errors: the draws' own, unless they are given."""
    risk = runs.risk.sel(step=runs.steps)
    each, count = {"dim": ("seed", "draw"), "skipna": False}, risk.sizes["seed"] * risk.sizes["draw"]
    own = risk.std(**each, ddof=1) / count**0.5
    return ((risk.mean(**each) - predicted) / (own if error is None else error)).values.ravel()


def law_error(runs: xr.Dataset) -> xr.DataArray:
    """The standard error that theory gives to the mean risk of each cell, for Σ = I, p < n and no ridge.

    Given X the error of w is X⁺ε, so that the risk is σ² zᵀ (XᵀX)⁻¹ z with z ~ N(0, I) independent of X. In units of
    zᵀz that is a diagonal entry of (XᵀX)⁻¹ in rotated columns: one over what the other columns leave of one, which is
    χ² of n − p + 1 degrees whatever z is. So the risk is σ² p/(n − p + 1) F, F of p and n − p + 1 degrees of freedom.
    Its k-th moment is finite for k < (n − p + 1)/2: a variance where n − p + 1 > 4 (else NaN or infinite), at n = 10
    no third moment. The mean of 16,384 runs there is three errors out through a single one with probability 4 · 10⁻⁴.
    """
    features = np.rint(runs.aspect_ratio * runs.samples)
    degrees = runs.samples - features + 1
    spread = NOISE**2 * features / degrees * xr.apply_ufunc(stats.f.std, features, degrees)
    return spread / (runs.sizes["seed"] * runs.sizes["draw"] * runs.repeats) ** 0.5


def slope_score(runs: xr.Dataset) -> tuple[float, float]:
    """How far the slope of ln(mean risk − limit) on ln(n − p − 1) is from −1 in its standard errors, and one of them.

    As `law_error`, to first order in the errors of the means; the mean is over all seeds.
    """
    above = mean_risk(runs).mean("seed", skipna=False) - runs.limit
    x = np.log(spare(runs))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    error = float(((weights * law_error(runs) * spare(runs) / runs.limit) ** 2).sum() ** 0.5)
    slope = float((weights * np.log(above.where(above > 0))).sum(skipna=False))
    return (slope + 1) / error, error


def spare(runs: xr.Dataset) -> xr.DataArray:
    """|n − p| − 1: the exact risk for Σ = I exceeds its limit by the limit's variance over that."""
    return abs(1 - runs.aspect_ratio) * runs.samples - 1


def mean_risk(runs: xr.Dataset) -> xr.DataArray:
    """The risk at the end, of each run the mean over its draws."""
    return runs.risk.sel(step=runs.steps).mean("draw", skipna=False)


def risk_curve(runs: xr.Dataset, reduce: str) -> xr.DataArray:
    """The risk of each seed by aspect ratio, the mean or the median over its draws."""
    return table(runs.assign(curve=getattr(runs.risk.sel(step=runs.steps), reduce)("draw")), "curve", "aspect_ratio")
