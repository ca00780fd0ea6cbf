"""Pictures of one or two shapes, drawn from a key: the nine classes of Shapeset-3×2 (Glorot & Bengio 2010).

Their generator is not public in a form that runs today; this one follows the paper's words: a triangle, a parallelogram
or an ellipse, or two of them of which one may cover part of the other, at random places, sizes, angles and shades.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

PAIRS = ((0, -1), (1, -1), (2, -1), (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # kinds by class; −1 is no shape


def shapes(key: Key[Array, ""], labels: Int[np.ndarray, "image"], side: int) -> Float[Array, "image row column"]:
    """Return a picture in [0, 1] of side × side pixels for each class 0 to 8; the ground is 0.

    Classes 0 to 2 show a triangle, a parallelogram, an ellipse; 3 to 8 the six pairs of two, the second one in front.
    Raises ValueError for another class, or a side below 1.
    """
    if side < 1 or not set(np.unique(labels)) <= set(range(len(PAIRS))):
        raise ValueError(f"side is {side} and labels has {np.unique(labels)}: it takes a side from 1, classes 0 to 8")
    axis = (jnp.arange(side) + 0.5) / side * 2 - 1
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="xy"))

    def seen(key: Array, kind: Array, ground: Array) -> Array:
        place_key, form_key, angle_key, shade_key = jax.random.split(key, 4)
        place = jax.random.uniform(place_key, (2,), minval=-0.5, maxval=0.5)
        wide, high, slant = jax.random.uniform(form_key, (3,), minval=jnp.array([0.3, 0.3, -0.5]), maxval=0.5)
        angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
        turn = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
        x, y = jnp.einsum("ij,jrc->irc", turn, grid - place[:, None, None])
        x, y = (x - slant * y) / wide, y / high
        inside = jnp.stack([(y > -0.7) & (2 * jnp.abs(x) + y < 1.3), (abs(x) < 0.9) & (abs(y) < 0.9), x**2 + y**2 < 1])
        shade = jax.random.uniform(shade_key, minval=0.4, maxval=1.0)
        return jnp.where((kind >= 0) & inside[jnp.maximum(kind, 0)], shade, ground)

    def picture(key: Array, kinds: Array) -> Array:
        back, front = jax.random.split(key)
        # the one in front covers the other as often as not, since the two kinds of a pair come in either order
        order = jnp.where((kinds[1] >= 0) & jax.random.bernoulli(key), kinds[::-1], kinds)
        return seen(front, order[1], seen(back, order[0], jnp.zeros((side, side))))

    return jax.vmap(picture)(jax.random.split(key, len(labels)), jnp.asarray(PAIRS)[np.asarray(labels)])
