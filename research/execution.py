"""A job carried out: its runs under a lock, the verdicts, the figure, and the claim."""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from research import claims, processes, report
from research.interruption import Interrupted, Interruption
from research.job import Job, documentation
from research.lock import held


def carry_out(
    job: Job,
    planned: Any,
    options: argparse.Namespace,
    interruption: Interruption,
    meanwhile: Callable[[], None] = lambda: None,
) -> report.Outcome | report.Unjudged:
    """The experiment's runs (or its stored result) judged; its files are written, its findings printed.

    `planned` is the job's plan; `meanwhile` is called once its runs are done. Of several processes only the first one
    judges and writes. A part of an experiment is computed, and not judged.

    Raises what the experiment raises, OSError where its files cannot be written, Locked while another process writes
    them, and Interrupted.
    """
    report.heading(f"{job.family} / {job.name}", job.described)
    if options.draw_only and not job.path.exists():
        raise FileNotFoundError(f"there is no result at {job.path} to draw; run it without --draw-only first")
    with _writing(job):
        if job.part:
            return _computed(job, planned, options, interruption)
        swept = _swept(job, planned, options, interruption)
        meanwhile()
        if not processes.first():
            if (said := processes.told(None)) is not None:
                raise RuntimeError(said.decode())
            return report.Unjudged(job.name, "judged by process 0", "part")
        try:
            outcome = _judged(job, swept, interruption)
            report.experiment(outcome)
            _drawn(job, outcome, interruption)
        except Exception as problem:
            processes.told(f"process 0 failed to judge {job.name}: {problem}".encode())
            raise
        processes.told(None)
    return outcome


@contextlib.contextmanager
def _writing(job: Job) -> Iterator[None]:
    """The job's files are the first process's alone, in a folder that can be written: known before anything is run."""
    with contextlib.ExitStack() as stack:
        problem = None
        try:
            if processes.first():
                stack.enter_context(_held(job))
        except OSError as hindrance:
            problem = hindrance
        said = processes.told(str(problem).encode() if problem else None)
        if problem:
            raise problem
        if said is not None:
            raise OSError(said.decode())
        yield


@contextlib.contextmanager
def _held(job: Job) -> Iterator[None]:
    from research.store import Store

    folder = job.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(folder)) from problem
    with held(job.path.with_suffix(".lock"), say=report.plain):
        Store(job.path).clean()
        yield


@contextlib.contextmanager
def _progress(interruption: Interruption) -> Iterator[Any]:
    """Progress of a sweep, which ends it where a signal has come to any of the processes: they do so together."""
    with interruption.deferred(), report.progress() as progress:

        def heard(done: float, runs: int, cell: str) -> None:
            heard.runs = runs  # type: ignore[attr-defined]
            progress(done, runs, cell)
            if number := int(processes.agreed(interruption.received or 0)):
                raise Interrupted(number)

        heard.runs = 0  # type: ignore[attr-defined]
        yield heard


def _computed(job: Job, planned: Any, options: argparse.Namespace, interruption: Interruption) -> report.Unjudged:
    """The job's part, computed and kept beside the other parts."""
    from research.store import Store
    from research.sweep import sweep_part

    words = "{}/{}".format(*job.part or (1, 1))
    if options.fresh:
        Store(job.path).drop_cells()
    with _progress(interruption) as progress:
        sweep_part(
            planned,
            job.part or (1, 1),
            store=Store(job.path, say=report.plain),
            progress=progress,
            memory=options.memory,
            checkpoint=options.checkpoint,
            about={"package": job.package, "name": job.name, "design": job.design, "overrides": job.overrides},
        )
    report.plain(f"part {words} lies in {job.path.with_suffix('.cells')}; python -m experiments merge joins all parts")
    return report.Unjudged(job.name, f"part {words} is computed; the parts are judged when they are merged", "part")


def _swept(job: Job, planned: Any, options: argparse.Namespace, interruption: Interruption) -> Any:
    """The experiment's runs, or its stored result."""
    from research import layout
    from research.store import Store
    from research.sweep import swept

    store = Store(job.path, say=report.plain)
    if caution := layout.caution(planned.precision):
        report.plain(caution)
    if options.draw_only:
        stored = store.load()
        if stored is None:
            raise FileNotFoundError(f"there is no result at {job.path} that can be drawn")
        report.plain(f"drawn from {job.path}; nothing was run")
        if stored.attrs["cells"].split() != planned.addresses():
            report.plain(
                "the experiment, or a version of what computes it, has changed since: run it to see its effect"
            )
        return stored[stored.attrs["swept"].split()]
    how = {"fresh": options.fresh, "memory": options.memory, "checkpoint": options.checkpoint}
    with _progress(interruption) as progress:
        found = swept(planned, store=store, progress=progress, **how)
        if progress.runs == 0:
            report.plain(f"nothing has changed: read from {job.path}")
    return found


def _judged(job: Job, swept: Any, interruption: Interruption) -> report.Outcome:
    """The experiment's runs, compared with the oracle, judged, and stored with the verdicts."""
    from research.store import Store

    experiment, store = job.experiment, Store(job.path, say=report.plain)
    dataset = experiment.compare(swept).assign_attrs(swept.attrs)
    found = experiment.findings(dataset)
    provenance = json.loads(dataset.attrs["provenance"])
    changed = {str(name): values for name, values in job.overrides.items()}
    dataset.attrs |= {
        "provenance": json.dumps({**provenance, "design": job.design, "overrides": changed}),
        "design": job.described,
        "findings": json.dumps([{**finding._asdict(), "status": finding.status} for finding in found]),
        "experiment": f"{job.package}.{job.name}",
    }
    with interruption.deferred():
        store.save(dataset)
    said = documentation(job.package, job.name)
    return report.Outcome(job.family, job.name, said, found, dataset, job.path.with_suffix(".png"))


def _drawn(job: Job, outcome: report.Outcome, interruption: Interruption) -> None:
    """Draw the figure; that of the default design goes into `claims.md` with its findings."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from research import plots
    from research.store import replacing

    figure = job.experiment.draw(outcome.dataset)
    plots.finish(figure)
    if job.described:
        line = figure.text(0.995, 0.005, job.described, ha="right", va="bottom", fontsize=7, color="0.4")
        line.set_parse_math(False)  # a value may hold a "$"
    for abandoned in outcome.figure.parent.glob(f".{outcome.figure.name}.*.part"):
        abandoned.unlink()
    with interruption.deferred():
        with replacing(outcome.figure) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        if job.standard and job.experiment.page:
            with replacing(outcome.figure.with_suffix(".md")) as temporary:
                temporary.write_text(job.experiment.page(outcome.dataset), encoding="utf-8")
        if job.standard:
            claims.write(job.results / "claims.md", outcome)
