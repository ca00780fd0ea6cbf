import math

import numpy as np
import pytest

from research.oracles import adam_cycle
from research.oracles.adam_cycle import critical_b2, period_drift


@pytest.mark.parametrize(("large", "b2"), [(3.0, 0.1), (3.0, 0.9), (10.0, 0.5), (2.5, 0.99)])
def test_drift_is_that_of_the_recursion(large, b2):
    v, x, seen = 0.0, 0.0, []
    for t in range(9000):
        g = large if t % 3 == 0 else -1.0
        v = b2 * v + (1 - b2) * g**2
        x -= g / math.sqrt(v / (1 - b2 ** (t + 1)))
        if t % 3 == 2:
            seen.append(x)
    assert period_drift(large, b2) == pytest.approx(seen[-1] - seen[-2], abs=1e-9)


def test_limits():
    # without memory every step has the length one: two to the right, one to the left
    assert period_drift(3.0, 0.0) == pytest.approx(1.0)
    # with an endless memory all steps are divided by the same root of the mean square, √((C² + 2)/3)
    assert period_drift(3.0, 1 - 1e-9) == pytest.approx(-1 / math.sqrt(11 / 3), rel=1e-6)
    # the paper's b2 = 1/(1 + C²) leads to the worst point for every C > 2
    for large in (2.01, 3.0, 10.0, 100.0):
        assert period_drift(large, 1 / (1 + large**2)) > 0
        assert 1 / (1 + large**2) < critical_b2(large) < 1


def test_the_critical_b2_divides():
    for large in (2.2, 3.0, 8.0):
        b2 = critical_b2(large)
        assert period_drift(large, b2 - 1e-3) > 0 > period_drift(large, b2 + 1e-3)
    # a gradient hardly above 2 is nearly outweighed even by a long memory
    assert critical_b2(2.01) > critical_b2(3.0) or critical_b2(2.01) > 0.5


def test_nan_and_bad_input(monkeypatch):
    assert math.isnan(period_drift(math.nan, 0.5))
    assert math.isnan(period_drift(3.0, math.nan))
    assert math.isnan(critical_b2(math.nan))
    with pytest.raises(ValueError, match="large is 2"):
        period_drift(2.0, 0.5)
    with pytest.raises(ValueError, match="b2 is 1"):
        period_drift(3.0, 1.0)
    monkeypatch.setattr(adam_cycle, "BOUND", -1.0)
    assert np.isnan(period_drift(3.0, 0.5))
