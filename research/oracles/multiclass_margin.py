"""Which matrix multiclass classification picks: the maximum margin in the spectral, the Frobenius and the max norm.

Scores are x·W, one column an output, no bias. Labels are 0, 1, …; the margin of W is min over samples i and outputs
c ≠ y_i of x_i·(W_{y_i} - W_c), over ||W||.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from research.oracles import inputs
from research.oracles.margin import maximum_margin

Norm = Literal["spectral", "frobenius", "max"]
GAP_BOUND = 1e-6
ORDERS = {"frobenius": 2.0, "max": np.inf}


def maximum_multiclass_margin(
    X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], norm: Norm, outputs: int
) -> Float[np.ndarray, "feature output"]:
    """Return argmin ||W|| subject to x_i·(W_{y_i} - W_c) >= 1 for every sample i and every output c ≠ y_i.

    The margin of the result is the largest there is, 1/||W||. Frobenius and max norm are those of `maximum_margin` for
    the pairs (i, c), with orders 2 and infinity; the spectral norm is a semidefinite program (Clarabel). Normalised
    steepest descent in the norm goes there (Fan, Schmidt & Thrampoulidis 2025, arXiv 2502.04664). The largest margin is
    unique; W is not always.

    Certificate: `duality_gap` at most 1e-6 (that of `maximum_margin` for the others), else NaN; NaN where no W has a
    positive margin. Raises ValueError for another norm, labels that are not 0 to outputs - 1, fewer than two outputs,
    shapes that do not agree and infinite entries.
    """
    if norm not in ("spectral", "frobenius", "max"):
        raise ValueError(f"norm is {norm!r}; it takes 'spectral', 'frobenius' or 'max'")
    samples, labels = _classification(X, y, outputs)
    void = np.full((samples.shape[1], outputs), np.nan)
    if np.isnan(samples).any() or np.isnan(labels).any() or not samples.any():
        return void
    pairs = _pairs(samples, labels, outputs)
    if norm in ORDERS:
        return maximum_margin(pairs.reshape(len(pairs), -1), np.ones(len(pairs)), ORDERS[norm]).reshape(void.shape)
    unit = np.linalg.norm(samples, axis=1).max()
    weights, multipliers = _semidefinite(pairs / unit, void.shape)
    least = np.einsum("pfo,fo->p", pairs, weights).min()
    if not least > 1e-9 * unit * np.linalg.norm(weights, 2):
        return void
    weights = weights / least
    return weights if duality_gap(samples, labels, weights, multipliers, outputs) <= GAP_BOUND else void


def multiclass_margin(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature output"],
    norm: Norm,
) -> float:
    """Return min over i and c ≠ y_i of x_i·(W_{y_i} - W_c), over ||W||; NaN for weights zero or not finite.

    Raises ValueError as `maximum_multiclass_margin` does.
    """
    weights = np.asarray(weights, dtype=np.float64)
    samples, labels = _classification(X, y, weights.shape[1])
    if np.isnan(samples).any() or np.isnan(labels).any() or not np.isfinite(weights).all() or not weights.any():
        return float("nan")
    scores = samples @ weights
    own = scores[np.arange(len(labels)), labels.astype(int)]
    scores[np.arange(len(labels)), labels.astype(int)] = -np.inf
    values = np.linalg.svd(weights, compute_uv=False)
    size = {"spectral": values.max(), "frobenius": np.linalg.norm(values), "max": np.abs(weights).max()}[norm]
    return float((own - scores.max(axis=1)).min() / size)


def duality_gap(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample"],
    weights: Float[np.ndarray, "feature output"],
    multipliers: Float[np.ndarray, "pair"],
    outputs: int,
) -> float:
    """Return the relative gap between the spectral-norm margin of `weights` and the bound that multipliers prove.

    No W has a margin above ||Σ α_p·Z_p||_* / Σ α_p in the nuclear norm, Z_p = x_i (e_{y_i} - e_c)ᵀ, α >= 0. Infinite
    for a negative multiplier.
    """
    if multipliers.min() < 0 or not multipliers.sum() > 0:
        return float("inf")
    pairs = _pairs(X, y, outputs)
    bound = np.linalg.norm(np.einsum("p,pfo->fo", multipliers, pairs), "nuc") / multipliers.sum()
    reached = np.einsum("pfo,fo->p", pairs, weights).min() / np.linalg.norm(weights, 2)
    return float(abs(bound - reached) / bound) if bound > 0 else float("inf")


def _classification(X: object, y: object, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples and labels, checked."""
    if isinstance(outputs, bool) or not isinstance(outputs, (int, np.integer)) or outputs < 2:
        raise ValueError(f"outputs is {outputs!r}; it takes a whole number from 2 on")
    samples, labels = inputs.regression(X, y)
    known = labels[~np.isnan(labels)]
    strangers = known[(known != np.rint(known)) | (known < 0) | (known >= outputs)]
    if len(strangers):
        raise ValueError(f"y has the label {strangers[0]:g}; it takes labels 0 to {outputs - 1}")
    return samples, labels


def _pairs(X: np.ndarray, y: np.ndarray, outputs: int) -> np.ndarray:
    """Return Z_p = x_i (e_{y_i} - e_c)ᵀ for every sample i and output c ≠ y_i, sample by sample."""
    own = np.eye(outputs)[y.astype(int)]
    contrasts = own[:, None, :] - np.eye(outputs)[None, :, :]
    wrong = y.astype(int)[:, None] != np.arange(outputs)[None, :]
    return np.einsum("sf,sco->scfo", X, contrasts)[wrong]


def _semidefinite(pairs: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the W of spectral norm at most one with the largest margin, and the multipliers of the pairs."""
    import warnings

    import cvxpy

    weights, margin = cvxpy.Variable(shape), cvxpy.Variable()
    rows = pairs.transpose(0, 2, 1).reshape(len(pairs), -1)
    above = rows @ cvxpy.vec(weights, order="F") >= margin
    program = cvxpy.Problem(cvxpy.Maximize(margin), [above, cvxpy.sigma_max(weights) <= 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inaccuracy: the duality gap decides
        try:
            program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        except cvxpy.SolverError:
            return np.zeros(shape), np.zeros(len(pairs))
    if weights.value is None:
        return np.zeros(shape), np.zeros(len(pairs))
    return weights.value, np.asarray(above.dual_value).clip(0)
