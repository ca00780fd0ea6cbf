"""How the outputs of a layer are spread: over their range, and over directions."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from research.observables.matrices import effective_rank


def percentiles(outputs: Float[Array, "..."], at: Sequence[float]) -> Float[Array, "percentile"]:
    """Return those percentiles (0 to 100) of all outputs of a layer, linear between them.

    Glorot & Bengio 2010, figure 3, follow the 98th of each layer. NaN where an output is not finite.
    In float32 at least. Raises ValueError for none, and for one outside [0, 100].
    """
    if not len(at) or not all(0 <= place <= 100 for place in at):
        raise ValueError(f"at is {at!r}; it takes numbers from 0 to 100")
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))  # 98 is no number of low precision
    found = jnp.percentile(outputs, jnp.asarray(at, outputs.dtype))
    return jnp.where(jnp.all(jnp.isfinite(outputs)), found, jnp.nan)


def feature_rank(outputs: Float[Array, "sample unit"]) -> Float[Array, ""]:
    """Return the effective rank of a layer's outputs: `effective_rank` of their singular values, not centred.

    Between 1 and the smaller of samples and units, unchanged by rotations and scale. Roy & Vetterli 2007, "The
    effective rank", definition 1. The srank of Kumar et al. 2021 (arXiv 2010.14498), which counts the values that
    make up 99 % of their sum, is another number. NaN where all outputs are zero, or one is not finite.
    """
    # As zeros, of which the rank is NaN: LAPACK does not promise anything for others.
    sound = jnp.where(jnp.all(jnp.isfinite(outputs)), outputs, 0.0)
    return effective_rank(jnp.linalg.svd(sound, compute_uv=False))
