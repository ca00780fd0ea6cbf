import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from research import processes

HERE = Path(__file__).parent
AGAIN = "Start the same command again in every process: it goes on from what is stored."
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "JAX_PLATFORMS": "cpu"}


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def started(name, several=2, heartbeat=4, cluster=None):
    """The processes, which are killed at the end; where a `cluster` has variables for each, they are not told more."""
    port, running = free_port(), []
    try:
        for me in range(several):
            told = {"JAX_COORDINATOR_PORT": str(port), **cluster(several, me)} if cluster else {}
            numbers = map(str, (0 if cluster else port, several, me, heartbeat))
            command = [sys.executable, str(HERE / "together.py"), *numbers, name]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            running.append(subprocess.Popen(command, env=ENVIRONMENT | told, text=True, **pipes))
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def together(name, only=None, **options):
    """(status, output, errors, seconds) of the processes when they have ended."""
    began, found = time.monotonic(), []
    with started(name, **options) as running:
        for process in running[:only]:
            output, errors = process.communicate(timeout=began + 60 - time.monotonic())
            found.append((process.returncode, output, errors, time.monotonic() - began))
    return found


def test_one_process_is_all_there_is():
    assert (processes.count(), processes.index(), processes.first()) == (1, 0, True)
    assert processes.agreed(0.1) == 0.1
    assert processes.told(b"data") == b"data"
    assert processes.told(None) is None
    rows = np.arange(6.0).reshape(2, 3)
    assert processes.gathered(rows) is rows
    assert processes.share(7) == slice(0, 7)


def test_asking_who_is_who_starts_no_backend():
    code = (
        "from research import processes; from jax.extend import backend; import jax\n"
        "assert (processes.count(), processes.index(), processes.share(3)) == (1, 0, slice(0, 3))\n"
        "processes.agreed(1.0), processes.told(b'')\n"
        "jax.config.update('jax_num_cpu_devices', 3)  # raises where the backend has started\n"
        "print(len(jax.devices()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "3\n", ran.stderr


@pytest.mark.parametrize("several", [1, 2, 3, 7, 16])
def test_shares_are_even_and_leave_nothing_out(monkeypatch, several):
    monkeypatch.setattr(processes, "count", lambda: several)
    for total in range(40):
        parts = []
        for me in range(several):
            monkeypatch.setattr(processes, "index", lambda me=me: me)
            parts.append(range(total)[processes.share(total)])
        assert [run for part in parts for run in part] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_share_of_less_than_nothing():
    with pytest.raises(ValueError, match=r"total.*-1"):
        processes.share(-1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("10.0.0.1:1234", None, None), r"num_processes and process_id"),
        ((None, 2, 0), r"without coordinator"),
        (("10.0.0.1:1234", 2, None), r"without process_id"),
        (("10.0.0.1", 2, 0), r"coordinator takes HOST:PORT.*'10\.0\.0\.1'"),
        ((":1234", 2, 0), r"coordinator takes HOST:PORT"),
        (("10.0.0.1:", 2, 0), r"coordinator takes HOST:PORT"),
        (("10.0.0.1:0", 2, 0), r"coordinator takes HOST:PORT"),
        (("10.0.0.1:65536", 2, 0), r"coordinator takes HOST:PORT"),
        (("10.0.0.1:12x", 2, 0), r"coordinator takes HOST:PORT"),
        (("http://10.0.0.1:1234", 2, 0), r"coordinator takes HOST:PORT"),
        ((1234, 2, 0), r"coordinator takes HOST:PORT"),
        (("10.0.0.1:1234", 0, 0), r"num_processes takes a positive integer, got 0"),
        (("10.0.0.1:1234", 2.0, 0), r"num_processes takes a positive integer, got 2\.0"),
        (("10.0.0.1:1234", True, 0), r"num_processes"),
        (("10.0.0.1:1234", 2, 2), r"process_id takes 0 to 1 .*got 2"),
        (("10.0.0.1:1234", 2, -1), r"process_id takes 0 to 1 .*got -1"),
        (("10.0.0.1:1234", 2, "1"), r"process_id takes 0 to 1 .*got '1'"),
        (("10.0.0.1:1234", 2, False), r"process_id"),
    ],
)
def test_arguments_are_checked_before_anything_starts(monkeypatch, arguments, said):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("was called"))
    with pytest.raises(ValueError, match=said):
        processes.initialize(*arguments)


@pytest.mark.parametrize("seconds", [{"heartbeat": 0}, {"patience": 1.5}])
def test_times_are_checked_too(seconds):
    (name,) = seconds
    with pytest.raises(ValueError, match=f"{name} takes a positive integer"):
        processes.initialize("10.0.0.1:1234", 2, 0, **seconds)


@pytest.mark.parametrize("rows", [np.float64(1.0), np.array([None])])
def test_what_is_gathered_has_rows_of_numbers(rows):
    with pytest.raises(ValueError, match="array of numbers that has rows"):
        processes.gathered(rows)


def alone(code, ends=60):
    code = f"from research import processes\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=ends)


def test_no_cluster_is_said_with_what_to_pass():
    ran = alone("processes.initialize()")
    assert ran.returncode == 1
    assert "JAX finds no cluster (SLURM, Open MPI, Kubernetes, TPU pod)" in ran.stderr
    assert ran.stderr.endswith("Pass coordinator (HOST:PORT), num_processes and process_id by hand\n")


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"process 0 cannot listen at {address}: .*in use"):
            processes.initialize(address, 2, 0)


@pytest.mark.parametrize("me", [0, 1])
def test_a_process_that_is_left_alone_says_what_it_waited_for(me):
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    ran = alone(f"processes.initialize({address!r}, 2, {me}, patience=2)")
    assert time.monotonic() - began < 30
    assert ran.returncode == -signal.SIGABRT
    last = ran.stderr.splitlines()[-1]
    assert last.startswith(f"process {me} of 2 has ended before it met the others at {address}, for which it waits 2 s")


@pytest.mark.parametrize("several", [2, 3])
def test_every_process_gets_what_all_have(several):
    for status, output, errors, _ in together("exchanges", several=several):
        assert (status, output.splitlines()[-1]) == (0, "all exchanged"), errors


def slurm(several, me):
    names = ("JOB_ID", "STEP_NODELIST", "STEP_NUM_NODES", "NTASKS", "PROCID", "LOCALID")
    return {
        f"SLURM_{name}": str(value) for name, value in zip(names, (7, "127.0.0.1", 1, several, me, me), strict=True)
    }


def open_mpi(several, me):
    size = {"SIZE": several, "RANK": me, "LOCAL_RANK": me}
    address = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in size.items()} | address


@pytest.mark.parametrize("cluster", [slurm, open_mpi])
def test_a_cluster_tells_who_is_who(cluster):
    for status, output, errors, _ in together("exchanges", cluster=cluster):
        assert (status, output.splitlines()[-1]) == (0, "all exchanged"), errors


def test_much_is_sent_in_pieces():
    for status, output, errors, _ in together("pieces"):
        assert (status, output.splitlines()[-1]) == (0, "all exchanged"), errors


def test_rows_of_two_kinds_are_an_error_everywhere():
    for me, (status, output, errors, _) in enumerate(together("kinds")):
        assert status == 0, errors
        assert f"process {me} has {('float32', 'float64')[me]}[3]" in output.splitlines()[-1]


def test_processes_wait_for_each_other_longer_than_a_heartbeat():
    found = together("waits", heartbeat=3)
    assert [(status, output.splitlines()[-1]) for status, output, *_ in found] == [(0, "together")] * 2
    assert abs(found[0][3] - found[1][3]) < 2


def test_rows_are_the_same_bits_on_one_process_and_on_two():
    ((status, alone, errors, _),) = together("swept", several=1)
    assert status == 0, errors
    for status, output, errors, _ in together("swept"):
        assert status == 0, errors
        assert output.splitlines()[-1] == alone.splitlines()[-1]


@pytest.mark.parametrize("name", ["lost_while_waiting", "lost_while_computing", "lost_at_the_end", "terminated"])
def test_a_lost_process_ends_the_other_with_a_clear_message(name):
    kept, lost = together(name)
    assert lost[0] == (-signal.SIGTERM if name == "terminated" else -signal.SIGKILL)
    assert lost[2].splitlines()[-1].startswith("process 1 of 2 has ended")
    status, _, errors, seconds = kept
    assert status in (1, -signal.SIGABRT)
    last = errors.splitlines()[-1]
    assert "another process has ended or cannot be reached" in last
    assert last.endswith(AGAIN)
    assert seconds < 30


def test_a_process_that_hangs_counts_as_lost():
    ((status, _, errors, seconds),) = together("stopped", only=1)
    assert status == -signal.SIGABRT
    last = errors.splitlines()[-1]
    assert last.startswith("process 0 of 2 has ended")
    assert last.endswith(AGAIN)
    assert seconds < 30


def test_process_0_is_missed_at_once():
    with started("waits", heartbeat=25) as (lost, kept):
        assert "met\n" in lost.stdout  # reads until then
        lost.kill()
        began = time.monotonic()
        _, errors = kept.communicate(timeout=60)
        assert time.monotonic() - began < 10
        assert kept.returncode in (1, -signal.SIGABRT)
        assert errors.splitlines()[-1].endswith(AGAIN)


def test_an_exception_in_one_process_ends_all():
    kept, failed = together("failed", heartbeat=25)
    assert failed[0] == 1
    assert failed[2].splitlines()[-1] == "ZeroDivisionError: a mistake in one process"
    assert kept[0] == 1
    last = kept[2].splitlines()[-1]
    assert last.startswith("another process has ended or cannot be reached (")
    assert last.endswith(AGAIN)
    assert max(failed[3], kept[3]) < 20  # not only after the heartbeat


def test_processes_that_come_apart_end():
    for me, (status, _, errors, seconds) in enumerate(together("apart", heartbeat=25)):
        assert status == 1
        assert f"process {me} is at exchange 1 ({('agreed', 'end')[me]})" in errors.splitlines()[-1]
        assert seconds < 20
