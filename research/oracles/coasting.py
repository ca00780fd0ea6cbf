"""How far a unit moves on after it has died: its gradient is zero, and the moments of the optimiser run out.

A unit that is active on no sample has the gradient 0, exactly. Under gradient descent its incoming weights never change
again. With momentum they go on along what is left of it, m βᵏ after k steps, and Adam (Kingma & Ba 2015, arXiv
1412.6980, algorithm 1) divides that by the root of what is left of its second moment, v β₂ᵏ, each over its bias
correction at that age. Both are sums that are known when the unit dies.
"""

import numpy as np
from jaxtyping import Float

from research.oracles import inputs

MOMENTUM, FIRST, SECOND, EPSILON = 0.9, 0.9, 0.999, 1e-8


def coasting(
    first: Float[np.ndarray, "entry"],
    second: Float[np.ndarray, "entry"],
    learning_rate: float,
    age: float,
    steps: float,
    method: str,
) -> Float[np.ndarray, "entry"]:
    """Return by how much weights move in `steps` steps without a gradient, from moments of `age` steps.

    `first` is the momentum (of "momentum": m = g + 0.9 m, w moves by −η m; of "adam" the first moment), `second` the
    second moment of Adam, β = 0.9 and 0.999, ε = 1e-8 outside the root. Zero for "sgd". NaN for NaN.
    Raises ValueError for another method, a negative rate, a negative second moment, or numbers of steps that are not
    whole.
    """
    if method not in ("sgd", "momentum", "adam"):
        raise ValueError(f"method is {method!r}; it takes sgd, momentum or adam")
    m = inputs.array("first", first, 1)
    v = inputs.vector("second", second, len(m), "first")
    rate = inputs.number("learning_rate", learning_rate, low=0.0)
    for name, value in (("age", age), ("steps", steps)):
        if not (np.isnan(value) or (value >= 0 and value == int(value))):
            raise ValueError(f"{name} is {value!r}; it takes a whole number from 0")
    if (v < 0).any():
        raise ValueError(f"second has the entry {v.min():g}; it takes numbers from 0")
    if np.isnan([age, steps, rate]).any():
        return np.full(m.shape, np.nan)
    if method == "sgd":
        return 0.0 * (m + v)
    k = np.arange(1, int(steps) + 1)[:, None]
    if method == "momentum":
        return -rate * (m + 0.0 * v) * np.sum(MOMENTUM**k)
    mean = m[None, :] * FIRST**k / (1 - FIRST ** (age + k))
    root = np.sqrt(v[None, :] * SECOND**k / (1 - SECOND ** (age + k)))
    return np.asarray(-rate * np.sum(mean / (root + EPSILON), axis=0))
