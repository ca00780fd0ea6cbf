"""Covering part of a picture shows what a network looks at, and the gradient foresees it where little is covered.

Claim: A grey square moved over a picture lowers the probability of its class most where it hides the object (Zeiler &
Fergus). As a network of ReLUs and max-pooling is piecewise linear, the change of a logit is the gradient's product with
the change of the pixels, exactly, as long as the square is so faint that no ReLU and no maximum switches; a square that
hides everything below it goes beyond that.

Source: Zeiler & Fergus 2013, arXiv 1311.2901, section 4.2 and figure 7. That the change is the integral of the gradient
on the way from one picture to the other: Sundararajan, Taly & Yan 2017, arXiv 1703.01365, section 3 (completeness).

Departure: Digits of 8 × 8 pixels, squares of 3 × 3, in the mean grey of the digits and in black, the colour of their
ground, which Zeiler & Fergus do not try: a grey square also draws something where there was nothing. The object is
where there is ink: probabilities are to fall by more under squares that hide more of it than half of them do. Whether
the pixels of deconvnet, guided backpropagation or gradient under a square foretell what covering them does is asked by
rank correlation; no theorem says so. A map that is zero throughout has no ranks: it is left out and counted.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from research import plots
from research.deconvnet import Method, backprojection
from research.dynamics import Descent, Run
from research.experiment import Experiment, Finding
from research.labels import lift, per_seed
from research.models import ConvolutionalNetwork
from research.oracles.deconvolution import logits
from research.statistics import every_seed, over_seeds, rank_correlation
from research.vision import Data, learning, pictures

METHODS: tuple[Method, ...] = ("gradient", "deconvnet", "guided")
GROUNDS = {"grey": 0.3, "black": 0.0}
FAINT, LEARNT = 1e-6, 0.5  # share of the way to the square's grey; a network below this accuracy has learnt nothing
LAYERS = ("convolution_0", "convolution_1", "hidden", "readout")


class Observables(NamedTuple):
    accuracy: Float[Array, ""]
    first: Float[Array, "side across filter"]
    first_bias: Float[Array, "filter"]
    second: Float[Array, "side across filter deeper"]
    second_bias: Float[Array, "deeper"]
    hidden: Float[Array, "flat within"]
    hidden_bias: Float[Array, "within"]
    readout: Float[Array, "within label"]
    readout_bias: Float[Array, "label"]
    probability: Float[Array, "picture"]
    fall: Float[Array, "ground picture square"]
    lost: Float[Array, "ground picture square"]
    faint: Float[Array, "ground picture square"]
    first_order: Float[Array, "ground picture square"]
    maps: Float[Array, "method picture row column"]


class Given(NamedTuple):
    subject: Float[np.ndarray, "picture row column"]
    named: Float[np.ndarray, "picture"]
    covered: Float[np.ndarray, "square row column"]


def squares(size: int, side: int) -> np.ndarray:
    """1 where each of the squares of side × side pixels lies on a picture, 0 elsewhere; row by row."""
    inside = np.array([(np.arange(size) >= i) & (np.arange(size) < i + side) for i in range(size - side + 1)], float)
    return np.einsum("ir,jc->ijrc", inside, inside).reshape(-1, size, size)


def simulate(
    key: Array,
    learning_rate: float,
    weight_decay: float,
    opacity: float = 1.0,
    *,
    data: Data = "digits",
    features: int = 8,
    units: int = 16,
    steps: int = 600,
    shown: int = 16,
    covering: int = 3,
) -> Run:
    """A network of two convolutions learns; before and after, squares of `opacity` 1 cover parts of test pictures.

    `lost` and `fall` are by how much the logit and the probability of the right class are lower with the square;
    `faint` the logit's drop under a square of opacity 1e-6, per opacity; `first_order` what the gradient says of that.
    """
    network = ConvolutionalNetwork((features, features), hidden=units)
    learner = learning(key, network, data, learning_rate, weight_decay)
    held = pictures(data)
    images = jnp.asarray(held.test[:shown], jnp.result_type(float))[..., None]
    right = jax.nn.one_hot(held.test_labels[:shown], 10, dtype=images.dtype)
    where = squares(images.shape[1], covering)
    change = images[None] - jnp.asarray([*GROUNDS.values()], images.dtype)[:, None, None, None, None]
    change = change[:, :, None] * where[None, None, ..., None]  # ground picture square row column channel

    def observe(state: Descent) -> Observables:
        variables: Any = state.params
        forward: Any = lambda images: network.apply(variables, images)

        def seen(opacity: Array | float) -> tuple[Array, Array]:
            covered = images[None, :, None] - opacity * change
            said = forward(covered.reshape(-1, *images.shape[1:])).reshape(*change.shape[:3], 10)
            chosen = jnp.sum(said * right[None, :, None], axis=-1)
            return chosen, jnp.exp(chosen - jax.nn.logsumexp(said, axis=-1))

        said = forward(images)
        logit = jnp.sum(said * right, axis=1)
        probability = jnp.exp(logit - jax.nn.logsumexp(said, axis=1))
        both = jax.lax.map(seen, jnp.stack([jnp.asarray(opacity, images.dtype), jnp.asarray(FAINT, images.dtype)]))
        maps = backprojection(network, variables, images, {"readout": right}, METHODS)[..., 0]
        weights = {name: variables["params"][name] for name in LAYERS}
        kernels: Any = [leaf for name in LAYERS for leaf in (weights[name]["kernel"], weights[name]["bias"])]
        return Observables._make(
            [
                learner.accuracy(variables),
                kernels[0][:, :, 0],
                *kernels[1:],
                probability,
                probability[None, :, None] - both[1][0],
                logit[None, :, None] - both[0][0],
                (logit[None, :, None] - both[0][1]) / FAINT,
                jnp.einsum("gpsrc,prc->gps", change[..., 0], maps[0]),
                maps,
            ]
        )

    given = Given(held.test[:shown], held.test_labels[:shown].astype(float), where)
    return Run(learner.state, learner.step, observe, np.array([0, steps]), given)


def compare(dataset: xr.Dataset) -> xr.Dataset:
    """The drops written out, their distances, where squares hide ink, and which map foretells what they do."""
    shown, covered, named = dataset.subject, dataset.covered, dataset.named
    one = {each: 0 for each in shown.dims if each not in ("picture", "row", "column")}
    shown, covered, named = (each.isel({d: 0 for d in each.dims if d in one}) for each in (shown, covered, named))
    ground = xr.DataArray([*GROUNDS.values()], {"ground": [*GROUNDS]}, "ground")
    hidden = shown - (shown - ground) * covered
    every = xr.concat(
        [
            shown.expand_dims(ground=[*GROUNDS], square=[-1]),
            hidden.assign_coords(square=np.arange(covered.sizes["square"])),
        ],
        "square",
    )
    flat = every.stack(picture_=("ground", "picture", "square")).transpose("picture_", "row", "column")
    plain = xr.DataArray(flat.values, dims=("case", "row", "column")).rename(case="picture")
    weights = [dataset[name] for name in Observables._fields[1:9]]
    said = lift(logits, plain, *weights).rename(picture="picture_").assign_coords(picture_=flat.picture_)
    said = said.unstack("picture_").transpose(..., "ground", "picture", "square", "label")
    chosen = said.isel(label=xr.DataArray(named.values.astype(int), dims="picture"))
    written = chosen.sel(square=-1) - chosen.isel(square=slice(1, None))
    written = written.drop_vars(["square", "ground", "picture"])
    away = lambda found, told: (abs(found - told) / abs(told).max(["picture", "square"])).transpose(
        ..., "ground", "picture", "square"
    )
    ink = (shown * covered).sum(["row", "column"])
    under = (abs(dataset.maps) * covered).sum(["row", "column"])
    rank = lambda x, y: xr.apply_ufunc(rank_correlation, x, y, input_core_dims=[["square"], ["square"]]).mean("picture")
    hides = ink > ink.median("square")
    return dataset.assign(
        written=written,
        gap=away(dataset.lost, written).max(["ground", "picture", "square"], skipna=False),
        faint_gap=away(dataset.faint, dataset.first_order).quantile(
            0.99, ["ground", "picture", "square"], skipna=False
        ),
        full_gap=away(written, dataset.first_order).median(["picture", "square"], skipna=False),
        foretold=rank(dataset.lost, dataset.first_order),
        by_map=rank(dataset.lost, under),
        silent=(dataset.maps == 0).all(["row", "column"]),
        hidden_fall=(
            dataset.fall.where(hides).mean(["picture", "square"])
            - dataset.fall.where(~hides).mean(["picture", "square"])
        ),
    )


def findings(dataset: xr.Dataset) -> list[Finding]:
    """The drop against what is written out, and against the gradient; where probabilities fall; what foretells it."""
    end = dataset.isel(step=-1)
    learnt = end.accuracy > LEARNT
    found = [
        Finding.of(
            "drop of the logit under a square: largest distance to that written out, over the largest drop",
            (0.0, 1e-10),
            every_seed(per_seed(dataset.gap)),
        ),
        # A faint square is off only where one of about 500 sums lies within 1e-6 of its kink; rounding is 1e-16/1e-6.
        Finding.of(
            "opacity 1e-6: distance of the drop to the gradient's, over the largest, 99 % of squares below",
            (0.0, 1e-6),
            every_seed(per_seed(dataset.faint_gap)),
        ),
    ]
    for number, name in enumerate(GROUNDS):
        one = end.isel(ground=number)
        said = f"{name} square"
        level = float(one.full_gap.where(learnt).mean())
        what = f"{said}: rank correlation of the drop with the gradient's product (median distance {level:.2f})"
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(one.foretold.where(learnt), "mean"))))
        what = f"{said}: fall of the probability where it hides more ink than the median square, less elsewhere"
        found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(one.hidden_fall.where(learnt), "mean"))))
        for place, method in enumerate(METHODS):
            more = (one.foretold - one.by_map.isel(method=place)).where(learnt)
            level = float(one.by_map.isel(method=place).where(learnt).mean())
            zero = int(end.silent.isel(method=place).sum())
            what = f"{said}: that correlation less the one with the {method}'s own pixels below the square"
            what += f" ({level:.2f}; {zero} of {end.silent.isel(method=place).size} maps are zero)"
            found.append(Finding.of(what, (0.0, np.inf), over_seeds(per_seed(more, "mean"))))
    return found


def draw(dataset: xr.Dataset) -> plots.Figure:
    """Pictures, the probability and the drop under each square, the gradient's forecast; agreement and correlations."""
    figure, panels = plots.figure(1, 3, "What happens when part of a picture is covered", (5.0, 4.0))
    maps, agree, bars = panels[0]
    end = dataset.isel(step=-1)
    run = end.isel({each: -1 for each in end.diverged.dims if each != "seed"}).isel(seed=0, ground=0)
    count = min(5, run.sizes["picture"])
    size = round(run.sizes["square"] ** 0.5)
    middle = (run.sizes["row"] - size) // 2
    square = lambda values: np.pad(values.reshape(-1, size, size), ((0, 0), (middle,) * 2, (middle,) * 2))
    part = run.isel(picture=slice(count))
    rows = [
        part.subject.transpose("picture", "row", "column").values,
        *(square(part[name].transpose("picture", "square").values) for name in ("fall", "lost", "first_order")),
        *part.maps.isel(method=[0, 1]).transpose("method", "picture", "row", "column").values,
    ]
    names = ["picture", "probability falls", "logit drops", "by the gradient", "gradient", "deconvnet"]
    plots.tiles(maps, rows, names, [False, *[True] * 5])
    maps.set(title="a  a grey square, at every place", xlabel="five pictures of the test")
    plots.points(agree, end.first_order, end.written, "opaque square", color="C1", alpha=0.1)
    plots.points(agree, end.first_order, end.faint, "opacity 1e-6, per opacity", color="C0", alpha=0.1)
    plots.theory(agree, agree.get_xlim(), agree.get_xlim(), "linear")
    agree.set(
        title="b  the gradient is right of faint squares",
        ylabel="drop of the logit",
        xlabel="gradient · change of the pixels",
    )
    columns = {
        "gradient · change": end.foretold,
        **{f"|{name}|": end.by_map.isel(method=i) for i, name in enumerate(METHODS)},
    }
    for number, ground in enumerate(GROUNDS):
        for place, values in enumerate(columns.values()):
            rows_ = per_seed(values.isel(ground=number), "mean")
            label = f"{ground} square" if not place else None
            bars.plot(
                np.full(len(rows_), place + 0.15 * (2 * number - 1)),
                rows_,
                "o",
                color=f"C{number}",
                ms=4,
                alpha=0.6,
                label=label,
            )
    plots.theory(bars, (-0.4, len(columns) - 0.6), (0, 0), "chance", linestyle=":")
    bars.set_xticks(range(len(columns)), columns)
    bars.set(
        title="c  what foretells an opaque square",
        ylabel="rank correlation with the drop of the logit",
        xlabel="map, summed under the square",
        ylim=(-0.3, 1),
    )
    for each in (agree, bars):
        plots.legend(each)
    return figure


experiment = Experiment(
    simulate=simulate,
    compare=compare,
    findings=findings,
    draw=draw,
    design={"seeds": 8, "learning_rate": (0.02, 0.05), "weight_decay": (0.0, 1e-3)},
    smoke={"seeds": 2, "learning_rate": 0.05, "weight_decay": 0.0, "features": 4, "steps": 300, "shown": 6},
    paper={"seeds": 16, "features": 32, "units": 128, "steps": 5_000, "shown": 100},
    control={"opacity": 0.5},
)
