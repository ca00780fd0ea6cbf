"""Gradient descent on the linearisation of a network with one hidden layer of tanh units, in closed form.

f(x) = Σ_j a_j·tanh(b_j·x)/√width, scaled to α·f, on the loss 1/(2n·α²)·Σ (α·f(x_i) - y_i)² (half, mean, over α²), as in
Chizat, Oyallon & Bach 2019 (arXiv 1812.07956, equation 3). With the Jacobian J of f at the initial weights the linear
model's outputs u = α·(f + J·Δw) obey u' = u - (rate/n)·K·(u - y), K = J·Jᵀ: α enters through the start α·f alone.
The network may be centred: a share `subtracted` of its outputs at the start is taken off for good.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RESIDUAL_BOUND = 1e-10


def tangent_kernel(
    X: Float[np.ndarray, "sample feature"],
    points: Float[np.ndarray, "point feature"],
    hidden: Float[np.ndarray, "unit feature"],
    readout: Float[np.ndarray, "unit"],
    width: float,
) -> Float[np.ndarray, "sample point"]:
    """Return J(X)·J(points)ᵀ, the inner products of the gradients of f in all its weights.

    ∂f/∂a_j = tanh(b_j·x)/√width and ∂f/∂b_j = a_j·(1 - tanh(b_j·x)²)·x/√width.
    Raises ValueError for shapes that do not agree, infinite entries and a width that is not positive.
    """
    X, points = inputs.array("X", X, 2), inputs.array("points", points, 2)
    hidden = inputs.array("hidden", hidden, 2)
    readout = inputs.vector("readout", readout, len(hidden), "hidden has rows")
    width = inputs.number("width", width, low=np.finfo(float).tiny)
    for name, rows in (("points", points), ("hidden", hidden)):
        if rows.shape[1] != X.shape[1]:
            raise ValueError(f"{name} has rows of {rows.shape[1]} entries; it takes {X.shape[1]}, as many as X")
    one, other = np.tanh(X @ hidden.T), np.tanh(points @ hidden.T)
    slopes = ((1 - one**2) * readout) @ ((1 - other**2) * readout).T
    return (one @ other.T + slopes * (X @ points.T)) / width


def linearized_outputs(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    points: Float[np.ndarray, "point feature"],
    hidden: Float[np.ndarray, "unit feature"],
    readout: Float[np.ndarray, "unit"],
    width: float,
    subtracted: float,
    scale: float,
    rate: float,
    at: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step point"]:
    """Return the outputs u at `points` of the network linearised at these weights, after `at` steps of descent.

    With the eigenvectors V of K/n and eigenvalues s, what the steps 0 … t - 1 add up to is
    u_t(x) = α·f(x) - K(x, X)/n · V·φ(s)·Vᵀ·(α·f(X) - y), φ(s) = (1 - (1 - rate·s)^t)/s, or rate·t for s = 0.

    Certificate: the eigen-decomposition, at most 1e-10 relative off the kernel and off orthogonality, else NaN.
    Raises ValueError as `tangent_kernel`, and for a negative scale, rate or step.
    """
    X, y = inputs.regression(X, y)
    scale, rate = inputs.number("scale", scale, low=0.0), inputs.number("rate", rate, low=0.0)
    scale_left = scale * (1 - inputs.number("subtracted", subtracted))
    steps = inputs.array("at", at, 1)
    if (steps < 0).any():
        raise ValueError(f"at is {steps}; it takes numbers of steps from 0 on")
    kernel, across = (tangent_kernel(each, X, hidden, readout, width) / len(X) for each in (X, points))
    start, first = (
        scale_left * np.tanh(np.asarray(each, float) @ np.asarray(hidden, float).T) @ readout / np.sqrt(width)
        for each in (X, points)
    )
    void = np.full((len(steps), len(points)), np.nan)
    if np.isnan([kernel.sum(), across.sum(), y.sum(), start.sum(), scale, rate, steps.sum()]).any():
        return void
    values, vectors = np.linalg.eigh(kernel)
    size = max(np.abs(values).max(), np.finfo(float).tiny)
    off = np.abs(vectors * values @ vectors.T - kernel).max() / size
    if max(off, np.abs(vectors.T @ vectors - np.eye(len(X))).max(), -values.min() / size) > RESIDUAL_BOUND:
        return void
    values = np.maximum(values, 0.0)
    with np.errstate(all="ignore"):
        left = (1 - rate * values[None, :]) ** steps[:, None]
        moved = np.where(values > 0, (1 - left) / values, rate * steps[:, None])
        # 1 - (1 - rate·s)^t cancels where rate·s·t is small; the series has no such loss
        stable = -np.expm1(steps[:, None] * np.log1p(-rate * values[None, :])) / values
        moved = np.where((rate * values < 0.5) & (values > 0), stable, moved)
        return first - (moved * (vectors.T @ (start - y))) @ (across @ vectors).T
