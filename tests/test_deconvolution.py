"""The written-out deconvnet: adjoint filters, switches, the true gradient, and what makes it void."""

import numpy as np
import pytest

from research.oracles.deconvolution import convolution, logits, transposed_convolution, unit_projections, unpooled

RNG = np.random.default_rng(0)
RULES = {"deconvnet": (0, 1), "guided": (1, 1), "gradient": (1, 0)}


def network(rng=RNG, flat=4 * 2 * 2):
    draw = lambda *shape: rng.normal(size=shape) / 2
    return [
        draw(3, 3, 3),
        draw(3),
        draw(3, 3, 3, 4),
        draw(4),
        draw(flat, 5),
        draw(5),
        draw(5, 2),
        draw(2),
    ]


PICTURES, WEIGHTS = RNG.normal(size=(4, 8, 8)), network()
UNITS = np.array([0.0, 1.0, 2.0, 3.0]), np.array([11.0, 5.0, 0.0, 0.0]), np.array([2.0, 3.0, 1.0, 1.0])


def outputs(picture, weights):
    """The four layers' sums, from explicit loops."""
    from scipy.signal import correlate2d

    maps, seen = picture[None], []
    kernels = weights[0][:, :, None, :], weights[2]
    for kernel, bias in zip(kernels, (weights[1], weights[3]), strict=True):
        filters = range(kernel.shape[3])
        sums = [sum(correlate2d(m, kernel[:, :, c, f], "same") for c, m in enumerate(maps)) + bias[f] for f in filters]
        seen.append(np.stack(sums, axis=-1))
        maps = np.stack([np.maximum(each, 0).reshape(len(each) // 2, 2, -1, 2).max(axis=(1, 3)) for each in sums])
    seen.append(np.moveaxis(maps, 0, -1).ravel() @ weights[4] + weights[5])
    seen.append(np.maximum(seen[-1], 0) @ weights[6] + weights[7])
    return seen


def units(picture, weights):
    """The outputs of the four units in `UNITS`."""
    layers = outputs(picture, weights)
    maps = [each.reshape(-1, each.shape[-1]) for each in layers]
    return np.array([maps[int(layer)][int(place), int(channel)] for layer, place, channel in zip(*UNITS, strict=True)])


def test_the_transposed_convolution_is_the_adjoint():
    kernel, maps, back = RNG.normal(size=(3, 3, 2, 5)), RNG.normal(size=(1, 4, 6, 2)), RNG.normal(size=(1, 4, 6, 5))
    forwards, backwards = convolution(maps, kernel), transposed_convolution(back, kernel)
    assert np.sum(forwards * back) == pytest.approx(np.sum(maps * backwards), rel=1e-12)


def test_unpooling_puts_values_where_the_maxima_were():
    maps, switches = np.array([[[[7.0]]]]), np.array([[[[2]]]])
    np.testing.assert_array_equal(unpooled(maps, switches)[0, ..., 0], [[0, 0], [7, 0]])


def test_the_gradient_is_that_of_finite_differences():
    found = unit_projections(PICTURES, *WEIGHTS, *UNITS, *RULES["gradient"])
    for number, picture in enumerate(PICTURES):
        seed = max(units(picture, WEIGHTS)[number], 0.0)
        for step in 1e-6 * RNG.normal(size=(4, 8, 8)):
            change = (units(picture + step, WEIGHTS) - units(picture - step, WEIGHTS))[number] / 2
            assert seed * change / 1e-6 == pytest.approx(np.sum(found[number] * step) / 1e-6, abs=1e-7)


def test_logits_are_those_of_explicit_loops():
    expected = [outputs(picture, WEIGHTS)[-1] for picture in PICTURES]
    np.testing.assert_allclose(logits(PICTURES, *WEIGHTS), expected, atol=1e-13)
    assert np.isnan(logits(PICTURES * np.nan, *WEIGHTS)).all()
    with pytest.raises(ValueError, match="hidden has shape"):
        logits(PICTURES, *WEIGHTS[:4], WEIGHTS[4][:3], *WEIGHTS[5:])


def test_in_the_first_layer_all_three_are_the_filter_times_the_output():
    found = {name: unit_projections(PICTURES, *WEIGHTS, *UNITS, *rule)[0] for name, rule in RULES.items()}
    expected = np.zeros((10, 10))
    row, column = divmod(11, 8)
    expected[row : row + 3, column : column + 3] = max(units(PICTURES[0], WEIGHTS)[0], 0) * WEIGHTS[0][:, :, 2]
    for picture in found.values():
        np.testing.assert_allclose(picture, expected[1:-1, 1:-1], atol=1e-14)


def test_positive_filters_make_all_three_the_same_and_negative_pixels_are_kept():
    positive = [np.abs(each) for each in WEIGHTS]
    found = [unit_projections(np.abs(PICTURES), *positive, *UNITS, *rule) for rule in RULES.values()]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-12)
    assert all((unit_projections(PICTURES, *WEIGHTS, *UNITS, *rule) < 0).any() for rule in RULES.values())


def test_maxima_that_rounding_tells_apart_are_void_and_so_is_nan():
    pictures = PICTURES.copy()
    pictures[1] = 1.0 + 1e-14 * RNG.normal(size=(8, 8))
    weights = [np.abs(each) for each in WEIGHTS]
    found = unit_projections(pictures, *weights, *UNITS, 0, 1)
    assert np.isnan(found[1]).all()
    assert not np.isnan(found[[0, 2, 3]]).any()
    weights[3] = np.full(4, np.nan)
    assert np.isnan(unit_projections(pictures, *weights, *UNITS, 0, 1)).all()


def test_of_equal_maxima_the_first_is_taken():
    weights = [np.abs(each) for each in WEIGHTS]
    weights[0], weights[2] = weights[0][:1, :1], weights[2][:1, :1]  # filters of one pixel: maps of one grey
    found = unit_projections(np.ones((1, 8, 8)), *weights, np.array([2.0]), np.zeros(1), np.zeros(1), 0, 1)[0]
    assert found[::4, ::4].all()
    assert np.count_nonzero(found) == 4


def changed(**named):
    weights = ("first", "first_bias", "second", "second_bias", "hidden", "hidden_bias", "readout", "readout_bias")
    values = dict(zip((*weights, "layer", "place", "channel"), [*WEIGHTS, *UNITS], strict=True))
    values |= {"pictures": PICTURES, "masked": 0, "rectified": 1}
    return lambda: unit_projections(**{**values, **named})


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("pictures has shape", changed(pictures=PICTURES[0])),
        ("pictures are pooled from 3", changed(pictures=PICTURES[:, :6, :6])),
        ("second has shape", changed(second=WEIGHTS[2][:, :, :2])),
        ("hidden has shape", changed(hidden=WEIGHTS[4][:3])),
        ("masked is 0.5", changed(masked=0.5)),
        ("place, channel is", changed(channel=np.full(4, 9.0))),
        ("readout has an infinite", changed(readout=np.full((5, 2), np.inf))),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
