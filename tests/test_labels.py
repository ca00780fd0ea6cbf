from typing import Literal, NamedTuple

import numpy as np
import pytest
import xarray as xr
from jaxtyping import Array, Float, Int
from simulations import formula, regression

from research.labels import (
    arms,
    at_step,
    averaged,
    check_at_most,
    dimensions,
    fields,
    largest,
    lift,
    named_by,
    per_seed,
    select,
    sound,
    table,
)
from research.sweep import sweep


class Record(NamedTuple):
    matrix: Float[Array, "row column"]
    counts: Int[np.ndarray, "row"]
    total: float
    maybe: Float[Array, "row"] | None


def test_dimensions_are_read_from_the_annotation():
    assert fields(Record) == {"matrix": ("row", "column"), "counts": ("row",), "total": (), "maybe": ("row",)}
    for plain in (int, bool, str, Float[Array, ""]):
        assert dimensions(plain, "x") == ()


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        list,
        np.ndarray,
        Literal["a"],
        Float[Array, "*sample"],
        Float[Array, "..."],
        Float[Array, "3"],
        Float[Array, "sample sample"],
        Float[Array, "a+1"],
        Float[Array, "#sample"],
    ],
)
def test_an_annotation_that_names_no_dimensions_is_an_error_that_names_the_bearer(annotation):
    with pytest.raises(TypeError, match=r"the bearer"):
        dimensions(annotation, "the bearer")


@pytest.mark.parametrize("record", [tuple, dict, 3, Record(1, 2, 3, 4)])
def test_fields_takes_a_class_of_annotated_arrays_only(record):
    with pytest.raises(TypeError, match="NamedTuple"):
        fields(record)


def least(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"]) -> Float[np.ndarray, "feature"]:
    return np.linalg.lstsq(X, y, rcond=None)[0]


class Solution(NamedTuple):
    weights: Float[np.ndarray, "feature"]
    norm: float
    modes: Float[np.ndarray, "mode"]


def solved(X: Float[np.ndarray, "sample feature"], y: Float[np.ndarray, "sample"], strength: float = 0.0) -> Solution:
    weights = np.linalg.solve(X.T @ X + strength * np.eye(X.shape[1]), X.T @ y)
    return Solution(weights, float(np.linalg.norm(weights)), np.linalg.svd(X, compute_uv=False)[:2])


@pytest.fixture
def problem():
    """X over (sample, scale, feature, seed), y over (seed, sample), in no helpful order."""
    random = np.random.default_rng(0)
    X = xr.DataArray(random.normal(size=(5, 2, 3, 4)), dims=("sample", "scale", "feature", "seed"))
    y = xr.DataArray(random.normal(size=(4, 5)), dims=("seed", "sample"))
    return X, y


def test_an_oracle_is_lifted_over_all_other_dimensions_by_name(problem):
    X, y = problem
    answer = lift(least, X, y)
    assert set(answer.dims) == {"seed", "scale", "feature"}
    assert answer.name == "least"
    for seed in range(4):
        for scale in range(2):
            expected = least(X.isel(seed=seed, scale=scale).values, y.isel(seed=seed).values)
            np.testing.assert_allclose(answer.isel(seed=seed, scale=scale), expected)


def test_an_oracle_may_answer_a_record_and_take_parameters(problem):
    X, y = problem
    answer = lift(solved, X, y, strength=2.0)
    assert set(answer.data_vars) == {"weights", "norm", "modes"}
    assert answer.norm.dims == ("scale", "seed")
    assert answer.modes.sizes == {"scale": 2, "seed": 4, "mode": 2}
    one = solved(X[:, 1, :, 2].values, y[2].values, strength=2.0)
    np.testing.assert_allclose(answer.weights.isel(scale=1, seed=2), one.weights)
    np.testing.assert_allclose(answer.modes.isel(scale=1, seed=2), one.modes)
    along = lift(solved, X, y, xr.DataArray([0.0, 2.0], dims="strength"))
    np.testing.assert_allclose(along.norm.isel(strength=1), answer.norm)
    assert (along.norm.isel(strength=0) > along.norm.isel(strength=1)).all()


def test_a_single_field_and_a_plain_number_are_answers_too(problem):
    class One(NamedTuple):
        norm: float

    def record(y: Float[np.ndarray, "sample"]) -> One:
        return One(float(y @ y))

    def number(y: Float[np.ndarray, "sample"]) -> float:
        return float(y @ y)

    _, y = problem
    expected = (y**2).sum("sample")
    np.testing.assert_allclose(lift(record, y).norm, expected)
    np.testing.assert_allclose(lift(number, y), expected)
    assert lift(number, y).dims == ("seed",)
    assert lift(number, y.isel(seed=0)).dims == ()


def test_padding_is_cut_off_and_put_back(problem):
    X, y = problem
    wide = X.pad(sample=(0, 2), feature=(0, 1), constant_values=np.nan)
    tall = y.pad(sample=(0, 2), constant_values=np.nan)
    answer, expected = lift(least, wide, tall), lift(least, X, y)
    np.testing.assert_array_equal(answer.isel(feature=slice(0, 3)), expected)
    assert np.isnan(answer.isel(feature=3)).all()
    mixed = wide.copy(deep=True)
    mixed[:, 0, 2:] = np.nan  # two features there
    answer = lift(least, mixed, tall)
    np.testing.assert_allclose(answer.isel(scale=0, seed=1)[:2], least(X[:, 0, :2, 1].values, y[1].values))
    assert np.isnan(answer.isel(scale=0)[..., 2:]).all()
    np.testing.assert_array_equal(answer.isel(scale=1, feature=slice(0, 3)), expected.isel(scale=1))


def test_a_single_missing_number_is_no_padding(problem):
    X, _ = problem
    holed = X.copy(deep=True)
    holed[1, 0, 1, 0] = np.nan

    def asked(X: Float[np.ndarray, "sample feature"]) -> float:
        return float(np.isnan(X).sum()) + X.size

    assert lift(asked, holed).isel(scale=0, seed=0) == 16
    assert lift(asked, holed).isel(scale=1, seed=0) == 15


def test_where_there_is_only_padding_the_oracle_is_not_asked(problem):
    X, y = problem
    X = X.copy(deep=True)
    X[:, 0, :, 1] = np.nan
    answer = lift(least, X, y)
    assert np.isnan(answer.isel(scale=0, seed=1)).all()
    assert np.isfinite(answer.isel(scale=1)).all()
    with pytest.raises(ValueError, match="mode"):
        lift(solved, X, y)  # how many modes is not known there
    strengths = xr.DataArray([np.nan, 1.0], dims="strength")
    with pytest.raises(ValueError, match="mode"):
        lift(solved, *problem, strengths)


def test_equal_inputs_are_asked_once(problem):
    X, _ = problem
    calls = []

    def counted(X: Float[np.ndarray, "sample feature"], strength: float) -> float:
        calls.append(strength)
        return strength

    lift(counted, X.isel(seed=0, scale=0), xr.DataArray([1.0, 2.0, 1.0, 2.0, 1.0], dims="strength"))
    assert sorted(calls) == [1.0, 2.0]
    calls.clear()
    lift(counted, X, 1.0)
    assert len(calls) == 8


def test_a_missing_dimension_and_a_missing_annotation_are_named(problem):
    X, y = problem
    with pytest.raises(ValueError, match=r"least\(y\).*'sample'.*seed"):
        lift(least, X, y.isel(sample=0))
    with pytest.raises(TypeError, match=r"bare\(X\)"):
        lift(bare, X)
    with pytest.raises(TypeError, match=r"silent"):
        lift(silent, X)


def bare(X) -> float:
    return 0.0


def silent(X: Float[np.ndarray, "sample feature"]):
    return 0.0


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
