"""The calculator's picture shows the numbers of the plan."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost, allocate, regret_curve
from mrtsim.plotting import plot_allocation, save
from mrtsim.variance import VarianceComponents

TOY, COST = VarianceComponents(0.187, 1.329), Cost(4.0, 1.0)


def lines(figure):
    axes = figure.axes[0]
    return {line.get_label(): line for line in axes.lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    "goal", [{"budget": 400.0}, {"target_variance": 0.02}, {"budget": 90.0, "max_prompts": 5}]
)
def test_curve_and_marks(goal):
    figure = plot_allocation(TOY, COST, **goal)
    plan = allocate(TOY, COST, **goal)
    curve = lines(figure)["whole-number plans"]
    k, value = (np.asarray(axis) for axis in curve.get_data())
    expected = regret_curve(TOY, COST, k.astype(int), **goal)
    assert np.array_equal(value, expected.variance if "budget" in goal else expected.cost)
    (star,) = (line for label, line in lines(figure).items() if str(label).startswith("best: "))
    assert star.get_xdata() == [plan.responses_per_prompt]
    assert star.get_ydata() == [plan.variance if "budget" in goal else plan.cost]
    low, high = plan.k_range_5pct
    assert f"within 5 %: K = {low} to {high}" in legend(figure)
    assert "K* = 5.33" in legend(figure)
    assert "interval" not in "".join(legend(figure))


def test_interval_without_an_upper_end_reaches_the_edge():
    figure = plot_allocation(TOY, COST, budget=400.0, k_star_interval=(2.9, math.inf), confidence=0.9)
    bar = lines(figure)["90 % interval of K*"]
    right = figure.axes[0].get_xlim()[1]
    assert np.asarray(bar.get_xdata()).tolist() == [2.9, right]
    assert [line.get_marker() for line in figure.axes[0].lines].count(">") == 1
    bounded = plot_allocation(TOY, COST, budget=400.0, k_star_interval=(2.9, 40.0))
    assert bounded.axes[0].get_xlim()[1] > 40
    assert ">" not in [line.get_marker() for line in bounded.axes[0].lines]


@pytest.mark.parametrize(
    ("components", "cost", "goal"),
    [
        ((0.0, 1.0), (4.0, 1.0), {"budget": 1e12}),
        ((1.0, 0.0), (4.0, 1.0), {"budget": 1e12}),
        ((1.0, 1.0), (1.0, 0.0), {"budget": 10.0, "max_responses": 1}),
        ((0.0, 0.0), (1.0, 1.0), {"budget": 10.0}),
        ((1e-30, 1e30), (1e9, 1e-9), {"target_variance": 1e-3}),
        ((1.0, 1.0), (1.0, 1.0), {"budget": 100.0, "population": 3, "candidates": 2}),
    ],
)
def test_degenerate_plans_can_be_drawn(components, cost, goal, tmp_path):
    save(plot_allocation(VarianceComponents(*components), Cost(*cost), **goal), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000


def test_colours_differ_in_grey_too():
    figure = plot_allocation(TOY, COST, budget=400.0)
    grey = [np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114)) for line in figure.axes[0].lines]
    styles = {
        (line.get_marker(), line.get_linestyle(), round(g, 2))
        for line, g in zip(figure.axes[0].lines, grey, strict=True)
    }
    assert len(styles) == len(figure.axes[0].lines)


def test_unwritable_figure_is_one_message(tmp_path):
    figure = plot_allocation(TOY, COST, budget=400.0)
    with pytest.raises(InputError, match="cannot write the figure"):
        save(figure, tmp_path / "no" / "plan.png")
