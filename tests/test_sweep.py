import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import simulations
from simulations import Number, formula, growth, looped, regression, stochastic

from research.dynamics import Run
from research.plan import plan
from research.sweep import sweep, swept

engine = sys.modules["research.sweep"]  # `research.sweep` may also name the function


def points(**axes):
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def close(dataset, simulate, grid, seeds, dimensions, tolerance=1e-12, **options):
    """Every run of the dataset equals the plain Python loop's; `dimensions` name the axes of the grid, in order."""
    with jax.enable_x64(True):
        expected = looped(simulate, grid, seeds, **options)
    for (number, seed, name), values in expected.items():
        assert dataset[name].dims[: 2 + len(dimensions)] == ("seed", *dimensions, "step")
        found = dataset[name].values[seed].reshape(len(grid), *dataset[name].shape[1 + len(dimensions) :])[number]
        np.testing.assert_allclose(found, values, rtol=tolerance, atol=tolerance * np.abs(values).max())


@pytest.mark.parametrize("lanes", [1, 2, 3, None])
def test_a_sweep_equals_a_plain_loop_of_single_runs(devices, lanes):
    rates, decays = (0.01, 0.05, 0.1), (0.0, 0.2)
    dataset = sweep(regression, {"learning_rate": rates, "decay": decays}, seeds=3, lanes=lanes, key=5)
    close(
        dataset,
        regression,
        points(learning_rate=rates, decay=decays),
        3,
        ("learning_rate", "decay"),
        key=5,
    )
    assert dataset.weights.shape == (3, 3, 2, 4, 4)
    assert dataset.step.values.tolist() == [0, 1, 5, 20]
    assert not dataset.diverged.any()
    assert (dataset.diverged_at == -1).all()


def test_axes_keep_the_order_given_and_not_that_of_the_signature():
    dataset = sweep(regression, {"geometry": ["sign", "plain"], "decay": (0.0, 0.2), "learning_rate": (0.1, 0.01)})
    assert dataset.weights.dims == ("seed", "geometry", "decay", "learning_rate", "step", "feature")
    assert dataset.learning_rate.values.tolist() == [0.1, 0.01]
    assert dataset.geometry.values.tolist() == ["sign", "plain"]
    grid = points(geometry=["sign", "plain"], decay=(0.0, 0.2), learning_rate=(0.1, 0.01))
    close(dataset, regression, grid, 1, ("geometry", "decay", "learning_rate"))


def test_lanes_and_devices_change_nothing_to_the_last_digits(monkeypatch):
    rates = np.linspace(0.01, 0.1, 5)
    alone = sweep(stochastic, {"learning_rate": rates}, seeds=3, lanes=1)
    close(alone, stochastic, points(learning_rate=rates), 3, ("learning_rate",))  # keys are carried in the state
    chosen = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: chosen)
    other = sweep(stochastic, {"learning_rate": rates}, seeds=3, lanes=4)
    np.testing.assert_allclose(other.weights, alone.weights, rtol=1e-12)


def test_seeds_are_paired_and_more_seeds_extend_fewer():
    axes = {"learning_rate": (0.01, 0.1), "geometry": ("plain", "sign")}
    few, many = sweep(regression, axes, seeds=8, lanes=2), sweep(regression, axes, seeds=16, lanes=2)
    np.testing.assert_array_equal(many.X.values[:8], few.X.values)
    np.testing.assert_array_equal(many.weights.values[:8], few.weights.values)
    assert few.X.dims == ("seed", "sample", "feature")  # the same data at every grid point
    assert len(np.unique(many.X.values[:, 0, 0])) == 16
    first = few.weights.isel(step=0).values
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1, :1], first.shape))
    other = sweep(regression, {"learning_rate": 0.01}, seeds=8, key=1)
    assert not np.isin(other.X, many.X).any()


def test_what_is_given_has_only_the_dimensions_along_which_it_differs():
    def simulate(key, learning_rate: float, scale: float = 1.0, *, features: int = 2):
        run = regression(key, learning_rate, features=features)
        return run._replace(given=run.given._replace(X=scale * np.ones((3, features)), y=run.given.y * features))

    axes = {"learning_rate": (0.01, 0.1), "scale": (1.0, 2.0, 3.0), "features": (2, 3)}
    dataset = sweep(simulate, axes, seeds=2, lanes=1)
    assert dataset.X.dims == ("scale", "features", "sample", "feature")
    assert dataset.y.dims == ("seed", "features", "sample")
    assert dataset.X.sel(scale=3.0, features=3).values.tolist() == [[3.0, 3.0, 3.0]] * 3
    assert np.isnan(dataset.X.sel(scale=3.0, features=2).values[:, 2]).all()


def test_zipped_axes_move_together():
    pairs = [(0.01, 0.0), (0.1, 0.3)]
    dataset = sweep(regression, {("learning_rate", "decay"): pairs}, seeds=2)
    assert dataset.weights.dims == ("seed", "learning_rate+decay", "step", "feature")
    assert dataset.decay.dims == ("learning_rate+decay",)
    grid = [{"learning_rate": rate, "decay": decay} for rate, decay in pairs]
    close(dataset, regression, grid, 2, ("learning_rate+decay",))


def test_a_zip_may_mix_structure_and_numbers():
    rows = [("plain", 0.01), ("sign", 0.1), ("plain", 0.1)]
    dataset = sweep(regression, {("geometry", "learning_rate"): rows, "decay": (0.0, 0.1)}, seeds=2)
    grid = [
        {"geometry": geometry, "learning_rate": rate, "decay": decay} for geometry, rate in rows for decay in (0.0, 0.1)
    ]
    close(dataset, regression, grid, 2, ("geometry+learning_rate", "decay"))
    assert dataset.geometry.values.tolist() == ["plain", "sign", "plain"]
    assert dataset.learning_rate.values.tolist() == [0.01, 0.1, 0.1]
    assert len(plan(regression, {("geometry", "learning_rate"): rows}).cells) == 2


def test_structure_may_be_functions_with_sizes_and_times_of_their_own():
    quick = functools.partial(optax.sgd, momentum=0.9)
    axes = {"learning_rate": (0.01,), "optimizer": [optax.sgd, quick], "features": [4, 2], "steps": [20, 7]}
    dataset = sweep(regression, axes, seeds=2)
    assert dataset.optimizer.values.tolist() == ["sgd", "sgd(momentum=0.9)"]
    assert dataset.step.values.tolist() == [0, 1, 5, 7, 20]
    small = dataset.weights.sel(features=2)
    assert np.isnan(small[..., 2:]).all()
    assert np.isfinite(small.sel(steps=7, step=[0, 1, 5, 7])[..., :2]).all()
    assert np.isnan(dataset.weights.sel(steps=7, step=20)).all()
    assert np.isnan(dataset.weights.sel(steps=20, step=7)).all()
    values = {"learning_rate": 0.01, "optimizer": quick, "features": 2, "steps": 7}
    alone = sweep(regression, {**values, "optimizer": [quick]}, seeds=2)
    found = dataset.weights.sel(optimizer="sgd(momentum=0.9)", features=2, steps=7, step=[0, 1, 5, 7])[:, 0, :, :2]
    np.testing.assert_array_equal(found, alone.weights[:, 0])
    close(alone, regression, [values], 2, ("optimizer",))
    np.testing.assert_array_equal(dataset.X.sel(features=2)[..., :2], alone.X)


def test_numbers_annotated_as_integers_arrive_as_integers():
    def simulate(key, count: int, scale: float):
        assert np.issubdtype(count.dtype, np.integer)
        assert np.issubdtype(scale.dtype, np.floating)
        return simulations.Number(scale * simulations.drawn(key) + count // 2)

    dataset = sweep(simulate, {"count": (1, 2, 5.0), "scale": (0, 1)}, seeds=2)
    assert dataset["count"].values.tolist() == [1, 2, 5]
    assert dataset.value.sel(scale=0.0).values.tolist() == [[0.0, 1.0, 2.0]] * 2


def test_an_experiment_without_time_has_no_steps(devices):
    dataset = sweep(formula, {"slope": (1.0, 2.0, 3.0), "power": (1, 2)}, seeds=5)
    assert dataset.value.dims == ("seed", "slope", "power")
    assert "step" not in dataset.coords
    drawn = dataset.value.sel(slope=1.0, power=1).values
    assert len(np.unique(drawn)) == 5
    np.testing.assert_allclose(dataset.value.sel(slope=3.0, power=2), 9 * drawn, rtol=1e-15)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-14)])
def test_precision_is_that_of_everything_recorded(precision, tolerance):
    dataset = sweep(growth, {"rate": (1.1, 0.9)}, precision=precision)
    assert dataset.value.dtype == precision
    expected = np.array([1.1, 0.9])[:, None] ** dataset.step.values
    np.testing.assert_allclose(dataset.value[0], expected, rtol=tolerance)
    error = np.abs(dataset.value[0] - expected).max().item()
    assert (error > 1e-9) == (precision == "float32")
    single = sweep(regression, {"learning_rate": 0.1}, precision=precision)
    assert single.X.dtype == single.weights.dtype == precision


def test_a_seed_draws_alike_whatever_the_rest_of_the_grid():
    whole = sweep(regression, {"learning_rate": (0.01, 0.1), "features": (4, 3)}, seeds=4)
    part = sweep(regression, {"learning_rate": 0.1, "features": 3}, seeds=2)
    np.testing.assert_allclose(part.weights, whole.weights.sel(learning_rate=0.1, features=3)[:2, :, :3], rtol=1e-12)
    assert part.weights.dims == ("seed", "step", "feature")
    assert part.learning_rate.item() == 0.1
    assert part.geometry.item() == "plain"


def test_progress_rises_to_all_runs_and_names_the_cell():
    heard = []
    sweep(
        growth,
        {"rate": (0.5, 0.9), "limit": (10.0, 20.0)},
        seeds=3,
        progress=lambda *words: heard.append(words),
    )
    done = [words[0] for words in heard]
    assert done == sorted(done)
    assert done[-1] == 12
    assert {words[1] for words in heard} == {12}
    assert {words[2] for words in heard} == {"limit=10.0", "limit=20.0"}


def test_plans_of_two_precisions_do_not_meet_in_a_data_set_that_they_share():
    table, labels = np.linspace(0, 1, 3000).reshape(300, 10), np.arange(300) % 10

    def simulate(key, rate: float):
        X, y = jnp.asarray(table), jnp.asarray(labels)
        right = lambda w: Number(jnp.mean(jnp.argmax(X * w[None], axis=1) == y, dtype=w.dtype))
        step = lambda w: w + rate * (X.mean(axis=0) - w)
        return Run(jnp.zeros(10), step, right, np.array([0, 5]))

    plans = [plan(simulate, {"rate": 0.5}, precision=each) for each in ("float64", "float32", "float64")]
    for planned in plans:
        planned.addresses()
        assert swept(planned).value.dtype == planned.precision


def towards(key, learning_rate, *, table=False):
    """Descent towards a target; the start has no use for the table that it comes from."""
    large = np.arange(400.0).reshape(100, 4) / 400
    target = (jnp.asarray(large) if table else jnp.ones((2, 4))).mean(axis=0)
    step = lambda weights: weights - learning_rate * (weights - target)
    return Run(jax.random.normal(key, (4,)), step, lambda weights: Number(weights.sum()), np.array([0, 10]))


def test_cells_that_begin_alike_though_only_one_of_them_has_data():
    dataset = sweep(towards, {"learning_rate": (0.1, 0.2), "table": [False, True]}, seeds=2)
    grid = points(learning_rate=(0.1, 0.2), table=[False, True])
    close(dataset, towards, grid, 2, ("learning_rate", "table"))
