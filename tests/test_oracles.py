"""What all oracles have in common: no JAX, bad input is refused by name, NaN in gives NaN out."""

import math
import subprocess
import sys

import numpy as np
import pytest
from problems import classification

from research.oracles import least_squares, low_rank, margin, mean_field

DUAL = {1: np.inf, 2: 2, np.inf: 1}
ORDERS = [1, 2, np.inf]


def test_no_oracle_imports_jax_and_the_slow_solvers_wait():
    program = """
import importlib, pkgutil, sys
from research import oracles
for module in pkgutil.iter_modules(oracles.__path__):
    importlib.import_module(f"research.oracles.{module.name}")
from research.oracles import gradient_noise
print([name for name in ("jax", "flax", "cvxpy", "sklearn", "scipy.optimize") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


X, Y = classification()
REFUSED = {
    "X has shape": lambda: least_squares.minimum_l2_norm(X[0], Y),
    "y has 3 entries": lambda: least_squares.minimum_l1_norm(X, Y[:3]),
    "X has an infinite": lambda: least_squares.minimum_linf_norm(np.full((2, 2), np.inf), Y[:2]),
    "nearest_to has 2 entries": lambda: least_squares.minimum_l2_norm(X, Y, np.ones(2)),
    "strength is -1": lambda: least_squares.ridge(X, Y, -1.0),
    "strength is 'much'": lambda: least_squares.ridge(X, Y, "much"),
    "momentum is 1": lambda: least_squares.stability_threshold(X, 0.0, 1.0),
    "w has 3 entries": lambda: least_squares.null_component(X, np.ones(3)),
    "X is 'data'": lambda: least_squares.null_component("data", np.ones(3)),
    "order is '2'": lambda: margin.maximum_margin(X, Y, "2"),
    "order is 3": lambda: margin.margin(X, Y, np.ones(6), 3),
    "order is True": lambda: margin.margin(X, Y, np.ones(6), True),
    "y has the label 0": lambda: margin.separable(X, 0 * Y),
    "y has the label 2": lambda: margin.margin_gap_slope(X, 2 * np.abs(Y)),
    "weights has 2 entries": lambda: margin.margin(X, Y, np.ones(2), 2),
    "weight_decay is -1": lambda: margin.logistic_optimum(X, Y, -1.0),
    "mask has entries": lambda: low_rank.minimum_nuclear_norm(2 * np.eye(2), np.eye(2)),
    "values has shape": lambda: low_rank.minimum_nuclear_norm(np.eye(2), np.eye(3)),
    "values has an infinite": lambda: low_rank.minimum_nuclear_norm(np.eye(2), np.full((2, 2), np.inf)),
    "matrix has shape": lambda: low_rank.effective_rank(np.ones(3)),
    "activation is 'swish'": lambda: mean_field.mean_field("swish", 1.0, 1.0),
    "weight_variance is -1": lambda: mean_field.mean_field("tanh", -1.0, 1.0),
    "weight_variance is inf": lambda: mean_field.mean_field("tanh", math.inf, 1.0),
    "bias_variance is -1": lambda: mean_field.edge_of_chaos("tanh", -1.0),
    "first is -1": lambda: mean_field.variance_path("tanh", 1.0, 1.0, -1.0, 3),
    "layers is 0": lambda: mean_field.variance_path("tanh", 1.0, 1.0, 1.0, 0),
    "q is -1": lambda: mean_field.saturation("tanh", -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_nan_in_the_data_gives_nan():
    bad, nan = X.copy(), float("nan")
    bad[0, 0] = nan
    label = Y.copy()
    label[0] = nan
    for samples, labels in ((bad, Y), (X, label)):
        answers = [
            least_squares.minimum_l2_norm(samples, labels),
            least_squares.minimum_l1_norm(samples, labels),
            least_squares.minimum_linf_norm(samples, labels),
            least_squares.ridge(samples, labels, 0.1),
            margin.maximum_margin(samples, labels, 2),
            margin.support_multipliers(samples, labels),
            margin.margin_gap_slope(samples, labels),
            margin.margin(samples, labels, np.ones(6), 1),
            margin.logistic_optimum(samples, labels, 0.1),
        ]
        assert all(np.isnan(answer).all() for answer in answers)
        assert not margin.separable(samples, labels)
    assert np.isnan(least_squares.ridge(X, Y, nan)).all()
    assert np.isnan(least_squares.null_component(bad, np.ones(6))).all()
    assert math.isnan(least_squares.stability_threshold(bad))
    assert math.isnan(least_squares.stability_threshold(X, nan))
    assert np.isnan(mean_field.mean_field("tanh", nan, 0.0)).all()
    assert np.isnan(mean_field.variance_path("tanh", 1.0, 0.0, nan, 3)).all()
    assert math.isnan(mean_field.edge_of_chaos("tanh", nan))
    assert math.isnan(mean_field.saturation("tanh", nan))
