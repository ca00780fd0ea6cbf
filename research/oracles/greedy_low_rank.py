"""Greedy low-rank learning: where gradient flow on X = U Uᵀ goes from an infinitesimal start, without any start.

The loss is f(X)/2 with f(X) = ½ Σ (<A_i, X> − y_i)², so that dU/dt = −∇f(X) U. Phase r adds to the stationary point X_r
of rank r the top eigenvector of −∇f(X_r), infinitesimally, and follows the flow of that rank to the next stationary
point; it ends where −∇f has no positive eigenvalue. Li, Luo & Lyu 2021, arXiv 2012.09839, Algorithm 1.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

START = 1e-6  # of a new direction's length, relative to √λ: the flow's later path depends on it to this order
STATIONARY = 1e-9
POSITIVE = 1e-7
TIED = 1e-6
LOWER = 1e-3  # of the longest column, where another one counts as none: Newton's method halves those that vanish


class GreedyRates(NamedTuple):
    """How the flow from U = init_scale · I follows the algorithm as init_scale → 0, phase by phase, padded with NaN.

    `escape_time`: the slope of the time at which the r-th direction escapes on ln(1/init_scale). `level`: the
    eigenvalues of X between the escapes, from the first phase on. `exponent`: the power of init_scale as which what
    lies beyond the last phase's rank vanishes. `rank`: the number of phases.
    """

    escape_time: Float[np.ndarray, "phase"]
    level: Float[np.ndarray, "phase mode"]
    exponent: Float[np.ndarray, ""]
    rank: Float[np.ndarray, ""]


def greedy_low_rank(
    measurements: Float[np.ndarray, "measurement row column"], y: Float[np.ndarray, "measurement"]
) -> Float[np.ndarray, "row column"]:
    """Return the matrix at which the algorithm ends.

    The flow of each phase is integrated (LSODA) until it stands nearly still, and the point then refined by
    Newton's method.

    Certificate: in every phase the gradient at most 1e-9 of its scale, the refinement within 1e-3, the top eigenvalue
    simple to 1e-6, and at the end no eigenvalue of −∇f above 1e-7 of the first one, else NaN.
    Raises ValueError for shapes that do not agree, matrices that are not symmetric and infinite entries.
    """
    A, y = inputs.measured(measurements, y)
    phases = _phases(A.tobytes(), y.tobytes(), A.shape)
    return np.full(A.shape[1:], np.nan) if phases is None else phases[-1][0].copy()


def greedy_rates(
    measurements: Float[np.ndarray, "measurement row column"],
    y: Float[np.ndarray, "measurement"],
    learning_rate: float = 0.0,
) -> GreedyRates:
    """Return how gradient descent of that learning rate from init_scale · I follows the algorithm; 0 is the flow.

    To leading order in ln(1/init_scale), derived from the spectra of the algorithm's own stationary points: let the
    eigenvalues of X be init_scale^L_k, all L_k = 2 at the start. Near X_r those outside its range grow as
    exp(2 g_k t), g_k the eigenvalues μ_k of −∇f(X_r) there (descent: ln(1 + η μ_k)/η), the k-th largest with the k-th
    largest rate, since a volume of k directions grows with the sum of the k largest. The first reaches order one after
    τ ln(1/init_scale), τ = L_1/(2 g_1), and every other L_k has then lost 2 g_k τ; what it does in the meantime is of
    order one. The `exponent` is the least L_k that is left at the end, where nothing grows any more.

    Certificate and errors as `greedy_low_rank`; NaN too where a phase ends at a matrix of lower rank than its own, of
    which this says nothing; ValueError for a negative learning rate.
    """
    A, y = inputs.measured(measurements, y)
    learning_rate = inputs.number("learning_rate", learning_rate, low=0.0)
    size = A.shape[1]
    times, levels = np.full(size, np.nan), np.full((size, size), np.nan)
    phases = _phases(A.tobytes(), y.tobytes(), A.shape) or []
    ordered = all(len(spectrum) == size - phase for phase, (_, spectrum) in enumerate(phases))
    if not (phases and ordered) or math.isnan(learning_rate):
        return GreedyRates(times, levels, np.array(math.nan), np.array(math.nan))
    powers, passed = np.full(size, 2.0), 0.0
    for phase, (_, spectrum) in enumerate(phases[:-1]):
        rates = np.log1p(learning_rate * spectrum) / learning_rate if learning_rate else spectrum
        lasted = powers[0] / (2 * rates[0])
        passed += lasted
        powers = (powers - 2 * rates * lasted)[1:]
        times[phase] = passed
        levels[phase] = np.linalg.eigvalsh(phases[phase + 1][0])[::-1]
    exponent = powers.min() if len(powers) else math.nan
    return GreedyRates(times, levels, np.array(exponent), np.array(float(len(phases) - 1)))


def stationarity(A: np.ndarray, y: np.ndarray, factor: np.ndarray) -> float:
    """Return the norm of ∇f(U Uᵀ) U relative to that of ∇f(0) and U."""
    gradient = _gradient(A, y, factor)
    return float(
        np.linalg.norm(gradient @ factor) / np.linalg.norm(_gradient(A, y, 0 * factor)) / np.linalg.norm(factor)
    )


def _misfit(A: np.ndarray, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.asarray(A.reshape(len(A), -1) @ (factor @ factor.T).ravel() - y)


def _gradient(A: np.ndarray, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.asarray((_misfit(A, y, factor) @ A.reshape(len(A), -1)).reshape(A.shape[1:]))


@functools.lru_cache(maxsize=256)
def _phases(
    measurements: bytes, targets: bytes, shape: tuple[int, int, int]
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Return the stationary point X_r and the spectrum of −∇f(X_r) outside its range for every r, or None."""
    A, y, size = np.frombuffer(measurements).reshape(shape), np.frombuffer(targets), shape[1]
    if not (np.isfinite(A).all() and np.isfinite(y).all()):
        return None
    factor = np.zeros((size, 0))
    phases: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(2 * size):
        rank = factor.shape[1]
        outside = np.linalg.svd(factor, full_matrices=True)[0][:, rank:] if rank else np.eye(size)
        values, vectors = np.linalg.eigh(-outside.T @ _gradient(A, y, factor) @ outside)
        spectrum = values[::-1]
        phases.append((factor @ factor.T, spectrum))
        first = phases[0][1][0]
        if rank == size or spectrum[0] <= POSITIVE * max(first, 0.0) or first <= 0:
            return phases
        if len(spectrum) > 1 and spectrum[0] - spectrum[1] <= TIED * spectrum[0]:
            return None
        added = START * math.sqrt(spectrum[0]) * outside @ vectors[:, -1:]
        refined = _descended(A, y, np.concatenate([factor, added], axis=1), spectrum[0])
        if refined is None or stationarity(A, y, refined) > STATIONARY:
            return None
        if np.linalg.norm(_misfit(A, y, refined)) >= np.linalg.norm(_misfit(A, y, factor)):
            return None
        lengths, way = np.linalg.svd(refined, full_matrices=False)[1:]
        factor = refined @ way[lengths > LOWER * lengths[0]].T  # the flow may end at a matrix of lower rank
    return None


def _descended(A: np.ndarray, y: np.ndarray, start: np.ndarray, unit: float) -> np.ndarray | None:
    """Return the stationary point to which the flow leads from `start`, or None where it does not settle.

    Time is in units of 1/`unit`, the rate at which the new direction grows, and begins while that is still small.
    """
    from scipy.integrate import solve_ivp

    shape, escape = start.shape, 2 * math.log(1 / START)

    def flow(_: float, position: np.ndarray) -> np.ndarray:
        factor = position.reshape(shape)
        return -(_gradient(A, y, factor) @ factor).ravel() / unit

    def still(time: float, position: np.ndarray) -> float:
        return float(np.linalg.norm(flow(time, position))) - 1e-7 * math.sqrt(unit) if time > escape else 1.0

    still.terminal = True  # type: ignore[attr-defined]
    path = solve_ivp(flow, (0, 1e6), start.ravel(), method="LSODA", rtol=1e-9, atol=1e-13, events=still)
    if path.status != 1:
        return None
    end = path.y[:, -1].reshape(shape)
    refined = _refined(A, y, end)
    moved = np.linalg.norm(refined @ refined.T - end @ end.T)
    return refined if moved <= 1e-3 * np.linalg.norm(end) ** 2 else None


def _refined(A: np.ndarray, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Newton's method on ∇f(U Uᵀ) U = 0; a rotation of U changes nothing, so the shortest step is taken."""
    for _ in range(20):
        gradient, slopes = _gradient(A, y, factor), (A @ factor).reshape(len(A), -1)
        curvature = np.kron(gradient, np.eye(factor.shape[1])) + 2 * slopes.T @ slopes
        step = np.linalg.lstsq(curvature, (gradient @ factor).ravel(), rcond=1e-12)[0]
        factor = factor - step.reshape(factor.shape)
        if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(factor):
            break
    return factor
