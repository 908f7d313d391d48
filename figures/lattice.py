"""Prompt variants with a response each (implicit) vary least of all designs of four cells of a cluster; four variants
with one response (same) train worst unless the variants are far apart. Everything is over the design explicit, one
prompt with four responses. a: simulated corpora, exact as vertical ticks, intervals narrower than most markers. b, c:
excess test NLL of trained networks over runs. 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from figures import style

_ROWS = {
    "hybrid": "hybrid: $2 \\times 2$",
    "disjoint": "hybrid, disjoint slots",
    "implicit": "implicit: diagonal",
    "same": "same: one response",
    "full": "full: 16 cells",
    "full at equal pairs": "full, $M/4$ clusters",
}
_RECIPES = {"last": "last step", "best": "best validation step"}


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.lattice`."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=3.1, sharey=True)
    axes[1].sharex(axes[2])
    _variances(axes[0], result["corpora"])
    for ax, (name, corpus) in zip(axes[1:], result["learner"]["corpora"].items(), strict=True):
        for look, shift, (recipe, label) in zip(style.SERIES, (-0.12, 0.12), _RECIPES.items(), strict=False):
            _row(ax, corpus[recipe]["over_explicit"], shift, look | {"label": label})
        v, j = (result["corpora"][name]["components"][part]["estimate"] for part in ("v", "j"))
        ax.set_title(f"trained, $V_j$ = {j / v:.2g} $V_v$")
        ax.set_xlabel("excess NLL / explicit's (log scale)")
        _axis(ax)
    axes[0].set_yticks(range(len(_ROWS)), list(_ROWS.values()))
    axes[0].set_ylim(len(_ROWS) - 0.5, -0.5)
    style.letters(axes)
    entries = [entry for ax in axes[:2] for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    fig.legend(*zip(*entries, strict=True), loc="outside upper center", ncols=5)
    return fig


def _variances(ax: Axes, corpora: dict[str, Any]) -> None:
    names = list(corpora)
    for look, shift, name in zip(style.ordered(len(names)), (-0.2, 0.0, 0.2), names, strict=True):
        cells = corpora[name]["over_explicit"]
        v, j = (corpora[name]["components"][part]["estimate"] for part in ("v", "j"))
        for design in (name for name in _ROWS if name in cells):
            y = list(_ROWS).index(design) + shift
            ax.vlines(cells[design]["exact"], y - 0.1, y + 0.1, color=style.BLACK, linewidth=1.0, zorder=4)
        _row(ax, cells, shift, look | {"label": f"$V_j$ = {j / v:.2g} $V_v$"})
    ax.set_title("simulated")
    ax.set_xlabel("variance / explicit's (log scale)")
    _axis(ax)


def _row(ax: Axes, cells: dict[str, Any], shift: float, look: dict[str, Any]) -> None:
    names = [name for name in _ROWS if name in cells]
    y = np.array([list(_ROWS).index(name) for name in names]) + shift
    style.interval_rows(ax, y, [cells[name] for name in names], **look)


def _axis(ax: Axes) -> None:
    ax.axvline(1.0, **style.FLOOR, zorder=1)
    ax.set_xscale("log", base=2)
    ax.set_xticks([0.5, 1, 2])
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", visible=False)
