"""Claim 9: picks of GRADES that add nothing, what its tie rule does then, and objectives that do not saturate.

Once the best reward covers a candidate better than the candidate covers itself, its gain is 0 and the tie rule
chooses. First the share of such picks on the toy's pools by alpha, K and N. Without the toy's noise a pool is three
counts, so that the share is a sum over all of them: exact.

Then bias, variance and EMSE of the loss of untrained MDNs, as in E5, under four tie rules and under two objectives that
do not saturate: the quality on the covered side alone, sum_i w_i max_j s_ij, and the sum over all that is kept in place
of the maximum, sum_i w_i sum_j q_j s_ij. Both are monotone and submodular; the second is modular, and so has no use for
diversity. RKoN is exact. Intervals are over networks, each with its own prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Role, above, below, equals, read
from experiments.shared.untrained_network import problems
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.simulate import response_similarity
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.montecarlo import subkeys
from mrtsim.selection.facility_location import quality, row_weights
from mrtsim.selection.registry import Picks, Pool, strategy

CLAIMS = (9,)
TOY = GaussianModes()
TIES = ("index", "reward", "diverse", "random")
# Ways to pick: GRADES under each tie rule, and the objectives that do not saturate.
WAYS = (*TIES, "covered", "sum")


@dataclass(frozen=True)
class Config:
    """`replicates` are pools per number of candidates, `trials` are of each network; errors are E5's, at K = 4."""

    replicates: int = 1_000
    candidates: tuple[int, ...] = (4, 8, 32)
    responses: tuple[int, ...] = (2, 4, 8)
    alphas: tuple[float, ...] = (0.0, 0.25, 0.75, 1.0, 2.0)
    error_candidates: tuple[int, ...] = (8, 32)
    n_prompts: int = 30
    networks: int = 4
    trials: int = 60

    def __post_init__(self):
        if self.networks < 2 or self.trials < 2:
            raise InputError("networks and trials must be at least 2, for intervals and variances")
        if not {0.0, 0.75, 1.0} <= set(self.alphas) or 4 not in self.responses:
            raise InputError("alphas must include 0, 0.75 and 1, and responses the paper's K = 4")
        if min(self.candidates) < 4 or min(self.error_candidates) < 4:
            raise InputError("a pool must hold at least the 4 candidates that are kept")


PRESETS = {
    "quick": Config(
        replicates=200,
        candidates=(4, 8),
        alphas=(0.0, 0.75, 1.0),
        error_candidates=(8,),
        networks=3,
        trials=30,
    ),
    "paper": Config(),
    "precise": Config(candidates=(4, 8, 16, 32), replicates=20_000, networks=16, trials=200),
}


@dataclass(frozen=True)
class Sizes:
    """How large a pool is, and how many are kept."""

    candidates: int
    k: int


# --- the share of picks that add nothing


def saturated(key: PRNGKeyArray, alphas: Float[Array, " a"], sizes: Sizes) -> dict[str, Bool[Array, "a k"]]:
    """Which picks from one pool add nothing: on the toy, on the toy without noise, and with `quality_side` covered."""
    prompt_key, key = jax.random.split(key)
    prompt = TOY.sample_prompts(prompt_key, 1)
    responses, modes = TOY.sample_responses(key, prompt, sizes.candidates)
    offsets = jnp.asarray(TOY.offsets)[modes[0]]
    noisy = Pool(rewards=TOY.reward(prompt, responses)[0], similarity=response_similarity(responses[0]))
    return {
        "toy": _saturated(noisy, sizes.k, alphas),
        "covered": _saturated(noisy, sizes.k, alphas, quality_side="covered"),
        "repeats": _saturated(_without_noise(offsets), sizes.k, alphas),
    }


def _without_noise(offsets: Float[Array, "*pools n"]) -> Pool:
    return Pool(rewards=-jnp.square(offsets), similarity=response_similarity(offsets))


def _saturated(pool: Pool, k: int, alphas: Float[Array, " a"], **options: Any) -> Bool[Array, "a *pools k"]:
    known = strategy("dbkon")
    rows = jnp.zeros(pool.shape[:-1], jnp.uint32)
    return jax.vmap(lambda alpha: known.picks(None, rows, pool, k, alpha=alpha, **options).saturated)(alphas)


def exact_shares(n: int, most: int, alphas: tuple[float, ...]) -> np.ndarray:
    """Share of picks that add nothing on the toy without noise, (alphas, most) for K = 1, ..., most: exact.

    A pool is how many of its n candidates are of each mode; ties change which mode is picked, by symmetry never whether
    a pick adds something.
    """
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    weights = np.array([comb(n, a) * comb(n - a, b) for a, b, _ in counts]) / 3.0**n
    with jax.enable_x64(True):
        pools = np.stack([np.repeat(np.asarray(TOY.offsets, float), of_modes) for of_modes in counts])
        exact = jax.jit(lambda pools, alphas: _saturated(_without_noise(pools), most, alphas))
        found = np.asarray(exact(pools, np.asarray(alphas)))
    return np.einsum("apk,p->ak", _up_to_k(found), weights)


def _up_to_k(saturated: np.ndarray) -> np.ndarray:
    """The share among the first K picks, for each K of the last axis: picks are nested."""
    return np.cumsum(saturated, axis=-1) / np.arange(1, saturated.shape[-1] + 1)


def _shares(config: Config, key: PRNGKeyArray, sweep: Any) -> list[dict[str, Any]]:
    rows = []
    for i, n in enumerate(config.candidates):
        ks = [k for k in config.responses if k <= n]
        found = sweep.replicates(
            f"shares/n={n}",
            saturated,
            jax.random.fold_in(key, i),
            config.replicates,
            np.asarray(config.alphas),
            Sizes(n, ks[-1]),
        )
        shares = {name: _up_to_k(np.asarray(values)) for name, values in found.items()}
        law = exact_shares(n, ks[-1], config.alphas)
        for place, alpha in enumerate(config.alphas):
            for k in ks:
                row = {name: intervals.mean(values[:, place, k - 1]) for name, values in shares.items()}
                rows.append({"n": n, "k": k, "alpha": alpha, **row, "exact": float(law[place, k - 1])})
    return rows


# --- bias, variance and EMSE


def picks_of(way: str, key: PRNGKeyArray, pool: Pool, k: int, alpha: Float[Array, ""]) -> Picks:
    """What one of `WAYS` keeps of each pool."""
    if way == "sum":
        qualities = quality(pool.rewards, alpha)
        values = qualities * jnp.einsum("...i,...ij->...j", row_weights(qualities), pool.similarity)
        kept = jax.lax.top_k(values, k)[1]
        return Picks(kept, jnp.zeros(kept.shape, bool))
    options = {"quality_side": "covered"} if way == "covered" else {"ties": way}
    rows = jnp.arange(pool.shape[0], dtype=jnp.uint32)
    return strategy("dbkon").picks(key, rows, pool, k, alpha=alpha, **options)


def one_trial(
    key: PRNGKeyArray, problem: Problem, alphas: Float[Array, " a"], sizes: Sizes
) -> dict[str, Array]:
    """Fresh pools: for every way and alpha the mean loss per prompt, the reward above the pool's, the share."""
    pool_key, tie_key = jax.random.split(key)
    prompts = jnp.asarray(problem.prompts)
    responses, _ = problem.distribution.sample_responses(pool_key, prompts, sizes.candidates)
    rewards = problem.distribution.reward(prompts, responses)
    losses = problem.gradients.loss(problem.gradients.model, prompts, responses)
    pool = Pool(rewards=rewards, similarity=response_similarity(responses))

    def judged(way: str, alpha: Array) -> dict[str, Array]:
        kept, nothing = picks_of(way, tie_key, pool, sizes.k, alpha)
        reward = jnp.take_along_axis(rewards, kept, 1).mean() - rewards.mean()
        return {
            "loss": jnp.take_along_axis(losses, kept, 1).mean(1),
            "reward": reward,
            "saturated": nothing.mean(dtype=losses.dtype),
        }

    each = [jax.vmap(lambda alpha, way=way: judged(way, alpha))(alphas) for way in WAYS]
    return jax.tree.map(lambda *a: jnp.stack(a), *each)


def moments(losses: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Bias^2 (without the trials' own noise), variance and EMSE, of (trials, ways, alphas, prompts)."""
    variance = losses.var(axis=0, ddof=1)
    bias = np.square(losses.mean(axis=0) - truth) - variance / len(losses)
    parts = {"bias_squared": bias, "variance": variance, "emse": bias + variance}
    return {name: values.mean(axis=-1) for name, values in parts.items()}


def _errors(config: Config, key: PRNGKeyArray, sweep: Any) -> list[dict[str, Any]]:
    model_key, trial_key = subkeys(key)
    posed = problems(model_key, config.networks, config.n_prompts)
    rows = []
    for n in config.error_candidates:
        found, random = [], []
        for network, problem in enumerate(posed):
            trials = sweep.replicates(
                f"errors/n={n}/network={network}",
                one_trial,
                jax.random.fold_in(trial_key, network),
                config.trials,
                problem,
                np.asarray(config.alphas),
                Sizes(n, 4),
            )
            means = {name: np.asarray(trials[name]).mean(axis=0) for name in ("reward", "saturated")}
            found.append(moments(np.asarray(trials["loss"]), np.asarray(problem.true_loss)) | means)
            random.append(float(exact(problem, "rkon", n_candidates=n, k=4).loss.variance.mean()))
        each = {name: np.stack([network[name] for network in found]) for name in found[0]}
        base = np.array(random)
        for w, way in enumerate(WAYS):
            for a, alpha in enumerate(config.alphas):
                row: dict[str, Any] = {"n": n, "way": way, "alpha": alpha}
                for part in ("bias_squared", "variance", "emse"):
                    row[f"{part}_over_rkon"] = intervals.ratio_of_means(each[part][:, w, a], base)
                row["emse_over_index"] = intervals.ratio_of_means(
                    each["emse"][:, w, a], each["emse"][:, 0, a]
                )
                row |= {name: intervals.mean(each[name][:, w, a]) for name in ("reward", "saturated")}
                rows.append(row)
    return rows


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Both parts."""
    share_key, error_key = subkeys(key)
    with jax.enable_x64(True):
        shares = _shares(config, share_key, sweep)
        errors = _errors(config, error_key, sweep)
    return {"shares": shares, "errors": errors, "alphas": list(config.alphas), "networks": config.networks}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Where GRADES saturates, what decides then, and whether what does not saturate is better."""
    found = []
    for row in result["shares"]:
        n, k, alpha = row["n"], row["k"], row["alpha"]
        at = f"n{n}-{_label(alpha)}"
        if k == 4 < n and alpha in (0.75, 1.0):
            found.append(
                Prediction(
                    f"saturation.share.{at}",
                    9,
                    f"share of DBKoN's picks that add nothing, toy, alpha = {alpha:g}, K = 4 of {n}",
                    read(row["toy"]),
                    below(0.05),
                    Role.LIMIT,
                )
            )
        if k == 4 < n and alpha in (0.0, 1.0):
            found.append(
                Prediction(
                    f"saturation.repeats.{at}",
                    9,
                    f"share of picks that add nothing, toy without noise, alpha = {alpha:g}, K = 4 of {n}",
                    read(row["repeats"]),
                    equals(row["exact"], absolute=0.02),
                    Role.LIMIT,
                    note="responses of one mode are identical, and a pool is three counts",
                )
            )
    for name, quantity, rows in (
        ("alpha-0", "DKoN's picks that add nothing", [r["toy"] for r in result["shares"] if r["alpha"] == 0]),
        (
            "covered",
            "picks that add nothing, quality on the covered side, any alpha",
            [r["covered"] for r in result["shares"]],
        ),
    ):
        worst = max((read(row) for row in rows), key=lambda cell: cell.value)
        found.append(
            Prediction(
                f"saturation.share.{name}",
                9,
                f"share of {quantity}, toy, the largest over K and N",
                worst,
                equals(0.0, absolute=0.001),
                Role.LIMIT,
                note="a candidate unlike those kept covers itself best; a gain up to 1e-9 of F counts as none",
            )
        )
    return found + _error_predictions(result["errors"])


_WORDS = {"covered": "quality on the covered side alone", "sum": "the sum over all kept"}


def _error_predictions(rows: list[dict[str, Any]]) -> list[Prediction]:
    def cell(n: int, way: str, alpha: float, name: str) -> Estimate:
        return read(next(r for r in rows if (r["n"], r["way"], r["alpha"]) == (n, way, alpha))[name])

    found = []
    sizes = list(dict.fromkeys(row["n"] for row in rows))
    for n in sizes:
        for ties in TIES[1:]:
            found.append(
                Prediction(
                    f"saturation.ties.{ties}.n{n}",
                    9,
                    f"EMSE of the loss, DBKoN (alpha = 1), ties by {ties} / by index, K = 4 of {n}",
                    cell(n, ties, 1.0, "emse_over_index"),
                    below(1.0),
                    Role.CONTEXT,
                    note=_parts(n, ties, 1.0, cell) + "; " + _parts(n, "index", 1.0, cell),
                )
            )
        for way, words in _WORDS.items():
            for alpha in (0.75, 1.0):
                for part, other, label in (
                    ("emse_over_rkon", "rkon", "RKoN"),
                    ("emse_over_index", "dbkon", "DBKoN"),
                ):
                    found.append(
                        Prediction(
                            f"saturation.{way}-over-{other}.n{n}-{_label(alpha)}",
                            9,
                            f"EMSE of the loss, {words} / {label}, alpha = {alpha:g}, K = 4 of {n}",
                            cell(n, way, alpha, part),
                            below(1.0),
                            Role.LIMIT if way == "covered" else Role.CONTEXT,
                            note=_parts(n, way, alpha, cell),
                        )
                    )
        found.append(
            Prediction(
                f"saturation.covered-reward.n{n}",
                9,
                f"reward kept − the pool's, {_WORDS['covered']}, alpha = 1, K = 4 of {n}",
                cell(n, "covered", 1.0, "reward"),
                above(0.0),
                Role.LIMIT,
                note=f"DBKoN's is {cell(n, 'index', 1.0, 'reward').value:.3f}, DKoN's "
                f"{cell(n, 'index', 0.0, 'reward').value:.3f}",
            )
        )
    return found


def _label(alpha: float) -> str:
    """The last part of an id has no dot: statements that differ in it alone share a line of the page."""
    return f"alpha-{alpha:g}".replace(".", "_")


def _parts(n: int, way: str, alpha: float, cell: Any) -> str:
    bias, variance = (cell(n, way, alpha, f"{part}_over_rkon").value for part in ("bias_squared", "variance"))
    return f"{way}: Bias^2 {bias:.3f} and variance {variance:.4f} of RKoN's variance"
