"""One look for every figure: colours safe for colour-blind readers, told apart in grey by marker and line too."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mrtsim.estimates import normal_quantile

# Embedding Matplotlib's own fonts warns of their dates.
logging.getLogger("fontTools").setLevel(logging.ERROR)

COLUMN = 3.4  # inches, one column of a two-column page
PAGE = 7.0  # inches, both columns

# Okabe and Ito (2008).
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000",
    "#C07C00",  # darker than theirs, so that thin lines are seen, as is the next
    "#2E8BC9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#7F7F7F"
Z95 = normal_quantile()  # half the width of a 95 % interval, in standard errors

_POINT: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}

# Colour means strategy. A strategy looks the same in every figure, in this order: ax.plot(x, y, **STRATEGIES["rkon"]).
STRATEGIES: dict[str, dict[str, Any]] = {
    "rkon": {"color": BLUE, "marker": "o", "linestyle": "-", "label": "RKoN"} | _POINT,
    "bkon": {"color": RED, "marker": "s", "linestyle": "--", "label": "BKoN"} | _POINT,
    "filtered-max-min": {
        "color": ORANGE,
        "marker": "v",
        "linestyle": (0, (5, 1, 1, 1, 1, 1)),
        "label": "filtered max-min",
    }
    | _POINT,
    "dkon": {"color": GREEN, "marker": "^", "linestyle": "-.", "label": "DKoN"} | _POINT,
    "dbkon": {"color": PURPLE, "marker": "D", "linestyle": ":", "label": "DBKoN"} | _POINT,
    "mode-seeking": {"color": SKY, "marker": "P", "linestyle": (0, (3, 1)), "label": "mode-seeking"} | _POINT,
}
EXACT: dict[str, Any] = {"color": BLACK, "linestyle": "-", "linewidth": 1.0, "label": "exact"}
FLOOR: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.0}
REPORTED: dict[str, Any] = {
    "color": "#4D4D4D",
    "marker": "x",
    "markersize": 5,
    "markeredgewidth": 1.1,
    "linestyle": "none",
    "label": "reported",
}
# For series that are neither strategies nor ordered: greys, told apart by marker and line.
SERIES: list[dict[str, Any]] = [
    {"color": BLACK, "marker": "o", "linestyle": "-"} | _POINT,
    {"color": "#7A7A7A", "marker": "s", "linestyle": "--"} | _POINT,
    {"color": "#3D3D3D", "marker": "^", "linestyle": "-."} | _POINT,
    {"color": "#9A9A9A", "marker": "D", "linestyle": ":"} | _POINT,
    {"color": "#5C5C5C", "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))} | _POINT,
    {"color": "#B0B0B0", "marker": "P", "linestyle": (0, (3, 1))} | _POINT,
]
_HALO = [withStroke(linewidth=2.0, foreground="white")]


def ordered(n: int) -> list[dict[str, Any]]:
    """Looks of n ordered series (K, N, similarity): a sequential map from dark to light, and markers."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, n))
    return [
        {"color": to_hex(colour), "marker": SERIES[i % len(SERIES)]["marker"], "linestyle": "-"} | _POINT
        for i, colour in enumerate(colours)
    ]


def by_order(names: Iterable[str]) -> list[str]:
    """Strategies in the one order of all legends."""
    return sorted(names, key=list(STRATEGIES).index)


def dodge(place: int, n: int) -> float:
    """Factor on a logarithmic axis that sets neighbour number `place` of n apart, by at most 3 % each way."""
    return 1.03 ** (2 * place / (n - 1) - 1) if n > 1 else 1.0


def letters(axes: Iterable[Axes]) -> None:
    """Letters of the panels, before their titles, which move to the left."""
    for letter, ax in zip("abcdefgh", axes, strict=False):
        title = ax.get_title()
        ax.set_title("")
        ax.set_title(rf"$\bf{{{letter}}}$  {title}", loc="left")


def note(
    ax: Axes, text: str, at: tuple[float, float], offset: tuple[float, float] = (0, 0), **options: Any
) -> None:
    """Text in a plot, with a white halo; `offset` is in points."""
    options = {"fontsize": 6.5, "path_effects": _HALO, "zorder": 6} | options
    ax.annotate(text, at, offset, textcoords="offset points", **options)


_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with Matplotlib: the same bytes everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "image.cmap": "cividis",
    "pdf.fonttype": 42,  # TrueType: embedded, and text stays text
    "figure.dpi": 100,
    "savefig.dpi": 220,
}


def figure(
    rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float | None = None, **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes in the common style; width and height in inches. Options go to `Figure.subplots`."""
    matplotlib.rcParams.update(_RC)
    if height is None:
        height = 0.72 * width / columns * rows + 0.15
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, columns, **options)


def interval(ax: Axes, x: Any, value: Any, low: Any, high: Any, **style: Any) -> None:
    """Points with their confidence intervals (limits, not half widths); where a limit is None, no bar is drawn."""
    x, value, low, high = (np.asarray(a, float) for a in (x, value, low, high))
    errors = np.clip([value - low, high - value], 0.0, None)
    ax.errorbar(x, value, errors, capsize=1.8, elinewidth=0.9, capthick=0.9, **style)


def interval_rows(ax: Axes, y: Any, cells: list[dict[str, Any]], **look: Any) -> None:
    """Stored numbers with their intervals along the horizontal axis, one at each height, not joined."""
    value, low, high = (
        np.array([cell[part] for cell in cells], float) for part in ("estimate", "low", "high")
    )
    errors = np.clip([value - low, high - value], 0.0, None)
    look["linestyle"] = "none"
    ax.errorbar(value, y, xerr=errors, capsize=1.8, elinewidth=0.9, capthick=0.9, **look)


def limits(cell: dict[str, Any]) -> tuple[float, float]:
    """The ends of a stored number's 95 % interval: its own, or the normal ones of its standard error."""
    if "low" in cell:
        return cell["low"], cell["high"]
    half = Z95 * cell["standard_error"]
    return cell["estimate"] - half, cell["estimate"] + half


def powers_of_two(ax: Axes, values: Any) -> None:
    """A logarithmic K axis with the plain numbers that were run."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(values), [f"{v:g}" for v in values])
    ax.minorticks_off()


def save(fig: Figure, path: Path) -> None:
    """Write path.png and path.pdf; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The layout moves a little at every drawing: settle it once.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    fig.savefig(path.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None})
