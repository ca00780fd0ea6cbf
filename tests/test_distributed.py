"""Several real processes on this machine: the same numbers as one; and where one is killed, none hangs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.store import read

HERE = Path(__file__).parent


def started(script, *arguments, cache):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(cache),
    }
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextlib.contextmanager
def several(path, cache, count=2):
    """The processes of one sweep, which are gone at the end whatever happens."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    running = [started("several.py", path, port, count, index, cache=cache) for index in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()  # waits, and closes its pipes


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process of two devices computes, and the cache of its compilations."""
    folder = tmp_path_factory.mktemp("alone")
    process = started("killed.py", folder / "a.nc", cache=folder / "cache")
    assert process.communicate(timeout=200)[0]
    assert process.returncode == 0
    return read(folder / "a.nc"), folder / "cache"


@pytest.mark.xdist_group("several")
def test_two_processes_compute_what_one_does(alone, tmp_path):
    expected, cache = alone
    with several(tmp_path / "a.nc", cache) as running:
        ended = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    found = read(tmp_path / "a.nc")
    assert found.identical(expected.assign_attrs(found.attrs))
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


@pytest.mark.xdist_group("several")
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_others_end_and_all_go_on_when_started_again(victim, alone, tmp_path):
    expected, cache = alone
    with several(tmp_path / "a.nc", cache) as running:
        for _ in range(6):
            assert running[victim].stdout.readline()
        running[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        _, said = running[1 - victim].communicate(timeout=60)
        assert time.monotonic() - killed < 60
    assert running[1 - victim].returncode != 0
    assert "another process has ended" in said
    assert "Start the same command again" in said
    assert list((tmp_path / "a.cells").iterdir())
    with several(tmp_path / "a.nc", cache) as running:
        ended = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    found = read(tmp_path / "a.nc")
    assert found.identical(expected.assign_attrs(found.attrs))
