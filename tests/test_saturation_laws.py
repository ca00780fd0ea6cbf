import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from research.oracles import saturation_laws as laws

STRENGTHS = [(0.1, 0, 0, 0), (1e-3, 0, 0, 0), (0, 0.2, 0, 0), (0, 0, 0.3, 0), (0, 0, 0, 0.5), (0.05, 0.1, 0.2, 1.5)]


def objective(w, l2, l1, smoothing, noise):
    """The regularised loss, the mean over the noise by adaptive quadrature."""
    loss = lambda x: np.logaddexp(0, -w * x)
    if noise:
        density = lambda x: np.exp(-((x - 1) ** 2) / (2 * noise**2)) / (noise * np.sqrt(2 * np.pi))
        mean = quad(lambda x: loss(x) * density(x), 1 - 12 * noise, 1 + 12 * noise, points=(0, 1), epsabs=1e-13)[0]
    else:
        mean = loss(1.0)
    return mean + smoothing / 2 * w + l2 / 2 * w**2 + l1 * abs(w)


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_the_resting_weight_minimises_the_regularised_loss(strengths):
    weight = laws.resting_weight(*strengths)
    found = minimize_scalar(objective, args=strengths, bounds=(-5, 40), method="bounded", options={"xatol": 1e-9}).x
    assert weight == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("strength", [1e-3, 0.02, 0.3, 0.499])
def test_the_resting_weight_in_closed_form(strength):
    saturation = lambda *strengths: np.tanh(laws.resting_weight(*strengths) / 2)
    assert saturation(0, strength, 0, 0) == pytest.approx(1 - 2 * strength, abs=1e-12)
    assert saturation(0, 0, strength, 0) == pytest.approx(1 - strength, abs=1e-12)
    w = laws.resting_weight(strength, 0, 0, 0)
    assert strength * w * (1 + np.exp(w)) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0, 3.0])
def test_noise_alone_leaves_the_weight_of_linear_discriminant_analysis(noise):
    assert laws.resting_weight(0, 0, 0, noise) == pytest.approx(2 / noise**2, rel=1e-10)


def test_a_large_l1_penalty_leaves_nothing_and_no_penalty_leaves_no_minimum():
    assert [laws.resting_weight(0, strength, 0, 0) for strength in (0.5, 0.7)] == [0, 0]
    assert np.isnan(laws.resting_weight(0, 0, 0, 0))
    assert np.isnan(laws.resting_weight(np.nan, 0, 0, 0))


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_information_is_the_mean_square_of_the_gradient(noise):
    w = 2 / noise**2
    density = lambda x: np.exp(-((x - 1) ** 2) / (2 * noise**2)) / (noise * np.sqrt(2 * np.pi))
    mean = lambda f: quad(lambda x: f(x) * density(x), 1 - 12 * noise, 1 + 12 * noise, points=(0, 1), epsabs=1e-13)[0]
    answer = laws.noisy_descent(noise)
    assert answer.information == pytest.approx(mean(lambda x: x**2 * expit(-w * x) ** 2), rel=1e-7)
    assert answer.information == pytest.approx(mean(lambda x: x**2 * expit(w * x) * expit(-w * x)), rel=1e-7)
    third = mean(lambda x: x**3 * expit(w * x) * expit(-w * x) * (1 - 2 * expit(w * x)))
    assert answer.shift == pytest.approx(-third / (4 * answer.information), rel=1e-6)


def test_noisy_descent_fluctuates_as_told():
    rng, rate, batch, noise = np.random.default_rng(0), 0.2, 8, 1.0
    w, total, square = np.full(4000, 2.0), 0.0, 0.0
    for step in range(1000):
        x = 1 + noise * rng.normal(size=(4000, batch))
        w = w + rate * (x * expit(-w[:, None] * x)).mean(axis=1)
        if step >= 500:
            total, square = total + w.mean() / 500, square + w.var() / 500
    answer = laws.noisy_descent(noise)
    assert square == pytest.approx(rate / (2 * batch), rel=0.1)  # to first order in the rate
    assert total - 2 == pytest.approx(rate / batch * answer.shift, rel=0.2)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("initial", [0.0, -1.0, 0.7])
def test_the_flow_solves_its_differential_equation(dropout, initial):
    times = np.array([0.0, 0.5, 10.0, 300.0])
    field = lambda _, w: expit(-w / (1 - dropout))  # (1 − p) times the slope of the loss of w/(1 − p)
    exact = solve_ivp(field, (0, 300), [initial], t_eval=times, rtol=1e-11, atol=1e-12, method="DOP853").y[0]
    np.testing.assert_allclose(laws.flow_weight(times, initial, dropout), exact, atol=1e-8)


def test_the_flow_at_late_times():
    early, late = np.exp(-laws.flow_weight(np.array([10.0, 1e12]), 0.0))
    assert early / (1 + early) == pytest.approx(0.1018, abs=1e-4)
    assert late * 1e12 == pytest.approx(1)
    w = laws.flow_weight(np.array([1e10, 1e11]), 0.0, 0.75)
    assert w[1] - w[0] == pytest.approx(0.25 * np.log(10), rel=1e-6)


def test_the_budget_inverts_the_laws():
    for saturation in (0.01, 0.5, 0.99):
        budget = laws.saturation_budget(saturation)
        for position, strength in enumerate(budget[:4]):
            strengths = [strength if each == position else 0.0 for each in range(4)]
            assert np.tanh(laws.resting_weight(*strengths) / 2) == pytest.approx(saturation)
        assert np.tanh(laws.flow_weight(np.array([budget.time]), 0.0)[0] / 2) == pytest.approx(saturation)


def mean_loss(w, X, keep):
    d = X.shape[1]
    masks = (np.arange(2**d)[:, None] >> np.arange(d)) & 1
    chance = keep ** masks.sum(axis=1) * (1 - keep) ** (d - masks.sum(axis=1))
    return chance @ np.logaddexp(0, -(masks * w / keep) @ X.T).sum(axis=1)


@pytest.mark.parametrize(
    ("X", "diverges"),
    [([[1, -0.2]], 1), ([[1, 0.5], [0.5, 1]], 1), ([[1, -0.5], [-0.5, 1]], 0), ([[1, 0, 2], [1, 0, -1]], 1)],
)
def test_dropout_diverges_where_the_mean_loss_has_no_minimum(X, diverges):
    X = np.array(X, dtype=float)
    assert laws.dropout_diverges(X, np.ones(len(X))) == diverges
    assert laws.dropout_diverges(-X, -np.ones(len(X))) == diverges
    found = minimize(mean_loss, np.zeros(X.shape[1]), args=(X, 0.5), method="BFGS", options={"gtol": 1e-12})
    assert (np.abs(found.x).max() > 10) == diverges


def test_the_margin_of_masked_inputs():
    agree, conflict, labels = np.array([[1, 0.5], [0.5, 1]]), np.array([[1, -0.5], [-0.5, 1]]), np.ones(2)
    assert laws.masked_margin(agree, labels, 0.0) == pytest.approx(1.5 / np.sqrt(2))
    assert laws.masked_margin(agree, labels, 0.5) == pytest.approx(1 / np.sqrt(2))  # of (0.5, 0) and (0, 0.5), doubled
    assert laws.masked_margin(conflict, labels, 0.0) == pytest.approx(0.5 / np.sqrt(2))
    assert laws.masked_margin(conflict, labels, 0.5) == 0
    assert laws.masked_margin(np.ones((1, 1)), np.ones(1), 0.75) == pytest.approx(4)


def test_not_a_number_in_is_not_a_number_out():
    hole = np.array([[1.0, np.nan], [0.5, 1.0]])
    assert np.isnan(laws.dropout_diverges(hole, np.ones(2)))
    assert np.isnan(laws.masked_margin(hole, np.ones(2), 0.5))
    assert np.isnan(laws.masked_margin(np.eye(2), np.ones(2), np.nan))
    assert np.isnan(laws.noisy_descent(np.nan)).all()
    assert np.isnan(laws.saturation_budget(np.nan)).all()
    assert np.isnan(laws.flow_weight(np.array([1.0, np.nan]), 0.0)).tolist() == [False, True]
    assert np.isnan(laws.flow_weight(np.array([1.0]), np.nan)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: laws.resting_weight(-1, 0, 0, 0), "l2 is -1; it takes"),
        (lambda: laws.resting_weight(0, 0, 1, 0), "smoothing is 1; it takes"),
        (lambda: laws.noisy_descent(0), "noise is 0; it takes"),
        (lambda: laws.flow_weight(np.array([-1.0]), 0.0), "time is -1 somewhere; it takes"),
        (lambda: laws.flow_weight(np.array([1.0]), 0.0, 1.0), "dropout is 1; it takes"),
        (lambda: laws.saturation_budget(1), "saturation is 1; it takes"),
        (lambda: laws.dropout_diverges(np.ones((2, 13)), np.ones(2)), "X has 13 columns; it takes at most 12"),
        (lambda: laws.masked_margin(np.eye(2), np.array([1, 0]), 0.5), "y has the label 0; it takes labels"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
