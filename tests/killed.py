"""The sweep that a test kills: `python killed.py FILE.nc [WRITE]` says each segment, and dies half-way in a write."""

import os
import signal
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research import layout
from research.block import Block
from research.dynamics import Run
from research.sweep import sweep

AXES = {"steps": [40, 240], "rate": (2.0, 3.0, 1e300)}


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


def simulate(key, rate: float, *, steps: int):
    """A noisy sine that is folded again and again; it diverges where the rate is large."""

    def step(state):
        weights, key = state
        key, own = jax.random.split(key)
        return jnp.sin(weights) * rate * rate + jax.random.bits(own, (3,), "uint32") / 2**32, key

    state = (jnp.sin(jax.random.key_data(key).astype(float).sum() + jnp.arange(3.0)), key)
    return Run(state, step, lambda state: Observables(state[0]), np.array([0, 1, 25, steps]))


def swept(path):
    """The dataset, with a state kept after each segment of three steps."""
    return sweep(
        simulate,
        AXES,
        seeds=3,
        lanes=2,
        store=path,
        memory=4000,
        checkpoint=0.0,
        progress=lambda *words: print(*words, flush=True),
    )


def killed_in(write):
    """From now on, the write of that number ends half-way, and so does the process."""
    save, written = np.savez, []

    def half(file, **arrays):
        save(file, **arrays)
        written.append(file)
        if len(written) == write:
            file.flush()
            file.truncate(os.fstat(file.fileno()).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    np.savez = half


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    layout.prepare()
    Block._steps = lambda block: 3
    if len(sys.argv) > 2:
        killed_in(int(sys.argv[2]))
    swept(sys.argv[1])
