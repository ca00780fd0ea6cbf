"""The next experiment's programs, compiled while the results of the present one are judged and drawn."""

import contextlib
import logging
from concurrent.futures import Future, ThreadPoolExecutor

from research import layout, processes
from research.assembly import runs_of
from research.plan import Plan
from research.store import UNREADABLE, Store, read
from research.workshop import Workshop

log = logging.getLogger("research")


class Ahead:
    """A thread of its own, as a context, that compiles for one plan at a time.

    Judging takes one core for the most part, and a sweep begins with a compiler that has nothing to run beside it. Of
    several processes none compiles ahead: what they tell each other has an order.
    """

    def __enter__(self) -> "Ahead":
        self.pool = ThreadPoolExecutor(1, "ahead")
        self.wanted = False
        self.work: Future[None] | None = None
        return self

    def __exit__(self, *problem: object) -> None:
        self.wanted = False
        self.pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, planned: Plan, store: Store | None, memory: int | None = None) -> None:
        """Compile for this plan until the `end`, in the order of its cells, unless the store has all runs of one.

        Nothing on disk is changed but the cache of compiled programs, so that it needs no lock.
        """
        if processes.count() == 1:
            self.wanted = True
            self.work = self.pool.submit(self._compile, planned, store, memory)

    def end(self) -> None:
        """Stop behind the program at hand. What went wrong will do so again, where it can be told."""
        self.wanted = False
        if self.work is not None and (problem := self.work.exception()) is not None:
            log.debug("Compiling ahead ended early: %s", problem)
        self.work = None

    def _compile(self, planned: Plan, store: Store | None, memory: int | None) -> None:
        workshop = Workshop(planned, planned.cell_runs, memory or layout.memory())
        for number, runs in enumerate(planned.cell_runs):
            if not self.wanted:
                return
            if store is not None and _stored(store, planned.address(number)) >= runs:
                continue
            build = [workshop.machine, *([workshop.giver] if planned.cells[number].program.shape.given else [])]
            for machine in build:
                if self.wanted:
                    machine(number, None)


def _stored(store: Store, address: str) -> int:
    """How many runs of a cell the result and its finished blocks hold, as far as names tell."""
    runs = sum(last - first for first, last in store.blocks(address))
    with contextlib.suppress(*UNREADABLE), read(store.path, 0) as stored:
        runs = max(runs, runs_of(stored, address))
    return runs
