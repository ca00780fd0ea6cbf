import functools
import re
from typing import Literal, NamedTuple

import jax
import numpy as np
import pytest
from jaxtyping import Array, Float
from simulations import Number, Observables, regression

from research.axes import grid, label, parameters
from research.dynamics import Run
from research.plan import plan
from research.sweep import sweep


def simulate(
    key, rate: float, count: int = 2, *, kind: Literal["a", "b"] = "a", size: int = 3, on: bool = False, f=abs
):
    raise AssertionError("an error of the axes comes before the simulation is asked")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"rte": 1.0}, ["'rte'", "did you mean 'rate'", "count (int)", "kind ('a' | 'b')", "size (int)"]),
        ({("rate", "knd"): [(1.0, "a")]}, ["'knd'", "did you mean 'kind'"]),
        ({3: 1.0}, ["3 is no parameter"]),
        ({"rate": ()}, ["'rate'", "empty"]),
        ({"rate": np.array([])}, ["'rate'", "empty"]),
        ({"rate": (0.1, 0.2, 0.1)}, ["'rate'", "0.1 twice"]),
        ({"rate": (1, 1.0)}, ["'rate'", "twice"]),
        ({"rate": 1.0, "f": [lambda x: x, lambda x: -x]}, ["'f'", "<lambda>", "twice"]),
        ({"rate": "fast"}, ["'rate'", "finite numbers", "'fast'"]),
        ({"rate": ["0.1"]}, ["'rate'", "finite numbers", "'0.1'"]),
        ({"rate": None}, ["'rate'", "None"]),
        ({"rate": 1j}, ["'rate'", "1j"]),
        ({"rate": float("nan")}, ["'rate'", "finite", "nan"]),
        ({"rate": [0.1, np.inf]}, ["'rate'", "finite", "inf"]),
        ({"rate": np.ones((2, 2))}, ["'rate'", "1-d", "(2, 2)"]),
        ({"rate": [[0.1, 0.2]]}, ["'rate'", "[0.1, 0.2]"]),
        ({"rate": True}, ["'rate'", "True"]),
        ({"rate": [False, True]}, ["'rate'", "False"]),
        ({"rate": (each for each in (1.0, 2.0))}, ["'rate'", "generator"]),
        ({"rate": {1.0, 2.0}}, ["'rate'", "{1.0, 2.0}"]),
        ({"rate": 1.0, "count": 2.5}, ["'count'", "int", "2.5"]),
        ({"rate": 1.0, "kind": "c"}, ["'kind'", "'a' | 'b'", "'c'"]),
        ({"rate": 1.0, "kind": ["a", 1]}, ["'kind'", "'a' | 'b'", "1"]),
        ({"rate": 1.0, "size": 3.0}, ["'size'", "int", "3.0"]),
        ({"rate": 1.0, "size": "3"}, ["'size'", "int", "'3'"]),
        ({"rate": 1.0, "size": True}, ["'size'", "int", "True"]),
        ({"rate": 1.0, "on": 1}, ["'on'", "bool", "1"]),
        ({("rate", "kind"): [(1.0, "a"), (2.0,)]}, ["('rate', 'kind')", "2 values", "(2.0,)"]),
        ({("rate", "kind"): [1.0, 2.0]}, ["('rate', 'kind')", "2 values", "1.0"]),
        ({("rate", "kind"): 1.0}, ["('rate', 'kind')", "1.0"]),
        ({("rate", "kind"): []}, ["('rate', 'kind')", "empty"]),
        ({("rate", "count"): [(1.0, 1), (1.0, 1)]}, ["twice"]),
        ({("rate", "count"): np.ones(2)}, ["('rate', 'count')", "(2,)"]),
        ({"rate": 1.0, ("rate", "kind"): [(1.0, "a")]}, ["'rate'", "given twice"]),
        ({("rate", "rate"): [(1.0, 1.0)]}, ["'rate'", "given twice"]),
        ({}, ["simulate", "'rate'", "float"]),
    ],
)
def test_what_is_wrong_with_an_axis_is_named_before_anything_is_compiled(axes, words, compilations):
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        sweep(simulate, axes)
    for word in words:
        assert word in str(caught.value)
    assert compilations.count == 0


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 0},
        {"seeds": -1},
        {"seeds": 2.0},
        {"seeds": True},
        {"lanes": 0},
        {"lanes": 1.5},
        {"lanes": True},
        {"key": 0.5},
        {"key": True},
        {"precision": "float16"},
        {"store": "result.csv"},
    ],
)
def test_what_is_wrong_with_an_option_is_named_before_anything_is_compiled(options, compilations):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name}.*{value!r}"):
        sweep(lambda key, slope: Number(slope), {"slope": 1.0}, **options)
    assert compilations.count == 0


def no_key():
    return Number(np.zeros(()))


def keyword_key(*, key):
    return Number(np.zeros(()))


def many(key, *rates):
    return Number(np.zeros(()))


def anything(key, **rates):
    return Number(np.zeros(()))


def taken(key, step: float = 1.0):
    return Number(np.zeros(()))


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (no_key, "key as its first"),
        (keyword_key, "key as its first"),
        (many, r"\*rates"),
        (anything, r"\*rates"),
        (taken, "'step' is taken"),
    ],
)
def test_a_signature_that_cannot_be_driven_is_refused(signature, words):
    with pytest.raises(TypeError, match=words):
        sweep(signature, {})


class Bare(NamedTuple):
    value: np.ndarray


class Unannotated(NamedTuple):
    value: "np.ndarray"


class Fixed(NamedTuple):
    value: Float[Array, "3"]


class Repeated(NamedTuple):
    value: Float[Array, "feature feature"]


class Rate(NamedTuple):
    rate: Float[Array, ""]


class Taken(NamedTuple):
    diverged: Float[Array, ""]


class AlongRate(NamedTuple):
    value: Float[Array, "rate"]


class AlongFeature(NamedTuple):
    value: Float[Array, "feature"]


class Pair(NamedTuple):
    one: Float[Array, "feature"]
    two: Float[Array, "feature"]


class Named(NamedTuple):
    feature: Float[Array, "feature"]


class Data(NamedTuple):
    other: Float[Array, "feature"]


def timed(observables, at=(0, 1), step=lambda state: state, state=None, given=(), stop=None):
    return lambda: Run(np.zeros(()) if state is None else state, step, lambda _: observables, np.array(at), given, stop)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: np.zeros(3), ["NamedTuple"]),
        (lambda: {"value": np.zeros(())}, ["NamedTuple"]),
        (lambda: (np.zeros(()),), ["NamedTuple"]),
        (lambda: Bare(np.zeros(3)), ["Bare.value", "annotation"]),
        (lambda: Unannotated(np.zeros(3)), ["Unannotated.value", "annotation"]),
        (lambda: Fixed(np.zeros(3)), ["Fixed.value", "plain names", "'3'"]),
        (lambda: Repeated(np.zeros((3, 3))), ["Repeated.value", "only once"]),
        (lambda: Number(np.zeros(3)), ["Number.value", "()", "(3,)"]),
        (lambda: Number(np.zeros((), int)), ["Number.value", "int", "float"]),
        (lambda: Number(np.zeros((), bool)), ["Number.value", "bool", "float"]),
        (lambda: Pair(np.zeros(3), np.zeros(4)), ["Pair.two", "'feature'", "4", "3"]),
        (lambda: Rate(np.zeros(())), ["'rate'", "axis"]),
        (lambda: Taken(np.zeros(())), ["'diverged'"]),
        (lambda: AlongRate(np.zeros(3)), ["'rate'", "axis"]),
        (lambda: Named(np.zeros(3)), ["'feature'", "two things"]),
        (timed(Number(np.zeros(())), given=Number(np.zeros(()))), ["'value'", "two things"]),
        (timed(Observables(np.zeros(3), np.zeros(())), given=Data(np.zeros(4))), ["'feature'", "3", "4"]),
        (timed(Number(np.zeros(())), at=(0, 2, 2)), ["Run.at", "increasing", "2, 2"]),
        (timed(Number(np.zeros(())), at=(3, 1)), ["Run.at", "increasing"]),
        (timed(Number(np.zeros(())), at=(-1, 1)), ["Run.at", "0 or later"]),
        (timed(Number(np.zeros(())), at=()), ["Run.at"]),
        (timed(Number(np.zeros(())), at=(0.0, 1.0)), ["Run.at"]),
        (timed(Number(np.zeros(())), at=((0, 1),)), ["Run.at"]),
        (lambda: timed(Number(np.zeros(())))()._replace(at=jax.numpy.arange(3)), ["Run.at", "NumPy"]),
        (timed(Number(np.zeros(())), step=lambda state: state.astype("float32")), ["step", "float64", "float32"]),
        (timed(Number(np.zeros(())), step=lambda state: state[None]), ["step", "()", "(1,)"]),
        (timed(Number(np.zeros(())), step=lambda state: (state, state)), ["step"]),
        (timed(Number(np.zeros(())), stop=lambda state: jax.numpy.zeros(2, bool)), ["stop", "(2,)"]),
        (timed(Number(np.zeros(())), stop=lambda state: 1.5 * state), ["stop", "float64"]),
    ],
)
def test_what_is_wrong_with_a_simulation_is_named_before_anything_is_compiled(answer, words, compilations):
    def simulated(key, rate: float):
        return answer()

    with jax.enable_x64(True):
        jax.numpy.arange(3)  # the compilation of the times themselves does not count
    compilations.count = 0
    with pytest.raises((TypeError, ValueError), match=re.escape(words[0])) as caught:
        sweep(simulated, {"rate": (1.0, 2.0)})
    for word in words:
        assert word in str(caught.value)
    assert compilations.count == 0


def test_cells_that_give_one_name_different_dimensions_are_refused():
    def simulated(key, *, wide: bool):
        return Pair(np.zeros(3), np.zeros(3)) if wide else Rate(np.zeros(()))

    def clashing(key, *, wide: bool):
        return Number(np.zeros(())) if wide else AlongFeature(np.zeros(3))

    assert set(sweep(simulated, {"wide": [False, True]}).data_vars) >= {"one", "two", "rate"}
    with pytest.raises(ValueError, match=r"'value'.*feature"):
        sweep(clashing, {"wide": [False, True]})


def test_every_way_to_write_an_axis():
    for values in ((0.1, 0.2), [0.1, 0.2], np.array([0.1, 0.2]), jax.numpy.array([0.1, 0.2], "float32")):
        made = grid(regression, {"learning_rate": values})
        assert made.shape == (2,)
        np.testing.assert_allclose([value for (value,) in made.axes[0].values], [0.1, 0.2], rtol=1e-7)
    assert [value for (value,) in grid(regression, {"learning_rate": range(1, 4)}).axes[0].values] == [1.0, 2.0, 3.0]
    for value in (0.1, np.float64(0.1), np.array(0.1), 0.1 * np.ones(1)[0]):
        made = grid(regression, {"learning_rate": value})
        assert made.axes == ()
        assert type(made.fixed["learning_rate"]) is float
    one = grid(regression, {"learning_rate": [0.1]})
    assert one.shape == (1,)
    assert grid(regression, {"learning_rate": 0.1}).fixed["features"] == 4  # what is not given has its default


def test_the_signature_is_the_configuration():
    known = parameters(regression)
    assert [name for name, parameter in known.items() if parameter.traced] == ["learning_rate", "decay"]
    assert known["geometry"].kind == "'plain' | 'sign'"
    assert known["features"].kind == "int"
    assert known["optimizer"].kind == "value"


def test_labels_are_numbers_text_and_names():
    assert [label(value) for value in (1, 2.5, "text", True, abs)] == [1, 2.5, "text", True, "abs"]
    assert label(functools.partial(max, 3, default=1)) == "max(3, default=1)"
    assert label(functools.partial(sorted, key=abs)) == "sorted(key=abs)"  # no address in memory


def test_cells_are_the_distinct_structures_and_hold_every_point_once():
    axes = {"features": [2, 3], "learning_rate": (0.1, 0.2, 0.3), "geometry": ["plain", "sign"]}
    planned = plan(regression, axes, seeds=5)
    assert len(planned.cells) == 4
    assert planned.runs == 60
    assert sorted(np.concatenate([cell.points for cell in planned.cells])) == list(range(12))
    points = list(planned.grid.points())
    for cell in planned.cells:
        for place, index in enumerate(cell.points):
            assert points[index]["learning_rate"] == cell.traced["learning_rate"][place]
            assert {name: points[index][name] for name in cell.program.static} == cell.program.static
