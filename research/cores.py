"""Calls that do not depend on each other, on all cores of the machine."""

import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

WORTH = 4.0  # seconds ahead from which other processes are started, which takes each of them about one


def answers(function: Callable, inputs: Sequence[tuple]) -> list[Any]:
    """`function(*each)` of every one of the inputs, in their order.

    In this process, and from where the calls ahead would take more than `WORTH` seconds in one process a core. Those
    have one thread each: oracles decompose small matrices, at which several threads only wait for each other. What the
    function raises is raised here.
    """
    import joblib

    done: list[Any] = []
    for number, each in enumerate(inputs):
        began = time.perf_counter()
        done.append(function(*each))
        ahead = (time.perf_counter() - began) * (len(inputs) - len(done))
        if number and ahead > WORTH and joblib.cpu_count() > 1:  # the first one may have had to import a solver
            with joblib.parallel_config("loky", inner_max_num_threads=1):
                asked = (joblib.delayed(_undisturbed)(function, other) for other in inputs[len(done) :])
                return done + joblib.Parallel(n_jobs=joblib.cpu_count())(asked)
    return done


def _undisturbed(function: Callable, values: tuple) -> Any:
    """The call in a process of its own, which leaves Ctrl-C and SIGTERM to the one that asked."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    return function(*values)
