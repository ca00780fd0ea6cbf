"""What a sweep will do: its cells, their runs, memory and addresses, all known before anything is compiled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from research import assembly, layout
from research.axes import Grid, grid, label
from research.layout import Precision
from research.program import Program
from research.store import address


class Cell(NamedTuple):
    """A static cell of the grid: its program, and where its runs stand in the grid."""

    program: Program
    name: str
    points: np.ndarray
    traced: dict[str, np.ndarray]

    def mapped(self, keys: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the program is mapped over for these runs, seed by seed: each one's key data and traced parameters."""
        seed, point = np.divmod(runs, len(self.points))
        _, types = self.program.signature
        return keys[seed], {name: np.asarray(values[point], types[name].dtype) for name, values in self.traced.items()}

    def asking(self, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs that between them have all that is given to any, and which of these has that of each (seed, point)."""
        program, points = self.program, len(self.points)
        if not program.shape.given:
            return np.zeros(0, int), np.zeros((seeds, points), int)
        needed = [self.traced[name] for name in self.traced if program.given_needs(name)]
        table = np.stack(needed, axis=1) if needed else np.zeros((points, 1))
        _, first, own = np.unique(table, axis=0, return_index=True, return_inverse=True)
        drawn = seeds if program.given_needs("key") else 1
        index = np.arange(drawn)[:, None] * len(first) + own.reshape(1, -1)
        return (np.arange(drawn)[:, None] * points + first).ravel(), np.broadcast_to(index, (seeds, points))


class Compiled(NamedTuple):
    """An executable, and the seconds that it took to compile."""

    call: Callable
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep will do; what is compiled for it is kept in `programs` until it is done, by the hash of its text."""

    grid: Grid
    cells: list[Cell]
    seeds: int
    key: int
    precision: Precision
    programs: dict[str, Compiled] = dataclasses.field(default_factory=dict)

    @property
    def simulate(self) -> Callable:
        """The function whose runs these are."""
        return self.cells[0].program.simulate

    @property
    def runs(self) -> int:
        """Runs in all."""
        return sum(self.cell_runs)

    @property
    def cell_runs(self) -> list[int]:
        """Runs of each static cell."""
        return [self.seeds * len(cell.points) for cell in self.cells]

    def part(self, number: int, parts: int) -> list[tuple[int, int]]:
        """The runs of each cell, (first, behind the last), that part `number` of `parts`, from 1, has to compute."""
        ends = np.cumsum(self.cell_runs)
        first, last = (self.runs * end // parts for end in (number - 1, number))
        cut = lambda run, end, runs: int(np.clip(run - (end - runs), 0, runs))
        return [(cut(first, end, runs), cut(last, end, runs)) for end, runs in zip(ends, self.cell_runs, strict=True)]

    @property
    def memory(self) -> int:
        """Bytes, estimated: all that is recorded, and the largest cell's states and records twice on the device."""
        shapes = [(self.seeds * len(cell.points), cell.program.shape) for cell in self.cells]
        live = max(runs * shape.run_bytes for runs, shape in shapes)
        return sum(runs * shape.record_bytes for runs, shape in shapes) + min(2 * live, layout.memory())

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """The data of each seed's key, `fold_in(key, i)`, at every grid point and whatever the number of seeds."""
        return np.asarray(_keys(jax.random.key(self.key), np.arange(self.seeds)))

    def forget(self) -> None:
        """Drop what was traced and compiled; it is made anew where it is asked for.

        It holds data sets, and jax (seen with 0.10.2) gives an array of NumPy's the width, 32 or 64 bits, that it has
        in any program that is still there: those of another precision must be gone before this array is traced again.
        """
        self.programs.clear()
        for cell in self.cells:
            cell.program.forget()

    def addresses(self) -> list[str]:
        """The content address of every cell, whatever the number of seeds; traces the programs, compiles nothing."""
        return [self.address(number) for number in range(len(self.cells))]

    def address(self, number: int) -> str:
        """The content address of one cell."""
        cell = self.cells[number]
        with layout.precision(self.precision):
            numbers = {"traced": cell.traced, "key": self.key, "precision": self.precision}
            return address(cell.program.address(), numbers)


@jax.jit
def _keys(key: Any, seeds: Any) -> jax.Array:
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, seeds))


def plan(
    simulate: Callable,
    axes: Mapping[Any, Any],
    *,
    seeds: int = 1,
    key: int = 0,
    precision: Precision = "float64",
) -> Plan:
    """The plan of a sweep, after every check that can be made before compilation.

    Raises ValueError or TypeError naming what is wrong: an axis, a seed count, an observable's annotation or shape.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds takes a positive integer, got {seeds!r}")
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValueError(f"key takes an integer, got {key!r}")
    layout.prepare()  # before JAX starts, which tracing does
    laid = grid(simulate, axes)
    with layout.precision(precision):
        cells = [
            Cell(Program(simulate, static, traced), _named(static, laid), points, traced)
            for static, points, traced in laid.cells()
        ]
    assembly.check_names(laid, [cell.program.shape for cell in cells])
    return Plan(laid, cells, seeds, key, precision)


def _named(static: Mapping[str, Any], laid: Grid) -> str:
    """The static values that set a cell apart from the others, in words."""
    return ", ".join(f"{name}={label(value)}" for name, value in static.items() if name not in laid.fixed)
