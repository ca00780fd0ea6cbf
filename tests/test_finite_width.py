import numpy as np
import pytest

from research.oracles.finite_width import finite_width
from research.oracles.mean_field import ACTIVATIONS, mean_field


@pytest.mark.parametrize(
    ("name", "weight", "bias"), [("tanh", 2.0, 0.1), ("sigmoid", 60.0, 0.3), ("softsign", 6.0, 0.2)]
)
def test_the_chain_of_variances_has_that_mean_and_spread(name, weight, bias):
    width, chains, layers = 20, 15_000, 50
    function, q = ACTIVATIONS[name], mean_field(name, weight, bias).q
    random = np.random.default_rng(0)
    Q, means = np.full(chains, q), np.zeros(chains)
    for layer in range(layers):
        h = np.sqrt(Q)[:, None] * random.normal(size=(chains, width))
        means += (h**2).mean(axis=1) * (layer >= 20) / (layers - 20)
        Q = weight * (function.value(h) ** 2).mean(axis=1) + bias
    shift, fluctuation = finite_width(name, weight, bias)
    error = means.std() / np.sqrt(chains)
    # The next order is 1/width of this one, with a factor of order ten.
    assert means.mean() - q == pytest.approx(shift / width, abs=4 * error + 0.4 * abs(shift) / width)
    assert abs(shift) / width > 4 * error
    assert 0.3 * fluctuation < means.var() * width * (layers - 20) < fluctuation


def test_linear_networks_have_no_shift_and_a_chi_squared_spread():
    # f is linear; v = 2 (σ_w² q*)².
    shift, fluctuation = finite_width("linear", 0.5, 0.2)
    assert shift == pytest.approx(0, abs=1e-9)
    assert fluctuation == pytest.approx((np.sqrt(2) * 0.4 + np.sqrt(2) * 0.2 / 0.5) ** 2)


def test_no_answer_without_a_fixed_point():
    for arguments in (("tanh", 0.5, 0.0), ("relu", 2.0, 0.0), ("relu", 3.0, 0.1), ("tanh", np.nan, 0.1)):
        assert np.isnan(finite_width(*arguments)).all()
    with pytest.raises(ValueError, match="weight_variance is -1"):
        finite_width("tanh", -1.0, 0.1)
