"""What guided backpropagation shows of a random network: the picture, whatever the weights.

The network: one convolution of N filters w_f with independent N(0, 1) weights and zeros around the picture, ReLU, and
an output Σ v_fp·relu(w_f·x_p) over filters and places p with independent v ~ N(0, 1), x_p the patch at p. Guided
backpropagation of the output is Σ_f g_f, g_f = Σ_p relu(v_fp)·1[w_f·x_p > 0]·S_p w_f, S_p putting a filter at its
place. As E relu(v) = 1/√2π and E w·1[w·x > 0] = x/(‖x‖√2π), the mean of g_f is Σ_p S_p x_p/‖x_p‖ / 2π: every patch of
the picture, normalised, put back where it was. That is the statement of Nie, Zhang & Patel 2018, arXiv 1805.07039.

The covariance of g_f follows from E relu(v)² = 1/2 and, for patches at an angle θ with directions a and b, from the
second derivative of the arc-cosine kernel (‖x‖‖y‖/2π)(sin θ + (π − θ) cos θ) = E relu(w·x) relu(w·y):

    E w wᵀ·1[w·x > 0]·1[w·y > 0] = ((π − θ) I + (a bᵀ + b aᵀ − cos θ (a aᵀ + b bᵀ)) / sin θ) / 2π.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


class Recovery(NamedTuple):
    """The mean of a filter's part of the map, the trace of its covariance, and that of the covariance squared."""

    mean: Float[np.ndarray, "row column"]
    variance: float
    squared: float


def guided_recovery(picture: Float[np.ndarray, "row column"], side: int = 3) -> Recovery:
    """Return mean and covariance of what one filter of side × side adds to the guided map of a random network.

    Of N filters the map over N has this mean, and the expected squared distance to it is variance / N; where N is large
    the distance is Gaussian, and its square has the variance 2·squared / N². NaN in the picture gives NaN. Raises
    ValueError for an even side and a patch that is zero throughout, which has no direction.
    """
    picture = inputs.array("picture", picture, 2)
    if not isinstance(side, int) or side < 1 or side % 2 == 0:
        raise ValueError(f"side is {side!r}; it takes an odd number")
    if np.isnan(picture).any():
        return Recovery(np.full(picture.shape, np.nan), float("nan"), float("nan"))
    rows, columns = picture.shape
    half = side // 2
    places = np.pad(np.arange(picture.size).reshape(picture.shape), half, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view
    taps = windows(places, (side, side)).reshape(picture.size, -1)
    patches = windows(np.pad(picture, half), (side, side)).reshape(picture.size, -1)
    lengths = np.linalg.norm(patches, axis=1)
    if not lengths.min() > 0:
        raise ValueError("picture has a patch of zeros, which has no direction")
    a = patches / lengths[:, None]
    put = np.zeros((picture.size, taps.shape[1], picture.size))  # place, tap of the filter, pixel
    inside = taps >= 0
    put[np.nonzero(inside)[0], np.nonzero(inside)[1], taps[inside]] = 1.0
    mean = np.einsum("ptx,pt->x", put, a) / (2 * np.pi)

    cosine = np.clip(a @ a.T, -1.0, 1.0)
    np.fill_diagonal(cosine, 0.0)
    angle = np.arccos(cosine)
    sine = np.sqrt(1 - cosine**2)
    # Parallel patches: the last term vanishes, as a bᵀ + b aᵀ − cos θ (a aᵀ + b bᵀ) is of the order θ².
    share = np.divide(1.0, sine, out=np.zeros_like(sine), where=sine > 1e-9) / (2 * np.pi)
    even = (np.pi - angle) / (2 * np.pi)
    np.fill_diagonal(even, 0.0)
    np.fill_diagonal(share, 0.0)
    direct = np.einsum("ptx,pt->px", put, a)  # each patch's direction, put in its place
    # Σ_pq S_p M_pq S_qᵀ of the pairs p ≠ q, term by term; `crossed` has S_p b_q for every pair.
    crossed = np.einsum("ptx,qt->pqx", put, a)
    second = np.einsum("ptx,pq,qty->xy", put, even, put, optimize=True)
    mixed = np.einsum("px,pq,qy->xy", direct, share, direct) + np.einsum("pqx,pq,qpy->xy", crossed, share, crossed)
    alike = np.einsum("px,pq,qpy->xy", direct, share * cosine, crossed)
    second += mixed - alike - alike.T
    second /= 2 * np.pi  # (E relu(v))²
    second += np.einsum("ptx,pty->xy", put, put) / 4  # E relu(v)² · P(w·x > 0), one place with itself
    covariance = second - np.outer(mean, mean)
    return Recovery(mean.reshape(rows, columns), float(np.trace(covariance)), float(np.sum(covariance**2)))


def recovery_error(picture: Float[np.ndarray, "row column"], side: int = 3) -> float:
    """Return the expected squared distance of the guided map of ONE random filter to its mean, over that mean squared.

    Of N filters it is the N-th part. As `guided_recovery` in everything else.
    """
    mean, variance, _ = guided_recovery(picture, side)
    return float(variance / np.sum(mean**2))
