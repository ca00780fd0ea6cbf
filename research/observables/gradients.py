"""How much gradient reaches each layer."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def gradient_norms(layers: Sequence[PyTree] | Mapping[str, PyTree]) -> Float[Array, "layer"]:
    """Return the l2 norm of each layer's gradient: of its pre-activations, its weights, or all its parameters.

    What Glorot & Bengio 2010 (section 4.2, figures 7 and 9) compare between layers, as one number each. `layers` is a
    sequence, in the order of the layers: JAX sorts a dict by name, with layer 10 before layer 2. Norms below the
    square root of the smallest number of the precision are kept. In float32 at least. NaN where an entry is not finite.
    Raises ValueError for a dict, no layers, and a layer without arrays.
    """
    if isinstance(layers, Mapping) or not len(layers):
        raise ValueError(f"layers is {type(layers).__name__} of {len(layers)}; it takes a sequence, first layer first")
    return jnp.stack([_norm(place, jax.tree.leaves(layer)) for place, layer in enumerate(layers)])


def _norm(place: int, arrays: list[Array]) -> Array:
    if not sum(array.size for array in arrays):
        raise ValueError(f"layers has no entries at place {place}; it takes arrays there")
    arrays = [array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays]  # a sum of many
    # Scaled by the largest entry, since gradients that vanish in deep networks have squares that underflow.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(array)) for array in arrays if array.size]))
    unit = jnp.where(largest > 0, largest, 1)
    norm = largest * jnp.sqrt(sum(jnp.sum(jnp.abs(array / unit) ** 2) for array in arrays))
    return jnp.where(jnp.isfinite(largest), norm, jnp.nan)
