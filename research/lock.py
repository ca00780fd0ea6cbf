"""One process at a time writes a result: a lock file beside it that names its holder.

The lock is the kernel's (flock), not the file: whoever dies lets go of it, and a file that was left behind holds nobody
up. The file says to a second process, and to a reader, who is at work.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
LOOK = 0.05  # seconds between two tries


class Locked(OSError):  # noqa: N818
    """Another process writes the same file."""


@contextlib.contextmanager
def held(path: Path, say: Callable[[str], None] = print, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` while the block lasts; its folder is there already.

    Tries for `wait` seconds. `say` is told of a file that was left behind, and where the file system has no locks.
    Raises Locked, which names the holder, if another process has it, and OSError if the file cannot be written.
    """
    file = _locked(path, say, wait)
    if file is None:
        yield
        return
    try:
        if former := _holder(file):
            say(f"{path} was left behind by {former}, which is gone; taking over")
        os.ftruncate(file, 0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "program": shlex.join(sys.orig_argv)}
        os.pwrite(file, (json.dumps(holder) + "\n").encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is let go, or it would be another holder's file
        os.close(file)


def _locked(path: Path, say: Callable[[str], None], wait: float) -> int | None:
    """The descriptor of the locked file, or None where the file system has no locks."""
    until = time.monotonic() + wait
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(file, path):
                return file
            os.close(file)  # its former holder has removed it between the two lines above: begin again
        except BlockingIOError:
            holder = _holder(file) or "another process"
            os.close(file)
            if time.monotonic() >= until:
                raise Locked(
                    f"{path} is held by {holder}, which writes the same file: wait until it has ended, or choose "
                    "another folder with --results"
                ) from None
            time.sleep(LOOK)
        except OSError as problem:
            os.close(file)
            if problem.errno not in UNSUPPORTED:
                raise
            path.unlink(missing_ok=True)
            say(f"{path.parent} has no file locks ({problem.strerror}): see that no other process writes there")
            return None


def _same(file: int, path: Path) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: int) -> str:
    """Who wrote the lock file, in words; empty where nobody has."""
    try:
        holder: dict[str, Any] = json.loads(os.pread(file, 65536, 0))
        return f"process {holder['pid']} on {holder['host']} ({holder['program']})"
    except (ValueError, KeyError, TypeError):
        return ""
