"""One workload, all who train it, side by side: A B C, A B C, … in one process, and the fastest time of each.

A sweep is timed by its own provenance: `run_seconds`, all segments of its runs with what it records, checks and reports
in between, apart from `compile_seconds`. The wall clock of the first whole call, compilation included, stands beside.
Rivals may have several settings (number of threads, flags, lanes): the best one counts, and those far from it are
dropped after the first round. A rival that fails, or that ends at other losses than the sweep, has a reason, no time.
"""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from research import layout
from research.benchmarks import machine
from research.benchmarks.rivals import Rival, Sibling
from research.benchmarks.workloads import WORKLOADS, Workload
from research.sweep import sweep

OURS = "sweep"
EAGER, FUNC, LOOP, NAIVE, LANES = RIVALS = ("torch eager", "torch.func", "JAX loop", "naive JAX", "best lanes")
EXTRAPOLATED = 4  # runs of torch eager that are timed; the others cost the same
WORTH = 2.0  # a setting that takes so many times as long as the best one in the first round is not timed again
ABSOLUTE, RELATIVE = 1e-4, 1e-2  # how far final losses may be apart: of the initial loss, and of the final one
REST = 0.2  # seconds; threads that wait for more work spin for a shorter time


class Timing(NamedTuple):
    """What one execution took: seconds of all runs, the final losses of those that were timed, and of a sweep more."""

    seconds: float
    losses: np.ndarray
    whole: float | None = None
    compiling: float | None = None


class Entrant(NamedTuple):
    """Who trains the workload, in which setting, and how."""

    name: str
    setting: str
    train: Callable[[], Timing]


def compare(workload: Workload, repeats: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Time everyone `repeats` times: a record, for JSON, of times, reasons, costs and the machine."""
    load = os.getloadavg()[0]
    with contextlib.closing(Sibling(workload)) as sibling:  # it starts before the flags of a sweep are set
        layout.prepare()
        reasons: dict[str, str] = {}
        field = [Entrant(OURS, "", functools.partial(swept, workload)), *_jax(workload, sibling), *_lanes(workload)]
        try:
            field += _torch(workload)
        except ImportError as problem:
            because = f"torch is not installed ({problem}): pip install -e '.[peers]'"
            reasons = {EAGER: because, FUNC: because}
        timed = interleaved(field, repeats, reasons, say)
    best = judged(timed, initial_loss(workload), reasons)
    cost = machine.cost(workload, int(best[LANES]["setting"]) if LANES in best else 1)
    matmul, by = machine.matmul_rate()
    copy, rate = machine.copy_rate(cost.bytes), workload.runs * workload.steps / best[OURS]["seconds"]
    bound = machine.bound(cost, rate, matmul, copy)
    return {
        "workload": workload.name,
        "title": workload.title,
        "runs": workload.runs,
        "steps": workload.steps,
        "quick": workload != WORKLOADS[workload.name],
        "times": best,
        "reasons": reasons,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "matmul": matmul,
        "matmul_by": by,
        "copy": copy,
        "arithmetic": rate * cost.flops / matmul,
        "share": bound.share,
        "bound": bound.of,
        "load": [load, os.getloadavg()[0]],
        **machine.described(),
    }


def interleaved(
    field: list[Entrant], repeats: int, reasons: dict[str, str], say: Callable[[str], None]
) -> dict[tuple[str, str], list[Timing]]:
    """(name, setting) -> its times, round after round; who fails is out, and `reasons` says why."""
    timed: dict[tuple[str, str], list[Timing]] = {}
    for turn in range(repeats):
        for entrant in tuple(field):
            time.sleep(REST)
            try:
                timing = entrant.train()
            except Exception as problem:  # whatever goes wrong in a rival must not take the others down
                field = [each for each in field if each is not entrant]
                reasons[entrant.name] = f"{entrant.setting} {type(problem).__name__}: {problem}".strip()
                say(f"  {entrant.name} {reasons[entrant.name]}")
                continue
            timed.setdefault((entrant.name, entrant.setting), []).append(timing)
            say(f"  round {turn + 1}  {entrant.name:12s} {entrant.setting:14s} {timing.seconds:10.3f} s")
        if turn == 0:
            field = [each for each in field if _worth(each, timed)]
    return timed


def _worth(entrant: Entrant, timed: dict[tuple[str, str], list[Timing]]) -> bool:
    """Whether the entrant's setting took about as long as the best one of the same name."""
    least = min(timings[0].seconds for (name, _), timings in timed.items() if name == entrant.name)
    return timed[entrant.name, entrant.setting][0].seconds <= WORTH * least


def judged(
    timed: dict[tuple[str, str], list[Timing]], initial: np.ndarray, reasons: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Name -> its best setting with the fastest time in it, of all who end at the losses of the sweep."""
    reference = timed[OURS, ""][0].losses
    best: dict[str, dict[str, Any]] = {}
    for (name, setting), timings in timed.items():
        apart = max(_apart(timing.losses, reference, initial) for timing in timings)
        if not apart <= 1:
            reasons[name] = f"{setting} ends at other losses than the sweep, {apart:.3g} times what is allowed".strip()
            continue
        settings = best.get(name, {}).get("settings", {})
        fastest = min(timings, key=lambda timing: timing.seconds)
        settings[setting] = fastest.seconds
        if fastest.seconds == min(settings.values()):
            best[name] = {
                "seconds": fastest.seconds,
                "setting": setting,
                "runs": len(fastest.losses),
                "whole": timings[0].whole,
                "compile": timings[0].compiling,
                "rounds": [timing.seconds for timing in timings],
            }
        best[name]["settings"] = settings
    return best


def _apart(losses: np.ndarray, reference: np.ndarray, initial: np.ndarray) -> float:
    """The largest difference between two sets of final losses, in units of what float32 allows."""
    count = len(losses)
    allowed = ABSOLUTE * initial[:count] + RELATIVE * np.abs(reference[:count])
    return float(np.max(np.abs(losses - reference[:count]) / allowed))


def swept(workload: Workload, lanes: int | None = None) -> Timing:
    """One call of `sweep`."""
    began = time.perf_counter()
    dataset = sweep(workload.simulate, workload.axes, seeds=workload.seeds, lanes=lanes, precision="float32")
    whole = time.perf_counter() - began
    facts = json.loads(dataset.attrs["provenance"])
    seconds = facts.get("run_seconds", facts["wall_seconds"])
    return Timing(seconds, dataset.loss.isel(step=-1).values.ravel(), whole, facts.get("compile_seconds"))


def initial_loss(workload: Workload) -> np.ndarray:
    """The loss of every run before its first step."""
    with layout.precision("float32"):
        first = jax.vmap(lambda key, rate: (run := workload.one(key, rate)).observe(run.state).loss)
        return np.asarray(first(*workload.mapped()))


def _lanes(workload: Workload) -> list[Entrant]:
    """A sweep with every power of two as its number of lanes, up to all runs of a device."""
    most = -(-workload.runs // len(jax.local_devices()))
    numbers = sorted({*(2**power for power in range(most.bit_length())), most})
    return [Entrant(LANES, str(lanes), functools.partial(swept, workload, lanes)) for lanes in numbers]


def _jax(workload: Workload, sibling: Sibling) -> list[Entrant]:
    """The loop and the naive program, with a sweep's flags in this process and with JAX's own in the other."""
    here = Rival(workload)

    def train(process: Rival | Sibling, program: str) -> Timing:
        answer = process.time(program)
        return Timing(answer["seconds"], np.array(answer["losses"]), compiling=answer["compile_seconds"])

    return [
        Entrant(name, setting, functools.partial(train, process, program))
        for name, program in ((LOOP, "loop"), (NAIVE, "naive"))
        for setting, process in (("sweep's flags", here), ("default flags", sibling))
    ]


def _torch(workload: Workload) -> list[Entrant]:
    """Both ways in torch, with one thread and with one for every core. Raises ImportError where torch is missing."""
    import torch

    from research.benchmarks import peers

    trained, few = peers.peer(workload), min(EXTRAPOLATED, workload.runs)

    def train(way: Callable[[Any], tuple[float, np.ndarray]], share: float, threads: int) -> Timing:
        torch.set_num_threads(threads)
        way(trained._replace(steps=min(3, trained.steps)))  # warms up
        seconds, losses = way(trained)
        return Timing(seconds / share, losses)

    eager = lambda peer: peers.eager(peer, few)
    return [
        Entrant(name, f"{threads} thread{'s' * (threads > 1)}", functools.partial(train, way, share, threads))
        for name, way, share in ((EAGER, eager, few / workload.runs), (FUNC, peers.vmapped, 1.0))
        for threads in sorted({1, os.cpu_count() or 1})
    ]
