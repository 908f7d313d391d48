"""Exact variance components V_x and V_{y|x} of a loss under a distribution.

The expectation over responses is a quadrature and the one over prompts a finite sum, or a scrambled Sobol sequence
whose error comes from independent scrambles. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import qmc

from mrtsim.distributions.protocol import (
    WithFinitePrompts,
    WithPromptCube,
    WithPromptPairs,
    WithQuadrature,
    require,
)
from mrtsim.distributions.quadrature import Rule, hermite, panels
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.losses import Loss
from mrtsim.models import in_float64
from mrtsim.variance import VarianceComponents

# Each rule is checked against the next, which is finer and of another kind or with panels that end elsewhere.
_RULES = (hermite(12), panels(20, 8), panels(47, 9), panels(131, 8))
_CHUNK = 2048  # prompts evaluated at a time
_CONFIRMING = 256  # prompts on which rules are compared
_MOMENTS = ("d4", "d2_s2", "d_k3", "s2_s2", "k4")


@dataclass(frozen=True)
class Decomposition:
    """Exact moments of the per-response loss; `prompt` is V_x, or V_{x|g} beside `group` V_g for prompts in groups.

    `moments` are what the sampling law of a variance needs besides: with d = mu(x) - E mu(x) and the conditional
    cumulants s2, k3 and k4 of the loss given x, the expectations "d4" of d^4, "d2_s2" of d^2 s2, "d_k3" of d k3,
    "s2_s2" of s2^2, and "k4" of k4.
    """

    mean: Estimate
    prompt: Estimate
    response: Estimate
    group: Estimate
    moments: dict[str, float]

    @property
    def components(self) -> VarianceComponents:
        """The values without their errors."""
        return VarianceComponents(self.prompt.value, self.response.value, self.group.value)


def conditional_cumulants(
    loss: Loss,
    model: Any,
    distribution: Any,
    prompts: Float[Array, "prompts d"],
    rule: Rule | None = None,
) -> Float[Array, "4 prompts"]:
    """Mean, variance, third and fourth cumulant of the loss given each prompt, by quadrature.

    Traceable; computes in the dtype of the prompts, so call it in `jax.enable_x64(True)` for float64.

    Args:
        loss: loss(model, prompts, responses) -> (prompts, responses).
        model: what the loss takes.
        distribution: p(y|x), with `quadrature`.
        prompts: (prompts, d).
        rule: the quadrature rule per mode; by default the distribution's own.
    """
    responses, weights = distribution.quadrature(prompts, rule)
    losses = loss(model, prompts, responses)
    mean = jnp.sum(weights * losses, axis=-1)
    centred = losses - mean[:, None]
    second, third, fourth = (jnp.sum(weights * centred**power, axis=-1) for power in (2, 3, 4))
    return jnp.stack([mean, second, third, fourth - 3 * second**2])


def decompose(
    loss: Loss,
    model: Any,
    distribution: Any,
    *,
    points: int = 2**14,
    randomisations: int = 16,
    seed: int = 0,
    rule: Rule | None = None,
) -> Decomposition:
    """The exact mean, V_x and V_{y|x} of a loss, and V_g and V_{x|g} for prompts in groups (`WithPromptPairs`).

    V_x = Var E[l | x] and V_{y|x} = E Var(l | x) (law of total variance; Cochran 1977, section 10.3). For prompts in
    groups, V_g = Cov(mu(x), mu(x')) of two members and V_{x|g} = E (mu(x) - mu(x'))^2 / 2.

    Args:
        loss: `loss(model, prompts (P, d), responses (P, K)) -> (P, K)`.
        model: passed to the loss; its floating-point arrays are raised to float64.
        distribution: `WithQuadrature`, and `WithFinitePrompts` (the sum over them is exact) or `WithPromptCube`.
        points: Sobol points per randomisation, a power of two.
        randomisations: independent scrambles, from whose spread the standard errors come.
        seed: of the scrambles.
        rule: for the response. By default the first of Gauss-Hermite 12 and finer and finer panels that a finer,
            different rule confirms to 1e-9 on the first prompts; its distance to that rule is part of the error.

    Raises:
        InputError: the distribution lacks a part that is needed, `points` is no power of two, or there are fewer than
            2 randomisations.
    """
    if points < 2 or points & (points - 1):
        raise InputError(
            f"points must be a power of two, not {points}: Sobol sequences are balanced only there"
        )
    if randomisations < 2:
        raise InputError(f"randomisations must be 2 or more, not {randomisations}: their spread is the error")
    with jax.enable_x64(True):
        model = in_float64(model)
        require(distribution, WithQuadrature, "decompose")
        if isinstance(distribution, WithFinitePrompts):
            prompts, weights = distribution.support()
            cumulants = np.asarray(_cumulants(loss, model, distribution, jnp.asarray(prompts), rule))
            centre = cumulants[0] @ weights
            averages = _columns(cumulants, None, centre) @ weights
            rounding = 8 * np.finfo(float).eps * (np.abs(averages) + averages[1] + centre**2)
            return _summarise(averages[None], centre, rounding)
        require(distribution, WithPromptCube, "decompose over infinitely many prompts")
        cubes = _cubes(distribution, points, randomisations, seed)
        start = next(cubes)
        rule, distance = _confirmed_rule(loss, model, distribution, start[:_CONFIRMING], rule)
        first, second = _evaluate(loss, model, distribution, start, rule)
        centre = first[0].mean()
        averages = [_columns(first, second, centre).mean(1)]
        for cube in cubes:
            first, second = _evaluate(loss, model, distribution, cube, rule)
            averages.append(_columns(first, second, centre).mean(1))
        return _summarise(np.stack(averages), centre, distance, clustered=second is not None)


_cumulants = eqx.filter_jit(conditional_cumulants)


def _cubes(distribution: Any, points: int, randomisations: int, seed: int) -> Iterator[np.ndarray]:
    """Scrambled Sobol points (points, dimensions), one array a randomisation; pairs of prompts where clustered."""
    dimensions = distribution.prompt_dim * (1 + isinstance(distribution, WithPromptPairs))
    for stream in np.random.default_rng(seed).spawn(randomisations):
        # The points lie on a grid of step 2^-30 that contains 0: move them to the middle of its cells.
        yield qmc.Sobol(dimensions, rng=stream).random(points) + 2.0**-31


@eqx.filter_jit
def _at(
    loss: Loss, model: Any, distribution: Any, cube: Float[Array, "points dimensions"], rule: Rule
) -> tuple[Array, Array | None]:
    """Cumulants at the prompts of a cube, and at a second prompt of the same group where there are groups."""
    if not isinstance(distribution, WithPromptPairs):
        return conditional_cumulants(loss, model, distribution, distribution.prompts_at(cube), rule), None
    first, second = distribution.prompt_pairs_at(cube)
    both = conditional_cumulants(loss, model, distribution, jnp.concatenate([first, second]), rule)
    return both[:, : len(first)], both[:, len(first) :]


def _evaluate(
    loss: Loss, model: Any, distribution: Any, cube: np.ndarray, rule: Rule
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of `_at`, one chunk at a time."""
    parts = [
        jax.tree.map(
            np.asarray, _at(loss, model, distribution, jnp.asarray(cube[start : start + _CHUNK]), rule)
        )
        for start in range(0, len(cube), _CHUNK)
    ]
    first = np.concatenate([part[0] for part in parts], axis=1)
    return first, None if parts[0][1] is None else np.concatenate([part[1] for part in parts], axis=1)


def _columns(first: np.ndarray, second: np.ndarray | None, centre: float) -> np.ndarray:
    """Per prompt (columns, prompts), what is averaged: the components, then the moments of `Decomposition`."""
    mean, s2, k3, k4 = first
    d = mean - centre
    if second is None:
        parts = [d, d**2, s2, np.zeros_like(d)]
    else:
        e = second[0] - centre
        parts = [(d + e) / 2, (d - e) ** 2 / 2, (s2 + second[1]) / 2, d * e]
    return np.stack([*parts, d**4, d**2 * s2, d * k3, s2**2, k4])


def _confirmed_rule(
    loss: Loss, model: Any, distribution: Any, cube: np.ndarray, rule: Rule | None
) -> tuple[Rule, np.ndarray]:
    """A rule that the next finer one confirms on these prompts, and how far their averages (columns,) differ."""

    rules = _RULES if rule is None else (rule, panels(max(31, len(rule.nodes) // 6), 11))
    first, second = _evaluate(loss, model, distribution, cube, rules[0])
    centre = first[0].mean()
    here = _columns(first, second, centre).mean(1)
    distance = np.zeros_like(here)
    for number, finer in enumerate(rules[1:]):
        there = _columns(*_evaluate(loss, model, distribution, cube, finer), centre).mean(1)
        distance, here = np.abs(there - here), there
        if np.all(distance[1:4] <= 1e-9 * np.abs(there[1:4]).sum()):
            return rules[number], distance
    return rules[-2], distance


def _summarise(
    averages: np.ndarray, centre: float, distance: np.ndarray, *, clustered: bool = False
) -> Decomposition:
    """Values and errors from the averages of every randomisation (randomisations, columns)."""
    shift = averages[:, 0].mean()
    # Second moments were taken about the centre; move them to the mean, V_{x|g} excepted (it is about a difference).
    column = 3 if clustered else 1
    averages[:, column] -= 2 * shift * averages[:, 0] - shift**2
    averages[:, 0] += centre
    values = averages.mean(0)
    errors = distance
    if len(averages) > 1:
        errors = distance + averages.std(0, ddof=1) / np.sqrt(len(averages))
    freedom = float(len(averages) - 1) if len(averages) > 1 else math.inf
    mean, prompt, response, group = (
        Estimate.from_standard_error(float(v), float(e), freedom)
        for v, e in zip(values[:4], errors[:4], strict=True)
    )
    return Decomposition(mean, prompt, response, group, dict(zip(_MOMENTS, values[4:].tolist(), strict=True)))
