"""Gaussian modes whose prompts come in groups of near-duplicates, as in a large redundant corpus."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.errors import InputError


class ClusteredPrompts(GaussianModes):
    """`GaussianModes` whose prompts come in groups of near-duplicates, as in a large redundant corpus (claim 5).

    A prompt is sqrt(similarity) g + sqrt(1 - similarity) e, with g shared by its group and e its own, both N(0, I).
    So every prompt is N(0, I) whatever the dial says: V_x and V_{y|x} stay those of `GaussianModes`, and only the
    split of V_x into V_g and V_{x|g} moves.

    Args:
        group_size: r, prompts in a group.
        similarity: the dial, correlation of two prompts of a group: 1 for exact duplicates, 0 for independent.
        **modes: the arguments of `GaussianModes`.
    """

    group_size: Any
    similarity: Any

    def __init__(self, group_size: int = 5, similarity: Any = 1.0, **modes: Any):
        super().__init__(**modes)
        if int(group_size) != group_size or group_size < 1:
            raise InputError(f"group_size must be a whole number of 1 or more, not {group_size}")
        if not 0 <= float(similarity) <= 1:
            raise InputError(
                f"similarity must lie between 0 (independent) and 1 (duplicates), not {similarity}"
            )
        # Arrays, so that a sweep over either compiles once.
        self.group_size = np.asarray(group_size, np.int32)
        self.similarity = np.asarray(similarity, np.float64)

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Draw n prompts; prompt i is in group i // group_size, and the last group may be smaller."""
        shared, own = jax.random.normal(key, (2, n, self.prompt_dim))
        shared = shared[jnp.arange(n) // self.group_size]
        similarity = jnp.asarray(self.similarity, own.dtype)
        return jnp.sqrt(similarity) * shared + jnp.sqrt(1 - similarity) * own

    def prompt_pairs_at(
        self, uniforms: Float[Array, "n two_d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Two prompts of a group at points of the unit cube, (n, 2 prompt_dim)."""
        prompts = self.prompts_at(uniforms)
        first, other = prompts[:, : self.prompt_dim], prompts[:, self.prompt_dim :]
        similarity = jnp.asarray(self.similarity, first.dtype)
        return first, similarity * first + jnp.sqrt(1 - similarity**2) * other
