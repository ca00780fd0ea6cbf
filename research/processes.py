"""The several processes of one sweep: who is who, what all of them know, and that all of them end.

initialize(...)         once, after `layout.prepare()` and before the first array; without it there is one process
count, index, first     who is who
share(total)            which runs are a process's own
agreed, told, gathered  exchanges: every process makes the same ones, in the same order, in one thread

A process that dies is noticed at once where the others wait for it in an exchange, or where it is process 0, and else
after the heartbeat. The others then end, by ProcessLost or by JAX's SIGABRT, and say what to do.
"""

import atexit
import functools
import signal
import socket
import sys
import zlib
from typing import Any

import jax
import numpy as np

from research.exchange import AGAIN, ProcessLost, joined, met
from research.witness import Witness

__all__ = ["ProcessLost", "agreed", "count", "first", "gathered", "index", "initialize", "share", "told"]


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat: int = 30,
    patience: int = 300,
) -> None:
    """Make this process one of several, and meet the others.

    `coordinator` is the HOST:PORT at which process 0 listens and the others find it; all three are None where SLURM,
    Open MPI, Kubernetes or a TPU pod tells JAX. A process is dead after `heartbeat` seconds without a sign of life. The
    others are waited for `patience` seconds; then JAX aborts this one, and its witness says why. From here on an
    unhandled exception ends the process at once, so that the others notice, and its normal end waits for theirs.

    Raises ValueError naming the argument that is wrong, or where JAX finds no cluster; ConnectionError where process 0
    cannot listen; ProcessLost where the first exchange fails; RuntimeError where JAX has started already.
    """
    _check(coordinator, num_processes, process_id, heartbeat, patience)
    if jax.distributed.is_initialized():
        raise RuntimeError("processes.initialize was called a second time")
    if coordinator and process_id == 0:
        _listen(coordinator)
    # JAX would take SIGTERM for a notice of preemption and go on: `timeout` and scancel mean what they say
    config: Any = jax.config
    config.update("jax_enable_preemption_service", False)
    who = f"process {process_id} of {num_processes}" if coordinator else "this process"
    where = f" at {coordinator}" if coordinator else ""
    witness = Witness()
    witness.keep(
        f"{who} has ended before it met the others{where}, for which it waits {patience} s: start all of them, with "
        "the same coordinator and number of processes, where they can reach that address"
    )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=max(1, patience // 2),  # it waits twice as long (measured)
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
        # Gloo's first exchange fails where a process comes to it 30 s after another, and later ones wait without limit:
        # it is made now, when all have just met.
        met("start")
    except BaseException as problem:
        witness.release()
        if isinstance(problem, ValueError):
            raise ValueError(
                f"JAX finds no cluster (SLURM, Open MPI, Kubernetes, TPU pod) here: {problem} Pass coordinator "
                f"(HOST:PORT), num_processes and process_id by hand"
            ) from problem
        raise
    witness.keep(
        f"process {index()} of {count()} has ended: it was killed, or another process has ended or cannot be reached "
        f"(the lines above, or its own output, say which). {AGAIN}"
    )
    sys.excepthook = functools.partial(witness.end, sys.excepthook)
    atexit.register(_leave, witness)  # runs before JAX's own handler, which was registered at its import


def count() -> int:
    """The number of processes; 1 without `initialize`, and then no backend is started."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this process, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def first() -> bool:
    """Whether this is process 0, which writes the files and speaks."""
    return index() == 0


def share(total: int) -> slice:
    """The part of `total` runs that is this process's own: contiguous, in the order of processes, of even sizes.

    Raises ValueError for a negative `total`.
    """
    if total < 0:
        raise ValueError(f"total takes a number of runs, got {total!r}")
    return slice(total * index() // count(), total * (index() + 1) // count())


def agreed(value: float) -> float:
    """The largest value of all processes; NaN where one of them is. Raises ProcessLost."""
    if count() == 1:
        return float(value)
    return float(met("agreed", np.float64(value).view(np.int64))[:, 0].copy().view(np.float64).max())


def told(data: bytes | None) -> bytes | None:
    """What process 0 has, in every process; what the others have is ignored. Raises ProcessLost."""
    if count() == 1:
        return data
    own = np.frombuffer((data if first() else b"") or b"", np.uint8)
    sizes = met("told", -1 if first() and data is None else own.size)[:, 0]
    return joined(own, sizes).tobytes() if sizes[0] >= 0 else None


def gathered(rows: np.ndarray) -> np.ndarray:
    """The rows (axis 0, as many as each has) of all processes, in the order of processes, bit by bit, in every process.

    Raises ValueError where the dtypes or the other axes differ, in every process; ProcessLost.
    """
    if rows.ndim == 0 or rows.dtype.hasobject:
        raise ValueError(f"gathered takes an array of numbers that has rows, got {rows!r}")
    if count() == 1:
        return rows
    kind = f"{rows.dtype}{list(rows.shape[1:])}"
    lengths, kinds = met("gathered", len(rows), zlib.crc32(kind.encode())).T
    if (kinds != kinds[0]).any():
        raise ValueError(f"gathered takes rows of one kind: process {index()} has {kind}, and not all have the same")
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=int))
    together = joined(np.ascontiguousarray(rows).reshape(-1).view(np.uint8), lengths * width)
    return together.view(rows.dtype).reshape(lengths.sum(), *rows.shape[1:])


def _listen(coordinator: str) -> None:
    """Raise ConnectionError where a port is taken, on which JAX crashes (SIGSEGV in jax 0.10.2 and 0.12.0.1)."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except OSError as problem:
        raise ConnectionError(f"process 0 cannot listen at {coordinator}: {problem.strerror}") from problem


def _leave(witness: Witness) -> None:
    """End with the others. JAX's own handler would wait for a limited time, and then abort them all."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would hear of Ctrl-C only after the wait
    try:
        if count() > 1:
            met("end")
        jax.distributed.shutdown()
    except Exception as problem:
        witness.end(sys.__excepthook__, type(problem), problem, problem.__traceback__)
    witness.release()


def _check(coordinator: Any, num_processes: Any, process_id: Any, heartbeat: Any, patience: Any) -> None:
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ValueError(f"{', '.join(given)} go together: got {given}, without {' and '.join(missing)}")
    counts = {"heartbeat": heartbeat, "patience": patience} | ({} if missing else {"num_processes": num_processes})
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} takes a positive integer, got {value!r}")
    if missing:
        return
    host, _, port = str(coordinator).rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16) or set(host) & set("/ "):
        raise ValueError(f"coordinator takes HOST:PORT, such as 10.0.0.1:1234, got {coordinator!r}")
    if isinstance(process_id, bool) or not isinstance(process_id, int) or not 0 <= process_id < num_processes:
        raise ValueError(f"process_id takes 0 to {num_processes - 1} in {num_processes} processes, got {process_id!r}")
