import errno
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from research.lock import Locked, held

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from pathlib import Path
from research.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decay.lock"


@pytest.fixture
def said():
    return []


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_file_names_its_holder_and_goes_with_it(path, said):
    with held(path, said.append):
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["pid"] == os.getpid()
        assert json.loads(line)["host"] == socket.gethostname()
        assert json.loads(line)["program"] == shlex.join(sys.orig_argv)
        with pytest.raises(Locked), held(path, said.append):
            pass
        assert path.read_text().splitlines() == [line]
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), held(path, said.append):
        raise ZeroDivisionError
    assert not path.exists()
    assert said == []


def test_a_second_process_is_told_who_has_it_until_that_one_is_dead(path, holder, said):
    with pytest.raises(Locked) as caught, held(path, said.append):
        pass
    for word in (str(path), f"process {holder.pid} on {socket.gethostname()}", sys.executable, "--results"):
        assert word in str(caught.value)
    assert said == []
    holder.kill()
    holder.wait()
    assert path.exists()
    with held(path, said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    (line,) = said
    assert f"process {holder.pid} on {socket.gethostname()}" in line
    assert "gone" in line
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "7", "not JSON", "\x00"])
def test_a_lock_file_in_other_words_holds_nobody_up(content, path, said):
    path.write_text(content)
    with held(path, said.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    assert said == []


def test_a_file_that_its_holder_removes_meanwhile_is_no_lock(path, said, monkeypatch):
    lock, calls = fcntl.flock, []

    def late(file, operation):
        if not calls:
            path.unlink()
        calls.append(file)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(path, said.append):
        assert len(calls) == 2
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(Locked), held(path, said.append):
            pass


def test_it_is_waited_for_as_long_as_said(path, said):
    taken, enough, order = threading.Event(), threading.Event(), []

    def first():
        with held(path, said.append):
            taken.set()
            enough.wait(60)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait(60)
    began = time.perf_counter()
    with pytest.raises(Locked), held(path, said.append, wait=0.1):
        pass
    assert time.perf_counter() - began >= 0.1
    threading.Timer(0.2, enough.set).start()
    with held(path, said.append, wait=60.0):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert said == []


def test_without_locks_in_the_file_system_it_says_so_and_goes_on(path, said, monkeypatch):
    def refuses(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with held(path, said.append), held(path, said.append):
        pass
    assert len(said) == 2
    assert "no file locks" in said[0]
    assert not path.exists()


def test_a_link_to_somewhere_else_is_not_written_through(path, said, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("mine")
    path.symlink_to(theirs)
    with pytest.raises(OSError, match=r"decay\.lock"), held(path, said.append):
        pass
    assert theirs.read_text() == "mine"
