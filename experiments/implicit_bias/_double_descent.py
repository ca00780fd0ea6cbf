"""The problems of `double_descent`, designs whose first columns are in use, and the statistics of its risks."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array

from research import data as problems
from research.labels import table

Data = Literal["gaussian", "digits"]
NOISE = 1.0
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


def deviations(runs: xr.Dataset, predicted: xr.DataArray) -> np.ndarray:
    """The mean risk of each cell minus the prediction, in standard errors over all draws of all seeds."""
    risk = runs.risk.sel(step=runs.steps)
    each, count = {"dim": ("seed", "draw"), "skipna": False}, risk.sizes["seed"] * risk.sizes["draw"]
    return ((risk.mean(**each) - predicted) / risk.std(**each, ddof=1) * count**0.5).values.ravel()


def spare(runs: xr.Dataset) -> xr.DataArray:
    """|n − p| − 1: the exact risk for Σ = I exceeds its limit by the limit's variance over that."""
    return abs(1 - runs.aspect_ratio) * runs.samples - 1


def mean_risk(runs: xr.Dataset) -> xr.DataArray:
    """The risk at the end, of each run the mean over its draws."""
    return runs.risk.sel(step=runs.steps).mean("draw", skipna=False)


def risk_curve(runs: xr.Dataset, reduce: str) -> xr.DataArray:
    """The risk of each seed by aspect ratio, the mean or the median over its draws."""
    return table(runs.assign(curve=getattr(runs.risk.sel(step=runs.steps), reduce)("draw")), "curve", "aspect_ratio")
