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


@pytest.mark.parametrize(
    ("alpha", "shares"),
    [
        (0.0, (0, 0, 0, 0)),
        (0.25, (0, 0, 0.02, 0.05)),
        (0.75, (0.06, 0.20, 0.37, 0.51)),
        (1.0, (0.10, 0.33, 0.50, 0.62)),
        (2.0, (0.24, 0.55, 0.70, 0.77)),
    ],
)
def test_grades_saturates_on_real_responses(result, alpha, shares):
    row = next(r for r in result["saturation"]["alphas"] if r["alpha"] == alpha)
    assert [cell["estimate"] for cell in row["share"]] == pytest.approx(shares, abs=0.006)


def test_saturated_picks_follow_the_order_of_the_file(result):
    assert 50 <= result["saturation"]["order_matters"] <= 70
    outcomes = {p.id: p.outcome for p in real_pool.predictions(result)}
    assert outcomes["real_pool.saturated.k4.alpha-0"] is Outcome.HOLDS
    assert outcomes["real_pool.saturated.k4.alpha-1"] is Outcome.FAILS


def test_what_a_pick_adds_by_hand():
    similarity = np.array([[[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]]])
    quality = np.array([[1.0, 0.5, 0.5]])
    # 0 covers (1, .9, .1); 1 covers (.45, .5, .05), which adds nothing; 2 covers itself with .5.
    found = real_pool.adds_nothing(np.array([[0, 1, 2]]), quality, similarity)
    assert found.tolist() == [[False, True, False]]
