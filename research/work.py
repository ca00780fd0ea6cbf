"""The runs of a plan, done: what is stored is read, what is missing is computed block by block, and kept."""

import collections
import contextlib
import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from research import assembly, cache, layout, processes
from research.block import Block, Kept, Machine
from research.plan import Plan
from research.store import Arrays
from research.workshop import Workshop

Put = Callable[[int, int, Arrays], None]
Ranges = list[tuple[int, int]]
PAYS = 10  # times what it took to compile a program must be ahead before other numbers of lanes are tried
SHORT = 10.0  # seconds ahead for which none are
GAIN = 0.95  # of the time is what another number of lanes must come down to
log = logging.getLogger("research")


class Options(NamedTuple):
    """How a sweep's work is to be done; see `research.sweep.sweep`. `giving`: what runs are given is asked for too."""

    place: Any
    lanes: int | None
    memory: int
    checkpoint: float
    progress: Callable[[float, int, str], None]
    giving: bool = True


class Work:
    """The work of one sweep, as a context: programs compile in a thread of their own while earlier ones run.

    `parts` are the runs to do of each cell, as (first, behind the last). `facts` say afterwards what was done.
    """

    def __init__(
        self, planned: Plan, parts: Ranges, addresses: list[str], stored: xr.Dataset | None, options: Options
    ) -> None:
        self.planned, self.parts, self.addresses, self.stored = planned, parts, addresses, stored
        self.options, self.place = options, options.place
        self.total = sum(last - first for first, last in parts)
        self.done, self.unsaved = 0, False
        self.facts: dict[str, Any] = {
            "cells": len(parts),
            **dict.fromkeys(("cells_reused", "runs_reused", "steps", "steps_ahead"), 0),
            **dict.fromkeys(("compile_seconds", "run_seconds"), 0.0),
        }

    def __enter__(self) -> "Work":
        numbers = range(len(self.parts))
        with contextlib.ExitStack() as stack:
            stack.enter_context(layout.precision(self.planned.precision))
            stack.enter_context(layout.single_threaded_decompositions())
            runs = [last - first for first, last in self.parts]
            self.workshop = Workshop(self.planned, runs, self.options.memory)
            ahead = self.planned.programs.values()  # compiled before this work began
            self.facts["compile_seconds"] = sum(each.seconds for each in ahead)
            self.missing = [self._missing(number) for number in numbers]
            self.pool = ThreadPoolExecutor(1, "compilation")
            self.machines, self.givers = {}, {}
            for number in numbers:
                if self.missing[number]:
                    self.machines[number] = self._submitted(number)
                if self.options.giving and self.planned.cells[number].program.shape.given:
                    self.givers[number] = self.pool.submit(self._giver, number).result
            self.context = stack.pop_all()
        return self

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        # who is to end here must not wait; else what the thread traces is to be gone before something else is traced
        self.pool.shutdown(wait=problem is None or isinstance(problem, Exception), cancel_futures=True)
        self.facts["compile_seconds"] += self.workshop.seconds
        self.context.__exit__(kind, problem, trace)

    def cell(self, number: int, put: Put) -> None:
        """Do the cell's part, and hand each stretch of runs to `put` as it is finished."""
        cell, address = self.planned.cells[number], self.addresses[number]
        done = self._stored(number, put)
        missing = _gaps(done, *self.parts[number])
        reused = sum(last - first for first, last in done)
        self.facts["runs_reused"] += reused
        self.done += reused
        self.facts["cells_reused"] += not missing
        if missing and not self.missing[number]:  # what was stored could not be read
            self.missing[number] = missing
            self.machines[number] = self._submitted(number)
        queue = collections.deque(missing)
        while queue:
            first, last = queue.popleft()
            try:
                machine = self._ready(number)
                middle = min(last, first + machine.layout.each * machine.layout.mesh.size)
                arrays = self._computed(number, machine, first, middle)
            except jax.errors.JaxRuntimeError as problem:
                self._halve(number, problem)
                queue.appendleft((first, last))
                continue
            if middle < last:
                queue.appendleft((middle, last))
                last = middle
            if self.place:
                self._kept(functools.partial(self.place.save_block, address, first, last, arrays))
            put(first, last, arrays)
            self.done += last - first
        self.machines.pop(number, None)
        self.options.progress(self.done, self.total, cell.name)

    def given(self, number: int) -> assembly.Given:
        """What the cell's runs are given: distinct values by name, and which of them each (seed, point) has."""
        runs, which = self.workshop.askings[number]
        if not len(runs):
            return assembly.Given({}, which)
        machine = self.givers.pop(number)()
        room = machine.layout.each * machine.layout.mesh.size
        answers = [self._block(number, machine, runs[i : i + room]).given() for i in range(0, len(runs), room)]
        return assembly.Given({name: np.concatenate([each[name] for each in answers]) for name in answers[0]}, which)

    def _missing(self, number: int) -> Ranges:
        """The runs of the cell's part that no file holds, as far as names tell."""
        return _gaps([part for part, _ in self._known(number)], *self.parts[number])

    def _known(self, number: int) -> list[tuple[tuple[int, int], Callable[[], Arrays | None]]]:
        """Stretches of the cell's part that are stored, without overlap, each with how it is read."""
        if not self.place:
            return []
        address, (start, end) = self.addresses[number], self.parts[number]
        shape, stored = self.planned.cells[number].program.shape, self.stored
        known: list[tuple[tuple[int, int], Callable[[], Arrays | None]]] = []
        if stored is not None and (runs := assembly.runs_of(stored, address)) > start:
            known.append(((start, min(end, runs)), lambda: _rows(assembly.cut(stored, address, shape), 0, start)))
        for first, last in self.place.blocks(address):
            behind = max([start, *(part[1] for part, _ in known)])
            if max(first, behind) < min(last, end):
                read = lambda first=first, last=last, behind=behind: _rows(
                    self.place.load_block(address, first, last), first, behind
                )
                known.append(((max(first, behind), min(last, end)), read))
        return known

    def _stored(self, number: int, put: Put) -> Ranges:
        """Hand out what is stored of the cell's part; which runs these were."""
        read = []
        for (first, last), ask in self._known(number):
            arrays = ask()
            if arrays is not None:
                put(first, last, {name: values[: last - first] for name, values in arrays.items()})
                read.append((first, last))
        return read

    def _ready(self, number: int) -> Machine:
        """The cell's machine with its pace, and with the best number of lanes where the work is long enough to ask."""
        machine = self.machines[number]()
        if not machine.step and machine.program.shape.at[-1]:
            self._timed(number, machine)
            runs = sum(last - first for first, last in self.missing[number])
            predicted = machine.layout.batches(runs) * machine.step * int(machine.program.shape.at[-1])
            if (
                self.options.lanes is None
                and jax.default_backend() == "cpu"
                and self.workshop.name(number) not in self.workshop.remembered
                and self.workshop.decomposing(number) == "nothing"
                and predicted > max(PAYS * processes.agreed(machine.seconds), SHORT)
            ):
                machine = self._fastest(number, machine)
                self.machines[number] = lambda: machine
        return machine

    def _timed(self, number: int, machine: Machine) -> float:
        """Seconds for one step of one run, after a short trial with one batch on each device."""
        first, last = self.parts[number]
        laid = machine.layout
        runs = first + np.arange(laid.mesh.size * laid.lanes) % (last - first)
        self._block(number, machine, runs).time()
        return machine.step / laid.lanes

    def _fastest(self, number: int, machine: Machine) -> Machine:
        """The machine with the best number of lanes, found by trying fourfold and quarter ones; it is remembered."""
        best, speed = machine, self._timed(number, machine)
        for factor in (4, 0.25):
            while not (factor < 1 and best.layout.lanes > machine.layout.lanes):
                tried = self.workshop.machine(number, max(1, int(best.layout.lanes * factor)))
                if tried.layout.lanes == best.layout.lanes or (seconds := self._timed(number, tried)) > GAIN * speed:
                    break
                best, speed = tried, seconds
        cache.remember(self.workshop.name(number), best.layout.lanes)
        self.workshop.laid[number] = best.layout
        return best

    def _computed(self, number: int, machine: Machine, first: int, last: int) -> Arrays:
        address, began = self.addresses[number], time.perf_counter()
        place, kept = self.place, None
        if place:
            kept = Kept(
                functools.partial(place.load_state, address, first, last),
                lambda arrays: self._kept(functools.partial(place.save_state, address, first, last, arrays)),
                self.options.checkpoint,
            )
        name = self.planned.cells[number].name
        say = lambda share: self.options.progress(self.done + share * (last - first), self.total, name)
        block = self._block(number, machine, np.arange(first, last))
        arrays = block.computed(say, kept)
        self.facts["steps"] += block.steps
        self.facts["steps_ahead"] += block.ahead
        self.facts["run_seconds"] += time.perf_counter() - began
        return arrays

    def _kept(self, save: Callable[[], None]) -> None:
        """Save what makes the next start quicker. Where that fails (a full disk) the work goes on, and says so once."""
        try:
            save()
        except OSError as problem:
            if not self.unsaved:
                log.warning("Nothing more is kept of what is under way: %s", problem)
            self.unsaved = True

    def _block(self, number: int, machine: Machine, runs: np.ndarray) -> Block:
        return Block(machine, self.planned.cells[number].mapped(self.planned.keys, runs))

    def _submitted(self, number: int) -> Callable[[], Machine]:
        return self.pool.submit(self.workshop.machine, number, self.options.lanes).result

    def _giver(self, number: int) -> Machine:
        return self.workshop.giver(number, self.options.lanes)

    def _halve(self, number: int, problem: Exception) -> None:
        """Have the cell's program for half the lanes, if it is memory that was lacking; else raise the problem."""
        lanes = self.workshop.laid[number].lanes
        if not layout.exhausted(problem) or lanes == 1 or processes.count() > 1:
            raise problem
        log.warning("Out of memory with %d runs in flight on a device: going on with %d.", lanes, lanes // 2)
        self.options = self.options._replace(lanes=lanes // 2)
        self.machines[number] = self._submitted(number)


def _gaps(done: Ranges, first: int, last: int) -> Ranges:
    """What is left of `first` to `last` beside the parts that are done, which are in order."""
    edges = [first, *(edge for part in done for edge in part), last]
    return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end]


def _rows(arrays: Arrays | None, first: int, start: int) -> Arrays | None:
    """The rows from run `start` on, of arrays whose first row is run `first`."""
    return arrays and {name: values[start - first :] for name, values in arrays.items()}
