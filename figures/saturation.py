"""GRADES runs out of gains where a pool is small: a third of the picks add nothing at K = 4 of 8 (a). Which tie rule
then chooses matters less (b) than the objective: with the quality on the covered side alone no pick is empty and the
EMSE stays below RKoN's at every alpha (c). Toy distribution; 95 % intervals, over networks in b and c."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style

WAYS = {
    "index": style.STRATEGIES["dbkon"],
    "covered": style.STRATEGIES["dkon"] | {"label": "covered side"},
    "sum": style.SERIES[1] | {"label": "sum over kept"},
}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.saturation`."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.7)
    _shares(axes[0], result["shares"])
    _ties(axes[1], result["errors"])
    _objectives(axes[2], result["errors"])
    style.letters(axes)
    return fig


def _shares(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Share of picks that add nothing at alpha = 1 against N, for each K."""
    rows = [row for row in rows if row["alpha"] == 1]
    ks = sorted({row["k"] for row in rows})
    for look, k in zip(style.ordered(len(ks)), ks, strict=True):
        of_k = [row for row in rows if row["k"] == k]
        limits = ([row["toy"][end] for row in of_k] for end in ("estimate", "low", "high"))
        style.interval(ax, [row["n"] for row in of_k], *limits, **look | {"label": f"$K$ = {k}"})
    style.powers_of_two(ax, sorted({row["n"] for row in rows}))
    ax.set_ylim(bottom=-0.02)
    ax.set_xlabel("candidates $N$")
    ax.set_ylabel("share of picks that add nothing")
    ax.set_title(r"DBKoN, $\alpha$ = 1")
    ax.legend(loc="upper right")


def _ties(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Bias^2 and variance over RKoN's variance under each tie rule, where pools are smallest."""
    n = min(row["n"] for row in rows)
    names = ("index", "reward", "diverse", "random", "covered")
    for place, name in enumerate(names):
        row = next(r for r in rows if (r["n"], r["way"], r["alpha"]) == (n, name, 1.0))
        bias, variance = (row[f"{part}_over_rkon"]["estimate"] for part in ("bias_squared", "variance"))
        colour = WAYS["covered" if name == "covered" else "index"]["color"]
        ax.bar(place, bias, 0.6, color=colour, label="Bias²" if name == "index" else "_")
        ax.bar(
            place,
            variance,
            0.6,
            bottom=bias,
            color="white",
            edgecolor=colour,
            hatch="////",
            label="variance" if name == "index" else "_",
        )
        emse = row["emse_over_rkon"]
        style.interval(
            ax,
            [place],
            *([emse[end]] for end in ("estimate", "low", "high")),
            color=style.BLACK,
            linestyle="none",
        )
    ax.axhline(1.0, **style.FLOOR)
    style.note(ax, "RKoN", (len(names) - 0.6, 1.0), (0, 3), ha="right")
    labels = ["index", "reward", "diverse", "random", "no ties:\ncovered\nside"]
    ax.set_xticks(range(len(names)), labels, fontsize=6)
    ax.set_xlabel("what decides between equal gains")
    ax.set_ylabel("EMSE of the loss / RKoN's")
    ax.set_title(rf"tie rules, $K$ = 4 of {n}, $\alpha$ = 1")
    ax.legend(loc="upper center", ncols=2)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])


def _objectives(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """EMSE over RKoN's against alpha in the paper's pool."""
    n = max(row["n"] for row in rows)
    alphas = sorted({row["alpha"] for row in rows})
    for place, (name, look) in enumerate(WAYS.items()):
        of_way = [r for r in rows if (r["n"], r["way"]) == (n, name)]
        values = [np.array([r["emse_over_rkon"][end] for r in of_way]) for end in ("estimate", "low", "high")]
        style.interval(ax, np.arange(len(alphas)) + 0.06 * (place - 1), *values, **look)
    ax.axhline(1.0, **style.FLOOR)
    style.note(ax, "RKoN", (0, 1.0), (-6, 3))
    ax.set_yscale("log")
    ax.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    ax.set_xlabel(r"$\alpha$ (0 is DKoN)")
    ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    ax.set_ylim(0.09, 2.5)
    ax.set_ylabel("EMSE of the loss / RKoN's (log scale)")
    ax.set_title(f"objectives, $K$ = 4 of {n}")
    ax.legend(loc="center right", bbox_to_anchor=(1.02, 0.58), handlelength=1.8)
