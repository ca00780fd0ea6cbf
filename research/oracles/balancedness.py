"""How far the balance of neighbouring layers drifts when the gradient flow of a deep linear network takes finite steps.

The layers are square matrices W_1, …, W_L, the network is x -> W_L … W_1 x, and the loss is half the squared error,
summed over the outputs and averaged over the samples.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

BALANCE_BOUND = 1e-8


def balance_drift(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample output"],
    layers: Float[np.ndarray, "layer row column"],
    time: float,
) -> Float[np.ndarray, "hidden row column"]:
    """Return ∫ (G_{l+1}ᵀ G_{l+1} − G_l G_lᵀ) dt along the gradient flow up to that time, G_l = ∂L/∂W_l, for each l < L.

    W_{l+1}ᵀ W_{l+1} − W_l W_lᵀ is constant under the flow, since W_{l+1}ᵀ G_{l+1} = G_l W_lᵀ (Arora, Cohen & Hazan
    2018, arXiv 1802.06509, Theorem 1). A step of gradient descent changes it by η² (G_{l+1}ᵀ G_{l+1} − G_l G_lᵀ)
    exactly, the terms of first order being equal; so by η times this integral in all, up to O(η²).

    Certificate: the balance at the end, and the loss lost less ∫ Σ‖G_l‖² dt, right to 1e-8 relative, else NaN.
    Raises ValueError for shapes that do not agree, layers that are not square, a time < 0 and infinite entries.
    """
    from scipy.integrate import solve_ivp

    X, y, layers = inputs.array("X", X, 2), inputs.array("y", y, 2), inputs.array("layers", layers, 3)
    time = inputs.number("time", time, low=0.0)
    size = layers.shape[1]
    if layers.shape[2] != size or len(layers) < 2:
        raise ValueError(f"layers has shape {layers.shape}; it takes two or more square matrices")
    if X.shape != (len(y), size) or y.shape[1] != size:
        raise ValueError(
            f"X and y have shapes {X.shape} and {y.shape}; they take {size} columns, as layers, and equal rows"
        )
    void = np.full((len(layers) - 1, size, size), np.nan)
    if not (np.isfinite(X).all() and np.isfinite(y).all() and np.isfinite(layers).all() and np.isfinite(time)):
        return void
    count, integral = layers.size, void.size
    uneven = lambda A: np.swapaxes(A[1:], 1, 2) @ A[1:] - A[:-1] @ np.swapaxes(A[:-1], 1, 2)

    def field(_: float, state: np.ndarray) -> np.ndarray:
        G = gradients(X, y, state[:count].reshape(layers.shape))
        return np.concatenate([-G.ravel(), uneven(G).ravel(), [(G**2).sum()]])

    if time == 0:
        return np.zeros(void.shape)
    begin = np.concatenate([layers.ravel(), np.zeros(integral + 1)])
    solved = solve_ivp(field, (0.0, time), begin, method="DOP853", rtol=1e-11, atol=1e-13)
    if not solved.success:
        return void
    end, work = solved.y[:count, -1].reshape(layers.shape), solved.y[-1, -1]
    kept = np.abs(uneven(end) - uneven(layers)).max() <= BALANCE_BOUND * np.abs(layers).max() ** 2
    lost = loss(X, y, layers) - loss(X, y, end)
    spent = abs(lost - work) <= BALANCE_BOUND * loss(X, y, layers)
    return solved.y[count:-1, -1].reshape(void.shape) if kept and spent else void


def loss(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample output"],
    layers: Float[np.ndarray, "layer row column"],
) -> float:
    """Return the mean over the samples of ‖W_L … W_1 x − y‖²/2."""
    outputs = X
    for W in layers:
        outputs = outputs @ W.T
    return float(((outputs - y) ** 2).sum() / (2 * len(X)))


def gradients(
    X: Float[np.ndarray, "sample feature"],
    y: Float[np.ndarray, "sample output"],
    layers: Float[np.ndarray, "layer row column"],
) -> Float[np.ndarray, "layer row column"]:
    """Return ∂L/∂W_l for every layer, by backpropagation."""
    seen = [X]
    for W in layers:
        seen.append(seen[-1] @ W.T)
    back, found = (seen[-1] - y) / len(X), []
    for number in range(len(layers) - 1, -1, -1):
        found.append(back.T @ seen[number])
        back = back @ layers[number]
    return np.stack(found[::-1])


def drift_factor(momentum: float, nesterov: bool = False) -> float:
    """Return κ: with momentum the balance drifts κ times as far as without, at the same time ε a step.

    (1 + β)/(1 − β) for the heavy ball, less 2β for Nesterov's method; ε is the learning rate over 1 − β. To O(ε) the
    iterates θ_{k+1} − θ_k = β (θ_k − θ_{k−1}) − (1 − β) ε (g_k + [Nesterov: β (g_k − g_{k−1})]) follow the flow of
    L + κ (ε/4)‖∇L‖², as without momentum they do for κ = 1: put θ_k = θ(kε), expand to ε², use θ'' = ∇²L ∇L. The drift
    is proportional to the penalty, and the way that is lost at rest, along ∇L, keeps the balance to first order.
    Raises ValueError for a momentum outside [0, 1).
    """
    momentum = inputs.number("momentum", momentum, low=0.0, below=1.0)
    return (1 + momentum) / (1 - momentum) - 2 * momentum * bool(nesterov)
