"""Results on disk: one `.nc` an experiment, content-addressed, written atomically, resumable, with its provenance.

A result is found again by *what was computed* (the traced program with its data, the axes, the key, the precision, the
versions of jax, flax and optax), not by a name or a date. While a sweep is under way, finished blocks of runs and the
state of the block at work lie beside the result in `<name>.cells/`; the finished file replaces them. A file that cannot
be read, or that something else wrote, is set aside under another name and reported, never deleted. Files hold data
only. Of several processes the first one reads and writes.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from research import processes

FORMAT = "implicit-bias-laboratory 2"
PART = "part.json"
OLDER = ("implicit-bias-laboratory 1",)
COMPUTING = ("jax", "flax", "optax")
RECORDED = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn", "cvxpy", "xarray")
Arrays = dict[str, np.ndarray]
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def read(path: str | Path | io.BytesIO, memory: int | None = None) -> xr.Dataset:
    """The dataset in a result's file; left on disk, to be read as it is used, where it is larger than `memory` bytes.

    Raises one of `UNREADABLE` where it is truncated or something else wrote it.
    """
    stored = xr.open_dataset(path, engine="h5netcdf", phony_dims="access")
    try:
        found = stored.attrs.get("format")
        if found in OLDER:
            raise ValueError(f"an older version of this laboratory wrote it, as {found!r}; this one reads {FORMAT!r}")
        if found != FORMAT:
            raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
        if memory is not None and stored.nbytes > memory:
            return stored
        loaded = stored.load()
    except BaseException:
        stored.close()
        raise
    stored.close()
    return loaded


class Store:
    """The place of one experiment's result, `path` ending in `.nc`; `say` is told what happens to odd files."""

    def __init__(self, path: str | Path, say: Callable[[str], None] = print) -> None:
        self.path = Path(path)
        self.say = say
        if self.path.suffix != ".nc":
            raise ValueError(f"a store's path ends in .nc, got {str(path)!r}")

    @property
    def cells(self) -> Path:
        """The folder of finished cells of a result that is not complete yet."""
        return self.path.with_suffix(".cells")

    def load(self, memory: int | None = None) -> xr.Dataset | None:
        """The stored result as `read` gives it, or None where there is none (a broken or foreign file is set aside)."""
        if processes.count() == 1:
            return self._read(memory)
        usable = processes.first() and self._read() is not None
        found = processes.told(self.path.read_bytes() if usable else None)
        return None if found is None else read(io.BytesIO(found))

    def _read(self, memory: int | None = None) -> xr.Dataset | None:
        if not self.path.exists():
            return None
        try:
            return read(self.path, memory)
        except UNREADABLE as problem:
            self._set_aside(self.path, problem)
            return None

    def save(self, dataset: xr.Dataset) -> None:
        """Write the result in one step: whoever reads sees the old file or the new one, never a part."""
        if not processes.first():
            return
        checked = {
            name: {"fletcher32": True} for name, values in dataset.data_vars.items() if values.size and values.ndim
        }
        with replacing(self.path) as temporary:
            with temporary.open("wb") as file:
                reserve(file.fileno(), _size(dataset))
            dataset.assign_attrs(format=FORMAT).to_netcdf(temporary, engine="h5netcdf", encoding=checked)

    def blocks(self, address: str) -> list[tuple[int, int]]:
        """The finished blocks of a cell, in order: (first run, behind the last)."""
        names = [path.name.removeprefix(f"{address}.") for path in self.cells.glob(f"{address}.*.npz")]
        names = [name.removesuffix(".npz") for name in names if re.fullmatch(r"\d+-\d+\.npz", name)]
        names = json.loads(processes.told(json.dumps(names).encode()) or b"[]")
        return sorted((int(first), int(last)) for first, _, last in (name.partition("-") for name in names))

    def load_block(self, address: str, first: int, last: int) -> Arrays | None:
        """The arrays of a finished block of an unfinished result, or None where it cannot be used."""
        return self._load_arrays(self._block(address, first, last))

    def save_block(self, address: str, first: int, last: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished block until the result is complete; the state that it had under way is dropped."""
        self._save_arrays(self._block(address, first, last), arrays)
        if processes.first():
            self._block(address, first, last, "state").unlink(missing_ok=True)

    def load_state(self, address: str, first: int, last: int) -> Arrays | None:
        """The state of a block that was under way, or None."""
        return self._load_arrays(self._block(address, first, last, "state"))

    def save_state(self, address: str, first: int, last: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the state of a block that is under way."""
        self._save_arrays(self._block(address, first, last, "state"), arrays)

    def load_part(self) -> dict[str, Any]:
        """What the part of a sweep that lies here was meant to be, as it was given to `save_part`."""
        return json.loads((self.cells / PART).read_text(encoding="utf-8"))

    def save_part(self, facts: Mapping[str, Any]) -> None:
        """Say what the part of a sweep that will lie here is meant to be."""
        if not processes.first():
            return
        with replacing(self.cells / PART) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")

    def drop_cells(self, addresses: Sequence[str] = ("",)) -> None:
        """Remove the blocks and states of these cells, or of all: the result holds them. What was set aside stays."""
        if not processes.first():
            return
        kinds = [f"{address}*.{kind}" for address in addresses for kind in ("npz", "state")]
        for kind in (*kinds, *((".*.part", PART) if "" in addresses else ())):
            for path in self.cells.glob(kind):
                path.unlink()
        with contextlib.suppress(OSError):
            self.cells.rmdir()

    def clean(self) -> None:
        """Remove what a killed process left half written. Only for who holds the result's lock."""
        for path in [*self.path.parent.glob(f".{self.path.name}.*.part"), *self.cells.glob(".*.part")]:
            path.unlink()

    def _block(self, address: str, first: int, last: int, kind: str = "npz") -> Path:
        return self.cells / f"{address}.{first}-{last}.{kind}"

    def _load_arrays(self, path: Path) -> Arrays | None:
        if processes.count() == 1:
            return self._arrays(path)
        usable = processes.first() and self._arrays(path) is not None
        found = processes.told(path.read_bytes() if usable else None)
        return None if found is None else dict(np.load(io.BytesIO(found), allow_pickle=False))

    def _arrays(self, path: Path) -> Arrays | None:
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            self._set_aside(path, problem)
            return None

    def _save_arrays(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        if not processes.first():
            return
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _set_aside(self, path: Path, problem: Exception) -> None:
        number = 1
        while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
            number += 1
        path.rename(aside)
        self.say(f"{path} cannot be used ({problem}); it is kept as {aside.name} and computed anew.")


def reserve(file: int, size: int) -> None:
    """Take that many bytes on the disk for an open file, or raise OSError.

    Where a disk fills up midway, HDF5 and memory-mapped files end the whole process.
    """
    if hasattr(os, "posix_fallocate"):  # not on every system
        os.posix_fallocate(file, 0, max(1, size))


def _size(dataset: xr.Dataset) -> int:
    """Bytes that the dataset's file will take, at most."""
    text = sum(len(str(value).encode()) for value in dataset.attrs.values())
    return dataset.nbytes + 2 * text + 8192 * (1 + len(dataset.variables))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once the block has ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def address(program: str, parts: Mapping[str, Any]) -> str:
    """The content address of a cell: a program's own address with the numbers that go into it and the versions."""
    versions = {name: version(name) for name in COMPUTING}
    text = json.dumps({"program": program, "parts": parts, "versions": versions}, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def version(package: str) -> str:
    """The installed version of a package, or `absent`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def provenance(**facts: Any) -> str:
    """One JSON string: `facts`, the commit with its dirty flag, and the versions of what computes. No host name."""
    commit, dirty = _commit()
    versions = {name: version(name) for name in RECORDED}
    return json.dumps({**facts, "commit": commit, "dirty": dirty, "versions": versions}, default=_plain)


def _commit() -> tuple[str, bool]:
    """The commit of the checkout that holds this file, and whether it has changes; `unknown` outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        ask = lambda *words: subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
