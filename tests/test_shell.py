import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from experiments.__main__ import show
from research.store import read

ROOT = Path(__file__).parents[1]


def test_show_prints_what_is_stored(command, results, capsys):
    command("decay", "--seeds", "3")
    (path,) = results.rglob("*.nc")
    capsys.readouterr()
    assert show(path) == 0
    out = capsys.readouterr().out
    for word in (
        "seeds=3",
        "rate ('rate',): 0.5, 0.9",
        "noise (): True",
        "6 runs, 0 diverged",
        "supported",
        "commit: ",
    ):
        assert word in out
    assert "value ('seed', 'rate', 'step') float64" in out


@pytest.mark.parametrize("content", ["foreign", "text", "nothing"])
def test_show_leaves_a_foreign_file_as_it_is(content, tmp_path, capsys):
    path = tmp_path / "theirs.nc"
    if content == "foreign":
        xr.Dataset({"a": ("x", [1.0])}).to_netcdf(path, engine="h5netcdf")
    elif content == "text":
        path.write_text("hello")
    before = [(file.name, file.read_bytes()) for file in tmp_path.iterdir()]
    assert show(path) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"error: {path} cannot be shown")
    assert "Traceback" not in out + error
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == before


def module(*arguments):
    environment = {**os.environ, "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )


def test_the_commands_of_the_readme_work_from_a_shell(results):
    size = (
        "--smoke",
        "--set",
        "learning_rate=0.5",
        "weight_decay=0.0",
        "data=gaussian",
        "optimizer=gradient_descent",
    )
    answer = module("experiments.implicit_bias", "minimum_norm", *size, "steps=200", "--results", results)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    (path,) = results.rglob("*.nc")
    assert path.parent.name == "implicit_bias"
    assert path.name.startswith("minimum_norm.smoke")
    assert not (results / "claims.md").exists()
    shown = module("experiments", "show", path)
    assert shown.returncode == 0, shown.stderr
    stored = json.loads(read(path).attrs["provenance"])
    assert stored["simulate"] == "experiments.implicit_bias.minimum_norm.simulate"
    assert stored["simulate"] in shown.stdout
    usage = module("experiments", "show")
    assert usage.returncode == 2
    assert "show FILE.nc" in usage.stderr


def test_help_imports_no_array_library():
    program = """
import sys
sys.argv = ["experiments", "--help"]
try:
    import runpy
    runpy.run_module("experiments", run_name="__main__")
except SystemExit:
    pass
print([name for name in ("cvxpy", "sklearn", "tensorflow_datasets", "matplotlib.pyplot") if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True, timeout=100
    )
    assert "minimum_norm" in answer.stdout
    assert answer.stdout.rstrip().endswith("[]")
