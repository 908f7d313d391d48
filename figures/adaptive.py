"""K by the authors' rule lowers the variance of the prompts' mean, but rows of unequal K are biased. a: variance over
that of equal K, exact as vertical ticks. b: bias of the rows' mean, exact as vertical ticks; intervals of a and b are
narrower than most markers. c: networks trained on minibatches in which prompts, or rows, are drawn alike; excess test
loss at the best validation step over that of equal K. 95 % intervals."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from figures import style

_ROWS = {
    "oracle": "oracle: $\\mathrm{Var}(l|x)$",
    "expected loss": "mean loss, expected",
    "expected diversity": "diversity, expected",
    "same pool's spread": "spread of the same pool",
    "other pool's spread": "spread of another pool",
    "pool's loss": "mean loss of the pool",
    "pool's diversity": "diversity of the pool",
}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.adaptive`."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=3.3, sharey=True)
    corpora = result["corpora"]
    shifts = np.linspace(-0.14, 0.14, len(corpora))
    for look, shift, corpus in zip(style.ordered(len(corpora)), shifts, corpora, strict=True):
        scores, label = corpus["scores"], {"label": f"mean $K$ = {corpus['mean']:g}"}
        uniform = scores["uniform"]["exact"]["variance"]
        rows = {name: scores[name] for name in _ROWS}
        _cells(axes[0], {name: row["over_uniform"] for name, row in rows.items()}, shift, look | label)
        percent = {
            name: {part: 100 * row["row_bias"][part] for part in ("estimate", "low", "high")}
            for name, row in rows.items()
        }
        _cells(axes[1], percent, shift, look | {"label": "_"})
        for place, row in enumerate(rows.values()):
            given = row["given_pool"]["estimate"] if row["exact"] is None else row["exact"]["variance"]
            _tick(axes[0], given / uniform, place + shift)
            if row["exact"] is not None:
                _tick(axes[1], 100 * row["exact"]["bias"], place + shift)
    learners = result["learner"]["learners"]
    shifts = np.linspace(-0.21, 0.21, 2 * len(learners))
    looks = zip(style.SERIES, shifts, product(learners, ("prompts", "rows")), strict=False)
    for look, shift, (learner, weighting) in looks:
        cells = learners[learner][0]["best"]["over_uniform"]
        words = {"label": f"{learner} network, {weighting} alike"}
        _cells(axes[2], {name: row[weighting] for name, row in cells.items()}, shift, look | words)
    mean = corpora[0]["mean"]
    for ax, title, unit, at in zip(
        axes,
        ("prompts' mean, simulated", "rows' mean, simulated", f"trained, mean $K$ = {mean:g}"),
        ("variance / equal $K$'s", "bias (% of the mean loss)", "excess loss / equal $K$'s"),
        (1.0, 0.0, 1.0),
        strict=True,
    ):
        ax.axvline(at, **style.FLOOR, zorder=1)
        ax.set_title(title)
        ax.set_xlabel(unit)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[0].set_yticks(range(len(_ROWS)), list(_ROWS.values()))
    axes[0].set_ylim(len(_ROWS) - 0.5, -0.5)
    style.letters(axes)
    entries = [entry for ax in axes[::2] for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    fig.legend(*zip(*entries, strict=True), loc="outside upper center", ncols=3)
    return fig


def _tick(ax: Axes, value: float, y: float) -> None:
    ax.vlines(value, y - 0.12, y + 0.12, color=style.BLACK, linewidth=1.0, zorder=4)


def _cells(ax: Axes, cells: dict[str, Any], shift: float, look: dict[str, Any]) -> None:
    y = np.array([list(_ROWS).index(name) for name in cells]) + shift
    style.interval_rows(ax, y, list(cells.values()), **look)
