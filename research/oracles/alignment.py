"""How far the layers of a deep linear classifier can be from rank one: what the balance of the layers leaves of it."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def rank_one_excess(
    hidden: Float[np.ndarray, "layer row column"], readout: Float[np.ndarray, "column"], squared_path: float = 0.0
) -> float:
    """Return D, which ‖W_k‖_F² − ‖W_k‖_2² exceeds for no layer and at no time, from the layers at the start.

    The network is readout · W_{L−1} … W_1 x. Under gradient flow on any loss B_k = W_k W_kᵀ − W_{k+1}ᵀ W_{k+1} is
    constant, W_L = readout being a row, whose two norms agree. The differences of ‖W_k‖_F² are the traces of B, those
    of ‖W_k‖_2² at most its norms, and so D = max_k ‖W_k‖_F² − ‖readout‖² + Σ_k ‖B_k‖_2 (Ji & Telgarsky 2019, arXiv
    1810.02032). As the norms of the layers grow without end, they become rank one.

    Descent changes B_k in a step by G_k G_kᵀ − G_{k+1}ᵀ G_{k+1}, G being the updates, of which Σ‖G_k‖_F² is the
    squared length of the step. Its sum over the path is `squared_path`: the first difference changes by at most once
    that, the norms of B by at most twice.

    NaN where an entry is. Raises ValueError for layers that are not square, a readout of another length, a path below
    0 and infinite entries.
    """
    hidden, squared_path = inputs.array("hidden", hidden, 3), inputs.number("squared_path", squared_path, low=0.0)
    if hidden.shape[1] != hidden.shape[2]:
        raise ValueError(f"hidden has shape {hidden.shape}; it takes square matrices")
    readout = inputs.vector("readout", readout, hidden.shape[1], "hidden has rows")
    if np.isnan(hidden).any() or np.isnan(readout).any() or np.isnan(squared_path):
        return float("nan")
    after = [W.T @ W for W in hidden[1:]] + [np.outer(readout, readout)]
    uneven = sum(float(np.linalg.norm(W @ W.T - outer, 2)) for W, outer in zip(hidden, after, strict=True))
    largest = max(float((W**2).sum()) for W in hidden)
    return max(largest - float(readout @ readout), 0.0) + uneven + 3 * squared_path
