"""Training over the whole plane of prompts and responses, beside the variance law.

Networks train on every N_p x K. The law says that what matters is (V_x + V_{y|x}/K)/N_p, so along a line of equal cost
the best K is one K*, whatever the budget. From the trained networks come: the best K on each line of equal cost, by
interpolation; and the one ratio rho that makes their excess NLL (over the entropy of p(y|x)) most nearly a power of
(1 + rho/K)/N_p. The law's own rho is V_{y|x}/V_x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from scipy.interpolate import RegularGridInterpolator

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    Source,
    above,
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
from mrtsim.montecarlo import subkeys
from mrtsim.plan.allocate import Cost

CLAIMS = (4,)
NEAR = 2.0
_RHO = np.geomspace(0.05, 500.0, 200)


@dataclass(frozen=True)
class Config:
    """A grid of N_p and K with E2's learner, costs and pools; `budgets` are the lines of equal cost."""

    prompts: tuple[int, ...] = (10, 20, 40, 80, 160)
    responses: tuple[int, ...] = (1, 2, 4, 8, 16)
    budgets: tuple[float, ...] = (200.0, 400.0, 800.0)
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

    def __post_init__(self):
        for name, values in (("prompts", self.prompts), ("responses", self.responses)):
            if list(values) != sorted(set(values)) or len(values) < 3 or values[0] < 1:
                raise InputError(
                    f"{name} must be three or more increasing whole numbers from 1 on, not {values}"
                )
        if self.responses[-1] > self.n_candidates:
            raise InputError(f"K = {self.responses[-1]} exceeds a pool of {self.n_candidates} candidates")


PRESETS = {
    "quick": Config(
        prompts=(10, 20, 40),
        responses=(1, 2, 4),
        budgets=(100.0,),
        replicates=4,
        recipe=Recipe(steps=100),
        points=128,
        networks=4,
        component_points=2**9,
    ),
    "paper": Config(),
    "precise": Config(
        prompts=(10, 20, 40, 80, 160, 320),
        responses=(1, 2, 4, 8, 16, 32),
        budgets=(100.0, 200.0, 400.0, 800.0, 1600.0),
        replicates=40,
        component_points=2**12,
        padded=False,
    ),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train the plane; all cells share their random numbers."""
    train_key, network_key = subkeys(key)
    points = jnp.asarray(sobol_prompts(config.points), jnp.float32)
    largest = (config.prompts[-1], config.responses[-1])
    settings = {}
    for n_prompts in config.prompts:
        for k in config.responses:
            rows, width = program(config.padded, n_prompts, k, largest)
            shape = Shape(
                ("rkon",), rows, width, largest[0], config.n_candidates, config.recipe, test_prompts=1
            )
            settings[f"n={n_prompts}/k={k}"] = (0, n_prompts, k, points, shape)
    cells = sweep.grid(train_once, train_key, config.replicates, settings, block=config.block).values()
    truth = true_nll()
    excess = {recipe: [scores[recipe]["nll"] - truth for scores in cells] for recipe in RECIPES}
    steps = [intervals.mean(scores["best_step"]) for scores in cells]
    diverged = [int(np.sum(scores["diverged"] < config.recipe.steps)) for scores in cells]
    cost = Cost(prompt=config.c_prompt, response=config.c_response)
    law = untrained_law(network_key, config.networks, config.component_points, cost)
    n, k = np.array(config.prompts, float)[:, None], np.array(config.responses, float)
    return {
        "prompts": list(config.prompts),
        "responses": list(config.responses),
        "budgets": list(config.budgets),
        "cost": {"prompt": cost.prompt, "response": cost.response},
        "replicates": config.replicates,
        "true_nll": truth,
        "law": law | {"variance": (law["v_prompt"] + law["v_response"] / k) / n},
        "recipes": {
            recipe: _summarise(config, np.stack(losses, axis=1).reshape(-1, n.size, k.size))
            for recipe, losses in excess.items()
        },
        "best_step": steps,
        "diverged": diverged,
    }


def _summarise(config: Config, excess: np.ndarray) -> dict[str, Any]:
    """Means, the best K per budget, and the fitted ratio, of excess NLLs (replicates, prompts, responses)."""
    ratio = config.c_prompt / config.c_response
    k = np.array(config.responses, float)
    mean = excess.mean(0)
    fitted = intervals.bootstrap(excess, lambda runs: fit_law(config.prompts, k, runs.mean(0)), resamples=500)
    rho, power, explained = intervals.cells(fitted)
    return {
        "excess": mean,
        "standard_error": excess.std(0, ddof=1) / np.sqrt(len(excess)),
        "rho": rho,
        "power": power,
        "explained": explained["estimate"],
        "k_star": {name: float(np.sqrt(value * ratio)) for name, value in rho.items()},
        "best_k": [
            intervals.bootstrap(
                excess, lambda runs, b=budget: _best_k(config, runs.mean(0), b), resamples=500
            )
            for budget in config.budgets
        ],
        "equal_rows": _equal_rows(config, excess),
    }


def fit_law(prompts: Any, responses: Any, excess: np.ndarray) -> np.ndarray:
    """(rho, power, share of the variance explained) of log excess = c + power log((1 + rho/K)/N_p), least squares."""
    n, k = np.asarray(prompts, float)[:, None], np.asarray(responses, float)
    y = np.log(excess).ravel()
    y = y - y.mean()
    x = np.stack([np.log((1 + rho / k) / n).ravel() for rho in _RHO])
    x -= x.mean(1, keepdims=True)
    explained = (x @ y) ** 2 / np.sum(x**2, axis=1) / (y @ y)
    best = int(explained.argmax())
    return np.array([_RHO[best], x[best] @ y / (x[best] @ x[best]), explained[best]])


def _best_k(config: Config, excess: np.ndarray, budget: float) -> float:
    """The K with the least interpolated excess on the line N_p (C_p + K C_r) = budget, within the grid."""
    axes = np.log2(np.array(config.prompts, float)), np.log2(np.array(config.responses, float))
    k = np.geomspace(config.responses[0], config.responses[-1], 129)
    n = budget / (config.c_prompt + k * config.c_response)
    inside = (n >= config.prompts[0]) & (n <= config.prompts[-1])
    surface = RegularGridInterpolator(axes, np.log(excess))
    line = surface(np.stack([np.log2(n[inside]), np.log2(k[inside])], axis=1))
    return float(k[inside][line.argmin()])


def _equal_rows(config: Config, excess: np.ndarray) -> list[dict[str, Any]]:
    """Cells with the same N_p K: excess of (few prompts, many responses) less that of (many prompts, one response)."""
    found = []
    for i, n in enumerate(config.prompts):
        for j, k in enumerate(config.responses):
            if k > 1 and config.responses[0] == 1 and n * k in config.prompts:
                other = config.prompts.index(n * k)
                gap = intervals.mean(np.log(excess[:, i, j]) - np.log(excess[:, other, 0]))
                found.append({"rows": n * k, "prompts": n, "responses": k, "log_ratio": gap})
    return found


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 4: training's K* beside the law's, and whether a row with a new prompt is worth more, as the law has it."""
    law, found = result["law"], []
    for recipe, label in RECIPES.items():
        measured = result["recipes"][recipe]
        near_k_star = within_factor(NEAR, law["k_star"], Source.EXACT)
        found.append(
            Prediction(
                f"resources.k-star.{recipe}",
                4,
                f"K* that training implies over the whole plane, {label}",
                read(measured["k_star"]),
                near_k_star,
                Role.LIMIT,
                note=f"log excess NLL = c + {measured['power']['estimate']:.2f} log((1 + rho/K)/N_p) explains "
                f"{measured['explained']:.0%} of its variance over the plane; rho = "
                f"{measured['rho']['estimate']:.2g}, the law's {law['v_response'] / law['v_prompt']:.2g}",
            )
        )
        for budget, cell in zip(result["budgets"], measured["best_k"], strict=True):
            found.append(
                Prediction(
                    f"resources.best-k.{recipe}.b{budget:g}",
                    4,
                    f"best K on the line of cost {budget:g}, {label}",
                    read(cell),
                    near_k_star,
                    Role.LIMIT,
                    note="interpolated between the trained cells",
                )
            )
        pairs = [cell for cell in measured["equal_rows"] if cell["responses"] in (4, 16)]
        for cell in pairs[-3:]:
            rows, n, k = cell["rows"], cell["prompts"], cell["responses"]
            found.append(
                Prediction(
                    f"resources.equal-rows.{recipe}.n{n}-k{k}",
                    4,
                    f"log excess NLL of {rows} rows, {n} prompts × {k} − {rows} prompts × 1, {label}",
                    read(cell["log_ratio"]),
                    above(0.0),
                    Role.LIMIT,
                    note="by the law a row with a new prompt is never worth less",
                )
            )
    return found
