"""The noise in the mean of a batch drawn from finitely many samples: the random part of batch normalisation."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs


def batch_mean_variance(values: Float[np.ndarray, "sample"], batch: float) -> float:
    """Return the variance of the mean of `batch` of these N values, drawn without replacement: σ²/B (N - B)/(N - 1).

    σ² is their variance (over N). 0 for B = N. Cochran 1977, Sampling Techniques, theorem 2.2. NaN for NaN. Raises
    ValueError for B below 1 or above N, or fewer than two values.
    """
    values = inputs.array("values", values, 1)
    count = len(values)
    if count < 2:
        raise ValueError("values has 1 entry; it takes two or more")
    batch = inputs.number("batch", batch, low=1.0, below=count + 0.5)
    return float(values.var() / batch * (count - batch) / (count - 1))
