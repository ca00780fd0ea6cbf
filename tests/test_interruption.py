import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from research.interruption import SAME, Interrupted, Interruption
from research.store import read

HERE = Path(__file__).parent
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def said():
    return []


def ended(body, said):
    """What ends `body(interruption)`."""
    with Interruption(said.append) as interruption, pytest.raises(Interrupted) as caught:
        body(interruption)
    return caught.value


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_is_under_way(number, status, said):
    former = [signal.getsignal(each) for each in SIGNALS]

    def body(interruption):
        with contextlib.suppress(Exception):  # as a library does that catches what it can
            signal.raise_signal(number)
        pytest.fail("it went on")

    interrupted = ended(body, said)
    assert interrupted.status == status
    assert str(interrupted) == f"stopped by {number.name}"
    assert said == []
    assert [signal.getsignal(each) for each in SIGNALS] == former


def test_what_is_deferred_is_finished(said):
    done = []

    def body(interruption):
        with interruption.deferred():
            interruption.check()
            with interruption.deferred():
                signal.raise_signal(signal.SIGTERM)
                while not said:
                    time.sleep(0.01)
                done.append("inner")
            done.append("outer")
        pytest.fail("it went on")

    assert ended(body, said).signal == signal.SIGTERM
    assert done == ["inner", "outer"]
    assert said == ["finishing the write; once more ends at once"]


def test_what_is_deferred_can_ask(said):
    def body(interruption):
        with interruption.deferred():
            signal.raise_signal(signal.SIGINT)
            interruption.check()
            pytest.fail("it went on")

    assert ended(body, said).signal == signal.SIGINT


def test_one_signal_that_comes_twice_is_one(said):
    def body(interruption):
        with interruption.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does: to the process and to its group
            time.sleep(2 * SAME)

    assert ended(body, said).signal == signal.SIGTERM
    assert len(said) == 1


def test_a_signal_that_was_ignored_stays_so(said):
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        with Interruption(said.append) as interruption:
            signal.raise_signal(signal.SIGINT)
            interruption.check()
            with pytest.raises(Interrupted, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, former)


def test_in_another_thread_it_does_nothing(said):
    former, seen = [signal.getsignal(each) for each in SIGNALS], []

    def work():
        with Interruption(said.append) as interruption, interruption.deferred():
            seen.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == former


BUSY = """
import hashlib, signal
from research.interruption import Interruption
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
with Interruption(lambda line: print(line, flush=True)) as interruption, interruption.deferred():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # minutes in C, where no handler is called
"""


def test_the_second_signal_ends_even_a_program_that_does_not_listen():
    with subprocess.Popen([sys.executable, "-c", BUSY], cwd=HERE.parent, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "finishing the write; once more ends at once\n"
        time.sleep(2 * SAME)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


MAIN = """
import os
import signal
import time

from research import report
from research.experiment import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
plain = report._Lines.__call__


def slow(self, done, runs, cell):
    plain(self, done, runs, cell)
    print("under way:", cell, flush=True)
    time.sleep(float(os.environ.get("PAUSE", "0")))


report._Lines.__call__ = slow

if os.environ.get("COMPILER"):
    import hashlib
    import threading

    from research.workshop import Workshop

    machine, begun, judged = Workshop.machine, threading.Event(), report.experiment

    def compiling(workshop, *arguments):
        if threading.current_thread().name.startswith("ahead"):
            begun.set()
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # minutes in C, where no handler is called
        return machine(workshop, *arguments)

    def judging(outcome):
        judged(outcome)
        begun.wait(60)
        print("judging", flush=True)
        time.sleep(60)

    Workshop.machine, report.experiment = compiling, judging

if __name__ == "__main__":
    main("tiny")
"""


@pytest.fixture
def shell(family, tmp_path):
    """Begin `python -m tiny …`; with `pause` seconds after each report of its progress."""
    (family / "__main__.py").write_text(MAIN, encoding="utf-8")
    paths = os.pathsep.join(map(str, [tmp_path, HERE, HERE.parent]))
    environment = {**os.environ, "PYTHONPATH": paths}

    def begun(*arguments, pause=0.0, **others):
        return subprocess.Popen(
            [sys.executable, "-m", "tiny", *map(str, arguments)],
            env={**environment, "PAUSE": str(pause), **others},
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begun


def under_way(process, cell):
    """Read what the process says until the cell is under way."""
    for line in process.stdout:
        if line == f"under way: {cell}\n":
            return
    pytest.fail(process.stderr.read())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sweep_ends_at_a_signal_and_goes_on_with_the_command_it_names(number, shell, results, command):
    arguments = ("decay", "growth", "--set", "limit=10.0,20.0", "--results", results)
    with shell(*arguments, pause=0.5) as process:
        under_way(process, "limit=20.0")
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error == ""
    assert "Traceback" not in out
    assert "finishing the write; once more ends at once" in out
    assert f"stopped by {number.name}" in out
    assert not list(results.rglob("*.nc"))
    assert not list(results.rglob("*.lock"))
    assert not list(results.rglob("*.part"))
    rows = [line.split() for line in out.splitlines()]
    assert ["decay", "stopped", "by", number.name, "stopped"] in rows
    assert ["growth", "stopped", "by", number.name, "not", "run"] in rows
    named = shlex.split(out.splitlines()[-1])
    assert named == ["python", "-m", "tiny", *map(str, arguments)]
    status, out, error = command(*named[3:-2])
    assert status == 0
    assert error == ""
    for path in results.rglob("*.nc"):
        assert '"supported"' in read(path).attrs["findings"]
        assert json.loads(read(path).attrs["provenance"])["cells_reused"] == ("decay" in path.name)


def test_the_second_signal_ends_at_once_and_leaves_valid_files(shell, results, contents, command):
    command()
    before = contents()
    with shell("decay", "--fresh", "--results", results, pause=60) as process:
        under_way(process, "")
        process.send_signal(signal.SIGINT)
        while process.stdout.readline() != "finishing the write; once more ends at once\n":
            pass
        time.sleep(2 * SAME)
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert time.perf_counter() - began < 10
        assert process.stderr.read() == ""
    after = contents()
    assert {name: after[name] for name in before} == before
    for path in results.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert dict(arrays)
    status, out, _ = command("decay", "--fresh")
    assert status == 0
    assert f"was left behind by process {process.pid}" in out
    assert set(contents()) == set(before)


def test_a_long_segmented_run_ends_within_seconds(shell, family, results):
    text = (family / "decay.py").read_text(encoding="utf-8")
    long = "lambda key, rate: simulations.growth(key, rate)._replace(at=np.array([0, 10**9]), stop=None)"
    text = (
        text.replace("    simulations.growth,", f"    {long},")
        .replace('"noise": True', "")
        .replace("import simulations", "import numpy as np\nimport simulations")
    )
    (family / "decay.py").write_text(text, encoding="utf-8")
    with shell("decay", "--results", results) as process:
        under_way(process, "")
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error == ""
    assert out.endswith(f"To go on from there:\n  python -m tiny decay --results {results}\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_compiler_at_work_for_the_next_experiment_holds_nothing_up(number, shell, results):
    with shell("--results", results, COMPILER="slow") as process:
        for line in process.stdout:
            if line == "judging\n":
                break
        process.send_signal(number)
        try:
            out, error = process.communicate(timeout=30)
        finally:
            process.kill()  # if it does wait for the compiler
    assert process.returncode == 128 + number
    assert error == ""
    assert out.endswith(f"To go on from there:\n  python -m tiny --results {results}\n")
    assert not list(results.rglob("*.lock"))
