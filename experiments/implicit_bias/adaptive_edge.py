"""Adam works at an edge of stability of its own, and goes on into ever sharper valleys while it stays there.

Claim: Adam divides the gradient by √v̂ + ε. In those coordinates the Hessian is P^−1/2 H P^−1/2, and its largest
eigenvalue, the preconditioned sharpness, rises to (2 + 2β1)/((1 − β1)η), which is 38/η for β1 = 0.9, and hovers there.
The sharpness of H itself does not: where descent is held back at 2/η, Adam adapts P and lets it rise.

Source: Cohen, Ghorbani, Krishnan, Agarwal, Medapati, Badura, Suo, Cardoze, Nado, Dahl & Gilmer 2022, arXiv 2207.14484
(figure 1). The threshold is that of the moving average of gradients with a P that stands still, derived and checked in
research/oracles/step_stability.py.

Departure: A Chebyshev polynomial of degree 4 and 200 digits instead of CIFAR-10 (where it is at hand, `--paper --set
data=cifar10 --set samples=5000`), two hidden layers of 32 tanh units, squared error. P is (1 − β1^t)(√v̂ + ε): the
correction of the mean's bias makes early steps longer. Several β1 tell the formula from 2/η. The other side: at rates
too small for the time (1e-5 and less) it stays below 1 % of the threshold, which is drawn and not judged.
The band of 3 % is a convention, wider than for gradient descent, and not derived. The middle run of each seed pools
every β1 and both problems, and hides an undershoot: with β1 = 0.9 on the polynomial the middle run of a seed ends 1
to 4 % below the threshold, all other runs within 2.2 %. Whether the sharpness itself goes on is judged by what it gains
on the preconditioned sharpness, which itself climbs from where the edge counts as reached, 0.97 of the threshold. It
gains much for β1 = 0 and 0.5. With β1 = 0.9 it gains 5 % at most at the smaller rates, and whether that is more than
nothing changes with the order in which float32 sums are rounded; at the larger ones nothing is certain either. On 5,000
images of MNIST (`--set`, width 200, 1,500 steps, β1 = 0.9, 2 seeds) it hovers at 0.996 to 1.006 at η = 3e-4 and 1e-3,
and the sharpness gains on it for certain, by 0.13 to 0.52 in ln; at 1e-4 it is at 0.96, still rising.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding
from research.labels import arms, chosen_per_seed, lift, recorded, select, sound
from research.observables.curvature import hessian_spectrum
from research.oracles.step_stability import largest_curvature
from research.sharpening import Data, Loss, sharpening_problem
from research.statistics import every_seed

HOVER = (0.97, 1.03)  # of the threshold
ACCURACY = 0.01  # of the threshold, of the median over the last quarter
START = 10  # steps in which v̂ is made of hardly any gradients
DECAY, EPSILON = 0.999, 1e-8  # Adam's β2 and ε


class Observables(NamedTuple):
    loss: Float[Array, ""]
    sharpness: Float[Array, ""]
    preconditioned: Float[Array, ""]
    residual: Float[Array, ""]


def simulate(
    key: Array,
    learning_rate: float,
    beta1: float = 0.9,
    *,
    data: Data = "chebyshev",
    objective: Loss = "squared_error",
    samples: int = 20,
    steps: int = 10_000,
    width: int = 32,
    depth: int = 2,
    points: int = 36,
    iterations: int = 30,
) -> Run:
    """One run of Adam on the mean loss (halved where squared) from the default initialisation, on all samples.

    Sharpness, plain and preconditioned, by that many iterations of Lanczos's method; `residual` is the error of
    the preconditioned one at most.
    """
    _, _, params, _, loss = sharpening_problem(key, data, objective, samples=samples, width=width, depth=depth)
    optimizer = optax.adam(learning_rate, b1=beta1, b2=DECAY, eps=EPSILON)

    def observe(state: tuple) -> Observables:
        adam = state[1][0]
        bias = lambda decay: 1 - decay ** adam.count.astype(float)
        P = jax.tree.map(lambda square: bias(beta1) * (jnp.sqrt(square / bias(DECAY)) + EPSILON), adam.nu)
        both = jax.tree.map(lambda leaf: jnp.stack([jnp.ones_like(leaf), leaf]), P)
        largest = jax.vmap(lambda P: hessian_spectrum(loss, state[0], iterations=iterations, preconditioner=P))(both)
        raw, own = largest.values[:, 0]
        return Observables(loss(state[0]), raw, own, largest.residuals[1, 0])

    # from the first step on: at the start there is no P
    at = np.union1d(log_spaced(steps, points // 3)[1:], np.rint(np.linspace(1, steps, points)).astype(int))
    return Run(start(params, optimizer), descent(loss, optimizer), observe, at)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The preconditioned sharpness in units of its threshold, and how both kinds go on once it has been reached."""
    dataset = sound(dataset)
    edge = lift(largest_curvature, "moving_average", dataset.learning_rate, dataset.beta1)
    ratio = dataset.preconditioned / edge
    late = (dataset.step >= 0.75 * dataset.steps) & (dataset.step <= dataset.steps)
    end = ratio.where(late).median("step")
    largest = (ratio + dataset.residual / edge).where(late).median("step")
    crossing = dataset.step.where((ratio >= HOVER[0]) & (dataset.step > START)).min("step")
    over = np.log(dataset.sharpness / dataset.preconditioned)
    return dataset.assign(
        edge=edge,
        ratio=ratio,
        end=end.where(largest - end <= ACCURACY),
        growth=over.where(late).median("step") - over.where(dataset.step == crossing).max("step"),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """Where the preconditioned sharpness hovers, of all and for each β1; how the plain one goes on."""
    found: list[Finding] = []
    usual = select(dataset, learning_rate=lambda rate: rate >= USUAL)
    judged = usual if usual.diverged.size else dataset

    def add(what: str, band: tuple[float, float], runs: xr.Dataset, values: xr.DataArray, *sides: str) -> None:
        chosen = ~runs.diverged
        if chosen.any():
            found.append(Finding.of(what, band, every_seed(chosen_per_seed(values, chosen, *sides))))

    lost = f"{int(judged.diverged.sum())} of {judged.diverged.size} diverged"
    gain = "ln of sharpness over preconditioned sharpness, at the end less that when the edge was reached"
    hover = f"preconditioned sharpness over (2 + 2β1)/((1 − β1)η), median of the last quarter ({lost})"
    add(f"{hover}: the middle run of each seed, every β1 and problem pooled", HOVER, judged, judged.end, "median")
    arms_of = [(data, beta) for data in np.unique(usual.data.values) for beta in np.unique(usual.beta1.values)]
    for data, beta in arms_of:
        runs = select(usual, data=data.item(), beta1=beta.item())
        factor = (1 + beta) / (1 - beta)
        what = f"{data}, β1 = {beta:g}, where the threshold is {factor:.3g} · 2/η: the same, all runs of a seed"
        add(what, HOVER, runs, runs.end, "min", "max")
    for data, beta in arms_of:
        runs = select(usual, data=data.item(), beta1=beta.item())
        if runs.diverged.size:
            rates = np.unique(runs.learning_rate.values).tolist()
            for rate in dict.fromkeys((rates[0], rates[-1])):
                growth = select(runs, learning_rate=rate)
                what = f"{data}, β1 = {beta:g}, η = {rate:g}: {gain}"
                add(what, (0.0, np.inf), growth, growth.growth, "median")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Preconditioned sharpness over sharpness against the step, two problems; where every run ends; the ratio alone."""
    title = "Adam stays near its own edge of stability, whatever the sharpness itself does"
    figure, panels = plots.figure(2, 3, title)
    usual = select(dataset, beta1=np.max(dataset.beta1.values).item())
    for (own, raw), data in zip(panels[:, :2].T, np.unique(dataset.data.values)[::-1].tolist(), strict=False):
        for number, (point, tried) in enumerate(list(arms(select(usual, data=data)))[-3:]):
            rate, run = point["learning_rate"], recorded(tried)
            for axes, values in ((own, run.preconditioned), (raw, run.sharpness)):
                plots.seeds(axes, values, f"η = {rate:g}", color=f"C{number}")
            edge = float(tried.edge.max())
            plots.theory(own, run.step[[0, -1]], (edge, edge), None if number else f"{edge * rate:.0f}/η")
        own.set(title=f"{data}: preconditioned", yscale="log", xlabel="step", ylabel="λ₁ of P^−1/2 H P^−1/2")
        raw.set(title=f"{data}: the sharpness itself", xlabel="step", ylabel="sharpness, λ₁ of H")
    ends, course = panels[:, 2]
    first = np.unique(dataset.data.values)[0].item()
    for number, beta in enumerate(np.unique(dataset.beta1.values).tolist()):
        runs = select(dataset, beta1=beta)
        # rates too small for the time lie below the line
        plots.points(ends, runs.learning_rate, runs.end * runs.edge, f"β1 = {beta:g}", color=f"C{number}")
        rates = np.unique(runs.learning_rate.values)
        law = [largest_curvature("moving_average", rate, beta) for rate in rates]
        plots.theory(ends, rates, law, None if number else "(2 + 2β1)/((1 − β1)η)")
        fast = select(runs, data=first, learning_rate=lambda rate: rate >= USUAL)
        for point, tried in list(arms(fast))[:1]:
            label = f"β1 = {beta:g}, η = {point['learning_rate']:g}"
            plots.seeds(course, recorded(tried).ratio, label, color=f"C{number}")
    course.axhline(1.0, color="black", linestyle="--", linewidth=1.2, label="threshold")
    ends.set(title="every run at the end", xscale="log", yscale="log", xlabel="learning rate η")
    ends.set_ylabel("λ₁ of P^−1/2 H P^−1/2, last quarter")
    course.set(
        title=f"{first}, for every β1",
        xscale="log",
        ylim=(0, 1.6),
        xlabel="step",
        ylabel="preconditioned sharpness / threshold",
    )
    for axes in panels.ravel():
        axes.set_visible(axes.has_data())  # an override may leave one problem only
        plots.legend(axes)
    return figure


USUAL = 5e-5  # a learning rate from which the edge is reached in the steps of these designs
AXES = ("data", "samples", "steps", "learning_rate", "beta1")
CHEBYSHEV, DIGITS = ("chebyshev", 20, 12_000), ("digits", 200, 4_000)
RATES = [(*CHEBYSHEV, rate, 0.9) for rate in (1e-6, 1e-5, 3e-4, 1e-3, 3e-3)]
OTHER = [(*CHEBYSHEV, 1e-3, 0.5), (*CHEBYSHEV, 1e-3, 0.0), (*CHEBYSHEV, 3e-4, 0.5), (*CHEBYSHEV, 3e-4, 0.0)]
experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, AXES: [*RATES, *OTHER, *((*DIGITS, rate, 0.9) for rate in (1e-3, 2e-3, 4e-3))]},
    smoke={"seeds": 2, AXES: [("chebyshev", 20, 4_000, rate, beta) for rate, beta in ((1e-3, 0.9), (1e-3, 0.5))]},
    paper={
        "seeds": 3,
        "width": 200,
        AXES: [("digits", 1_797, 20_000, rate, 0.9) for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)],
    },
    control={"learning_rate": 1e-6},
    precision="float32",
)
