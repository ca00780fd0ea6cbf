import math
import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import simulations
import xarray as xr

from research.experiment import Experiment, Finding, Findings, designed, evaluate, members, names, planned
from research.labels import per_seed
from research.statistics import Estimate, every_seed

NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize(
    ("band", "estimate", "interval", "outlook", "status"),
    [
        ((0, 1), 0.5, (0.1, 0.9), "", "supported"),
        ((0, 1), 0.5, (0, 1), "", "supported"),  # ends belong to the band
        ((0, 1), 0.5, (0.1, 0.9), "at t = 9", "supported"),
        ((0, INFINITY), 0.5, (0.1, INFINITY), "", "supported"),
        ((-INFINITY, 1), -7, (-9, -2), "", "supported"),
        ((0, 1), 2, (1.5, 3), "", "refuted"),
        ((0, 1), -2, (-3, -0.1), "", "refuted"),
        ((0, 1), 2, (1.5, 3), "at t = 9", "not yet"),
        ((0, 1), 0.9, (0.8, 1.1), "", "inconclusive"),
        ((0, 1), 0.1, (-0.1, 0.2), "", "inconclusive"),
        ((0, 1), 0.5, (-1, 2), "", "inconclusive"),
        ((0, 1), 1.0, (1.0, 2.0), "", "inconclusive"),  # they touch
        ((0, 1), 0.9, (0.8, 1.1), "at t = 9", "not yet"),
        ((0, 1), NAN, (0.1, 0.9), "", "void"),
        ((0, 1), 0.5, (NAN, 0.9), "", "void"),
        ((0, 1), 0.5, (0.1, NAN), "", "void"),
        ((NAN, 1), 0.5, (0.1, 0.9), "", "void"),
        ((0, NAN), 0.5, (0.1, 0.9), "", "void"),
        ((0, 1), NAN, (NAN, NAN), "at t = 9", "void"),
    ],
)
def test_status(band, estimate, interval, outlook, status):
    assert Finding("statement", band, estimate, interval, outlook).status == status
    assert Finding.of("statement", band, Estimate(estimate, interval), outlook).status == status


def experiment_of(**parts):
    """The value after so many steps is rate^steps times the start, exactly."""

    def compare(dataset):
        expected = dataset.rate**dataset.step * dataset.value.isel(step=0)
        return dataset.assign(error=abs(dataset.value - expected) / abs(expected))

    def draw(dataset):
        figure, axes = plt.subplots()
        axes.plot(dataset.step, dataset.value.mean([d for d in dataset.value.dims if d != "step"]))
        return figure

    return Experiment(
        simulate=simulations.growth,
        compare=compare,
        findings=lambda dataset: [Finding.of("error", (0.0, 1e-12), every_seed(per_seed(dataset.error)))],
        draw=draw,
        **{
            "design": {"seeds": 3, "rate": (0.5, 0.9), "limit": 1e300, "noise": True},
            "smoke": {"seeds": 2},
            "paper": {"seeds": 64},
            "control": {"rate": (2.0,), "limit": 10.0},
            **parts,
        },
    )


def test_findings_are_added_for_every_seed_where_there_are_runs():
    values = xr.DataArray([[1.0, 2.0], [0.5, 3.0]], dims=("seed", "rate"))
    runs = xr.Dataset({"diverged": values > 9})
    found = Findings()
    found.add("largest", (0.0, 2.5), runs, values)
    found.add("every run", (0.0, 9.0), runs, values, "min", "max")
    found.add("none", (0.0, 9.0), runs.isel(rate=[]), values)
    assert found == [
        Finding("largest", (0.0, 2.5), 2.5, (2.0, 3.0)),
        Finding("every run", (0.0, 9.0), 1.5, (0.5, 3.0)),
    ]
    assert [finding.status for finding in found] == ["inconclusive", "supported"]


def test_evaluate_sweeps_the_design_and_compares():
    experiment = experiment_of()
    heard = []
    dataset = evaluate(experiment, progress=lambda *words: heard.append(words))
    assert dataset.value.dims == ("seed", "rate", "step")
    assert dataset.sizes["seed"] == 3
    assert heard[-1][:2] == (6, 6)
    assert "provenance" in dataset.attrs  # compare made a new dataset, and its origin is kept
    assert [finding.status for finding in experiment.findings(dataset)] == ["supported"]


def test_the_control_of_an_experiment_fails_and_a_diverged_run_voids():
    experiment = experiment_of()
    (finding,) = experiment.findings(evaluate(experiment, experiment.control))
    assert finding.status == "refuted"  # it stopped growing
    (finding,) = experiment.findings(evaluate(experiment, {"rate": (0.5, 1e200)}))
    assert finding.status == "void"


def test_evaluate_hands_its_options_to_the_sweep(tmp_path):
    experiment = experiment_of(
        precision="float32", design={"seeds": 2, "rate": (0.5, 0.9), "limit": 1e30, "noise": True}
    )
    path = tmp_path / "value.nc"
    first = evaluate(experiment, {"seeds": 4}, store=path, lanes=1, key=3)
    assert path.exists()
    assert first.value.dtype == "float32"
    again = evaluate(experiment, {"seeds": 4}, store=path, key=3)
    assert again.identical(first.assign_attrs(again.attrs))
    assert again.attrs["provenance"] == first.attrs["provenance"]
    assert not np.array_equal(first.value, evaluate(experiment, {"seeds": 4}).value)


def test_planned_is_what_evaluate_would_do(compilations):
    made = planned(experiment_of(), {"rate": (0.1, 0.2, 0.3), "noise": [True, False]})
    assert (made.runs, len(made.cells), made.seeds) == (18, 2, 3)
    assert made.memory > 0
    assert compilations.count == 0
    with pytest.raises(ValueError, match=r"'rats'.*did you mean 'rate'"):
        planned(experiment_of(), {"rats": 1.0})
    with pytest.raises(ValueError, match="seeds"):
        planned(experiment_of(), {"seeds": 0})


ZIPPED = {"seeds": 8, ("kind", "rate", "size"): [("a", 1.0, 3), ("b", 1.0, 4), ("a", 2.0, 3)], "decay": (0.0, 0.1)}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, ZIPPED),
        (None, ZIPPED),
        ({"seeds": 2}, {**ZIPPED, "seeds": 2}),
        ({"decay": 0.5}, {**ZIPPED, "decay": 0.5}),
        ({"steps": 9}, {**ZIPPED, "steps": 9}),
        (
            {"rate": (5.0, 6.0)},  # what is left of the zip keeps its distinct rows
            {"seeds": 8, ("kind", "size"): [("a", 3), ("b", 4)], "decay": (0.0, 0.1), "rate": (5.0, 6.0)},
        ),
        (
            {"rate": 5.0, "size": 1},
            {"seeds": 8, "kind": ["a", "b"], "decay": (0.0, 0.1), "rate": 5.0, "size": 1},
        ),
        (
            {"kind": "a", "rate": 1.0, "size": 2},
            {"seeds": 8, "size": 2, "decay": (0.0, 0.1), "kind": "a", "rate": 1.0},
        ),
        ({("kind", "rate", "size"): [("c", 0.0, 0)]}, {**ZIPPED, ("kind", "rate", "size"): [("c", 0.0, 0)]}),
        (
            {("rate", "decay"): [(7.0, 0.7)]},  # a zip across two axes of the design
            {"seeds": 8, ("kind", "size"): [("a", 3), ("b", 4)], ("rate", "decay"): [(7.0, 0.7)]},
        ),
    ],
)
def test_overrides_lie_over_the_design(overrides, expected):
    experiment = experiment_of(design=dict(ZIPPED))
    made = designed(experiment, overrides)
    assert made == expected
    assert list(made) == list(expected)  # the order is that of the axes
    assert experiment.design == ZIPPED


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A package of two experiments and a private module."""
    package = tmp_path / "tiny_family"
    package.mkdir()
    (package / "__init__.py").write_text('"""Two."""\n')
    for name in ("second", "first", "_private"):
        (package / f"{name}.py").write_text(
            f"import tests_experiments\nexperiment = tests_experiments.made({name!r})\n"
        )
    module = types.ModuleType("tests_experiments")
    module.made = lambda name: experiment_of(smoke={"name": name})
    monkeypatch.setitem(sys.modules, "tests_experiments", module)
    monkeypatch.syspath_prepend(tmp_path)
    yield "tiny_family"
    for name in [name for name in sys.modules if name.startswith("tiny_family")]:
        del sys.modules[name]


def test_a_family_is_the_modules_of_its_package(family):
    assert names(family) == ["first", "second"]
    assert "tiny_family.first" not in sys.modules  # naming them imports none
    found = members(family)
    assert list(found) == ["first", "second"]
    assert found["second"].smoke == {"name": "second"}
