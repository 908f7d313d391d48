"""What strategies keep of real responses: bias, squared error, reward and similarity, with intervals over topics."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from figures import style

PANELS = (
    ("shift", "loss kept − pool\n(nats per token)"),
    ("squared_error", "squared error of the\nmean loss (nats²)"),
    ("reward", "reward kept − pool"),
    ("similarity", "similarity kept, (1 + cos) / 2"),
    ("k_eff", "$K_{eff}$ by similarity (a score)"),
)


def draw(result: dict[str, Any]) -> Figure:
    """Five panels against K; strategies side by side so that intervals do not cover each other."""
    fig, axes = style.figure(2, 3, width=style.PAGE, height=4.0, sharex=True)
    *panels, last = axes.flat
    names = list(result["strategies"])
    for ax, (quantity, label) in zip(panels, PANELS, strict=True):
        for place, name in enumerate(names):
            rows = [r for r in result["strategies"][name] if r[quantity]["estimate"] is not None]
            dodge = 2.0 ** (0.1 * (place - (len(names) - 1) / 2))
            style.interval(
                ax,
                [r["k"] * dodge for r in rows],
                *([r[quantity][part] for r in rows] for part in ("estimate", "low", "high")),
                **style.STRATEGIES[name],
            )
        style.powers_of_two(ax, [r["k"] for r in result["strategies"][names[0]]])
        ax.tick_params(labelbottom=True)
        ax.set_ylabel(label)
        if quantity in ("shift", "reward"):
            ax.axhline(0, **style.FLOOR)
    panels[1].set_yscale("log")
    panels[1].set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    panels[1].minorticks_off()
    for ax in panels[2:]:
        ax.set_xlabel(f"responses kept K (of {result['candidates']})")
    last.axis("off")
    last.legend(
        *panels[0].get_legend_handles_labels(),
        loc="center",
        title=f"{result['prompts']} prompts, {result['topics']} topics\n95 % intervals over topics",
        title_fontsize=7,
    )
    return fig
