"""How a network stretches and squeezes what goes into it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def jacobian_singular_values(
    network: Callable[[Array], Array], inputs: Float[Array, "sample feature"]
) -> Float[Array, "sample mode"]:
    """Return the singular values of the Jacobian of outputs by inputs at each sample, the largest first.

    All equal to 1 is dynamical isometry (Saxe, McClelland & Ganguli 2014, arXiv 1312.6120; Pennington,
    Schoenholz & Ganguli 2017, arXiv 1711.04735, equation 1). `network` maps one input, a vector, to an output of any
    shape; where samples interact, as under batch normalisation in training, this is not defined. NaN for samples at
    which the Jacobian is not finite.
    """
    outputs = jax.eval_shape(network, inputs[0]).size
    derivative = jax.jacrev(network) if outputs < inputs.shape[1] else jax.jacfwd(network)
    jacobians = jax.vmap(derivative)(inputs).reshape(len(inputs), outputs, inputs.shape[1])
    sound = jnp.all(jnp.isfinite(jacobians), axis=(1, 2))[:, None]
    values = jnp.linalg.svd(jnp.where(sound[..., None], jacobians, 0.0), compute_uv=False)
    return jnp.where(sound, values, jnp.nan)
