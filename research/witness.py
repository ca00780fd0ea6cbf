"""How a process that is one of several ends: at once where it must, and never without a word."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from research.exchange import ProcessLost

LISTEN = "import sys\nword = ''\nfor word in sys.stdin: pass\nsys.stderr.write(word.lstrip())"


class Witness:
    """A child process that outlives this one, and then prints the last word that it was told to keep.

    JAX ends a process by SIGABRT from a C++ thread, whatever Python is doing, so that no handler of Python's is run; a
    scheduler ends it by SIGKILL. Only another process can say what that means.
    """

    def __init__(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LISTEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that neither Ctrl-C nor the end of a process group takes it along
        )

    def keep(self, word: str) -> None:
        """Keep this line instead of the one before."""
        with contextlib.suppress(OSError):  # the witness was killed: then there is no last word
            print(word, file=self.child.stdin, flush=True)

    def release(self) -> None:
        """Nothing is left to say."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.child.communicate("\n", timeout=5)

    def end(self, show: Callable[[type, Any, Any], Any], kind: type, problem: BaseException, trace: Any) -> None:
        """The end of the process after an exception; an exception hook, once `show` is bound to what shows it.

        At once, because its normal end would wait for the other processes, and they would wait for it.
        """
        if isinstance(problem, ProcessLost) and self.child.poll() is None:
            self.keep(str(problem))  # said after all else, which a C++ thread may be printing just now
        else:
            show(kind, problem, trace)
            self.release()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(problem, KeyboardInterrupt) else 1)
