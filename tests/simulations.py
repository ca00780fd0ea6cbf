"""The smallest experiments that show what an engine must do right."""

import functools
import inspect
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
    return jnp.sin(seed * np.arange(1.0, 1 + np.prod(shape))).reshape(shape)


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


def looped(simulate, points, seeds, key=0):
    """(number of the point, seed, observable) -> the records of a plain Python loop, for a list of grid points."""
    records, pieces = {}, {}
    structure = {
        each.name for each in inspect.signature(simulate).parameters.values() if each.kind is each.KEYWORD_ONLY
    }
    for number, values in enumerate(points):
        static = {name: value for name, value in values.items() if name in structure}
        numbers = {name: float(value) for name, value in values.items() if name not in structure}
        if repr(static) not in pieces:
            run = functools.partial(simulate, **static)
            pieces[repr(static)] = (
                jax.jit(lambda key, numbers, run=run: run(key, **numbers).state),
                jax.jit(lambda key, numbers, state, run=run: run(key, **numbers).step(state)),
                jax.jit(lambda key, numbers, state, run=run: run(key, **numbers).observe(state)),
                run(jax.random.key(0), **numbers).at.tolist(),
            )
        begin, step, observe, at = pieces[repr(static)]
        for seed in range(seeds):
            own = jax.random.fold_in(jax.random.key(key), seed)
            state, seen = begin(own, numbers), []
            for time in range(at[-1] + 1):
                state = step(own, numbers, state) if time else state
                if time in at:
                    seen.append(observe(own, numbers, state))
            for name in seen[0]._fields:
                records[number, seed, name] = np.stack([np.asarray(getattr(each, name)) for each in seen])
    return records
