"""Simulate strategies on a problem: every trial draws a fresh pool of N per prompt, and K are kept.

`measure` simulates one strategy, `compare_strategies` several on the same pools. Errors are measured against the exact
expectation over p(y|x) at the given prompts; what a trial leaves behind are sums. Numbers are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mrtsim import montecarlo
from mrtsim.diagnostics.problem import Problem, in_parameters
from mrtsim.diagnostics.reports import (
    BATCHES,
    CoverageReport,
    ErrorReport,
    Sums,
    TrialEstimate,
    cosine,
    coverage_report,
    error_report,
    jackknife,
    moments,
    similarity_k_eff,
    without_one,
)
from mrtsim.distributions.protocol import NamedModes
from mrtsim.errors import InputError
from mrtsim.selection.registry import Pool, Strategy, strategy


@dataclass(frozen=True)
class StrategyReport:
    """Everything `measure` finds about one strategy.

    Attributes:
        loss: the per-prompt mean loss of the K kept as an estimate of E[l | x].
        gradient: the same for its gradient with respect to the parameters.
        batch_gradient: of the mean over prompts; one "prompt".
        coverage: the modes kept.
        similarity: mean similarity of two kept responses (`response_similarity`); nan for K = 1.
        similarity_k_eff: the ranking score of the paper, `similarity_k_eff`; not a calibrated K_eff.
        trials: how many were run.
    """

    strategy: str
    n_candidates: int
    k: int
    trials: int
    loss: ErrorReport
    gradient: ErrorReport
    batch_gradient: ErrorReport
    coverage: CoverageReport | None
    similarity: TrialEstimate
    similarity_k_eff: TrialEstimate


def response_similarity(responses: Float[Array, "*batch n"]) -> Float[Array, "*batch n n"]:
    """1 - |y_i - y_j| / (largest distance in the pool), the similarity of the paper's simulations."""
    distance = jnp.abs(responses[..., :, None] - responses[..., None, :])
    largest = jnp.max(distance, axis=(-2, -1), keepdims=True)
    return 1 - distance / jnp.where(largest > 0, largest, 1)


class Setting(NamedTuple):
    """A way to keep responses: a registered strategy, K, and the strategy's options, {"alpha": 0.5} for example."""

    strategy: str
    k: int
    options: Mapping[str, Any] = MappingProxyType({})


class _Group(NamedTuple):
    """A strategy, its K, its options that are not traced, what it needs, and how many rows of values the others get."""

    strategy: Strategy
    k: int
    fixed: tuple[tuple[str, Any], ...]
    needs: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class _Run:
    """What the compiled trial depends on beside arrays.

    Each of the `settings` is its first response among those that the groups keep, and its K.
    """

    groups: tuple[_Group, ...]
    settings: tuple[tuple[int, int], ...]
    n_candidates: int
    trials: int
    chunk: int

    @property
    def ks(self) -> np.ndarray:
        """K of each setting."""
        return np.array([k for _, k in self.settings])

    @property
    def columns(self) -> np.ndarray:
        """Column indices of every setting's picks among those of the groups, concatenated."""
        return np.concatenate([np.arange(first, first + k) for first, k in self.settings])


def _chunk(
    key: PRNGKeyArray, problem: Problem, run: _Run, options: list[dict[str, Array]]
) -> dict[str, Array]:
    """Sums over a chunk of trials. Their pools come from one draw: one key per trial would double the compile time."""
    pool_key, strategy_key = jax.random.split(key)
    distribution = problem.distribution
    prompts = jnp.broadcast_to(problem.prompts, (run.chunk, *problem.prompts.shape))
    pool, modes = distribution.sample_responses(pool_key, prompts, run.n_candidates)
    needs = {need for group in run.groups for need in group.needs}
    geometry = needs & {"embeddings", "similarity", "distance"}
    candidates = Pool(
        rewards=(problem.reward or distribution.reward)(prompts, pool),
        embeddings=pool[..., None] if geometry else None,
        similarity=response_similarity(pool) if geometry else None,
    )
    kept = []
    for (chosen, k, fixed, wanted, rows), given in zip(run.groups, options, strict=True):
        select = partial(chosen, strategy_key if "key" in wanted else None, candidates, k, **dict(fixed))
        # (options, trials, prompts, k), then the options one after the other.
        each = jax.vmap(lambda given, select=select: select(**given), axis_size=rows)(given)
        kept.append(jnp.moveaxis(each, 0, -2).reshape(*pool.shape[:-1], rows * k))
    picked = jnp.concatenate(kept, axis=-1)[..., run.columns]
    each = jax.vmap(partial(_trial, problem, run.ks))(pool, modes, picked)
    return jax.tree.map(lambda a: a.sum(0), each)


def _trial(
    problem: Problem, ks: np.ndarray, pool: Float[Array, "prompts n"], modes: Any, kept: Array
) -> dict[str, Array]:
    """Errors of each setting (settings, ...) in one trial; `kept` (prompts, sum of ks) are theirs side by side."""
    share = np.repeat(np.eye(len(ks)) / ks, ks, axis=1)  # of each kept response in the mean of a setting

    def mean(kept: Array) -> Array:
        return jnp.einsum("sq,pq...->sp...", share, kept)

    responses = jnp.take_along_axis(pool, kept, axis=1)
    gradients = problem.gradients
    rows = gradients.rows(responses)
    # Errors of each kept response: the loss, and the gradient in orthonormal coordinates.
    loss = rows[..., 0] - problem.true_loss[:, None]
    gradient = rows[..., 1:] - problem.true_gradient[:, None]
    vector = gradients.coordinates(gradient)
    truth = gradients.coordinates(problem.true_gradient)
    means = {"loss": mean(loss), "gradient": mean(gradient)}
    vectors = mean(vector)
    batch = jax.vmap(gradients.batch)(means["gradient"] + problem.true_gradient)
    out = means | {
        "loss_square": jnp.square(means["loss"]),
        "loss_single": mean(jnp.square(loss)),
        "gradient_square": jnp.square(vectors).sum(-1),
        "gradient_single": mean(jnp.square(vector).sum(-1)),
        "cosine": cosine(vectors + truth, truth),
        "batch_square": jnp.square(batch - problem.true_batch).sum(-1),
        "batch_cosine": cosine(batch, problem.true_batch),
        "similarity": _kept_similarity(pool, responses, ks),
    }
    if isinstance(problem.distribution, NamedModes):
        weights = problem.distribution.mode_weights(jnp.asarray(problem.prompts))
        kept_modes = jnp.take_along_axis(modes, kept, axis=1)
        frequency = mean((kept_modes[..., None] == jnp.arange(weights.shape[-1])).astype(loss.dtype))
        out["modes"] = frequency
        out["share"] = (frequency > 0).mean(-1, dtype=loss.dtype)
        out["variation"] = 0.5 * jnp.abs(frequency - weights).sum(-1)
    return out


def _kept_similarity(
    pool: Float[Array, "prompts n"], responses: Float[Array, "prompts q"], ks: np.ndarray
) -> Float[Array, " settings"]:
    """Mean `response_similarity` of two responses that a setting keeps; 1 where it keeps one."""
    # Settings that keep fewer are filled up with their last response, which then has no weight.
    place = np.minimum(np.arange(ks.max()), ks[:, None] - 1)
    counts = (np.arange(ks.max()) < ks[:, None]).astype(float)
    weights = counts[:, :, None] * counts[:, None, :] / np.maximum(ks * (ks - 1), 1)[:, None, None]
    kept = responses[:, place + (np.cumsum(ks) - ks)[:, None]]
    distance = jnp.abs(kept[..., :, None] - kept[..., None, :])
    largest = jnp.maximum(pool.max(1) - pool.min(1), jnp.finfo(pool.dtype).tiny)
    return 1 - (jnp.einsum("psij,sij->ps", distance, weights) / largest[:, None]).mean(0)


def _batch_of_trials(
    key: PRNGKeyArray, problem: Problem, run: _Run, options: list[dict[str, Array]]
) -> dict[str, Array]:
    """Sums over the trials of one batch; a chunk at a time, so that memory does not grow with the trials."""

    chunk = jax.jit(lambda key: _chunk(key, problem, run, options), inline=True)  # traced once for both uses

    def step(total: Any, key: PRNGKeyArray) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, chunk(key)), None

    shapes = jax.eval_shape(chunk, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(step, zeros, jax.random.split(key, run.trials // run.chunk))[0]


def measure(
    problem: Problem,
    name: str,
    *,
    n_candidates: int,
    k: int,
    trials: int,
    key: PRNGKeyArray,
    options: Mapping[str, Any] | None = None,
    batches: int = BATCHES,
    replicates: Callable[..., Any] = montecarlo.replicate,
) -> StrategyReport:
    """Simulate a strategy: in each trial every prompt gets a fresh pool of N, and K are kept.

    With the same key, strategies see the same pools; `compare_strategies` simulates several at once, which is faster.
    Memory does not grow with `trials`.

    Args:
        problem: what is estimated.
        name: a registered strategy. Where it asks for similarity it gets `response_similarity`, for embeddings the
            responses themselves.
        n_candidates: N.
        k: K.
        trials: rounded up to a multiple of `batches`.
        key: JAX random key.
        options: keyword-only options of the strategy, by name.
        batches: groups of trials that standard errors are computed from.
        replicates: runs the batches, as `montecarlo.replicate(fn, key, n, *args)` does; a sweep's `replicates` with
            its label bound stores them too.

    Raises:
        InputError: an unknown strategy or option, K not in 1..N, or fewer than two trials.
    """
    setting = Setting(name, k, options or {})
    return compare_strategies(
        problem,
        [setting],
        n_candidates=n_candidates,
        trials=trials,
        key=key,
        batches=batches,
        replicates=replicates,
    )[0]


def compare_strategies(
    problem: Problem,
    settings: Sequence[Setting],
    *,
    n_candidates: int,
    trials: int,
    key: PRNGKeyArray,
    batches: int = BATCHES,
    replicates: Callable[..., Any] = montecarlo.replicate,
) -> list[StrategyReport]:
    """Measure several strategies, Ks and options on the same pools, in one program; one report per setting, in order.

    Arguments and errors as for `measure`. Memory grows with the sum of the Ks.

    Args:
        problem: as for `measure`.
        settings: strategies with their K and options.
        n_candidates: N, responses per pool.
        trials: rounded up to a multiple of `batches`.
        key: seeds the trials.
        batches: groups of trials that standard errors are computed from.
        replicates: what runs the batches, `montecarlo.replicate` or a sweep's.

    Example:
        >>> import jax
        >>> from mrtsim import GaussianModes, Problem, Setting, compare_strategies
        >>> from mrtsim.models import MDN
        >>> from mrtsim.losses import mdn_nll
        >>> toy = GaussianModes()
        >>> prompts = toy.sample_prompts(jax.random.key(0), 10)
        >>> problem = Problem.of(toy, mdn_nll, MDN(jax.random.key(1)), prompts)
        >>> settings = [Setting("rkon", 4), Setting("bkon", 4), Setting("dbkon", 4, {"alpha": 0.2})]
        >>> reports = compare_strategies(problem, settings, n_candidates=16, trials=400, key=jax.random.key(2))
        >>> print(*(f"{r.strategy} {r.coverage.share.value:.1f}" for r in reports))
        rkon 0.8 bkon 0.4 dbkon 1.0
    """
    if not settings:
        raise InputError("no settings to compare: give at least one strategy with its K")
    for _, k, _ in settings:
        if not 1 <= k <= n_candidates:
            raise InputError(f"k = {k} must lie between 1 and n_candidates = {n_candidates}")
    if trials < 2:
        raise InputError(f"trials = {trials} must be at least 2, to tell bias from variance")
    batches = min(batches, trials)
    per_batch = -(-trials // batches)
    chunk = next(c for c in (8, 4, 2, 1) if per_batch % c == 0)
    run, options = _groups(settings, n_candidates, per_batch, chunk)
    with jax.enable_x64(True):
        sums = replicates(_batch_of_trials, key, batches, problem, run, options)
        vectors, truth, parameters = map(np.asarray, in_parameters(problem, sums["gradient"]))
        weights = None
        if isinstance(problem.distribution, NamedModes):
            weights = np.asarray(problem.distribution.mode_weights(jnp.asarray(problem.prompts)))
    sums["vector"], sums["batch"] = vectors, parameters[:, :, None]
    counts = np.full(batches, float(per_batch))
    return [
        _report(
            setting,
            n_candidates,
            counts,
            {name: array[:, place] for name, array in sums.items()},
            problem,
            truth,
            weights,
        )
        for place, setting in enumerate(settings)
    ]


def _groups(
    settings: Sequence[Setting], n_candidates: int, trials: int, chunk: int
) -> tuple[_Run, list[dict[str, np.ndarray]]]:
    """Settings of one strategy and K share its code, with their options as a batch axis; a nested strategy picks once.

    The second part is the values of the options of each group, (options,).
    """
    members: dict[Any, list[tuple[int, tuple[float, ...]]]] = {}
    for index, (name, k, options) in enumerate(settings):
        chosen = strategy(name)
        every, needs = chosen.resolve(options)
        traced = {option: value for option, value in every.items() if isinstance(value, float)}
        fixed = tuple(item for item in every.items() if item[0] not in traced)
        same = (chosen, None if chosen.nested else k, fixed, needs, tuple(traced))
        members.setdefault(same, []).append((index, tuple(traced.values())))
    groups: list[_Group] = []
    given: list[dict[str, np.ndarray]] = []
    places: dict[int, tuple[int, int]] = {}
    start = 0
    for (chosen, _, fixed, needs, names), those in members.items():
        largest = max(settings[i].k for i, _ in those)
        rows = list(dict.fromkeys(row for _, row in those))
        for i, row in those:
            places[i] = (start + rows.index(row) * largest, settings[i].k)
        groups.append(_Group(chosen, largest, fixed, needs, len(rows)))
        given.append({name: np.array([row[i] for row in rows]) for i, name in enumerate(names)})
        start += largest * len(rows)
    run = _Run(tuple(groups), tuple(places[i] for i in range(len(settings))), n_candidates, trials, chunk)
    return run, given


def _report(
    setting: Setting,
    n_candidates: int,
    counts: np.ndarray,
    sums: dict[str, np.ndarray],
    problem: Problem,
    truth: np.ndarray,
    weights: np.ndarray | None,
) -> StrategyReport:
    """A report from sums over each batch of trials; `truth` in coordinates, `weights` of the modes (prompts, modes)."""
    n = without_one(counts)

    def errors(quantity: str, error: np.ndarray, target: np.ndarray) -> ErrorReport:
        pair = Sums(error, sums[f"{quantity}_square"])
        _, raw, variance = moments(counts, pair)
        # The second moment of one kept response, less the square of their common mean.
        spread = without_one(sums[f"{quantity}_single"]) / n[:, None] - (raw - variance / n[:, None])
        return error_report(counts, pair, target, spread, sums["cosine"] if quantity == "gradient" else None)

    coverage = None
    if weights is not None:
        coverage = coverage_report(
            counts, sums["modes"], sums["share"], sums["variation"], weights, setting.k
        )
    similarity = without_one(sums["similarity"]) / n if setting.k > 1 else np.full(len(n), np.nan)
    return StrategyReport(
        strategy=setting.strategy,
        n_candidates=n_candidates,
        k=setting.k,
        trials=int(counts.sum()),
        loss=errors("loss", sums["loss"][..., None], problem.true_loss[:, None]),
        gradient=errors("gradient", sums["vector"], truth),
        batch_gradient=error_report(
            counts,
            Sums(sums["batch"], sums["batch_square"][:, None]),
            problem.true_batch[None],
            None,
            sums["batch_cosine"][:, None],
        ),
        coverage=coverage,
        similarity=jackknife(similarity),
        similarity_k_eff=jackknife(similarity_k_eff(similarity, setting.k)),
    )
