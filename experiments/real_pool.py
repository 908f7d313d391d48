"""What each strategy keeps of real responses: 96 prompts x 12 responses of a small language model.

The pool in `examples/` is given, so everything that chance enters is computed exactly: RKoN's mean is the pool mean and
its variance the finite-population formula; the other strategies are deterministic. Prompts of a topic say nearly the
same, so intervals are t intervals over the 24 topic means. What is estimated here is the mean loss of the pool, the
target that a training set of the kept responses stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Role, above, below, read
from mrtsim.estimates import Estimate
from mrtsim.selection.select import select

POOL = Path(__file__).parents[1] / "examples" / "pool_smollm2.parquet"
STRATEGIES = ("bkon", "dkon", "dbkon", "filtered-max-min")


@dataclass(frozen=True)
class Config:
    """How many responses are kept."""

    responses_per_prompt: tuple[int, ...] = (1, 2, 4, 8)


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
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claims 6, 7 and 9 on real responses."""

    def row(name: str) -> dict[str, Any]:
        return next(r for r in result["strategies"][name] if r["k"] == 4)

    n = result["candidates"]
    return [
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
