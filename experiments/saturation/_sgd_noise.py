"""The cells of `sgd_noise`, and those of its findings that are about several of them."""

from typing import Any

import numpy as np
import xarray as xr

from research.experiment import Finding
from research.labels import arms, at_step, per_seed, select
from research.statistics import every_seed, median, over_seeds, share, slope


def cells(dataset: xr.Dataset, **conditions: Any) -> list[xr.Dataset]:
    """One dataset a cell of the design that has these parameters, without diverged runs; the noisiest cell first."""
    found = [point for _, point in arms(select(dataset, **conditions))]
    found = [point.isel(seed=np.flatnonzero(~point.diverged.values)) for point in found if point.seed.size]
    loudness = lambda point: float(point.learning_rate) ** 2 * float(point.noise.fillna(0.0).mean())
    return sorted((point for point in found if point.seed.size), key=loudness, reverse=True)


def standard_cells(dataset: xr.Dataset) -> list[xr.Dataset]:
    """The noisy cells with replacement of the problem, network and activation that the design names first."""
    first = leading(dataset, "problem", "activation", "depth", "width", "replacement", "fresh")
    return cells(dataset, batch=lambda batch: batch > 0, **first)


def nulls(dataset: xr.Dataset) -> list[xr.Dataset]:
    """The cells of logistic units without noise in time: all samples, or the same batch at every step."""
    repeated = cells(dataset, batch=lambda batch: batch > 0, activation="sigmoid", fresh=0.0)
    repeated = repeated if leading(dataset, "fresh")["fresh"] else []
    return cells(dataset, batch=0, activation="sigmoid") + repeated


def rivals(dataset: xr.Dataset, null: xr.Dataset) -> list[xr.Dataset]:
    """The noisy cells of the same network, learning rate and samples as one that takes all samples at every step."""
    if int(null.batch):
        return []
    noisy = cells(dataset, batch=lambda batch: batch > 0, **leading(dataset, "activation", "fresh"))
    alike = lambda cell: (network_of(cell), float(cell.learning_rate), int(cell.per_class))
    return [cell for cell in noisy if alike(cell) == alike(null)]


def leading(dataset: xr.Dataset, *names: str) -> dict[str, Any]:
    """What the design names first of each of these parameters."""
    return {name: np.atleast_1d(dataset[name].values)[0].item() for name in names}


def named(cell: xr.Dataset) -> str:
    """What the cell is, in words."""
    way = "" if bool(cell.replacement) else " without replacement"
    way = way if bool(cell.fresh) else ", the same at every step"
    batch = f"B = {int(cell.batch)}{way}" if int(cell.batch) else f"all {int(cell.population.max())} samples"
    return f"η = {float(cell.learning_rate):g}, {batch}"


def network_of(cell: xr.Dataset) -> tuple:
    return str(cell.problem.values), int(cell.depth), int(cell.width)


def silent_findings(dataset: xr.Dataset) -> list[Finding]:
    """Runs without noise: their flow, whether the layer falls, and whether they learn where noisy ones do not."""
    found, last = [], dataset.sel(step=dataset.steps)
    ends, begins = standard_cells(last), standard_cells(dataset.sel(step=0))
    for null, begin in zip(nulls(last), nulls(dataset.sel(step=0)), strict=True):
        name, square = named(null), float(null.allowed.mean()) ** 2
        name = (
            name
            if network_of(null) == network_of(ends[0])
            else "{}, {} layers of {}, ".format(*network_of(null)) + name
        )
        moved = np.log(null.top / begin.top)
        what = f"{name}: ln(h at the end / h at the start), which does not fall, every seed"
        found.append(Finding.of(what, (-square, np.inf), every_seed(moved)))
        told = null.isel(seed=np.flatnonzero(null.predicted.notnull() & (null.batch == 0)))
        if told.seed.size:
            what = f"{name}: h over its flow, which has c = 0 ({told.seed.size} seeds)"
            found.append(Finding.of(what, (np.exp(-square), np.exp(square)), over_seeds(told.ratio)))
        for loud, before in zip(ends, begins, strict=True):
            if told.seed.size and loud.learning_rate == null.learning_rate and loud.batch == ends[0].batch:
                fall, theory = np.log(loud.top / before.top), np.log(loud.predicted / before.top)
                share_of = moved / fall
                expected = float((np.log(told.predicted / begin.top) / theory).mean())
                width = square / float(np.abs(theory).mean())
                what = f"{name}: ln-change of h, over that at B = {int(loud.batch)}"
                found.append(Finding.of(what, (expected - width, expected + width), over_seeds(share_of)))
        learnt = lambda cell: cell.loss.values < np.log(cell.classes.values) / 2
        for cell, before in list(zip(rivals(last, null), rivals(dataset.sel(step=0), null), strict=True))[:1]:
            beside = "{}, {} layers of {}, ".format(*network_of(cell)) + named(cell)
            beside += f" of the same {int(cell.population.max())} samples"
            if network_of(null) != network_of(ends[0]):  # there no prediction says that the layer falls
                fallen = np.log(cell.top / before.top)
                what = f"{beside}: ln(h at the end / h at the start), which falls, every seed"
                found.append(Finding.of(what, (-np.inf, -square), every_seed(fallen)))
            if learnt(null).any():
                what = f"{name}: share of seeds that learn (loss below ½ ln K)"
                found.append(Finding.of(what, (0.5, 1.0), share(learnt(null))))
                found.append(Finding.of(f"{beside}: that share", (0.0, 0.5), share(learnt(cell))))
    return found


def tanh_findings(dataset: xr.Dataset) -> list[Finding]:
    """Whether the last layer of noisy tanh networks stays away from both of its ends."""
    found = []
    for cell in cells(dataset.sel(step=dataset.steps), activation="tanh", batch=lambda batch: batch > 0):
        loss = float(cell.loss.mean())
        what = f"{named(cell)}: tanh, mean |output| of the last hidden layer stays nearer to 0 than to its ends"
        found.append(Finding.of(f"{what} (loss at the end {loss:.2g})", (0.0, 0.5), every_seed(cell["size"])))
    return found


def collapse_findings(noisy: list[xr.Dataset]) -> list[Finding]:
    """How far the cells are apart at one η²t/B, where the readout has relaxed ten times in each of them."""
    where = min((float(cell.clock.max()) for cell in noisy), default=np.nan) * 0.8
    step = lambda cell: where / (float(cell.learning_rate) ** 2 * float(cell.noise.mean()))
    kept = [cell for cell in noisy if step(cell) * float(cell.learning_rate) >= 10 * float(cell.classes.mean())]
    if len(kept) < 2:
        return []
    heights = np.stack([np.log(at_step(cell.top, xr.DataArray(step(cell))).values) for cell in kept])
    apart = np.abs(heights - heights.mean(axis=0)).max(axis=0)
    most = max(float(cell.allowed.mean()) for cell in kept)
    what = f"{len(kept)} cells at η²t/B = {where:.3g}: largest |ln h| from their mean"
    return [Finding.of(what, (0.0, most), every_seed(apart))]


def order_findings(ends: list[xr.Dataset]) -> list[Finding]:
    """How the distance to the prediction goes with η where η²/B is the same."""
    strength = lambda cell: round(float(cell.learning_rate) ** 2 * float(cell.noise.mean()), 12)
    alike = [[cell for cell in ends if strength(cell) == value] for value in sorted({strength(cell) for cell in ends})]
    alike = [group for group in alike if len(group) > 2]
    if not alike:
        return []
    rates = np.log([float(cell.learning_rate) for cell in alike[0]])
    away = np.stack([np.log(np.abs(np.log(per_seed(cell.plain_ratio)))) for cell in alike[0]], axis=1)
    what = f"{len(rates)} cells of equal η²t/B: slope of ln|ln(h/prediction without F)| on ln η (neither 0 nor 2)"
    return [Finding.of(what, (0.5, 1.5), median(slope(rates, away)))]
