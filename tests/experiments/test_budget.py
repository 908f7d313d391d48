"""E2: what the budget buys, and configs that cannot run."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import budget
from mrtsim.errors import InputError


def test_the_budget_buys_the_papers_prompts():
    config = budget.Config()
    assert [config.prompts(k) for k in config.responses] == [80, 66, 50, 40, 33, 25, 20]
    # 0.3 / 0.1 is a hair below 3
    assert budget.Config(budget=0.3, c_prompt=0.0, c_response=0.1, responses=(1,)).prompts(1) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (2, 1)}, "increasing"),
        ({"responses": (1, 33), "padded": False}, "exceeds a pool of 32"),
        ({"responses": (1, 24)}, "padded=False"),
        ({"budget": 10.0}, "pays no prompt with K = 16"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(budget.Config(), **changes)
