import threading

import pytest
import xarray as xr
from simulations import growth, regression

from research import processes
from research.ahead import Ahead
from research.plan import plan
from research.store import Store
from research.sweep import swept
from research.workshop import Workshop

AXES = {"learning_rate": [0.1, 0.2], "features": [4, 5, 6]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "a.nc")


def test_what_is_compiled_ahead_is_not_compiled_again_and_the_result_is_the_same(store, compilations):
    plain = swept(plan(regression, AXES, seeds=2))
    planned = plan(regression, AXES, seeds=2)
    with Ahead() as ahead:
        ahead.begin(planned, store)
        ahead.work.result()
        ahead.end()
    compilations.count = 0
    xr.testing.assert_identical(swept(planned).drop_attrs(), plain.drop_attrs())
    assert compilations.count == 0
    assert not planned.programs  # nothing of a sweep that is done stays in memory
    assert not store.path.parent.joinpath("a.cells").exists()


def test_it_stops_behind_the_program_at_hand(store, monkeypatch):
    begun, built, done = threading.Event(), Workshop.machine, []

    def machine(workshop, number, *lanes):
        begun.set()
        while ahead.wanted:
            pass
        done.append(number)
        return built(workshop, number, *lanes)

    monkeypatch.setattr(Workshop, "machine", machine)
    with Ahead() as ahead:
        ahead.begin(plan(regression, AXES), store)
        assert begun.wait(60)
        ahead.end()
        assert done == [0]
        assert ahead.work.done()


def test_what_is_stored_is_left_out(store, compilations):
    swept(plan(growth, {"rate": 0.5, "limit": [1.0, 2.0]}), store=store)
    with Ahead() as ahead:
        for limits, count in (([1.0, 2.0], 0), ([1.0, 3.0], 2)):
            planned = plan(growth, {"rate": 0.5, "limit": limits})
            ahead.begin(planned, store)
            ahead.work.result()
            assert len(planned.programs) == count  # start and advance


def test_what_goes_wrong_is_left_to_the_sweep_to_tell(store, monkeypatch):
    begun = threading.Event()

    def broken(*arguments):
        begun.set()
        raise MemoryError

    monkeypatch.setattr(Workshop, "machine", broken)
    with Ahead() as ahead:
        ahead.begin(plan(growth, {"rate": 0.5}), store)
        assert begun.wait(60)
        ahead.end()
        assert isinstance(ahead.work.exception(), MemoryError)


def test_of_several_processes_none_compiles_ahead(store, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    planned = plan(growth, {"rate": 0.5})
    with Ahead() as ahead:
        ahead.begin(planned, store)
        ahead.work.result()
    assert not planned.programs


def test_a_family_compiles_an_experiment_while_the_one_before_it_is_judged(command, monkeypatch):
    threads, built, compiled = [], Workshop.machine, threading.Event()

    def machine(workshop, number, *lanes):
        threads.append(threading.current_thread().name.partition("_")[0])
        if threads[-1] == "ahead":
            compiled.set()
        return built(workshop, number, *lanes)

    monkeypatch.setattr(Workshop, "machine", machine)
    monkeypatch.setattr("research.report.experiment", lambda outcome: outcome.name == "decay" and compiled.wait(60))
    assert command("--seeds", "3")[0] == 0
    assert threads == ["compilation", "ahead", "compilation"]  # the last one finds what is compiled
    threads.clear()
    monkeypatch.setattr(Ahead, "begin", lambda *arguments: threads.append("ahead"))
    command("--draw-only", "--seeds", "3")
    command("--shard", "1/2")
    assert "ahead" not in threads
