"""E6: similarity of responses beside that of their gradients, and the K_eff that diversity makes.

Pairs within a pool: response similarity 1 - |y_i - y_j| / (largest distance in the pool) against the cosine of the two
responses' gradients, for untrained MDNs. Then, by strategy and K, the paper's similarity score
K / (1 + (K - 1) max(mean similarity, 0)) beside K_eff by its definition, from measured variances of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments.harness.statements import (
    Prediction,
    Role,
    above,
    published,
    read,
)
from experiments.shared.untrained_network import STRATEGIES, compare_all, difference, problems
from mrtsim.diagnostics.problem import gradient_cosines
from mrtsim.diagnostics.simulate import Setting, response_similarity
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from mrtsim.montecarlo import subkeys

CLAIMS = (10,)


@dataclass(frozen=True)
class Config:
    """The paper's setting. `replicates` are untrained networks with fresh prompts and pools, for the pairs.

    `models` and `trials` are for K_eff by its definition; `draws` for the interval of its rank correlation.
    """

    n_prompts: int = 50
    n_candidates: int = 16
    responses: tuple[int, ...] = (2, 4, 8)
    replicates: int = 100
    models: int = 1
    trials: int = 1000
    bins: int = 20
    draws: int = 2000
    strategies: tuple[str, ...] = STRATEGIES


PRESETS = {
    "quick": Config(replicates=10, trials=200, n_prompts=20),
    "paper": Config(),
    "precise": Config(replicates=2000, models=16, trials=4000),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Pairs over many networks; then similarity scores and measured K_eff of each strategy and K."""
    pair_key, model_key, trial_key, rank_key = subkeys(key, 4)
    fn = partial(_pairs, config.n_prompts, config.n_candidates, config.bins)
    with jax.enable_x64(True):
        pairs = sweep.replicates("pairs", fn, pair_key, config.replicates)
    posed = problems(model_key, config.models, config.n_prompts)
    settings = [Setting(name, k) for k in config.responses for name in config.strategies]
    reports = compare_all(sweep, posed, settings, trial_key, config.n_candidates, config.trials)
    table: dict[str, dict[str, Any]] = {name: {} for name in config.strategies}
    for setting, found in zip(settings, reports, strict=True):
        table[setting.strategy][str(setting.k)] = {
            "similarity": found["similarity"],
            "score": found["similarity_k_eff"],
            "k_eff": found["gradient"]["k_eff"],
            "k_eff_loss": found["loss"]["k_eff"],
            "share": found["coverage"]["share"],
        }
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rank_key)))
    pairs["gap"] = pairs["same_mode"] - pairs["cross_mode"]
    filled = pairs["count"].sum(0) > 0
    each = _each(pairs)[:, filled]
    middle = (np.arange(config.bins) + 0.5) / config.bins
    return {
        "reported": published()["bridge"],
        "pairs": {
            name: _over_networks(pairs[name])
            for name in ("pearson", "same_mode", "cross_mode", "gap", "within_mode")
        },
        "bins": {
            "similarity": middle[filled].tolist(),
            "cosine": (pairs["cosine"].sum(0)[filled] / pairs["count"].sum(0)[filled]).tolist(),
            "low": np.nanquantile(each, 0.1, axis=0).tolist(),
            "high": np.nanquantile(each, 0.9, axis=0).tolist(),
        },
        "strategies": table,
        "rank": {str(k): _rank(table, str(k), config.draws, rng) for k in config.responses},
    }


def _pairs(n_prompts: int, n: int, bins: int, key: PRNGKeyArray) -> dict[str, Array]:
    """One network: correlation and means over all pairs within the pools, and means by similarity."""
    toy = GaussianModes()
    model_key, prompt_key, pool_key = jax.random.split(key, 3)
    prompts = toy.sample_prompts(prompt_key, n_prompts)
    pool, modes = toy.sample_responses(pool_key, prompts, n)
    i, j = np.triu_indices(n, 1)
    similarity = response_similarity(pool)[:, i, j].ravel()
    cosine = gradient_cosines(mdn_nll, MDN(model_key), prompts, pool)[:, i, j].ravel()
    same = (modes[:, i] == modes[:, j]).ravel()
    place = jnp.clip((similarity * bins).astype(int), 0, bins - 1)
    return {
        "pearson": jnp.corrcoef(similarity, cosine)[0, 1],
        "same_mode": jnp.mean(cosine, where=same),
        "cross_mode": jnp.mean(cosine, where=~same),
        "within_mode": _correlation(similarity, cosine, same),
        "count": jnp.zeros(bins, similarity.dtype).at[place].add(1.0),
        "cosine": jnp.zeros(bins, similarity.dtype).at[place].add(cosine),
    }


def _correlation(x: Array, y: Array, where: Array) -> Array:
    x, y = (a - jnp.mean(a, where=where) for a in (x, y))
    products = [jnp.mean(a * b, where=where) for a, b in ((x, y), (x, x), (y, y))]
    return products[0] / jnp.sqrt(products[1] * products[2])


def _each(pairs: dict[str, np.ndarray]) -> np.ndarray:
    """Mean cosine by similarity of each network, nan where a bin has no pair."""
    return np.divide(
        pairs["cosine"],
        pairs["count"],
        out=np.full_like(pairs["cosine"], np.nan),
        where=pairs["count"] > 0,
    )


def _over_networks(values: np.ndarray) -> dict[str, Any]:
    """Mean over networks with its standard error, and the range that holds 95 % of the networks."""
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    networks = np.quantile(values, [0.025, 0.975]).tolist()
    return {"estimate": float(values.mean()), "standard_error": error, "networks": networks}


def _rank(table: dict[str, dict[str, Any]], k: str, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Kendall's tau over strategies between score and measured K_eff, with an interval over trials.

    Both are redrawn from their joint normal law: the strategies chose from the same pools.
    """
    entries = [entry[k] for entry in table.values()]
    batches = len(entries[0]["score"]["left_out"])
    shared = rng.standard_normal((draws, batches)) * np.sqrt((batches - 1) / batches)
    signs = []
    for name in ("score", "k_eff"):
        value, left_out = (
            np.array([entry[name][part] for entry in entries]) for part in ("estimate", "left_out")
        )
        redrawn = value + shared @ (left_out - left_out.mean(1, keepdims=True)).T
        i, j = np.triu_indices(len(value), 1)
        signs.append(np.sign(redrawn[:, i] - redrawn[:, j]))
    one, other = signs
    taus = (one * other).sum(1) / np.sqrt(np.abs(one).sum(1) * np.abs(other).sum(1))  # tau-b: ties count
    low, high = np.quantile(taus, [0.025, 0.975])
    return {"estimate": float(np.mean(taus)), "low": float(low), "high": float(high)}


_K = "4"  # at which the paper compares strategies; other K are limits


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 10: the correlation and the ranking."""
    reported, pairs = result["reported"], result["pairs"]
    low, high = pairs["pearson"]["networks"]
    found = [
        Prediction(
            "bridge.pearson",
            10,
            "Pearson r of response similarity and gradient cosine over the pairs of a pool",
            read(pairs["pearson"]),
            above(0.0),
            Role.PRIMARY,
            reported=reported["pearson_r"],
            note=f"95 % of untrained networks lie between {low:.2f} and {high:.2f}",
        ),
        Prediction(
            "bridge.mode-gap",
            10,
            "mean gradient cosine, within a mode − across modes",
            read(pairs["gap"]),
            above(0.0),
            Role.PRIMARY,
            reported=reported["same_mode_cosine"] - reported["cross_mode_cosine"],
            note=f"within {pairs['same_mode']['estimate']:.2f}, across {pairs['cross_mode']['estimate']:.2f}",
        ),
        Prediction(
            "bridge.within-mode",
            10,
            "Pearson r of similarity and gradient cosine within a mode",
            read(pairs["within_mode"]),
            above(0.0),
            Role.LIMIT,
        ),
    ]
    table = result["strategies"]
    for k, tau in result["rank"].items():
        role = Role.PRIMARY if k == _K else Role.LIMIT
        if {"dkon", "rkon"} <= set(table):
            dkon, rkon = (table[name][k]["k_eff"] for name in ("dkon", "rkon"))
            found.append(
                Prediction(
                    f"bridge.k-eff.dkon-over-rkon.k{k}",
                    10,
                    f"measured K_eff, DKoN − RKoN, K = {k}",
                    difference(dkon, rkon),
                    above(0.0),
                    role,
                    note=f"DKoN {dkon['estimate']:.2f}, RKoN {rkon['estimate']:.2f}",
                )
            )
        found.append(
            Prediction(
                f"bridge.rank.k{k}",
                10,
                f"Kendall's tau over strategies, similarity score and measured K_eff, K = {k}",
                read(tau),
                above(0.0),
                role,
            )
        )
        found.append(
            Prediction(
                f"bridge.calibration.k{k}",
                10,
                f"similarity score of RKoN as a K_eff, K = {k}",
                read(table["rkon"][k]["score"]),
                above(float(k) / 1.1),
                Role.LIMIT,
                note="independent draws have K_eff = K; calibrated would be within 10 % of that",
            )
        )
    return found
