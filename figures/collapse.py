"""More data does not remove BKoN's bias: its EMSE stays where RKoN's falls, and it keeps one mode as N grows. a: 95 %
intervals over training sets, lines of RKoN and BKoN exact. b, c: exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.collapse`; bars are 95 % intervals, lines of RKoN and BKoN are exact."""
    fig, (left, middle, right) = style.figure(1, 3, width=style.PAGE, height=3.0)
    _errors(left, result)
    grid = result["grid"]
    responses = sorted({row["k"] for row in grid})
    for k, look in zip(responses, style.ordered(len(responses)), strict=True):
        rows = [row for row in grid if row["k"] == k]
        n = [row["n"] for row in rows]
        middle.plot(n, [abs(row["bias"]) for row in rows], **look, label=f"$K$ = {k}")
        right.plot(n, [row["kl"] for row in rows], **look)
    for ax in (middle, right):
        style.powers_of_two(ax, sorted({row["n"] for row in grid}))
        ax.set_xlabel("candidates $N$")
        ax.set_ylim(bottom=0)
    middle.set_ylabel("|bias| of the loss (nats)")
    middle.legend()
    right.axhline(np.log(3), **style.FLOOR)
    right.annotate(
        "one mode: log 3", (0.98, np.log(3)), (0, 5), ("axes fraction", "data"), "offset points", ha="right"
    )
    right.set_ylabel("KL(kept ‖ truth) of the modes (nats)")
    right.set_ylim(top=1.25)
    middle.set_title("BKoN's bias, exact")
    right.set_title("modes BKoN keeps, exact")
    style.letters((left, middle, right))
    if {"bkon", "dbkon"} <= set(result["measured"]):
        row = result["measured"]["dbkon"][-1]
        style.note(
            left,
            "DBKoN lies on BKoN",
            (row["n_prompts"], row["emse"]),
            (-4, 6),
            ha="right",
            color=style.PURPLE,
        )
    fig.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return fig


def _errors(ax: Axes, result: dict[str, Any]) -> None:
    names = style.by_order(result["measured"])
    for number, name in enumerate(names):
        look, rows = style.STRATEGIES[name], result["measured"][name]
        sizes = np.array([row["n_prompts"] for row in rows], float)
        value = np.array([row["emse"] for row in rows])
        half = style.Z95 * np.array([row["emse_error"] for row in rows])
        shift = style.dodge(number, len(names))
        known = result["exact"].get(name)
        style.interval(
            ax,
            sizes * shift,
            value,
            np.maximum(value - half, value / 10),
            value + half,
            **(look | {"linestyle": "none"} if known else look),
        )
        if known:
            many = np.geomspace(sizes[0], sizes[-1], 100)
            bias = known["bias"] if name == "bkon" else 0.0
            ax.plot(
                many, bias**2 + known["variance"] / many, color=look["color"], linestyle=look["linestyle"]
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("prompts $N_p$")
    ax.set_ylabel("EMSE of the mean loss (nats², log scale)")
    ax.set_title(f"$N$ = {result['n_candidates']}, $K$ = {result['k']}")
