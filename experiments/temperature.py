"""Bias against variance between RKoN and BKoN: reward-weighted sampling over its temperature, and where others lie.

Reward-weighted sampling without replacement keeps candidates with probability growing as exp(reward / T): RKoN at
T = infinity, BKoN at T = 0. Its frontier of Bias^2 and variance is what a strategy that looks at rewards alone can
reach by softening; DKoN and DBKoN (over alpha) and filtered max-min also look at the responses. Untrained MDNs, E5's
prompts, N and K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from experiments.harness.statements import Prediction, Role, below, equals, read
from experiments.shared.untrained_network import average_exact, compare_all, difference, problems
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.simulate import Setting
from mrtsim.montecarlo import subkeys

CLAIMS = (9,)


@dataclass(frozen=True)
class Config:
    """E5's setting; `replicates` are trials, `temperatures` in units of the reward, infinity as 0's other end."""

    n_prompts: int = 30
    n_candidates: int = 32
    k: int = 4
    replicates: int = 1000
    models: int = 1
    temperatures: tuple[float, ...] = (
        0.0,
        0.01,
        0.1,
        0.2,
        0.4,
        0.7,
        1.0,
        1.5,
        2.0,
        3.0,
        5.0,
        10.0,
        30.0,
        float("inf"),
    )
    alphas: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 2.0)


PRESETS = {
    "quick": Config(
        replicates=200, temperatures=(0.0, 0.4, 1.0, 3.0, float("inf")), alphas=(0.0, 0.05, 0.2, 1.0)
    ),
    "paper": Config(),
    "precise": Config(models=16),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Measure the frontier and the others on the same pools."""
    model_key, trial_key = subkeys(key)
    posed = problems(model_key, config.models, config.n_prompts)

    temperatures, alphas = sorted(config.temperatures), sorted(config.alphas)
    settings = [
        *(Setting("gumbel", config.k, {"temperature": t}) for t in temperatures),
        *(Setting("dbkon", config.k, {"alpha": a}) for a in alphas),
        Setting("dkon", config.k),
        Setting("filtered-max-min", config.k),
    ]
    reports = compare_all(sweep, posed, settings, trial_key, config.n_candidates, config.replicates)
    *rows, dkon, filtered = (
        {name: report[name] for name in ("loss", "gradient", "coverage")} for report in reports
    )
    soft, of_alpha = rows[: len(temperatures)], rows[len(temperatures) :]
    return {
        "n_candidates": config.n_candidates,
        "k": config.k,
        # Infinity is no number in JSON: the end of the frontier is told by its place.
        "frontier": [
            {"temperature": None if np.isinf(t) else t, **row}
            for t, row in zip(temperatures, soft, strict=True)
        ],
        "dbkon": [{"alpha": a, **row} for a, row in zip(alphas, of_alpha, strict=True)],
        "dkon": dkon,
        "filtered-max-min": filtered,
        "exact": {
            name: average_exact([exact(p, name, n_candidates=config.n_candidates, k=config.k) for p in posed])
            for name in ("rkon", "bkon")
        },
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 9: the trade of bias for variance against softening the reward."""
    found = []
    for quantity in ("loss", "gradient"):
        soft = min(result["frontier"], key=lambda row: row[quantity]["emse"]["estimate"])
        for name, words in (
            ("dkon", "DKoN"),
            ("dbkon", "DBKoN, alpha = 1,"),
            ("filtered-max-min", "filtered max-min"),
        ):
            row = _at_one(result["dbkon"]) if name == "dbkon" else result[name]
            found.append(
                Prediction(
                    f"temperature.{name}-over-softened.{quantity}",
                    9,
                    f"EMSE of the {quantity}, {words} − reward-weighted sampling at its best T",
                    difference(row[quantity]["emse"], soft[quantity]["emse"]),
                    below(0.0),
                    Role.LIMIT,
                    note=_note(soft, row, quantity),
                )
            )
    soft = min(result["frontier"], key=lambda row: row["loss"]["emse"]["estimate"])
    best = min(
        (row for row in result["dbkon"] if row["alpha"] > 0), key=lambda row: row["loss"]["emse"]["estimate"]
    )
    for name, words, other in (
        ("softened", "reward-weighted sampling at its best T", soft),
        ("dkon", "DKoN", result["dkon"]),
    ):
        found.append(
            Prediction(
                f"temperature.best-dbkon-over-{name}",
                9,
                f"EMSE of the loss, DBKoN at its best alpha above 0 − {words}",
                difference(best["loss"]["emse"], other["loss"]["emse"]),
                below(0.0),
                Role.LIMIT,
                unit="nats^2",
                note=f"the best alpha above 0 is {best['alpha']:g}: {_note(soft, best, 'loss')}",
            )
        )
    for name, words, row in (
        ("bkon", "BKoN (T = 0)", result["frontier"][0]),
        ("rkon", "RKoN (T infinite)", result["frontier"][-1]),
    ):
        found.append(
            Prediction(
                f"temperature.exact.{name}",
                9,
                f"EMSE of the loss at the end of the frontier that is {words}",
                read(row["loss"]["emse"]),
                equals(result["exact"][name]["loss"]["emse"]["estimate"], relative=0.05),
                Role.LIMIT,
                unit="nats^2",
            )
        )
    return found


def _at_one(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """DBKoN as the paper uses it, or the alpha next to it."""
    return min(rows, key=lambda row: abs(row["alpha"] - 1.0))


def _note(soft: dict[str, Any], row: dict[str, Any], quantity: str) -> str:
    at = "infinity (RKoN)" if soft["temperature"] is None else f"{soft['temperature']:g}"
    parts = [row[quantity][moment]["estimate"] for moment in ("bias_squared", "variance")]
    return (
        f"Bias^2 {parts[0]:.4f} and variance {parts[1]:.4f}; best temperature {at}: "
        f"{soft[quantity]['bias_squared']['estimate']:.4f} and {soft[quantity]['variance']['estimate']:.4f}"
    )
