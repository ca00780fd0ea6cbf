import json
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import throughput
from research.benchmarks import machine
from research.benchmarks.chart import chart
from research.benchmarks.comparison import (
    EAGER,
    FUNC,
    LANES,
    LOOP,
    NAIVE,
    OURS,
    Entrant,
    Timing,
    compare,
    interleaved,
    judged,
)
from research.benchmarks.growth import grow
from research.benchmarks.table import compared, markdown, seconds, times
from research.benchmarks.targets import SHARE, ratios, verdicts
from research.benchmarks.workloads import WORKLOADS


def test_the_larger_share_bounds():
    work = machine.Cost(flops=100.0, bytes=10.0)
    assert machine.bound(work, steps=2.0, matmul=1000.0, copy=40.0) == (0.5, "a copy")
    assert machine.bound(work, steps=2.0, matmul=1000.0, copy=400.0) == (0.2, "a matrix product")


def test_rates_of_the_machine_are_positive():
    rate, by = machine.matmul_rate(repeats=1)
    assert rate > 0
    assert by in ("NumPy", "JAX")
    assert machine.copy_rate(1000.0, repeats=1) > 0


def timing(seconds_, losses=(0.5, 0.25), **more):
    return Timing(seconds_, np.array(losses), **more)


def test_all_take_turns_and_who_fails_is_out():
    called = []

    def entrant(name, setting, *answers):
        remaining = iter(answers)

        def train():
            called.append((name, setting))
            answer = next(remaining)
            if isinstance(answer, Exception):
                raise answer
            return timing(answer)

        return Entrant(name, setting, train)

    field = [
        entrant(OURS, "", 2.0, 1.0),
        entrant(EAGER, "1 thread", MemoryError("no room")),
        entrant(LANES, "1", 5.0),
        entrant(LANES, "2", 1.5, 2.5),
    ]
    reasons = {}
    timed = interleaved(field, 2, reasons, say=lambda line: None)
    assert called == [*((each.name, each.setting) for each in field), (OURS, ""), (LANES, "2")]
    found = {place: [each.seconds for each in timings] for place, timings in timed.items()}
    assert found == {(OURS, ""): [2.0, 1.0], (LANES, "1"): [5.0], (LANES, "2"): [1.5, 2.5]}
    assert reasons == {EAGER: "1 thread MemoryError: no room"}


def test_the_fastest_time_of_the_best_setting_counts_where_losses_agree():
    reasons = {}
    timed = {
        (OURS, ""): [timing(2.0, whole=5.0, compiling=3.0), timing(1.0, whole=4.0, compiling=3.5)],
        (EAGER, "1 thread"): [timing(300.0, [0.5 + 1e-7])],
        (FUNC, "1 thread"): [timing(4.0, [0.5, 0.3])],
        (NAIVE, "here"): [timing(3.0), timing(2.5)],
        (NAIVE, "there"): [timing(1.5), timing(1.75)],
        (LANES, "1"): [timing(0.9, [0.5, math.nan])],
    }
    best = judged(timed, np.array([1.0, 1.0]), reasons)
    assert best[OURS]["seconds"] == 1.0
    assert (best[OURS]["whole"], best[OURS]["compile"]) == (5.0, 3.0)
    assert (best[EAGER]["seconds"], best[EAGER]["runs"]) == (300.0, 1)
    assert (best[NAIVE]["seconds"], best[NAIVE]["setting"]) == (1.5, "there")
    assert best[NAIVE]["settings"] == {"here": 2.5, "there": 1.5}
    assert set(best) == {OURS, EAGER, NAIVE}
    assert set(reasons) == {FUNC, LANES}
    assert "other losses" in reasons[FUNC]


def record(name="perceptron", **found):
    every = {OURS: 0.5, EAGER: 6.0, FUNC: 1.0, LOOP: 2.0, NAIVE: 1.5, LANES: 0.45} | found
    fact = {"setting": "1 thread", "runs": 64, "whole": 2.0, "compile": None}
    return {
        "workload": name,
        "title": "a | title",
        "runs": 64,
        "steps": 200,
        "quick": False,
        "times": {who: {"seconds": spent, **fact} for who, spent in every.items() if spent is not None},
        "reasons": {who: "is not there" for who, spent in every.items() if spent is None},
        "share": 0.7,
        "bound": "a matrix product",
        "arithmetic": 0.7,
        "matmul": 3e11,
        "matmul_by": "NumPy",
        "copy": 1e11,
        "load": [0.1, 1.5],
        "device": "2 × cpu",
        "processor": "a processor",
        "cores": 2,
        "versions": {"jax": "0.10.2", "torch": "absent"},
    }


def test_ratios_are_the_rivals_time_over_the_sweeps():
    assert ratios(record()) == {EAGER: 12.0, FUNC: 2.0, LOOP: 4.0, NAIVE: 3.0, LANES: 0.9}
    assert ratios(record(**{EAGER: None})) == {FUNC: 2.0, LOOP: 4.0, NAIVE: 3.0, LANES: 0.9}


def test_targets_are_reached_missed_or_not_measured():
    found = {verdict.what: verdict.reached for verdict in verdicts(record(**{EAGER: None}))}
    assert found == {EAGER: None, FUNC: False, NAIVE: True, LANES: True, SHARE: True}
    found = {verdict.what: verdict.reached for verdict in verdicts(record("diagonal", **{LANES: 0.4}))}
    assert found == {EAGER: True, FUNC: True, NAIVE: True, LANES: False}


def test_the_table_says_what_is_known_and_why_the_rest_is_not():
    growth = {**record(), "title": "a run", "runs": [10, 1000], "seconds": [0.001, 0.1], "whole": [1.0, 1.5]}
    text = markdown([record(), record("diagonal", **{EAGER: None})], growth, "figure.png")
    assert "| a \\| title | 64 × 200 | 0.5 s | 6 s, 12× | 1 s, 2× | 2 s, 4× | 1.5 s, 3× | 0.45 s, 0.9× |" in text
    assert "| 0.5 s |  | 1 s, 2× |" in text
    assert "70% of a matrix product" in text
    assert "| torch.func | ≥ 3× | 2× | **not reached** |" in text
    assert "| matrix product | ≥ 60% | 70% | reached |" in text
    assert "| torch eager | ≥ 1× |  | not measured |" in text
    assert "- a | title, torch eager: is not there" in text
    assert "| 10 | 1 ms | 1 s | 0.5 µs |" in text
    assert "(figure.png)" in text
    assert text.count("2 × cpu; a processor, 2 cores; jax 0.10.2") == 1
    small = markdown([record() | {"quick": True}], None, "figure.png")
    assert "## Targets" not in small
    assert compared([record()]).row_count == 1


def test_an_extrapolated_time_is_marked():
    few = record()
    few["times"][EAGER]["runs"] = 4
    assert "| 6 s*, 12× |" in markdown([few], None, "figure.png")


def test_numbers_read_well():
    assert [seconds(value) for value in (0.0123, 0.5, 12.34, 1234.5)] == ["12.3 ms", "0.5 s", "12.3 s", "1,234 s"]
    assert [times(value) for value in (0.8512, 12.34, 1180.2)] == ["0.851×", "12.3×", "1,180×"]


@pytest.mark.parametrize("missing", [(), (EAGER, FUNC)])
@pytest.mark.parametrize("grown", [True, False])
def test_the_figure_shows_every_workload(missing, grown):
    growth = {**record(), "runs": [10, 1000], "seconds": [0.001, 0.1], "whole": [1.0, 1.5]} if grown else None
    records = [record(**dict.fromkeys(missing)), record("diagonal", **dict.fromkeys(missing))]
    figure = chart(records, growth)
    figure.canvas.draw()
    left = figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a | title"] * 2
    assert sum("not measured" in text.get_text() for text in left.get_legend().get_texts()) == len(missing)
    plt.close(figure)


def test_without_torch_the_comparison_says_why_and_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "research.benchmarks.peers", raising=False)
    said = []
    found = compare(WORKLOADS["logistic"].quick(), 1, said.append)
    assert set(found["times"]) == {OURS, LOOP, NAIVE, LANES}
    assert set(found["times"][NAIVE]["settings"]) == {"sweep's flags", "default flags"}
    for name in (EAGER, FUNC):
        assert "pip install -e '.[peers]'" in found["reasons"][name]
    assert found["share"] > 0
    assert json.loads(json.dumps(found)) == found
    assert len(said) == len(found["times"]) + 3  # rivals with two settings
    assert "torch is not installed" in markdown([found], None, "figure.png")


def test_growth_counts_every_run():
    found = grow(1, (10, 20), say=lambda line: None)
    assert found["runs"] == [10, 20]
    assert all(spent > 0 for spent in found["seconds"] + found["whole"])


def test_an_unknown_workload_is_named(capsys):
    assert throughput.main(["--only", "logistics"]) == 2
    assert "'logistics'" in capsys.readouterr().err


def test_the_command_keeps_records_and_draws_them(tmp_path, capsys):
    earlier = {"perceptron": record()}
    (tmp_path / "throughput.quick.json").write_text(json.dumps(earlier), encoding="utf-8")
    assert throughput.main(["--quick", "--only", "growth", "--repeats", "1", "--results", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "throughput.quick.json").read_text(encoding="utf-8"))
    assert list(records) == ["perceptron", "growth"]
    assert "a | title" in capsys.readouterr().out
    text = (tmp_path / "throughput.quick.md").read_text(encoding="utf-8")
    assert "From ten runs to many" in text
    assert (tmp_path / "throughput.quick.png").read_bytes().startswith(b"\x89PNG")
