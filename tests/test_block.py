import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulations import Number, growth, regression, stochastic

from research import layout
from research.block import Block, Kept, Machine
from research.dynamics import Run
from research.plan import plan
from research.sweep import sweep

RATES = tuple(np.linspace(0.1, 0.9, 10))


def bitwise(one, other):
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_results_do_not_depend_on_the_layout(precision, devices):
    axes = {"learning_rate": tuple(np.linspace(0.01, 0.2, 6)), "steps": 200}
    tolerance = {"float64": 1e-12, "float32": 1e-5}[precision]
    reference = None
    for lanes, memory in [(1, None), (3, None), (18, None), (2, 4000)]:
        found = sweep(regression, axes, seeds=3, lanes=lanes, memory=memory, precision=precision)
        reference = found if reference is None else reference
        scale = float(abs(reference.weights).max())
        np.testing.assert_allclose(found.weights, reference.weights, rtol=tolerance, atol=tolerance * scale)
        np.testing.assert_array_equal(found.X, reference.X)


class Worked:
    """The batches that each call of `advance` worked on, times its steps."""

    def __init__(self, monkeypatch):
        self.batches = []
        advance = Block._advance

        def counted(block, first, last, rest):
            self.batches.append(int(block.batches.sum()))
            return advance(block, first, last, rest)

        monkeypatch.setattr(Block, "_advance", counted)
        monkeypatch.setattr(Block, "time", lambda block: None)
        monkeypatch.setattr(Block, "_steps", lambda block: 1)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_work_is_in_proportion_to_the_runs_that_go_on(lanes, devices, monkeypatch):
    doubling = tuple(np.linspace(2.0, 2.9, 30))  # end at step 4 or 8
    slow = (0.5, 0.6)
    axes = {"rate": tuple(np.random.default_rng(0).permutation([*doubling, *slow])), "limit": 10.0}
    plain = sweep(growth, axes, seeds=2, lanes=64)
    worked = Worked(monkeypatch)
    packed = sweep(growth, axes, seeds=2, lanes=lanes)
    bitwise(packed, plain)
    runs = 2 * 32
    assert worked.batches[0] == 2 * -(-runs // 2 // lanes) if devices == 2 else -(-runs // lanes)
    late = worked.batches[-1]
    assert late <= -(-4 // lanes) + devices
    assert worked.batches == sorted(worked.batches, reverse=True)


def test_nothing_is_done_once_all_runs_have_ended(monkeypatch):
    worked = Worked(monkeypatch)
    dataset = sweep(growth, {"rate": (2.0, 3.0), "limit": 5.0})
    assert dataset.value.values[0, :, -1].tolist() == [16.0, 9.0]
    assert len(worked.batches) == 4  # of 32 steps


def test_diverged_runs_leave_the_batch_too(monkeypatch):
    axes = {"rate": (1e200, 0.5, 2e200, 3e200, 0.7, 4e200), "limit": 1e300}
    plain = sweep(growth, axes, lanes=6)
    worked = Worked(monkeypatch)
    bitwise(sweep(growth, axes, lanes=1), plain)
    assert worked.batches[0] == 6
    assert worked.batches[-1] == 2


def test_a_batch_whose_runs_have_ended_takes_no_steps():
    """Inside a segment: a step that counts how often it is taken would go on for ever without it."""

    def simulate(key, rate: float):
        slow = lambda x: jax.lax.fori_loop(0, 200_000, lambda _, y: y * 1.0000001, x * rate)
        return Run(1.0, slow, Number, np.array([0, 1, 100_000]), stop=lambda x: x > 1.5)

    dataset = sweep(simulate, {"rate": (2.0, 3.0, 4.0)}, lanes=3)  # 10^10 multiplications, were they done
    assert dataset.value.values[0, :, -1].tolist() == dataset.value.values[0, :, 1].tolist()


@pytest.mark.parametrize(
    ("lanes", "taken"), [(1, {1: 32 + 4 + 8 + 2, 2: 32 + 4 + 8 + 2}), (4, {1: 4 * 32, 2: 2 * 32 + 2 * 4})]
)
def test_the_steps_that_were_taken_are_counted(lanes, taken, devices):
    """A batch takes as many as its last run: all 32, until 2^4 or 1.4^8 > 10, and until 10^400 is not finite."""
    made = block(growth, {"rate": (0.5, 2.0, 1.4, 1e200), "limit": 10.0}, 1, lanes)()
    with layout.precision("float64"):
        made.computed(lambda share: None)
    assert made.ahead == 4 * 32
    assert made.steps == taken[devices]


def block(simulate, axes, seeds, lanes):
    planned = plan(simulate, axes, seeds=seeds)
    cell = planned.cells[0]
    runs = np.arange(planned.runs)
    with layout.precision("float64"):
        laid = layout.laid(len(runs), lanes, 1, 1, 1 << 40)
        machine = Machine(cell.program, laid, lambda lowered: lowered.compile(), ("start", "advance"))
        return lambda: Block(machine, cell.mapped(planned.keys, runs))


@pytest.mark.parametrize(
    ("simulate", "axes", "lanes"),
    [(stochastic, {"learning_rate": (0.01, 0.1)}, 2), (growth, {"rate": (0.5, 2.0, 3.0, 1e200), "limit": 1e9}, 1)],
)
def test_a_block_goes_on_from_any_state_that_was_kept(simulate, axes, lanes, devices, monkeypatch):
    made = block(simulate, axes, 3, lanes)
    states = []
    with layout.precision("float64"):
        whole = made().computed(lambda share: None)
        monkeypatch.setattr(Block, "_steps", lambda block: 3)
        first = made()
        first.computed(lambda share: None, Kept(lambda: None, states.append, 0.0))
        assert len(states) > 2
        for state in states:
            again = made()
            resumed = again.computed(lambda share: None, Kept(functools.partial(dict, state), states.append, 1e9))
            assert (again.steps, again.ahead) == (first.steps, first.ahead)
            assert resumed.keys() == whole.keys()
            for name, values in whole.items():
                np.testing.assert_array_equal(resumed[name], values)


def test_a_state_of_another_layout_is_left_alone(monkeypatch):
    states = []
    made = block(growth, {"rate": RATES}, 2, 2)
    other = block(growth, {"rate": RATES}, 2, 5)
    with layout.precision("float64"):
        monkeypatch.setattr(Block, "_steps", lambda block: 3)
        made().computed(lambda share: None, Kept(lambda: None, states.append, 0.0))
        heard = []
        other().computed(heard.append, Kept(lambda: states[-1], states.append, 1e9))
        assert heard[-1] == 1.0
        assert len(states) == 10


def test_what_is_done_is_kept_when_the_caller_wants_to_end(monkeypatch):
    class Enough(BaseException):
        pass

    def enough(share):
        if share > 0.5:
            raise Enough

    states = []
    made = block(growth, {"rate": RATES}, 2, 2)
    monkeypatch.setattr(Block, "_steps", lambda block: 5)
    with layout.precision("float64"):
        whole = made().computed(lambda share: None)
        with pytest.raises(Enough):
            made().computed(enough, Kept(lambda: None, states.append, 1e9))
        (state,) = states
        shares = []
        resumed = made().computed(shares.append, Kept(lambda: state, states.append, 1e9))
        assert shares[0] > 0.6
        np.testing.assert_array_equal(resumed["value"], whole["value"])


def test_on_an_accelerator_the_lanes_halve_as_runs_end(monkeypatch):
    axes = {"rate": tuple(np.r_[np.linspace(2.0, 2.9, 13), 0.5, 0.6, 0.7]), "limit": 10.0}
    plain = sweep(growth, axes, seeds=1)
    lanes, advance = [], Block._advance

    def counted(block, *arguments):
        lanes.append(block.layout.lanes)
        return advance(block, *arguments)

    monkeypatch.setattr(Block, "_advance", counted)
    monkeypatch.setattr(Block, "_steps", lambda block: 3)
    monkeypatch.setattr(Block, "time", lambda block: setattr(block.machine, "step", 1e9))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    bitwise(sweep(growth, axes, seeds=1), plain)
    assert lanes[0] == 8  # on each of two devices
    assert lanes[-1] == 2
    monkeypatch.setattr(Block, "time", lambda block: setattr(block.machine, "step", 1e-9))
    lanes.clear()
    bitwise(sweep(growth, axes, seeds=1), plain)
    assert set(lanes) == {8}  # not worth a compilation


def halving(key, rate: float):
    """A state that no file format knows."""
    step = lambda state: (state[0] * rate.astype("bfloat16"), ~state[1])
    return Run((jnp.ones(3, "bfloat16"), True), step, lambda state: Number(1.0 * state[0].sum()), np.array([0, 4, 20]))


def test_a_state_of_any_dtype_is_kept(monkeypatch):
    states = []
    made = block(halving, {"rate": (0.5, 0.75)}, 2, 2)
    monkeypatch.setattr(Block, "_steps", lambda block: 3)
    with layout.precision("float64"):
        whole = made().computed(lambda share: None, Kept(lambda: None, states.append, 0.0))
        assert {values.dtype.kind for values in states[0].values()} <= set("iub")
        resumed = made().computed(lambda share: None, Kept(lambda: states[-1], states.append, 1e9))
    np.testing.assert_array_equal(resumed["value"], whole["value"])


def test_a_state_that_other_processes_kept_is_left_alone(monkeypatch):
    states = []
    made = block(growth, {"rate": RATES}, 2, 2)
    with layout.precision("float64"):
        monkeypatch.setattr(Block, "_steps", lambda block: 3)
        whole = made().computed(lambda share: None, Kept(lambda: None, states.append, 0.0))
        other = {**states[-1], "header": states[-1]["header"] + np.eye(len(states[-1]["header"]), dtype=int)[0]}
        shares = []
        again = made().computed(shares.append, Kept(lambda: other, states.append, 1e9))
    assert shares[0] < 0.2  # from the beginning
    np.testing.assert_array_equal(again["value"], whole["value"])
