"""What each strategy keeps of real responses: 96 prompts x 12 responses of a small language model.

The pool in `examples/` is given, so everything that chance enters is computed exactly: RKoN's mean is the pool mean and
its variance the finite-population formula; the other strategies are deterministic. Prompts of a topic say nearly the
same, so intervals are t intervals over the 24 topic means. What is estimated here is the mean loss of the pool, the
target that a training set of the kept responses stands for.

GRADES saturates here: once the best reward covers a candidate better than the candidate covers itself, every further
gain is 0, and the tie rule, the lowest index, chooses. `saturation` is the share of such picks by alpha, K and the size
of the pool, and how many prompts keep another set when their rows are shuffled. `objectives` is what tie rules, and
objectives that do not saturate (see `experiments.saturation`), make of the mean loss and the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Role, above, below, read
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.selection.facility_location import quality, row_weights, similarity_matrix
from mrtsim.selection.response_metrics import mean_over_prompts, response_metrics
from mrtsim.selection.select import select, select_picks

POOL = Path(__file__).parents[1] / "examples" / "pool_smollm2.parquet"
# The tie rules of GRADES, and the objectives that do not saturate.
WAYS = ("index", "reward", "diverse", "random", "covered", "sum")
STRATEGIES = ("bkon", "dkon", "dbkon", "filtered-max-min")


@dataclass(frozen=True)
class Config:
    """How many responses are kept; alpha and K of the saturated picks, in which the paper's runs have alpha = 0.75."""

    responses_per_prompt: tuple[int, ...] = (1, 2, 4, 8)
    alphas: tuple[float, ...] = (0.0, 0.25, 0.75, 1.0, 2.0)
    saturation_responses: tuple[int, ...] = (2, 4, 6, 8)
    pool_sizes: tuple[int, ...] = (4, 6, 12)


CLAIMS = (6, 7, 9)
PRESETS = {"quick": Config(), "paper": Config(), "precise": Config()}


def run(config: Config, key: Any, sweep: Any) -> dict[str, Any]:
    """Select and compare; nothing is random, so `key` and `sweep` are not used."""
    del key, sweep
    topics, losses, rewards, embeddings = _pool()
    units = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    n = losses.shape[1]
    strategies: dict[str, list[dict[str, Any]]] = {"rkon": []}
    for k in config.responses_per_prompt:
        # A random subset's mean: unbiased, with the finite-population variance.
        pairs = (np.square(units.sum(1)).sum(-1) - n) / (n * (n - 1))
        random = {
            "shift": np.zeros(len(losses)),
            "reward": np.zeros(len(losses)),
            "similarity": 0.5 + 0.5 * pairs,
            "squared_error": (1 - k / n) * losses.var(axis=1, ddof=1) / k,
        }
        strategies["rkon"].append(_summary(k, random, random, topics))
        for name in STRATEGIES:
            kept = select(name, k, **_needed(name, rewards, embeddings))
            shift = np.take_along_axis(losses, kept, 1).mean(1) - losses.mean(1)
            chosen = np.take_along_axis(units, kept[..., None], 1)
            # One response has no pairs.
            pairs = (np.square(chosen.sum(1)).sum(-1) - k) / (k * (k - 1)) if k > 1 else np.nan * shift
            prompts = {
                "shift": shift,
                "reward": np.take_along_axis(rewards, kept, 1).mean(1) - rewards.mean(1),
                "similarity": 0.5 + 0.5 * pairs,
                "squared_error": np.square(shift),
            }
            strategies.setdefault(name, []).append(_summary(k, prompts, random, topics))
    return {
        "prompts": len(losses),
        "candidates": n,
        "topics": len(np.unique(topics)),
        "strategies": strategies,
        "saturation": _saturation(config, rewards, embeddings, topics),
        "objectives": _objectives(config, losses, rewards, embeddings, topics),
        "metrics": _metrics(config, rewards, embeddings, topics),
    }


def _metrics(
    config: Config, rewards: NDArray[Any], embeddings: NDArray[Any], topics: NDArray[Any]
) -> dict[str, list[dict[str, Any]]]:
    """How well the kept responses cover the whole pool, how diverse they are, and their rewards, with topics as groups.

    RKoN's are exact expectations over all subsets: of the pool as responses, k at a time.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for k in config.responses_per_prompt:
        random = response_metrics(embeddings, embeddings, rewards=rewards, k=k, groups=topics)
        found.setdefault("rkon", []).append(random.to_dict())
        for name in STRATEGIES:
            kept = select(name, k, **_needed(name, rewards, embeddings))
            of_kept = response_metrics(
                np.take_along_axis(embeddings, kept[..., None], 1),
                embeddings,
                rewards=np.take_along_axis(rewards, kept, 1),
                groups=topics,
            )
            change = of_kept.per_prompt["coverage"] - random.per_prompt["coverage"]
            found.setdefault(name, []).append(
                of_kept.to_dict() | {"coverage_over_rkon": mean_over_prompts(change, topics)}
            )
    return found


def _saturation(
    config: Config, rewards: NDArray[Any], embeddings: NDArray[Any], topics: NDArray[Any]
) -> dict[str, Any]:
    """Share of DBKoN's picks that add nothing, by alpha and K; prompts whose kept set depends on the order of rows."""
    most = config.saturation_responses[-1]
    similarity = np.stack([similarity_matrix(e) for e in embeddings.astype(np.float64)])
    rows = []
    for alpha in config.alphas:
        kept = select("dbkon", most, rewards=rewards, embeddings=embeddings, alpha=alpha)
        nothing = adds_nothing(kept, quality(rewards, alpha), similarity)
        shares = [_interval(nothing[:, :k].mean(1), topics) for k in config.saturation_responses]
        rows.append({"alpha": alpha, "share": shares})
    shuffled = np.random.default_rng(0).permuted(
        np.tile(np.arange(rewards.shape[1]), (len(rewards), 1)), axis=1
    )
    moved = select(
        "dbkon",
        4,
        rewards=np.take_along_axis(rewards, shuffled, 1),
        embeddings=np.take_along_axis(embeddings, shuffled[..., None], 1),
    )
    one = np.sort(select("dbkon", 4, rewards=rewards, embeddings=embeddings), axis=1)
    other = np.sort(np.take_along_axis(shuffled, moved, 1), axis=1)
    return {
        "k": list(config.saturation_responses),
        "alphas": rows,
        "sizes": [
            {
                "n": n,
                "alpha": alpha,
                "share": _interval(_share_of_parts(n, alpha, rewards, embeddings), topics),
            }
            for n in config.pool_sizes
            for alpha in config.alphas
        ],
        "order_matters": int((one != other).any(axis=1).sum()),
    }


def _share_of_parts(
    n: int, alpha: float, rewards: NDArray[Any], embeddings: NDArray[Any]
) -> NDArray[np.float64]:
    """Share of picks that add nothing at K = 4 per prompt, where its responses are cut into pools of n."""
    prompts, every = rewards.shape
    if every % n:
        raise InputError(f"pools of {every} responses cannot be cut into pools of {n}")
    picks = select_picks(
        "dbkon",
        4,
        rewards=rewards.reshape(-1, n),
        embeddings=embeddings.reshape(-1, n, embeddings.shape[-1]),
        alpha=alpha,
    )
    return picks.saturated.reshape(prompts, -1).mean(axis=1)


def sum_over_kept(rewards: NDArray[Any], embeddings: NDArray[Any], alpha: float, k: int) -> NDArray[Any]:
    """The k that maximise sum_i w_i sum_{j in S} q_j s_ij, in order: the largest q_j sum_i w_i s_ij."""
    qualities = quality(rewards, alpha)
    similarity = np.stack([similarity_matrix(e) for e in embeddings.astype(np.float64)])
    values = qualities * np.einsum("pi,pij->pj", row_weights(qualities), similarity)
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def _objectives(
    config: Config,
    losses: NDArray[np.float64],
    rewards: NDArray[Any],
    embeddings: NDArray[Any],
    topics: NDArray[Any],
) -> list[dict[str, Any]]:
    """Tie rules and objectives at K = 4: shift and squared error of the mean loss, and reward, all less RKoN's."""
    random = (1 - 4 / losses.shape[1]) * losses.var(axis=1, ddof=1) / 4
    rows, paper = [], {}
    for alpha in config.alphas:
        for name in WAYS:
            if name == "sum":
                kept = sum_over_kept(rewards, embeddings, alpha, 4)
            else:
                options: dict[str, Any] = {"quality_side": name} if name == "covered" else {"ties": name}
                given: dict[str, Any] = {
                    "rewards": rewards,
                    "embeddings": embeddings,
                    "key": jax.random.key(0),
                }
                kept = select("dbkon", 4, **given, alpha=alpha, **options)
            shift = np.take_along_axis(losses, kept, 1).mean(1) - losses.mean(1)
            error = np.square(shift)
            reward = np.take_along_axis(rewards, kept, 1).mean(1) - rewards.mean(1)
            if name == "index":
                paper[alpha] = {"error": error, "reward": reward}
            values = {
                "shift": shift,
                "squared_error": error,
                "excess_error": error - random,
                "over_index": error - paper[alpha]["error"],
                "reward": reward,
                "reward_over_index": reward - paper[alpha]["reward"],
            }
            rows.append({"way": name, "alpha": alpha, **{n: _interval(v, topics) for n, v in values.items()}})
    return rows


def adds_nothing(
    kept: NDArray[Any], quality: NDArray[np.float64], similarity: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each pick adds at most 1e-9 of F to the objective.

    Args:
        kept: (prompts, k) picks in their order.
        quality: (prompts, candidates).
        similarity: (prompts, candidates, candidates).

    Returns:
        (prompts, k).
    """
    covers = np.take_along_axis(quality[..., None] * similarity, kept[..., None], axis=1)
    weights = row_weights(quality)
    value = np.einsum("pkn,pn->pk", np.maximum.accumulate(covers, axis=1), weights)
    return np.diff(value, axis=1, prepend=0.0) <= 1e-9 * value


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claims 6, 7 and 9 on real responses."""

    def row(name: str) -> dict[str, Any]:
        return next(r for r in result["strategies"][name] if r["k"] == 4)

    n, saturation = result["candidates"], result["saturation"]
    at = saturation["k"].index(4)
    place = [r["k"] for r in result["strategies"]["rkon"]].index(4)
    saturated = [
        Prediction(
            f"real_pool.saturated.k4.alpha-{row['alpha']:g}",
            9,
            f"share of DBKoN's picks that add nothing to the objective, alpha = {row['alpha']:g}, K = 4 of {n}",
            read(row["share"][at]),
            below(0.05),
            Role.LIMIT,
            note="the paper's runs have alpha = 0.75, its default is 1; such picks follow the order of the file: "
            f"with alpha = 1, {saturation['order_matters']} of {result['prompts']} prompts keep another set when their "
            "rows are shuffled",
        )
        for row in saturation["alphas"]
        if row["alpha"] in (0.0, 0.75, 1.0)
    ]
    return [
        *saturated,
        *_objective_predictions(result),
        *(
            Prediction(
                f"real_pool.coverage.{name}-over-rkon",
                9,
                f"coverage of a real pool by what is kept (mean largest cosine), {words} − RKoN, K = 4 of {n}",
                read(result["metrics"][name][place]["coverage_over_rkon"]),
                above(0.0),
                Role.LIMIT if name == "dkon" else Role.CONTEXT,
            )
            for name, words in (("dkon", "DKoN"), ("dbkon", "DBKoN"))
        ),
        Prediction(
            "real_pool.bkon-shift",
            7,
            f"mean loss of real responses, kept by BKoN − the pool's, K = 4 of {n}",
            read(row("bkon")["shift"]),
            below(0.0),
            Role.LIMIT,
            unit="nats",
            note="the reward is relevance to the prompt; the interval is over topics",
        ),
        Prediction(
            "real_pool.dbkon-over-rkon",
            9,
            f"squared error of a real pool's mean loss, DBKoN − RKoN, K = 4 of {n}",
            read(row("dbkon")["excess_error"]),
            below(0.0),
            Role.LIMIT,
            unit="nats^2",
            note="above 0, the bias is not worth the variance",
        ),
        Prediction(
            "real_pool.dkon-similarity",
            9,
            f"similarity of the real responses kept, DKoN − RKoN, K = 4 of {n}",
            read(row("dkon")["similarity_change"]),
            below(0.0),
            Role.LIMIT,
        ),
        Prediction(
            "real_pool.bkon-over-rkon",
            6,
            f"squared error of a real pool's mean loss, BKoN − RKoN, K = 4 of {n}",
            read(row("bkon")["excess_error"]),
            above(0.0),
            Role.LIMIT,
            unit="nats^2",
        ),
    ]


def _objective_predictions(result: dict[str, Any]) -> list[Prediction]:
    """Tie rules, and objectives that do not saturate, against the paper's DBKoN and against RKoN."""
    n, found = result["candidates"], []
    for row in result["objectives"]:
        way, alpha = row["way"], row["alpha"]
        if alpha not in (0.75, 1.0) or way == "index":
            continue
        words = {"covered": "quality on the covered side", "sum": "the sum over all kept"}.get(
            way, f"ties by {way}"
        )
        at, label = f"alpha = {alpha:g}, K = 4 of {n}", f"alpha-{alpha:g}".replace(".", "_")
        role = Role.LIMIT if way == "covered" else Role.CONTEXT
        if way in ("covered", "sum"):
            found.append(
                Prediction(
                    f"real_pool.{way}-over-rkon.{label}",
                    9,
                    f"squared error of a real pool's mean loss, {words} − RKoN, {at}",
                    read(row["excess_error"]),
                    below(0.0),
                    role,
                    unit="nats^2",
                    note=f"reward kept above the pool's: {row['reward']['estimate']:.3f}",
                )
            )
        if way in ("covered", "sum") or alpha == 1:
            found.append(
                Prediction(
                    f"real_pool.{way}-over-dbkon.{label}",
                    9,
                    f"squared error of a real pool's mean loss, {words} − DBKoN, {at}",
                    read(row["over_index"]),
                    below(0.0),
                    Role.CONTEXT,
                    unit="nats^2",
                    note=f"reward kept, less DBKoN's: {row['reward_over_index']['estimate']:.3f}",
                )
            )
    return found


def _pool() -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    import pyarrow.parquet

    table: Any = pyarrow.parquet.read_table(POOL)
    table = table.sort_by([("prompt_id", "ascending"), ("response_id", "ascending")])
    prompts = len(table["prompt_id"].unique())
    topics = table["group"].to_numpy().reshape(prompts, -1)[:, 0]
    losses, rewards = (
        table[c].to_numpy().astype(np.float64).reshape(prompts, -1) for c in ("loss", "reward")
    )
    embeddings = table["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
    return topics, losses, rewards, embeddings.reshape(*losses.shape, -1)


def _needed(name: str, rewards: NDArray[Any], embeddings: NDArray[Any]) -> dict[str, Any]:
    if name == "bkon":
        return {"rewards": rewards}
    return {"embeddings": embeddings} if name == "dkon" else {"rewards": rewards, "embeddings": embeddings}


def _summary(
    k: int,
    prompts: dict[str, NDArray[np.float64]],
    random: dict[str, NDArray[np.float64]],
    topics: NDArray[Any],
) -> dict[str, Any]:
    """Means over topics; changes against a random choice are paired, prompt by prompt."""
    changes = {
        "excess_error": prompts["squared_error"] - random["squared_error"],
        "similarity_change": prompts["similarity"] - random["similarity"],
    }
    score = {"k_eff": k / (1 + (k - 1) * prompts["similarity"])}
    return {"k": k, **{n: _interval(values, topics) for n, values in (prompts | changes | score).items()}}


def _interval(values: NDArray[np.float64], topics: NDArray[Any]) -> Estimate:
    """Mean over topics of topic means, with its t interval."""
    return intervals.mean([values[topics == topic].mean() for topic in np.unique(topics)])
