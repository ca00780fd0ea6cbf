"""What a finding takes from a dataset: runs by their parameters, one number a seed, tables, recorded moments."""

import numpy as np
import pytest
import xarray as xr
from simulations import formula, regression

from research.labels import (
    arms,
    at_step,
    averaged,
    check_at_most,
    largest,
    named_by,
    per_seed,
    select,
    sound,
    table,
)
from research.sweep import sweep


@pytest.fixture(scope="module")
def swept():
    axes = {("geometry", "learning_rate"): [("plain", 0.1), ("sign", 0.1), ("plain", 0.2)], "decay": (0.0, 0.1)}
    return sweep(regression, axes, seeds=2)


def test_select_takes_axes_parts_of_a_zip_and_fixed_parameters(swept):
    assert select(swept, decay=0.1).decay.values.tolist() == [0.1]
    assert select(swept, geometry="plain").learning_rate.values.tolist() == [0.1, 0.2]
    assert select(swept, geometry="plain", learning_rate=[0.2, 0.3]).sizes["geometry+learning_rate"] == 1
    assert select(swept, learning_rate=lambda rate: rate > 0.15, decay={0.0, 0.1}).sizes["decay"] == 2
    assert select(swept, features=4).identical(swept)
    assert select(swept, features=5).sizes["seed"] == 0
    assert select(swept, optimizer="sgd", decay=0.7).sizes["decay"] == 0
    with pytest.raises(ValueError, match=r"'momentum'.*learning_rate"):
        select(swept, momentum=0.9)


def test_per_seed_is_one_number_a_seed_and_hides_no_missing_one(swept):
    values = swept.loss.isel(step=-1)
    np.testing.assert_array_equal(per_seed(values), values.values.reshape(2, -1).max(axis=1))
    np.testing.assert_array_equal(per_seed(values, "min"), values.values.reshape(2, -1).min(axis=1))
    holed = values.copy(deep=True)
    holed[1, 0, 0] = np.nan
    assert np.isfinite(per_seed(holed)[0])
    assert np.isnan(per_seed(holed)[1])
    assert np.isnan(per_seed(select(swept, decay=0.7).loss)).all()
    assert per_seed(select(swept, features=5).loss).size == 0
    assert per_seed(sweep(formula, {"slope": 1.0}, seeds=3).value).shape == (3,)


def test_arms_are_the_grid_points(swept):
    found = list(arms(swept))
    assert len(found) == 6
    values, point = found[3]
    assert {name: values[name] for name in ("geometry", "learning_rate", "decay", "features")} == {
        "geometry": "sign",
        "learning_rate": 0.1,
        "decay": 0.1,
        "features": 4,
    }
    np.testing.assert_array_equal(point.weights, swept.weights[:, 1, 1])
    assert point.weights.dims == ("seed", "step", "feature")


def test_a_table_is_the_mean_by_parameters_wherever_they_stand(swept):
    swept = swept.assign(end=swept.loss.isel(step=-1))
    found = table(swept, "end", "decay", "learning_rate", "features")
    assert found.dims == ("seed", "decay", "learning_rate", "features")
    assert found.decay.values.tolist() == [0.0, 0.1]
    np.testing.assert_allclose(found[:, 1, 0, 0], swept.end[:, :2, 1].mean("geometry+learning_rate"))  # two geometries
    np.testing.assert_array_equal(found[:, 0, 1, 0], swept.end[:, 2, 0])
    assert np.isnan(table(swept, "end", "geometry", "learning_rate").sel(geometry="sign", learning_rate=0.2)).all()
    holed = swept.assign(end=swept.end.where(swept.seed == 1))
    assert np.isnan(table(holed, "end", "decay")).sum("decay").values.tolist() == [2, 0]
    assert table(select(swept, decay=0.7), "end", "learning_rate").isnull().all()


def test_averaged_keeps_what_is_named_in_that_order(swept):
    found = averaged(swept.loss, "step", "seed")
    assert found.dims == ("step", "seed")
    np.testing.assert_allclose(found, swept.loss.values.mean(axis=(1, 2)).T)


def test_at_step_reads_what_was_recorded_and_between_it(swept):
    runs = swept.step.max() - 19 * (swept.decay > 0)  # the last step without decay, step 1 with it
    found = at_step(swept.loss, runs)
    np.testing.assert_allclose(found.sel(decay=0.0), swept.loss.sel(decay=0.0, step=20))
    np.testing.assert_allclose(found.sel(decay=0.1), swept.loss.sel(decay=0.1, step=1))
    between = at_step(swept.loss, xr.DataArray(12**0.5 - 1))  # in ln(1 + step) halfway from 1 to 5
    np.testing.assert_allclose(between, (swept.loss.sel(step=1) + swept.loss.sel(step=5)) / 2)
    assert at_step(swept.loss, xr.DataArray(np.nan)).isnull().all()


def test_the_largest_are_the_runs_with_the_greatest_value(swept):
    assert largest(swept, "decay").decay.values.tolist() == [0.1]
    assert largest(swept, "learning_rate").learning_rate.values.tolist() == [0.2]
    none = select(swept, decay=0.7)
    assert largest(none, "decay") is none


def test_of_each_run_the_entry_that_its_parameter_names():
    kinds = xr.DataArray(["a", "b", "c", "a"], dims="run")
    counted = xr.DataArray(np.arange(8.0).reshape(4, 2), dims=("run", "step"))
    values = {"a": counted, "b": counted + 10}
    np.testing.assert_array_equal(named_by(kinds, values), [[0, 1], [12, 13], [np.nan, np.nan], [6, 7]])


def test_what_diverged_runs_recorded_is_left_out():
    dataset = sweep(regression, {"learning_rate": [0.1, 1e30]}, seeds=2)
    assert dataset.diverged.any()
    assert dataset.weights.where(dataset.diverged, 0.0).notnull().any()
    clean = sound(dataset)
    assert clean.weights.where(dataset.diverged).isnull().all()
    xr.testing.assert_identical(clean.isel(learning_rate=0), dataset.isel(learning_rate=0))
    assert clean.X.notnull().all()


def test_a_parameter_beyond_what_arrays_are_cut_to_is_refused():
    dataset = xr.Dataset(coords={"width": [4.0, 16.0], "most_units": 16})
    check_at_most(dataset, "width", "most_units")
    with pytest.raises(ValueError, match="width takes at most most_units = 8, got 16"):
        check_at_most(dataset.assign_coords(most_units=8), "width", "most_units")
