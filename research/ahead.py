"""The next experiment's programs, compiled while the results of the present one are judged and drawn."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from research import layout, processes
from research.plan import Plan
from research.store import Store
from research.workshop import Workshop

log = logging.getLogger("research")


class Ahead:
    """A thread of its own, as a context, that compiles for one plan at a time.

    Judging takes one core for the most part, and a sweep begins with a compiler that has nothing to run beside it. Of
    several processes none compiles ahead: what they tell each other has an order.
    """

    def __enter__(self) -> "Ahead":
        self.pool = ThreadPoolExecutor(1, "ahead")
        self.wanted, self.work = False, Future[Any]()
        self.work.set_result(None)
        return self

    def __exit__(self, *problem: Any) -> None:
        self.wanted = False
        self.pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, planned: Plan, store: Store, memory: int | None = None) -> None:
        """Compile for this plan until the `end`, in the order of its cells; what the stored result has is left out.

        Nothing on disk is changed but the cache of compiled programs, so that it needs no lock.
        """
        if processes.count() == 1:
            self.wanted = True
            self.work = self.pool.submit(self._compile, planned, store, memory or layout.memory())

    def end(self) -> None:
        """Stop behind the program at hand. What went wrong will do so again, where it can be told."""
        self.wanted = False
        if (problem := self.work.exception()) is not None:
            log.debug("Nothing is compiled ahead: %s", problem)

    def _compile(self, planned: Plan, store: Store, memory: int) -> None:
        stored, workshop = store.addresses(), Workshop(planned, planned.cell_runs, None, memory)
        for number, address in enumerate(planned.addresses()):
            if self.wanted and address not in stored:
                workshop.machine(number)
            if self.wanted and address not in stored and planned.cells[number].program.shape.given:
                workshop.giver(number)
