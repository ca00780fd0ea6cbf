"""The sweep that a test kills: `python interrupted.py FILE.nc` prints its addresses and halts in the second cell."""

import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research import layout
from research.dynamics import Run
from research.plan import plan
from research.sweep import sweep

AXES = {"steps": [10, 30], "rate": (2.0, 3.0)}


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


def simulate(key, rate: float, *, steps: int):
    """A sine that is folded again and again."""
    state = jax.random.uniform(key, (3,))
    return Run(state, lambda state: jnp.sin(rate * state + 1), Observables, np.array([0, 1, steps]))


def halt(done, runs, cell):
    """Say so and wait to be killed once the second cell is under way."""
    if cell == "steps=30":
        print("in the second cell", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    layout.prepare()
    print(*plan(simulate, AXES, seeds=2).addresses(), flush=True)
    sweep(simulate, AXES, seeds=2, store=sys.argv[1], progress=halt)
