from typing import Literal, NamedTuple

import numpy as np
import pytest
import xarray as xr
from jaxtyping import Array, Float, Int

from research.labels import (
    chosen_per_seed,
    dimensions,
    fields,
    lift,
    middle_value,
    recorded,
    small_steps,
)


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


def test_chosen_runs_are_reduced_by_seed_and_what_is_not_known_is_not_left_out():
    values = xr.DataArray(
        [[1.0, 2.0, np.nan], [3.0, 4.0, 5.0], [np.nan, 6.0, 7.0], [8.0, 9.0, 9.0]], dims=("seed", "run")
    )
    chosen = xr.DataArray(
        [[True, True, False], [True, True, True], [True, True, False], [False] * 3], dims=("seed", "run")
    )
    ends = chosen_per_seed(values, chosen, "min", "max")
    np.testing.assert_array_equal(ends, [[1.0, 3.0, np.nan], [2.0, 5.0, np.nan]])
    assert chosen_per_seed(values, chosen & False, "min").size == 0


def test_what_a_run_recorded_is_neither_padding_nor_of_a_diverged_seed():
    loss = xr.DataArray([[3.0, np.nan, 1.0], [9.0, 9.0, np.nan]], dims=("seed", "step"))
    run = xr.Dataset({"loss": loss, "diverged": ("seed", [False, True])}, {"step": [0, 5, 10]})
    kept = recorded(run)
    assert kept.step.values.tolist() == [0, 10]
    assert kept.loss.values.tolist() == [[3.0, 1.0]]


def test_the_middle_value_is_that_of_an_arm():
    widths = lambda *values: xr.DataArray(list(values), dims="arm")
    assert [middle_value(widths(9, 1, 1)), middle_value(widths(1, 4, 9, 16)), middle_value(xr.DataArray(7))] == [
        1,
        9,
        7,
    ]


def test_small_steps_are_those_of_one_momentum_up_to_the_limit():
    arms = [(0.25, 0.0), (0.5, 0.0), (0.05, 0.5), (0.1, 0.5), (0.01, 0.9)]
    rates, momenta = zip(*arms, strict=True)
    runs = xr.Dataset(coords={"learning_rate": ("arm", list(rates)), "momentum": ("arm", list(momenta))})
    chosen = lambda momentum: small_steps(runs, momentum, limit=0.25).learning_rate.values.tolist()
    assert [chosen(0.0), chosen(0.5), chosen(0.9), chosen(0.1)] == [[0.25], [0.05], [0.01], []]
