"""How much of a picture can be read off a map: by the best linear decoder, and at most."""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

RANK = 1e-9  # relative size of an eigenvalue below which a direction of the map is none


def decodable_share(
    within: Float[np.ndarray, "value other"], across: Float[np.ndarray, "value pixel"], total: float
) -> float:
    """Return the share of the pictures' variance that the best linear decoder reads off a map: R² over all pixels.

    `within` is the covariance of the map's values, `across` that of values with pixels, `total` the sum of the pixels'
    variances: R² = tr(across' within⁺ across)/total. Gaussian pictures with noise would give information of the order
    −ln(1 − R²)/2. NaN in gives NaN; 0 for a map that never varies. Raises ValueError for shapes that do not fit.
    """
    within, across = inputs.array("within", within, 2), inputs.array("across", across, 2)
    total = inputs.number("total", total, low=0.0)
    if within.shape != (len(across),) * 2:
        raise ValueError(f"within has shape {within.shape}; across has {len(across)} rows")
    if np.isnan(within).any() or np.isnan(across).any() or not total > 0:
        return float("nan")
    values, vectors = np.linalg.eigh(within)
    kept = values > RANK * max(values[-1], 0.0)
    if not kept.any() or values[-1] <= 0:
        return 0.0
    return float(np.sum((vectors[:, kept].T @ across) ** 2 / values[kept, None]) / total)


def principal_share(covariance: Float[np.ndarray, "pixel other"], count: int) -> float:
    """Return the share of variance in the `count` first principal components.

    No linear decoder reads more off `count` values, whatever they are functions of: what it says has that rank, and of
    all such approximations the principal components' is the best (Eckart & Young 1936). NaN in gives NaN. Raises
    ValueError for a count below 1 and a covariance that is not square.
    """
    covariance = inputs.array("covariance", covariance, 2)
    if covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance has shape {covariance.shape}; it takes a square matrix")
    if count < 1:
        raise ValueError(f"count is {count}; it takes 1 or more")
    if np.isnan(covariance).any():
        return float("nan")
    values = np.linalg.eigvalsh(covariance)[::-1].clip(0)
    return float(values[: int(count)].sum() / values.sum())
