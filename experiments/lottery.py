"""E3: the spread of trained models over runs, and the share of it that the draw of the responses makes.

Runs train on N_p prompts and K random responses of a pool, and are judged on one shared test set and by quadrature at
shared prompts, so that their spread is theirs alone. Each run is a pair (or more) of trainings that share prompts and
initial weights and differ in nothing but the responses drawn: the variance within pairs over that between all runs is
the share that the draw of responses alone explains, which is the lottery proper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Role, above, published, read
from experiments.shared.mdn_training import (
    PAPER,
    RECIPES,
    TOY,
    Sample,
    Shape,
    keep,
    program,
    score,
    sobol_prompts,
    train,
    true_nll,
)
from experiments.shared.training import Recipe
from mrtsim.errors import InputError
from mrtsim.montecarlo import subkeys, vmapped

CLAIMS = (1,)


@dataclass(frozen=True)
class Config:
    """The paper's setting: `replicates` data sets and initial networks, `draws` of responses to each."""

    responses: tuple[int, ...] = (1, 2, 4, 8)
    n_prompts: int = 120
    n_candidates: int = 32
    replicates: int = 20
    draws: int = 1
    recipe: Recipe = PAPER
    points: int = 1024
    padded: bool = True
    block: int = 5

    def __post_init__(self):
        if list(self.responses) != sorted(set(self.responses)) or len(self.responses) < 2:
            raise InputError(f"responses must be two or more increasing whole numbers, not {self.responses}")
        if self.draws < 1:
            raise InputError(f"draws of responses must be at least 1, not {self.draws}")


PRESETS = {
    "quick": Config(replicates=10, recipe=Recipe(steps=100), points=128),
    "paper": Config(),
    "precise": Config(replicates=300, draws=2, padded=False),
}


def train_pair(
    key: PRNGKeyArray, k: Array, test: Sample, points: Float[Array, "points d"], shape: Shape
) -> dict[str, Any]:
    """Trainings on the same prompts from the same weights, each with its own responses: arrays (draws,)."""
    prompt_key, pool_key, select_key, model_key = jax.random.split(key, 4)
    prompts = TOY.sample_prompts(prompt_key, shape.drawn_prompts + shape.validation_prompts)
    prompts, fresh = jnp.split(prompts, [shape.drawn_prompts])

    def once(pool_key: PRNGKeyArray, select_key: PRNGKeyArray) -> dict[str, Any]:
        responses, _ = TOY.sample_responses(pool_key, prompts, shape.n_candidates)
        sample = keep(select_key, shape, Sample(prompts, responses))
        trained = train(model_key, sample, shape.rows, k, shape.recipe, validation)
        return score(trained, test, points)

    # The validation set belongs to the pair: only the training responses differ within it.
    validation_key, pool_key = jax.random.split(pool_key)
    held_out, _ = TOY.sample_responses(validation_key, fresh, shape.validation_responses)
    validation = Sample(fresh, held_out)
    return vmapped(once, jax.random.split(pool_key, shape.draws), jax.random.split(select_key, shape.draws))


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train at every K, and describe the spread of the test NLL over runs."""
    train_key, prompt_key, response_key = subkeys(key, 3)

    @jax.jit
    def drawn(uniforms: Float[Array, "points d"]) -> tuple[Sample, Float[Array, "points d"]]:
        prompts = TOY.sample_prompts(prompt_key, 100)
        return Sample(prompts, TOY.sample_responses(response_key, prompts, 100)[0]), TOY.prompts_at(uniforms)

    test, points = drawn(jnp.asarray(sobol_prompts(config.points), jnp.float32))
    settings = {}
    for k in config.responses:
        rows, width = program(config.padded, config.n_prompts, k, (config.n_prompts, config.responses[-1]))
        shape = Shape(
            ("rkon",), rows, width, config.n_prompts, config.n_candidates, config.recipe, draws=config.draws
        )
        settings[f"k={k}"] = (k, test, points, shape)
    block = -(-config.block // config.draws)
    scores = [*sweep.grid(train_pair, train_key, config.replicates, settings, block=block).values()]
    return {
        "responses": list(config.responses),
        "n_prompts": config.n_prompts,
        "replicates": config.replicates,
        "draws": config.draws,
        "true_nll": true_nll(),
        "reported": published()["lottery"],
        "recipes": {recipe: _summarise(scores, recipe) for recipe in RECIPES},
        "best_step": [intervals.mean(s["best_step"].mean(1)) for s in scores],
        "diverged": [int(np.sum(s["diverged"] < config.recipe.steps)) for s in scores],
    }


def _summarise(scores: list[dict[str, Any]], recipe: str) -> dict[str, Any]:
    """Spread over runs, its fall with K, and the share of the draw of responses; runs are (replicates, draws, K)."""
    exact, sampled = (np.stack([s[recipe][name] for s in scores], axis=-1) for name in ("nll", "sampled"))
    return {
        "nll": _spread(exact),
        "sampled_nll": _spread(sampled),
        "std_ratio": intervals.bootstrap(exact, lambda runs: _std(runs)[0] / _std(runs)),
        "draw_std": intervals.bootstrap(exact, _draw_std) if exact.shape[1] > 1 else None,
        "draw_share": intervals.bootstrap(exact, _draw_share) if exact.shape[1] > 1 else None,
        "draw_std_ratio": intervals.bootstrap(exact, _draw_std_ratio) if exact.shape[1] > 1 else None,
    }


def _std(runs: np.ndarray) -> np.ndarray:
    """Standard deviation over independent runs, (K,); pairs are averaged as variances, since they are dependent."""
    return np.sqrt(runs.var(axis=0, ddof=1).mean(axis=0))


def _draw_std(runs: np.ndarray) -> np.ndarray:
    """Standard deviation over draws of responses, prompts and weights fixed, (K,)."""
    return np.sqrt(runs.var(axis=1, ddof=1).mean(axis=0))


def _draw_share(runs: np.ndarray) -> np.ndarray:
    return np.square(_draw_std(runs) / _std(runs))


def _draw_std_ratio(runs: np.ndarray) -> np.ndarray:
    return _draw_std(runs)[0] / _draw_std(runs)


def _spread(runs: np.ndarray) -> dict[str, Any]:
    return {
        "mean": [intervals.mean(column) for column in runs.mean(axis=1).T],
        "std": intervals.bootstrap(runs, _std),
        "quantiles": np.quantile(runs, [0.05, 0.25, 0.5, 0.75, 0.95], axis=(0, 1)),
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 1: the spread over runs falls with K, and the draw of responses makes up much of it at K = 1."""
    reported = result["reported"]
    std = dict(zip(reported["responses_per_prompt"], reported["std"], strict=True))
    ks, found = result["responses"], []
    for recipe, label in RECIPES.items():
        measured = result["recipes"][recipe]
        means = [read(cell).value for cell in measured["nll"]["mean"]]
        for k in (ks[-1], *ks[1:-1]):
            known = recipe == "last" and {ks[0], k} <= set(std)
            found.append(
                Prediction(
                    f"lottery.std-ratio.{recipe}.k{k}",
                    1,
                    f"SD over runs of the test NLL, K = {ks[0]} / K = {k}, {label}",
                    read(measured["std_ratio"], ks.index(k)),
                    above(1.0),
                    Role.PRIMARY if k == ks[-1] else Role.LIMIT,
                    reported=std[ks[0]] / std[k] if known else None,
                    note="N_p is fixed, so a larger K also means more rows; mean NLL "
                    f"{means[0]:.3g} at K = {ks[0]} and {means[ks.index(k)]:.3g} at K = {k}, that of the truth "
                    f"{result['true_nll']:.3g}",
                )
            )
        if measured["draw_share"] is None:
            continue
        found += [
            Prediction(
                f"lottery.draw-share.{recipe}",
                1,
                f"share of the variance over runs that the draw of responses alone makes, K = {ks[0]}, {label}",
                read(measured["draw_share"], 0),
                above(0.5),
                Role.PRIMARY,
                note="prompts and initial weights are fixed within a pair of runs",
            ),
            Prediction(
                f"lottery.draw-std-ratio.{recipe}",
                1,
                f"SD from the draw of responses alone, K = {ks[0]} / K = {ks[-1]}, {label}",
                read(measured["draw_std_ratio"], len(ks) - 1),
                above(1.0),
                Role.PRIMARY,
            ),
        ]
    return found
