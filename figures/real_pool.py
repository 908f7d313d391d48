"""Only RKoN keeps the mean loss of real responses: what other strategies gain in reward or diversity shifts the mean.
96 prompts with 12 responses of a small language model each; 95 % t intervals over 24 topics."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from figures import style

PANELS = (
    ("shift", "loss, kept − pool", "nats per token"),
    ("squared_error", "squared error of the mean loss", "nats² (log scale)"),
    ("reward", "reward, kept − pool", "reward"),
)


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.real_pool`: three quantities against K, strategies side by side."""
    fig, axes = style.figure(1, 3, width=style.PAGE, height=2.6)
    names = style.by_order(result["strategies"])
    for ax, (quantity, title, unit) in zip(axes, PANELS, strict=True):
        for place, name in enumerate(names):
            rows = result["strategies"][name]
            style.interval(
                ax,
                [r["k"] * style.dodge(place, len(names)) for r in rows],
                *([r[quantity][part] for r in rows] for part in ("estimate", "low", "high")),
                **style.STRATEGIES[name],
            )
        style.powers_of_two(ax, [r["k"] for r in result["strategies"][names[0]]])
        ax.set_title(title)
        ax.set_ylabel(unit)
        ax.set_xlabel(f"responses kept $K$ (of {result['candidates']})")
        if quantity != "squared_error":
            ax.axhline(0, **style.FLOOR, zorder=0)
    axes[1].set_yscale("log")
    axes[1].set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    axes[1].minorticks_off()
    style.letters(axes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return fig
