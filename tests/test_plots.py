import matplotlib.pyplot as plt
import numpy as np
import pytest

from research import plots


@pytest.fixture
def axes():
    figure, ((axes,),) = plots.figure(1, 1, "")
    yield axes
    plt.close(figure)


def shown(axes):
    """The labels of the y axis that are in sight."""
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if tick.label1.get_text() and low <= tick.get_loc() <= high]


def test_a_narrow_logarithmic_axis_has_a_few_plain_numbers(axes):
    axes.plot([1, 2], [0.15, 0.8])
    axes.set(yscale="log")
    plots.finish(axes.figure)
    assert shown(axes) == ["0.2", "0.5"]


def test_a_wide_one_has_powers_of_ten(axes):
    axes.plot([1, 2], [0.005, 2.0])
    axes.set(yscale="log")
    plots.finish(axes.figure)
    assert [label.count("10") for label in shown(axes)] == [1, 1, 1]


def test_chosen_ticks_stay(axes):
    axes.plot([1, 2], [0.15, 0.8])
    axes.set(yscale="log")
    axes.set_yticks([0.3, 0.7], ["a", "b"])
    axes.set_yticks([], minor=True)
    plots.finish(axes.figure)
    assert shown(axes) == ["a", "b"]


@pytest.mark.parametrize("scale", ["xscale", "yscale"])
def test_an_empty_logarithmic_panel_says_so(axes, scale):
    axes.plot([1, 2], [np.nan, np.nan])
    axes.axhline(1.0)
    axes.set(**{scale: "log"})
    plots.finish(axes.figure)
    assert [text.get_text() for text in axes.texts] == ["no such runs in this design"]
    axes.figure.canvas.draw()


def test_tiles_are_grey_or_red_and_blue_with_a_label_a_row():
    figure, ((axes,),) = plots.figure(1, 1, "tiles")
    plots.tiles(axes, [np.ones((2, 3, 3)), np.stack([np.eye(3), -np.eye(3)])], ["grey", "signed"], [False, True])
    painted = axes.images[0].get_array()
    assert painted.shape == (7, 7, 3)
    assert (painted[0, 0] == 1).all()
    assert painted[4, 0, 0] > painted[4, 0, 2]
    assert painted[4, 4, 0] < painted[4, 4, 2]
    assert [each.get_text() for each in axes.get_yticklabels()] == ["grey", "signed"]
    plots.plt.close(figure)
