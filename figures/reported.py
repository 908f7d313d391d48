"""The published losses of language models fall with K in every model family, but not at equal compute, and more
slowly than 1/K. Each point is one training run. a: fitted curves with a shared exponent, dotted 1/K. b: one 8B
model, RKoN, slope per doubling of K with its 95 % t interval. c: mean difference over K, 95 % t interval over K."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from figures import style

SUITES = {
    "gold_full": "full data",
    "gold_compute_matched_equal_examples_v2": "matched, equal examples",
    "gold_compute_matched": "compute-matched",
}


def draw(result: dict[str, Any]) -> Figure:
    """Three panels; fitted curves are a + b K^-c with c free, and c = 1 beside it."""
    fig, (models, suites, selectors) = style.figure(1, 3, width=style.PAGE, height=2.9)
    k = np.linspace(1, 16, 200)
    for look, (name, model) in zip(style.SERIES, result["models"].items(), strict=True):
        c = model["exponent"]["estimate"]
        shape = -np.log(k) if c == 0 else np.expm1(-c * np.log(k)) / c
        point = {**look, "linestyle": "none"}
        models.plot(model["k"], model["loss"], **point, label=_model(name))
        models.plot(k, model["level"] + model["drop"] * shape, color=look["color"], linewidth=1.0)
        # level + drop * (1/k - 1): the variance law's shape.
        models.plot(
            k,
            model["inverse_level"] + model["inverse_drop"] * (1 / k - 1),
            color=look["color"],
            linewidth=0.7,
            linestyle=":",
        )
    shared = result["shared_exponent"]
    models.set_title("six models, RKoN")
    text = f"$a + bK^{{-c}}$, $c$ = {shared['estimate']:.2f} [{shared['low']:.2f}, {shared['high']:.2f}]"
    models.text(0.03, 0.03, text, transform=models.transAxes, fontsize=6.5)
    models.set_ylabel("held-out loss (nats per token)")
    models.set_ylim(top=max(m["loss"][0] for m in result["models"].values()) + 0.12)
    models.legend(ncols=2, loc="upper center", handlelength=1, columnspacing=0.8, handletextpad=0.3)
    for look, (name, label) in zip(style.SERIES, SUITES.items(), strict=False):
        rkon = result["suites"][name]["loss"]["rkon"]
        slope = result["suites"][name]["rkon_slope"]
        suites.plot(
            rkon["k"],
            rkon["loss"],
            **look,
            label=f"{label}\n{slope['estimate']:+.3f} ± {slope['high'] - slope['estimate']:.3f}",
        )
    suites.set_title("RKoN, one 8B model, by suite")
    suites.set_ylim(top=1.64)
    suites.legend(loc="upper right", fontsize=6.5)
    for ax in (models, suites):
        style.powers_of_two(ax, [1, 2, 4, 8, 16])
        ax.set_xlabel("responses per prompt $K$")
    for strategy, shift in (("bkon", -0.2), ("dkon", 0.0), ("dbkon", 0.2)):
        rows = [result["suites"][name]["excess"][f"{strategy}-rkon"] for name in SUITES]
        style.interval(
            selectors,
            np.arange(len(SUITES)) + shift,
            *([r[part] for r in rows] for part in ("estimate", "low", "high")),
            **(style.STRATEGIES[strategy] | {"linestyle": "none"}),
        )
    selectors.axhline(0, **style.FLOOR)
    selectors.set_xticks(range(len(SUITES)), ["full\ndata", "matched,\nequal ex.", "compute-\nmatched"])
    selectors.set_title("loss − RKoN's at equal $K$")
    selectors.set_ylabel("nats per token")
    selectors.legend(loc="upper right")
    selectors.set_xlim(-0.5, len(SUITES) - 0.5)
    selectors.set_ylim(top=0.075)
    style.letters((models, suites, selectors))
    return fig


def _model(key: str) -> str:
    """A model's name from its key: gemma4_e2b_it is Gemma4 E2B."""
    words = [w for w in key.split("_") if w not in ("instruct", "it")]
    return " ".join(w.upper() if w[:1].isdigit() or w[1:2].isdigit() else w.capitalize() for w in words)
