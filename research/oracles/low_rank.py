"""Which completion of a matrix has the least nuclear norm, and how many singular values a matrix effectively has."""

import warnings

import numpy as np
from jaxtyping import Bool, Float

from research.oracles import inputs

GAP_BOUND = 1e-6


def minimum_nuclear_norm(
    mask: Bool[np.ndarray, "row column"], values: Float[np.ndarray, "row column"]
) -> Float[np.ndarray, "row column"]:
    """Return a matrix that equals `values` where `mask` is true and has the least sum of singular values.

    By a semidefinite program (Clarabel). Entries of `values` off the mask are ignored and may be NaN; the observed ones
    are met exactly. The certificate bounds the norm; the position follows to about the square root of it where the
    completion is unique, and not at all where several share the least norm (rows or columns seen too rarely): the
    result is then one from the middle of them, and only norms should be compared. Gradient descent on a
    factorisation from a small start was conjectured to find it (Gunasekar et al. 2017, arXiv 1705.09280).

    Certificate: `duality_gap` at most 1e-6, else NaN.
    Raises ValueError for shapes that do not agree, a mask of other values than 0 and 1, and infinite observed entries.
    """
    observed = inputs.array("mask", mask, 2)
    if not np.isin(observed, (0.0, 1.0)).all():
        raise ValueError("mask has entries other than 0 and 1; it takes a matrix of booleans")
    observed = observed.astype(bool)
    shape = np.shape(values)
    if shape != observed.shape:
        raise ValueError(f"values has shape {shape}; it takes that of mask, {observed.shape}")
    known = inputs.array("values", np.where(observed, values, 0.0), 2)
    void = np.full(shape, np.nan)
    if np.isnan(known).any():
        return void
    if observed.all() or not known.any():
        return known
    unit = np.abs(known).max()
    matrix, dual = _semidefinite_program(observed, known / unit)
    matrix = np.where(observed, known, matrix * unit)
    return matrix if duality_gap(observed, known, matrix, dual) <= GAP_BOUND else void


def duality_gap(
    mask: Bool[np.ndarray, "row column"],
    values: Float[np.ndarray, "row column"],
    matrix: Float[np.ndarray, "row column"],
    dual: Float[np.ndarray, "row column"],
) -> float:
    """Return the larger of the misfit on the mask and the distance of the nuclear norm from a lower bound, relative.

    For every Y that is zero off the mask, <Y, values> / ||Y|| in the spectral norm is a lower bound on the nuclear norm
    of every completion; what `dual` has off the mask is dropped.
    """
    supported = np.where(mask, dual, 0.0)
    if not (np.isfinite(matrix).all() and np.isfinite(supported).all()):
        return float("inf")
    known = np.where(mask, values, 0.0)
    norm, spectral = np.linalg.norm(matrix, "nuc"), np.linalg.norm(supported, 2)
    misfit = np.linalg.norm(np.where(mask, matrix, 0.0) - known)
    if norm == 0:
        return 0.0 if misfit == 0 else float("inf")
    bound = (supported * known).sum() / spectral if spectral > 0 else 0.0
    return float(np.maximum(misfit, abs(norm - bound)) / norm)


def effective_rank(matrix: Float[np.ndarray, "row column"]) -> float:
    """Return exp of the entropy of the singular values over their sum, between 1 and the rank (Roy & Vetterli 2007).

    NaN for the zero matrix and for entries that are not finite. Raises ValueError for anything but a matrix.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    matrix = inputs.array("matrix", np.where(np.isfinite(matrix), matrix, np.nan), 2)
    if np.isnan(matrix).any() or not matrix.any():
        return float("nan")
    singular = np.linalg.svd(matrix / np.abs(matrix).max(), compute_uv=False)
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _semidefinite_program(observed: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the completion of least nuclear norm and the multipliers of the observed entries, or NaN."""
    import cvxpy

    completion = cvxpy.Variable(known.shape)
    row, column = np.nonzero(observed)
    fit = completion[row, column] == known[row, column]
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(completion)), [fit])
    nothing = np.full(known.shape, np.nan)
    with warnings.catch_warnings():
        # "Solution may be inaccurate" is for the certificate to say.
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
        except cvxpy.SolverError:
            return nothing, nothing
    if completion.value is None or fit.dual_value is None:
        return nothing, nothing
    dual = np.zeros(known.shape)
    # The sign of a multiplier of an equation is the solver's convention.
    dual[row, column] = -fit.dual_value
    return np.asarray(completion.value), dual * np.sign((dual * known).sum())
