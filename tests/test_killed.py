"""Killed at random moments, also half-way through a write, and started again: the same numbers, bit by bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from research.store import Store, read

HERE = Path(__file__).parent


def started(path, cache, *arguments):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(cache),
    }
    command = [sys.executable, str(HERE / "killed.py"), str(path), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process):
    output, problem = process.communicate(timeout=120)
    assert process.returncode == 0, problem
    return output


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_sweep_ends_as_if_nothing_had_been(seed, tmp_path):
    random = np.random.default_rng(seed)
    path, undisturbed, cache = tmp_path / "killed" / "a.nc", tmp_path / "whole" / "a.nc", tmp_path / "cache"
    segments = len(finished(started(undisturbed, cache)).splitlines())
    kills, reached, lives = 0, 0, []
    while kills < 10:
        write = kills % 2
        process = started(path, cache, *([random.integers(1, 5)] if write else []))
        if not write:
            for _ in range(random.integers(1, 5)):
                process.stdout.readline()
            time.sleep(random.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        output, problem = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, problem
        kills += 1
        lives.append(output)
        reached = max(reached, len(list((path.parent / "a.cells").glob("*.npz"))))
    rest = finished(started(path, cache)).splitlines()
    assert reached > 0  # blocks were finished on the way
    assert len(rest) < segments  # and were not done again
    left, right = read(path), read(undisturbed)
    assert left.diverged.any()
    assert left.identical(right.assign_attrs(left.attrs))
    Store(path).clean()
    assert [child.name for child in path.parent.iterdir()] == ["a.nc"]
