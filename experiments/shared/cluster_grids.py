"""Clusters of near-duplicate prompts: a 4 x 4 grid of variants v and response slots j, and designs that take cells.

A loss in a cluster is the sum of four effects, G + A_v + Y_j + E_vj. A design takes n cells; over M clusters the mean
loss has the variance

    (V_g + V_v sum_v (n_v/n)^2 + V_j sum_j (m_j/n)^2 + V_e/n) / M,

with n_v cells of variant v and m_j of slot j. For a loss that is no sum of effects the components are covariances:
of cells of two variants and two slots (V_g), of one variant (V_g + V_v), of one slot (V_g + V_j).
"""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.shared.mdn_training import TOY
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.exact_components import decompose
from mrtsim.estimates import Estimate
from mrtsim.losses import squared_loss
from mrtsim.models import MLP

SIDE = 4  # variants, and slots, of a cluster
DESIGNS = ("explicit", "hybrid", "disjoint", "implicit", "same", "full")
FOUR = DESIGNS[:-1]  # designs of four cells


class Corpus(NamedTuple):
    """How alike the cells of a cluster are.

    `similarity` is the correlation of two variants of a prompt. Each cell holds its slot's response with probability
    `sharing` (the same mode and noise about another centre), else one of its own.
    """

    similarity: float
    sharing: float


def sample(
    key: PRNGKeyArray, n: int, prompts: ClusteredPrompts, sharing: float, ranked: float = 0.0
) -> tuple[Float[Array, "n 4 d"], Float[Array, "n 4 4"]]:
    """The variants of n clusters and the responses of their grids.

    Args:
        key: of the draw.
        n: clusters.
        prompts: the variants, four to a group.
        sharing: the probability that a cell holds its slot's response.
        ranked: 1 where slot 0 holds the cluster's best reward, slot 1 the second best, and so on.
    """
    prompt_key, slot_key, own_key, share_key = jax.random.split(key, 4)
    variants = prompts.sample_prompts(prompt_key, n * SIDE)
    centres = prompts.centre(variants)[:, None]
    origin = jnp.zeros((n, prompts.prompt_dim), variants.dtype)
    slots = prompts.sample_responses(slot_key, origin, SIDE)[0] - prompts.centre(origin)[:, None]
    slots = jnp.where(ranked, jnp.take_along_axis(slots, jnp.argsort(jnp.abs(slots)), axis=1), slots)
    own = prompts.sample_responses(own_key, variants, SIDE)[0]
    shared = jax.random.uniform(share_key, own.shape) < sharing
    responses = jnp.where(shared, centres + jnp.repeat(slots, SIDE, axis=0), own)
    return variants.reshape(n, SIDE, -1), responses.reshape(n, SIDE, SIDE)


def cells(key: PRNGKeyArray, n: int) -> Int[Array, "designs n 16"]:
    """The cells 4 v + j of every design in n clusters; those of four cells are repeated to fill the row."""
    first, second = jnp.argsort(jax.random.uniform(key, (2, n, SIDE)))
    half, side = SIDE // 2, jnp.arange(SIDE)
    rows = {
        "explicit": side,
        "hybrid": jnp.concatenate([first[:, :half], SIDE + second[:, :half]], axis=1),
        "disjoint": jnp.concatenate([first[:, :half], SIDE + first[:, half:]], axis=1),
        "implicit": (SIDE + 1) * side,
        "same": SIDE * side,
    }
    table = [jnp.tile(jnp.broadcast_to(rows[name], (n, SIDE)), (1, SIDE)) for name in FOUR]
    return jnp.stack([*table, jnp.broadcast_to(jnp.arange(SIDE**2), (n, SIDE**2))])


def size(design: str) -> int:
    """Cells that a design takes of a cluster."""
    return SIDE**2 if design == "full" else SIDE


def coefficients(design: str) -> tuple[float, float, float]:
    """What V_v, V_j and V_e are multiplied by, averaged over the sets of cells that a design may take."""
    side = range(SIDE)
    halves = list(combinations(side, SIDE // 2))
    sets: list[list[tuple[int, int]]]
    if design == "explicit":
        sets = [[(0, j) for j in side]]
    elif design == "implicit":
        sets = [[(j, j) for j in side]]
    elif design == "same":
        sets = [[(v, 0) for v in side]]
    elif design == "full":
        sets = [list(product(side, side))]
    else:
        pairs = product(halves, halves) if design == "hybrid" else ((a, set(side) - set(a)) for a in halves)
        sets = [[(0, j) for j in a] + [(1, j) for j in b] for a, b in pairs]
    found = []
    for taken in sets:
        shares = [np.bincount([cell[axis] for cell in taken]) / len(taken) for axis in (0, 1)]
        found.append([*(float(share @ share) for share in shares), 1 / len(taken)])
    v, j, e = np.mean(found, axis=0).tolist()
    return v, j, e


def law(design: str, components: dict[str, float]) -> float:
    """M times the variance of a design's mean loss; components by the names g, v, j and e."""
    v, j, e = coefficients(design)
    return components["g"] + v * components["v"] + j * components["j"] + e * components["e"]


def exact_components(model: MLP, corpus: Corpus, points: int) -> dict[str, Estimate]:
    """V_g, V_v, V_j and V_e of the squared loss (d + u)^2, d = f(x) - model(x), of the reference network.

    Two cells of one slot share u with probability sharing^2. Given the prompts, the covariance of their losses is then
    4 d d' E u^2 + Var u^2 (E u = E u^3 = 0), and E d d' is the covariance of the mean errors of two variants plus the
    square of their mean.
    """
    prompts = ClusteredPrompts(2, corpus.similarity)
    parts = decompose(squared_loss, model, prompts, points=points)
    error = decompose(_signed_error, model, prompts, points=points)
    second, fourth = residual_moments()
    product_mean = error.group.value + error.mean.value**2
    chance = corpus.sharing**2
    slot = chance * (4 * second * product_mean + fourth - second**2)
    numerical = (
        chance
        * 4
        * second
        * (error.group.standard_error + 2 * abs(error.mean.value) * error.mean.standard_error)
    )
    return {
        "g": parts.group,
        "v": parts.prompt,
        "j": Estimate.from_standard_error(slot, numerical),
        "e": Estimate.from_standard_error(
            parts.response.value - slot, float(np.hypot(parts.response.standard_error, numerical))
        ),
    }


def _signed_error(
    model: MLP, prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts k"]
) -> Float[Array, "prompts k"]:
    return responses - model(prompts)[:, None]


def residual_moments() -> tuple[float, float]:
    """E u^2 and E u^4 of a response's distance u from its centre."""
    offsets, noise = TOY.offsets, TOY.scales
    second = offsets**2 + noise**2
    fourth = offsets**4 + 6 * offsets**2 * noise**2 + 3 * noise**4
    return float(TOY.weights @ second), float(TOY.weights @ fourth)


def grid_losses(
    key: PRNGKeyArray, n: int, model: MLP, prompts: ClusteredPrompts, sharing: float, ranked: float = 0.0
) -> Float[Array, "n 16"]:
    """The squared losses of all cells of n clusters."""
    variants, responses = sample(key, n, prompts, sharing, ranked)
    losses = squared_loss(model, variants.reshape(n * SIDE, -1), responses.reshape(n * SIDE, SIDE))
    return losses.reshape(n, SIDE**2)
