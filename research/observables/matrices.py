"""What is read off matrices."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def effective_rank(singular_values: Float[Array, "mode"]) -> Float[Array, ""]:
    """Return exp of the entropy of the singular values over their sum: between 1 and their number.

    NaN where all are zero, or one is not finite. Roy & Vetterli 2007, "The effective rank".
    """
    parts = singular_values / jnp.max(singular_values)  # the sum of large ones may overflow
    shares = parts / jnp.sum(parts)
    return jnp.exp(-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), shares)))
