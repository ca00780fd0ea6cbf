"""Which positive semidefinite matrix with given measurements <A_i, X> = y_i has the least trace, or the least entropy.

Measurements are symmetric matrices, one each along the first dimension; the trace of a positive semidefinite matrix is
its nuclear norm. X = U Uᵀ, fitted by gradient flow from U = init_scale · I, is the setting of Gunasekar, Woodworth,
Bhojanapalli, Neyshabur & Srebro 2017, arXiv 1705.09280.
"""

import functools
import math
import warnings

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

GAP_BOUND = 1e-6
RESIDUAL_BOUND = 1e-9
RANK_BOUND = 1e-4


def minimum_trace(
    measurements: Float[np.ndarray, "measurement row column"], y: Float[np.ndarray, "measurement"]
) -> Float[np.ndarray, "row column"]:
    """Return the positive semidefinite matrix of least trace with <A_i, X> = y_i, by a semidefinite program (Clarabel).

    Where several share the least trace it is one of them. The certificate bounds the trace; of a unique solution whose
    dual slack is s, the part outside its range has a trace of at most gap/s.

    Certificate: `trace_gap` at most 1e-6, else NaN; NaN too where no such matrix exists.
    Raises ValueError for shapes that do not agree, matrices that are not symmetric and infinite entries.
    """
    A, y = inputs.measured(measurements, y)
    solution = _solved(A.tobytes(), y.tobytes(), A.shape)
    return np.full(A.shape[1:], np.nan) if solution is None else solution[0]


def least_slack(
    measurements: Float[np.ndarray, "measurement row column"], y: Float[np.ndarray, "measurement"]
) -> float:
    """Return the least eigenvalue of I − Σ ν_i A_i outside the range of the minimum-trace matrix, ν its multipliers.

    It lies between 0 and, where the dual is zero, 1. Commuting measurements: there every limit of gradient flow is
    init_scale² exp(Σ ν_i A_i), with multipliers that grow as ln(1/init_scale²) times these; so what is outside vanishes
    as init_scale^(2 · least slack). Where several multipliers prove the same solution these are a central choice. NaN
    where the solution has full rank (nothing is outside), else as `minimum_trace`.
    """
    A, y = inputs.measured(measurements, y)
    solution = _solved(A.tobytes(), y.tobytes(), A.shape)
    if solution is None:
        return math.nan
    matrix, dual = solution
    values, vectors = np.linalg.eigh(matrix)
    outside = vectors[:, values <= RANK_BOUND * values.sum()]
    if not outside.shape[1]:
        return math.nan
    slack = np.eye(len(matrix)) - np.einsum("i,ijk->jk", dual, A)
    return float(np.linalg.eigvalsh(outside.T @ slack @ outside)[0])


def trace_gap(
    measurements: Float[np.ndarray, "measurement row column"],
    y: Float[np.ndarray, "measurement"],
    matrix: Float[np.ndarray, "row column"],
    dual: Float[np.ndarray, "measurement"],
) -> float:
    """Return the largest of misfit, negative eigenvalue and distance of the trace from a lower bound, all relative.

    For every ν with Σ ν_i A_i <= I, ν·y is a lower bound on the trace; `dual` is scaled until it is such a ν.
    """
    if not (np.isfinite(matrix).all() and np.isfinite(dual).all()):
        return math.inf
    trace, size = np.trace(matrix), np.linalg.norm(y)
    misfit = np.linalg.norm(np.einsum("ijk,jk->i", measurements, matrix) - y)
    if trace <= 0 or size == 0:
        return 0.0 if misfit == 0 and not matrix.any() else math.inf
    largest = np.linalg.eigvalsh(np.einsum("i,ijk->jk", dual, measurements))[-1]
    bound = dual @ y / max(largest, 1.0)
    negative = max(-np.linalg.eigvalsh(matrix)[0], 0.0)
    return float(max(misfit / size, negative / trace, abs(trace - bound) / trace))


def flow_limit(
    measurements: Float[np.ndarray, "measurement row column"], y: Float[np.ndarray, "measurement"], init_scale: float
) -> Float[np.ndarray, "row column"]:
    """Return the limit of gradient flow on ||A(U Uᵀ) − y||² from U = init_scale · I, for commuting measurements.

    All that the flow passes is X = init_scale² exp(Σ ν_i A_i), since dU/dt = −(Σ r_i A_i) U up to a factor (Gunasekar
    et al. 2017); of these the one with <A_i, X> = y_i minimises the strictly convex
    tr X (ln X − ln init_scale² − 1), and tends to the least trace for init_scale → 0. By Newton's method on the dual,
    from init_scale = 1 down or up. NaN for measurements that do not commute, where neither holds.

    Certificate: misfit at most 1e-9 of ||y||, and off-diagonal entries in the common basis at most 1e-9, else NaN.
    Raises ValueError for an init_scale that is not positive, and as `minimum_trace`.
    """
    A, y = inputs.measured(measurements, y)
    init_scale = inputs.number("init_scale", init_scale, low=np.finfo(float).tiny)
    void = np.full(A.shape[1:], np.nan)
    if not (np.isfinite(A).all() and np.isfinite(y).all() and math.isfinite(init_scale)):
        return void
    # a generic combination has the common eigenvectors and no others
    _, basis = np.linalg.eigh(np.einsum("i,ijk->jk", np.cos(np.arange(1.0, len(A) + 1)), A))
    turned = np.einsum("aj,iab,bk->ijk", basis, A, basis)
    eigenvalues = np.einsum("ijj->ij", turned)
    if np.linalg.norm(turned - eigenvalues[:, :, None] * np.eye(len(basis))) > RESIDUAL_BOUND * np.linalg.norm(A):
        return void
    multipliers, decades = np.zeros(len(A)), max(1, math.ceil(2 * abs(math.log10(init_scale))))
    for logarithm in np.linspace(0.0, math.log(init_scale**2), decades + 1):
        multipliers = _newton(eigenvalues, y, logarithm, multipliers)
    values = np.exp(math.log(init_scale**2) + multipliers @ eigenvalues)
    matrix = (basis * values) @ basis.T
    misfit = np.linalg.norm(np.einsum("ijk,jk->i", A, matrix) - y)
    return matrix if misfit <= RESIDUAL_BOUND * np.linalg.norm(y) else void


def _newton(eigenvalues: np.ndarray, y: np.ndarray, logarithm: float, multipliers: np.ndarray) -> np.ndarray:
    """Minimise the convex Σ_j exp(logarithm + ν·a_j) − ν·y over ν, by damped steps."""
    value = lambda ν: np.exp(np.minimum(logarithm + ν @ eigenvalues, 700.0)).sum() - ν @ y
    for _ in range(200):
        masses = np.exp(logarithm + multipliers @ eigenvalues)
        gradient = eigenvalues @ masses - y
        if np.linalg.norm(gradient) <= 0.01 * RESIDUAL_BOUND * np.linalg.norm(y):
            break
        step = -np.linalg.lstsq((eigenvalues * masses) @ eigenvalues.T, gradient, rcond=1e-14)[0]
        longest = np.abs(step @ eigenvalues).max()
        if not 0 < longest < math.inf:  # the masses have vanished: no positive ones fit
            break
        step *= min(1.0, 2.0 / longest)  # no mass changes by more than a factor e²
        before, slope = value(multipliers), gradient @ step
        while value(multipliers + step) > before + 1e-4 * slope and np.abs(step).max() > 1e-15:
            step, slope = step / 2, slope / 2
        multipliers = multipliers + step
    return multipliers


@functools.lru_cache(maxsize=256)
def _solved(measurements: bytes, y: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the certified solution and its multipliers; kept, since more than one question is asked of it."""
    A, b = np.frombuffer(measurements).reshape(shape), np.frombuffer(y)
    if np.isnan(A).any() or np.isnan(b).any():
        return None
    solution = _semidefinite_program(A, b)
    if solution is None or not trace_gap(A, b, *solution) <= GAP_BOUND:
        return None
    return solution


def _semidefinite_program(A: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the matrix of least trace and the multipliers of its measurements, or None."""
    import cvxpy

    if not y.any():
        return np.zeros(A.shape[1:]), np.zeros(len(y))
    unit = np.abs(y).max()
    matrix = cvxpy.Variable(A.shape[1:], PSD=True)
    fit = A.reshape(len(A), -1) @ cvxpy.vec(matrix, order="C") == y / unit
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(matrix)), [fit])
    with warnings.catch_warnings():
        # "Solution may be inaccurate" is for the certificate to say.
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
        except cvxpy.SolverError:
            return None
    if matrix.value is None or fit.dual_value is None:
        return None
    values, vectors = np.linalg.eigh(matrix.value)
    dual = -np.asarray(fit.dual_value)  # the sign of a multiplier of an equation is the solver's convention
    return (vectors * np.maximum(values, 0.0) * unit) @ vectors.T, dual * np.sign(dual @ y)
