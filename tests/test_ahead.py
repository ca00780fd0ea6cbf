import contextlib
import json
import threading

import pytest
import xarray as xr
from simulations import growth, regression

from research import processes
from research.ahead import Ahead
from research.plan import plan
from research.store import Store
from research.sweep import sweep, swept
from research.workshop import Workshop

AXES = {"learning_rate": [0.1, 0.2], "features": [4, 5, 6]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "a.nc")


def compiled(planned, store):
    """How many programs are compiled ahead for the plan, where there is time for all of them."""
    with Ahead() as ahead:
        ahead.begin(planned, store)
        ahead.work.result()
    return len(planned.programs)


def test_what_is_compiled_ahead_is_not_compiled_again_and_the_result_is_the_same(store, compilations):
    plain = sweep(regression, AXES, seeds=2)
    planned = plan(regression, AXES, seeds=2)
    compiled(planned, store)
    compilations.count = 0
    dataset = swept(planned)
    assert compilations.count == 0
    xr.testing.assert_identical(dataset.drop_attrs(), plain.drop_attrs())
    spent, usual = (json.loads(each.attrs["provenance"])["compile_seconds"] for each in (dataset, plain))
    assert spent > usual / 10  # what was spent ahead of time is counted too
    assert not planned.programs  # nothing of a sweep that is done stays in memory
    assert not list(store.path.parent.iterdir())


def test_a_machine_knows_what_its_programs_took_whoever_compiled_them():
    planned = plan(regression, AXES)
    Workshop(planned, planned.cell_runs, 2**30).machine(0, None)
    took = sum(each.seconds for each in planned.programs.values())
    assert took > 0
    assert Workshop(planned, planned.cell_runs, 2**30).machine(0, None).seconds > took


def test_it_stops_behind_the_program_at_hand(store, monkeypatch):
    begun, going_on, built, done = threading.Event(), threading.Event(), Workshop.machine, []

    def machine(workshop, number, lanes):
        begun.set()
        assert going_on.wait(60)
        done.append(number)
        return built(workshop, number, lanes)

    monkeypatch.setattr(Workshop, "machine", machine)
    with Ahead() as ahead:
        ahead.begin(plan(regression, AXES), store)
        assert begun.wait(60)
        work = ahead.work
        threading.Timer(0.2, going_on.set).start()
        ahead.end()
        assert work.done()
        assert done == [0]
        ahead.end()  # there may be nothing to end


def test_what_is_stored_is_left_out(store):
    limits = {"rate": 0.5, "limit": [1.0, 2.0]}
    sweep(growth, limits, store=store)
    assert compiled(plan(growth, limits), store) == 0
    assert compiled(plan(growth, limits), None) == 3  # as with --fresh: a start that they share, and advance
    assert compiled(plan(growth, limits, seeds=2), store) == 3
    assert compiled(plan(growth, {"rate": 0.5, "limit": [1.0, 3.0]}), store) == 2
    store.path.write_bytes(b"something else")
    assert compiled(plan(growth, limits), store) == 3
    assert store.path.read_bytes() == b"something else"  # to be set aside by who holds the lock


def test_what_goes_wrong_is_left_to_the_sweep_to_tell(store, monkeypatch):
    begun = threading.Event()

    def broken(*arguments):
        begun.set()
        raise MemoryError("no room for it")

    monkeypatch.setattr(Workshop, "machine", broken)
    planned = plan(growth, {"rate": 0.5})
    with Ahead() as ahead:
        ahead.begin(planned, store)
        assert begun.wait(60)
        ahead.end()
    with pytest.raises(MemoryError, match="no room for it"):
        swept(planned)


def test_of_several_processes_none_compiles_ahead(store, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with Ahead() as ahead:
        ahead.begin(plan(growth, {"rate": 0.5}), store)
        assert ahead.work is None


@pytest.fixture
def threads(monkeypatch):
    """In which thread each machine of a family's experiments is built; the first one is judged slowly."""
    heard, built, compiled = [], Workshop.machine, threading.Event()

    def machine(workshop, number, lanes):
        heard.append(threading.current_thread().name.partition("_")[0])
        answer = built(workshop, number, lanes)
        if heard[-1] == "ahead":
            compiled.set()
        return answer

    def experiment(outcome):
        if outcome.name == "decay":
            assert compiled.wait(60)

    monkeypatch.setattr(Workshop, "machine", machine)
    monkeypatch.setattr("research.report.experiment", experiment)
    return heard


def test_a_family_compiles_an_experiment_while_the_one_before_it_is_judged(command, threads):
    assert command("--seeds", "3")[0] == 0
    assert threads == ["compilation", "ahead", "compilation"]
    assert command("--seeds", "3", "--fresh")[0] == 0
    assert threads[3:] == ["compilation", "ahead", "compilation"]


def test_neither_a_drawing_nor_a_part_compiles_ahead(command, monkeypatch):
    assert command("--seeds", "3")[0] == 0
    begun = []
    monkeypatch.setattr(Ahead, "begin", lambda *arguments: begun.append(arguments))
    assert command("--draw-only", "--seeds", "3")[0] == 0
    assert command("--shard", "1/2")[0] == 0
    assert not begun
    assert command("--seeds", "4")[0] == 0
    assert len(begun) == 1


def test_an_experiment_without_a_plan_is_passed_over(command, family, monkeypatch):
    (family / "erring.py").write_text('"""Wrong.\n\nClaim: none."""\n\nraise ValueError("wrong")\n', encoding="utf-8")
    begun = []
    monkeypatch.setattr(Ahead, "begin", lambda ahead, planned, *others: begun.append(planned.simulate.__name__))
    status, out, _ = command()
    assert status == 1
    assert "wrong" in out
    assert begun == ["growth"]


def test_what_is_compiled_ahead_and_then_fails_before_its_sweep_is_forgotten(command, threads, monkeypatch):
    plans = []
    begin = Ahead.begin

    def held(path, say):
        if path.stem.startswith("growth"):
            raise OSError("another process writes there")
        return contextlib.nullcontext()

    monkeypatch.setattr(
        Ahead, "begin", lambda ahead, planned, *others: (plans.append(planned), begin(ahead, planned, *others))
    )
    monkeypatch.setattr("research.execution.held", held)
    status, out, _ = command("--seeds", "3")
    assert status == 1
    assert "another process writes there" in out
    assert threads == ["compilation", "ahead"]
    (planned,) = plans
    assert not planned.programs
    assert not [name for cell in planned.cells for name in ("start", "advance", "given") if name in vars(cell.program)]
