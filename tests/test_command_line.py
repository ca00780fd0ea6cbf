import re
import signal

import pytest
from matplotlib.figure import Figure

from research import experiment
from research.command_line import run
from research.store import Store, read


def test_list_and_help_answer(command, capsys):
    status, out, _ = command("--list")
    assert status == 0
    assert out == "decay: what shrinks shrinks [fast].\ngrowth: what grows grows.\n"
    status, out, _ = command("growth", "--list")
    assert "decay" not in out
    assert re.search(r"rate \(float; one program for all values\)\n.*limit \(float; one program a value\)", out)
    with pytest.raises(SystemExit) as caught:
        command("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for word in ("decay, growth", "--dry-run", "--set", "--draw-only", "--paper", "python -m tiny decay"):
        assert word in out


def test_a_dry_run_compiles_nothing_and_writes_nothing(command, results, compilations):
    status, out, _ = command("--dry-run", "--set", "rate=0.1,0.2,0.3", "limit=1e10,1e20")
    assert status == 0
    assert compilations.count == 0
    assert not results.exists()
    for word in ("decay", "growth", "2 seeds × 3 rate × 2 limit", "12", "24", "rate=0.1,0.2,0.3"):
        assert word in out


def test_a_run_leaves_its_data_its_figure_and_its_claim(command, contents, results):
    status, out, _ = command("decay")
    assert status == 0
    assert "supported" in out
    assert set(contents()) == {"tiny/decay.nc", "tiny/decay.png", "claims.md"}
    claims = (results / "claims.md").read_text(encoding="utf-8")
    assert "| the error \\| at any time | [0, 1e-12] |" in claims
    assert "[arXiv:2001.00001](https://arxiv.org/abs/2001.00001)" in claims
    assert "[figure](tiny/decay.png) · 4 runs, 0 diverged · 2 × cpu" in claims
    status, *_ = command("growth")
    both = (results / "claims.md").read_text(encoding="utf-8")
    assert both.startswith(claims.rstrip())
    assert "## tiny / growth" in both
    before = contents()
    status, out, _ = command("decay")
    assert status == 0
    assert "nothing has changed" in out
    assert contents()["claims.md"] == before["claims.md"]


def test_a_page_is_written_beside_the_figure_of_the_default_design_only(command, family, contents, results):
    with (family / "decay.py").open("a", encoding="utf-8") as file:
        file.write("experiment = experiment._replace(page=lambda dataset: f\"# {dataset.sizes['seed']} seeds\\n\")\n")
    command("decay", "--smoke")
    assert not [name for name in contents() if name.endswith(".md")]
    command("decay")
    assert (results / "tiny" / "decay.md").read_text(encoding="utf-8") == "# 2 seeds\n"
    assert set(contents()) >= {"tiny/decay.nc", "tiny/decay.png", "claims.md"}


def test_an_override_has_files_of_its_own(command, contents, results):
    command("decay")
    before = contents()
    for arguments, word in (
        (("--smoke",), "smoke"),
        (("--seeds", "3"), "seeds=3"),
        (("--set", "rate=0.25"), "rate=0.25"),
        (("--set", "rate=0.25", "--smoke"), "rate=0.25"),
    ):
        status, out, _ = command("decay", *arguments)
        assert status == 0
        assert word in out
        after = contents()
        assert {name: after[name] for name in before} == before
        new = sorted(set(after) - set(before))
        assert len(new) == 2
        assert all(word in name.replace("_", ".") for name in new)
        (data,) = [name for name in new if name.endswith(".nc")]
        assert word in read(results / data).attrs["design"]
        before = after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "rats=0.1"), ["'rats'", "did you mean 'rate'", "limit (float)", "noise (bool)"]),
        (("--set", "rate=fast"), ["'rate'", "finite numbers", "'fast'"]),
        (("--set", "noise=7"), ["'noise'", "bool", "7"]),
        (("--set", "rate=0.1,0.1"), ["'rate'", "twice"]),
        (("--set", "rate=nan"), ["'rate'", "nan"]),
        (("--set", "rate"), ["AXIS=VALUE", "'rate'"]),
        (("--set", "rate="), ["AXIS=VALUE", "'rate='"]),
        (("--set", "rate=1", "rate=2"), ["'rate'", "twice"]),
        (("--seeds", "0"), ["seeds", "positive", "0"]),
        (("dekay",), ["'dekay'", "decay, growth"]),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_compiled(arguments, words, command, results, compilations):
    status, out, error = command(*(arguments if arguments == ("dekay",) else ("decay", *arguments)))
    assert status == 2
    assert error.startswith("error:")
    for word in words:
        assert word in error
    assert not results.exists()
    assert compilations.count == 0
    assert "Traceback" not in out + error


def test_drawing_only_needs_a_result_and_runs_nothing(command, results, compilations):
    status, out, error = command("decay", "--draw-only")
    assert status != 0
    assert f"there is no result at {results / 'tiny' / 'decay.nc'}" in error
    assert "Traceback" not in out + error
    assert not list(results.rglob("*"))
    command("decay")
    (results / "tiny" / "decay.png").unlink()
    compilations.count = 0
    status, out, _ = command("decay", "--draw-only")
    assert status == 0
    assert compilations.count == 0
    assert "nothing was run" in out
    assert "supported" in out
    assert (results / "tiny" / "decay.png").read_bytes().startswith(b"\x89PNG")
    status, out, error = command("--draw-only")
    assert status == 1
    assert "supported" in out
    assert f"growth failed: there is no result at {results / 'tiny' / 'growth.nc'} to draw" in error


@pytest.fixture
def breaks(family):
    """Add the experiment `a_broken`, whose comparison does what is said."""

    def added(statement):
        text = (family / "decay.py").read_text(encoding="utf-8")
        broken = text.replace("return dataset.assign", f"{statement}\n    return dataset.assign")
        (family / "a_broken.py").write_text(broken, encoding="utf-8")

    return added


def table(out):
    """The words of the rows of the table at the end."""
    return [line.split() for line in out[out.index("Findings") :].splitlines()]


def test_one_failed_experiment_does_not_take_the_others_down(command, contents, breaks):
    breaks('raise RuntimeError("no [oracle] here\\nnor there")')
    status, out, error = command()
    assert status == 1
    assert error == "error: a_broken failed: RuntimeError: no [oracle] here\nnor there\n"
    assert "Traceback" in out
    assert ["a_broken", "RuntimeError:", "no", "[oracle]", "here", "failed"] in table(out)
    assert ["nor", "there"] not in table(out)
    assert [row[0] for row in table(out) if row[-1:] == ["supported"]] == ["decay", "growth"]
    assert {"tiny/decay.png", "tiny/growth.png", "tiny/a_broken.nc"} <= set(contents())


def test_fail_fast_ends_at_the_first_that_fails(command, contents, breaks):
    breaks('raise ValueError("no oracle")')
    status, out, error = command("--fail-fast", "--smoke")
    assert status == 1
    assert error == "error: a_broken failed: no oracle\n"
    assert ["a_broken", "no", "oracle", "failed"] in table(out)
    for name in ("decay", "growth"):
        (row,) = [row for row in table(out) if row[:1] == [name]]
        assert row[1] == "--fail-fast:"
        assert row[-2:] == ["not", "run"]
    assert set(contents()) == {"tiny/a_broken.smoke.nc"}


def test_an_experiment_that_cannot_be_imported_does_not_take_the_others_down(command, family, results):
    (family / "a_broken.py").write_text("import simulations\n\nsimulations.nothing\n", encoding="utf-8")
    status, out, error = command("--dry-run")
    assert status == 1
    assert "2 seeds × 2 rate" in out
    assert "a_broken failed: AttributeError:" in error
    assert not results.exists()
    status, out, error = command("--list", "a_broken", "growth")
    assert status == 1
    assert error.startswith("error: a_broken cannot be read: AttributeError: ")
    assert "growth: what grows grows." in out
    status, out, error = command("--smoke", "a_broken", "growth")
    assert status == 1
    assert [row[-1] for row in table(out) if row[:1] in (["a_broken"], ["growth"])] == ["failed", "supported"]
    assert command("--smoke", "--fail-fast", "a_broken", "growth")[0] == 1


def test_a_signal_between_the_writes_ends_the_program_with_a_word_on_how_to_go_on(command, contents, results, breaks):
    breaks("import signal; signal.raise_signal(signal.SIGTERM)")
    arguments = ("--set", "rate=0.5", "noise=True")
    status, out, error = command(*arguments)
    assert status == 143
    assert error == ""
    assert ["a_broken", "stopped", "by", "SIGTERM", "stopped"] in table(out)
    assert ["decay", "stopped", "by", "SIGTERM", "not", "run"] in table(out)
    command_again = f"  python -m tiny --set rate=0.5 noise=True --results {results}\n"
    assert out.endswith(f"stopped by SIGTERM; what was finished is kept. To go on from there:\n{command_again}")
    (data,) = contents()
    assert data.endswith(".nc")


@pytest.mark.parametrize(("owner", "name"), [(Store, "save"), (Figure, "savefig")])
def test_a_signal_during_a_write_lets_it_end(owner, name, command, contents, monkeypatch):
    command()
    before, writes, ended = set(contents()), getattr(owner, name), []

    def interrupted(self, *arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        writes(self, *arguments, **options)
        ended.append(name)

    monkeypatch.setattr(owner, name, interrupted)
    status, out, _ = command("--draw-only")
    assert status == 143
    assert ended == [name]
    assert set(contents()) == before
    assert ["growth", "stopped", "by", "SIGTERM", "not", "run"] in table(out)


def test_a_signal_before_the_first_run_ends_the_program_too(command, results, monkeypatch):
    monkeypatch.setattr(experiment, "planned", lambda *arguments: signal.raise_signal(signal.SIGINT))
    status, out, error = command("decay")
    assert status == 130
    assert error == ""
    assert f"python -m tiny decay --results {results}" in out
    assert not results.exists()


def test_an_empty_family_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert run(["hollow"], ["--list"]) == 0
    assert run(["hollow"], ["--dry-run"]) == 0
    assert run(["hollow"], ["claim"]) == 2
    assert "'claim'" in capsys.readouterr().err
