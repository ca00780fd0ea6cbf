"""`python -m experiments merge`: the parts of sweeps that `--shard` computed, joined, judged and drawn."""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from research import parts, report
from research.execution import carry_out
from research.experiment import names, planned
from research.interruption import Interrupted, Interruption
from research.job import Job, reason
from research.parts import Part
from research.store import Store


def merge(packages: Sequence[str], arguments: Sequence[str]) -> int:
    """Join all parts that lie below the folders named in `arguments`, and return the exit status.

    Each experiment's parts must be all of them, once, of the program as it is now. They are removed when the joined
    result is complete.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments merge", description=merge.__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="where parts lie; default: the results")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    options = parser.parse_args(arguments)
    ended: list[report.Outcome | report.Unjudged] = []
    with Interruption(report.plain) as interruption:
        try:
            found = [part for folder in options.folders or [options.results] for part in parts.found(folder)]
            if not found:
                raise ValueError(
                    f"there are no parts below {', '.join(map(str, options.folders or [options.results]))}"
                )
            described = lambda part: json.dumps(part.facts["about"], sort_keys=True)
            for _, group in itertools.groupby(sorted(found, key=described), described):
                ended.append(_merged(packages, list(group), options.results, interruption))
        except (ValueError, KeyError) as problem:
            report.error(f"nothing was merged: {problem}" if not ended else str(problem))
            return 2
        except Interrupted as interrupted:
            report.plain(f"{interrupted}; the parts are as they were.")
            return interrupted.status
    report.findings(ended)
    return 1 if any(isinstance(each, report.Unjudged) for each in ended) else 0


def _merged(
    packages: Sequence[str], group: list[Part], results: Path, interruption: Interruption
) -> report.Outcome | report.Unjudged:
    """What came of the parts of one experiment."""
    name = str(group[0].facts["about"].get("name"))
    try:
        job = _job(packages, group[0], results)
        plan = planned(job.experiment)
        try:
            parts.check(group, plan.addresses())
        finally:
            plan.forget()
        parts.join(group, Store(job.path, say=report.plain))
        options = argparse.Namespace(draw_only=False, fresh=False, memory=None, checkpoint=30.0)
        outcome = carry_out(job, plan, options, interruption)
    except Exception as problem:
        words = reason(problem, results)
        report.error(f"{name} is not merged: {words}")
        return report.Unjudged(name, words.splitlines()[0], "failed")
    for part in group:
        part.store.drop_cells()
    return outcome


def _job(packages: Sequence[str], part: Part, results: Path) -> Job:
    """The job that the part is one of. Raises ValueError where what it says of itself is not to be believed."""
    about = part.facts["about"]
    package, name, design, overrides = (about.get(key) for key in ("package", "name", "design", "overrides"))
    if package not in packages or name not in names(package):
        raise ValueError(f"{part.store.cells} is of {package}.{name}, which is not here")
    if design not in ("default", "smoke", "paper") or not isinstance(overrides, dict):
        raise ValueError(f"{part.store.cells} is of a design that is not known: {design!r}, {overrides!r}")
    return Job(package, name, design, overrides, results)
