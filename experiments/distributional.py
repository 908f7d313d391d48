"""E4: which strategy's kept responses train the best p(y|x)? NLL of fresh responses to the training prompts.

The prompts are those trained on, so that what is judged is the conditional distribution that was learnt there, not
generalisation to new prompts; the validation responses of the second recipe belong to the same prompts. The exact NLL
less the entropy of p(y|x) is KL(p || model), and E4's numbers are read best on that scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import Estimate, Prediction, greater, less, published
from experiments.shared.mdn_training import (
    PAPER,
    RECIPES,
    TOY,
    Sample,
    Shape,
    keep,
    program,
    score,
    train,
    true_nll,
)
from experiments.shared.training import Recipe
from mrtsim.errors import InputError

CLAIMS = (6, 7, 1, 9)


@dataclass(frozen=True)
class Config:
    """The paper's setting."""

    responses: tuple[int, ...] = (1, 2, 4, 8, 16)
    strategies: tuple[str, ...] = ("bkon", "rkon", "filtered-max-min")
    n_prompts: int = 150
    n_candidates: int = 32
    replicates: int = 10
    recipe: Recipe = PAPER
    padded: bool = True
    block: int = 5

    def __post_init__(self):
        if list(self.responses) != sorted(set(self.responses)) or self.responses[0] < 1:
            raise InputError(f"responses must be increasing whole numbers from 1 on, not {self.responses}")
        if self.responses[-1] > self.n_candidates:
            raise InputError(f"K = {self.responses[-1]} exceeds a pool of {self.n_candidates} candidates")
        if self.padded and self.responses[-1] > self.n_candidates // 2:
            raise InputError("padded programs keep at most half of the pool: set padded=False")


PRESETS = {
    "quick": Config(replicates=5, recipe=Recipe(steps=100)),
    "paper": Config(),
    "precise": Config(
        strategies=("bkon", "rkon", "filtered-max-min", "dkon", "dbkon"), replicates=200, padded=False
    ),
}


def train_once(key: PRNGKeyArray, which: Array, k: Array, shape: Shape) -> dict[str, Any]:
    """One run of one setting: scores of both recipes at the training prompts."""
    keys = jax.random.split(key, 5)
    prompts = TOY.sample_prompts(keys[0], shape.drawn_prompts)
    pools, _ = TOY.sample_responses(keys[1], prompts, shape.n_candidates)
    held_out, _ = TOY.sample_responses(keys[2], prompts, shape.validation_responses + shape.test_responses)
    validation, test = (
        Sample(prompts, part) for part in jnp.split(held_out, [shape.validation_responses], axis=1)
    )
    sample = keep(keys[3], shape, Sample(prompts, pools), which)
    trained = train(keys[4], sample, shape.rows, k, shape.recipe, validation)
    return score(trained, test, prompts)


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train every strategy at every K; all share prompts, pools and initial weights."""
    settings = {}
    for k in config.responses:
        rows, width = program(config.padded, config.n_prompts, k, (config.n_prompts, config.responses[-1]))
        shape = Shape(config.strategies, rows, width, config.n_prompts, config.n_candidates, config.recipe)
        for which, name in enumerate(config.strategies):
            settings[f"{name}/k={k}"] = (which, k, shape)
    cells = sweep.grid(train_once, key, config.replicates, settings, block=config.block)
    scores = {name: [cells[f"{name}/k={k}"] for k in config.responses] for name in config.strategies}
    return {
        "responses": list(config.responses),
        "n_prompts": config.n_prompts,
        "n_candidates": config.n_candidates,
        "replicates": config.replicates,
        "true_nll": true_nll(),
        "strategies": {name: _summarise(config, s) for name, s in scores.items()},
        "excess": {
            name: {recipe: _excess(s, scores["rkon"], recipe) for recipe in RECIPES}
            for name, s in scores.items()
            if "rkon" in scores and name != "rkon"
        },
    }


def _summarise(config: Config, scores: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for recipe in RECIPES:
        exact, sampled = (np.stack([s[recipe][name] for s in scores], axis=1) for name in ("nll", "sampled"))
        out[recipe] = {
            "nll": intervals.describe(exact),
            "sampled_nll": intervals.describe(sampled),
            "gain": [intervals.mean(exact[:, 0] - exact[:, i]) for i in range(len(scores))],
        }
    out["best_step"] = [intervals.mean(s["best_step"]) for s in scores]
    out["diverged"] = [int(np.sum(s["diverged"] < config.recipe.steps)) for s in scores]
    return out


def _excess(scores: list[dict[str, Any]], rkon: list[dict[str, Any]], recipe: str) -> list[dict[str, float]]:
    """Mean NLL less RKoN's, over runs with the same prompts, pools and weights; one interval a K."""
    return [intervals.mean(s[recipe]["nll"] - r[recipe]["nll"]) for s, r in zip(scores, rkon, strict=True)]


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claims 6 and 7: RKoN against the others at every K; claim 1: more responses help RKoN."""
    ks, found = result["responses"], []
    reported = published()["distributional"]
    known = reported["responses_per_prompt"]
    titles = {
        "bkon": "BKoN's",
        "filtered-max-min": "filtered max-min's",
        "dkon": "DKoN's",
        "dbkon": "DBKoN's",
    }
    claims = {"bkon": 7, "filtered-max-min": 6, "dkon": 6, "dbkon": 9}
    for recipe, label in RECIPES.items():
        for name, by_recipe in result["excess"].items():
            cells = [Estimate(**cell) for cell in by_recipe[recipe]]
            for k, ours in zip(ks, cells, strict=True):
                column = name.replace("-", "_")
                has = recipe == "last" and column in reported and k in known
                found.append(
                    Prediction(
                        claims.get(name, 6),
                        f"{titles.get(name, name)} NLL exceeds RKoN's at K = {k} (training prompts, {label})",
                        ours,
                        greater(ours, 0.0),
                        reported=reported[column][known.index(k)] - reported["rkon"][known.index(k)]
                        if has
                        else None,
                        primary=name == "bkon" and k in (4, 8),
                    )
                )
        if "rkon" in result["strategies"]:
            gain = Estimate(**result["strategies"]["rkon"][recipe]["gain"][-1])
            found.append(
                Prediction(
                    1,
                    f"RKoN's NLL falls from K = {ks[0]} to K = {ks[-1]} (training prompts, {label})",
                    gain,
                    greater(gain, 0.0),
                    reported=reported["rkon"][known.index(ks[0])] - reported["rkon"][known.index(ks[-1])]
                    if recipe == "last" and {ks[0], ks[-1]} <= set(known)
                    else None,
                    primary=False,
                )
            )
            floor = Estimate(**result["strategies"]["rkon"][recipe]["nll"]["mean"][-1])
            over = Estimate(*(v - result["true_nll"] for v in (floor.value, floor.low, floor.high)))
            found.append(
                Prediction(
                    6,
                    f"RKoN with K = {ks[-1]} learns p(y|x) at the training prompts to KL(p || model) below 0.5 nats, "
                    f"{label}",
                    over,
                    less(over, 0.5),
                    primary=False,
                )
            )
    return found
