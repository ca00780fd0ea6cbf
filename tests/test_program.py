import jax.numpy as jnp
import numpy as np
import pytest
from simulations import Number, Observables, growth, regression, stochastic

from research import layout
from research.block import Block
from research.dynamics import Run
from research.plan import plan
from research.sweep import sweep


def bitwise(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values)
        assert one[name].dims == other[name].dims


@pytest.fixture(params=[1, 5, 13])
def segments(request, monkeypatch):
    """Segments of some steps."""
    monkeypatch.setattr(Block, "_steps", lambda self: request.param)
    return lambda simulate, axes: -(-plan(simulate, axes).cells[0].program.shape.at[-1] // request.param)


RATES = (0.5, 3.0, -2.0, 1e20, 1e200)  # goes on, stops, stops, stops, diverges


@pytest.mark.parametrize(
    ("simulate", "axes", "lanes"), [(stochastic, {"learning_rate": (0.01, 0.1)}, 1), (growth, {"rate": RATES}, 3)]
)
def test_segments_do_not_matter(simulate, axes, lanes, segments):
    whole = sweep(simulate, axes, seeds=2, lanes=lanes)
    assert whole.diverged.any() == (simulate is growth)
    heard = []
    expected = segments(simulate, axes)
    parts = sweep(simulate, axes, seeds=2, lanes=lanes, progress=lambda *words: heard.append(words))
    assert len(heard) == expected + 1  # and once when the cell is done
    bitwise(parts, whole)


@pytest.mark.parametrize("lanes", [1, 2, None])
def test_a_diverged_run_is_marked_and_leaves_its_neighbours_alone(lanes, devices):
    rates = (0.5, 1e200, 0.9, 0.7)
    dataset = sweep(growth, {"rate": rates, "limit": [1e300], "noise": [True]}, seeds=3, lanes=lanes)
    assert dataset.diverged.dims == ("seed", "rate", "limit", "noise")
    assert dataset.diverged.squeeze().values.tolist() == [[False, True, False, False]] * 3
    assert dataset.diverged_at.squeeze().values.tolist() == [[-1, 2, -1, -1]] * 3
    lost = dataset.value.sel(rate=1e200).squeeze().values
    assert np.isfinite(lost[:, 0]).all()
    assert np.isnan(lost[:, 1:]).all()  # no half-broken numbers, at the step where it broke either
    for rate in (0.5, 0.7):
        alone = sweep(growth, {"rate": [rate], "limit": [1e300], "noise": [True]}, seeds=3, lanes=lanes)
        np.testing.assert_array_equal(dataset.value.sel(rate=rate).squeeze(), alone.value.squeeze())


def test_a_run_may_diverge_before_its_first_step_or_in_what_is_looked_at_only():
    def simulate(key, start: float):
        state = jnp.log(start)  # −∞ for 0
        return Run(state, lambda state: state - 1, lambda state: Number(jnp.sqrt(state)), np.array([0, 1, 2, 3]))

    dataset = sweep(simulate, {"start": (0.0, np.exp(1.5), np.exp(9.0))})
    assert dataset.diverged_at.values.tolist() == [[0, 2, -1]]
    assert np.isnan(dataset.value.values[0, 1, 2:]).all()
    assert np.isfinite(dataset.value.values[0, 1, :2]).all()


def test_the_state_of_a_run_that_has_ended_is_frozen(monkeypatch):
    ages, look = [], Block._look

    def heard(block):
        look(block)
        ages.append(block._by_run(np.asarray(block.carry.state["age"])).tolist())

    monkeypatch.setattr(Block, "_look", heard)
    monkeypatch.setattr(Block, "_steps", lambda self: 1)
    sweep(growth, {"rate": (0.5, 10.0, 1e200), "limit": [50.0]}, lanes=3)
    assert ages[-1] == [32, 2, 1]  # to the end; stopped at 2; about to overflow at 2
    assert ages[1:3] == [[2, 2, 1], [3, 2, 1]]


def test_a_run_that_stops_keeps_its_last_value():
    dataset = sweep(growth, {"rate": (2.0, 3.0, 0.5), "limit": [10.0]})
    assert not dataset.diverged.any()
    values = dataset.value.squeeze().values
    assert values[0].tolist() == [1, 4, 16, 16, 16, 16]
    assert values[1].tolist() == [1, 9, 81, 81, 81, 81]
    np.testing.assert_allclose(values[2], 0.5**dataset.step.values)


def test_a_state_may_be_weakly_typed():
    def simulate(key, rate: float):
        state = (0.0, 1, True, jnp.zeros_like(2.0))
        step = lambda state: (state[0] + rate, state[1] + 1, ~state[2], state[3] + state[1])
        observe = lambda state: Observables(jnp.stack([state[0], 1.0 * state[1], 1.0 * state[2]]), state[3])
        return Run(state, step, observe, np.array([0, 3]))

    dataset = sweep(simulate, {"rate": (0.25, 0.5)})
    assert dataset.weights.values[0].tolist() == [[[0, 1, 1], [0.75, 4, 0]], [[0, 1, 1], [1.5, 4, 0]]]
    assert dataset.loss.values[0].tolist() == [[0, 6], [0, 6]]


def test_compilations_grow_with_structure_and_not_with_numbers(compilations):
    def counted(simulate, **axes):
        for _ in range(2):  # small programs such as cutting an array of that size are compiled once a process
            compilations.count = 0
            sweep(simulate, axes, seeds=2, lanes=1)
        return compilations.count

    assert counted(growth, rate=[0.5]) == 2  # start and advance
    assert counted(growth, rate=np.linspace(0.1, 0.9, 31)) == 2
    assert counted(growth, rate=np.linspace(0.1, 0.9, 31), limit=[1.0, 2.0, 3.0]) == 4  # the three share their start
    assert counted(regression, learning_rate=np.linspace(0.1, 0.5, 31), decay=[0.1, 0.2]) == 3  # and what is given


def test_data_sets_are_arguments_so_that_they_share_a_program(compilations):
    tables = {name: np.random.default_rng(seed).normal(size=(200, 30)) for seed, name in enumerate("abcd")}

    def simulate(key, rate: float, *, data: str = "a"):
        step = lambda w: w - rate * (w - jnp.mean(tables[data], axis=0))
        return Run(np.zeros(30), step, lambda w: Number(w.sum()), np.array([0, 1, 300]))

    sweep(simulate, {"rate": 0.5})
    compilations.count = 0
    dataset = sweep(simulate, {"rate": 0.5, "data": list("abcd")})
    assert compilations.count == 2
    np.testing.assert_allclose(dataset.value[0, :, -1], [tables[each].mean(axis=0).sum() for each in "abcd"])
    with layout.precision("float64"):
        piece = plan(simulate, {"rate": 0.5}).cells[0].program.advance
    assert [value.shape for value in piece.data] == [(200, 30)]
