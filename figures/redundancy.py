"""The gain of several responses shrinks with redundancy. MRT gain: the share of the K = 1 variance that K without
bound removes. a: simulated corpora with 95 % intervals, narrower than most markers, on exact lines. b: share of the
excess NLL of trained networks; hollow: near-duplicates, with their similarity. c: exact gain, and which of K = 1 and
K = 2 has the smaller simulated variance at equal cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from figures import style

_SETTLED = 3.3  # as in the experiment


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.redundancy`."""
    fig, axes = style.figure(
        1, 3, width=style.PAGE, height=3.0, gridspec_kw={"width_ratios": [1.0, 0.9, 1.2]}
    )
    _gain(axes[0], result)
    _learner(axes[1], result["learner"])
    _map(fig, axes[2], result)
    style.letters(axes)
    return fig


def _gain(ax: Any, result: dict[str, Any]) -> None:
    sizes = np.array(result["group_sizes"], float)
    r = np.geomspace(sizes[0], sizes[-1], 200)
    similarities = sorted({s["similarity"] for s in result["settings"]})
    for look, similarity in zip(style.ordered(len(similarities)), similarities, strict=True):
        rows = [s for s in result["settings"] if s["similarity"] == similarity and s["mode_scale"] == 1.0]
        group, prompt, response = (
            rows[0]["components"][c]["estimate"] for c in ("group", "prompt", "response")
        )
        ax.plot(
            r, response / (r * group + prompt + response), color=look["color"], linestyle=look["linestyle"]
        )
        value = np.array([row["gain"]["estimate"] for row in rows])
        half = style.Z95 * np.array([row["gain"]["standard_error"] for row in rows])
        label = f"similarity {similarity:g}"
        style.interval(
            ax, sizes, value, value - half, value + half, **look | {"label": label, "linestyle": "none"}
        )
    style.powers_of_two(ax, sizes)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("prompts in a group $r$")
    ax.set_ylabel("MRT gain")
    ax.set_title("simulated corpora")
    ax.legend(loc="lower left")


def _learner(ax: Any, learner: dict[str, Any]) -> None:
    sizes = np.array([row["group_size"] for row in learner["rows"]], float)
    for recipe, label, look, shift in (
        ("last", "400 steps", style.SERIES[0], 1 / 1.03),
        ("best", "best step", style.SERIES[1], 1.03),
    ):
        value = np.array([row[recipe]["estimate"] for row in learner["rows"]])
        half = style.Z95 * np.array([row[recipe]["standard_error"] for row in learner["rows"]])
        style.interval(ax, sizes * shift, value, value - half, value + half, **look | {"label": label})
        near = [(row["similarity"], row["group_size"] * shift, row[recipe]) for row in learner["near"]]
        at, value, half = np.array(
            [(at, c["estimate"], style.Z95 * c["standard_error"]) for _, at, c in near]
        ).T
        hollow = {
            "markerfacecolor": "white",
            "markeredgecolor": look["color"],
            "linestyle": "none",
            "label": "_",
        }
        style.interval(ax, at, value, value - half, value + half, **look | hollow)
        for (similarity, *_), x, y in zip(near, at, value, strict=True):
            style.note(ax, f"{similarity:g}", (x, y), (-5, -2), ha="right")
    style.powers_of_two(ax, sizes)
    ax.set_ylim(-0.04, 1.02)
    ax.set_xlabel("duplicates in a group $r$")
    ax.set_ylabel(f"share of excess NLL that $K$ = {learner['responses']} removes")
    ax.set_title("trained networks")
    ax.legend(loc="lower left", handlelength=1.4)


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
    ax.set_title("at equal cost")
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncols": 3}
    ax.legend(**place, columnspacing=0.6, handletextpad=0.0)
