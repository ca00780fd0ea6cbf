"""How a matrix moves that gradient flow trains as a product of L balanced factors: end to end, and mode by mode.

The loss is ½ Σ (W − M)² over the observed entries (half, sum); its gradient is ∇ = mask · (W − M).
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def singular_velocities(
    matrix: Float[np.ndarray, "row column"], gradient: Float[np.ndarray, "row column"], depth: int
) -> Float[np.ndarray, "mode"]:
    """Return dσ_r/dt = −L σ_r^(2 − 2/L) ⟨∇, u_r v_rᵀ⟩ for the singular values of the matrix, largest first.

    Arora, Cohen, Hu & Luo 2019, arXiv 1905.13655, Theorem 3: for a product of L = `depth` balanced factors,
    W_(l+1)ᵀ W_(l+1) = W_l W_lᵀ, under gradient flow. At depth 1 it is the derivative of a singular value. NaN for NaN.
    Raises ValueError for shapes that do not agree and a depth below 1.
    """
    matrix, gradient = inputs.array("matrix", matrix, 2), inputs.array("gradient", gradient, 2)
    layers = inputs.number("depth", depth, low=1)
    if matrix.shape != gradient.shape:
        raise ValueError(f"gradient has shape {gradient.shape}; it takes that of matrix, {matrix.shape}")
    if np.isnan(matrix).any() or np.isnan(gradient).any() or np.isnan(layers):
        return np.full(min(matrix.shape), np.nan)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    along = np.einsum("ir,ij,rj->r", left, gradient, right)
    return -layers * values ** (2 - 2 / layers) * along


def end_to_end_velocity(
    matrix: Float[np.ndarray, "row column"], gradient: Float[np.ndarray, "row column"], depth: int
) -> Float[np.ndarray, "row column"]:
    """Return dW/dt = −Σ_j (W Wᵀ)^((L−j)/L) ∇ (Wᵀ W)^((j−1)/L), j = 1 … L, for L = `depth` balanced factors.

    Arora, Cohen & Hazan 2018, arXiv 1802.06509, Theorem 1. Powers are of singular values, so that 0⁰ = 1.
    """
    left, values, right = np.linalg.svd(matrix)
    powers = np.arange(depth) / depth
    rows, columns = (np.zeros((depth, n)) for n in matrix.shape)
    rows[0], columns[0] = 1.0, 1.0
    for j in range(1, depth):
        rows[j, : len(values)] = columns[j, : len(values)] = values ** (2 * powers[j])
    weights = sum(np.outer(rows[depth - 1 - j], columns[j]) for j in range(depth))
    return -left @ (weights * (left.T @ gradient @ right.T)) @ right


def flow_singular_values(
    initial: Float[np.ndarray, "row column"],
    target: Float[np.ndarray, "row column"],
    mask: Float[np.ndarray, "row column"],
    depth: int,
    time: Float[np.ndarray, "step"],
) -> Float[np.ndarray, "step mode"]:
    """Return the singular values of the matrix at each time (increasing from 0 or more) on the end-to-end flow.

    By an explicit Runge–Kutta method of order 8 (relative tolerance 1e-9) for the whole matrix, not its modes.
    Certificate: the solver reports success, else NaN. Raises ValueError for shapes that do not agree, times that do not
    increase, and a depth below 1.
    """
    from scipy.integrate import solve_ivp

    initial, target, mask = (
        inputs.array(name, value, 2) for name, value in (("initial", initial), ("target", target), ("mask", mask))
    )
    time, depth = inputs.array("time", time, 1), int(inputs.number("depth", depth, low=1))
    if not initial.shape == target.shape == mask.shape:
        raise ValueError(f"target and mask have shapes {target.shape}, {mask.shape}; they take that of initial")
    if (np.diff(time) <= 0).any() or time[0] < 0:
        raise ValueError(f"time is {time}; it takes times that increase from 0 or more")
    void = np.full((len(time), min(initial.shape)), np.nan)
    if any(np.isnan(array).any() for array in (initial, target, mask)):
        return void
    shape = initial.shape

    def field(_: float, flat: np.ndarray) -> np.ndarray:
        matrix = flat.reshape(shape)
        return end_to_end_velocity(matrix, mask * (matrix - target), depth).ravel()

    solution = solve_ivp(field, (0.0, time[-1]), initial.ravel(), "DOP853", time, rtol=1e-9, atol=1e-11)
    if not solution.success:
        return void
    return np.linalg.svd(solution.y.T.reshape(-1, *shape), compute_uv=False)
