import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import interrupted
import numpy as np
import pytest
import xarray as xr
from simulations import formula, growth, regression

from research.plan import plan
from research.store import FORMAT, UNREADABLE, Store, read
from research.sweep import sweep

HERE = Path(__file__).parent
AXES = {"rate": (0.5, 0.9), "limit": [10.0, 20.0]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "growth.nc"


@pytest.fixture
def said():
    return []


def facts(dataset):
    return json.loads(dataset.attrs["provenance"])


def test_a_second_sweep_reads_and_compiles_nothing(path, compilations):
    first = sweep(growth, AXES, seeds=2, store=path)
    assert sorted(child.name for child in path.parent.iterdir()) == ["growth.nc"]
    written = path.stat().st_mtime_ns
    compilations.count = 0
    heard = []
    second = sweep(growth, AXES, seeds=2, store=str(path), progress=lambda *words: heard.append(words))
    assert compilations.count == 0
    assert heard == []
    assert second.identical(first.assign_attrs(second.attrs))
    assert second.diverged.dtype == bool
    assert path.stat().st_mtime_ns == written
    fresh = sweep(growth, AXES, seeds=2, store=path, fresh=True)
    assert compilations.count > 0
    assert facts(fresh)["cells_reused"] == 0
    assert path.stat().st_mtime_ns != written


def test_only_what_is_missing_is_computed(path, compilations):
    sweep(growth, AXES, seeds=2, store=path)
    more = sweep(growth, {**AXES, "limit": [5.0, 20.0, 10.0]}, seeds=2, store=path)
    assert facts(more)["cells"] == 3
    assert facts(more)["cells_reused"] == 2
    assert facts(more)["runs_reused"] == 2 * more.diverged.size // 3
    assert more.limit.values.tolist() == [5.0, 20.0, 10.0]
    assert more.identical(sweep(growth, {**AXES, "limit": [5.0, 20.0, 10.0]}, seeds=2).assign_attrs(more.attrs))
    compilations.count = 0
    less = sweep(growth, {**AXES, "limit": [20.0]}, seeds=2, store=path)
    assert facts(less)["cells_reused"] == 1
    assert less.identical(more.sel(limit=[20.0]).assign_attrs(less.attrs))
    assert compilations.count == 0


def test_reused_cells_of_different_sizes_are_cut_out_as_they_were(path):
    axes = {"learning_rate": (0.1, 0.2), "features": [3, 2], "steps": [20, 9]}
    whole = sweep(regression, axes, seeds=2, store=path)
    part = sweep(regression, {**axes, "features": [2], "steps": [20]}, seeds=2, store=path)
    assert facts(part)["cells_reused"] == 1
    assert part.identical(sweep(regression, {**axes, "features": [2], "steps": [20]}, seeds=2).assign_attrs(part.attrs))
    assert whole.sizes["feature"] == 3


def test_the_same_cells_along_other_axes_get_the_labels_asked_for(path):
    sweep(growth, {"rate": (0.5, 0.9), "limit": 10.0}, seeds=2, store=path)
    for axes, dimensions in (
        ({"rate": (0.5, 0.9), "limit": [10.0]}, ("seed", "rate", "limit")),
        ({"limit": [10.0], "rate": (0.5, 0.9)}, ("seed", "limit", "rate")),
        ({("rate", "limit"): [(0.5, 10.0), (0.9, 10.0)]}, ("seed", "rate+limit")),
        ({"rate": (0.5, 0.9), "limit": 10.0}, ("seed", "rate")),
    ):
        dataset = sweep(growth, axes, seeds=2, store=path)
        assert dataset.diverged.dims == dimensions
        assert facts(dataset)["cells_reused"] == 1
        assert dataset.identical(sweep(growth, axes, seeds=2).assign_attrs(dataset.attrs))


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "growth.nc"
    return sweep(growth, AXES, seeds=2, store=path), path.read_bytes()


def foreign(path):
    xr.Dataset({"a": ("x", [1.0, 2.0])}).to_netcdf(path, engine="h5netcdf")


def another_format(path):
    xr.Dataset({"a": ("x", [1.0])}, attrs={"format": FORMAT + "0"}).to_netcdf(path, engine="h5netcdf")


def plain_hdf5(path):
    with h5py.File(path, "w") as file:
        file["a"] = [1.0]


def flipped(path, whole):
    """One bit of the recorded numbers is another: what a bad disk or a broken transfer leaves."""
    path.write_bytes(whole)
    with h5py.File(path) as file:
        place = file["value"].id.get_chunk_info(0).byte_offset
    path.write_bytes(whole[: place + 3] + bytes([whole[place + 3] ^ 1]) + whole[place + 4 :])


DAMAGES = {
    "one bit": flipped,
    "empty": lambda path, whole: path.write_bytes(b""),
    "text": lambda path, whole: path.write_text("my notes on growth\n"),
    "half": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "all but the end": lambda path, whole: path.write_bytes(whole[:-1]),
    "the beginning": lambda path, whole: path.write_bytes(whole[:600]),
    "foreign": lambda path, whole: foreign(path),
    "another format": lambda path, whole: another_format(path),
    "plain HDF5": lambda path, whole: plain_hdf5(path),
    "zeros": lambda path, whole: path.write_bytes(bytes(4096)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_used_is_named_kept_and_replaced(damage, path, said, intact):
    expected, whole = intact
    path.parent.mkdir()
    DAMAGES[damage](path, whole)
    damaged = path.read_bytes()
    with pytest.raises(UNREADABLE):
        read(path)
    assert path.read_bytes() == damaged
    dataset = sweep(growth, AXES, seeds=2, store=Store(path, said.append))
    assert dataset.identical(expected.assign_attrs(dataset.attrs))
    assert path.with_name("growth.nc.aside-1").read_bytes() == damaged
    (line,) = said
    assert str(path) in line
    assert "growth.nc.aside-1" in line
    assert read(path).attrs["format"] == FORMAT


def test_what_is_set_aside_never_takes_the_place_of_another(path, said):
    path.parent.mkdir()
    for number in range(3):
        path.write_text(f"note {number}")
        assert Store(path, said.append).load() is None
    assert [path.with_name(f"growth.nc.aside-{n}").read_text() for n in (1, 2, 3)] == ["note 0", "note 1", "note 2"]


def test_a_finished_cell_that_cannot_be_used_is_named_kept_and_computed_anew(path, said):
    store = Store(path, said.append)
    planned = plan(growth, AXES, seeds=2)
    first, second = planned.addresses()
    expected = sweep(growth, AXES, seeds=2, store=path)
    path.unlink()
    sweep(growth, {**AXES, "limit": [10.0]}, seeds=2, store=path)
    store.save_block(second, 0, 4, {name: np.zeros(1) for name in ("value", "diverged")})
    whole = (store.cells / f"{second}.0-4.npz").read_bytes()
    (store.cells / f"{first}.0-4.npz").write_bytes(whole[:-30])
    (store.cells / f"{second}.0-4.npz").write_bytes(b"PK no zip")
    path.unlink()
    dataset = sweep(growth, AXES, seeds=2, store=store)
    assert dataset.identical(expected.assign_attrs(dataset.attrs))
    assert facts(dataset)["cells_reused"] == 0
    assert len(said) == 2
    assert (store.cells / f"{first}.0-4.npz.aside-1").read_bytes() == whole[:-30]
    assert (store.cells / f"{second}.0-4.npz.aside-1").read_bytes() == b"PK no zip"
    assert sorted(child.suffix for child in store.cells.iterdir()) == [".aside-1", ".aside-1"]


def test_writing_is_all_or_nothing(path, monkeypatch):
    before = sweep(formula, {"slope": 1.0}, seeds=2, store=path)
    whole = path.read_bytes()

    def breaks(dataset, target, **options):
        Path(target).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", breaks)
    with pytest.raises(OSError, match="disk full"):
        Store(path).save(before)
    assert path.read_bytes() == whole
    assert [child.name for child in path.parent.iterdir()] == ["growth.nc"]


def test_provenance_says_how_a_result_came_about_and_not_where(path):
    dataset = sweep(growth, AXES, seeds=2, key=7, store=path)
    stored = facts(dataset)
    assert stored["simulate"] == "simulations.growth"
    assert (stored["seeds"], stored["key"], stored["precision"]) == (2, 7, "float64")
    assert stored["device"] == "2 × cpu"
    assert stored["wall_seconds"] > 0
    assert (stored["cells"], stored["cells_reused"]) == (2, 0)
    assert len(stored["commit"]) == 40 or stored["commit"] == "unknown"
    assert isinstance(stored["dirty"], bool)
    assert {"jax", "jaxlib", "numpy", "optax", "flax", "scipy"} <= set(stored["versions"])
    assert all(isinstance(value, (str, int, float)) for value in read(path).attrs.values())
    assert socket.gethostname() not in json.dumps([stored, dict(dataset.attrs)])
    for root in (HERE.parent, Path.home()):
        assert str(root) not in dataset.attrs["provenance"]


def test_results_hold_no_pickles(path, monkeypatch):
    sweep(growth, AXES, seeds=2, store=path)

    def no_objects(name, item):
        assert getattr(item, "dtype", np.dtype(float)).hasobject is False or h5py.check_string_dtype(item.dtype)

    with h5py.File(path) as file:
        file.visititems(no_objects)
    store = Store(path.with_name("cell.nc"))
    store.save_block("a", 0, 2, {"x": np.ones(2)})
    np.savez(store.cells / "b.0-2.npz", x=np.array([{}], dtype=object))
    said = []
    assert Store(store.path, said.append).load_block("b", 0, 2) is None
    assert len(said) == 1


def test_a_store_ends_in_nc(tmp_path):
    with pytest.raises(ValueError, match=r"\.nc.*results\.csv"):
        Store(tmp_path / "results.csv")


def test_a_killed_sweep_goes_on_where_it_was(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, str(HERE / "interrupted.py"), str(path)]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as killed:
        addresses = killed.stdout.readline().split()
        assert killed.stdout.readline() == "in the second cell\n"
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert [child.name for child in path.parent.iterdir()] == ["growth.cells"]
    (cell,) = path.with_suffix(".cells").iterdir()
    assert cell.stem == f"{addresses[0]}.0-4"
    assert plan(interrupted.simulate, interrupted.AXES, seeds=2).addresses() == addresses  # as in the other process
    heard = []
    dataset = sweep(interrupted.simulate, interrupted.AXES, seeds=2, store=path, progress=lambda *w: heard.append(w))
    assert facts(dataset)["cells_reused"] == 1
    assert heard[0] == (4, 8, "steps=10")
    assert dataset.identical(sweep(interrupted.simulate, interrupted.AXES, seeds=2).assign_attrs(dataset.attrs))
    assert [child.name for child in path.parent.iterdir()] == ["growth.nc"]
