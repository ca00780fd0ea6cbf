import numpy as np
import pytest

from research.oracles.activations import ACTIVATIONS, Activation, leaky_relu, named

X = np.array([-9.0, -2.0, -0.7, -0.3, 0.4, 1.7, 8.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_the_derivatives_of_the_values(name):
    activation = ACTIVATIONS[name]
    difference = (activation.value(X + 1e-5) - activation.value(X - 1e-5)) / 2e-5
    np.testing.assert_allclose(activation.slope(X), difference, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_fill_the_range_and_nothing_overflows(name):
    activation = ACTIVATIONS[name]
    with np.errstate(over="raise", invalid="raise"):
        values, slopes = (function(np.linspace(-800, 800, 160_001)) for function in activation[:2])
    assert np.isfinite([values, slopes]).all()
    for end, reached in ((activation.low, values.min()), (activation.high, values.max())):
        assert reached == pytest.approx(end, abs=2e-3) if np.isfinite(end) else abs(reached) >= 8
    assert activation.low - 1e-11 <= values.min() <= values.max() <= activation.high


def test_known_values():
    assert ACTIVATIONS["sigmoid"].value(np.log(3.0)) == pytest.approx(0.75)
    assert ACTIVATIONS["silu"].value(np.log(3.0)) == pytest.approx(0.75 * np.log(3))
    assert ACTIVATIONS["gelu"].value(1.0) == pytest.approx(0.8413447460685429)
    assert ACTIVATIONS["softplus"].value(0.0) == pytest.approx(np.log(2))
    assert ACTIVATIONS["elu"].value(-np.log(2)) == pytest.approx(-0.5)
    np.testing.assert_array_equal(leaky_relu(0.2).value(np.array([-5.0, 5.0])), [-1.0, 5.0])
    np.testing.assert_array_equal(leaky_relu(-1.0).value(X), np.abs(X))
    np.testing.assert_array_equal(ACTIVATIONS["hard_tanh"].value(np.array([-3.0, 0.5, 2.0])), [-1.0, 0.5, 1.0])


def test_names_and_ones_own():
    own = Activation(np.sin, np.cos, -1.0, 1.0)
    assert named(own) is own
    assert named("identity") is named("linear")
    for refused, message in (
        ("swish", "activation is 'swish'; it takes an Activation or one of tanh"),
        (np.tanh, "activation is"),
        (own._replace(low=1.0), "range"),
        (own._replace(bends=(np.nan,)), "bends"),
    ):
        with pytest.raises(ValueError, match=message):
            named(refused)
    for leak in (-1.5, 2.0, np.nan):
        with pytest.raises(ValueError, match="leak is"):
            leaky_relu(leak)
