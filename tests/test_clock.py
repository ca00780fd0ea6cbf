import numpy as np
import xarray as xr

from research.clock import at_time, by_time

CLOCK = xr.DataArray([[0.0, 1.0, 4.0], [0.0, 2.0, np.nan]], dims=("seed", "step"))
VALUES = xr.DataArray([[0.0, 10.0, 40.0], [5.0, 7.0, np.nan]], dims=("seed", "step"))


def test_values_are_read_at_the_time_of_each_run_and_only_as_far_as_it_went():
    np.testing.assert_allclose(at_time(CLOCK, VALUES, 1.0), [10.0, 6.0])
    np.testing.assert_allclose(at_time(CLOCK, VALUES, 3.0), [30.0, np.nan])
    np.testing.assert_allclose(at_time(CLOCK, VALUES, xr.DataArray([4.0, 2.0], dims="seed")), [40.0, 7.0])
    assert np.isnan(at_time(CLOCK * np.nan, VALUES, 1.0)).all()


def test_curves_lie_along_the_times_that_were_asked_for():
    curves = by_time(VALUES, CLOCK, np.array([0.0, 0.5, 2.0]))
    assert curves.dims == ("seed", "clock_time")
    np.testing.assert_allclose(curves, [[0, 5, 20], [5, 5.5, 7]])
    np.testing.assert_allclose(curves.clock_time, [0, 0.5, 2])
