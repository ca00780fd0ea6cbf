"""How much of a 3 × 3 filter is an edge detector: its energy in the subspaces of Frei & Chen, and that of any filter.

Frei & Chen 1977, "Fast boundary detection: a generalization and a new algorithm": nine orthonormal filters, of which
two are gradients, two ripples (the four of them edges), four lines, and one the mean.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

R = 2**0.5
BASIS = np.array(
    [
        np.array([[1, R, 1], [0, 0, 0], [-1, -R, -1]]) / 8**0.5,
        np.array([[1, 0, -1], [R, 0, -R], [1, 0, -1]]) / 8**0.5,
        np.array([[0, -1, R], [1, 0, -1], [-R, 1, 0]]) / 8**0.5,
        np.array([[R, -1, 0], [-1, 0, 1], [0, 1, -R]]) / 8**0.5,
        np.array([[0, 1, 0], [-1, 0, -1], [0, 1, 0]]) / 2,
        np.array([[-1, 0, 1], [0, 0, 0], [1, 0, -1]]) / 2,
        np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6,
        np.array([[-2, 1, -2], [1, 4, 1], [-2, 1, -2]]) / 6,
        np.ones((3, 3)) / 3,
    ]
)


class Energy(NamedTuple):
    """Shares of a filter's sum of squares: in gradients, in edges (they and ripples), in lines, in the mean."""

    gradient: float
    edge: float
    line: float
    mean: float


# Of independent entries with one symmetric law, E w_i w_j / ‖w‖² is 1/9 for i = j and else 0: a subspace of dimension
# k holds k/9 in the mean.
RANDOM = Energy(2 / 9, 4 / 9, 4 / 9, 1 / 9)


def edge_energy(kernel: Float[np.ndarray, "side across"]) -> Energy:
    """Return the shares of a 3 × 3 filter's energy; edges, lines and mean are all of it. NaN for a filter of zeros.

    The gradients are the part that is steered to every direction (a Sobel filter has 97 % there), and edges those that
    change sign under a half turn: 0 on any picture that looks the same turned. NaN in gives NaN. Raises ValueError for
    other sizes.
    """
    kernel = inputs.array("kernel", kernel, 2)
    if kernel.shape != (3, 3):
        raise ValueError(f"kernel has shape {kernel.shape}; it takes 3 × 3")
    whole = np.sum(kernel**2)
    if not whole > 0:
        return Energy(*[float("nan")] * 4)
    shares = np.einsum("kij,ij->k", BASIS, kernel) ** 2 / whole
    parts = shares[:2], shares[:4], shares[4:8], shares[8:]
    return Energy(*(float(part.sum()) for part in parts))


def random_deviation(dimension: int) -> float:
    """Return the standard deviation of the share that one Gaussian 3 × 3 filter has in a subspace of that dimension k.

    The share is Beta(k/2, (9 - k)/2); that of uniform entries has about the same. Raises ValueError for a dimension
    that is not from 1 to 8.
    """
    if dimension not in range(1, 9):
        raise ValueError(f"dimension is {dimension!r}; it takes 1 to 8")
    return float((2 * dimension * (9 - dimension) / (81 * 11)) ** 0.5)
