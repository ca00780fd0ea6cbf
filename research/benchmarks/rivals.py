"""What a user of JAX would write without a sweep: a loop over one jitted run, and `jit(vmap(scan))` over all runs.

A sweep makes every core a device and turns intra-op threads off before JAX starts, which those programs would not do.
So they are also timed in a `Sibling`, a process with JAX's own defaults that sits beside and works when it is asked.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from research import layout
from research.benchmarks.workloads import WORKLOADS, Workload


class Rival:
    """Both programs of a workload in this process: `time("loop")` and `time("naive")`."""

    def __init__(self, workload: Workload) -> None:
        self.mapped = workload.mapped()
        self.compiled: dict[str, Any] = {}
        self.compile_seconds: dict[str, float] = {}

        def trained(key: Any, rate: Any) -> Any:
            run = workload.one(key, rate)
            last, _ = jax.lax.scan(lambda state, _: (run.step(state), None), run.state, length=workload.steps)
            return run.observe(last).loss

        self.programs = {"loop": jax.jit(trained), "naive": jax.jit(jax.vmap(trained))}

    def time(self, name: str) -> dict[str, Any]:
        """The `seconds` of all runs, their `losses`, and what the compilation before took (`compile_seconds`)."""
        keys, rates = self.mapped
        with layout.precision("float32"):
            one = (keys[0], rates[0]) if name == "loop" else (keys, rates)
            if name not in self.compiled:
                began = time.perf_counter()
                self.compiled[name] = self.programs[name].lower(*one).compile()
                self.compile_seconds[name] = time.perf_counter() - began
                jax.block_until_ready(self.compiled[name](*one))
            program, each = self.compiled[name], list(zip(keys, rates, strict=True))
            began = time.perf_counter()
            losses = jax.block_until_ready([program(*run) for run in each] if name == "loop" else program(keys, rates))
            seconds = time.perf_counter() - began
        compiling = self.compile_seconds[name]
        return {"seconds": seconds, "losses": np.array(losses).tolist(), "compile_seconds": compiling}


class Sibling:
    """The same as `Rival`, computed in a process that has the environment of this moment; `close` ends it."""

    def __init__(self, workload: Workload) -> None:
        sizes = (len(workload.learning_rates), workload.seeds, workload.steps)
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, workload.name, *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def time(self, name: str) -> dict[str, Any]:
        """As `Rival.time`. Raises RuntimeError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and has said why on standard error
            print(name, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the process with JAX's own flags has ended")
        return json.loads(answer)

    def close(self) -> None:
        """End the process, and wait for its end."""
        with self.process:
            self.process.terminate()


if __name__ == "__main__":
    chosen = WORKLOADS[sys.argv[1]]
    rates, seeds, steps = map(int, sys.argv[2:])
    rival = Rival(chosen._replace(learning_rates=chosen.learning_rates[:rates], seeds=seeds, steps=steps))
    for line in sys.stdin:
        print(json.dumps(rival.time(line.strip())), flush=True)
