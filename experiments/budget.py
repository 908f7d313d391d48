"""E2: the number of responses that trains best under a budget of 400, beside the K* of the variance law.

A mixture density network is trained at every K with N_p = floor(B / (C_p + K C_r)) prompts, in two recipes from one
trajectory: after the last step, as published, and at its best validation step. K* comes from the exact components of
untrained networks, as in the paper, and beside it from those of the trained ones. Settings share their random numbers.
The same for cost ratios C_p / C_r from 1 to 100, over which K* grows as the square root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    Source,
    above,
    below,
    between,
    published,
    read,
    within_factor,
)
from experiments.shared.mdn_training import (
    PAPER,
    RECIPES,
    Shape,
    program,
    sobol_prompts,
    train_once,
    true_nll,
    untrained_law,
)
from experiments.shared.training import Recipe
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.montecarlo import subkeys
from mrtsim.plan.allocate import Cost

CLAIMS = (4, 6)
NEAR = 2.0  # "near K*" is within this factor
SMALL = 0.05  # a regret below this share of what the best K saves is small
_SLOPE_MARGIN = 0.15  # within which a slope of log(best K) in log(C_p / C_r) is the law's 1/2


@dataclass(frozen=True)
class Config:
    """The paper's setting. `points` are the test prompts of the quadrature, `networks` the untrained ones.

    At each of the cost `ratios` the budget is what `ratio_prompts` prompts with one response each cost.
    """

    responses: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16)
    strategies: tuple[str, ...] = ("rkon", "filtered-max-min")
    budget: float = 400.0
    c_prompt: float = 4.0
    c_response: float = 1.0
    n_candidates: int = 32
    replicates: int = 8
    recipe: Recipe = PAPER
    points: int = 1024
    networks: int = 16
    component_points: int = 2**10
    padded: bool = True
    block: int = 4
    ratios: tuple[float, ...] = (1.0, 10.0, 100.0)
    ratio_prompts: int = 80
    ratio_responses: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    ratio_replicates: int = 8

    def __post_init__(self):
        if list(self.responses) != sorted(set(self.responses)) or self.responses[0] < 1:
            raise InputError(f"responses must be increasing whole numbers from 1 on, not {self.responses}")
        if self.responses[-1] > self.n_candidates:
            raise InputError(f"K = {self.responses[-1]} exceeds a pool of {self.n_candidates} candidates")
        if self.padded and self.responses[-1] > self.n_candidates // 2:
            # The filtered selector's first K of its kept K_max are its kept K only while the filter leaves K_max.
            raise InputError("padded programs keep at most half of the pool: set padded=False")
        if self.prompts(self.responses[-1]) < 1:
            raise InputError(f"a budget of {self.budget} pays no prompt with K = {self.responses[-1]}")
        if len(self.ratios) < 2 or min(self.ratios) <= 0:
            raise InputError(f"a slope takes two cost ratios or more, all above 0, not {self.ratios}")
        if self.prompts_at(min(self.ratios), max(self.ratio_responses)) < 1:
            raise InputError(f"ratio_prompts = {self.ratio_prompts} pay no prompt with the most responses")

    def prompts(self, k: int) -> int:
        """Prompts that the budget pays with K responses each."""
        return int((self.budget + 1e-9) // (self.c_prompt + k * self.c_response))

    def prompts_at(self, ratio: float, k: int) -> int:
        """Prompts with k responses each for the cost of `ratio_prompts` with one, at a cost ratio."""
        return int((self.ratio_prompts * (ratio + 1) + 1e-9) // (ratio + k))


PRESETS = {
    "quick": Config(
        replicates=8,
        recipe=Recipe(steps=100),
        points=128,
        networks=4,
        component_points=2**9,
        ratios=(1.0, 100.0),
        ratio_responses=(1, 4, 16),
        ratio_replicates=4,
    ),
    "paper": Config(),
    "precise": Config(
        responses=(1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32),
        replicates=600,
        component_points=2**12,
        padded=False,
        ratios=(1.0, 3.0, 10.0, 30.0, 100.0),
        ratio_responses=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
        ratio_replicates=40,
    ),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train every strategy at every K, and compare the best K with K*."""
    train_key, network_key, ratio_key = subkeys(key, 3)
    points = jnp.asarray(sobol_prompts(config.points), jnp.float32)
    most = config.prompts(config.responses[0])
    settings = {}
    for k in config.responses:
        n_prompts = config.prompts(k)
        rows, width = program(config.padded, n_prompts, k, (most, config.responses[-1]))
        shape = Shape(config.strategies, rows, width, most, config.n_candidates, config.recipe)
        for which, name in enumerate(config.strategies):
            settings[f"{name}/k={k}"] = (which, n_prompts, k, points, shape)
    cells = sweep.grid(train_once, train_key, config.replicates, settings, block=config.block)
    scores = {name: [cells[f"{name}/k={k}"] for k in config.responses] for name in config.strategies}
    cost = Cost(prompt=config.c_prompt, response=config.c_response)
    law = _law(config, cost, network_key)
    return {
        "responses": list(config.responses),
        "n_prompts": [config.prompts(k) for k in config.responses],
        "budget": config.budget,
        "cost": {"prompt": cost.prompt, "response": cost.response},
        "replicates": config.replicates,
        "true_nll": true_nll(),
        "reported": published()["budget"],
        "law": law,
        "ratios": _ratios(config, law["k_star"], ratio_key, sweep),
        "strategies": {name: _summarise(config, cost, law, s) for name, s in scores.items()},
        "excess": {
            recipe: _excess(scores, recipe)
            for recipe in RECIPES
            if {"rkon", "filtered-max-min"} <= set(scores)
        },
    }


def _law(config: Config, cost: Cost, key: PRNGKeyArray) -> dict[str, Any]:
    """K* of untrained networks, and the K on the grid with the least estimator variance."""
    law = untrained_law(key, config.networks, config.component_points, cost)
    n = np.array([config.prompts(k) for k in config.responses])
    variance = (law["v_prompt"] + law["v_response"] / np.array(config.responses)) / n
    return law | {"variance": variance, "best_k": int(config.responses[int(variance.argmin())])}


def _ratios(config: Config, k_star: float, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Test NLL of RKoN at every K and cost ratio, the best K at each ratio, and how it grows with the ratio."""
    points = jnp.asarray(sobol_prompts(config.points), jnp.float32)
    ks, ratios = config.ratio_responses, config.ratios
    shape = Shape(("rkon",), config.ratio_prompts, ks[-1], config.ratio_prompts, ks[-1], config.recipe)
    prompts = [[config.prompts_at(ratio, k) for k in ks] for ratio in ratios]
    settings = {
        f"ratio={ratio:g}/k={k}": (0, n, k, points, shape)
        for ratio, row in zip(ratios, prompts, strict=True)
        for k, n in zip(ks, row, strict=True)
    }
    cells = sweep.grid(train_once, key, config.ratio_replicates, settings, block=config.block)

    def best(nll: np.ndarray) -> np.ndarray:
        return np.array(ks, float)[nll.mean(axis=-3).argmin(axis=-1)]

    def slope(nll: np.ndarray) -> np.ndarray:
        x = np.log(ratios) - np.mean(np.log(ratios))
        return np.log(best(nll)) @ x / np.sum(x**2)

    out: dict[str, Any] = {
        "ratios": list(ratios),
        "responses": list(ks),
        "n_prompts": prompts,
        "replicates": config.ratio_replicates,
        "k_star": [k_star * float(np.sqrt(r * config.c_response / config.c_prompt)) for r in ratios],
    }
    for recipe in RECIPES:
        # (replicates, ratios, responses); all share their random numbers and are resampled together
        nll = np.stack([cell[recipe]["nll"] for cell in cells.values()], axis=1)
        nll = nll.reshape(len(nll), len(ratios), len(ks))
        out[recipe] = {
            "nll": nll.mean(0),
            "best": intervals.cells(intervals.held(intervals.bootstrap(nll, best, vectorized=True))),
            "slope": intervals.held(intervals.bootstrap(nll, slope, vectorized=True)),
        }
    return out


def _summarise(
    config: Config, cost: Cost, law: dict[str, Any], scores: list[dict[str, Any]]
) -> dict[str, Any]:
    ks, out = list(config.responses), {}
    for recipe in RECIPES:
        nll = np.stack([s[recipe]["nll"] for s in scores], axis=1)
        v_prompt, v_response = (
            np.stack([s[recipe][name] for s in scores], axis=1) for name in ("prompt", "response")
        )
        k_star = np.sqrt(v_response / v_prompt * cost.prompt / cost.response)
        out[recipe] = {
            "nll": intervals.describe(nll),
            "sampled_nll": intervals.describe(np.stack([s[recipe]["sampled"] for s in scores], axis=1)),
            "best": intervals.best(nll, ks, law["best_k"]),
            "k_star": intervals.describe(k_star)["median"],
        }
    out["best_step"] = [intervals.mean(s["best_step"]) for s in scores]
    out["diverged"] = [int(np.sum(s["diverged"] < config.recipe.steps)) for s in scores]
    return out


def _excess(scores: dict[str, list[dict[str, Any]]], recipe: str) -> list[Estimate]:
    """Mean NLL of the filtered selector less RKoN's, over runs with the same random numbers, one per K."""
    pairs = zip(scores["filtered-max-min"], scores["rkon"], strict=True)
    return [intervals.mean(filtered[recipe]["nll"] - random[recipe]["nll"]) for filtered, random in pairs]


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 4 in both recipes: the best K beside K*, and what following K* costs; claim 6 against the selector."""
    law, rkon, ks = result["law"], result["strategies"]["rkon"], result["responses"]
    reported = result["reported"]
    reported_best = reported["responses_per_prompt"][int(np.argmin(reported["rkon_mean"]))]
    found = []
    for recipe, label in RECIPES.items():
        best = rkon[recipe]["best"]
        found += [
            Prediction(
                f"budget.best-k.{recipe}",
                4,
                f"K with the least test NLL under the budget, {label}",
                read(best),
                within_factor(NEAR, law["k_star"], Source.EXACT),
                Role.PRIMARY,
                reported=float(reported_best) if recipe == "last" else None,
                note=f"interval: bootstrap of the best K on the grid {ks}; the reported K* is "
                f"{reported['k_star']:.2f}",
            ),
            Prediction(
                f"budget.regret.{recipe}",
                4,
                f"share of what the best K saves over K = {ks[0]} that K = {best['chosen']} loses, {label}",
                read(best["relative_regret"]),
                below(SMALL),
                Role.LIMIT,
                note=f"K = {best['chosen']} has the least estimator variance on the grid",
            ),
            Prediction(
                f"budget.trained-k-star.{recipe}",
                4,
                f"K* of the trained network itself, median over runs at the best K, {label}",
                read(rkon[recipe]["k_star"][ks.index(best["estimate"])]),
                within_factor(NEAR, float(best["estimate"]), Source.MEASURED),
                Role.LIMIT,
                note="compared with the best K above",
            ),
        ]
    for recipe, label in RECIPES.items():
        found += _of_ratios(result["ratios"], recipe, label)
    for recipe, label in RECIPES.items():
        for k, excess in zip(ks, result["excess"].get(recipe, []), strict=False):
            if k in (2, 8):
                found.append(
                    Prediction(
                        f"budget.filtered-over-rkon.{recipe}.k{k}",
                        6,
                        f"test NLL under the budget, filtered max-min − RKoN, K = {k}, {label}",
                        read(excess),
                        above(0.0),
                        Role.LIMIT,
                        unit="nats",
                    )
                )
    return found


def _of_ratios(of: dict[str, Any], recipe: str, label: str) -> list[Prediction]:
    """Claim 4 at other costs: the best K beside K* at each ratio, and its growth with the ratio."""
    at_each = [
        Prediction(
            f"budget.best-k-at-ratio.{recipe}-r{ratio:g}",
            4,
            f"K with the least test NLL where C_p / C_r = {ratio:g}, {label}",
            read(best),
            within_factor(NEAR, k_star, Source.EXACT),
            Role.LIMIT,
            note=f"for the cost of {of['n_prompts'][0][0]} prompts with one response; grid {of['responses']}",
        )
        for ratio, best, k_star in zip(of["ratios"], of[recipe]["best"], of["k_star"], strict=True)
    ]
    return [
        *at_each,
        Prediction(
            f"budget.ratio-slope.{recipe}",
            4,
            f"slope of log(best K) in log(C_p / C_r) from {of['ratios'][0]:g} to {of['ratios'][-1]:g}, {label}",
            read(of[recipe]["slope"]),
            between(0.5 - _SLOPE_MARGIN, 0.5 + _SLOPE_MARGIN, Source.EXACT),
            Role.LIMIT,
            note="K* grows as the square root of the ratio; "
            + ", ".join(f"{best['estimate']:g}" for best in of[recipe]["best"])
            + " are the best K",
        ),
    ]
