"""The README tells the truth: its example works as pasted, and the commands it gives are those that are tested."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from research.command_line import _parser, run
from research.experiment import designed, evaluate, members, names
from research.parts import parsed
from research.store import read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A package that holds the README's example."""
    (example,) = re.findall(r"```python\n(\"\"\"Gradient.*?)```", README, flags=re.DOTALL)
    package = tmp_path / "pasted"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mode_decay.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "pasted"
    for name in [name for name in sys.modules if name.partition(".")[0] == "pasted"]:
        del sys.modules[name]


def test_the_example_runs_as_pasted(family, tmp_path, capsys):
    assert run([family], ["--smoke", "--results", str(tmp_path / "results")]) == 0
    assert "supported" in capsys.readouterr().out
    assert (tmp_path / "results" / "pasted" / "mode_decay.smoke.png").exists()


def test_the_control_of_the_example_fails(family):
    experiment = members(family)["mode_decay"]
    sized = experiment._replace(design=designed(experiment, experiment.smoke))
    assert experiment.findings(evaluate(sized))[0].status == "supported"
    assert experiment.findings(evaluate(sized, experiment.control))[0].status == "refuted"


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_test_command_is_the_one_that_ci_runs():
    (command,) = re.findall(r"### Run the tests\n\n```bash\n(.*)\n```", README)
    assert re.search(r'pip install -e "\.\[test\]" && pytest', command)
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", text)]


def test_the_report_on_a_network_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    ((example, shown),) = re.findall(
        r"```python\n(import[^`]*saturation_report[^`]*)```\n\n```\n(.*?)```", README, re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    (before, after), (shown_before, shown_after) = (text.split("accuracy") for text in (printed, shown))
    np.testing.assert_allclose(numbers(before), numbers(shown_before), rtol=0.1, atol=0.011)
    words = lambda text: re.sub(r"[\d.]+", "#", text).split()
    assert words(before) == words(shown_before)
    for text in (after, shown_after):  # training is chaotic: not the same numbers on every machine
        assert numbers(text)[0] > 80  # accuracy
        assert float(re.findall(r"Conv_1.* (\d+)% dead", text)[0]) > 40
    assert (tmp_path / "report.png").exists()
    (projected,) = re.findall(r"```python\n(from research.deconvnet[^`]*)```", README)
    exec(compile(projected, "README.md", "exec"), names)
    assert names["pixels"].shape == names["guided"].shape == (8, 8, 1)
    assert np.abs(names["pixels"]).max() > 0


def words_of(pattern):
    """The arguments of the README's commands that match."""
    return [shlex.split(line.partition("#")[0].rstrip(" &")) for line in re.findall(pattern, README, re.MULTILINE)]


@pytest.mark.xdist_group("several")
def test_two_processes_started_by_hand_end_with_one_result(tmp_path):
    commands = words_of(r"^(python -m .*--coordinator .*)$")
    assert len(commands) == 2
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, *(word.replace("12345", str(port)) for word in words[1:]), "--results", str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "MPLBACKEND": "Agg"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for words in commands
    ]
    try:
        said = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0, 0], said
    (path,) = tmp_path.rglob("*.nc")
    assert "supported" in said[0][0]
    assert [line for line in said[1][0].splitlines() if not line.startswith("[Gloo]")] == []  # the first one speaks
    assert json.loads(read(path).attrs["provenance"])["processes"] == 2


def test_the_commands_for_parts_are_taken_by_the_parser(tmp_path):
    (shard,) = words_of(r"^(python -m .*--shard 3/16).*$")
    assert parsed(shard[-1]) == (3, 16)
    for words in words_of(r"^(python -m experiments\.\S+ .*)$"):
        family = words[2]
        name = f"experiments.{family.rpartition('.')[2]}"
        available = [(name, each) for each in names(name)]
        _parser([name], available).parse_args(words[3:])
