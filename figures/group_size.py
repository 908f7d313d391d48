"""The variance law names the group size that trains best within a factor of 2, and the curves are flat around it. a:
exact variance of RLOO's gradient at equal budget over the least, points simulated. b: reward gained over that of the
best group size, each at its best learning rate, after an eighth of the compute (pale) and all of it. c: the G that
trains best, with the law's along training. 95 % intervals over trainings, those of b and c by resampling them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullFormatter, PercentFormatter

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.group_size`, for RLOO and the largest update."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.9)
    looks = style.ordered(len(result["policies"]))
    for i, (entry, look) in enumerate(zip(result["policies"], looks, strict=True)):
        _law(axes[0], result, entry, look)
        _reward(axes[1], result, entry, look, style.dodge(i, len(looks)))
        _growth(axes[2], result, entry, look, style.dodge(i, len(looks)))
    sizes = result["group_sizes"]
    for ax in axes[:2]:
        style.powers_of_two(ax, sizes)
        ax.set_xlabel("responses per group $G$")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0].set_ylabel("variance above the least")
    axes[0].set_title("gradient at the start")
    axes[1].yaxis.set_major_locator(MultipleLocator(0.05))
    axes[1].set_ylabel("reward gained, of the best $G$'s")
    axes[1].set_title("after training")
    axes[2].set_yscale("log", base=2)
    axes[2].set_yticks(sizes, [f"{size}" for size in sizes])
    axes[2].set_xscale("log", base=2)
    axes[2].set_xticks(result["compute"])
    axes[2].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:.0f}k"))
    for axis in (axes[2].xaxis, axes[2].yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes[2].minorticks_off()
    axes[2].set_xlabel("responses trained on")
    axes[2].set_ylabel("best $G$")
    axes[2].set_title("best $G$ (line: the law's)")
    style.letters(axes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(looks))
    return fig


def _law(ax: Axes, result: dict[str, Any], entry: dict[str, Any], look: dict[str, Any]) -> None:
    sizes, law = np.array(result["group_sizes"], float), entry["law"]["rloo"]
    noise = np.array(law["noise_to_signal"][0])
    excess = noise / noise.min()
    ax.plot(sizes, excess - 1, color=look["color"])
    ratio = law["simulated_over_exact"]
    value, half = (np.array(ratio[part]) * excess for part in ("estimate", "standard_error"))
    half *= style.Z95
    label = (
        f"$R^2$ = {entry['signal']:.2g}, {entry['tokens']} token{'s' * (entry['tokens'] > 1)} per response"
    )
    style.interval(
        ax,
        sizes,
        value - 1,
        value - half - 1,
        value + half - 1,
        **look | {"label": label, "linestyle": "none"},
    )


def _reward(
    ax: Axes, result: dict[str, Any], entry: dict[str, Any], look: dict[str, Any], shift: float
) -> None:
    sizes = np.array(result["group_sizes"], float)
    share = entry["trained"]["rloo"]["share"]
    for level, alpha in ((0, 0.35), (-1, 1.0)):
        value, low, high = (np.array(share[part])[-1, :, level] for part in ("estimate", "low", "high"))
        style.interval(ax, sizes * shift, value, low, high, **look | {"alpha": alpha, "label": "_"})


def _growth(
    ax: Axes, result: dict[str, Any], entry: dict[str, Any], look: dict[str, Any], shift: float
) -> None:
    followed, best = entry["followed"], entry["trained"]["rloo"]["best"]
    compute = np.array(followed["compute"][1:], float)
    ax.plot(compute, followed["best_g"]["estimate"][1:], color=look["color"])
    value, low, high = (np.array(best[part])[-1] for part in ("estimate", "low", "high"))
    levels = np.array(result["compute"], float)
    style.interval(ax, levels * shift, value, low, high, **look | {"label": "_", "linestyle": "none"})
