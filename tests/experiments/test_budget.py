"""E2: what the budget buys, how the best K grows with the cost ratio, and configs that cannot run."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from experiments import budget
from mrtsim.errors import InputError


def test_the_budget_buys_the_papers_prompts():
    config = budget.Config()
    assert [config.prompts(k) for k in config.responses] == [80, 66, 50, 40, 33, 25, 20]
    # 0.3 / 0.1 is a hair below 3
    assert budget.Config(budget=0.3, c_prompt=0.0, c_response=0.1, responses=(1,)).prompts(1) == 3


def test_every_cost_ratio_has_the_cost_of_as_many_prompts():
    config = budget.Config()
    assert [config.prompts_at(4.0, k) for k in config.responses] == [80, 66, 50, 40, 33, 25, 20]  # E2's own
    assert [config.prompts_at(1.0, k) for k in (1, 3, 7)] == [80, 40, 20]
    assert [config.prompts_at(100.0, k) for k in (1, 2, 32)] == [80, 79, 61]


def test_the_slope_of_the_best_k_in_the_cost_ratio():
    """Learning curves whose best K is the square root of the ratio."""
    ks, config = (1, 2, 4, 8, 16), budget.Config(ratios=(1.0, 16.0, 256.0), ratio_responses=(1, 2, 4, 8, 16))

    class Sweep:
        def grid(self, fn, key, n, settings, *, block):
            def nll(label):
                ratio, k = (float(part.partition("=")[2]) for part in label.split("/"))
                return 2 + np.log(k / np.sqrt(ratio)) ** 2 + 1e-3 * np.arange(n)

            return {label: {r: {"nll": nll(label)} for r in budget.RECIPES} for label in settings}

    found = budget._ratios(config, 2.0, jax.random.key(0), Sweep())
    assert found["k_star"] == pytest.approx([1.0, 4.0, 16.0])  # K* = 2 at the ratio of 4
    for recipe in budget.RECIPES:
        assert [cell["estimate"] for cell in found[recipe]["best"]] == [1, 4, 16]
        assert found[recipe]["slope"]["estimate"] == pytest.approx(0.5)
    assert {p.outcome for recipe in budget.RECIPES for p in budget._of_ratios(found, recipe, "")} == {"holds"}
    assert np.shape(found["n_prompts"]) == (3, len(ks))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (2, 1)}, "increasing"),
        ({"responses": (1, 33), "padded": False}, "exceeds a pool of 32"),
        ({"responses": (1, 24)}, "padded=False"),
        ({"budget": 10.0}, "pays no prompt with K = 16"),
        ({"ratios": (4.0,)}, "two cost ratios"),
        ({"ratio_prompts": 10, "ratios": (1.0, 2.0)}, "pay no prompt"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(budget.Config(), **changes)
