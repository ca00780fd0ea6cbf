"""The command line of a family of experiments."""

import argparse
import ast
import hashlib
import importlib
import importlib.util
import json
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from research import report

EPILOG = """\
examples:
  every experiment of the family at its default size
    {program}
  what one would do: axes, runs, compiled programs, memory
    {program} {name} --dry-run
  with other seeds and another axis
    {program} {name} --seeds 4 --set learning_rate=0.1,0.5
  the figure anew from the stored result
    {program} {name} --draw-only
  the parameters that --set takes
    {program} {name} --list

An override (--seeds, --set, --smoke, --paper) is recorded in the dataset and on its figure, and has files of its own:
the default design's files and results/claims.md stay as they are.
"""


class Job(NamedTuple):
    """One experiment to run: where it comes from, under which overrides, and where its files go."""

    package: str
    name: str
    design: str
    overrides: dict[Any, Any]
    results: Path

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
        """The dataset's place; the figure's is the same with `.png`."""
        stem = [self.name] if self.design == "default" else [self.name, self.design]
        if self.overrides:
            slug = re.sub(r"[^A-Za-z0-9=,+-]", "_", "_".join(f"{n}={_written(v)}" for n, v in self.overrides.items()))
            digest = hashlib.sha256(self.described.encode()).hexdigest()[:8]
            stem.append(f"{slug[:48]}-{digest}")
        return self.results / self.family / (".".join(stem).replace("..", "_") + ".nc")


def run(packages: list[str], arguments: list[str]) -> int:
    """Parse `arguments`, do what they say for the experiments of `packages`, and return the exit status."""
    from research.experiment import names

    available = [(package, name) for package in packages for name in names(package)]
    options = _parser(packages, available).parse_args(arguments)
    known = {name for _, name in available}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        report.error(f"no experiment is called {unknown[0]!r}; there are {', '.join(sorted(known))}")
        return 2
    chosen = [(package, name) for package, name in available if not options.names or name in options.names]
    if options.list:
        return _list(chosen, parameters=bool(options.names))
    design = "smoke" if options.smoke else "paper" if options.paper else "default"
    try:
        overrides = _overrides(options.set)
        if options.seeds is not None:
            overrides["seeds"] = options.seeds
        jobs = [Job(package, name, design, overrides, options.results) for package, name in chosen]
        plans = _plans(jobs)
    except Exception as problem:  # what `simulate` makes of a value that its signature cannot refuse
        expected = isinstance(problem, (ValueError, TypeError))
        report.error(str(problem) if expected else f"{type(problem).__name__}: {problem}")
        return 2
    report.plans([(job.name, job.described, plan) for job, plan in zip(jobs, plans, strict=True)])
    if options.dry_run:
        return 0
    missing = [job.path for job in jobs if options.draw_only and not job.path.exists()]
    if missing:
        report.error(f"there is no result at {missing[0]} to draw; run it without --draw-only first")
        return 2
    outcomes, failed = [], 0
    for job in jobs:
        began = time.perf_counter()
        try:
            outcomes.append(_judged(job, options))
            report.experiment(outcomes[-1])
            _drawn(job, outcomes[-1])
            report.plain(f"  {time.perf_counter() - began:.1f} s; figure {outcomes[-1].figure}")
        except Exception as problem:  # one failed experiment does not take the others down
            failed += 1
            report.error(f"{job.name} failed: {problem}")
            report.plain(traceback.format_exc())
    report.findings(outcomes)
    return 1 if failed else 0


def _parser(packages: list[str], available: list[tuple[str, str]]) -> argparse.ArgumentParser:
    program = f"python -m {packages[0]}" if len(packages) == 1 else "python -m experiments"
    name = available[0][1] if available else "NAME"
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"Run experiments, check each claim against its oracle, and write figures and verdicts. "
        f"Experiments: {', '.join(each for _, each in available)}.",
        epilog=EPILOG.format(program=program, name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these experiments")
    parser.add_argument("--list", action="store_true", help="list the experiments (with NAME: their parameters too)")
    parser.add_argument("--dry-run", action="store_true", help="print axes, runs, compiled programs and memory; stop")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="the smallest design that shows the same findings: seconds")
    size.add_argument("--paper", action="store_true", help="the paper's own size, for an accelerator")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="AXIS=VALUE[,VALUE…]",
        help="values of an experiment's parameter, such as learning_rate=0.01,0.1",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--draw-only", action="store_true", help="findings and figure from the stored result, no runs")
    action.add_argument("--fresh", action="store_true", help="compute anew even where a stored result fits")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    return parser


def _plans(jobs: list[Job]) -> list[Any]:
    from research import layout
    from research.experiment import planned

    layout.prepare()
    return [planned(_experiment(job)) for job in jobs]


def _experiment(job: Job) -> Any:
    """The job's experiment, its design being the one asked for with the command line's overrides on top."""
    from research.experiment import designed

    experiment = importlib.import_module(f"{job.package}.{job.name}").experiment
    size = {"default": {}, "smoke": experiment.smoke, "paper": experiment.paper}[job.design]
    sized = experiment._replace(design=designed(experiment, size))
    return sized._replace(design=designed(sized, job.overrides))


def _judged(job: Job, options: argparse.Namespace) -> report.Outcome:
    """The experiment's runs (or its stored result), compared with the oracle, judged, and stored with the verdicts."""
    from research import layout
    from research.experiment import evaluate, planned
    from research.store import Store

    experiment, store = _experiment(job), Store(job.path, say=report.plain)
    report.heading(f"{job.family} / {job.name}", job.described)
    if caution := layout.caution(experiment.precision):
        report.plain(caution)
    if options.draw_only:
        stored = store.load()
        if stored is None:
            raise FileNotFoundError(f"there is no result at {job.path} that can be drawn")
        dataset = experiment.compare(stored[stored.attrs["swept"].split()]).assign_attrs(stored.attrs)
        report.plain(f"drawn from {job.path}; nothing was run")
        if stored.attrs["cells"].split() != planned(experiment).addresses():
            report.plain(
                "the experiment, or a version of what computes it, has changed since: run it to see its effect"
            )
    else:
        with report.progress() as progress:
            dataset = evaluate(experiment, store=store, progress=progress, fresh=options.fresh)
            if progress.runs == 0:
                report.plain(f"nothing has changed: read from {job.path}")
    found = experiment.findings(dataset)
    provenance = json.loads(dataset.attrs["provenance"])
    overrides = {str(name): values for name, values in job.overrides.items()}
    dataset.attrs |= {
        "provenance": json.dumps({**provenance, "design": job.design, "overrides": overrides}),
        "design": job.described,
        "findings": json.dumps([{**finding._asdict(), "status": finding.status} for finding in found]),
        "experiment": f"{job.package}.{job.name}",
    }
    store.save(dataset)
    documentation = _documentation(job.package, job.name)
    return report.Outcome(job.family, job.name, documentation, found, dataset, job.path.with_suffix(".png"))


def _drawn(job: Job, outcome: report.Outcome) -> None:
    """Draw the figure; that of the default design goes into `claims.md` with its findings."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from research import plots

    figure = _experiment(job).draw(outcome.dataset)
    plots.mark_empty(figure)
    if job.described:
        figure.text(0.995, 0.005, job.described, ha="right", va="bottom", fontsize=7, color="0.4")
    figure.savefig(outcome.figure)
    plt.close(figure)
    if job.standard:
        report.write_claims(job.results / "claims.md", outcome)


def _overrides(words: list[str]) -> dict[str, Any]:
    """`name=value[,value…]` -> name: list of values (an axis even of one); numbers as numbers, the rest as text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (equals and name.isidentifier() and values):
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


def _documentation(package: str, name: str) -> str:
    """The docstring of an experiment's module, without importing it."""
    specification = importlib.util.find_spec(f"{package}.{name}")
    if specification is None or specification.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(specification.origin).read_text(encoding="utf-8"))) or ""


def _list(chosen: list[tuple[str, str]], parameters: bool) -> int:
    described: list[tuple[str, str, Mapping[str, Any]]] = []
    for package, name in chosen:
        known: Mapping[str, Any] = {}
        if parameters:
            from research import axes

            known = axes.parameters(importlib.import_module(f"{package}.{name}").experiment.simulate)
        described.append((name, report.section(_documentation(package, name), "Claim"), known))
    report.listing(described)
    return 0
