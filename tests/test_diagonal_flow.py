import numpy as np
import pytest
from problems import classification
from scipy.integrate import solve_ivp
from scipy.special import expit

from research.oracles import diagonal_flow as module
from research.oracles.diagonal_flow import diagonal_flow
from research.oracles.margin import maximum_margin

X, Y = classification(3, 6, 8)
Z = X * Y[:, None]


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_it_is_the_flow_of_both_halves(weight_decay):
    def change(_, halves):
        u, v = np.split(halves, 2)
        g = -Z.T @ expit(-Z @ (u**2 - v**2)) / len(Z)
        return np.concatenate([-2 * u * g - weight_decay * u, 2 * v * g - weight_decay * v])

    at = np.array([0.0, 0.3, 3.0, 30.0, 100.0])
    path = solve_ivp(change, (0, 100), np.full(16, 1.5), method="LSODA", t_eval=at, rtol=1e-10, atol=1e-12)
    u, v = np.split(path.y, 2)
    np.testing.assert_allclose(diagonal_flow(X, Y, 1.5, weight_decay, at), (u**2 - v**2).T, atol=1e-4)


def test_early_the_l2_margin_late_the_minimum_of_the_l1_penalty():
    decay, scale = 1e-3, 20.0
    early, late = diagonal_flow(X, Y, scale, decay, np.array([0.5, 30.0]) * np.log(scale) / decay)
    assert cosine(early, maximum_margin(X, Y, 2)) > 0.99 > 0.95 > cosine(late, maximum_margin(X, Y, 2))
    slope = -Z.T @ expit(-Z @ late) / len(Z)
    kept = np.abs(late) > 1e-3
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_allclose(slope[kept], -decay / 2 * np.sign(late[kept]), rtol=1e-2)
    assert np.abs(slope[~kept]).max() < decay / 2


def test_the_start_the_scale_and_what_is_not_a_number():
    assert not diagonal_flow(X, Y, 2.0, 0.1, np.zeros(1)).any()
    assert diagonal_flow(X, Y, 2.0, 0.1, np.array([5.0])).shape == (1, 8)
    for arguments in ((X * np.nan, Y, 1.0, 0.1), (X, Y, np.nan, 0.1), (X, Y, 1.0, np.nan)):
        assert np.isnan(diagonal_flow(*arguments, np.array([1.0, 2.0]))).all()


def test_a_path_that_is_not_certified_is_void(monkeypatch):
    exact = module._integrated
    monkeypatch.setattr(module, "_integrated", lambda *given: exact(*given) * (1 + 100 * given[-1]))
    assert np.isnan(diagonal_flow(X, Y, 1.0, 0.1, np.array([1.0, 2.0]))).all()


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("init_scale is 0", {"init_scale": 0.0}),
        ("weight_decay is -1", {"weight_decay": -1.0}),
        ("times is", {"times": np.array([2.0, 1.0])}),
        ("times is", {"times": np.array([-1.0, 1.0])}),
        ("y has the label", {"y": 2 * Y}),
        ("X has shape", {"X": Y}),
    ],
)
def test_bad_input_is_refused(said, changed):
    given = {"X": X, "y": Y, "init_scale": 1.0, "weight_decay": 0.1, "times": np.array([1.0, 2.0]), **changed}
    with pytest.raises(ValueError, match=said):
        diagonal_flow(**given)
