"""Runs that keep a time of their own: what was recorded by step, read off at times that they share."""

from typing import Any

import numpy as np
import xarray as xr


def at_time(clock: xr.DataArray, values: xr.DataArray, time: xr.DataArray | float) -> xr.DataArray:
    """What was recorded when each run's clock, which never goes back, showed that time; linear between recordings.

    NaN where a run does not get there. Recordings that are NaN, the padding of runs that ended, are left out.
    """
    cores: list[list[Any]] = [["step"], ["step"], []]
    return xr.apply_ufunc(_read, clock, values, time, input_core_dims=cores, vectorize=True)


def by_time(values: xr.DataArray, clock: xr.DataArray, times: np.ndarray) -> xr.DataArray:
    """The values along a dimension "clock_time", the times given; as `at_time`."""
    return at_time(clock, values, xr.DataArray(times, {"clock_time": times}, "clock_time"))


def _read(clock: np.ndarray, values: np.ndarray, time: float) -> float:
    known = np.isfinite(clock) & np.isfinite(values)
    return float(np.interp(time, clock[known], values[known], right=np.nan)) if known.any() else np.nan
