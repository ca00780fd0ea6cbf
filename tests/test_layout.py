import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from research import layout
from research.piece import Piece
from research.sweep import sweep

AMPLE = 1 << 40


class Singular(NamedTuple):
    values_of: Float[Array, "rank"]


def test_batches_are_even_and_hold_all_runs(devices):
    for runs, lanes in itertools.product(range(1, 40), [1, 2, 3, 7, 64, None]):
        laid = layout.laid(runs, lanes, 100, 8, AMPLE)
        assert laid.mesh.size <= min(runs, devices)
        assert laid.lanes <= (lanes or 256)
        assert laid.each % laid.lanes == 0
        assert laid.each * laid.mesh.size >= runs
        assert laid.each * laid.mesh.size - runs < laid.mesh.size * (laid.each // laid.lanes + 1)
        slots, batches = laid.arranged(np.arange(runs), runs)
        assert sorted(slots[slots >= 0]) == list(range(runs))
        assert (batches * laid.lanes <= laid.each).all()
        assert batches.max() == laid.batches(runs)


def test_the_first_runs_lie_in_the_batches_that_are_worked_on(devices):
    laid = layout.laid(23, 3, 100, 8, AMPLE)
    order = np.random.default_rng(0).permutation(23)
    for live in range(24):
        slots, batches = laid.arranged(order, live)
        worked = slots.reshape(laid.here, -1)
        inside = [set(row[: batch * laid.lanes]) for row, batch in zip(worked, batches, strict=True)]
        assert set(order[:live]) <= set().union(*inside)
        assert batches.sum() * laid.lanes < live + laid.here * laid.lanes
        assert batches.max() == laid.batches(live)


def test_slots_keep_within_the_memory(devices):
    for runs, memory, run_bytes in itertools.product([1, 10, 1000], [1, 1000, 100_000], [8, 500]):
        laid = layout.laid(runs, None, 100, run_bytes, memory)
        slots = laid.each * laid.mesh.size
        assert 2 * slots * run_bytes <= memory * 1.5 or laid.each == 1
        assert laid.lanes <= laid.each
    assert layout.laid(10**6, None, 100, 1000, AMPLE).each * 2000 <= 2 * layout.BLOCK
    assert layout.laid(10**6, 5, 100, layout.BLOCK, AMPLE).each == 5


def test_lanes_keep_the_working_set_near_the_cache():
    assert layout.lanes_for(1000, 1) == 256
    assert layout.lanes_for(5, 1) == 5
    assert layout.lanes_for(1000, layout.L2_CACHE) == 1
    assert layout.lanes_for(1000, layout.L2_CACHE // 8) == 4
    assert layout.lanes_for(1000, 0) == 256


def test_an_accelerator_takes_all_runs_at_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    laid = layout.laid(10_000, None, 1 << 30, 1000, AMPLE)
    assert laid.lanes == laid.each == 5056  # can be halved six times
    limited = layout.laid(10_000, None, 1 << 30, 1000, 4_000_000)
    assert limited.lanes == limited.each == 960


def spread(laid, piece, carried, mapped, carry, runs, *shared):
    slots, batches = laid.arranged(np.arange(len(mapped[0])), runs)
    filled = np.maximum(slots, 0)
    placed = laid.sharded(jax.tree.map(lambda leaf: leaf[filled], mapped))
    carry = laid.sharded(jax.tree.map(lambda leaf: leaf[filled], carry)) if carried else None
    call = laid.spread(piece, carried).compile()
    answer = call(placed, carry, laid.sharded(batches.astype(np.int32)), laid.replicated(piece.data), shared)
    rows = np.flatnonzero(slots >= 0)[np.argsort(slots[slots >= 0])]
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], answer)


@pytest.mark.parametrize(("runs", "lanes"), [(1, 1), (8, 1), (8, 2), (12, 3), (4, 4), (7, 2)])
def test_spread_is_a_map_over_the_runs(devices, runs, lanes):
    table = np.linspace(1, 2, 3000, dtype="float32")  # large enough to be an argument
    piece = Piece(
        lambda mapped, factor: {"x": factor * mapped[0] + mapped[1], "n": jnp.sum(mapped[0]) + table.sum() * table[7]},
        (jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((), "int32")),
        jax.ShapeDtypeStruct((), "float32"),
    )
    mapped = (np.arange(runs * 3.0, dtype="float32").reshape(runs, 3), np.arange(runs, dtype=np.int32))
    laid = layout.laid(runs, lanes, 1, 1, AMPLE)
    answer = spread(laid, piece, False, mapped, None, runs, laid.replicated(np.float32(2.0)))
    np.testing.assert_array_equal(answer["x"], 2 * mapped[0] + mapped[1][:, None])
    np.testing.assert_allclose(answer["n"], mapped[0].sum(axis=1) + table.sum() * table[7], rtol=1e-6)


def test_a_piece_is_laid_out_on_any_number_of_devices(devices):
    table = np.random.default_rng(0).standard_normal((400, 3)).astype("float32")
    step = lambda _, weights: weights - 1e-3 * table.T @ jnp.tanh(table @ weights)
    starts = np.random.default_rng(1).standard_normal((4, 3, 2)).astype("float32")
    matrix = jax.ShapeDtypeStruct((3, 2), "float32")
    piece = Piece(lambda mapped: jax.lax.fori_loop(0, 3, step, mapped[0]), (matrix,))
    with jax.default_matmul_precision("highest"):
        alone, together = (
            spread(layout.laid(4, 2, 1, 1, AMPLE, each), piece, False, (starts,), None, 4)
            for each in ("batches", "nothing")  # the former is kept to one device
        )
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    np.testing.assert_allclose(alone, [jax.lax.fori_loop(0, 3, step, start) for start in starts], rtol=1e-4)


def test_slots_behind_the_batches_are_handed_through(devices):
    values = np.arange(8.0, dtype="float32")
    number = jax.ShapeDtypeStruct((), "float32")
    piece = Piece(lambda mapped, carry: carry + mapped[0], (number,), number)
    answer = spread(layout.laid(8, 2, 1, 1, AMPLE), piece, True, (np.full(8, 100, "float32"),), values, 4)
    assert answer.tolist() == [100, 101, 102, 103, 4, 5, 6, 7]


def test_precision_is_a_context():
    wide = jax.config.jax_enable_x64
    with layout.precision("float64"):
        assert jnp.ones(()).dtype == "float64"
        with layout.precision("float32"):
            assert jnp.ones(()).dtype == "float32"
            assert jax.config.jax_default_matmul_precision == "highest"
    for name in ("tensorfloat32", "bfloat16"):
        with layout.precision(name):
            assert jnp.ones(()).dtype == "float32"
            assert jax.config.jax_default_matmul_precision == name
    assert jax.config.jax_enable_x64 == wide
    with pytest.raises(ValueError, match=r"float32 or float64 or .*'half'"), layout.precision("half"):
        pass


def test_prepare_leaves_a_choice_of_the_user_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true --other=1")
    monkeypatch.setenv("NPROC", "3")
    layout.prepare()
    assert layout.os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true --other=1"
    assert layout.os.environ["NPROC"] == "3"
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    monkeypatch.delenv("NPROC")
    layout.prepare()
    assert layout.os.environ["XLA_FLAGS"] == "--other=1 --xla_cpu_multi_thread_eigen=false"
    assert layout.os.environ["NPROC"] == "1"


@pytest.mark.parametrize("lanes", [None, 4])
@pytest.mark.parametrize("batched", [False, True])
def test_decompositions_on_two_devices_do_not_wait_for_each_other(devices, lanes, batched):
    def simulate(key, scale: float, *, size: int = 40):
        matrix = jnp.sin(scale * jnp.arange(1.0, 1 + 3 * size**2)).reshape(3, size, size)
        singular = lambda each: jnp.linalg.svd(each, compute_uv=False)
        return Singular(jax.vmap(singular)(matrix)[0] if batched else singular(matrix[0]))

    scales = np.linspace(1, 2, 32)
    dataset = sweep(simulate, {"scale": scales}, lanes=lanes)
    for scale, found in zip(scales, dataset.values_of.values[0], strict=True):
        matrix = np.sin(scale * np.arange(1.0, 1601)).reshape(40, 40)
        np.testing.assert_allclose(found, np.linalg.svd(matrix, compute_uv=False), rtol=1e-9, atol=1e-12)
    assert layout.device() == f"{devices} × cpu"


def test_a_program_that_decomposes_matrices_is_laid_out_for_it(devices):
    one = layout.laid(32, None, 1, 1, AMPLE, "matrices")
    assert (one.lanes, one.mesh.size) == (1, devices)
    assert (
        layout.laid(32, 4, 1, 1, AMPLE, "matrices").lanes,
        layout.laid(32, 4, 1, 1, AMPLE, "matrices").mesh.size,
    ) == (4, 1)
    assert layout.laid(32, None, 1, 1, AMPLE, "batches").mesh.size == 1


@pytest.mark.parametrize("memory", [0, -1, True, 1.5, "2GB"])
def test_a_memory_that_is_no_number_of_bytes_is_refused(memory):
    with pytest.raises(ValueError, match=r"memory takes a positive number of bytes"):
        layout.check_memory(memory)
    layout.check_memory(None)


def test_the_memory_planned_with_is_a_share_of_what_there_is():
    assert 0 < layout.memory() <= layout.SHARE * layout.host_memory()
    assert layout.host_memory() > 1 << 28
