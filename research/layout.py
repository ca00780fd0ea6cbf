"""How a sweep is laid on the machine: precision, devices, slots, lanes (runs in flight on one device), memory.

Nothing here changes what is computed. Measured on CPUs, one XLA device a core with intra-op threads off beats one
device with threads by up to five times, and the best number of lanes keeps their working set near a core's L2 cache.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from research import cache
from research.piece import Decomposing, Piece

Precision = Literal["float32", "float64", "tensorfloat32", "bfloat16"]
L2_CACHE = 1 << 20  # bytes; what a core of today's machines has, within a factor of two
SHARE = 0.25  # of the memory of host and device that a sweep plans with, unless it is told
BLOCK = 1 << 27  # bytes of runs that a CPU works on at once: more would not be faster, only larger
HALVINGS = 64  # what the lanes of an accelerator are a multiple of, so that they can be halved as runs end
ALONG, WHOLE = PartitionSpec("run"), PartitionSpec()


def prepare() -> None:
    """Make every CPU core a device of its own; without effect once JAX has started, or where the user has chosen."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    # $NPROC is the size of XLA's pool of threads, over which matrix products are split even where Eigen's are not. With
    # one thread, devices work side by side without it: products twice as fast as with one a core (jax 0.10.2).
    os.environ.setdefault("NPROC", "1")
    cache.keep_compilations()
    config: Any = jax.config
    if config.jax_num_cpu_devices == -1 and "host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # the backend is up: its devices are what they are
            config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def precision(name: Precision) -> Iterator[None]:
    """The context in which everything is computed: default dtype and the precision of matrix products.

    `float64` and `float32` keep products at full precision, which matters on accelerators: their default products keep
    8 or 11 bits of the mantissa. `tensorfloat32` and `bfloat16` are float32 with such products, for an experiment that
    allows them; a CPU computes them like float32. Raises ValueError for an unknown name.
    """
    if name not in get_args(Precision):
        raise ValueError(f"precision takes {' or '.join(get_args(Precision))}, got {name!r}")
    products = "highest" if name in ("float32", "float64") else name
    with jax.enable_x64(name == "float64"), jax.default_matmul_precision(products):
        yield


@contextlib.contextmanager
def single_threaded_decompositions() -> Iterator[None]:
    """The context in which LAPACK has one thread: every core has its device, and more would wait for each other."""
    import scipy.linalg  # noqa: F401  XLA's LAPACK is SciPy's, which has to be there to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def device() -> str:
    """The devices in words, for provenance: `2 × cpu`, `1 × NVIDIA H200`."""
    found = devices()
    return f"{len(found)} × {found[0].device_kind}"


def devices() -> list[jax.Device]:
    """All devices of all processes."""
    return jax.devices() if jax.process_count() > 1 else jax.local_devices()


def caution(name: Precision) -> str:
    """A sentence where the backend computes `name` slowly or by emulation, else the empty string."""
    if name == "float64" and jax.default_backend() == "tpu":
        return "This TPU emulates float64: expect it to be slow; bands are unchanged."
    return ""


class Layout(NamedTuple):
    """Where runs lie: `each` slots on every device of the mesh, worked on in batches of `lanes`."""

    mesh: Mesh
    lanes: int
    each: int

    @property
    def here(self) -> int:
        """Devices of this process."""
        return len(self.mesh.local_devices)

    def arranged(self, runs: np.ndarray, live: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs dealt over this process's devices: the run in each slot (-1: none), and batches on each device.

        The first of `runs` come first on every device, and the batches hold the first `live` of them.
        """
        slots = np.full((self.here, self.each), -1)
        counts = np.zeros(self.here, int)
        for device in range(self.here):
            mine = runs[device :: self.here]
            slots[device, : len(mine)] = mine
            counts[device] = len(range(device, live, self.here))
        return slots.ravel(), np.ceil(counts / self.lanes).astype(int)

    def batches(self, runs: int) -> int:
        """Batches on the fullest device of this process when it has `runs` runs."""
        return math.ceil(math.ceil(runs / self.here) / self.lanes)

    def narrowed(self, live: int) -> "Layout":
        """With half the lanes, or a quarter …, as long as they take the `live` runs of a process in one batch.

        For accelerators, which take all slots at once; on a CPU the batches behind the live runs are left out instead.
        """
        lanes = self.lanes
        while jax.default_backend() != "cpu" and lanes % 2 == 0 and lanes // 2 * self.here >= max(1, live):
            lanes //= 2
        return self._replace(lanes=lanes)

    def sharded(self, rows: Any) -> Any:
        """Rows of this process (slots along axis 0) on its devices, as parts of arrays over the whole mesh."""
        along = NamedSharding(self.mesh, ALONG)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(along, np.asarray(leaf)), rows)

    def replicated(self, values: Any) -> Any:
        """The same values on every device of the mesh."""
        whole = NamedSharding(self.mesh, WHOLE)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(whole, np.asarray(leaf)), values)

    def spread(self, piece: Piece, carried: bool = False) -> Any:
        """`piece(mapped, [carry,] *shared)` of one run, lifted to all slots and lowered, ready to be compiled.

        Takes (mapped, carry, batches, data, shared): `batches` of `lanes` slots follow one another on each device, the
        devices side by side; the slots behind them are handed through. A `carried` carry is the piece's second argument
        and given up by the caller; otherwise it is None, and the answer of slots behind the batches is zero.
        """
        lanes, each = self.lanes, self.each
        # on accelerators XLA itself chooses how matrices lie
        computed = piece.turned if jax.default_backend() == "cpu" else piece

        def device(mapped: Any, carry: Any, batches: Any, data: Any, shared: Any) -> Any:
            if not carried:
                carry = jax.tree.map(lambda leaf: jnp.zeros((each, *leaf.shape), leaf.dtype), piece.answer)
            one = lambda mapped, carry: computed(data, mapped, *((carry,) if carried else ()), *shared)
            cut = lambda leaf, i: jax.lax.dynamic_slice_in_dim(leaf, i * lanes, lanes)
            put = lambda leaf, part, i: jax.lax.dynamic_update_slice_in_dim(leaf, part, i * lanes, 0)

            def batch(i: Any, carry: Any) -> Any:
                slots = jax.tree.map(lambda leaf: cut(leaf, i), (mapped, carry))
                if lanes == 1:
                    alone = one(*jax.tree.map(lambda leaf: leaf[0], slots))
                    answer = jax.tree.map(lambda leaf: leaf[None], alone)
                else:
                    answer = jax.vmap(one)(*slots)
                return jax.tree.map(lambda leaf, part: put(leaf, part, i), carry, answer)

            return jax.lax.fori_loop(0, batches[0], batch, carry)

        mapped, *rest = piece.arguments
        slots = lambda leaf: jax.ShapeDtypeStruct(
            (self.mesh.size * each, *leaf.shape), leaf.dtype, sharding=NamedSharding(self.mesh, ALONG)
        )
        whole = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(self.mesh, WHOLE))
        counts = jax.ShapeDtypeStruct((self.mesh.size,), np.int32, sharding=NamedSharding(self.mesh, ALONG))
        shapes = (
            jax.tree.map(slots, mapped),
            jax.tree.map(slots, rest[0]) if carried else None,
            counts,
            jax.tree.map(whole, piece.data),
            jax.tree.map(whole, tuple(rest[1:] if carried else rest)),
        )
        specs = (ALONG, ALONG, ALONG, WHOLE, WHOLE)
        mapped_over = jax.shard_map(device, mesh=self.mesh, in_specs=specs, out_specs=ALONG, check_vma=False)
        return jax.jit(mapped_over, donate_argnums=(1,) if carried else ()).lower(*shapes)


def laid(
    runs: int, lanes: int | None, working_set: int, run_bytes: int, memory: int, decomposing: Decomposing = "nothing"
) -> Layout:
    """The layout for blocks of a cell of `runs` runs: even batches, as many slots as `memory` has room for.

    A step of one run touches `working_set` bytes; its state and records take `run_bytes`. On a CPU a batched LAPACK
    call waits for XLA's pool of threads: two devices in such calls wait for ever (seen with jax 0.10.2). So a program
    that is `decomposing` matrices takes one run at a time, where no call is batched, else one device of each process.
    """
    used = devices()[: runs if jax.process_count() == 1 else None]
    if decomposing != "nothing" and jax.default_backend() == "cpu":
        lanes = lanes or 1
        if decomposing == "batches" or lanes > 1:
            used = [next(device for device in used if device.process_index == i) for i in range(jax.process_count())]
    mesh = Mesh(np.array(used), ("run",), axis_types=(AxisType.Auto,))
    here, share = len(mesh.local_devices), -(-runs // mesh.size)
    fitting = lambda room: max(1, int(room // (2 * max(1, run_bytes) * here)))  # twice: a copy on its way to the host
    lanes = min(share, fitting(memory), lanes or lanes_for(share, working_set))
    each = min(share, fitting(memory))
    if jax.default_backend() == "cpu":
        each = min(each, max(lanes, fitting(BLOCK)))
    batches = -(-each // lanes)
    even = -(-each // batches)  # batches of equal size, so that the last is not mostly empty
    if jax.default_backend() != "cpu" and even > 2 * HALVINGS:
        even = (-(-even // HALVINGS) if share <= even else even // HALVINGS) * HALVINGS
    return Layout(mesh, even, even * batches)


def memory() -> int:
    """Bytes that a sweep plans with on this process's devices and host: `SHARE` of the smaller of the two memories."""
    limits = [device.memory_stats() for device in jax.local_devices() if device.platform != "cpu"]
    held = [limit["bytes_limit"] for limit in limits if limit and "bytes_limit" in limit]
    return int(SHARE * min([host_memory(), *([sum(held)] if held else [])]))


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's where that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path(path).read_text()))
    return min(sizes)


def exhausted(problem: Exception) -> bool:
    """Whether the device ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(problem) or "Out of memory" in str(problem)


def check_memory(memory: int | None) -> None:
    """Raise ValueError unless `memory` is None or a positive number of bytes."""
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise ValueError(f"memory takes a positive number of bytes or None, got {memory!r}")


def lanes_for(runs: int, working_set: int) -> int:
    """Runs in flight on one device for `runs` runs that touch `working_set` bytes in each step.

    All of them on an accelerator; on a CPU as many as fit a core's L2 cache, between 1 and 256.
    """
    if jax.default_backend() != "cpu":
        return max(1, runs)
    return max(1, min(256, runs, L2_CACHE // (2 * max(1, working_set))))


def check_lanes(lanes: int | None) -> None:
    """Raise ValueError unless `lanes` is None or a positive integer."""
    if lanes is not None and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
        raise ValueError(f"lanes takes a positive integer or None, got {lanes!r}")
