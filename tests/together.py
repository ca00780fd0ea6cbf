"""One of the processes that a test starts: `python together.py PORT COUNT INDEX HEARTBEAT NAME`, NAME being a function.

Without a PORT (0) a cluster's variables tell the rest. What the function returns is printed as the last line. Process 1
is the one that gets lost.
"""

import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from research import layout, processes

PATIENCE = 30


def rows(process, dtype):
    """Rows that no conversion survives: as many as the process's number, with odd bits."""
    bits = np.random.default_rng(process).integers(0, 256, (process, 3, np.dtype(dtype).itemsize), np.uint8)
    return (bits & 1).view(bool)[..., 0] if dtype == "bool" else bits.view(dtype)[..., 0]


DTYPES = ("float64", "float32", "int64", "int32", "uint32", "bool", "complex128")


def exchanges():
    me, several = processes.index(), processes.count()
    assert (me, several, processes.first()) == (int(sys.argv[3]), int(sys.argv[2]), me == 0)
    largest = processes.agreed(0.1 + me)
    assert np.float64(largest).tobytes() == np.float64(0.1 + several - 1).tobytes()
    assert np.isnan(processes.agreed(float("nan") if me else 1.0))
    for data in (b"", b"one", bytes(range(256)) * 5000):
        assert processes.told(b"mine" if me else data) == data
    assert processes.told(b"mine" if me else None) is None
    assert processes.told(None if me else b"his") == b"his"
    for dtype in DTYPES:
        expected = np.concatenate([rows(each, dtype) for each in range(several)])
        found = processes.gathered(rows(me, dtype))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    assert processes.gathered(np.zeros((0, 4))).shape == (0, 4)
    assert processes.gathered(np.arange(8.0).reshape(2, 4)[:, ::2])[-2:].tolist() == [[0.0, 2.0], [4.0, 6.0]]
    part = processes.share(11)
    assert processes.gathered(np.arange(11)[part]).tolist() == list(range(11))
    return "all exchanged"


def pieces():
    """More bytes than are sent at a time, and not a multiple of it."""
    from research import exchange

    exchange.IN_FLIGHT = 1 << 10
    own = np.random.default_rng(processes.index()).normal(size=(100 + 57 * processes.index(), 5))
    found = processes.gathered(own)
    expected = [np.random.default_rng(each).normal(size=(100 + 57 * each, 5)) for each in range(processes.count())]
    assert found.tobytes() == np.concatenate(expected).tobytes()
    return "all exchanged"


def kinds():
    try:
        processes.gathered(np.zeros((2, 3), np.float32 if processes.first() else np.float64))
    except ValueError as problem:
        return problem


def waits():
    """The first process comes late to an exchange, and ends later still."""
    time.sleep(2 + int(sys.argv[4]) if processes.first() else 0)
    processes.agreed(1.0)
    time.sleep(2 + int(sys.argv[4]) if processes.first() else 0)
    return "together"


def lost_while_waiting():
    _lose()
    processes.agreed(1.0)


def lost_while_computing():
    _lose()
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, 10**9, lambda _, y: jnp.sin(y), x))
    loop(jnp.ones(1000)).block_until_ready()


def lost_at_the_end():
    _lose()


def stopped():
    """As when its machine is switched off: the connections stay."""
    if processes.index() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    processes.agreed(1.0)


def terminated():
    if processes.index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    processes.agreed(1.0)


def failed():
    if processes.index() == 1:
        raise ZeroDivisionError("a mistake in one process")
    processes.agreed(1.0)


def apart():
    """One process gets over an error and ends, while the other needs it."""
    if processes.index() == 0:
        processes.agreed(1.0)


def swept():
    """Rows that are computed on the devices of all processes, each by one device."""
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    along, whole = PartitionSpec("run"), PartitionSpec()
    mesh = Mesh(np.array(jax.devices()), ("run",), axis_types=(AxisType.Auto,))

    def piece(x, trips, scale):
        return jax.lax.fori_loop(0, trips[0], lambda k, y: jnp.sin(scale * y @ y + k), x[0])[None]

    with layout.precision("float64"):
        mapped = jax.shard_map(piece, mesh=mesh, in_specs=(along, along, whole), out_specs=along, check_vma=False)
        x, trips = np.random.default_rng(0).normal(size=(4, 30, 30)), np.arange(20, 24, dtype=np.int32)
        part = processes.share(4)
        lay = lambda rows: jax.make_array_from_process_local_data(NamedSharding(mesh, along), rows[part])
        shards = sorted(
            jax.jit(mapped)(lay(x), lay(trips), np.float64(0.3)).addressable_shards, key=lambda s: s.device.id
        )
        return processes.gathered(np.concatenate([shard.data for shard in shards])).tobytes().hex()


def _lose():
    if processes.index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    port, several, me, heartbeat = map(int, sys.argv[1:5])
    jax.config.update("jax_num_cpu_devices", 4 // several)
    layout.prepare()
    if several > 1:
        given = (f"127.0.0.1:{port}", several, me) if port else ()
        processes.initialize(*given, heartbeat=heartbeat, patience=PATIENCE)
        print("met", flush=True)
    print(globals()[sys.argv[5]](), flush=True)
