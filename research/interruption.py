"""SIGINT and SIGTERM: the first one ends the program at the next safe place, the second one at once.

Python calls a signal's handler between two of its own instructions, so not while the main thread is inside a compiler
or a long computation. A thread that reads the signals' numbers from a pipe answers there:
https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from research import processes

HANDLED = (signal.SIGINT, signal.SIGTERM)
SAME = 0.1  # seconds: `timeout` and some launchers send one signal twice, to the process and to its group


class Interrupted(BaseException):
    """The program was asked to end. Not an Exception: no experiment and no library holds it up."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def status(self) -> int:
        """The exit status that a shell expects: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.signal


class Interruption:
    """The signals SIGINT and SIGTERM while its block lasts; outside the main thread it does nothing.

    A signal raises `Interrupted` where the program is; inside of `deferred()` it raises at `check()` or at the end of
    the block, and `say` is told that it was heard. The second signal ends the process without any more ado.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        self._received: int | None = None
        self._deferrals = 0
        self._former = contextlib.ExitStack()

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        watcher = threading.Thread(target=self._watch, args=(reading,), daemon=True)
        watcher.start()
        self._former.callback(os.close, reading)
        self._former.callback(watcher.join, 1.0)
        self._former.callback(os.close, writing)  # the watcher reads the end of its pipe
        self._former.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
        for number in HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's `&` leave it
                self._former.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(self, *problem: Any) -> None:
        self._former.close()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that a signal does not break into. Raises Interrupted at the end of the outermost if one came."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        if not self._deferrals:
            self.check()

    @property
    def received(self) -> int | None:
        """The number of the signal that has come, or None."""
        return self._received

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            if not self._deferrals:
                raise Interrupted(number)

    def _watch(self, reading: int) -> None:
        """Read the signals as they come, whatever the main thread does."""
        heard = 0
        while number := os.read(reading, 1):
            if number[0] not in HANDLED:
                continue
            heard += 1
            if heard > 1:
                _end_at_once(number[0])
            if self._deferrals:
                with contextlib.suppress(OSError):  # nobody reads the output any more
                    self._say("finishing the write; once more ends at once")
            time.sleep(SAME)
            while select.select([reading], [], [], 0)[0] and os.read(reading, 1):
                pass


def leave(status: int) -> NoReturn:
    """End the process with this exit status; after an interruption without waiting for its threads.

    Python joins them first, and one that is inside a compiler, which no signal reaches, would hold it up for as long as
    that takes. Of several processes each has to take leave of the others. What the thread was writing into jax's cache
    may stay cut off: it is then compiled anew, with a warning.
    """
    if status > 128 and processes.count() == 1:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads the output any more
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _end_at_once(number: int) -> None:
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # the cursor, which a moving bar hides
    os._exit(128 + number)
