import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from research.oracles import gradient_noise as oracle

WIDTH, DEPTH, CLASSES, FEATURES = 4, 3, 3, 2
SIZES = [FEATURES, WIDTH, WIDTH, WIDTH, CLASSES]


def problem(seed=0, samples=6):
    random = np.random.default_rng(seed)
    X, labels = random.normal(size=(samples, FEATURES)), np.arange(samples) % CLASSES * 1.0
    parts = []
    for rows, columns in itertools.pairwise(SIZES):
        parts += [random.uniform(-1, 1, rows * columns) / rows**0.5, 0.3 * random.normal(size=columns)]
    return X, labels, np.concatenate(parts)


def outputs(X, weights):
    """An independent forward pass: the top layer, and the logits."""
    place, hidden = 0, X
    for number, (rows, columns) in enumerate(itertools.pairwise(SIZES)):
        kernel = weights[place : place + rows * columns].reshape(rows, columns)
        sums = hidden @ kernel + weights[place + rows * columns : place + (rows + 1) * columns]
        place += (rows + 1) * columns
        top, hidden = hidden, 1 / (1 + np.exp(-sums)) if number < DEPTH else sums
    return top, hidden


def losses(X, labels, weights):
    logits = outputs(X, weights)[1]
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(X)), labels.astype(int)]


def difference(function, weights, step=1e-5):
    """The gradient by central differences, one coordinate a row."""
    moves = step * np.eye(len(weights))
    return np.stack([(function(weights + move) - function(weights - move)) / (2 * step) for move in moves])


def test_the_squares_are_those_of_the_samples_gradients_by_differences():
    X, labels, weights = problem()
    each = difference(lambda w: losses(X, labels, w), weights)
    loss, square, moment = oracle.moments(X, labels, weights, WIDTH, DEPTH)
    assert loss == pytest.approx(losses(X, labels, weights).mean(), rel=1e-12)
    assert square == pytest.approx((each.mean(axis=1) ** 2).sum(), rel=1e-8)
    assert moment == pytest.approx((each**2).sum(axis=0).mean(), rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_differences(seed):
    X, labels, weights = problem(seed)
    found = oracle.gradients(X, labels, weights, WIDTH, DEPTH)
    wanted = difference(lambda w: np.array(oracle.moments(X, labels, w, WIDTH, DEPTH)), weights)
    np.testing.assert_allclose(found, wanted.T, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_flow_is_followed_by_short_steps(noise):
    X, labels, weights = problem()
    rate, steps, parts = 0.4, np.array([0.0, 5.0, 20.0]), 40
    answer = oracle.top_activation(X, labels, weights, steps, rate, noise, WIDTH, DEPTH)
    way = [weights]
    for _ in range(20 * parts):
        of_loss, of_square, of_moment = oracle.gradients(X, labels, way[-1], WIDTH, DEPTH)
        way.append(way[-1] - rate / parts * (of_loss + rate / 4 * ((1 - noise) * of_square + noise * of_moment)))
    seen = [outputs(X, way[int(step) * parts])[0].mean() for step in steps]
    assert answer == pytest.approx(seen, rel=2e-3)
    assert answer[0] == pytest.approx(seen[0], rel=1e-12)


def test_a_finite_rate_makes_the_noise_stronger_and_a_small_one_does_not():
    X, labels, weights = problem()
    plain = lambda rate, finite: oracle.top_activation(
        X, labels, weights, np.array([20 / rate]), rate, 0.2, WIDTH, DEPTH, finite=finite
    )[0]
    assert plain(0.4, True) != pytest.approx(plain(0.4, False), rel=1e-4)
    assert plain(1e-3, True) == pytest.approx(plain(1e-3, False), rel=1e-4)
    assert np.isnan(oracle.top_activation(X, labels, weights, np.ones(1), 9.0, 0.2, WIDTH, DEPTH, finite=True)).all()


def test_a_flow_that_is_integrated_badly_is_not_certified(monkeypatch):
    X, labels, weights = problem()
    monkeypatch.setattr(oracle, "BALANCE_BOUND", 1e-12)
    assert np.isnan(oracle.top_activation(X, labels, weights, np.array([50.0]), 0.4, 0.1, WIDTH, DEPTH)).all()


def test_the_scalar_law_solves_its_equation_and_falls_as_the_root_of_time():
    clock, strength, initial = np.array([0.0, 0.1, 1.0, 10.0]), 5.0, 0.45
    field = lambda _, h: -strength / 2 * h**3 * (1 - h) ** 2
    solved = solve_ivp(field, (0, 10), [initial], t_eval=clock, method="DOP853", rtol=1e-10, atol=1e-12)
    assert oracle.scalar_activation(clock, strength, initial) == pytest.approx(solved.y[0], rel=1e-7)
    late = oracle.scalar_activation(np.array([1e8]), strength, initial)[0]
    assert late * (strength * 1e8) ** 0.5 == pytest.approx(1, rel=1e-3)
    assert oracle.scalar_activation(clock, 0.0, initial) == pytest.approx(np.full(4, initial))


def test_bad_input_is_named_and_nan_gives_nan():
    X, labels, weights = problem()
    ask = lambda **changed: oracle.top_activation(
        **{
            "X": X,
            "labels": labels,
            "initial": weights,
            "steps": np.arange(3.0),
            "learning_rate": 0.1,
            "noise": 0.1,
            "width": WIDTH,
            "depth": DEPTH,
            **changed,
        }
    )
    refused = {
        "initial has 3 entries": {"initial": np.ones(3)},
        "labels has entries such as -1": {"labels": labels - 1},
        "steps begin with": {"steps": np.array([1.0, 1.0])},
        "noise is -1": {"noise": -1.0},
        "learning_rate is -1": {"learning_rate": -1.0},
        "has an infinite": {"X": np.full(X.shape, np.inf)},
    }
    for message, changed in refused.items():
        with pytest.raises(ValueError, match=message):
            ask(**changed)
    for changed in ({"X": X * np.nan}, {"labels": labels * np.nan}, {"initial": weights * np.nan}, {"noise": np.nan}):
        assert np.isnan(ask(**changed)).all()
    with pytest.raises(ValueError, match="initial is 1"):
        oracle.scalar_activation(np.ones(1), 1.0, 1.0)
    with pytest.raises(ValueError, match="strength is -1"):
        oracle.scalar_activation(np.ones(1), -1.0, 0.5)
    assert np.isnan(oracle.scalar_activation(np.array([np.nan]), 1.0, 0.5)).all()
