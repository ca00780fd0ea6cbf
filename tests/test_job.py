import errno
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from research.command_line import run
from research.job import Job, overrides, reason
from research.lock import held
from research.store import read

HERE = Path(__file__).parent


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), min_size=1), st.sampled_from(["default", "smoke", "paper"]))
@example("../../x", "default")
def test_no_value_leads_out_of_the_results_folder(value, design):
    if not value.isprintable():
        with pytest.raises(ValueError, match="--set takes AXIS=VALUE"):
            overrides([f"text={value}"])
        return
    changed = overrides([f"text={value}", "rate=0.5"])
    path = Job("experiments.tiny", "decay", design, changed, Path("results")).path
    assert path.parent == Path("results/tiny")
    assert re.fullmatch(r"decay\.[A-Za-z0-9=,+_.-]{1,99}\.nc", path.name)
    assert ".." not in path.name


@pytest.fixture
def wordy(family):
    """The experiment `decay` with a parameter that takes any text."""
    simulate = """
def simulate(key, rate: float, *, text: str = "a", noise: bool = True):
    return simulations.growth(key, rate, noise=noise)


def compare"""
    source = (family / "decay.py").read_text(encoding="utf-8")
    source = source.replace("\ndef compare", simulate).replace("    simulations.growth,", "    simulate,")
    (family / "decay.py").write_text(source, encoding="utf-8")


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_text_from_the_command_line_stays_in_the_results_folder(wordy, command, results, tmp_path):
    before = files(tmp_path)
    texts = ["../../x", "/é$_{$" + "a" * 5000]
    status, *_ = command("decay", "--set", f"text={','.join(texts)}")
    assert status == 0
    (path,) = results.rglob("*.nc")
    assert read(path).text.values.tolist() == texts
    assert files(tmp_path) - before == {path, path.with_suffix(".png")}
    assert path.parent == results / "tiny"
    for value in ("\x00", "a\nb", "\udcff", "\x1b[31m"):
        status, out, error = command("decay", "--set", f"text={value}")
        assert status == 2
        assert value not in out + error
        assert "AXIS=VALUE" in error
    assert files(tmp_path) - before == {path, path.with_suffix(".png")}


def test_a_name_is_one_of_the_family(command, results):
    for name in ("../decay", "decay/../growth", "/etc/passwd", "decay.nc", "__init__", "\x00"):
        status, _, error = command(name)
        assert status == 2
        assert "no experiment is called" in error
        with pytest.raises(ValueError, match="outside"):
            assert Job("tiny", f"../{name}", "default", {}, results).path
    assert not results.exists()


UNDER_A_LIMIT = """
import resource, sys
from research.command_line import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))  # Python ignores SIGXFSZ: EFBIG
sys.exit(run(["tiny"], sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [600, 8192])
def test_a_full_disk_leaves_the_earlier_result_as_it_was(limit, command, results, contents, tmp_path):
    command("decay")
    before = contents()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [tmp_path, HERE, HERE.parent]))}
    answer = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(limit), "decay", "--fresh", "--results", str(results)],
        env=environment,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert answer.returncode == 1
    assert f"decay failed: the disk is full ({os.strerror(errno.EFBIG)}, {results})" in answer.stderr
    assert "free some space and run the same command" in answer.stderr
    assert "Traceback" not in answer.stdout
    words = answer.stdout[answer.stdout.index("Findings") :].split()
    assert " ".join(words[words.index("decay") :]).startswith("decay the disk is full")
    assert "failed" in words
    after = contents()
    assert {name: after[name] for name in before} == before
    assert not list(results.rglob("*.part"))
    status, out, _ = command("decay")
    assert status == 0
    assert "nothing has changed" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_in_the_middle_leaves_the_earlier_result_as_it_was(number, command, contents, monkeypatch):
    command("decay")
    before = contents()

    def fails(*arguments, dir=None, **options):  # noqa: A002
        raise OSError(number, os.strerror(number), str(Path(dir) / "abc"))

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkstemp", fails)
        status, out, error = command()
    assert status == 1
    assert error.count("failed: ") == 2
    assert error.count(os.strerror(number)) == 2
    assert error.count("earlier results are untouched") == 2
    assert "Traceback" not in out + error
    assert contents() == before
    assert command("decay")[0] == 0


def test_a_figure_that_cannot_be_finished_leaves_the_earlier_one(command, contents, monkeypatch):
    command("decay")
    before = contents()

    def half(self, place, **options):
        Path(place).write_bytes(b"half a figure")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", half)
    status, _, error = command("decay")
    assert status == 1
    assert "decay failed: the disk is full" in error
    after = contents()
    assert set(after) == set(before)
    assert after["tiny/decay.png"] == before["tiny/decay.png"]


@pytest.mark.parametrize("place", ["below a file", "no file system to write in", "mounted read-only"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_is_run(
    place, family, tmp_path, capsys, compilations, monkeypatch
):
    results = tmp_path / "results"
    if place == "below a file":
        results.write_text("mine")
    elif place == "no file system to write in":
        results = Path("/sys/results")  # not even for root
    else:

        def fails(**options):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), options["dir"])

        monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    assert run(["tiny"], ["decay", "--results", str(results)]) == 1
    out, error = capsys.readouterr()
    assert f"decay failed: {results / 'tiny'} cannot be written (" in error
    assert "Traceback" not in out + error
    assert compilations.count == 0
    assert place != "below a file" or results.read_text() == "mine"


def test_the_mode_of_a_folder_is_heeded(command, results, contents):
    command("decay")
    before = contents()
    (results / "tiny").chmod(0o555)
    try:
        binds = not os.access(results / "tiny", os.W_OK)  # it does not bind root
        status, out, error = command("growth")
    finally:
        (results / "tiny").chmod(0o755)
    assert status == (1 if binds else 0)
    assert (f"{results / 'tiny'} cannot be written" in error) == binds
    assert "Traceback" not in out + error
    after = contents()
    assert after["tiny/decay.nc"] == before["tiny/decay.nc"]
    assert ("tiny/growth.nc" in after) != binds


def test_a_reason_is_in_words():
    results = Path("results")
    assert reason(ValueError("no such axis"), results) == "no such axis"
    assert reason(RuntimeError("no"), results) == "RuntimeError: no"
    assert reason(AssertionError(), results) == "AssertionError: AssertionError"
    assert reason(FileNotFoundError(errno.ENOENT, "No such file", "/data/x"), results) == "/data/x: No such file"
    assert reason(PermissionError(errno.EACCES, "Permission denied", "/data/x"), results).startswith("/data/x: Perm")
    assert reason(RuntimeError("(file write failed, errno = 28, …)"), results).startswith("the disk is full (No space")


def test_a_result_that_another_process_writes_is_left_to_it(command, results, contents):
    command("decay")
    before = contents()
    with held(results / "tiny" / "decay.lock"):
        locked = contents()
        status, out, error = command("--set", "rate=0.5,0.9")
        assert status == 0  # an override has files of its own
        status, out, error = command()
        assert (results / "tiny" / "decay.lock").read_bytes() == locked["tiny/decay.lock"]
    assert status == 1
    assert f"decay failed: {results / 'tiny' / 'decay.lock'} is held by process {os.getpid()} on" in error
    assert "Traceback" not in out + error
    assert out.count("supported") == 2  # growth, as it ends and in the table
    assert contents()["tiny/decay.nc"] == before["tiny/decay.nc"]
    assert not list(results.rglob("*.lock"))


def test_a_result_of_an_older_format_is_named_and_kept(command, results):
    command("decay")
    path = results / "tiny" / "decay.nc"
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "implicit-bias-laboratory 0"
    older = path.read_bytes()
    status, out, error = command("decay")
    assert status == 0
    assert error == ""
    assert "'implicit-bias-laboratory 0'" in out
    assert "decay.nc.aside-1" in out
    assert path.with_name("decay.nc.aside-1").read_bytes() == older
    assert read(path).diverged.size == 4


def test_what_a_killed_process_left_half_written_is_removed(command, results):
    (results / "tiny").mkdir(parents=True)
    for name in ("decay.nc", "decay.png", "decay.smoke.nc", "decay.smoke.png"):
        (results / "tiny" / f".{name}.abcdefgh.part").write_text("half")
    assert command("decay")[0] == 0
    left = sorted(path.name for path in results.rglob(".*"))
    assert left == [f".decay.smoke.{kind}.abcdefgh.part" for kind in ("nc", "png")]  # another process may be at it


def test_a_clock_that_is_set_back_changes_nothing(command, contents, monkeypatch):
    days = itertools.count()
    backwards = lambda: 1.9e9 - 86400.0 * next(days)
    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * backwards()))
    status, out, error = command("decay")
    assert (status, error) == (0, "")
    (seconds,) = re.findall(r"^ +(.*) s; figure", out, re.MULTILINE)
    assert 0 < float(seconds) < 600
    rates = re.findall(r"4/4 runs, (.*)/s", out)
    assert rates
    assert all(0 < float(rate) < 1e6 for rate in rates)
    before = contents()
    status, out, _ = command("decay")
    assert status == 0
    assert next(days) > 0
    assert "nothing has changed" in out
    assert contents()["tiny/decay.png"] == before["tiny/decay.png"]
