"""A softmax policy of a few tokens, and the gradient estimates of RLOO, Dr.GRPO and GRPO with their exact variance.

Each token is one of a few actions, with parameters that all tokens share. The first token decides the reward, 0 or 1,
and the others are filler: R^2, the share of a response's score that the reward explains, falls with the length. There
are finitely many prompts, so success rates, gradients and the scores' spreads are exact, and so is the variance law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray
from scipy import stats

from mrtsim.plan.rollouts import group_variance

METHODS = {"rloo": "RLOO", "dr_grpo": "Dr.GRPO", "grpo": "GRPO"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Static sizes of a policy and its training; `follow` says whether the exact parts are recorded along the way."""

    n_prompts: int
    tokens: int
    features: int
    actions: int
    budget: int
    steps: int
    follow: bool = False


class Problem(NamedTuple):
    """Prompts as features of their tokens, the right action of the first token, and the policy at the start."""

    features: Float[Array, "prompts tokens features"]
    right: Int[Array, " prompts"]
    start: Float[Array, "features actions"]


class Parts(NamedTuple):
    """Exact parts of the gradient at a policy: per prompt p, |g|^2, T1 and T0, and g itself."""

    rate: Any
    squared_gradient: Any
    spread_success: Any
    spread_failure: Any
    gradient: Any


def draw_problem(key: PRNGKeyArray, shape: Shape) -> Problem:
    """Prompts whose right action a policy of this form can learn, and a random policy that is right by chance."""
    feature_key, teacher_key, start_key = jax.random.split(key, 3)
    features = jax.random.normal(feature_key, (shape.n_prompts, shape.tokens, shape.features))
    features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
    teacher, start = (jax.random.normal(k, (shape.features, shape.actions)) for k in (teacher_key, start_key))
    return Problem(features, jnp.argmax(features[:, 0] @ teacher, axis=-1), start)


def exact_parts(policy: Float[Array, "features actions"], problem: Problem) -> Parts:
    """The exact parts of the gradient at a policy. Given the reward the tokens are independent, so traces add up."""
    chance = jax.nn.softmax(problem.features @ policy)
    first, filler = chance[:, 0], jnp.sum(1 - jnp.sum(chance[:, 1:] ** 2, axis=-1), axis=-1)
    right = jax.nn.one_hot(problem.right, first.shape[-1])
    rate, wrong = jnp.sum(first * right, axis=-1), first * (1 - right)
    slope = rate[:, None] * (right - first)  # of the success rate, in the first token's logits
    among_wrong = wrong / jnp.maximum(jnp.sum(wrong, axis=-1, keepdims=True), 1e-30)
    return Parts(
        jnp.minimum(rate, 1.0),  # rounding
        jnp.sum(slope**2, axis=-1),
        filler,
        jnp.maximum(1 - jnp.sum(among_wrong**2, axis=-1), 0.0) + filler,
        jnp.einsum("nf,na->nfa", problem.features[:, 0], slope),
    )


def parts_in_float64(problems: Problem) -> Parts:
    """The exact parts of several problems, (problems, ...), at their start."""

    def wide(array: Array) -> np.ndarray:
        return np.asarray(array, float) if jnp.issubdtype(array.dtype, jnp.floating) else np.asarray(array)

    with jax.enable_x64(True):
        problems = Problem(*(jnp.asarray(wide(array)) for array in problems))
        return Parts(*map(np.asarray, jax.vmap(exact_parts)(problems.start, problems)))


def estimate_gradient(
    key: PRNGKeyArray,
    problem: Problem,
    policy: Float[Array, "features actions"],
    method: Array | int,
    group_size: Array | int,
    budget: int,
) -> Float[Array, "features actions"]:
    """One update's gradient estimate from as many whole groups as the budget pays.

    Args:
        key: of the prompts and the responses.
        problem: what prompts are drawn from, with replacement.
        policy: the parameters.
        method: number of the method in `METHODS`.
        group_size: G; it may be traced, so that all group sizes share a program.
        budget: responses in the update.

    Returns:
        The mean over groups of the mean over responses of advantage times score.
    """
    prompt_key, response_key = jax.random.split(key)
    rows = jax.random.randint(prompt_key, (budget // 2,), 0, len(problem.right))
    features = problem.features[rows]
    below_action = jnp.cumsum(jax.nn.softmax(features @ policy), axis=-1)[..., :-1]
    group = jnp.arange(budget) // group_size
    n_groups = budget // group_size
    used = group < n_groups
    group = jnp.where(used, group, 0)
    drawn = jax.random.uniform(response_key, (budget, features.shape[1]))
    action = jnp.sum(drawn[..., None] > below_action[group], axis=-1)
    reward = jnp.where(used & (action[:, 0] == problem.right[rows][group]), 1.0, 0.0)
    # Every sum over a group by its place: the groups are the first rows.
    successes = jax.ops.segment_sum(reward, group, budget // 2)
    centred = used * (reward - successes[group] / group_size)
    spread = jnp.sqrt(successes * (group_size - successes) / (group_size * (group_size - 1)))[group]
    scale = jnp.stack(
        [
            jnp.full(budget, group_size / (group_size - 1)),
            jnp.ones(budget),
            jnp.where(spread > 0, 1 / jnp.where(spread > 0, spread, 1), 0),
        ]
    )[method]
    # Centred advantages add up to 0 in a group, so that only the drawn actions' part of the score is left.
    push = (centred * scale)[:, None, None] * jax.nn.one_hot(action, policy.shape[-1])
    push = jax.ops.segment_sum(push, group, budget // 2)
    return jnp.einsum("ntf,nta->fa", features, push) / (n_groups * group_size)


def simulated_variance(
    key: PRNGKeyArray, problems: Problem, group_size: Array, shape: Shape
) -> Float[Array, " methods"]:
    """Half a squared difference of two estimates: unbiased for each method's variance (trace); mean over problems."""

    def of_one(key: PRNGKeyArray, problem: Problem) -> Array:
        def of_method(method: Array) -> Array:
            first, second = (
                estimate_gradient(k, problem, problem.start, method, group_size, shape.budget)
                for k in jax.random.split(key)
            )
            return 0.5 * jnp.sum((first - second) ** 2)

        return jax.vmap(of_method)(jnp.arange(len(METHODS)))

    keys = jax.random.split(key, len(problems.right))
    return jnp.mean(jax.vmap(of_one)(keys, problems), axis=0)


def grpo_moments(parts: Parts, size: int) -> tuple[Floats, Floats]:
    """Weight of g in the mean of a group's GRPO estimate, and the trace of its covariance, per prompt.

    Given s successes the advantages are known, and the scores independent with means g / p and -g / (1 - p) and spreads
    T1 and T0: the mean is sqrt(s (G - s) (G - 1) / G) / G times g / v, the trace (G - 1) / G^3 [(G - s) T1 + s T0].
    """
    s = np.arange(1, size)
    rate = np.asarray(parts.rate, float)[..., None]
    chance = stats.binom.pmf(s, size, rate)
    scale = np.sqrt(s * (size - s) * (size - 1) / size) / size / (rate * (1 - rate))
    spread = (size - 1) / size**3 * (np.multiply.outer(parts.spread_success, size - s))
    spread += (size - 1) / size**3 * np.multiply.outer(parts.spread_failure, s)
    weight = np.sum(chance * scale, axis=-1)
    around = np.sum(chance * scale**2, axis=-1) - weight**2
    return weight, np.sum(chance * spread, axis=-1) + around * np.asarray(parts.squared_gradient)


def exact_noise(parts: Parts, method: str, size: int) -> tuple[float, float]:
    """Variance of the estimate from one group, prompt and all, and the squared norm of its mean; means over problems.

    `parts` have leading axes (problems, prompts).
    """
    if method == "grpo":
        weight, within = grpo_moments(parts, size)
    else:
        weight = np.full(parts.rate.shape, 1.0 if method == "rloo" else (size - 1) / size)
        within = variance_within(parts, method, size)
    common = np.sum(np.mean(weight[..., None, None] * parts.gradient, axis=1) ** 2, axis=(-2, -1))
    between = np.mean(weight**2 * parts.squared_gradient, axis=1) - common
    return float(np.mean(between + np.mean(within, axis=1))), float(np.mean(common))


def variance_within(parts: Parts, method: Any, size: Any) -> Floats:
    """Variance of the estimate from one group given the prompt, of RLOO and Dr.GRPO."""
    return group_variance(
        parts.rate,
        size,
        squared_gradient=parts.squared_gradient,
        spread_success=parts.spread_success,
        spread_failure=parts.spread_failure,
        baseline=method,
    )


def a_and_b(parts: Parts) -> tuple[Floats, Floats]:
    """A and B, means over prompts. The law A / (G - 1) + B / G is linear in both: two group sizes give them back."""
    two, three = (variance_within(parts, "rloo", size).mean(axis=-1) for size in (2, 3))
    a = 4 * two - 6 * three  # of two = A + B/2 and three = A/2 + B/3
    return a, 2 * (two - a)
