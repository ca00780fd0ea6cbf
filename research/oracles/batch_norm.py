"""What batch normalisation does to the gradients of wide random networks.

In deep layers samples are alike to each other but for parts of their own, of one size (Yang et al. 2019, arXiv
1902.08129). Normalisation takes the common part away: before it, what a unit receives from a batch of B is √v times a
standard Gaussian vector without its mean, of squared length v·χ²_(B-1), where v is the variance of the activations.
"""

from research.oracles import inputs
from research.oracles.activations import Activation, named
from research.oracles.gaussian import FINER, ORDER, gaussian_expectation
from research.oracles.mean_field import RESIDUAL_BOUND


def gradient_growth(activation: str | Activation, batch: int) -> float:
    """Return the factor by which squared gradients grow a layer towards the input; normalisation before the activation.

    For "linear" (B - 2)/(B - 3) at batch size B > 3: back through the normalisation a gradient loses its part along the
    unit's outputs, which leaves (B - 2)/(B - 1), and is divided by their variance before it, χ²_(B-1)/(B - 1), whose
    inverse has the mean (B - 1)/(B - 3). For others the limit of large batches, E φ'²/Var φ on N(0, 1): π/(π - 1) for
    "relu". Its relative error is of order 1/B.

    Certificate: a finer quadrature within 1e-9 relative, else NaN. Raises ValueError for an unknown activation and a
    batch of fewer than four.
    """
    function, size = named(activation), inputs.number("batch", batch, low=4.0)
    if function.leak == 1:
        return (size - 2) / (size - 3)

    def limit(order: int) -> float:
        mean, square, slope = (
            gaussian_expectation(each, 1.0, order, function.bends)
            for each in (function.value, lambda u: function.value(u) ** 2, lambda u: function.slope(u) ** 2)
        )
        return slope / (square - mean**2)

    value, finer = limit(ORDER), limit(FINER)
    certified = abs(value - finer) <= RESIDUAL_BOUND * finer and size == size
    return value if certified else float("nan")
