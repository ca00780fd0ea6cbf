"""What the machine can do at best: the rates that a workload's arithmetic and its traffic are set against."""

import os
import platform
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import layout
from research.benchmarks.workloads import Workload
from research.store import version

SIZE = 1024  # rows and columns of the matrices whose product is timed
SMALLEST_COPY, LARGEST_COPY = 1 << 18, 1 << 28  # bytes: within a core's cache, and far beyond it


class Cost(NamedTuple):
    """What one step of one run takes, as XLA counts it: operations, and bytes read and written."""

    flops: float
    bytes: float


class Bound(NamedTuple):
    """The share of the machine that is used, and of what: `a matrix product` or `a copy`."""

    share: float
    of: str


def described() -> dict[str, Any]:
    """The devices, the processor, its cores, and the versions of what computes; no host name, no date."""
    return {
        "device": layout.device(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch")},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")  # of Linux
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def cost(workload: Workload, lanes: int = 1) -> Cost:
    """The cost of a step of one of `lanes` runs that are computed together, and read the data together.

    Bytes are counted operation by operation, whether they come from memory or from a cache.
    """
    with layout.precision("float32"):
        runs = tuple(each[:lanes] for each in workload.mapped())
        start = jax.vmap(lambda key, rate: jax.tree.map(jnp.asarray, workload.one(key, rate).state))
        step = jax.vmap(lambda key, rate, state: workload.one(key, rate).step(state))
        counted = jax.jit(step).lower(*runs, jax.eval_shape(start, *runs)).compile().cost_analysis() or {}
    return Cost(*(float(counted.get(name, np.nan)) / len(runs[1]) for name in ("flops", "bytes accessed")))


def matmul_rate(repeats: int = 25) -> tuple[float, str]:
    """(operations a second, by whom) of float32 matrix products on all cores, the better of NumPy's and JAX's."""
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    rates = {}
    if jax.default_backend() == "cpu":
        rates["NumPy"] = 2 * SIZE**3 / _fastest(lambda: matrix @ matrix, repeats)
    with layout.precision("float32"):
        product = jax.jit(lambda left, right: left @ right)
        held = [jax.device_put(matrix, device) for device in jax.local_devices()]
        rate = 1 / _fastest(lambda: jax.block_until_ready([product(each, each) for each in held]), repeats)
        rates["JAX"] = 2 * SIZE**3 * len(held) * rate
    best = max(rates, key=lambda name: rates[name])
    return rates[best], best


def copy_rate(size: float, repeats: int = 10) -> float:
    """Bytes a second, read and written, of copies of `size` bytes that all cores make at the same time.

    A small copy stays in a core's cache, as a small workload does; a large one goes through memory.
    """
    count = int(min(max(size, SMALLEST_COPY), LARGEST_COPY)) // 8  # float32, and half of the bytes are written
    if jax.default_backend() != "cpu":
        held = [jax.device_put(np.ones(LARGEST_COPY // 8, np.float32), device) for device in jax.local_devices()]
        copy = jax.jit(jnp.negative)
        spent = _fastest(lambda: jax.block_until_ready([copy(each) for each in held]), repeats)
        return LARGEST_COPY * len(held) / spent
    times = max(1, (LARGEST_COPY // 8) // count)
    pairs = [(np.ones(count, np.float32), np.zeros(count, np.float32)) for _ in jax.local_devices()]

    def copies(source: np.ndarray, target: np.ndarray) -> None:
        for _ in range(times):
            np.copyto(target, source)  # lets the other threads go on

    def side_by_side() -> None:
        threads = [threading.Thread(target=copies, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return 8 * count * times * len(pairs) / _fastest(side_by_side, repeats)


def bound(work: Cost, steps: float, matmul: float, copy: float) -> Bound:
    """The larger share: of `steps` steps a second in all runs together, the arithmetic or the traffic."""
    shares = Bound(steps * work.flops / matmul, "a matrix product"), Bound(steps * work.bytes / copy, "a copy")
    return max(shares)


def _fastest(work: Callable[[], Any], repeats: int) -> float:
    work()
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)
