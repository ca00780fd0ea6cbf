"""The command line of a family of experiments."""

import argparse
import collections
import contextlib
import functools
import importlib
import shlex
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from research import processes, report
from research.execution import carry_out
from research.interruption import Interrupted, Interruption
from research.job import Job, documentation, expected, overrides, reason
from research.parts import parsed

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

Of several processes (--distributed: SLURM, Open MPI, Kubernetes and TPU pods are found; else --coordinator and the two
numbers) each has its share of the runs, and the first one writes. --shard needs no connection between them.

Ctrl-C (or SIGTERM, as a batch system sends it) ends the program after the write at hand, a second one at once. Either
way the same command goes on from there.

exit status:
  0  every experiment ran, whatever it found
  1  an experiment failed
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM
"""


def run(packages: list[str], arguments: list[str]) -> int:
    """Parse `arguments`, do what they say for the experiments of `packages`, and return the exit status."""
    with Interruption(report.plain) as interruption:
        try:
            return _answered(packages, arguments, interruption)
        except Interrupted as interrupted:
            how = "To begin anew" if "--fresh" in arguments else "To go on from there"
            again = f"{_program(packages)} {shlex.join(arguments)}".rstrip()
            report.plain(f"{interrupted}; what was finished is kept. {how}:\n  {again}")
            return interrupted.status


def _answered(packages: list[str], arguments: list[str], interruption: Interruption) -> int:
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
        return _list(chosen, options)
    design = "smoke" if options.smoke else "paper" if options.paper else "default"
    try:
        changed = overrides(options.set)
        if options.seeds is not None:
            changed["seeds"] = options.seeds
        part = parsed(options.shard) if options.shard else None
        jobs = [Job(package, name, design, changed, options.results, part) for package, name in chosen]
        _together(options)
        queue = collections.deque((job, _plan(job)) for job in jobs)
    except Exception as problem:  # what `simulate` makes of a value that its signature cannot refuse
        report.error(str(problem) if isinstance(problem, (ValueError, TypeError)) else reason(problem, options.results))
        return 2
    report.plans([(job.name, job.described, plan) for job, plan in queue if not isinstance(plan, report.Unjudged)])
    if options.dry_run:
        return 1 if any(isinstance(plan, report.Unjudged) for _, plan in queue) else 0
    ended: list[report.Outcome | report.Unjudged] = []
    try:
        _carry_out(queue, ended, options, interruption)
    except Interrupted as interrupted:
        for place, job in enumerate(jobs[len(ended) :]):
            ended.append(report.Unjudged(job.name, str(interrupted), "not run" if place else "stopped"))
        raise
    finally:
        report.findings(ended)
    return 1 if any(map(_unjudged, ended)) else 0


def _carry_out(queue: collections.deque, ended: list, options: argparse.Namespace, interruption: Interruption) -> None:
    """Do the jobs in the queue and add what came of them; each one's plan, which holds data, is dropped behind it."""
    from research.ahead import Ahead

    with Ahead() as ahead:
        while queue:
            job, plan = queue.popleft()
            if options.fail_fast and any(map(_unjudged, ended)):
                ended.append(report.Unjudged(job.name, "--fail-fast: an experiment before it failed", "not run"))
            elif isinstance(plan, report.Unjudged):
                ended.append(plan)
            else:
                meanwhile = functools.partial(_begin, ahead, queue, options)
                ended.append(_ended(job, plan, options, interruption, ahead.end, meanwhile))


def _begin(ahead: Any, queue: collections.deque, options: argparse.Namespace) -> None:
    """Compile ahead for the next job of the queue that has a plan. Why that fails is told when its turn comes."""
    from research.store import Store

    following = [(job, plan) for job, plan in queue if not isinstance(plan, report.Unjudged)]
    if following and not (options.draw_only or options.shard):
        job, plan = following[0]
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            ahead.begin(plan, None if options.fresh else Store(job.path), options.memory)


def _unjudged(ended: Any) -> bool:
    return isinstance(ended, report.Unjudged) and ended.status != "part"


def _together(options: argparse.Namespace) -> None:
    """Meet the other processes where there are any."""
    if options.shard and options.distributed:
        raise ValueError("--shard and --distributed do not go together: parts need no connection")
    by_hand = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed or any(value is not None for value in by_hand):
        from research import layout

        layout.prepare()
        processes.initialize(*by_hand)


def _plan(job: Job) -> Any:
    """The job's plan, or what it is where the experiment itself is at fault. Raises what an override brings about."""
    from research import layout
    from research.experiment import planned

    layout.prepare()
    try:
        return planned(job.experiment)
    except Exception as problem:
        if job.overrides:
            raise
        return _failure(job, problem)


def _ended(
    job: Job,
    plan: Any,
    options: argparse.Namespace,
    interruption: Interruption,
    before: Callable[[], None],
    meanwhile: Callable[[], None],
) -> report.Outcome | report.Unjudged:
    """What came of an experiment; a failed one does not take the others down."""
    began = time.perf_counter()
    try:
        before()
        outcome = carry_out(job, plan, options, interruption, meanwhile)
    except processes.ProcessLost:
        raise
    except Exception as problem:
        return _failure(job, problem)
    finally:
        plan.forget()  # which may have been compiled ahead, and then failed before its sweep
    if isinstance(outcome, report.Outcome):
        told = [f"{time.perf_counter() - began:.1f} s", report.spared(outcome.dataset), f"figure {outcome.figure}"]
        report.plain("  " + "; ".join(filter(None, told)))
    return outcome


def _failure(job: Job, problem: Exception) -> report.Unjudged:
    """A failed experiment's row in the table; its whole reason is printed at once."""
    words = reason(problem, job.results)
    report.error(f"{job.name} failed: {words}")
    if not expected(problem):
        report.plain("".join(traceback.format_exception(problem)))
    return report.Unjudged(job.name, words.splitlines()[0], "failed")


def _program(packages: list[str]) -> str:
    return f"python -m {packages[0]}" if len(packages) == 1 else "python -m experiments"


def _parser(packages: list[str], available: list[tuple[str, str]]) -> argparse.ArgumentParser:
    program = _program(packages)
    name = available[0][1] if available else "NAME"
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"Run experiments, check each claim against its oracle, and write figures and verdicts. "
        f"Experiments: {', '.join(each for _, each in available)}.",
        epilog=EPILOG.format(program=program, name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these experiments")
    sizes = parser.add_argument_group("the size of it")
    size = sizes.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="the smallest design that shows the same findings: seconds")
    size.add_argument("--paper", action="store_true", help="the paper's own size, for an accelerator")
    sizes.add_argument("--seeds", type=int, metavar="N", help="number of seeds")
    sizes.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="AXIS=VALUE[,VALUE…]",
        help="values of an experiment's parameter, such as learning_rate=0.01,0.1",
    )
    looks = parser.add_argument_group("to look first")
    looks.add_argument("--list", action="store_true", help="list the experiments (with NAME: their parameters too)")
    looks.add_argument("--dry-run", action="store_true", help="print axes, runs, compiled programs and memory; stop")
    runs = parser.add_argument_group("how it is run")
    action = runs.add_mutually_exclusive_group()
    action.add_argument("--draw-only", action="store_true", help="findings and figure from the stored result, no runs")
    action.add_argument("--fresh", action="store_true", help="compute anew even where a stored result fits")
    runs.add_argument("--fail-fast", action="store_true", help="end at the first experiment that fails")
    runs.add_argument("--memory", type=_gibibytes, metavar="GIB", help="what to plan with; default: a quarter of it")
    runs.add_argument(
        "--checkpoint", type=_seconds, default=30.0, metavar="SECONDS", help="work between two copies of the state: 30"
    )
    runs.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    several = parser.add_argument_group("on several machines")
    several.add_argument("--shard", metavar="K/N", help="only this part; `python -m experiments merge` joins the parts")
    several.add_argument("--distributed", action="store_true", help="one of several processes, as JAX finds them")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, where JAX cannot know")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many processes there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which one of them this is, from 0")
    return parser


def _seconds(text: str) -> float:
    """Seconds, 0 for every segment. Raises ValueError, which argparse turns into an error that names the argument."""
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds, 0 or more, got {text!r}")
    return seconds


def _gibibytes(text: str) -> int:
    """Bytes. Raises ValueError, which argparse turns into an error that names the argument."""
    size = float(text)
    if not 0 < size < float("inf"):
        raise ValueError(f"a positive number of GiB, got {text!r}")
    return int(size * (1 << 30))


def _list(chosen: list[tuple[str, str]], options: argparse.Namespace) -> int:
    """Print the claims, and the parameters of experiments that are named; returns the exit status."""
    described: list[tuple[str, str, Mapping[str, Any]]] = []
    for package, name in chosen:
        known: Mapping[str, Any] = {}
        try:
            claim = report.section(documentation(package, name), "Claim")
            if options.names:
                from research import axes

                known = axes.parameters(importlib.import_module(f"{package}.{name}").experiment.simulate)
        except Exception as problem:  # whatever a module does when it is imported
            report.error(f"{name} cannot be read: {reason(problem, options.results)}")
            continue
        described.append((name, claim, known))
    report.listing(described)
    return 0 if len(described) == len(chosen) else 1
