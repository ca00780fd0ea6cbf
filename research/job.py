"""One experiment under the command line's overrides: where its files go, how it is carried out, why it failed."""

import ast
import errno
import hashlib
import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


class Job(NamedTuple):
    """One experiment to run: where it comes from, under which overrides, and where its files go."""

    package: str
    name: str
    design: str
    overrides: dict[Any, Any]
    results: Path
    part: tuple[int, int] | None = None

    @property
    def family(self) -> str:
        """The package's last name."""
        return self.package.rpartition(".")[2]

    @property
    def standard(self) -> bool:
        """Whether this is the default design, untouched."""
        return self.design == "default" and not self.overrides

    @property
    def described(self) -> str:
        """The departure from the default design in words; empty for the default itself."""
        words = [] if self.design == "default" else [f"{self.design} design"]
        return ", ".join([*words, *(f"{name}={_written(values)}" for name, values in self.overrides.items())])

    @property
    def path(self) -> Path:
        """The dataset's place; the figure's is the same with `.png`, the lock's with `.lock`.

        Raises ValueError if it does not lie in the family's folder.
        """
        stem = [self.name] if self.design == "default" else [self.name, self.design]
        if self.overrides:
            slug = re.sub(r"[^A-Za-z0-9=,+-]", "_", "_".join(f"{n}={_written(v)}" for n, v in self.overrides.items()))
            digest = hashlib.sha256(self.described.encode()).hexdigest()[:8]
            stem.append(f"{slug[:48]}-{digest}")
        if self.part:
            stem.append("shard-{}-of-{}".format(*self.part))
        folder = self.results / self.family
        path = folder / (".".join(stem).replace("..", "_") + ".nc")
        if path.parent.resolve() != folder.resolve():
            raise ValueError(f"{path} would lie outside of {folder}")
        return path

    @property
    def experiment(self) -> Any:
        """The experiment, its design being the one asked for with the overrides on top."""
        from research.experiment import designed

        experiment = importlib.import_module(f"{self.package}.{self.name}").experiment
        size = {"default": {}, "smoke": experiment.smoke, "paper": experiment.paper}[self.design]
        sized = experiment._replace(design=designed(experiment, size))
        return sized._replace(design=designed(sized, self.overrides))


def overrides(words: list[str]) -> dict[str, Any]:
    """`name=value[,value…]` -> name: list of values (an axis even of one); numbers as numbers, the rest as text.

    Raises ValueError for anything else, and for characters that cannot be printed: they would end up in file names.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (equals and name.isidentifier() and values and values.isprintable()):
            raise ValueError(f"--set takes AXIS=VALUE[,VALUE…], got {word!r}")
        if name in found:
            raise ValueError(f"--set names {name!r} twice")
        found[name] = [_value(each) for each in values.split(",")]
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)


def _written(values: Any) -> str:
    return ",".join(map(str, values)) if isinstance(values, list) else str(values)


def documentation(package: str, name: str) -> str:
    """The docstring of an experiment's module, without importing it."""
    specification = importlib.util.find_spec(f"{package}.{name}")
    if specification is None or specification.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(specification.origin).read_text(encoding="utf-8"))) or ""


def expected(problem: Exception) -> bool:
    """Whether the world is at fault (a disk, a folder, another process), and a traceback would tell nobody anything."""
    return isinstance(problem, OSError) or _number(problem) in FULL


def reason(problem: Exception, results: Path) -> str:
    """Why an experiment failed, in words for who ran it."""
    number = _number(problem)
    place = Path(str(getattr(problem, "filename", None) or results))
    if number in FULL:
        return (
            f"the disk is full ({os.strerror(number)}, {results}): earlier results are untouched; free some space "
            "and run the same command"
        )
    if number in FORBIDDEN and place.resolve().is_relative_to(results.resolve()):
        return f"{place} cannot be written ({os.strerror(number)}): earlier results are untouched"
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        return f"{problem.filename}: {problem.strerror}"
    words = str(problem) or type(problem).__name__
    return words if isinstance(problem, (ValueError, OSError)) else f"{type(problem).__name__}: {words}"


def _number(problem: Exception) -> int:
    """The system's number of an error, or 0; HDF5 has it in its words only."""
    written = re.search(r"\berrno = (\d+)", str(problem))
    return getattr(problem, "errno", None) or (int(written.group(1)) if written else 0)
