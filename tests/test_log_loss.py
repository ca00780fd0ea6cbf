import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.oracles.log_loss import LARGEST, clipped_log_loss, logistic_losses, logistic_slopes


def test_textbook_values():
    losses = logistic_losses(np.array([0.0, np.log(3), 800.0, -800.0, 1e4]), np.array([1.0, 1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(losses, [np.log(2), np.log(4 / 3), 800, 0, 1e4], rtol=1e-15)


@settings(max_examples=30, deadline=None)
@given(z=st.floats(-500.0, 500.0), y=st.integers(0, 1))
def test_the_loss_agrees_with_decimal_arithmetic(z, y):
    from decimal import Context, Decimal

    context = Context(prec=300)
    exponential = context.exp(Decimal(z if y == 0 else -z))
    exact = context.ln(context.add(Decimal(1), exponential))
    slope = context.divide(exponential, context.add(Decimal(1), exponential)) * (1 if y == 0 else -1)
    (loss,), (p,) = logistic_losses(np.array([z]), np.array([y])), logistic_slopes(np.array([z]), np.array([y]))
    assert loss == pytest.approx(float(exact), rel=1e-14, abs=1e-300)
    assert p == pytest.approx(float(slope), rel=1e-14, abs=1e-300)


def test_the_slope_is_that_of_the_loss():
    z, step = np.linspace(-20, 20, 21), 1e-5
    for y in (np.zeros(21), np.ones(21)):
        slopes = (logistic_losses(z + step, y) - logistic_losses(z - step, y)) / (2 * step)
        np.testing.assert_allclose(logistic_slopes(z, y), slopes, atol=1e-9)


def test_scikit_learn_agrees_where_it_does_not_clip_and_ends_at_36():
    z, y = np.linspace(-10, 10, 21), np.tile([0.0, 1.0], 11)[:21]
    p = 1 / (1 + np.exp(-z))
    assert clipped_log_loss(p, y) == pytest.approx(logistic_losses(z, y).mean(), rel=1e-11)
    assert clipped_log_loss(np.zeros(1), np.ones(1)) == pytest.approx(LARGEST) == pytest.approx(52 * math.log(2))
    assert clipped_log_loss(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0, abs=1e-15)


def test_not_a_number_in_is_not_a_number_out():
    z, y, nan = np.zeros(2), np.ones(2), np.array([np.nan, 0.0])
    for function in (logistic_losses, logistic_slopes):
        assert np.isnan(function(nan, y)).tolist() == np.isnan(function(z, nan)).tolist() == [True, False]
    assert math.isnan(clipped_log_loss(nan, y))
    assert math.isnan(clipped_log_loss(z, nan))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: logistic_losses(np.zeros(2), np.array([0.0, 2.0])), "labels has the entry 2; it takes 0 and 1"),
        (lambda: logistic_losses(np.zeros(2), np.zeros(3)), "labels has 3 entries; it takes 2, as many as logits"),
        (lambda: logistic_slopes(np.array([np.inf]), np.zeros(1)), "logits has an infinite entry"),
        (lambda: clipped_log_loss(np.array([1.5]), np.zeros(1)), "probabilities span 1.5 to 1.5; it takes"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
