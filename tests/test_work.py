import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from simulations import growth, regression

from research import cache, layout
from research.block import Block
from research.sweep import sweep
from research.work import _gaps
from research.workshop import Workshop

HERE = Path(__file__).parent
work = sys.modules["research.work"]
AXES = {"learning_rate": (0.01, 0.02, 0.1, 0.2), "features": [4, 3]}


def facts(dataset):
    return json.loads(dataset.attrs["provenance"])


def same(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-12)


@pytest.fixture
def computed(monkeypatch):
    """The number of runs in each block that was computed."""
    runs, compute = [], Block.computed

    def counted(block, *arguments):
        runs.append(block.runs)
        return compute(block, *arguments)

    monkeypatch.setattr(Block, "computed", counted)
    return runs


def test_more_seeds_extend_those_that_are_stored(tmp_path, computed):
    path = tmp_path / "a.nc"
    sweep(regression, AXES, seeds=2, store=path)
    assert computed == [8, 8]
    more = sweep(regression, AXES, seeds=5, store=path)
    assert computed[2:] == [12, 12]
    same(more, sweep(regression, AXES, seeds=5))
    stored = sweep(regression, AXES, seeds=5, store=path)
    assert stored.identical(more.assign_attrs(stored.attrs))
    count = len(computed)
    fewer = sweep(regression, AXES, seeds=1, store=path)
    assert len(computed) == count
    same(fewer, more.isel(seed=[0]))


def test_blocks_are_what_the_memory_has_room_for(tmp_path, computed):
    whole = sweep(regression, AXES, seeds=3)
    computed.clear()
    apart = sweep(regression, AXES, seeds=3, memory=3000, store=tmp_path / "a.nc")
    assert len(computed) > 4
    assert sum(computed) == 24
    same(apart, whole)
    read = sweep(regression, AXES, seeds=3, memory=3000, store=tmp_path / "a.nc")  # more than may be held: left on disk
    same(read, whole)


def test_records_beyond_the_memory_lie_in_a_file(tmp_path, monkeypatch):
    rooms, room = [], np.memmap
    monkeypatch.setattr(np, "memmap", lambda *words, **named: rooms.append(named["shape"]) or room(*words, **named))
    sweep(regression, AXES, seeds=3, memory=20_000, store=tmp_path / "a.nc")
    assert rooms == []
    sweep(regression, AXES, seeds=3, memory=2000, store=tmp_path / "b.nc")
    assert len(rooms) == 2
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.nc", "b.nc"]


def test_a_million_runs_fit_in_two_gibibytes():
    ran = subprocess.run(
        [sys.executable, str(HERE / "million.py")],
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    runs, kibibytes = map(int, ran.stdout.split())
    assert runs == 10**6
    assert kibibytes < 2 << 20


def exhausting(monkeypatch, lanes):
    """A device whose memory has room for that many lanes."""
    call = Block._call

    def limited(block, piece, *arguments):
        if block.machine.layout.lanes > lanes:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return call(block, piece, *arguments)

    monkeypatch.setattr(Block, "_call", limited)


def test_where_the_device_runs_out_of_memory_the_lanes_halve(monkeypatch, caplog):
    axes = {"learning_rate": tuple(np.linspace(0.01, 0.2, 16))}
    whole = sweep(regression, axes, seeds=2)
    exhausting(monkeypatch, 2)
    with caplog.at_level(logging.WARNING, "research"):
        same(sweep(regression, axes, seeds=2, lanes=8), whole)
    assert [record.message for record in caplog.records] == [
        "Out of memory with 8 runs in flight on a device: going on with 4.",
        "Out of memory with 4 runs in flight on a device: going on with 2.",
    ]


def test_lanes_that_memory_lacks_are_not_tried_again(monkeypatch, caplog):
    axes = {"learning_rate": np.linspace(0.01, 0.1, 256)}
    whole = sweep(regression, axes)
    monkeypatch.setattr("research.work.SHORT", 0.0)
    monkeypatch.setattr("research.work.PAYS", 0)
    monkeypatch.setattr(layout, "lanes_for", lambda runs, working_set: min(16, runs))
    monkeypatch.setattr(cache, "remembered", dict)
    exhausting(monkeypatch, 8)
    with caplog.at_level(logging.WARNING, "research"):
        same(sweep(regression, axes), whole)
    assert [record.message for record in caplog.records] == [
        "Out of memory with 16 runs in flight on a device: going on with 8."
    ]


def test_memory_for_not_even_one_run_is_an_error(monkeypatch):
    exhausting(monkeypatch, 0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
        sweep(regression, {"learning_rate": 0.1}, seeds=2, lanes=2)


def test_other_problems_of_the_device_are_not_hidden(monkeypatch):
    def broken(block, *arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is broken")

    monkeypatch.setattr(Block, "_call", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is broken"):
        sweep(regression, {"learning_rate": 0.1}, seeds=2, lanes=2)


@pytest.mark.parametrize(("best", "long"), [(1, True), (4, True), (16, True), (64, True), (16, False)])
def test_the_best_number_of_lanes_is_measured_where_it_pays(best, long, monkeypatch):
    kept, tried = {}, []

    def pretended(block):
        lanes = block.machine.layout.lanes
        tried.append(lanes)
        block.machine.drawing, block.machine.step = 0.0, lanes * (1 + abs(np.log(lanes / best)))

    monkeypatch.setattr(Block, "time", pretended)
    monkeypatch.setattr(layout, "lanes_for", lambda runs, working_set: min(16, runs))
    monkeypatch.setattr(cache, "remembered", lambda: kept)
    monkeypatch.setattr(cache, "remember", lambda name, lanes: kept.update({name: lanes}))
    monkeypatch.setattr(work, "SHORT", 0.0 if long else 1e9)
    monkeypatch.setattr(work, "PAYS", 0.0)
    axes = {"rate": tuple(np.linspace(0.1, 0.9, 256))}
    found = sweep(growth, axes)
    assert list(kept.values()) == ([best] if long else [])
    assert len(tried) <= 5
    tried.clear()
    same(sweep(growth, axes), found)  # remembered
    assert tried == ([best] if long else [16])
    tried.clear()
    sweep(growth, axes, lanes=8)  # asked for
    assert tried == [8]


def test_a_disk_that_is_full_does_not_end_the_work(tmp_path, monkeypatch, caplog):
    whole = sweep(regression, AXES, seeds=2)
    from research.store import Store

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "save_block", full)
    monkeypatch.setattr(Store, "save_state", full)
    with caplog.at_level(logging.WARNING, "research"):
        same(sweep(regression, AXES, seeds=2, store=tmp_path / "a.nc", checkpoint=0.0), whole)
    (record,) = caplog.records
    assert "No space left" in record.message


def test_programs_compile_while_earlier_ones_run(monkeypatch):
    order, built, compute = [], Workshop.machine, Block.computed

    def building(self, number, *lanes):
        order.append(f"begin {number}")
        machine = built(self, number, *lanes)
        order.append(f"built {number}")
        return machine

    def computing(block, *arguments):
        while len([each for each in order if each.startswith("begin")]) < 2:
            pass  # the second is begun without waiting for the first to have run
        order.append("run")
        return compute(block, *arguments)

    monkeypatch.setattr(Workshop, "machine", building)
    monkeypatch.setattr(Block, "computed", computing)
    sweep(growth, {"rate": 0.5, "limit": [1.0, 2.0, 3.0]})
    assert order.index("run") < order.index("built 2")


def test_gaps_are_what_is_not_done():
    assert _gaps([], 0, 5) == [(0, 5)]
    assert _gaps([(0, 2), (3, 5)], 0, 5) == [(2, 3)]
    assert _gaps([(2, 3)], 1, 5) == [(1, 2), (3, 5)]
    assert _gaps([(1, 5)], 1, 5) == []
