import math

import numpy as np
import pytest

from research.oracles.early_stopping import flow
from research.oracles.holdout import holdout_law


def problem(seed=0, samples=24, features=8, noise=1.0):
    rng = np.random.default_rng(seed)
    X, planted = rng.normal(size=(samples, features)), rng.normal(size=features) / features**0.5
    return X, X @ planted + noise * rng.normal(size=samples), planted, noise


def test_the_best_time_is_that_of_the_flow():
    X, y, planted, noise = problem()
    law = holdout_law(X, y, planted, noise)
    times = np.geomspace(law.best_time / 30, law.best_time * 30, 2001)
    risks = ((flow(X, y, times) - planted) ** 2).sum(axis=1)
    assert risks.min() == pytest.approx(law.least_risk, rel=1e-6)
    assert np.log(times[risks.argmin()] / law.best_time) == pytest.approx(0.0, abs=0.01)


def test_the_law_is_that_of_held_out_samples_drawn():
    X, y, planted, noise = problem(4)
    law, held, draws = holdout_law(X, y, planted, noise), 2000, 2000
    times = np.geomspace(law.best_time / 4, law.best_time * 4, 801)
    left = np.column_stack([planted - flow(X, y, times), np.full(len(times), noise)])
    rng = np.random.default_rng(0)
    risks, regrets, logs = (left[:, :-1] ** 2).sum(axis=1), [], []
    for _ in range(draws):
        rows = rng.normal(size=(held, left.shape[1]))
        chosen = np.argmin(np.einsum("ti,ij,tj->t", left, rows.T @ rows, left, optimize=True))
        regrets.append(risks[chosen] - law.least_risk)
        logs.append(np.log(times[chosen] / law.best_time))
    allowed = 4 * (2 / draws) ** 0.5 + 3 * law.spread / held
    assert np.mean(regrets) * held / law.regret == pytest.approx(1.0, abs=allowed)
    assert np.var(logs) * held / law.spread == pytest.approx(1.0, abs=allowed)


def test_without_noise_it_never_pays_to_stop_and_there_is_no_law():
    X, y, planted, _ = problem(2, noise=0.0)
    assert math.isnan(holdout_law(X, y, planted, 0.0).regret)


def test_bad_input_is_named_and_nan_passes():
    X, y, planted, noise = problem()
    with pytest.raises(ValueError, match="planted has 3 entries"):
        holdout_law(X, y, planted[:3], noise)
    with pytest.raises(ValueError, match="noise is -1"):
        holdout_law(X, y, planted, -1.0)
    assert math.isnan(holdout_law(X * np.nan, y, planted, noise).regret)
    assert math.isnan(holdout_law(X, y, planted, math.nan).regret)
