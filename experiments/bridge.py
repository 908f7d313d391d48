"""E6: are gradients of similar responses similar, and does diversity raise K_eff?

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

from experiments.harness.statements import Estimate, Prediction, greater, published
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
        "pairs": {
            name: _interval(pairs[name])
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


def _interval(values: np.ndarray) -> dict[str, float]:
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(values.mean()), "error": error, "low": float(low), "high": float(high)}


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
            np.array([entry[name][part] for entry in entries]) for part in ("value", "left_out")
        )
        redrawn = value + shared @ (left_out - left_out.mean(1, keepdims=True)).T
        i, j = np.triu_indices(len(value), 1)
        signs.append(np.sign(redrawn[:, i] - redrawn[:, j]))
    one, other = signs
    taus = (one * other).sum(1) / np.sqrt(np.abs(one).sum(1) * np.abs(other).sum(1))  # tau-b: ties count
    low, high = np.quantile(taus, [0.025, 0.975])
    return {"value": float(np.mean(taus)), "low": float(low), "high": float(high)}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 10: the correlation and the ranking."""
    reported = published()["bridge"]
    pairs = {
        name: Estimate.from_standard_error(e["value"], e["error"]) for name, e in result["pairs"].items()
    }
    spread = result["pairs"]["pearson"]
    found = [
        Prediction(
            10,
            "response similarity and gradient cosine are correlated over the pairs of a pool (Pearson r above 0)",
            pairs["pearson"],
            greater(pairs["pearson"], 0.0),
            reported["pearson_r"],
            note=f"95 % of untrained networks lie between {spread['low']:.2f} and {spread['high']:.2f}",
        ),
        Prediction(
            10,
            "gradients agree more within a mode than across modes (difference of mean cosines)",
            pairs["gap"],
            greater(pairs["gap"], 0.0),
            reported["same_mode_cosine"] - reported["cross_mode_cosine"],
            note=f"within {pairs['same_mode'].value:.2f}, across {pairs['cross_mode'].value:.2f}",
        ),
        Prediction(
            10,
            "within a mode, too, the closer responses have the more similar gradients (Pearson r above 0)",
            pairs["within_mode"],
            greater(pairs["within_mode"], 0.0),
            primary=False,
        ),
    ]
    table = result["strategies"]
    if {"dkon", "rkon"} <= set(table):
        for k in result["rank"]:
            gain = difference(table["dkon"][k]["k_eff"], table["rkon"][k]["k_eff"])
            found.append(
                Prediction(
                    10,
                    f"choosing for diversity alone (DKoN) raises the measured K_eff above RKoN's, K = {k}",
                    gain,
                    greater(gain, 0.0),
                    note="DKoN {:.2f}, RKoN {:.2f}".format(
                        *(table[s][k]["k_eff"]["value"] for s in ("dkon", "rkon"))
                    ),
                )
            )
    for k, tau in result["rank"].items():
        interval = Estimate(tau["value"], tau["low"], tau["high"])
        found.append(
            Prediction(
                10,
                f"the similarity score ranks the strategies as the measured K_eff does (Kendall's tau > 0), K = {k}",
                interval,
                greater(interval, 0.0),
            )
        )
    for k in result["rank"]:
        score = Estimate.from_standard_error(*(table["rkon"][k]["score"][p] for p in ("value", "error")))
        found.append(
            Prediction(
                10,
                f"the similarity score is a calibrated K_eff: RKoN's is above {k} / 1.1, K = {k}",
                score,
                greater(score, float(k) / 1.1),
                exact=float(k),
                primary=False,
            )
        )
    return found
