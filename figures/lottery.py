"""How far apart runs of the same recipe end (E3, RKoN): as published the spread falls with K, at the best
validation step it rises. Below: standard deviations over runs, with 95 % intervals from resampled pairs of runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures import style

_TITLES = {"last": "last step (as published)", "best": "best validation step"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.lottery`: test NLL of the runs above, its standard deviation below, 95 % intervals."""
    fig, axes = style.figure(2, 2, width=style.PAGE, height=4.4, sharex=True)
    ks = np.array(result["responses"], float)
    for column, (recipe, title) in enumerate(_TITLES.items()):
        above, below = axes[:, column]
        measured = result["recipes"][recipe]
        q05, q25, q50, q75, q95 = np.array(measured["nll"]["quantiles"])
        blue = style.BLUE
        above.vlines(ks, q05, q95, color=blue, linewidth=1.0, label="5 to 95 % of runs")
        above.vlines(ks, q25, q75, color=blue, linewidth=4.5, alpha=0.5, label="25 to 75 %")
        above.plot(ks, q50, color=blue, marker="o", linestyle="-", label="median run")
        above.set_title(title)
        rises = measured["nll"]["std"]["estimate"][-1] > measured["nll"]["std"]["estimate"][0]
        below.set_title(f"the spread {'rises' if rises else 'falls'} with $K$")
        spread = measured["nll"]["std"]
        limits = (spread[part] for part in ("estimate", "low", "high"))
        style.interval(below, ks / 1.03, *limits, **style.STRATEGIES["rkon"] | {"label": "all runs"})
        if measured.get("draw_std") is not None:
            limits = (measured["draw_std"][part] for part in ("estimate", "low", "high"))
            look = style.SERIES[1] | {"label": "draw of responses alone"}
            style.interval(below, ks * 1.03, *limits, **look)
        if recipe == "last":
            reported = result["reported"]
            below.plot(
                reported["responses_per_prompt"],
                reported["std"],
                **style.REPORTED | {"label": "re-run of the reference (20 runs)"},
            )
        above.set_ylabel(f"test NLL (nats, {'log' if recipe == 'last' else 'linear'} scale)")
        for ax in (above, below) if recipe == "last" else (below,):
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
        below.set_xlabel("responses per prompt $K$")
        style.powers_of_two(below, ks)
    axes[1, 0].set_ylabel("SD over runs\n(nats, log scale)")
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].legend(loc="lower left")
    style.letters(axes.flat)
    return fig
