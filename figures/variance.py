"""The measured variance of the mean loss follows V_x/N_p + V_{y|x}/(N_p K) down to its floor (E1, the paper's
network); the published points lie high at K = 16 and 32. 95 % intervals from replicates, those of reported points
from the exact law."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures import style


def draw(result: dict[str, Any]) -> Figure:
    """Figure of `experiments.variance`; bars are 95 % intervals, those of the reported points from the exact law."""
    responses, n = np.array(result["responses"], float), result["n_prompts"]
    network, reported = result["networks"]["reference"], result["reported"]["published"]
    exact = network["exact"]
    fig, (above, below) = style.figure(
        2, 1, height=4.2, sharex=True, gridspec_kw={"height_ratios": [1.8, 1.0]}
    )

    def law(k: np.ndarray) -> np.ndarray:
        return (exact["v_prompt"]["estimate"] + exact["v_response"]["estimate"] / k) / n

    k = np.geomspace(responses[0], responses[-1], 200)
    above.plot(k, law(k), **{**style.EXACT, "label": r"exact $V_x/N_p + V_{y|x}/(N_p K)$"})
    above.axhline(exact["floor"], **style.FLOOR, label=r"exact floor $V_x/N_p$")
    measured = {
        **style.STRATEGIES["rkon"],
        "linestyle": "none",
        "label": f"measured, {result['replicates']:,} replicates",
    }
    published = {**style.REPORTED, "label": "reported, 500 replicates"}
    style.interval(above, responses, network["variance"], network["low"], network["high"], **measured)
    above.plot(reported["responses"], reported["variance"], **published)
    above.set_yscale("log")
    above.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    above.yaxis.set_minor_formatter(NullFormatter())
    above.set_ylabel(r"$\mathrm{Var}\,\hat L$ (squared loss units)")
    above.legend(loc="upper right")

    below.axhline(1.0, **{**style.EXACT, "label": "_"})
    style.interval(
        below,
        responses / 1.06,
        *(np.array(network[name]) / law(responses) for name in ("variance", "low", "high")),
        **measured,
    )
    over = law(np.array(reported["responses"]))
    values, half = (
        np.array(reported["variance"]) / over,
        style.Z95 * np.array(reported["standard_error"]) / over,
    )
    style.interval(
        below, np.array(reported["responses"]) * 1.06, values, values - half, values + half, **published
    )
    below.set_ylabel("over the exact law")
    below.set_xlabel("responses per prompt $K$")
    style.powers_of_two(below, responses)
    return fig
