"""The GRADES objective, quality-weighted facility location: its value and its greedy maximiser.

F(S) = sum_i w_i max_{j in S} q_j s_ij with w_i = max(q_i, 1e-4), the objective behind DKoN (q = 1) and DBKoN
(arXiv:2606.00544). It is monotone and submodular for any q and w >= 0, so K greedy steps reach at least
1 - (1 - 1/K)^K of the best subset (Nemhauser, Wolsey, Fisher 1978).

Where q_j < 1 a candidate may be covered better by others than by itself, and then adds nothing. With the quality in the
weights alone, sum_i w_i max_{j in S} s_ij, each adds at least w_j (1 - its largest similarity to S).

Functions take NumPy arrays, and answer with NumPy in the input's precision, or JAX arrays, also traced ones.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrtsim.errors import InputError

QUALITY_FLOOR = 1e-4
TIE_TOLERANCE = 1e-5
SATURATION = 1e-9  # of F: a gain of at most so much is none


def _namespace(*arrays: Any) -> Any:
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def _floating(xp: Any, array: Any) -> Any:
    """The array as float64 if it is that, else as float32 or, for Python and integer data, NumPy's default."""
    array = xp.asarray(array)
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if xp is jnp or array.dtype.itemsize < 4 else np.float64)


def similarity_matrix(embeddings: Any) -> Any:
    """Similarities s_ij = (1 + cos(e_i, e_j)) / 2, in [0, 1].

    `embeddings` is (..., candidates, features), without a zero vector; the answer is (..., candidates, candidates).
    """
    xp = _namespace(embeddings)
    embeddings = _floating(xp, embeddings)
    unit = embeddings / xp.sqrt(xp.sum(xp.square(embeddings), axis=-1, keepdims=True))
    # On accelerators float32 products are rounded to fewer bits unless asked.
    exact = {"precision": jax.lax.Precision.HIGHEST} if xp is jnp else {}
    return 0.5 + 0.5 * xp.matmul(unit, unit.mT, **exact)


def quality(rewards: Any, alpha: Any = 1.0, mask: Any = None) -> Any:
    """Qualities q = clip(min-max-scaled reward, 1e-4, 1)^alpha of each pool; all ones where its rewards are equal.

    `rewards` and `mask` (which candidates exist) are (..., candidates), and so is the answer; candidates that do not
    exist get quality 1.

    Args:
        rewards: (..., candidates).
        alpha: the power; 0 makes all qualities 1.
        mask: (..., candidates), which candidates exist; all by default.
    """
    xp = _namespace(rewards, alpha, mask)
    rewards = _floating(xp, rewards)
    mask = xp.ones(rewards.shape, bool) if mask is None else xp.asarray(mask)
    low = xp.min(xp.where(mask, rewards, np.inf), axis=-1, keepdims=True)
    high = xp.max(xp.where(mask, rewards, -np.inf), axis=-1, keepdims=True)
    spread = high - low
    scaled = (xp.where(mask, rewards, high) - low) / xp.where(spread > 0, spread, 1)
    return xp.where(spread > 0, xp.clip(scaled, QUALITY_FLOOR, 1.0) ** alpha, 1).astype(rewards.dtype)


def row_weights(qualities: Any) -> Any:
    """How much it counts that a candidate is covered: its quality, but at least 1e-4."""
    return _namespace(qualities).maximum(qualities, QUALITY_FLOOR)


def _terms(similarity: Any, qualities: Any, mask: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Namespace, coverage q_j s_ij, and weights w_i (zero for candidates that do not exist)."""
    xp = _namespace(similarity, qualities, mask, weights)
    similarity = _floating(xp, similarity)
    if similarity.ndim < 2 or similarity.shape[-1] != similarity.shape[-2]:
        raise InputError(f"similarity must be (..., candidates, candidates), got {similarity.shape}")
    pools = similarity.shape[:-1]
    if qualities is None:
        qualities = xp.ones(pools, similarity.dtype)
    qualities = xp.asarray(qualities).astype(similarity.dtype)
    if qualities.shape != pools:
        raise InputError(f"quality must be {pools} to go with similarity, got {qualities.shape}")
    if weights is None:
        weights = row_weights(qualities)
    weights = xp.asarray(weights).astype(similarity.dtype)
    if weights.shape != pools:
        raise InputError(f"weights must be {pools} to go with similarity, got {weights.shape}")
    coverage = qualities[..., None, :] * similarity
    if mask is not None:
        mask = xp.asarray(mask)
        if mask.shape != pools:
            raise InputError(f"mask must be {pools} to go with similarity, got {mask.shape}")
        weights = xp.where(mask, weights, 0)
        coverage = xp.where(mask[..., None, :] & mask[..., :, None], coverage, 0)
    return xp, coverage, weights


def _covered(xp: Any, coverage: Any, chosen: Any) -> Any:
    chosen = xp.asarray(chosen)
    if chosen.shape[-1] == 0:
        return xp.zeros(coverage.shape[:-1], coverage.dtype)
    return xp.max(xp.take_along_axis(coverage, chosen[..., None, :], axis=-1), axis=-1)


def facility_location(
    similarity: Any, chosen: Any, quality: Any = None, *, mask: Any = None, weights: Any = None
) -> Any:
    """F(chosen) = sum_i w_i max_{j in chosen} q_j s_ij, shape (...); 0 for the empty set.

    Args:
        similarity: s_ij >= 0, (..., candidates, candidates); row i is covered by column j.
        chosen: indices, (..., k) with k >= 0.
        quality: q_j >= 0, (..., candidates); None is all ones (DKoN).
        mask: the candidates that exist, (..., candidates).
        weights: w_i >= 0, (..., candidates); by default max(quality, 1e-4).

    Raises:
        InputError: the shapes do not go together.
    """
    xp, coverage, weights = _terms(similarity, quality, mask, weights)
    return xp.sum(weights * _covered(xp, coverage, chosen), axis=-1)


def greedy(
    similarity: Float[Array, "n n"],
    qualities: Float[Array, " n"] | None,
    k: int,
    mask: Bool[Array, " n"] | None = None,
    *,
    weights: Float[Array, " n"] | None = None,
    preferences: tuple[Float[Array, " n"] | Literal["diverse"], ...] = (),
    order: Int[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """K greedy steps on F over one pool: the picks in order, and which saturate (traceable; batch it with vmap).

    A gain of at most 1e-9 of F, or of the rounding of F, is zero: a pick saturates if its gain is. Ties are the gains
    within 1e-5 of the largest, relative to it, so that no rounding chooses.

    Args:
        similarity: s_ij >= 0.
        qualities: q_j >= 0; None is all ones (DKoN).
        k: how many to pick.
        mask: the candidates that exist.
        weights: w_i >= 0; None is max(q_i, 1e-4).
        preferences: what decides among ties, one after the other: the largest of given numbers, or "diverse", the
            largest gain with q = 1 (with ties of its own).
        order: who comes first where ties are left; the lowest index by default.
    """
    _, coverage, rows = _terms(similarity, qualities, mask, weights)
    coverage = rows[:, None] * coverage  # once here, instead of in the gains of every step
    plain = _terms(similarity, None, mask)[1] if "diverse" in preferences else coverage[:, :0]
    rounding = 2 * jnp.finfo(coverage.dtype).eps * jnp.sum(rows)
    indices = jnp.arange(coverage.shape[0], dtype=jnp.int32)

    def pick(state: Any, _: None) -> Any:
        covered, plainly_covered, free = state
        gains = jnp.sum(jnp.maximum(coverage - covered[:, None], 0), axis=0)
        nothing = jnp.maximum(rounding, SATURATION * (jnp.sum(covered) + gains))
        gains = jnp.where(free, jnp.where(gains > nothing, gains, 0), -1)
        tied = gains >= (1 - TIE_TOLERANCE) * jnp.max(gains)
        for preference in preferences:
            if isinstance(preference, str):
                scores = jnp.sum(jnp.maximum(plain - plainly_covered[:, None], 0), axis=0)
                least = (1 - TIE_TOLERANCE) * jnp.max(jnp.where(tied, scores, -jnp.inf))
                # Of what adds nothing either way, none is preferred.
                least = jnp.where(least > SATURATION * jnp.sum(plainly_covered), least, -jnp.inf)
            else:
                scores = preference
                least = jnp.max(jnp.where(tied, scores, -jnp.inf))
            tied &= scores >= least
        if order is not None:
            tied &= order <= jnp.min(jnp.where(tied, order, jnp.iinfo(order.dtype).max))
        choice = jax.lax.argmax(tied, 0, jnp.int32)
        covered = jnp.maximum(covered, coverage[:, choice])
        if "diverse" in preferences:
            plainly_covered = jnp.maximum(plainly_covered, plain[:, choice])
        return (covered, plainly_covered, free & (indices != choice)), (choice, gains[choice] <= 0)

    free = jnp.ones(indices.shape, bool) if mask is None else mask
    zero = jnp.zeros_like(rows)
    return jax.lax.scan(pick, (zero, zero, free), length=k)[1]
