"""A real language model that learns without a context what it says with one is best near the K* of a pilot of
gradients; that of a pilot of losses is too small. a, b: divergence from the exact target on held-out prompts at equal
cost, for prompts that are alike (haiku) and that differ (mix); vertical lines: K* with its interval. c: strategies less
RKoN. Intervals are 95 %, over seeds and test prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style

_PILOTS = {"gradients": (style.GREEN, "-"), "losses": (style.ORANGE, "--")}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.language_model`; bars are 95 % intervals."""
    tasks = result["tasks"]
    fig, axes = style.figure(1, len(tasks) + 1, width=style.PAGE, height=3.1)
    for ax, (name, task) in zip(axes, tasks.items(), strict=False):
        _costs(ax, name, task)
    axes[0].set_ylabel("divergence from the teacher\n(nats per response, log scale)")
    _strategies(axes[-1], tasks)
    entries = [
        entry for ax in (axes[0], axes[-1]) for entry in zip(*ax.get_legend_handles_labels(), strict=True)
    ]
    fig.legend(*zip(*entries, strict=True), loc="outside upper center", ncols=4)
    style.letters(axes)
    return fig


def _ends(cells: list[dict[str, float]]) -> tuple[list[float], ...]:
    return tuple([cell[end] for cell in cells] for end in ("estimate", "low", "high"))


def _costs(ax: Axes, name: str, task: dict[str, Any]) -> None:
    """Divergence of every K at each budget, at the best step and after the last one, and both K*."""
    for kind, (colour, line) in _PILOTS.items():
        star = task["pilots"][kind]["k_star"]  # null where it is infinite
        if star["low"] and star["high"]:
            ax.axvspan(star["low"], star["high"], color=colour, alpha=0.15, linewidth=0)
        if star["estimate"]:
            ax.axvline(star["estimate"], color=colour, linestyle=line, linewidth=1, label=f"$K^*$ of {kind}")
    looks = style.ordered(len(task["costs"]) + 1)
    for look, entry in zip(looks, task["costs"], strict=False):
        ks = np.array(entry["responses"], float)
        style.interval(ax, ks, *_ends(entry["best"]), **look, label=f"budget {entry['budget']}")
        ax.plot(ks, _ends(entry["last"])[0], **look | {"linestyle": ":", "marker": None})
    if "all_layers" in task:
        entry = task["all_layers"]
        look = style.SERIES[0] | {"label": f"{entry['budget']}, all layers"}
        style.interval(ax, np.array(entry["responses"], float), *_ends(entry["best"]), **look)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ks = task["costs"][0]["responses"]
    ax.set_xticks(ks, [f"{k:g}" for k in ks])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="y", which="minor", labelsize=6)
    ax.set_xlabel("responses per prompt $K$ (log scale)")
    ax.set_title(f"{name}: best step (dotted: last)")


def _strategies(ax: Axes, tasks: dict[str, Any]) -> None:
    """Divergence of every strategy less RKoN's, by task and K."""
    labels: list[str] = []
    for name, task in tasks.items():
        for entry in task["selectors"]:
            for place, (strategy, cell) in enumerate(entry["over_rkon"].items()):
                x = np.array([len(labels) + 0.2 * (place - 1)])
                look = style.STRATEGIES[strategy] | {"linestyle": "none"}
                look["label"] = look["label"] if not labels else "_"
                style.interval(ax, x, *_ends([cell]), **look)
            labels.append(f"{name}\n$K$ = {entry['responses']}")
    ax.axhline(0, color=style.BLACK, linewidth=0.8)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_ylabel("divergence less RKoN's (nats)")
    ax.set_title("strategies")
