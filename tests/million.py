"""A million runs; prints how many there were, and the most memory that this process had, in KiB."""

import re
import resource
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research import layout
from research.dynamics import Run
from research.sweep import sweep


class Observables(NamedTuple):
    weights: Float[Array, "feature"]


class Given(NamedTuple):
    target: Float[Array, "feature"]


def simulate(key, rate: float):
    """Descent towards a random target."""
    target = jax.random.normal(key, (5,))
    step = lambda weights: weights - rate * (weights - target)
    return Run(jnp.zeros(5), step, Observables, np.array([0, 1, 10, 100]), Given(target))


def most_memory() -> int:
    """The most memory that this process has held so far, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere than there Linux counts what the parent held when it started this process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    layout.prepare()
    dataset = sweep(simulate, {"rate": (0.1, 0.2, 0.3, 0.4)}, seeds=250_000)
    left = (1 - dataset.rate) ** dataset.step
    assert abs(dataset.weights[-1] - (1 - left) * dataset.target[-1]).max() < 1e-12
    print(dataset.diverged.size, most_memory())
