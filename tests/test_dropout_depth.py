"""What `dropout_depth` reads off accuracies: networks that all learn, or none of them, measure no depth."""

import numpy as np
import pytest
import xarray as xr

from experiments.saturation.dropout_depth import experiment, trainable_depth

DEPTHS = np.array([8, 16, 32])
KEEPS = (0.6, 0.8, 0.9)
OPEN = slice(0, 5)  # ratios, slope and pairs: what accuracies that are all alike must not support


def dataset(accuracy, keeps=KEEPS, steps=200, seeds=8):
    """A dataset of these shares kept, with the accuracy of a seed, a share and a depth, whatever the step."""
    rows = [(keep, depth) for keep in keeps for depth in DEPTHS]
    values = np.array([[accuracy(seed, *row) for row in rows] for seed in range(seeds)])
    read = xr.DataArray(values, dims=("seed", "network")).expand_dims(step=[0, steps // 2, steps])
    coordinates = {
        "seed": np.arange(seeds),
        "keep": ("network", [row[0] for row in rows]),
        "depth": ("network", [row[1] for row in rows]),
        "shared": 0.0,
        "steps": steps,
    }
    diverged = xr.DataArray(np.zeros(values.shape, bool), dims=("seed", "network"))
    return xr.Dataset({"accuracy": read, "with_masks": read, "diverged": diverged}).assign_coords(coordinates)


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 1.0])
def test_networks_that_are_all_alike_support_no_number_of_depths(accuracy):
    found = experiment.findings(experiment.compare(dataset(lambda *_: accuracy)))
    assert {finding.status for finding in found[OPEN]} <= {"refuted", "inconclusive", "void"}, found
    assert found[0].status != "void"
    assert "8 of 8 seeds a bound" in found[0].statement


def test_one_seed_without_a_depth_leaves_the_interval_open():
    falls = lambda seed, keep, depth: 1.0 if seed == 0 or depth < 20 else 0.0
    finding = experiment.findings(experiment.compare(dataset(falls, keeps=(0.8,))))[0]
    assert (finding.status, finding.interval[1]) == ("inconclusive", np.inf)
    assert "1 of 8 seeds a bound" in finding.statement


def test_the_depth_lies_between_those_it_is_read_from_and_ends_are_bounds():
    accuracy = lambda seed, keep, depth: [[0.9, 0.7, 0.3], [0.9, 0.5, 0.4], [0.4, 0.3, 0.2], [0.9, 0.8, 0.5]][seed][
        list(DEPTHS).index(depth)
    ]
    runs = experiment.compare(dataset(accuracy, keeps=(0.8,), seeds=4))
    least, most = trainable_depth(runs)
    assert least == pytest.approx([16 * 2**0.5, 16, 0, 32])
    assert most == pytest.approx([16 * 2**0.5, 16, 8, np.inf])
    unknown = runs.assign(end=runs.end.where(runs.depth < 20))
    assert np.isnan(trainable_depth(unknown)).all()


def test_a_depth_that_is_the_same_for_all_shares_is_no_number_of_correlation_depths():
    same = lambda seed, keep, depth: 0.9 if depth < 20 + seed / 10 else 0.1
    slope, pairs = experiment.findings(experiment.compare(dataset(same)))[3:5]
    assert (slope.status, pairs.status) == ("refuted", "refuted"), (slope, pairs)
