"""The machines of a plan: each cell's pieces laid on the devices and compiled."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

from research import cache, layout, processes
from research.block import Machine
from research.piece import Decomposing
from research.plan import Compiled, Plan
from research.program import Program

PIECES = ("start", "advance")


class Workshop:
    """Builds machines for `runs[i]` runs of cell i.

    Programs that differ in nothing but their data share one executable, which the plan keeps. `laid` has the layout of
    each cell's last machine, from before it is compiled; `seconds` is what all building took.
    """

    def __init__(self, planned: Plan, runs: Sequence[int], memory: int) -> None:
        self.planned, self.runs, self.memory = planned, runs, memory
        self.placed: dict[bytes, Any] = {}
        self.laid: dict[int, layout.Layout] = {}
        self.seconds = 0.0
        self.remembered = json.loads(processes.told(json.dumps(cache.remembered()).encode()) or b"{}")
        with layout.precision(planned.precision):
            self.askings = [cell.asking(planned.seeds) for cell in planned.cells]

    def machine(self, number: int, lanes: int | None) -> Machine:
        """What starts and advances the cell's runs, of so many lanes, or of those once measured or estimated."""
        program = self.planned.cells[number].program
        with layout.precision(self.planned.precision):  # of this thread: each has its own
            self.laid[number] = layout.laid(
                max(1, self.runs[number]),
                lanes or self.remembered.get(self.name(number)),
                program.working_set,
                program.shape.run_bytes,
                self.memory,
                self.decomposing(number),
            )
            return self._built(program, self.laid[number], PIECES)

    def giver(self, number: int, lanes: int | None) -> Machine:
        """What tells what the cell's runs are given; there may be far fewer values than runs."""
        program, runs = self.planned.cells[number].program, len(self.askings[number][0])
        size = program.shape.given_bytes
        with layout.precision(self.planned.precision):
            laid = layout.laid(runs, lanes, size, size + 64, self.memory, program.given.decomposing)
            return self._built(program, laid, ("given",))

    def decomposing(self, number: int) -> Decomposing:
        """What the cell's program decomposes, in the worst of its pieces."""
        program = self.planned.cells[number].program
        return max((getattr(program, name).decomposing for name in PIECES), key=get_args(Decomposing).index)

    def name(self, number: int) -> str:
        """By what a measured number of lanes is remembered."""
        return f"{self.planned.cells[number].program.advance.address} {layout.device()}"

    def _built(self, program: Program, laid: layout.Layout, pieces: Sequence[str]) -> Machine:
        """The machine; its `seconds` are what it took, or had taken where its programs were compiled before."""
        began, before = time.perf_counter(), 0.0

        def compiled(lowered: Any) -> Callable:
            nonlocal before
            # what a program does not use is not in its text, but it is called with it
            told = f"{lowered.in_tree} {lowered.as_text()}"
            name, known = hashlib.sha256(told.encode()).hexdigest(), self.planned.programs
            if name in known:
                before += known[name].seconds
            else:
                start = time.perf_counter()
                known[name] = Compiled(lowered.compile(), time.perf_counter() - start)
            return known[name].call

        machine = Machine(program, laid, compiled, pieces, self.placed)
        machine.seconds = time.perf_counter() - began
        self.seconds += machine.seconds
        machine.seconds += before
        return machine
