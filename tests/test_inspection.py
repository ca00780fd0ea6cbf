"""The report on any Flax model: right where theory knows the answer, and never healthy where a model is broken."""

import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import research
from research.inspection import draw, table
from research.oracles.finite_width import finite_width
from research.oracles.mean_field import saturation

INPUTS = np.random.default_rng(0).normal(size=(32, 20)).astype(np.float32)
COUNTED = {"units", "fan_in", "function", "remarks"}


class Network(nn.Module):
    widths: tuple[int, ...] = (20, 20, 20)
    activation: str = "tanh"
    scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        start = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        for width in self.widths[:-1]:
            x = getattr(nn, self.activation)(nn.Dense(width, kernel_init=start, dtype=self.dtype)(x))
        return nn.Dense(self.widths[-1], kernel_init=start, dtype=self.dtype)(x)


class Declared(nn.Module):
    def setup(self):
        start = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.Dense_0, self.Dense_1 = nn.Dense(20, kernel_init=start), nn.Dense(20, kernel_init=start)
        self.Dense_2 = nn.Dense(20, kernel_init=start)

    def __call__(self, x):
        return self.Dense_2(jnp.tanh(self.Dense_1(jnp.tanh(self.Dense_0(x)))))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(20)(x)))
        y = nn.relu(nn.Dense(20)(x))
        x = nn.relu(x + nn.Dense(20)(y))
        return nn.log_softmax(nn.Dense(20)(nn.Dropout(0.5, deterministic=False)(x)))


def started(model, inputs=INPUTS):
    return jax.jit(model.init)({name: jax.random.key(0) for name in ("params", "dropout")}, inputs)


def reported(model, variables=None, inputs=INPUTS, **options):
    return research.saturation_report(model, variables or started(model, inputs), inputs, show=False, **options)


@pytest.fixture(scope="module")
def network():
    """A tanh network, its variables, its report."""
    model = Network()
    variables = started(model)
    return model, variables, reported(model, variables)


def test_a_wide_network_is_what_the_mean_field_says():
    width, depth = 300, 4
    report = reported(Network((width,) * depth + (20,), scale=1.7)).isel(layer=slice(None, depth))
    allowed = 4.5 * (finite_width("tanh", 1.7, 0.0).fluctuation / width) ** 0.5
    assert abs(report.weight_variance[1:] - 1.7).max() < 4.5 * 1.7 * (2 / width**2) ** 0.5
    assert abs(report.variance - report.variance_theory).max() < allowed
    slope = saturation("tanh", 0.6 + allowed) - saturation("tanh", 0.6)
    assert abs(report.saturation - report.saturation_theory).max() < 2 * slope
    # A layer's growth varies by at most 5/n (Hanin & Rolnick 2018), and the prediction begins at the readout.
    assert abs(np.log(report.gradient / report.gradient_theory)).max() < 4.5 * (5 * depth / width) ** 0.5 / 2
    assert (report.remarks == "").all()
    assert (report.dead == 0).all()
    assert (report.function == "tanh").all()


def test_a_single_layer_by_hand():
    kernel, bias = np.diag([1.0, -2.0, 30.0, 0.0]), np.array([0.0, 0.0, 0.0, -5.0])
    model, inputs = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)]), np.array([[1.0, 1, 1, 1], [3.0, 3, -3, 3]])
    variables = {
        "layers_0": {"kernel": kernel, "bias": bias},
        "layers_2": {"kernel": np.array([[1.0], [2.0], [3.0], [4.0]]), "bias": np.zeros(1)},
    }
    report = reported(model, jax.tree.map(jnp.float32, variables), inputs, loss=lambda output: output.sum())
    first = report.sel(layer="layers_0")
    assert first.units == 4
    assert first.fan_in == 4
    assert first.weight_variance == pytest.approx(4 * np.var(kernel))
    assert first.bias_variance == pytest.approx(25 / 4)
    assert first.variance == pytest.approx(np.mean([1, 4, 900, 25, 9, 36, 8100, 25]))
    assert first.variance_theory == pytest.approx(4 * np.var(kernel) * 5 + 25 / 4)
    assert first.saturated == pytest.approx(5 / 8)
    assert first.dead == 0.5
    np.testing.assert_allclose(first.dormant, [0.5, 0.5])  # E|h| = 2, 0, 15, 0
    assert first["mean"] == pytest.approx(34 / 8)
    assert np.isnan(first.saturation)  # no range
    assert first.gradient == pytest.approx(np.sqrt(1 + 1 + 9))  # of the slopes that are not flat, times the kernel
    assert report.gradient[1] == pytest.approx(np.sqrt(2))
    assert first.remarks == "50% dead"
    assert report.function[1] == "none"
    assert np.isnan(report.dead[1])


def test_the_form_of_model_and_parameters_does_not_matter(network):
    _, variables, report = network
    assert reported(Declared(), variables["params"]).drop_attrs().identical(report.drop_attrs())


def test_half_precision_shows_the_same_network(network):
    _, variables, report = network
    half = reported(Network(dtype=jnp.bfloat16), variables)
    assert (half.function == report.function).all()
    for name in ("variance", "variance_theory", "saturation", "gradient", "gradient_theory"):
        np.testing.assert_allclose(half[name], report[name], rtol=0.03)


def test_a_network_of_broken_scale_is_named(network):
    model, variables, _ = network
    scaled = lambda factor: jax.tree.map(lambda leaf: factor * leaf, variables)
    assert "dead, saturated" in reported(model, scaled(100.0)).remarks[1].item()  # stuck at an end on all samples
    assert "× the last" in reported(model, scaled(0.01)).remarks[0].item()
    aligned = jax.tree.map(lambda leaf: leaf + 2.0 * (leaf.ndim == 2), variables)
    assert "× theory" in reported(model, aligned, abs(INPUTS)).remarks[0].item()  # weights with a mean are not random


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_network_is_never_healthy(bad, network):
    diverged = jax.tree.map(lambda leaf: leaf, network[1])
    diverged["params"]["Dense_1"]["kernel"] = diverged["params"]["Dense_1"]["kernel"].at[0, 0].set(bad)
    report = reported(Network(activation="relu"), diverged)
    assert report.remarks[0] == "parameter Dense_1/kernel not finite"
    assert (report.remarks[1:] == "not finite").all()
    for name in set(report.data_vars) - COUNTED - {"bias_variance", "weight_variance"}:
        assert np.isnan(report[name][1:]).all(), name
    assert not np.isfinite(report.weight_variance[1])
    lines = table(report).splitlines()[3:]
    assert all("NaN" in line and "%" not in line for line in lines)


class Computed(nn.Module):
    """A module that does what a function of its inputs and modules does."""

    body: Callable

    @nn.compact
    def __call__(self, x):
        return self.body(self, x)


ACTOR = Computed(
    lambda self, x: (nn.Dense(2)(nn.relu(nn.Dense(9)(x))), jnp.exp(self.param("log_std", nn.initializers.zeros, (2,))))
)
STATES = Computed(lambda self, x: nn.Dense(2)(nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(9)(x)))))
BROKEN = {
    "parameter log_std not finite": (ACTOR, "params", "log_std", None),
    "batch_stats BatchNorm_0/mean not finite": (STATES, "batch_stats", "BatchNorm_0", None),
    "output not finite": (Computed(lambda self, x: jnp.log(nn.relu(nn.Dense(9)(x)))), None, None, None),
    "loss not finite": (ACTOR, None, None, lambda output: jnp.inf * output[0].sum() ** 2),
}


@pytest.mark.parametrize("remark", BROKEN)
def test_what_is_broken_beside_the_layers_is_named_at_each_of_them(remark):
    model, kind, name, loss = BROKEN[remark]
    variables = started(model)
    if kind:
        variables[kind][name] = jax.tree.map(lambda leaf: leaf * jnp.nan, variables[kind][name])
    report = reported(model, variables, loss=loss)
    assert all(said.startswith(remark) for said in report.remarks.values)
    assert np.isnan(report.gradient).all()
    assert np.isnan(report.gradient_theory).all()
    assert all("NaN" in line for line in table(report).splitlines()[2:])


@pytest.mark.parametrize("activation", ["relu6", "leaky_relu"])
def test_what_is_healthy_passes_without_remark(activation):
    # Of inputs with a mean, that leave many a unit negative throughout.
    inputs = 0.1 * INPUTS + 1 if activation == "leaky_relu" else INPUTS
    report = reported(Network((100, 5), activation, scale=2.0), None, inputs)
    assert not any("dead" in said or "saturated" in said for said in report.remarks.values)
    if activation == "leaky_relu":
        assert (report.saturated[:-1] == 0).all()
        assert (report.dead[:-1] == 0).all()


def test_no_gradient_is_said(network):
    model, variables, _ = network
    report = reported(model, variables, loss=lambda output: 0 * output.sum())
    assert (report.remarks == "no gradient").all()


def test_normalisation_skip_connections_and_state_do_not_hide_the_activations():
    report = reported(Residual(), rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(report.function, ["relu", "relu", "relu", "none"])
    assert report.variance[0] == pytest.approx(1, rel=1e-3)  # what batch normalisation puts out
    assert list(np.isnan(report.variance_theory)) == [True, False, True, False]
    assert list(np.isnan(report.gradient_theory)) == [True, False, True, True]  # skips bring gradients of their own


def test_padding_is_seen():
    model, images = nn.Conv(300, (3, 3)), INPUTS[:8, :16].reshape(8, 4, 4, 1)
    report = reported(model, None, images)
    expected = float(report.variance_theory[0])
    assert expected == pytest.approx(float(report.variance[0]), rel=4.5 * (2 / 300) ** 0.5)
    assert expected < 0.75 * report.weight_variance[0] * np.mean(images**2)  # (10/12)² of the taps


def test_what_the_user_says_of_a_layer_is_taken(network):
    model, variables, _ = network
    report = reported(model, variables, activations={"Dense_0": "relu", "Dense_2": jnp.tanh})
    np.testing.assert_array_equal(report.function, ["relu", "tanh", "tanh"])
    assert np.isnan(report.saturation[0])
    assert np.isfinite(report.saturation[2])


def test_it_prints_and_draws(network, capsys, tmp_path):
    model, variables, _ = network
    report = research.saturation_report(model, variables, INPUTS, figure=tmp_path / "report.png")
    printed = capsys.readouterr().out
    assert printed == table(report) + "\n"
    assert [line.split()[:2] for line in printed.splitlines()[2:]] == [
        ["Dense_0", "tanh"],
        ["Dense_1", "tanh"],
        ["Dense_2", "none"],
    ]
    assert (tmp_path / "report.png").stat().st_size > 10_000
    figure = draw(report)
    assert {text.get_text() for text in figure.axes[3].get_legend().get_texts()} >= {"φ_B", "φ_B, mean field", "dead"}
    assert set(report.to_dataframe().columns) >= COUNTED


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.RNN(nn.SimpleCell(4))(x[..., None])


Mapped = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
REFUSED = {
    "model is 'network'": lambda model, params: research.saturation_report("network", params, INPUTS),
    "params is None": lambda model, params: research.saturation_report(model, None, INPUTS),
    "params is {}": lambda model, params: research.saturation_report(model, {}, INPUTS),
    "inputs is": lambda model, params: research.saturation_report(model, params, "images"),
    "inputs has shape": lambda model, params: research.saturation_report(model, params, INPUTS[0]),
    "inputs has entries": lambda model, params: research.saturation_report(model, params, np.nan * INPUTS),
    "threshold is 1": lambda model, params: research.saturation_report(model, params, INPUTS, threshold=1),
    "loss is 3": lambda model, params: research.saturation_report(model, params, INPUTS, loss=3),
    "loss does not": lambda model, params: reported(model, params, loss=lambda output: output),
    "activations is 'relu'": lambda model, params: reported(model, params, activations="relu"),
    "activations has Dense_9; the layers are Dense_0": lambda model, params: reported(
        model, params, activations={"Dense_9": "relu"}
    ),
    "activation is 'swoosh'": lambda model, params: reported(model, params, activations={"Dense_0": "swoosh"}),
    r"activations\['Dense_0'\] is": lambda model, params: reported(model, params, activations={"Dense_0": jnp.square}),
    "model does not run on these params, inputs and options": lambda model, params: reported(
        model, params, INPUTS[:, :7]
    ),
    "model does not run on these params, inputs and options: .* 'train'": lambda model, params: reported(
        model, params, train=True
    ),
    "model has no layer": lambda model, params: reported(nn.LayerNorm()),
    "model maps layers_0 over an axis": lambda model, params: reported(nn.Sequential([Mapped(4)])),
    "model runs SimpleCell_0/i in a loop": lambda model, params: reported(Recurrent()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_by_name(message, network):
    model, variables, _ = network
    with pytest.raises(ValueError, match=message):
        REFUSED[message](model, variables["params"])


def test_the_instruments_do_not_wait_for_flax():
    program = "import sys, research; print('flax' in sys.modules or 'jax' in sys.modules, research.__all__)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False ['saturation_report']"
    with pytest.raises(AttributeError, match="saturation_rapport"):
        research.saturation_rapport  # noqa: B018
