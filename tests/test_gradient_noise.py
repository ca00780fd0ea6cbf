import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from research.oracles import gradient_moments
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
    loss, square, moment = gradient_moments.moments(X, labels, weights, WIDTH, DEPTH)
    assert loss == pytest.approx(losses(X, labels, weights).mean(), rel=1e-12)
    assert square == pytest.approx((each.mean(axis=1) ** 2).sum(), rel=1e-8)
    assert moment == pytest.approx((each**2).sum(axis=0).mean(), rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_differences(seed):
    X, labels, weights = problem(seed)
    found = gradient_moments.gradients(X, labels, weights, WIDTH, DEPTH)
    wanted = difference(lambda w: np.array(gradient_moments.moments(X, labels, w, WIDTH, DEPTH)), weights)
    np.testing.assert_allclose(found, wanted.T, rtol=1e-5, atol=1e-8)


def scattered(relaxation, samples, batch):
    """F from the covariances of all steps of an epoch: ½∂λ Var x + E[x_k ∂ξ_k] over (ηc/4)∂λ, for η = c = λ = 1."""
    count, keep = samples // batch, 1 - relaxation
    shared = np.eye(count) - (1 - np.eye(count)) / (samples / batch - 1)
    weigh = lambda place: np.r_[keep ** np.arange(place - 1, -1, -1), np.zeros(count - place)]
    first = weigh(count) @ shared @ weigh(count) / (1 - keep ** (2 * count))  # Var x where an epoch begins
    variances = [keep ** (2 * k) * first + weigh(k) @ shared @ weigh(k) for k in range(count)]
    together = [-weigh(k)[:k] @ shared[:k, k] for k in range(count)]
    # η is the relaxation over λ: Var x has η² cλ, the force of it ½, and E[x_k ∂ξ_k] is −η times half the sum
    return 2 * relaxation * np.mean(variances) + 2 * np.mean(together)


@pytest.mark.parametrize("relaxation", [1e-3, 0.1, 0.7, 1.0, 1.6])
@pytest.mark.parametrize(("samples", "batch"), [(320, 160), (320, 40), (64, 2), (7, 3)])
def test_the_factor_of_an_epoch_is_that_of_its_covariances(relaxation, samples, batch):
    assert oracle.noise_factor(relaxation, samples / batch) == pytest.approx(scattered(relaxation, samples, batch))


def test_the_factor_has_the_limits_of_small_rates_of_long_epochs_and_of_fresh_batches():
    samples, batch = 320, 5
    share = (samples - batch) / (batch * (samples - 1))
    assert oracle.noise_factor(1e-6, samples / batch) == pytest.approx(1, rel=1e-4)
    assert oracle.noise_factor(0.5) == pytest.approx(4 / 3)
    late = share * oracle.noise_factor(0.9, 1000.0) * (1 + 1 / 999)
    assert late == pytest.approx(share * oracle.noise_factor(0.9), rel=3e-3)
    assert oracle.noise_factor(0.9, 1e12) == pytest.approx(oracle.noise_factor(0.9))
    assert oracle.noise_factor(1.5, 1.4) == pytest.approx(4)  # one batch an epoch: it meets no other
    assert np.isnan([oracle.noise_factor(2.0), oracle.noise_factor(np.nan, 2.0)]).all()
    with pytest.raises(ValueError, match="batches is 1"):
        oracle.noise_factor(0.1, 1.0)


@pytest.mark.parametrize("batch", [2, 3])
def test_descent_on_a_parabola_feels_that_force_on_average(batch):
    """SGD on λx²/2 + √λ g_i x of 8 samples without replacement: the mean gradient by λ, over ηc/4, at λ = 1."""
    random, samples, rate, chains, epochs = np.random.default_rng(0), 8, 0.6, 4000, 60
    pulls = random.normal(size=samples)
    pulls = (pulls - pulls.mean()) / pulls.std()
    x, total, count = np.zeros(chains), 0.0, 0
    for epoch in range(epochs):
        order = random.permuted(np.tile(pulls, (chains, 1)), axis=1)
        for place in range(samples // batch):
            pull = order[:, place * batch : (place + 1) * batch].mean(axis=1)
            if epoch >= 10:
                total, count = total + (x**2 / 2 + pull * x / 2).mean(), count + 1
            x = x - rate * (x + pull)
    share = (samples - batch) / (batch * (samples - 1))
    assert total / count == pytest.approx(rate * share / 4 * oracle.noise_factor(rate, samples / batch), rel=0.02)


FACTORS = {  # of a = ηM/(K − 1): none, that of fresh batches, and of epochs of four batches, (1 − (1 − a)⁴)/4a by hand
    "none": (np.inf, True, lambda _: 1.0),
    "fresh": (np.inf, False, lambda a: 1 / (1 - a / 2)),
    "epochs": (4.0, False, lambda a: (1 + (1 - (1 + (1 - a) + (1 - a) ** 2 + (1 - a) ** 3) / 4) / 3) / (1 - a / 2)),
}


@pytest.mark.parametrize(("noise", "kind"), [(0.0, "none"), *((0.5, kind) for kind in FACTORS)])
def test_the_flow_is_followed_by_short_steps(noise, kind):
    X, labels, weights = problem()
    batches, first_order, factor = FACTORS[kind]
    rate, steps, parts = 0.8, np.array([0.0, 5.0, 15.0]), 20
    answer = oracle.top_activation(
        X, labels, weights, steps, rate, noise, WIDTH, DEPTH, batches, first_order=first_order
    )
    way = [weights]
    for _ in range(15 * parts):
        of_loss, of_square, of_moment = gradient_moments.gradients(X, labels, way[-1], WIDTH, DEPTH)
        pull = noise * factor(rate * gradient_moments.moments(X, labels, way[-1], WIDTH, DEPTH)[2] / (CLASSES - 1))
        way.append(way[-1] - rate / parts * (of_loss + rate / 4 * ((1 - noise) * of_square + pull * of_moment)))
    seen = [outputs(X, way[int(step) * parts])[0].mean() for step in steps]
    assert answer[1:] - answer[0] == pytest.approx(np.array(seen)[1:] - seen[0], rel=0.02)
    assert answer[0] == pytest.approx(seen[0], rel=1e-12)


def test_a_finite_rate_makes_the_noise_stronger_and_a_small_one_does_not():
    X, labels, weights = problem()
    end = lambda rate, first_order: oracle.top_activation(
        X, labels, weights, np.array([20 / rate]), rate, 0.2, WIDTH, DEPTH, first_order=first_order
    )[0]
    assert end(0.4, False) != pytest.approx(end(0.4, True), rel=1e-4)
    assert end(1e-3, False) == pytest.approx(end(1e-3, True), rel=1e-4)
    assert np.isnan(oracle.top_activation(X, labels, weights, np.ones(1), 9.0, 0.2, WIDTH, DEPTH)).all()


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
            "batches": 4.0,
            **changed,
        }
    )
    refused = {
        "initial has 3 entries": {"initial": np.ones(3)},
        "labels has entries such as -1": {"labels": labels - 1},
        "steps begin with": {"steps": np.array([1.0, 1.0])},
        "noise is -1": {"noise": -1.0},
        "learning_rate is -1": {"learning_rate": -1.0},
        "batches is 0.5": {"batches": 0.5},
        "has an infinite": {"X": np.full(X.shape, np.inf)},
    }
    for message, changed in refused.items():
        with pytest.raises(ValueError, match=message):
            ask(**changed)
    for changed in (
        {"X": X * np.nan},
        {"labels": labels * np.nan},
        {"initial": weights * np.nan},
        {"noise": np.nan},
        {"batches": np.nan},
    ):
        assert np.isnan(ask(**changed)).all()
    with pytest.raises(ValueError, match="initial is 1"):
        oracle.scalar_activation(np.ones(1), 1.0, 1.0)
    with pytest.raises(ValueError, match="strength is -1"):
        oracle.scalar_activation(np.ones(1), -1.0, 0.5)
    assert np.isnan(oracle.scalar_activation(np.array([np.nan]), 1.0, 0.5)).all()
