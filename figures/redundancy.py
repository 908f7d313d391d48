"""Claim 5: the gain of MRT against redundancy, exact, simulated and trained, and where several responses pay."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from figures import style

_SETTLED = 3.3  # as in the experiment
_ABOVE: dict[str, Any] = {
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 1.0),
    "ncols": 3,
    "columnspacing": 0.8,
    "handletextpad": 0.4,
}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.redundancy`; bars are 95 % intervals."""
    fig, (left, middle, right) = style.figure(
        1, 3, width=style.PAGE, height=2.7, gridspec_kw={"width_ratios": [1.0, 0.8, 1.2]}
    )
    _gain(left, result)
    _learner(middle, result["learner"])
    _map(fig, right, result)
    return fig


def _gain(ax: Any, result: dict[str, Any]) -> None:
    sizes = np.array(result["group_sizes"], float)
    r = np.geomspace(sizes[0], sizes[-1], 200)
    similarities = sorted({s["similarity"] for s in result["settings"]})
    for number, similarity in enumerate(similarities):
        rows = [s for s in result["settings"] if s["similarity"] == similarity and s["mode_scale"] == 1.0]
        look = style.SERIES[number]
        group, prompt, response = (
            rows[0]["components"][c]["estimate"] for c in ("group", "prompt", "response")
        )
        ax.plot(
            r, response / (r * group + prompt + response), color=look["color"], linestyle=look["linestyle"]
        )
        shift = 1.04 ** (number - (len(similarities) - 1) / 2)
        value = np.array([row["gain"]["estimate"] for row in rows])
        half = style.Z95 * np.array([row["gain"]["standard_error"] for row in rows])
        style.interval(
            ax,
            sizes * shift,
            value,
            value - half,
            value + half,
            **look | {"label": f"similarity {similarity:g}", "linestyle": "none"},
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
            label=f"one pilot, $r$ = {result['pilot_group_size']}" if number == 0 else "_",
        )
    style.powers_of_two(ax, sizes)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("prompts in a group $r$")
    ax.set_ylabel("MRT gain")
    ax.legend(loc="lower left")


def _learner(ax: Any, learner: dict[str, Any]) -> None:
    sizes = np.array([row["group_size"] for row in learner["rows"]], float)
    for recipe, label, look, shift in (
        ("last", "400 steps", style.SERIES[4], 0.96),
        ("best", "best step", style.SERIES[3], 1.04),
    ):
        value = np.array([row[recipe]["estimate"] for row in learner["rows"]])
        half = style.Z95 * np.array([row[recipe]["standard_error"] for row in learner["rows"]])
        style.interval(ax, sizes * shift, value, value - half, value + half, **look | {"label": label})
    style.powers_of_two(ax, sizes)
    ax.set_ylim(-0.04, 1.02)
    ax.set_xlabel("exact duplicates in a group $r$")
    ax.set_ylabel(f"share removed by $K$ = {learner['responses']}")
    ax.legend(title="excess NLL, trained", **_ABOVE)


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
        (score > _SETTLED, "^", "white", "K = 2 wins"),
        (score < -_SETTLED, "v", "black", "K = 1 wins"),
        (np.abs(score) <= _SETTLED, "o", style.GREY, "open"),
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
    ax.legend(title="simulated, at equal cost", **_ABOVE | {"handletextpad": 0.0})
