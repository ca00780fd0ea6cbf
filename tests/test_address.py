from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from simulations import Number

from research.dynamics import Run
from research.plan import plan
from research.store import address


class Weights(NamedTuple):
    weights: Float[Array, "feature"]


class Neurons(NamedTuple):
    weights: Float[Array, "neuron"]


class Renamed(NamedTuple):
    w: Float[Array, "feature"]


def test_an_address_says_what_is_computed_and_nothing_else():
    def made(factor=2.0, table=(1.0, 2.0), label="plain", axes=None, **options):
        data = np.array(table)

        def simulated(key, rate: float, *, kind: str = "plain"):
            scale = factor if kind == label else 1.0
            return Run(data, lambda state: scale * rate * state, lambda state: Number(state.sum()), np.array([0, 2]))

        planned = plan(simulated, {"rate": (0.1, 0.2), "kind": ["plain", "other"], **(axes or {})}, **options)
        return planned.addresses()

    def rewritten():
        array = np.array((1.0, 2.0))

        def simulated(key, rate: float, *, kind: str = "plain"):
            # other names, another order, a comment
            multiplier = {"plain": 2.0}.get(kind, 1.0)

            def onward(before):
                return multiplier * rate * before

            def looked_at(now):
                return Number(now.sum())

            return Run(state=array, step=onward, observe=looked_at, at=np.array([0, 2]))

        return plan(simulated, {"rate": (0.1, 0.2), "kind": ["plain", "other"]}).addresses()

    base = made()
    assert base == made() == rewritten()
    assert len(set(base)) == 2
    assert made(seeds=2) == base  # more seeds extend what is there
    for options in ({"key": 1}, {"precision": "float32"}, {"axes": {"rate": (0.1, 0.3)}}):
        assert not set(made(**options)) & set(base)
    assert not set(made(table=(1.0, 2.0000001))) & set(base)
    assert [one == other for one, other in zip(made(factor=2.0000001), base, strict=True)] == [False, True]


def test_an_address_depends_on_names_and_times_too():
    def made(observables, at, data=()):
        simulated = lambda key: Run(np.ones(2), lambda w: w / 2, lambda w: observables(w), np.array(at), data)
        return plan(simulated, {}).addresses()[0]

    seen = [
        made(Weights, (0, 2)),
        made(Weights, (0, 1, 2)),
        made(Weights, (0, 3)),
        made(Neurons, (0, 2)),
        made(Renamed, (0, 2)),
        made(Weights, (0, 2), Number(np.zeros(()))),
        made(Weights, (0, 2), Number(np.ones(()))),
    ]
    assert len(set(seen)) == len(seen)
    assert made(Weights, (0, 2)) == seen[0]


def test_the_versions_of_what_computes_are_part_of_the_address(monkeypatch):
    before = address("program", {"seeds": 1})
    assert before == address("program", {"seeds": 1})
    monkeypatch.setattr("research.store.version", lambda package: "another" if package == "optax" else "1")
    assert address("program", {"seeds": 1}) != before
