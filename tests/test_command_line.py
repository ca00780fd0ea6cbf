import re

import pytest

from research.command_line import run
from research.store import read


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


def test_one_failed_experiment_does_not_take_the_others_down(command, contents, family):
    text = (family / "decay.py").read_text(encoding="utf-8")
    broken = text.replace("return dataset.assign", 'raise RuntimeError("no [oracle] here")\n    return dataset.assign')
    (family / "a_broken.py").write_text(broken, encoding="utf-8")
    status, out, error = command()
    assert status == 1
    assert "a_broken failed: no [oracle] here" in error
    assert out.count("supported") >= 2
    assert {"tiny/decay.png", "tiny/growth.png", "tiny/a_broken.nc"} <= set(contents())


def test_an_empty_family_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert run(["hollow"], ["--list"]) == 0
    assert run(["hollow"], ["--dry-run"]) == 0
    assert run(["hollow"], ["claim"]) == 2
    assert "'claim'" in capsys.readouterr().err
