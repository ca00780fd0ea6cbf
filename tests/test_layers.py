"""Which layers a model has, and what their activations are, however it is written."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import research

INPUTS = np.random.default_rng(0).normal(size=(32, 20)).astype(np.float32)


class Computed(nn.Module):
    """A module that does what a function of its inputs and modules does."""

    body: Callable

    @nn.compact
    def __call__(self, x):
        return self.body(self, x)


def started(model, inputs=INPUTS):
    return jax.jit(model.init)(jax.random.key(0), inputs)


def reported(model, variables=None, inputs=INPUTS):
    return research.saturation_report(model, variables or started(model, inputs), inputs, show=False)


NORMALISED = {
    "layer": (Computed(lambda self, x: nn.Dense(3)(nn.LayerNorm()(nn.Dense(16)(x)))), (2, 16, 16)),
    "instance": (Computed(lambda self, x: nn.Dense(3)(nn.InstanceNorm()(nn.Conv(8, (1,))(x)))), (2, 16, 16)),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_is_no_activation_whatever_its_shape(name):
    model, shape = NORMALISED[name]
    report = reported(model, None, np.resize(INPUTS, shape))
    assert (report.function == "none").all()


def unrolled(self, x):
    cell = nn.LSTMCell(3)
    carry = cell.initialize_carry(jax.random.key(0), (32, 20))
    for _ in range(2):
        carry, output = cell(carry, x)
    return output


def test_an_unrolled_recurrent_network_is_read():
    assert reported(Computed(unrolled)).sizes["layer"] == 16


def test_comparisons_are_no_activations():
    split = lambda self, x: (lambda h: (nn.Dense(2)(jnp.where(h > 0.1, h, x)), jnp.round(h)))(nn.Dense(20)(x))
    assert reported(Computed(split)).function[0] == "none"


def test_all_features_are_units():
    model = Computed(lambda self, x: nn.relu(nn.DenseGeneral((4, 5))(x)))
    variables = started(model)
    variables["params"]["DenseGeneral_0"]["bias"] = variables["params"]["DenseGeneral_0"]["bias"].at[1].set(-100.0)
    report = reported(model, variables)
    assert report.units[0] == 20
    assert report.dead[0] == 0.25
    assert report.dormant[0, 0] >= 0.25
    assert report.remarks[0].item().startswith("25% dead")


class Dense(nn.Module):
    """What it does with its kernel is its own affair."""

    @nn.compact
    def __call__(self, x):
        return 9 * x @ self.param("kernel", nn.initializers.lecun_normal(), (20, 20))


def test_theory_is_silent_where_the_parameters_are_not_the_weights():
    model = Computed(lambda self, x: nn.Dense(9)(nn.relu(nn.WeightNorm(nn.Dense(30))(x))))
    variables = started(model)
    assert (reported(model, variables).remarks == "").all()  # normalised as it begins
    variables["params"]["Dense_1"]["kernel"] *= 5  # which changes nothing
    report = reported(model, variables)
    np.testing.assert_array_equal(np.isnan(report.variance_theory), [True, False])
    assert [said.partition(",")[0] for said in report.remarks.values] == ["weights are transformed", ""]
    assert np.isnan(reported(Computed(lambda self, x: Dense()(x))).variance_theory).all()
