"""The machines of a plan: each cell's pieces laid on the devices and compiled."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

from research import cache, layout, processes
from research.block import Machine
from research.piece import Decomposing
from research.plan import Plan

PIECES = ("start", "advance")


class Workshop:
    """Builds machines for `runs[i]` runs of cell i; of `lanes` lanes, else of those once measured or estimated.

    Programs that differ in nothing but their data share one executable, which the plan keeps. `laid` has the layout of
    each cell's last machine, from before it is compiled.
    """

    def __init__(self, planned: Plan, runs: Sequence[int], lanes: int | None, memory: int) -> None:
        self.planned, self.runs, self.lanes, self.memory = planned, runs, lanes, memory
        self.placed: dict[bytes, Any] = {}
        self.laid: dict[int, layout.Layout] = {}
        self.remembered = json.loads(processes.told(json.dumps(cache.remembered()).encode()) or b"{}")
        with layout.precision(planned.precision):
            self.askings = [cell.asking(planned.seeds) for cell in planned.cells]

    def machine(self, number: int, lanes: int | None = None) -> Machine:
        """What starts and advances the cell's runs; each thread that asks needs the precision's context for itself."""
        program = self.planned.cells[number].program
        began = time.perf_counter()
        with layout.precision(self.planned.precision):
            laid = layout.laid(
                max(1, self.runs[number]),
                lanes or self.lanes or self.remembered.get(self.name(number)),
                program.working_set,
                program.shape.run_bytes,
                self.memory,
                self.decomposing(number),
            )
            self.laid[number] = laid
            machine = Machine(program, laid, self._compiled, PIECES, self.placed)
        machine.seconds = time.perf_counter() - began
        return machine

    def giver(self, number: int) -> Machine:
        """What tells what the cell's runs are given; there may be far fewer values than runs."""
        program, runs = self.planned.cells[number].program, len(self.askings[number][0])
        size = program.shape.given_bytes
        with layout.precision(self.planned.precision):
            laid = layout.laid(runs, self.lanes, size, size + 64, self.memory, program.given.decomposing)
            return Machine(program, laid, self._compiled, ("given",), self.placed)

    def decomposing(self, number: int) -> Decomposing:
        """What the cell's program decomposes, in the worst of its pieces."""
        program = self.planned.cells[number].program
        return max((getattr(program, name).decomposing for name in PIECES), key=get_args(Decomposing).index)

    def name(self, number: int) -> str:
        """By what a measured number of lanes is remembered."""
        return f"{self.planned.cells[number].program.advance.address} {layout.device()}"

    def _compiled(self, lowered: Any) -> Callable:
        name, known = hashlib.sha256(lowered.as_text().encode()).hexdigest(), self.planned.programs
        if name not in known:
            known[name] = lowered.compile()
        return known[name]
