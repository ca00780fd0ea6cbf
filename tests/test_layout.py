import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import layout


def test_batches_are_full_and_the_padding_is_small(devices):
    for runs, lanes in itertools.product(range(1, 40), [1, 2, 3, 7, 64, None]):
        used, padded, chosen = layout.even(runs, lanes, working_set=100)
        assert used <= min(runs, devices)
        assert padded >= runs
        assert padded % (used * chosen) == 0
        assert chosen <= (lanes or 64)
        batches = padded // (used * chosen)
        assert padded - runs < used * batches  # less than one run a batch


def test_lanes_keep_the_working_set_near_the_cache():
    assert layout.lanes_for(1000, 1) == 64
    assert layout.lanes_for(5, 1) == 5
    assert layout.lanes_for(1000, layout.L2_CACHE) == 1
    assert layout.lanes_for(1000, layout.L2_CACHE // 8) == 4
    assert layout.lanes_for(1000, 0) == 64


@pytest.mark.parametrize(("runs", "lanes"), [(1, 1), (8, 1), (8, 2), (12, 3), (4, 4)])
def test_spread_is_a_map_over_the_runs(devices, runs, lanes):
    used, padded, lanes = layout.even(runs, lanes, 1)
    mapped = (np.arange(padded * 3.0, dtype="float32").reshape(padded, 3), np.arange(padded, dtype=np.int32))
    function = lambda one, factor: {"x": factor * one[0] + one[1], "n": jnp.sum(one[0])}
    answer = layout.spread(function, used, lanes)(mapped, np.float32(2.0))
    np.testing.assert_array_equal(answer["x"], 2 * mapped[0] + mapped[1][:, None])
    np.testing.assert_array_equal(answer["n"], mapped[0].sum(axis=1))


def test_a_batch_without_a_live_run_is_handed_through(devices):
    values = np.arange(8.0, dtype="float32")
    alive = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    run = layout.spread(lambda one: one[1] + 100, devices, 2, live=lambda one: one[0])
    answer = run((alive, jnp.asarray(values)))
    assert answer.tolist() == [100, 101, 2, 3, 104, 105, 6, 7]


def test_precision_is_a_context():
    wide = jax.config.jax_enable_x64
    with layout.precision("float64"):
        assert jnp.ones(()).dtype == "float64"
        with layout.precision("float32"):
            assert jnp.ones(()).dtype == "float32"
            assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_enable_x64 == wide
    with pytest.raises(ValueError, match=r"float32 or float64.*'half'"), layout.precision("half"):
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
    assert int(layout.os.environ["NPROC"]) >= 8  # threads for batched LAPACK calls on every device


def test_batched_decompositions_on_two_devices_do_not_wait_for_each_other(devices):
    matrices = np.random.default_rng(0).normal(size=(16, 8, 8)).astype("float32")
    answer = layout.spread(lambda one: jnp.linalg.svd(one[0], compute_uv=False), devices, 4)((matrices,))
    np.testing.assert_allclose(answer, np.linalg.svd(matrices, compute_uv=False), rtol=1e-4, atol=1e-5)
    assert layout.device() == f"{devices} × cpu"
