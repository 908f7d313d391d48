"""The angle between BKoN's gradient and the true one: a map over N, K and the reward, and along training.

The cosine of BKoN's expected batch gradient with the true one, exact, for untrained MDNs. The reward goes from the
paper's -(y - f)^2, which prefers the middle mode, to the log-density: r = (1 - a) (-(y - f)^2) / s_1 + a log p / s_2,
each in units of its standard deviation under p; a is the agreement. Then the same cosine while MDNs train on RKoN's and
on BKoN's picks, at prompts they did not see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.stats import binomtest

from experiments.harness.statements import Prediction, Role, above, below, published, read
from experiments.shared.training import Recipe, fit
from experiments.shared.untrained_network import problems
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.reports import cosine
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from mrtsim.montecarlo import subkeys
from mrtsim.selection.exact_laws import KeptLaw, bkon_law
from mrtsim.selection.registry import Pool, strategy

CLAIMS = (8,)
_TOY = GaussianModes()
_NODES = 2048  # of a mode, for rewards without a closed form


@dataclass(frozen=True)
class Config:
    """The paper's network, N and K; `replicates` untrained networks, `runs` training runs for each kind of data."""

    n_prompts: int = 30
    n_candidates: int = 32
    k: int = 4
    candidates: tuple[int, ...] = (4, 16, 32, 128)
    responses: tuple[int, ...] = (1, 2, 4, 8, 16)
    agreements: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98, 0.99, 1.0)
    replicates: int = 8
    runs: int = 6
    training_prompts: int = 150
    checkpoints: tuple[int, ...] = (0, 10, 20, 30, 50, 70, 100, 200, 400)
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self):
        steps = self.checkpoints
        if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] < 1:
            raise InputError(f"checkpoints must be increasing whole numbers that end above 0, not {steps}")


PRESETS = {
    "quick": Config(
        replicates=6, runs=2, candidates=(8, 32), responses=(1, 4, 8), agreements=(0.0, 0.5, 1.0)
    ),
    "paper": Config(),
    "precise": Config(replicates=100, runs=24, candidates=(4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """The two maps, then the training runs."""
    map_key, data_key = subkeys(key)
    sizes = [(n, k) for n in config.candidates for k in config.responses if k <= n]
    here = (config.n_candidates, config.k)
    dials = [(n, a) for n in config.candidates for a in config.agreements if n >= config.k]
    laws = [_law(n, k, 0.0) for n, k in [here, *sizes]]
    laws += [_law(n, config.k, a) for n, a in [(here[0], 1.0), *dials]]
    cosines = []
    for index in range(config.replicates):
        # One network at a time: its gradients at the nodes are what takes memory.
        (problem,) = problems(jax.random.fold_in(map_key, index), 1, config.n_prompts)
        cosines.append(_cosines(problem, laws))
    by_law = np.stack(cosines, axis=1)
    summaries = iter(_summary(values) for values in by_law)
    negative = by_law[[0, 1 + len(sizes)], :, 0] < 0  # here, and under the likelihood
    return {
        "n_candidates": config.n_candidates,
        "k": config.k,
        "here": next(summaries),
        "sizes": [{"n": n, "k": k, **next(summaries)} for n, k in sizes],
        "likelihood": next(summaries),
        "negative_under_both": int(negative.all(0).sum()),
        "agreements": [{"n": n, "agreement": a, **next(summaries)} for n, a in dials],
        "training": {name: _training(config, name, data_key, sweep) for name in ("rkon", "bkon")},
    }


def reward(agreement: float) -> Any:
    """The reward that is the paper's at agreement 0 and the log-density at 1."""
    z, weights = (np.asarray(a) for a in _TOY.quadrature(jnp.zeros((1, _TOY.prompt_dim))))
    scales = []
    for values in (
        -np.square(z),
        np.asarray(_TOY.log_density(jnp.zeros((1, _TOY.prompt_dim)), jnp.asarray(z))),
    ):
        mean = (weights * values).sum()
        scales.append(float(np.sqrt((weights * np.square(values - mean)).sum())))

    def mixed(prompts: Array, responses: Array) -> Array:
        likelihood = _TOY.log_density(prompts, responses)
        return (1 - agreement) * _TOY.reward(prompts, responses) / scales[
            0
        ] + agreement * likelihood / scales[1]

    return mixed


def _law(n: int, k: int, agreement: float) -> KeptLaw:
    """BKoN's law at a prompt with centre 0: that of every prompt, shifted."""
    with jax.enable_x64(True):
        return bkon_law(_TOY, np.zeros((1, _TOY.prompt_dim)), n, k, reward(agreement), resolution=_NODES)


def _cosines(problem: Problem, laws: list[KeptLaw]) -> np.ndarray:
    """Cosines under each law, (laws, 2): of the expected batch gradient, and the mean over prompts of each prompt's."""
    with jax.enable_x64(True):
        centre = np.asarray(_TOY.centre(jnp.asarray(problem.prompts)))
        # All laws have the same nodes.
        responses = jnp.asarray(centre[:, None] + laws[0].responses)
        kept = jnp.asarray(np.concatenate([law.kept for law in laws]))
        each, batch = map(np.asarray, _expected(problem, responses, kept))
        truth = np.asarray(problem.gradients.coordinates(problem.true_gradient))
    return np.stack([cosine(batch, np.asarray(problem.true_batch)), cosine(each, truth).mean(-1)], axis=-1)


@eqx.filter_jit
def _expected(problem: Problem, responses: Array, kept: Array) -> tuple[Array, Array]:
    """Expected gradients under each law: of each prompt (laws, prompts, coordinates), and of the batch (laws, ...)."""
    gradients = problem.gradients.rows(responses)[..., 1:]

    def under(weights: Array) -> tuple[Array, Array]:
        expected = jnp.einsum("q,pqo->po", weights, gradients)
        return problem.gradients.coordinates(expected), problem.gradients.batch(expected)

    return jax.lax.map(under, kept)


def _summary(values: Float[np.ndarray, "networks 2"]) -> dict[str, Any]:
    """Over networks: mean, its standard error, and in how many the batch cosine is negative."""
    batch, each = values.T
    return {
        "estimate": float(batch.mean()),
        "standard_error": float(batch.std(ddof=1) / np.sqrt(len(batch))),
        "negative": int((batch < 0).sum()),
        "networks": len(batch),
        "per_prompt": float(each.mean()),
        "per_prompt_error": float(each.std(ddof=1) / np.sqrt(len(each))),
    }


def _training(config: Config, name: str, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Cosine, test NLL and gradient norms at the checkpoints, for MDNs that train on what `name` keeps."""
    law = _law(config.n_candidates, config.k, 0.0)
    nodes, weights, kept = (a[0].astype(np.float32) for a in (law.responses, law.weights, law.kept))
    fn = partial(_train, config, name)
    found = sweep.replicates(f"training/{name}", fn, key, config.runs, nodes, weights, kept)
    error = found["cosine"].std(0, ddof=1) / np.sqrt(config.runs)
    return {
        "steps": list(config.checkpoints),
        "cosine": found["cosine"].mean(0).tolist(),
        "error": error.tolist(),
        "negative": (found["cosine"] < 0).sum(0).tolist(),
        "runs": config.runs,
        "test_nll": found["nll"].mean(0).tolist(),
        "norm_ratio": np.median(found["norm_ratio"], axis=0).tolist(),
    }


def _train(
    config: Config, name: str, key: PRNGKeyArray, nodes: Array, weights: Array, kept: Array
) -> dict[str, Array]:
    """One run. The gradients compared are those at fresh prompts, exact over responses."""
    keys = jax.random.split(key, 5)
    chosen = strategy(name)
    prompts, fresh = (
        _TOY.sample_prompts(k, n)
        for k, n in zip(keys[:2], (config.training_prompts, config.n_prompts), strict=True)
    )
    pool, _ = _TOY.sample_responses(keys[2], prompts, config.n_candidates)
    picks = chosen(keys[3] if chosen.random else None, Pool(rewards=_TOY.reward(prompts, pool)), config.k)
    responses = jnp.take_along_axis(pool, picks, axis=1)
    steps = config.checkpoints[-1]
    every = math.gcd(*config.checkpoints)
    start = MDN(keys[4])
    trained = fit(
        start,
        lambda model, _: mdn_nll(model, prompts, responses).mean(),
        replace(config.recipe, steps=steps, validate_every=every),
        record=lambda model: eqx.filter(model, eqx.is_inexact_array),
    )
    test = _TOY.centre(fresh)[:, None] + nodes

    def expected(model: MDN, weights: Array) -> Float[Array, ""]:
        return (mdn_nll(model, fresh, test) @ weights).mean()

    def judge(params: Any) -> dict[str, Any]:
        model = eqx.combine(params, start)
        nll, true = eqx.filter_value_and_grad(expected)(model, weights)
        best = eqx.filter_grad(expected)(model, kept)
        norms = optax.tree.norm(best), optax.tree.norm(true)
        cosine = optax.tree.vdot(best, true) / (norms[0] * norms[1])
        return {"cosine": cosine, "nll": nll, "norm_ratio": norms[0] / norms[1]}

    at = np.array(config.checkpoints) // every
    params = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest])[at],
        eqx.filter(start, eqx.is_inexact_array),
        trained.records,
    )
    return jax.lax.map(judge, params)


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 8: how often, on average, why, and when."""
    here, n, k = result["here"], result["n_candidates"], result["k"]
    reported = published()["emse"]["bkon"]["gradient_cosine"]
    share = _share(here["negative"], here["networks"])
    other = _share(result["likelihood"]["negative"], result["likelihood"]["networks"])
    found = [
        Prediction(
            "misalignment.negative-share",
            8,
            f"share of untrained networks whose BKoN batch gradient points away, N = {n}, K = {k}",
            share,
            above(0.05),
            Role.PRIMARY,
            note=f"{here['negative']} of {here['networks']}, mean cosine {here['estimate']:.3f}",
        ),
        Prediction(
            "misalignment.mean-cosine.batch",
            8,
            "cosine of BKoN's batch gradient with the true one, mean over untrained networks",
            read(here),
            below(0.0),
            Role.LIMIT,
        ),
        Prediction(
            "misalignment.mean-cosine.prompt",
            8,
            "cosine of a prompt's own gradient under BKoN, mean over untrained networks",
            Estimate.from_standard_error(here["per_prompt"], here["per_prompt_error"]),
            below(0.0),
            Role.LIMIT,
            reported=reported,
            note="the published number is of one network",
        ),
        Prediction(
            "misalignment.reward-is-the-cause",
            8,
            "share of networks with a negative cosine, the paper's reward − the log-density as reward",
            _difference(share, other, result["negative_under_both"] / here["networks"], here["networks"]),
            above(0.0),
            Role.LIMIT,
            note=f"log-density: {result['likelihood']['negative']} of {result['likelihood']['networks']}",
        ),
    ]
    rkon, bkon = result["training"]["rkon"], result["training"]["bkon"]
    least = int(np.argmin(rkon["test_nll"]))
    for name, rows, place, words in (
        ("rkon.best", rkon, least, "trained on RKoN's picks to the least test NLL"),
        ("rkon.last", rkon, -1, "trained on RKoN's picks to the last step"),
        ("bkon.last", bkon, -1, "trained on BKoN's picks to the last step"),
    ):
        found.append(
            Prediction(
                f"misalignment.trained.{name}",
                8,
                f"share of networks with a negative cosine at fresh prompts, {words}",
                _share(rows["negative"][place], rows["runs"]),
                above(0.5),
                Role.LIMIT,
                note=f"mean cosine {rows['cosine'][place]:.3f} after {rows['steps'][place]} steps",
            )
        )
    return found


def _share(count: int, total: int) -> Estimate:
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return Estimate(count / total, float(interval.low), float(interval.high))


def _difference(one: Estimate, other: Estimate, both: float, n: int) -> Estimate:
    """Of two proportions of the same n, from their own intervals and the share of both (Newcombe 1998, paired).

    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
    Statistics in Medicine 17, method 10: the correlation phi of the two, with a continuity correction.
    """
    excess = both - one.value * other.value  # e h - f g of the 2 x 2 table, over n^2
    excess = max(excess - 1 / (2 * n), 0.0) if excess > 0 else excess
    scale = np.sqrt(one.value * (1 - one.value) * other.value * (1 - other.value))
    phi = excess / scale if scale > 0 else 0.0

    def side(first: float, second: float) -> float:
        return float(np.sqrt(first**2 - 2 * phi * first * second + second**2))

    gap = one.value - other.value
    return Estimate(
        gap,
        gap - side(one.value - one.low, other.high - other.value),
        gap + side(one.high - one.value, other.value - other.low),
    )
