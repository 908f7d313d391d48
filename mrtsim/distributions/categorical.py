"""A finite table of prompts and responses, whose every moment is a finite sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mrtsim.distributions.gaussian_modes import checked_probabilities
from mrtsim.distributions.quadrature import Expectation, Rule, weighted_sums
from mrtsim.errors import InputError


class Categorical(eqx.Module):
    """Finitely many prompts, finitely many responses to each: every moment is a finite sum.

    A prompt is its row number, as an array (..., 1) of floats. Without `values` it is a small example with a tie in
    the rewards, which tests enumerate.

    Args:
        values: (prompts, outcomes) the responses, distinct within a prompt.
        probabilities: (prompts, outcomes) p(y|x); all equal when not given.
        prompt_weights: (prompts,) probabilities of the prompts; all equal when not given.
        rewards: (prompts, outcomes) r(x, y); the response itself when not given.
    """

    values: Any
    probabilities: Any
    prompt_weights: Any
    rewards: Any

    def __init__(
        self,
        values: Any = None,
        probabilities: Any = None,
        prompt_weights: Any = None,
        rewards: Any = None,
    ):
        if values is None:
            values = ((-1.5, 0.0, 1.5), (-1.0, 0.5, 2.0))
            probabilities = ((0.25, 0.5, 0.25), (0.2, 0.2, 0.6)) if probabilities is None else probabilities
            rewards = ((0.0, 1.0, 0.0), (1.0, 0.5, 0.0)) if rewards is None else rewards
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.size == 0 or not np.all(np.isfinite(values)):
            raise InputError(
                f"values must be finite numbers (prompts, outcomes), not of shape {values.shape}"
            )
        if any(len(set(row)) < len(row) for row in values.tolist()):
            raise InputError("values must be distinct within a prompt: add the probabilities of equal ones")
        self.values = values
        prompts, outcomes = values.shape
        self.probabilities = checked_probabilities(
            "probabilities",
            np.full(values.shape, 1 / outcomes) if probabilities is None else probabilities,
            values.shape,
        )
        self.prompt_weights = checked_probabilities(
            "prompt_weights",
            np.full(prompts, 1 / prompts) if prompt_weights is None else prompt_weights,
            (prompts,),
        )
        self.rewards = values if rewards is None else np.asarray(rewards, np.float64)
        if self.rewards.shape != values.shape or not np.all(np.isfinite(self.rewards)):
            raise InputError(f"rewards must be finite numbers of shape {values.shape}, as values are")

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        """Every prompt (prompts, 1) and its probability (prompts,)."""
        return np.arange(len(self.values), dtype=np.float64)[:, None], np.asarray(self.prompt_weights)

    def _row(self, table: Any, prompts: Float[Array, "*batch 1"]) -> Float[Array, "*batch outcomes"]:
        return jnp.asarray(table, prompts.dtype)[prompts[..., 0].astype(int)]

    def _outcome(
        self, prompts: Float[Array, "*batch 1"], responses: Float[Array, "*batch n"]
    ) -> Int[Array, "*batch n"]:
        return jnp.argmin(
            jnp.abs(responses[..., None] - self._row(self.values, prompts)[..., None, :]), axis=-1
        )

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n 1"]:
        weights = jnp.asarray(self.prompt_weights, float)
        return jax.random.choice(key, len(weights), (n, 1), p=weights).astype(weights.dtype)

    def sample_responses(
        self, key: PRNGKeyArray, prompts: Float[Array, "*batch 1"], n: int
    ) -> tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]:
        """Draw n responses to each prompt; returns them and the outcome number of each.

        Args:
            key: seeds the draws.
            prompts: (..., 1).
            n: responses per prompt.
        """
        u = jax.random.uniform(key, (*prompts.shape[:-1], n, 1), prompts.dtype)
        bounds = jnp.cumsum(self._row(self.probabilities, prompts), axis=-1)[..., None, :-1]
        outcomes = jnp.sum(u >= bounds, axis=-1)
        return jnp.take_along_axis(self._row(self.values, prompts), outcomes, axis=-1), outcomes

    def reward(
        self, prompts: Float[Array, "*batch 1"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """r(x, y) from the table, of the nearest outcome."""
        outcomes = self._outcome(prompts, responses)
        return jnp.take_along_axis(self._row(self.rewards, prompts), outcomes, axis=-1)

    def mode_weights(self, prompts: Float[Array, "*batch 1"]) -> Float[Array, "*batch outcomes"]:
        """Probabilities of the outcomes of each prompt: every outcome is a mode."""
        return self._row(self.probabilities, prompts)

    def quadrature(
        self, prompts: Float[Array, "*batch 1"], rule: Rule | None = None
    ) -> tuple[Float[Array, "*batch q"], Float[Array, "*batch q"]]:
        """The outcomes and their probabilities: exact, so that no rule is needed."""
        return self._row(self.values, prompts), self._row(self.probabilities, prompts)

    def expectation(self, fn: Callable[[Array], Array], prompts: Any) -> Expectation:
        """E[fn(y) | x] of each prompt, a finite sum; the error is that of rounding."""
        with jax.enable_x64(True):
            total, size = weighted_sums(self, fn, jnp.asarray(np.asarray(prompts, np.float64)), [None])
        return Expectation(total, 4 * np.finfo(float).eps * size)
