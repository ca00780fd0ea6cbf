"""The smallest experiments that show what an engine must do right."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from research.dynamics import Run, descent, start, stochastic_descent


class Observables(NamedTuple):
    weights: Float[Array, "feature"]
    loss: Float[Array, ""]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]


class Number(NamedTuple):
    value: Float[Array, ""]


def drawn(key, *shape):
    """Numbers in [−1, 1] that differ with the key: much faster to compile than those of jax.random."""
    seed = (jax.random.key_data(key) % 10007).sum().astype(float)
    return jnp.sin(seed * jnp.arange(1.0, 1 + np.prod(shape))).reshape(shape)


def regression(
    key,
    learning_rate: float,
    decay: float = 0.0,
    *,
    features: int = 4,
    steps: int = 20,
    geometry: Literal["plain", "sign"] = "plain",
    optimizer=optax.sgd,
):
    """Full-batch descent on three samples, recorded at steps 0, 1, 5, `steps`."""
    table = drawn(key, 4, features + 1)
    X, y = table[:3, :-1], table[:3, -1]
    loss = lambda w: ((X @ w - y) ** 2).mean() + decay * (w**2).sum()
    chain = optimizer(learning_rate) if geometry == "plain" else optax.sign_sgd(learning_rate)
    observe = lambda state: Observables(state.params, loss(state.params))
    initial = start(table[3, :-1], chain)
    return Run(initial, descent(loss, chain), observe, np.array([0, 1, 5, steps]), Given(X, y))


def stochastic(key, learning_rate: float, *, samples: int = 6, steps: int = 12):
    """Descent on one sample a step, drawn with the key that the state carries."""
    data_key, run_key = jax.random.split(key)
    X = drawn(data_key, samples, 3)
    chain = optax.sgd(learning_rate)
    loss = lambda w, chosen: ((X[chosen] @ w - 1.0) ** 2).mean()
    step = stochastic_descent(loss, chain, lambda sample_key: jax.random.randint(sample_key, (1,), 0, samples))
    observe = lambda state: Observables(state.params, loss(state.params, jnp.arange(samples)))
    return Run(start(jnp.ones(3), chain, run_key), step, observe, np.array([0, 3, 7, steps]))


def growth(key, rate: float, *, limit: float = 1e30, noise: bool = False):
    """A number that is multiplied by `rate` in each step, and stops above `limit`; a weakly typed start."""
    initial = drawn(key) if noise else 1.0
    stop = lambda state: jnp.abs(state["x"]) > limit
    return Run(
        {"x": initial, "age": 0},
        lambda state: {"x": state["x"] * rate, "age": state["age"] + 1},
        lambda state: Number(state["x"]),
        np.array([0, 2, 4, 8, 16, 32]),
        stop=stop,
    )


def formula(key, slope: float, *, power: int = 1):
    """No time: a number of the key and the parameters."""
    return Number(slope**power * drawn(key))


def looped(simulate, axes, seeds, key=0):
    """(values, seed) -> the records of a plain Python loop, for each grid point of `axes` (a list of dicts)."""
    records = {}
    for number, values in enumerate(axes):
        for seed in range(seeds):
            run = simulate(jax.random.fold_in(jax.random.key(key), seed), **values)
            state, step, seen = run.state, jax.jit(run.step), []
            for time in range(int(run.at[-1]) + 1):
                state = step(state) if time else state
                if time in run.at:
                    seen.append(run.observe(state))
            for name in seen[0]._fields:
                records[number, seed, name] = np.stack([np.asarray(getattr(each, name)) for each in seen])
    return records
