"""Greedy selection reaches nearly the best subset; what it trades for variance depends on the reward's weight.

Left: intervals are narrower than the markers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style

_GREEDY: dict[str, Any] = {"color": style.BLACK, "marker": "o", "linestyle": "-", "label": "greedy"}


def draw(result: dict[str, Any]) -> Figure:
    """Share of the best subset's value; bias against variance at K = 4; EMSE against alpha."""
    fig, (guarantee, trade, sweep) = style.figure(
        1, 3, width=style.PAGE, height=2.75, gridspec_kw={"width_ratios": (1.0, 1.0, 1.0)}
    )
    _guarantee(guarantee, result)
    _trade(trade, [row for row in result["trade"] if row["k"] == 4])
    _alpha(sweep, result["trade"])
    return fig


def _guarantee(ax: Any, result: dict[str, Any]) -> None:
    """The least and the mean over pools of all kinds, for DKoN's objective, where the choice is harder."""
    rows = [row for row in result["guarantee"] if row["objective"] == "dkon"]
    k = sorted({row["k"] for row in rows})

    def over_kinds(name: str) -> list[float]:
        return [float(np.mean([r["shares"][name]["estimate"] for r in rows if r["k"] == each])) for each in k]

    for name in ("rkon", "bkon", "filtered-max-min"):
        ax.plot(k, over_kinds(name), **{**style.STRATEGIES[name], "linewidth": 0.9})
    worst = [min(r["worst"] for r in rows if r["k"] == each) for each in k]
    ax.plot(k, over_kinds("greedy"), **{**_GREEDY, "label": "DKoN (greedy)"})
    ax.plot(
        k, worst, **{**_GREEDY, "marker": "_", "markersize": 7, "linestyle": ":", "label": "DKoN, worst pool"}
    )
    continuous = np.linspace(min(k), max(k), 200)
    ax.plot(continuous, 1 - (1 - 1 / continuous) ** continuous, **{**style.FLOOR, "label": r"$1-(1-1/K)^K$"})
    ax.set_xticks(k)
    ax.set_ylim(0.42, 1.03)
    ax.set_xlabel("responses kept $K$")
    ax.set_ylabel("$F(S)\\,/\\,F$(best subset)")
    ax.set_title(f"every subset of {result['pool_candidates']} tried")
    ax.legend(loc="lower right", fontsize=6)


def _trade(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Squared bias and variance of the loss over RKoN's EMSE."""

    def point(row: dict[str, Any], **look: Any) -> None:
        x, y = (row["loss"][f"{part}_over_rkon"] for part in ("bias_squared", "variance"))
        errors = [[[e["estimate"] - e["low"]], [e["high"] - e["estimate"]]] for e in (x, y)]
        ax.errorbar(
            x["estimate"], y["estimate"], yerr=errors[1], xerr=errors[0], capsize=1.8, elinewidth=0.9, **look
        )

    largest = max(row["loss"]["bias_squared_over_rkon"]["high"] for row in rows)
    bias = np.linspace(0, 0.999, 300)
    ax.plot(bias, 1 - bias, **{**style.EXACT, "linewidth": 0.8, "label": "as wrong as RKoN"})
    path = sorted((row for row in rows if row["alpha"] is not None), key=lambda row: row["alpha"])
    xy = [
        [row["loss"][f"{part}_over_rkon"]["estimate"] for row in path]
        for part in ("bias_squared", "variance")
    ]
    ax.plot(*xy, color=style.PURPLE, linewidth=0.8, linestyle=":")
    for row in path:
        look = style.STRATEGIES["dkon" if row["alpha"] == 0 else "dbkon"]
        point(row, **{**look, "linestyle": "none", "label": "_"})
        x, y = (row["loss"][f"{part}_over_rkon"]["estimate"] for part in ("bias_squared", "variance"))
        if row["alpha"] in (0.0, 0.25, 0.5, 1.0):
            name = "DKoN" if row["alpha"] == 0 else rf"$\alpha={row['alpha']:g}$"
            ax.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=6.5)
    for name in ("rkon", "bkon", "filtered-max-min"):
        row = next(r for r in rows if r["strategy"] == name)
        point(row, **{**style.STRATEGIES[name], "linestyle": "none"})
    ax.set_xlim(-0.06, 1.03 * largest)
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 2)
    ax.set_xlabel("bias$^2$ / EMSE of RKoN")
    ax.set_ylabel("variance / EMSE of RKoN")
    ax.set_title("loss of untrained MDNs, $K=4$ of 32")
    ax.legend(loc="upper right", fontsize=6, handlelength=1.6)


def _alpha(ax: Any, rows: list[dict[str, Any]]) -> None:
    """EMSE of the loss over RKoN's, from DKoN on, for every K."""
    path = [row for row in rows if row["alpha"] is not None]
    alphas = sorted({row["alpha"] for row in path})
    for series, k in zip(style.SERIES, sorted({row["k"] for row in path}), strict=False):
        of_k = sorted((row for row in path if row["k"] == k), key=lambda row: row["alpha"])
        values = [[row["loss"]["emse_over_rkon"][e] for row in of_k] for e in ("estimate", "low", "high")]
        style.interval(ax, range(len(alphas)), *values, **{**series, "label": f"$K={k}$"})
    ax.axhline(1.0, **{**style.EXACT, "label": "_"})
    ax.set_yscale("log")
    ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    ax.set_xlabel(r"exponent $\alpha$ (0 is DKoN)")
    ax.set_ylabel("EMSE / EMSE of RKoN")
    ax.set_title("the reward's weight in DBKoN")
    ax.legend(loc="upper left")
