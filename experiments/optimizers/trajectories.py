"""Optimisers of one name take the same steps in every library once their conventions are named, and not by default.

Claim: With the same gradients, optax's sgd, heavy ball, Nesterov, AdaGrad, RMSProp, Adam and AdamW visit the same
points, to rounding, as torch.optim and as a few lines of NumPy: momentum without dampening, ε outside the root for
RMSProp and Adam, nothing added for AdaGrad, bias correction for Adam only, decay decoupled for AdamW and coupled for
Adam with an l2 penalty. Momentum as a mean, m ← βm + (1 − β)g at the rate η/(1 − β), is the heavy ball at the rate η.
Adam's first step is η in every coordinate, whatever the gradient. Taken as they come, optax and torch agree on Adam,
and differ on RMSProp (decay 0.9 and ε inside the root against 0.99 and outside, so that the first steps are as 1 to
√10), AdaGrad (accumulator 0.1 against 0) and AdamW (decay 1e-4 against 1e-2).

Source: Polyak 1964 (heavy ball); Nesterov 1983, in the form of Sutskever et al. 2013; Duchi, Hazan & Singer 2011;
Tieleman & Hinton 2012, lecture 6.5 (RMSProp); Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv
1711.05101. The conventions are those in the documentation of optax 0.2 and torch 2.

Departure: one sample of a linear regression a step, in a recorded order, so that gradients stay of order one for all
1000 steps and nothing hides in convergence. ε is 1e-2 as well as the usual 1e-8, for at 1e-8 its place could be missed.
torch's dampening β is not the mean of gradients: its first m is g, not (1 − β)g. What judges is torch where it is
installed (the extra `peers`), and the NumPy loops in any case; the first finding names both.
"""

from itertools import combinations
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.dynamics import Run, descent, log_spaced, start
from research.experiment import Experiment, Finding, Findings
from research.labels import first_arm, lift, norm, select
from research.oracles.optimizer_loops import optimizer_path, peers, provenance

B1, B2 = 0.9, 0.99
ROUNDING = 1e-9  # of the distance that is left at the start: 1000 steps of 1e-16, and what they are magnified by
APART = 1000 * ROUNDING  # conventions further apart than that are told apart
WORDS = {
    "sgd": "sgd",
    "heavy_ball": "heavy ball, m ← βm + g (no dampening)",
    "ema": "momentum as a mean, m ← βm + (1 − β)g at η/(1 − β)",
    "nesterov": "Nesterov, g + βm with m ← βm + g",
    "adagrad": "AdaGrad, accumulator from 0 and nothing added",
    "rmsprop": "RMSProp, ε outside the root, no bias correction",
    "rmsprop_inside": "RMSProp, ε inside the root",
    "adam": "Adam, bias correction, ε outside the root",
    "adam_coupled": "Adam with the decay in the gradient (coupled)",
    "adamw": "AdamW, decoupled decay ηλw",
}


class Observables(NamedTuple):
    weights: Float[Array, "optimizer feature"]


class Given(NamedTuple):
    X: Float[Array, "sample feature"]
    y: Float[Array, "sample"]
    order: Float[Array, "iteration"]
    solution: Float[Array, "feature"]


def chains(
    rate: float, epsilon: float, weight_decay: float, root: float, defaults: bool
) -> dict[str, optax.GradientTransformation]:
    """The optimisers in the order of `WORDS`, with all conventions named, or with optax's defaults where it has any."""
    coupled = optax.add_decayed_weights(weight_decay)
    named = {
        "sgd": optax.sgd(rate),
        "heavy_ball": optax.sgd(rate, momentum=B1),
        "ema": optax.chain(optax.ema(B1, debias=False), optax.scale_by_learning_rate(rate / (1 - B1))),
        "nesterov": optax.sgd(rate, momentum=B1, nesterov=True),
        "adagrad": optax.adagrad(rate, initial_accumulator_value=0.0, eps=0.0),
        "rmsprop": optax.rmsprop(rate, decay=B2, eps=epsilon, eps_in_sqrt=False),
        "rmsprop_inside": optax.rmsprop(rate, decay=B2, eps=epsilon),
        "adam": optax.adam(rate, B1, 0.999, epsilon, root),
        "adam_coupled": optax.chain(coupled, optax.adam(rate, B1, 0.999, epsilon, root)),
        "adamw": optax.adamw(rate, B1, 0.999, epsilon, root, weight_decay=weight_decay),
    }
    usual = {
        "adagrad": optax.adagrad(rate),
        "rmsprop": optax.rmsprop(rate),
        "rmsprop_inside": optax.rmsprop(rate),
        "adam": optax.adam(rate),
        "adam_coupled": optax.chain(coupled, optax.adam(rate)),
        "adamw": optax.adamw(rate),
    }
    return named | (usual if defaults else {})


def simulate(
    key: Array,
    learning_rate: float,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    epsilon_root: float = 0.0,
    *,
    conventions: Literal["named", "defaults"] = "named",
    samples: int = 40,
    steps: int = 1000,
) -> Run:
    """Every optimiser on the same sequence of samples of a regression with two features, from the same point.

    The features have variances 1 and 0.1; the start lies about 2 from the solution of least squares, `solution`.
    `epsilon_root` is what optax's Adam adds inside the root besides, and no one else knows of.
    """
    normal_key, order_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (samples + 2, 4))
    X = normal[2:, :2] * jnp.array([[1.0, 0.1**0.5]])
    y = X @ normal[0, :2] + 0.3 * normal[2:, 2]
    solution = jnp.linalg.solve(X.T @ X, X.T @ y)
    initial = solution + 2**0.5 * jnp.where(normal[1, :2] > 0, 1.0, -1.0) + 0.1 * normal[1, 2:]
    order = jax.random.randint(order_key, (steps,), 0, samples)
    optimizers = list(chains(learning_rate, epsilon, weight_decay, epsilon_root, conventions == "defaults").values())

    def step(state: tuple) -> tuple:
        count, descents = state
        x, target = X[order[count]], y[order[count]]
        loss = lambda w: optax.l2_loss(x @ w, target)
        return count + 1, tuple(descent(loss, each)(one) for each, one in zip(optimizers, descents, strict=True))

    observe = lambda state: Observables(jnp.stack([one.params for one in state[1]]))
    state = (jnp.zeros((), int), tuple(start(initial, each) for each in optimizers))
    return Run(state, step, observe, log_spaced(steps, 60), Given(X, y, order.astype(X.dtype), solution))


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The paths by everyone who is installed, and the distance of optax's to the farthest of them."""
    dataset = dataset.assign_coords(optimizer=list(WORDS))
    initial = dataset.weights.isel(step=0, optimizer=0, drop=True)
    problem = dataset.X, dataset.y, dataset.order, initial, dataset.learning_rate, dataset.epsilon, dataset.weight_decay
    size = norm(initial - dataset.solution)

    def path(method: str, peer: str = "NumPy") -> xr.DataArray:
        decay = B2 if "rmsprop" in method else 0.999
        whole = lift(optimizer_path, *problem, method=method, peer=peer, b1=B1, b2=decay)
        return whole.isel(iterate=dataset.step).drop_vars("iterate", errors="ignore")

    loops = xr.concat([path(method) for method in WORDS], dataset.optimizer)
    farthest = xr.concat(
        [_farthest(dataset.weights.sel(optimizer=each), [path(each, peer) for peer in peers(each)]) for each in WORDS],
        dataset.optimizer,
    )
    scale = lambda distance: distance / size
    same = {("ema", "heavy_ball"), ("heavy_ball", "ema")}
    pairs = [pair for pair in combinations(WORDS, 2) if pair not in same]
    distances = [scale(norm(loops.sel(optimizer=a) - loops.sel(optimizer=b))).max("step") for a, b in pairs]
    moved = lambda weights: weights.isel(step=1, drop=True) - initial
    first = moved(dataset.weights)
    largest = np.abs(first.sel(optimizer="sgd")).argmax("feature")
    rms = np.abs(moved(loops).sel(optimizer="rmsprop") / first.sel(optimizer="rmsprop"))
    mean = norm(first.sel(optimizer="ema"))
    return dataset.assign(
        paths=loops,
        gap=scale(farthest),
        apart=xr.concat(distances, "pair").min("pair", skipna=False),
        as_mean=scale(norm(dataset.weights.sel(optimizer="ema") - dataset.weights.sel(optimizer="heavy_ball"))).max(
            "step"
        ),
        sign=np.abs(np.abs(first.sel(optimizer="adam")) / dataset.learning_rate - 1).max("feature"),
        # η|g|/(|g| + ε) is the first step
        allowed=dataset.epsilon / (np.abs(first.sel(optimizer="sgd")) / dataset.learning_rate).min("feature"),
        first_rms=rms.isel(feature=largest),
        first_mean=norm(moved(path("dampened"))) / mean,
        provenance=provenance(),
    )


def _farthest(weights: xr.DataArray, paths: list[xr.DataArray]) -> xr.DataArray:
    distances = xr.concat([norm(weights - path) for path in paths], "peer")
    return distances.max("peer", skipna=False)


def findings(dataset: xr.Dataset) -> list[Finding]:
    """All methods at once and each by itself; two conventions of momentum; Adam's first step; the defaults."""
    named, usual = (select(dataset, conventions=each) for each in ("named", "defaults"))
    found = Findings()
    judged, same = named if named.diverged.size else usual, (0.0, ROUNDING)
    what = f"largest distance to {dataset.provenance.item()}, of the distance at the start"
    found.add(f"{len(WORDS)} optimisers of optax, {int(dataset.steps.max())} steps: {what}", same, judged, judged.gap)
    for method, words in WORDS.items():
        by = " and ".join(peers(method))
        found.add(f"{words}: largest distance to {by}", same, named, named.gap.sel(optimizer=method))
    if named.diverged.size:
        visible = select(named, epsilon=float(named.epsilon.max()))
        said = f"ε = {float(named.epsilon.max()):g}: distance between any two other conventions, least of a seed's runs"
        found.add(said, (APART, np.inf), visible, visible.apart, "min")
    found.add(
        "momentum as a mean at η/(1 − β) against the heavy ball at η: largest distance",
        (0, 1e-12),
        named,
        named.as_mean,
    )
    said = "Adam's first step: largest | |Δw|/η − 1 |, over ε/|g|"
    found.add(said, (0.0, 1.0 + 1e-6), named, named.sign / named.allowed)
    dampening = "torch's dampening β is not that mean: its first step over the mean's, times 1 − β"
    found.add(dampening, (1 - 1e-9, 1 + 1e-9), named, named.first_mean * (1 - B1), "min", "max")
    usual = select(usual, epsilon=float(usual.epsilon.min())) if usual.diverged.size else usual
    found.add("defaults, Adam: largest distance", same, usual, usual.gap.sel(optimizer="adam"))
    root = "defaults, RMSProp: first step of torch (decay 0.99) over optax's (0.9), over √10"
    found.add(root, (1 - 1e-3, 1 + 1e-3), usual, usual.first_rms / 10**0.5, "min", "max")
    for method, why in (("rmsprop", "decay"), ("adagrad", "first accumulator"), ("adamw", "weight decay")):
        said = f"defaults, {method} ({why} differs): largest distance, least of a seed's runs"
        found.add(said, (APART, np.inf), usual, usual.gap.sel(optimizer=method).max("step"), "min")
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """(a) the paths over the contours of the loss, (b) distances with conventions named, (c) with the defaults."""
    figure, ((plane, same, usual),) = plots.figure(1, 3, "One name, the same steps, if the conventions are named")
    shown = ("sgd", "heavy_ball", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
    kinds = {each: select(dataset, conventions=each) for each in ("named", "defaults")}
    some = kinds["named"] if kinds["named"].diverged.size else kinds["defaults"]
    rates = np.unique(dataset.learning_rate.values)
    one = first_arm(select(some, learning_rate=float(rates[-1])))
    _contours(plane, one.isel(seed=0))
    for number, method in enumerate(shown):
        style, path = {"color": f"C{number}"}, one.isel(seed=0).sel(optimizer=method)
        x, y = (path.weights.isel(feature=each) - path.solution.isel(feature=each) for each in (0, 1))
        plane.plot(x, y, label=method.replace("_", " "), linewidth=2.5, alpha=0.8, **style)
        x, y = (path.paths.isel(feature=each) - path.solution.isel(feature=each) for each in (0, 1))
        plots.theory(plane, x, y, None if number else "the same by NumPy", linewidth=0.8)
        for axes, runs in zip((same, usual), kinds.values(), strict=True):
            if runs.diverged.size:
                gap = (
                    first_arm(select(runs, learning_rate=float(rates[-1])))
                    .gap.sel(optimizer=method)
                    .isel(step=slice(1, None))
                )
                plots.seeds(axes, gap.clip(1e-18), method.replace("_", " "), **style)
    for axes in (same, usual):
        axes.axhline(ROUNDING, color="black", linestyle="--", linewidth=1.2, label="rounding, at most")
        axes.set(xscale="log", yscale="log", xlabel="step", ylim=(1e-18, 10))
        axes.set_ylabel(f"distance to {dataset.provenance.item()}")
    plane.set(title="a  paths, one sample a step", xlabel="w1 − solution", ylabel="w2 − solution")
    plane.set(xlim=(-1.8, 1.8), ylim=(-0.6, 2.2))
    same.set_title("b  conventions named")
    usual.set_title("c  each library's defaults")
    for axes in (plane, same, usual):
        plots.legend(
            axes, **({"fontsize": 6.5, "loc": "upper left"} if axes is plane else {"loc": (0.28, 0.2), "ncol": 2})
        )
    return figure


def _contours(axes: plots.Axes, run: xr.Dataset) -> None:
    """Where the loss over all samples is constant, about its minimum."""
    X = run.X.values
    x, y = np.meshgrid(np.linspace(-2.6, 2.6, 80), np.linspace(-2.6, 2.6, 80))
    loss = np.einsum("ijk,kl,ijl->ij", np.stack([x, y], -1), X.T @ X / len(X), np.stack([x, y], -1)) / 2
    axes.contour(x, y, loss, levels=np.geomspace(0.01, 4, 9), colors="0.75", linewidths=0.7)


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={
        "seeds": 8,
        "learning_rate": (0.003, 0.02),
        ("conventions", "epsilon"): [("named", 1e-8), ("named", 1e-2), ("defaults", 1e-8)],
    },
    smoke={"seeds": 2, "learning_rate": 0.02, ("conventions", "epsilon"): [("named", 1e-2)]},
    paper={"seeds": 64, "steps": 10_000},
    control={"epsilon_root": 1e-2},
)
