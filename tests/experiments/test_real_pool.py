from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import real_pool
from experiments.harness.statements import Outcome
from experiments.harness.store import to_json


@pytest.fixture(scope="module")
def result():
    return to_json(real_pool.run(real_pool.Config(responses_per_prompt=(2, 4)), None, None))


def test_rkon_has_the_error_of_every_subset(result):
    pools = {}
    for row in pq.read_table(real_pool.POOL, columns=["group", "prompt_id", "loss"]).to_pylist():
        pools.setdefault((row["group"], row["prompt_id"]), []).append(row["loss"])
    errors = {}
    for (topic, _), pool in pools.items():
        losses = np.array(pool)
        means = [np.mean(losses[list(s)]) for s in combinations(range(12), 2)]
        errors.setdefault(topic, []).append(np.mean(np.square(np.array(means) - losses.mean())))
    expected = np.mean([np.mean(e) for e in errors.values()])
    assert result["strategies"]["rkon"][0]["squared_error"]["estimate"] == pytest.approx(expected, rel=1e-12)


def test_reward_selection_is_biased_on_real_responses(result):
    outcomes = {p.id: p.outcome for p in real_pool.predictions(result)}
    assert outcomes["real_pool.bkon-shift"] is Outcome.HOLDS
    kept = {name: rows[1] for name, rows in result["strategies"].items()}
    assert kept["bkon"]["reward"]["estimate"] == max(r["reward"]["estimate"] for r in kept.values())
    assert kept["dkon"]["similarity"]["estimate"] == min(r["similarity"]["estimate"] for r in kept.values())
