"""A block of runs on the machine: started, driven through time in segments, packed, kept, and read.

A segment is about a second of work. Between two of them the host looks at the clock, says how far it is, leaves behind
the runs that have ended, and now and then keeps the state of all others, so that a killed sweep goes on from there.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from research import processes
from research.layout import Layout
from research.program import DIVERGED, RUNNING, STOPPED, Program
from research.store import Arrays

SEGMENT = 1.0  # seconds of work between two looks at the clock
BEGINNING = 20  # a segment lasts at least that many times what it costs to begin one
TRIAL = 0.02  # seconds that a measurement of the pace takes
SAVED = 0.9  # ended runs are left behind where that leaves at most this share of the batches


class Kept(NamedTuple):
    """Where a block's state is kept while it is under way, and after how many seconds of work."""

    load: Callable[[], Arrays | None]
    save: Callable[[Arrays], None]
    seconds: float


class Machine:
    """A cell's program, its `pieces` compiled for one layout; `compiled` makes what is lowered ready to be called.

    `drawing` and `step` are the seconds that a batch takes to begin a segment (its data are drawn anew) and for one
    step, once they are known; `seconds` is what compilation took; `placed` holds the data sets on the devices.
    """

    def __init__(
        self,
        program: Program,
        layout: Layout,
        compiled: Callable,
        pieces: Sequence[str],
        placed: dict[bytes, Any] | None = None,
    ) -> None:
        self.program, self.layout, self.placed = program, layout, {} if placed is None else placed
        self.drawing, self.step, self.seconds = 0.0, 0.0, 0.0
        self.compiled = compiled
        self.pieces = {(name, layout.lanes): self._piece(name, layout) for name in pieces}

    def piece(self, name: str, layout: Layout) -> Callable:
        """The piece of that name, for another number of lanes where need be: compiled when it is first asked for."""
        if (name, layout.lanes) not in self.pieces:
            self.pieces[name, layout.lanes] = self._piece(name, layout)
        return self.pieces[name, layout.lanes]

    def _piece(self, name: str, layout: Layout) -> Callable:
        return self.compiled(layout.spread(getattr(self.program, name), name == "advance"))

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """The data sets of each piece, on every device."""
        return {name: [self._placed(value) for value in getattr(self.program, name).data] for name, _ in self.pieces}

    def _placed(self, value: np.ndarray) -> Any:
        """A data set on every device of the mesh: one array for all pieces, and all programs that share `placed`."""
        digest = hashlib.sha256(repr((value.shape, value.dtype, self.layout.mesh)).encode() + value.tobytes()).digest()
        if digest not in self.placed:
            self.placed[digest] = self.layout.replicated(value)
        return self.placed[digest]


class Block:
    """Runs that are on the machine together; `mapped` holds a row for each, of which a process takes its share.

    `steps` are those that its lanes have taken, idle ones in a batch that goes on among them, and `ahead` those that
    would have been taken had no run ended early.
    """

    def __init__(self, machine: Machine, mapped: Any) -> None:
        share = processes.share(len(jax.tree.leaves(mapped)[0]))
        self.runs = share.stop - share.start
        own = share if self.runs else slice(1)  # a process without a run needs something to fill its slots with
        self.machine, self.rows = machine, jax.tree.map(lambda leaf: leaf[own], mapped)
        self.layout, self.at = machine.layout, machine.program.shape.at
        self.strides = np.diff(self.at, prepend=0).astype(np.int32)
        self.record, self.taken = 0, 0
        self.live = np.ones(self.runs, bool)
        self.steps, self.ahead = 0, 0

    def computed(self, report: Callable[[float], None], kept: Kept | None = None) -> Arrays:
        """What the runs recorded, by name, and whether and when each diverged; rows in the order of the runs."""
        total = int(self.at[-1])
        if not self._resumed(kept):
            self._arrange(np.arange(self.runs), self.runs)
            self.carry = self._call("start", None, ())
            self.ahead = int(self.batches.sum()) * self.layout.lanes * total
        unkept = 0.0
        while self.record < len(self.at) and processes.agreed(float(self.live.any())):
            target = min(total, self.taken + self._steps())
            last = int(np.searchsorted(self.at, target, side="right"))
            rest = target - int(self.at[last - 1]) if last > self.record else target - self.taken
            spent = self._advance(self.record, last, rest)
            self._learn(spent, target - self.taken)
            if last < len(self.at):
                self.strides[last] -= rest
            self._count(target)
            self.record, self.taken = last, target
            self._look()
            unkept += spent
            saving = kept is not None and unkept >= kept.seconds and self.record < len(self.at)
            if saving:
                self._keep(kept)
                unkept = 0.0
            try:
                report(self.taken / total if total else 1.0)
            except BaseException:  # the caller wants to end here: what is done is kept
                if not saving:
                    self._keep(kept)
                raise
            self._pack()
        return self._results()

    def time(self) -> None:
        """Measure what a batch costs to begin a segment, and for a step; the machine remembers it."""
        self._arrange(np.arange(self.runs), self.runs)
        self.carry = self._call("start", None, ())
        drawing, steps, spent = min(self._advance(0, 0, 0), self._advance(0, 0, 0)), 1, 0.0
        while spent < TRIAL and steps <= self.at[-1]:
            spent = self._advance(0, 0, steps) - drawing
            steps *= 4
        batches = processes.agreed(max(1, self.batches.max()))
        self.machine.drawing, self.machine.step = drawing / batches, max(1e-9, spent / (steps // 4) / batches)

    def given(self) -> Arrays:
        """What the runs are given, by name; rows in the order of the runs."""
        self._arrange(np.arange(self.runs), self.runs)
        answer = self._call("given", None, ())
        return {name: processes.gathered(self._by_run(local(leaf))) for name, leaf in answer.items()}

    def _arrange(self, runs: np.ndarray, live: int) -> None:
        """Deal the runs over the slots; the first `live` of them will be worked on."""
        self.slots, self.batches = self.layout.arranged(runs, live)
        self._place()

    def _place(self) -> None:
        """Put the rows of each slot on its device; an empty slot repeats the first run, and is never read."""
        filled = np.maximum(self.slots, 0)
        self.mapped = self.layout.sharded(jax.tree.map(lambda leaf: np.asarray(leaf)[filled], self.rows))

    def _call(self, piece: str, carry: Any, shared: tuple) -> Any:
        call, layout = self.machine.piece(piece, self.layout), self.layout
        batches = layout.sharded(self.batches.astype(np.int32))
        shared = layout.replicated(tuple(np.asarray(each, np.int32) for each in shared))
        return jax.block_until_ready(call(self.mapped, carry, batches, self.machine.data[piece], shared))

    def _advance(self, first: int, last: int, rest: int) -> float:
        """Go on by these recordings and steps; the seconds it took, on the slowest process."""
        began = time.perf_counter()
        self.carry = self._call("advance", self.carry, (first, last, self.strides, rest))
        return processes.agreed(time.perf_counter() - began)

    def _steps(self) -> int:
        """Steps of the next segment: a second of work, or more where it is dear to begin one."""
        batches, machine = max(1, self.batches.max()), self.machine
        seconds = max(SEGMENT, BEGINNING * machine.drawing * batches)
        return max(1, int(processes.agreed(seconds / batches / max(1e-9, machine.step))))

    def _learn(self, spent: float, steps: int) -> None:
        """Correct the machine's pace by a segment, eightfold at most: a single one may have been disturbed."""
        if steps:
            machine, batches = self.machine, max(1, self.batches.max())
            step = (spent / batches - machine.drawing) / steps
            machine.step = float(np.clip(step, machine.step / 8, 8 * machine.step))

    def _count(self, target: int) -> None:
        """Add the steps up to `target`: a batch takes as many as the last of its runs."""
        status, ended = local(self.carry.status), local(self.carry.ended_at)
        until = np.where(status == RUNNING, target, self.at[ended]).reshape(self.layout.here, -1, self.layout.lanes)
        worked = np.arange(until.shape[1]) < self.batches[:, None]
        taken = np.clip(until.max(axis=2) - self.taken, 0, None)
        self.steps += int(taken[worked].sum()) * self.layout.lanes

    def _look(self) -> None:
        self.live = self._by_run(local(self.carry.status)) == RUNNING

    def _pack(self) -> None:
        """Bring the runs that go on to the front of each device's slots, where that saves work."""
        live, narrowed = self.live, self._narrowed()
        saves = narrowed.batches(int(live.sum())) <= SAVED * self.batches.max()
        if not self.runs or not (saves or narrowed.lanes < self.layout.lanes):
            self.layout = narrowed
            return
        self.layout = layout = narrowed
        former = np.empty(self.runs, int)
        former[self.slots[self.slots >= 0]] = np.flatnonzero(self.slots >= 0)
        self._arrange(np.r_[np.flatnonzero(live), np.flatnonzero(~live)], int(live.sum()))
        came = former[np.maximum(self.slots, 0)]
        self.carry = layout.sharded(jax.tree.map(lambda leaf: local(leaf)[came], self.carry))

    def _narrowed(self) -> Layout:
        """The layout for the runs that go on, where what is ahead of them is worth a compilation."""
        narrowed = self.layout.narrowed(int(processes.agreed(self.live.sum())))
        ahead = self.machine.step * int(self.at[-1] - self.taken)
        return narrowed if processes.agreed(ahead) > processes.agreed(self.machine.seconds) else self.layout

    def _by_run(self, rows: np.ndarray) -> np.ndarray:
        answer = np.empty((self.runs, *rows.shape[1:]), rows.dtype)
        filled = self.slots >= 0
        answer[self.slots[filled]] = rows[filled]
        return answer

    def _results(self) -> Arrays:
        arrays = {name: self._by_run(local(leaf)) for name, leaf in self.carry.records.items()}
        status, ended = (self._by_run(local(leaf)) for leaf in (self.carry.status, self.carry.ended_at))
        stopped = np.flatnonzero(status == STOPPED)
        shown = np.minimum(np.arange(len(self.at)), ended[stopped, None])  # a run that has stopped stays what it was
        for values in arrays.values():
            values[stopped] = values[stopped[:, None], shown]
        diverged = status == DIVERGED
        arrays |= {"diverged": diverged, "diverged_at": np.where(diverged, self.at[ended], -1)}
        return {name: processes.gathered(values) for name, values in arrays.items()}

    def _keep(self, kept: Kept | None) -> None:
        """Keep all that the block needs to go on."""
        if kept is None:
            return
        header = [*_signature(self.machine.layout), self.layout.lanes, self.record, self.taken, self.steps, self.ahead]
        arrays = {"header": np.array(header), "strides": self.strides.copy()}
        own = {"slots": self.slots, "batches": self.batches}
        own |= {f"leaf-{i}": _bytes(local(leaf)) for i, leaf in enumerate(jax.tree.leaves(self.carry))}
        kept.save({**arrays, **{name: processes.gathered(values) for name, values in own.items()}})

    def _resumed(self, kept: Kept | None) -> bool:
        """Whether the block goes on from a state that was kept under the same layout."""
        stored = kept.load() if kept is not None else None
        signature = _signature(self.layout)
        if stored is None or stored["header"][: len(signature)].tolist() != signature:
            return False
        if len(stored["header"]) != len(signature) + 5:  # of a version that kept something else
            return False
        part = processes.share(len(stored["slots"]))
        lanes, self.record, self.taken, self.steps, self.ahead = map(int, stored["header"][len(signature) :])
        self.layout = self.layout._replace(lanes=lanes)
        self.strides = stored["strides"].copy()
        self.slots, self.batches = stored["slots"][part], stored["batches"][processes.share(len(stored["batches"]))]
        self._place()
        shapes, structure = jax.tree.flatten(self.machine.program.start.answer)
        leaves = [_numbers(stored[f"leaf-{i}"][part], shape) for i, shape in enumerate(shapes)]
        self.carry = self.layout.sharded(jax.tree.unflatten(structure, leaves))
        self._look()
        return True


def _signature(layout: Layout) -> list[int]:
    return [processes.count(), layout.here, layout.mesh.size, layout.lanes, layout.each]


def _bytes(rows: np.ndarray) -> np.ndarray:
    """The bytes of each row: a file knows no bfloat16."""
    return np.array(rows).reshape(len(rows), -1).view(np.uint8)


def _numbers(rows: np.ndarray, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """The rows that `_bytes` was given."""
    return np.ascontiguousarray(rows).view(shape.dtype).reshape(len(rows), *shape.shape)


def local(array: jax.Array) -> np.ndarray:
    """The rows that lie on this process's devices."""
    if array.is_fully_addressable:
        return np.asarray(array)
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
