"""The README tells the truth: its example works as pasted, and the commands it gives are those that are tested."""

import os
import re
import sys
from pathlib import Path

import pytest

from research.command_line import run
from research.experiment import designed, evaluate, members

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
