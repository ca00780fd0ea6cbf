"""What a convolutional layer computes, in NumPy and SciPy: matrix products, correlations, edges, pooling.

Deep-learning libraries call cross-correlation convolution: y[r, c] = Σ k[i, j]·x[r + i, c + j], the kernel not turned.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def correlation_matrix(
    kernel: Float[np.ndarray, "side across"], rows: int, columns: int
) -> Float[np.ndarray, "output pixel"]:
    """Return the matrix of the cross-correlation of a picture, read row by row, inside its borders.

    Doubly block Toeplitz: entry (output, pixel) depends on the difference of their places only. Raises ValueError where
    the kernel is larger than the picture.
    """
    kernel = inputs.array("kernel", kernel, 2)
    side, across = kernel.shape
    if side > rows or across > columns:
        raise ValueError(f"kernel has shape {kernel.shape}; the picture has {rows} × {columns}")
    matrix = np.zeros((rows - side + 1, columns - across + 1, rows, columns))
    for row in range(len(matrix)):
        for column in range(matrix.shape[1]):
            matrix[row, column, row : row + side, column : column + across] = kernel
    return matrix.reshape(-1, rows * columns)


def toeplitz_product(
    picture: Float[np.ndarray, "row column"], kernel: Float[np.ndarray, "side across"]
) -> Float[np.ndarray, "output"]:
    """Return `correlation_matrix` times the picture, read row by row; NaN in gives NaN out."""
    picture = inputs.array("picture", picture, 2)
    matrix = correlation_matrix(kernel, *picture.shape)
    return np.full(len(matrix), np.nan) if np.isnan(picture).any() else matrix @ picture.ravel()


def correlation(
    picture: Float[np.ndarray, "row column"], kernel: Float[np.ndarray, "side across"]
) -> Float[np.ndarray, "output"]:
    """Return `scipy.signal.correlate2d` inside the borders, row by row; NaN anywhere gives NaN throughout."""
    from scipy.signal import correlate2d

    picture, kernel = inputs.array("picture", picture, 2), inputs.array("kernel", kernel, 2)
    found = correlate2d(picture, kernel, "valid").ravel()
    return found * np.nan if np.isnan(picture).any() or np.isnan(kernel).any() else found


def pooled_size(size: int, window: int, stride: int) -> int:
    """Return how many windows fit without padding: floor((size − window)/stride) + 1, 0 where not one does.

    Raises ValueError for sizes below 1.
    """
    for name, value in (("size", size), ("window", window), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it takes 1 or more")
    return max(0, (int(size) - int(window)) // int(stride) + 1)


def unchanged_share(window: int, shift: int) -> float:
    """Return how often the maximum of a square window of white noise stays when the picture moves along one axis.

    It does if the maximum of both windows' union lies in what they share: (window − shift)/(window + shift).
    Raises ValueError for sizes below 1 and a negative shift.
    """
    if window < 1 or shift < 0:
        raise ValueError(f"window, shift is {window}, {shift}; it takes a window from 1 and a shift from 0")
    return max(0.0, (window - shift) / (window + shift))
