import math

import numpy as np
import pytest
from problems import classification
from scipy.optimize import minimize

from research.oracles.margin import maximum_margin
from research.oracles.margin_stationarity import margin_growth, stationarity_residual, two_layer_residual


def product_problem(seed=0):
    """Margins z_n·(u ∘ v), homogeneous of degree 2, and where min ‖θ‖²/2 subject to them being >= 1 is attained."""
    X, y = classification(seed, 4, 6)
    Z = X * y[:, None]
    margins = lambda theta: Z @ (theta[:6] * theta[6:])
    jacobian = lambda theta: np.hstack([Z * theta[6:], Z * theta[:6]])
    return Z, margins, jacobian


def test_the_residual_vanishes_where_a_general_solver_ends():
    Z, margins, jacobian = product_problem()
    above = {"type": "ineq", "fun": lambda theta: margins(theta) - 1, "jac": jacobian}
    weights = maximum_margin(Z, np.ones(4), 1)
    initial = np.append(np.sqrt(np.abs(weights)), np.sign(weights) * np.sqrt(np.abs(weights))) + 0.05
    end = minimize(lambda t: t @ t / 2, initial, jac=lambda t: t, method="SLSQP", constraints=above, tol=1e-14).x
    for length in (1e-3, 1.0, 1e3):
        scaled = length * end
        assert stationarity_residual(scaled, jacobian(scaled), margins(scaled), 2) < 1e-6
    away = end + 0.05 * np.random.default_rng(0).normal(size=12)
    assert stationarity_residual(away, jacobian(away), margins(away), 2) > 1e-2


def test_of_a_linear_model_only_the_support_vector_machine_is_stationary():
    X, y = classification(1, 10, 20)
    Z = X * y[:, None]
    assert stationarity_residual(maximum_margin(X, y, 2), Z, Z @ maximum_margin(X, y, 2), 1) < 1e-6
    assert stationarity_residual(maximum_margin(X, y, 1), Z, Z @ maximum_margin(X, y, 1), 1) > 0.1


def test_samples_off_the_margin_may_not_carry_weight():
    # θ = z_2 is a sum of samples, but only z_1 lies on its margin.
    Z = np.array([[0.5, 1.0], [0.0, 4.0]])
    theta = Z[1]
    residual = stationarity_residual(theta, Z, Z @ theta, 1)
    slack = Z @ theta / (Z @ theta).min() - 1
    grid = np.linspace(0, 2, 401)
    a, b = np.meshgrid(grid, grid)
    unit, columns = theta / 4, Z.T * 4 / (Z @ theta).min()
    value = ((unit[:, None] - columns @ np.stack([a.ravel(), b.ravel()])) ** 2).sum(axis=0)
    value += (slack[0] * a.ravel()) ** 2 + (slack[1] * b.ravel()) ** 2
    assert residual == pytest.approx(value.min() ** 0.5, abs=1e-3)
    assert 0.1 < residual < 1


def test_multipliers_are_not_negative():
    assert stationarity_residual(np.array([1.0, 0.0]), np.array([[-1.0, 0.0]]), np.array([1.0]), 1) == 1.0


def test_wrong_margins_and_nan_give_nan():
    Z = np.array([[1.0, 0.0], [-1.0, 1.0]])
    assert math.isnan(stationarity_residual(np.ones(2), Z, Z @ np.ones(2), 1))
    assert math.isnan(stationarity_residual(np.array([1.0, np.nan]), Z, np.ones(2), 1))
    assert math.isnan(stationarity_residual(np.zeros(2), Z, np.ones(2), 1))
    assert math.isnan(stationarity_residual(np.ones(2), Z, np.ones(2), math.nan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), np.ones((2, 2)), np.ones(2), 1), "weights has 3 entries"),
        ((np.ones(2), np.ones((2, 2)), np.ones(3), 1), "margins has 3 entries"),
        ((np.ones(2), np.ones(2), np.ones(2), 1), "jacobian has shape"),
        ((np.ones(2), np.ones((2, 2)), np.ones(2), 0), "degree is 0"),
        ((np.ones(2), np.ones((2, 2)), np.full(2, np.inf), 1), "margins has an infinite"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        stationarity_residual(*arguments)


def two_layers(activation, seed=0):
    """A network, and its margins made positive by the labels."""
    random = np.random.default_rng(seed)
    X, hidden, readout = random.normal(size=(5, 3)), random.normal(size=(4, 3)), random.normal(size=4)
    return X, np.sign(outputs(X, hidden, readout, activation)), hidden, readout


def outputs(X, hidden, readout, activation):
    sums = X @ hidden.T
    units = {"quadratic": sums**2, "squared_relu": np.maximum(sums, 0) ** 2, "relu": np.maximum(sums, 0)}
    return units[activation] @ readout


@pytest.mark.parametrize("activation", ["quadratic", "squared_relu", "relu"])
def test_two_layer_residual_has_the_jacobian_of_the_margins(activation):
    X, y, hidden, readout = two_layers(activation)
    theta, jacobian = np.append(hidden, readout), []
    at = lambda theta: y * outputs(X, theta[:12].reshape(4, 3), theta[12:], activation)
    for place in np.eye(16) * 1e-6:
        jacobian.append((at(theta + place) - at(theta - place)) / 2e-6)
    degree = {"relu": 2}.get(activation, 3)
    np.testing.assert_allclose(at(2 * theta), 2**degree * at(theta))
    expected = stationarity_residual(theta, np.transpose(jacobian), at(theta), degree)
    for length in (1.0, 1e4):
        residual = two_layer_residual(X, y, length * hidden, length * readout, activation)
        assert residual == pytest.approx(expected, abs=1e-7)


def test_the_kink_is_solved_as_a_general_solver_does():
    random = np.random.default_rng(21)
    X, hidden, readout = random.normal(size=(4, 3)), random.normal(size=(5, 3)), np.abs(random.normal(size=5))
    X[0] -= hidden[0] * (X[0] @ hidden[0]) / (hidden[0] @ hidden[0])  # on the kink of the first unit
    X[1] -= hidden[1] * (X[1] @ hidden[1]) / (hidden[1] @ hidden[1])
    X[:2] += 1e-9 * hidden[:2]  # or all but on it, on the side of slope 1
    sums, y = X @ hidden.T, np.ones(4)
    margins = np.maximum(sums, 0) @ readout
    assert margins.min() > 0
    theta, least = np.append(hidden, readout), margins.min()

    def residual(choice):
        alpha, slopes = choice[:4], (sums > 0).astype(float)
        slopes[0, 0], slopes[1, 1] = choice[4:]
        jacobian = np.hstack([((slopes * readout)[:, :, None] * X[:, None, :]).reshape(4, -1), np.maximum(sums, 0)])
        part = theta / np.linalg.norm(theta) - jacobian.T @ alpha * np.linalg.norm(theta) / least / 2
        return part @ part + ((alpha * (margins / least - 1)) ** 2).sum()

    starts = [np.append(np.full(4, 0.3), [a, b]) for a in (0.1, 0.9) for b in (0.1, 0.9)]
    bounds = [(0, None)] * 4 + [(0, 1)] * 2
    best = min(minimize(residual, each, bounds=bounds, method="L-BFGS-B", tol=1e-14).fun for each in starts)
    found = two_layer_residual(X, y, hidden, readout, "relu", 1e-6)
    assert found == pytest.approx(best**0.5, abs=1e-4)
    assert found < two_layer_residual(X, y, hidden, readout, "relu") - 0.02


def test_margin_growth_is_that_of_the_flow():
    """Integrate the flow of ln 𝓛 for margins of degree 2, and what the law asks for, by short steps."""
    Z, margins, jacobian = product_problem(2)
    theta = np.append(np.full(6, 1.0), np.sign(maximum_margin(Z, np.ones(4), 2)))
    theta = theta * (3 / margins(theta).min()) ** 0.5 if margins(theta).min() > 0 else theta
    turned = spread = 0.0
    seen = []
    for _ in range(20_000):
        q = margins(theta)
        shares = np.exp(q.min() - q)
        log_loss, shares = np.log(shares.sum()) - q.min(), shares / shares.sum()
        if log_loss < -1:
            seen.append(np.log(-log_loss) - 2 * np.log(np.linalg.norm(theta)))
        following = theta + 5e-4 * shares @ jacobian(theta)
        if log_loss < -1:
            longer = np.log(np.linalg.norm(following) / np.linalg.norm(theta))
            change = following / np.linalg.norm(following) - theta / np.linalg.norm(theta)
            turned += change @ change / longer
            spread += (longer + change @ change / longer) * -(shares @ np.log(shares)) / -log_loss
        theta = following
        if log_loss < -15:
            break
    assert len(seen) > 100
    assert seen[-1] - seen[0] > 0.05
    assert margin_growth(turned, spread, 2) == pytest.approx(seen[-1] - seen[0], rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y, h, a: two_layer_residual(X, y, h, a, "tanh"), "activation is 'tanh'"),
        (lambda X, y, h, a: two_layer_residual(X, y, h, a, "relu", -1.0), "kink is -1"),
        (lambda X, y, h, a: two_layer_residual(X, y, h[:, :2], a, "relu"), "hidden has 2 columns"),
        (lambda X, y, h, a: two_layer_residual(X, y, h, a[:2], "relu"), "readout has 2 entries"),
        (lambda X, y, h, a: margin_growth(-1.0, 0.0, 2), "turned is -1"),
        (lambda X, y, h, a: margin_growth(1.0, 0.0, 0), "degree is 0"),
    ],
)
def test_a_bad_network_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(*two_layers("relu"))


def test_a_network_with_nan_or_a_wrong_margin_gives_nan():
    X, y, hidden, readout = two_layers("relu")
    assert math.isnan(two_layer_residual(X, -y, hidden, readout, "relu"))
    assert math.isnan(two_layer_residual(X, -y, hidden, readout, "relu", 2.0))
    assert math.isnan(two_layer_residual(X, y, hidden * np.nan, readout, "relu"))
    assert math.isnan(margin_growth(math.nan, 0.0, 2))
