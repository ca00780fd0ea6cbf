"""Batch normalisation regularises by the noise of its batches: a smaller gap at equal training loss, no smaller error.

Claim: "Batch normalisation avoids overfitting." Its random part is the noise of a batch's mean, of variance
σ²/B · (N - B)/(N - 1) for B of N samples without replacement, and none for B = N. So if it regularises by noise, the
gap between test and training loss falls with smaller batches, and normalisation by all samples, which makes the network
invariant to the scale of its weights, brings no reduction of the gap by itself. Here this is so at equal training loss;
after equally many steps no trend shows, as smaller batches are then at another training loss, nor is the test error
lower.

Source: Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.4 ("Batch Normalization regularizes the model"). Hoffer,
Hubara & Soudry 2017, arXiv 1705.08741: ghost batches. The variance of the mean is Cochran 1977, Sampling Techniques.

Departure: One hidden layer of 64 ReLU on 128 images of scikit-learn's digits. The gradient is that of all images
(no noise of SGD); in each step they fall into N/B ghost batches at random, each normalised by its own mean and variance
(ε = 1e-9). In use, also where losses and errors are measured, the statistics are those of all training images, which
running averages approach. Gaps are compared twice: where the training loss passes 0.2, and after equally many steps at
equal learning rates. "Textbook" names what courses say; the theory here is of the noise alone, and the trends are
measured, on one small task: they show that the sentence is conditional, not where it holds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from research import data as problems
from research import plots
from research.dynamics import Descent, Run, log_spaced, start, stochastic_descent
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed, select, sound, table
from research.oracles.batch_noise import batch_mean_variance
from research.statistics import crossing, every_seed, over_seeds, rank_correlation

LEVEL = 0.2  # the training loss at which gaps are compared
ERRORS = 5.0  # standard errors: three for chance, and two for the interval, which has to lie inside


class Observables(NamedTuple):
    training: Float[Array, ""]
    test: Float[Array, ""]
    error: Float[Array, ""]
    scaling: Float[Array, ""]


class Given(NamedTuple):
    sums: Float[Array, "sample"]
    measured: Float[Array, ""]


def simulate(
    key: Array,
    ghost: float,
    learning_rate: float,
    normalised: float = 1.0,
    replaced: float = 0.0,
    *,
    samples: int = 128,
    held: int = 500,
    width: int = 64,
    partitions: int = 2000,
    steps: int = 300,
) -> Run:
    """Full-batch descent on the cross-entropy with ghost batches of `ghost` images, a divisor of `samples`.

    `normalised` is 0 or 1. `measured` is the mean square of the ghost batches' means of one hidden unit's sums about
    their mean, over `partitions`; `replaced` 1 draws those with replacement. `scaling` is the largest change of a logit
    when the hidden weights double, over the largest logit.
    """
    pixels, labels = problems.digits()
    data_key, init_key, noise_key, step_key = jax.random.split(key, 4)
    order = jnp.argsort(jax.random.uniform(data_key, (len(labels),)))[: samples + held]
    X, y = jnp.asarray(pixels - 0.5, jnp.result_type(float))[order], jnp.asarray(labels)[order]
    features = X.shape[1]
    drawn = jax.random.normal(init_key, (features + 10, width))
    params = (
        drawn[:features] * (2 / features) ** 0.5,
        jnp.ones(width),
        jnp.zeros(width),
        drawn[features:].T / width**0.5,
    )
    group = jnp.arange(samples) // ghost

    def logits(params: tuple, inputs: Array, share: Array) -> Array:
        """Each of the inputs is normalised by the training images in its row of `share`, whose rows sum to 1."""
        weights, gain, shift, readout = params
        sums, seen = inputs @ weights, X[:samples] @ weights
        mean = share @ seen
        spread = jnp.sqrt(share @ seen**2 - mean**2 + 1e-9)
        sums = jnp.where(normalised > 0, (sums - mean) / spread, sums)
        return jax.nn.relu(gain[None, :] * sums + shift[None, :]) @ readout

    def loss(params: tuple, drawn: Array) -> Array:
        mine = group[drawn]
        share = (mine[:, None] == mine[None, :]) / ghost
        return cross_entropy(logits(params, X[:samples], share), y[:samples]).mean()

    every = jnp.full((1, samples), 1 / samples)

    def observe(state: Descent) -> Observables:
        outputs = logits(state.params, X, every)
        doubled = logits((2 * state.params[0], *state.params[1:]), X, every)
        losses, wrong = cross_entropy(outputs, y), jnp.argmax(outputs, axis=1) != y
        return Observables(
            losses[:samples].mean(),
            losses[samples:].mean(),
            jnp.mean(wrong[samples:], dtype=X.dtype),
            jnp.max(jnp.abs(doubled - outputs)) / jnp.max(jnp.abs(outputs)),
        )

    sums = X[:samples] @ params[0][:, 0]
    uniform = jax.random.uniform(noise_key, (partitions, samples))
    places = jnp.where(replaced > 0, jnp.floor(uniform * samples).astype(int), jnp.argsort(uniform, axis=1))
    means = sums[places] @ ((group[:, None] == group[None, :]) / ghost)
    given = Given(sums, jnp.mean((means - sums.mean()) ** 2))
    optimizer = optax.sgd(learning_rate)
    step = stochastic_descent(loss, optimizer, lambda key: jnp.argsort(jax.random.uniform(key, (samples,))))
    return Run(start(params, optimizer, step_key), step, observe, log_spaced(steps, 12), given)


def at_level(
    training: Float[np.ndarray, "step"], gap: Float[np.ndarray, "step"], step: Float[np.ndarray, "step"]
) -> float:
    """The gap where the training loss first falls through `LEVEL`, between looks linear in ln(1 + step); else NaN."""
    when = crossing(np.log1p(step), -np.log(training), -np.log(LEVEL))
    return float(np.interp(when, np.log1p(step), gap))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The noise of the ghost batches' means in theory, and the gaps in the end."""
    if bool((dataset.samples % dataset.ghost != 0).any()):
        raise ValueError("ghost takes divisors of samples")
    dataset = sound(dataset)
    end = dataset.isel(step=-1)
    return dataset.assign(
        expected=lift(batch_mean_variance, dataset.sums, dataset.ghost),
        gap=end.test - end.training,
        equal=lift(at_level, dataset.training, dataset.test - dataset.training, dataset.step.astype(float)),
        final_error=end.error,
        final_training=end.training,
        invariance=end.scaling,
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The noise of half of the samples; of all; the trend of the gap; full batches against none; invariance."""
    found: list[Finding] = []
    samples, seeds = int(dataset.samples.max()), dataset.sizes["seed"]
    batch_normalised = select(dataset, normalised=1.0)
    sizes = np.unique(batch_normalised.ghost.values)
    for size in sizes[sizes < samples][::-1]:
        runs = select(batch_normalised, ghost=float(size))
        # of each partition's means, samples/size - 1 are free; of values in few classes chi-squared is generous enough
        off = ERRORS * (2 / (samples / size - 1) / int(dataset.partitions.max()) / seeds) ** 0.5
        what = f"mean square of the noise in the means of {int(size)} of {samples}, over σ²/B (N - B)/(N - 1)"
        found.append(Finding.of(what, (1 - off, 1 + off), over_seeds(per_seed(runs.measured / runs.expected, "mean"))))
    errors, steps = table(batch_normalised, "final_error", "ghost"), int(dataset.steps.max())
    times = (("equal", f"at training loss {LEVEL:g}"), ("gap", f"after {steps} steps"))
    if sizes.size > 2:
        for name, when in times:
            trend = rank_correlation(np.log(sizes), table(batch_normalised, name, "ghost").values)
            what = f"textbook: noise regularises: rank correlation of {sizes.size} sizes and gap of losses, {when}"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(trend)))
        what = "textbook: noise helps: test error at the smallest batches less that with all samples"
        found.append(Finding.of(what, (-np.inf, 0.0), over_seeds((errors[:, 0] - errors[:, -1]).values)))
    plain = select(dataset, normalised=0.0)
    full = select(batch_normalised, ghost=float(samples))
    if plain.diverged.size and full.diverged.size:
        said_of = [*((name, f"gap of losses {when}") for name, when in times), ("final_error", "test error")]
        for name, said in said_of:
            less = per_seed(full[name], "mean") - per_seed(plain[name], "mean")
            what = f"textbook: normalised by all samples, without noise, {said} less than without normalisation"
            found.append(Finding.of(what, (-np.inf, 0.0), over_seeds(less)))
        what = "without normalisation: change of the logits when the hidden weights double"
        found.append(Finding.of(what, (0.1, np.inf), every_seed(per_seed(plain.invariance, "min"))))
    if full.diverged.size:
        found.append(Finding.of("normalised: the same", (0.0, 1e-4), every_seed(per_seed(full.invariance))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """The noise, the gap of losses and the test error, against the size of the batches."""
    figure, axes = plots.figure(
        1, 3, "Batch normalisation: its noise narrows the gap at equal training loss, not the error", (4.6, 3.8)
    )
    noise, gap, error = axes[0]
    runs, plain = select(dataset, normalised=1.0), select(dataset, normalised=0.0)
    samples = int(dataset.samples.max())
    measured, expected = (table(runs, each, "ghost") for each in ("measured", "expected"))
    variance = expected.isel(ghost=0) * expected.ghost[0] * (samples - 1) / (samples - expected.ghost[0])
    part = expected.ghost < samples
    plots.seeds(noise, (measured / variance).isel(ghost=part.values), "ghost batches", color="C0", marker="o", ms=3)
    line = np.geomspace(float(expected.ghost[0]), 0.97 * samples, 100)
    plots.theory(noise, line, (samples - line) / line / (samples - 1), "(N - B)/(B (N - 1))")
    plots.theory(noise, line, 1 / line, "1/B", linestyle=":")
    noise.set(title="a  the noise", ylabel="variance of a batch's mean, over σ²", yscale="log")
    steps = int(dataset.steps.max())
    kinds = (("equal", f"at training loss {LEVEL:g}", "C2"), ("gap", f"after {steps} steps", "C0"))
    for name, label, color in kinds:
        rows = table(runs, name, "ghost")
        plots.seeds(gap, rows, label, color=color, marker="o", ms=3)
        full = float(rows.isel(ghost=-1).median())
        told = None if name == "gap" else "no noise, no effect"
        plots.theory(gap, rows.ghost[[0, -1]], [full, full], told, linestyle=":")
        if plain.diverged.size:
            level = float(np.median(per_seed(plain[name], "mean")))
            gap.axhline(level, color=color, linestyle="-.", linewidth=1, label=f"{label}, not normalised")
    gap.set(title="b  the gap", ylabel="test loss less training loss")
    rows = table(runs, "final_error", "ghost")
    if plain.diverged.size:
        rows = rows - xr.DataArray(per_seed(plain.final_error, "mean"), {"seed": rows.seed}, ("seed",))
    plots.seeds(error, rows, "batch normalisation", color="C0", marker="o", ms=3)
    plots.theory(error, rows.ghost[[0, -1]], [0, 0], "not normalised")
    error.set(title="c  what counts", ylabel="test error less that without normalisation")
    for each in axes[0]:
        each.set(xscale="log", xlabel=f"ghost batch B, of N = {samples}")
        ticks = np.unique(dataset.ghost.values)
        each.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        each.minorticks_off()
        each.margins(y=0.3 if each is gap else None)
        plots.legend(each)
    return figure


AXES = ("normalised", "ghost")
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 16,
        AXES: [*((1.0, size) for size in (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)), (0.0, 128.0)],
        "learning_rate": [0.1, 0.5],
    },
    smoke={
        "seeds": 3,
        AXES: [(1.0, 8.0), (1.0, 64.0), (1.0, 128.0)],
        "learning_rate": 0.5,
        "steps": 40,
        "held": 100,
    },
    paper={"seeds": 32, "samples": 1024, "steps": 10_000},
    control={"replaced": 1.0},
)
