"""Claim 5: the gain of MRT against redundancy for every similarity, and where several responses pay."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from figures import style

_Z = 1.959963984540054
_SETTLED = 3.3  # as in the experiment


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.redundancy`; bars are 95 % intervals."""
    fig, (left, right) = style.figure(1, 2, width=style.PAGE, height=2.9)
    _gain(left, result)
    _map(fig, right, result)
    return fig


def _gain(ax: Any, result: dict[str, Any]) -> None:
    sizes = np.array(result["group_sizes"], float)
    r = np.geomspace(sizes[0], sizes[-1], 200)
    similarities = sorted({s["similarity"] for s in result["settings"]})
    for number, similarity in enumerate(similarities):
        rows = [s for s in result["settings"] if s["similarity"] == similarity and s["spread"] == 1.0]
        look = style.SERIES[number]
        group, prompt, response = (rows[0]["components"][c]["value"] for c in ("group", "prompt", "response"))
        ax.plot(
            r, response / (r * group + prompt + response), color=look["color"], linestyle=look["linestyle"]
        )
        shift = 1.04 ** (number - (len(similarities) - 1) / 2)
        value = np.array([row["gain"]["value"] for row in rows])
        half = _Z * np.array([row["gain"]["standard_error"] for row in rows])
        name = f"similarity {similarity:g}" + (" (duplicates)" if similarity == 1 else "")
        style.interval(
            ax,
            sizes * shift,
            value,
            value - half,
            value + half,
            **look | {"label": name, "linestyle": "none"},
        )
    for number, similarity in enumerate(similarities):
        pilot = next(p["first"]["gain"] for p in result["pilots"] if p["similarity"] == similarity)
        style.interval(
            ax,
            [result["pilot_group_size"] * 1.35 * 1.07 ** (number - 1)],
            *([pilot[name]] for name in ("estimate", "low", "high")),
            color=style.SERIES[number]["color"],
            marker="D",
            markerfacecolor="white",
            linestyle="none",
            label=f"from one pilot, $r$ = {result['pilot_group_size']}" if number == 0 else "_",
        )
    style.powers_of_two(ax, sizes)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("prompts in a group $r$")
    ax.set_ylabel("MRT gain")
    ax.legend(loc="lower left")


def _map(fig: Figure, ax: Any, result: dict[str, Any]) -> None:
    rows = [s for s in result["settings"] if s["similarity"] == 1.0]
    sizes, diversity = (np.array([row[name] for row in rows], float) for name in ("group_size", "diversity"))
    r = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 200)
    d = np.geomspace(diversity.min() / 1.8, diversity.max() * 1.8, 200)
    # Exact duplicates: V_g = V_x, so that everything depends on r and V_{y|x}/V_x.
    mesh = ax.pcolormesh(
        r, d, d[:, None] / (r + d[:, None]), vmin=0, vmax=1, shading="gouraud", rasterized=True
    )
    fig.colorbar(mesh, ax=ax, label="exact MRT gain")
    boundary = 2 * r / result["cost_ratio"]
    ax.plot(r, boundary, color="white", linewidth=1.6)
    middle = len(r) * 11 // 20
    ax.annotate(
        r"$K^*=\sqrt{2}$", (r[middle], boundary[middle]), (-26, 9), textcoords="offset points", color="white"
    )
    score = np.array([row["efficiency"]["z"] for row in rows])
    for chosen, marker, face, label in (
        (score > _SETTLED, "^", "white", "K = 2 beats K = 1"),
        (score < -_SETTLED, "v", "black", "K = 1 beats K = 2"),
        (np.abs(score) <= _SETTLED, "o", style.GREY, "not settled"),
    ):
        if np.any(chosen):
            ax.plot(
                sizes[chosen],
                diversity[chosen],
                linestyle="none",
                marker=marker,
                markersize=6,
                markerfacecolor=face,
                markeredgecolor="black" if face != "black" else "white",
                markeredgewidth=0.7,
                label=label,
            )
    ax.grid(False)
    style.powers_of_two(ax, result["group_sizes"])
    ax.set_xlim(r[0], r[-1])
    ax.set_yscale("log")
    ax.set_ylim(d[0], d[-1])
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("exact duplicates in a group $r$")
    ax.set_ylabel(r"response diversity $V_{y|x}/V_x$")
    fig.legend(
        *ax.get_legend_handles_labels(), loc="outside upper right", ncols=3, title="simulated, at equal cost"
    )
