"""What the training experiments share: one mixture density network, trained on kept responses, judged by quadrature.

A run draws its prompts, their pools, the network and the test sets from one key, always at the experiment's largest
sizes, and uses the first of each. So settings (K, N_p, strategy) that are run with the same keys share their random
numbers, and their differences are sharper than the settings themselves. `padded` settings share one compiled program,
whose loss is that of the responses a setting uses; the others compile to their own size, which pays for many
replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.stats import qmc

from experiments.shared.padded_loss import used_mixture_nll
from experiments.shared.training import Fit, Recipe, fit
from mrtsim.diagnostics.simulate import response_similarity
from mrtsim.distributions.exact_components import decompose
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import panels
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN, Mixture
from mrtsim.montecarlo import subkeys
from mrtsim.plan.allocate import Cost, optimal_responses
from mrtsim.selection.registry import Pool, Strategy, strategy
from mrtsim.variance import VarianceComponents

TOY = GaussianModes()
# A trained network is not smooth on the scale of a mode: against adaptive rules, this one errs by 1e-5 of the NLL.
RULE = panels(6, 6, 5.0)
PAPER = Recipe()
RECIPES = {"last": "as published (last step)", "best": "at the best validation step"}
STEPS = RECIPES | {"last": "at the last step"}  # of a recipe that is not the published one


@dataclass(frozen=True)
class Shape:
    """Static sizes of a run: what is drawn, and how much of it the program trains on (`rows` x `width`).

    `draws` is the number of trainings that share all but the responses. The `strategies` share the program: a run is
    told which of them is its own.
    """

    strategies: tuple[str, ...]
    rows: int
    width: int
    drawn_prompts: int
    n_candidates: int
    recipe: Recipe
    validation_prompts: int = 100
    validation_responses: int = 16
    test_prompts: int = 100
    test_responses: int = 100
    draws: int = 1


class Sample(NamedTuple):
    """Prompts with responses to each."""

    prompts: Float[Array, "prompts d"]
    responses: Float[Array, "prompts k"]


@cache
def true_nll() -> float:
    """The entropy of p(y|x), in nats: the NLL of the truth, which no learner can beat. It is the same at every x."""
    origin = np.zeros((1, TOY.prompt_dim))
    nll = eqx.filter_jit(lambda y: -TOY.log_density(jnp.asarray(origin), y))
    expected = TOY.expectation(nll, origin)
    return float(expected.value[0])


@cache
def sobol_prompts(n: int, seed: int = 0) -> np.ndarray:
    """n prompts (a power of two) at scrambled Sobol points of the unit cube, (n, d)."""
    return qmc.Sobol(TOY.prompt_dim, rng=np.random.default_rng(seed)).random(n) + 2.0**-31


def untrained_law(key: PRNGKeyArray, networks: int, points: int, cost: Cost) -> dict[str, Any]:
    """K* of the untrained networks' NLL by exact components, as in the paper; medians over initial weights."""
    parts, errors = [], []
    for network in subkeys(key, networks):
        exact = decompose(mdn_nll, MDN(network), TOY, points=points, randomisations=4)
        parts.append([exact.prompt.value, exact.response.value])
        errors.append([exact.prompt.standard_error, exact.response.standard_error])
    k_stars = [optimal_responses(VarianceComponents(*pair), cost) for pair in parts]
    v_prompt, v_response = np.median(parts, axis=0).tolist()
    return {
        "v_prompt": v_prompt,
        "v_response": v_response,
        "k_star": float(np.median(k_stars)),
        "k_stars": k_stars,
        "relative_error": float(np.max(np.array(errors) / np.array(parts))),
    }


def shifted(points: Float[Array, "n d"], key: PRNGKeyArray) -> Float[Array, "n d"]:
    """Prompts at the points after a random shift modulo 1 (Cranley and Patterson 1976): every mean is unbiased."""
    moved = jnp.mod(points + jax.random.uniform(key, points.shape[-1:]), 1.0)
    return TOY.prompts_at(jnp.clip(moved, 1e-7, 1 - 1e-7))


def draw(keys: PRNGKeyArray, shape: Shape) -> tuple[Sample, Sample, Sample]:
    """Training pools (drawn_prompts, n_candidates), a validation set and a test set of fresh prompts."""
    prompt_key, pool_key, held_out_key = keys
    edges = np.cumsum([shape.drawn_prompts, shape.validation_prompts])
    prompts = TOY.sample_prompts(prompt_key, int(edges[-1]) + shape.test_prompts)
    train, validation, test = jnp.split(prompts, edges)
    pools, _ = TOY.sample_responses(pool_key, train, shape.n_candidates)
    most = max(shape.validation_responses, shape.test_responses)
    held_out, _ = TOY.sample_responses(held_out_key, prompts[edges[0] :], most)
    return (
        Sample(train, pools),
        Sample(validation, held_out[: shape.validation_prompts, : shape.validation_responses]),
        Sample(test, held_out[shape.validation_prompts :, : shape.test_responses]),
    )


def keep(
    key: PRNGKeyArray, shape: Shape, pools: Sample, which: Array | int = 0, **options: Array | float
) -> Sample:
    """The responses (rows, width) of the first prompts that strategy `which` keeps, in the order of picking.

    Distances are those of the responses themselves, and similarities E6's; what a strategy does not use costs nothing.
    Options, which may be traced, are for every strategy of the shape.
    """
    prompts, pool = pools.prompts[: shape.rows], pools.responses[: shape.rows]
    candidates = Pool(TOY.reward(prompts, pool), pool[..., None], response_similarity(pool))
    selectors = [partial(_select, strategy(name), shape.width) for name in shape.strategies]
    kept = jax.lax.switch(which, selectors, options, key, candidates)
    return Sample(prompts, jnp.take_along_axis(pool, kept, axis=1))


def _select(
    chosen: Strategy, k: int, options: dict[str, Any], key: PRNGKeyArray, pool: Pool
) -> Int[Array, "rows k"]:
    return chosen(key, pool, k, **options).astype(jnp.int32)


def train(
    key: PRNGKeyArray,
    sample: Sample,
    n_prompts: Array | int,
    k: Array | int,
    recipe: Recipe,
    validation: Sample | None,
) -> Fit:
    """A network trained on the mean NLL of the first k responses to the first n_prompts prompts of a sample."""
    return fit(
        MDN(key),
        lambda model, _: used_mixture_nll(model(sample.prompts), sample.responses, n_prompts, k),
        recipe,
        validate=None if validation is None else lambda model: jnp.mean(mdn_nll(model, *validation)),
    )


def nll_of_many(
    mixture: Mixture, responses: Float[Array, "prompts responses"]
) -> Float[Array, "prompts responses"]:
    """`mixture_nll` where responses are the longest axis: four times as fast, as no axis is moved or summed.

    It rounds otherwise, which 400 steps would amplify: for judging alone, so that training keeps its bits.
    """
    log_weights, means, log_scales = mixture
    constant, precision = log_weights - log_scales - 0.5 * math.log(2 * math.pi), jnp.exp(-log_scales)
    log_joint = [
        constant[..., i, None] - 0.5 * jnp.square((responses - means[..., i, None]) * precision[..., i, None])
        for i in range(means.shape[-1])
    ]
    largest = reduce(jnp.maximum, log_joint)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return -(largest + jnp.log(sum(jnp.exp(one - largest) for one in log_joint)))


def judge(model: MDN, prompts: Float[Array, "n d"], distribution: GaussianModes = TOY) -> dict[str, Array]:
    """Expected NLL over p(y|x) at these prompts, and its components V_x and V_{y|x}, by quadrature."""

    def moments(x: Array) -> tuple[Array, Array]:
        responses, weights = distribution.quadrature(x, RULE)
        losses = nll_of_many(model(x), responses)
        mean = jnp.sum(weights * losses, axis=-1)
        return mean, jnp.sum(weights * jnp.square(losses - mean[:, None]), axis=-1)

    # A chunk of prompts at a time, so that the losses of a block of runs stay in the cache of a core.
    chunk = next(size for size in range(min(128, len(prompts)), 0, -1) if len(prompts) % size == 0)
    parts = prompts.reshape(-1, chunk, prompts.shape[-1])
    mean, variance = jax.lax.map(moments, parts)
    return {"nll": jnp.mean(mean), "prompt": jnp.var(mean, ddof=1), "response": jnp.mean(variance)}


def score(trained: Fit, test: Sample | None, prompts: Float[Array, "n d"]) -> dict[str, Any]:
    """Both recipes of one trajectory: on the sampled test set, and by quadrature at `prompts`."""
    models = [getattr(trained, recipe) for recipe in RECIPES]
    arrays, static = zip(*(eqx.partition(model, eqx.is_array) for model in models), strict=True)

    def of(arrays: Any) -> dict[str, Array]:
        model = eqx.combine(arrays, static[0])
        sampled = (
            {} if test is None else {"sampled": jnp.mean(nll_of_many(model(test.prompts), test.responses))}
        )
        return judge(model, prompts) | sampled

    # One recipe after the other in a loop, so that what judges a network is compiled once.
    scores = jax.lax.map(of, jax.tree.map(lambda *both: jnp.stack(both), *arrays))
    each = {recipe: jax.tree.map(lambda a, i=i: a[i], scores) for i, recipe in enumerate(RECIPES)}
    return each | {"best_step": trained.best_step, "diverged": trained.diverged}


def train_once(
    key: PRNGKeyArray,
    which: Array,
    n_prompts: Array,
    k: Array,
    points: Float[Array, "points d"],
    shape: Shape,
) -> dict[str, Any]:
    """One run of n_prompts x k on fresh prompts: scores of both recipes, at the points after a shift of their own."""
    keys = jax.random.split(key, 6)
    pools, validation, test = draw(keys[:3], shape)
    sample = keep(keys[3], shape, pools, which)
    trained = train(keys[4], sample, n_prompts, k, shape.recipe, validation)
    return score(trained, test, shifted(points, keys[5]))


def in_float32(distribution: Any) -> Any:
    """A distribution whose float64 numbers are in float32, in which networks train."""
    return jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, distribution)


def program(padded: bool, n_prompts: int, k: int, largest: tuple[int, int]) -> tuple[int, int]:
    """Rows and width of the program that trains one setting."""
    return largest if padded else (n_prompts, k)
