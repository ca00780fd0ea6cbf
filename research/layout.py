"""How a sweep is laid on the machine: precision, devices, and lanes (runs in flight on one device).

Nothing here changes what is computed. Measured on CPUs, one XLA device a core with intra-op threads off beats one
device with threads by up to five times, and the best number of lanes keeps their working set near a core's L2 cache.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

Precision = Literal["float32", "float64"]
L2_CACHE = 1 << 20  # bytes; what a core of today's machines has, within a factor of two


def prepare() -> None:
    """Make every CPU core a device of its own; without effect once JAX has started, or where the user has chosen."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    # Each device's program sits on a thread of XLA's pool, which has $NPROC of them, and a batched LAPACK call inside
    # it waits for others: with one thread a device, two devices wait for ever (seen with a batched SVD, jax 0.10.2).
    os.environ.setdefault("NPROC", str(8 * _cores()))
    config: Any = jax.config
    if config.jax_num_cpu_devices == -1 and "host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # the backend is up: its devices are what they are
            config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def precision(name: Precision) -> Iterator[None]:
    """The context in which everything is computed: default dtype `name`, matrix products at full precision.

    The second half matters on accelerators, whose default products keep 8 or 11 bits of the mantissa. Raises
    ValueError for an unknown name.
    """
    if name not in get_args(Precision):
        raise ValueError(f"precision takes {' or '.join(get_args(Precision))}, got {name!r}")
    with jax.enable_x64(name == "float64"), jax.default_matmul_precision("highest"):
        yield


def device() -> str:
    """The devices in words, for provenance: `2 × cpu`, `1 × NVIDIA H200`."""
    devices = jax.local_devices()
    return f"{len(devices)} × {devices[0].device_kind}"


def caution(name: Precision) -> str:
    """A sentence where the backend computes `name` slowly or by emulation, else the empty string."""
    if name == "float64" and jax.default_backend() == "tpu":
        return "This TPU emulates float64: expect it to be slow; bands are unchanged."
    return ""


def lanes_for(runs: int, working_set: int) -> int:
    """Runs in flight on one device for `runs` runs that touch `working_set` bytes in each step.

    All of them on an accelerator; on a CPU as many as fit a core's L2 cache, between 1 and 64.
    """
    if jax.default_backend() != "cpu":
        return max(1, runs)
    return max(1, min(64, runs, L2_CACHE // (2 * max(1, working_set))))


def check_lanes(lanes: int | None) -> None:
    """Raise ValueError unless `lanes` is None or a positive integer."""
    if lanes is not None and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
        raise ValueError(f"lanes takes a positive integer or None, got {lanes!r}")


def even(runs: int, lanes: int | None, working_set: int) -> tuple[int, int, int]:
    """(devices, padded runs, lanes): full batches of `lanes` runs on each device, with as little padding as can be."""
    devices = min(runs, len(jax.local_devices()))
    each = -(-runs // devices)
    batches = -(-each // min(each, lanes or lanes_for(each, working_set)))
    lanes = -(-each // batches)
    return devices, devices * batches * lanes, lanes


def spread(function: Callable, devices: int, lanes: int, live: Callable[[Any], Any] | None = None) -> Callable:
    """`function(mapped, *shared)` of one run, lifted to all runs along the leading axis of `mapped`, and jitted.

    Devices work side by side; on each, batches of `lanes` runs follow one another. With `live`, a predicate of one
    run's `mapped`, a batch without a live run hands its `mapped[-1]` through untouched; that last part is donated.
    """
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("run",), axis_types=(AxisType.Auto,))
    along, whole = PartitionSpec("run"), PartitionSpec()

    def batch(mapped: Any, shared: Any) -> Any:
        if lanes == 1:
            one = jax.tree.map(lambda leaf: leaf[0], mapped)
            answer = function(one, *shared)
            return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), answer)
        return jax.vmap(lambda each: function(each, *shared))(mapped)

    def guarded(mapped: Any, shared: Any) -> Any:
        if live is None:
            return batch(mapped, shared)
        alive = jnp.any(jax.vmap(live)(mapped))
        return jax.lax.cond(alive, lambda: batch(mapped, shared), lambda: mapped[-1])

    def device(kept: Any, given_up: Any, shared: Any) -> Any:
        split = jax.tree.map(lambda leaf: leaf.reshape(-1, lanes, *leaf.shape[1:]), (*kept, *given_up))
        answer = jax.lax.map(lambda each: guarded(each, shared), split)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), answer)

    program = jax.jit(
        jax.shard_map(device, mesh=mesh, in_specs=(along, along, whole), out_specs=along, check_vma=False),
        donate_argnums=(1,),
    )
    donated = live is not None
    return lambda mapped, *shared: program(*((mapped[:-1], mapped[-1:]) if donated else (mapped, ())), shared)
