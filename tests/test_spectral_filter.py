import math

import numpy as np
import pytest
from problems import regression

from research.oracles import spectral_filter
from research.oracles.spectral_filter import filter_risk

X, Y = regression(5, samples=8, features=14)
PLANTED, VARIANCES = np.linspace(-1, 1, 14), 1 / np.arange(1, 15)
STEPS = np.array([0.0, 1.0, 2.0, 7.0, 150.0])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_risk_is_that_of_the_iterates(momentum):
    w, v, seen = np.zeros(14), np.zeros(14), []
    for _ in range(151):
        seen.append(VARIANCES @ (w - PLANTED) ** 2)
        v = momentum * v + X.T @ (X @ w - Y) / 8
        w = w - 0.02 * v
    np.testing.assert_allclose(
        filter_risk(X, Y, PLANTED, VARIANCES, 0.02, momentum, STEPS), np.array(seen)[STEPS.astype(int)], rtol=1e-10
    )


def test_it_begins_at_the_signal_and_ends_at_the_interpolant():
    risk = filter_risk(X, Y, PLANTED, VARIANCES, 0.1, 0.5, np.array([0.0, 1e6]))
    expected = [VARIANCES @ PLANTED**2, VARIANCES @ (np.linalg.pinv(X) @ Y - PLANTED) ** 2]
    np.testing.assert_allclose(risk, expected, rtol=1e-9)


def test_nan_bad_input_and_a_failed_certificate(monkeypatch):
    arguments = [X, Y, PLANTED, VARIANCES, 0.1, 0.5, STEPS]
    for place in range(7):
        changed = list(arguments)
        changed[place] = np.asarray(arguments[place]) * math.nan
        assert np.isnan(filter_risk(*changed)).all()
    with pytest.raises(ValueError, match="planted has 3"):
        filter_risk(X, Y, np.ones(3), VARIANCES, 0.1, 0.5, STEPS)
    with pytest.raises(ValueError, match="momentum is 1"):
        filter_risk(X, Y, PLANTED, VARIANCES, 0.1, 1.0, STEPS)
    monkeypatch.setattr(spectral_filter, "BOUND", -1.0)
    assert np.isnan(filter_risk(*arguments)).all()
