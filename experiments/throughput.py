"""How fast a sweep is, side by side with PyTorch and with what else one could write in JAX.

Each workload is compared in a process of its own, all who train it together. The records are kept in
`results/throughput.json`, so that `--only` measures some anew and leaves the others; the table `results/throughput.md`
and the figure `results/throughput.png` are made from all of them.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from research import report

GROWTH = "growth"
NAMES = ("logistic", "diagonal", "factorization", "perceptron", "wide_perceptron", "convolution")  # in that order


def main(arguments: list[str]) -> int:
    """Measure what `arguments` ask for, print and write it; the exit status."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.only if name not in (*NAMES, GROWTH)]
    if unknown or options.repeats < 1:
        report.error(f"there is no workload {unknown[0]!r}" if unknown else "--repeats takes a positive integer")
        return 2
    chosen = options.only or [*NAMES, GROWTH]
    if options.json:
        for name in chosen:
            print(json.dumps(measured(name, options.repeats, options.quick)))
        return 0
    path = options.results / ("throughput.quick.json" if options.quick else "throughput.json")
    failed = 0
    for name in chosen:
        report.heading(name, "")
        command = [sys.executable, "-m", "experiments.throughput", "--json", "--only", name]
        command += ["--repeats", str(options.repeats), *(["--quick"] if options.quick else [])]
        uncached = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # compilation is timed too
        answer = subprocess.run(command, env=uncached, stdout=subprocess.PIPE, text=True)  # the rest: standard error
        if answer.returncode:
            failed += 1
            report.error(f"{name} could not be measured; the reason stands above")
            continue
        records = {**_read(path), name: json.loads(answer.stdout.splitlines()[-1])}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write(_read(path), path.with_suffix(".md"))
    return 1 if failed else 0


def measured(name: str, repeats: int, quick: bool) -> dict[str, Any]:
    """One comparison, or the growth, in this process; what happens is said on standard error."""
    say = lambda line: print(line, file=sys.stderr, flush=True)
    if name == GROWTH:
        from research.benchmarks.growth import RUNS, grow

        return grow(repeats, RUNS[:2] if quick else RUNS, say)
    from research.benchmarks.comparison import compare
    from research.benchmarks.workloads import WORKLOADS

    workload = WORKLOADS[name]
    return compare(workload.quick() if quick else workload, repeats, say)


def write(records: dict[str, Any], path: Path) -> None:
    """Print the table, and make `path` (`.md`) and the figure beside it from all records."""
    import matplotlib as mpl

    mpl.use("Agg")
    from research.benchmarks.chart import chart
    from research.benchmarks.table import compared, markdown

    workloads, growth = [records[name] for name in NAMES if name in records], records.get(GROWTH)
    if not records:
        return
    Console(width=None if sys.stdout.isatty() else 150).print(compared(workloads))
    for name, why in {name: why for record in workloads for name, why in record["reasons"].items()}.items():
        report.plain(f"{name} is missing: {why}")
    path.write_text(markdown(workloads, growth, path.with_suffix(".png").name), encoding="utf-8")
    chart(workloads, growth).savefig(path.with_suffix(".png"))
    report.plain(f"table {path}, figure {path.with_suffix('.png')}")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.throughput",
        description="Time a sweep side by side with PyTorch and with what else one could write in JAX.",
        epilog="PyTorch comes with the extra peers: pip install -e '.[peers]'. Without it those columns stay empty.",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"{', '.join(NAMES)}, {GROWTH}")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds, the fastest counts: %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; files of its own")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="measure in this process and print the records, no files")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
