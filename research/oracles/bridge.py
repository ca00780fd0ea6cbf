"""What linear convolutional networks maximise: margins in bridge norms ‖ŵ‖_{2/L} of the Fourier coefficients.

ŵ = Fw throughout, F the unitary discrete Fourier transform. The network of depth L is x ↦ x·(w_1 ∗ … ∗ w_L), circular
convolutions divided by √d each, so that ŵ is the product of the layers' coefficients. Labels are ±1, z_i = y_i x_i.
"""

import warnings

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.margin_stationarity import stationarity_residual

GAP_BOUND = 1e-7


def maximum_fourier_margin(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "feature"]:
    """Return argmin ‖ŵ‖₁ = Σ |ŵ_k| subject to z_i·w >= 1 for every sample, by a second-order cone program (Clarabel).

    The direction that linear convolutional networks of depth 2 and full width turn to (Gunasekar, Lee, Soudry & Srebro
    2018, arXiv 1806.00468); unique for data in general position.

    Certificate: relative `fourier_gap` at most 1e-7, else NaN. NaN too for data that no direction separates.
    Raises ValueError for labels other than −1 and 1, shapes that do not agree and infinite entries.
    """
    return _solve(X, y)[0]


def growth_exponents(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]
) -> Float[np.ndarray, "frequency"]:
    """Return lim d ln|ŵ_k| / d ln‖w‖ at depth 2, for the frequencies 0 to d/2 that the limit lacks; NaN for the others.

    In the flow balanced layers, |ŵ_1k|² = |ŵ_2k|² = |ŵ_k|, take ŵ_k along ẑ_k, z = Σ p_i z_i, p the shares of the
    samples in the loss, by d|ŵ_k| = 2 |ŵ_k ẑ_k| dτ: each coefficient grows exponentially, at the pace |ẑ_k|. In the end
    those on the support must keep pace with each other, so that p becomes proportional to the multipliers, |ẑ_k| = 1
    there, and all others fall behind as ‖w‖ to the power |ẑ_k| − 1.

    Certificate and errors as for `maximum_fourier_margin`; NaN too where |ẑ_k| is 1 to four digits.
    """
    weights, multipliers = _solve(X, y)
    Z = np.asarray(X, dtype=np.float64) * np.asarray(y, dtype=np.float64)[:, None]
    pace, size = np.abs(np.fft.rfft(multipliers @ Z, norm="ortho")), np.abs(np.fft.rfft(weights, norm="ortho"))
    return np.where((size < 1e-4 * size.max()) & (pace < 1 - 1e-4), pace, np.nan)


def bridge_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    depth: float,
    fourier: bool,
) -> float:
    """Return how far the direction of w is from a stationary point of the bridge penalty: min ‖ŵ‖_{2/L}, z_i·w >= 1.

    The `stationarity_residual` of the balanced layers |ŵ_k|^{1/L} e^{iφ_k}, which asks for ŵ_k/|ŵ_k|^{2−2/L} = ẑ_k,
    z = Σ α_i z_i, where ŵ_k is not zero and for nothing where it is: for L = 1 the maximum l2 margin alone, for L > 2 a
    first-order condition, since the penalty is not convex. `fourier` False judges w itself in place of ŵ.
    Raises ValueError as `stationarity_residual` does, and for a depth below 1.
    """
    X, y = inputs.classification(X, y)
    weights = inputs.vector("weights", weights, X.shape[1], "X has columns")
    depth = inputs.number("depth", depth, low=1.0)
    if not all(np.isfinite(each).all() for each in (X, y, weights)) or np.isnan(depth) or not weights.any():
        return float("nan")
    Z, weights = X * y[:, None], weights / np.abs(weights).max()
    spectrum = (lambda v: np.fft.fft(v, norm="ortho")) if fourier else (lambda v: v.astype(complex))
    coefficients = spectrum(weights)
    size = np.abs(coefficients)
    phase = coefficients / np.where(size > 0, size, 1)
    real = lambda v: np.concatenate([v.real, v.imag], axis=-1) * depth**0.5  # as many layers, all equal
    return stationarity_residual(
        real(size ** (1 / depth) * phase), real(spectrum(Z) * size ** (1 - 1 / depth)), Z @ weights, depth
    )


def convolution_residual(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    layers: Float[np.ndarray, "layer feature"],
    kernel_width: float,
) -> float:
    """Return the `stationarity_residual` of a convolutional network whose layers but the last end at `kernel_width`.

    Raises ValueError as `stationarity_residual` does, and for a kernel width below 1.
    """
    X, y = inputs.classification(X, y)
    layers = inputs.array("layers", layers, 2)
    kernel_width = inputs.number("kernel_width", kernel_width, low=1.0)
    if layers.shape[1] != X.shape[1]:
        raise ValueError(f"layers has {layers.shape[1]} columns; it takes {X.shape[1]}, as many as X")
    if not all(np.isfinite(each).all() for each in (X, y, layers)) or np.isnan(kernel_width) or not layers.any():
        return float("nan")
    Z, depth = X * y[:, None], len(layers)
    coefficients = np.fft.fft(layers / np.abs(layers).max(), norm="ortho")
    jacobian = []
    for layer in range(depth):
        others = np.delete(coefficients, layer, axis=0).prod(axis=0)
        gradient = np.fft.ifft(np.fft.fft(Z, norm="ortho") * others.conj(), norm="ortho").real
        jacobian.append(np.where((np.arange(X.shape[1]) < kernel_width) | (layer == depth - 1), gradient, 0.0))
    product = np.fft.ifft(coefficients.prod(axis=0), norm="ortho").real
    flat = (layers / np.abs(layers).max()).ravel()
    return stationarity_residual(flat, np.concatenate(jacobian, axis=1), Z @ product, depth)


def fourier_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature"],
    multipliers: Float[np.ndarray, "sample"],
) -> float:
    """Return the relative gap between the margin of `weights` and the least upper bound that multipliers α >= 0 prove.

    No weights have a margin over ‖ŵ‖₁ above max_k |ẑ_k| / Σ α_i, z = Σ α_i z_i. Infinite for a negative multiplier.
    """
    if not multipliers.min() >= 0 or not multipliers.sum() > 0:
        return float("inf")
    Z = X * y[:, None]
    bound = np.abs(np.fft.fft(multipliers @ Z, norm="ortho")).max() / multipliers.sum()
    return float(abs(bound - (Z @ weights).min() / np.abs(np.fft.fft(weights, norm="ortho")).sum()) / bound)


def _solve(X: object, y: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the certified weights and multipliers, or NaN for both."""
    import cvxpy

    X, y = inputs.classification(X, y)
    void = np.full(X.shape[1], np.nan), np.full(len(X), np.nan)
    if np.isnan(X).any() or np.isnan(y).any() or not X.any():
        return void
    unit = np.linalg.norm(X, axis=1).max()
    Z, features = X * y[:, None] / unit, X.shape[1]
    half = np.fft.rfft(np.eye(features), norm="ortho").T
    copies = np.full(len(half), 2.0)  # each frequency with its conjugate, but the first, and the last of an even number
    copies[0], copies[-1] = 1.0, 1.0 if features % 2 == 0 else 2.0
    weights = cvxpy.Variable(features)
    apart = Z @ weights >= 1
    sizes = cvxpy.norm(cvxpy.vstack([half.real @ weights, half.imag @ weights]), 2, axis=0)
    program = cvxpy.Problem(cvxpy.Minimize(copies @ sizes), [apart])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inaccuracy: the duality gap decides
        try:
            program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        except cvxpy.SolverError:
            return void
    if weights.value is None or apart.dual_value is None:
        return void
    found, multipliers = weights.value, np.asarray(apart.dual_value).clip(0)
    if not (Z @ found).min() > 0 or not multipliers.any():
        return void
    found = found / (Z @ found).min()
    multipliers = multipliers / np.abs(np.fft.fft(multipliers @ Z, norm="ortho")).max()
    certified = fourier_gap(Z, np.ones(len(Z)), found, multipliers) <= GAP_BOUND
    return (found / unit, multipliers / unit) if certified else void
