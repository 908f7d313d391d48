"""E4: configs that cannot run, and what speaks for which claim."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import distributional
from mrtsim.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (1, 20)}, "padded=False"),
        ({"responses": (1, 2)}, "K = 4: train it there too"),
        ({"strategies": ("bkon",)}, "train it there too"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(distributional.Config(), **changes)


def test_a_higher_nll_of_dbkon_speaks_against_grades():
    """Of BKoN it speaks for the claim that BKoN collapses modes; of DBKoN against the claim that GRADES pays."""
    cell = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    by_recipe = {"last": [cell], "best": [cell]}
    of_alphas = {"excess": [cell], "best": {"estimate": 0.1, "low": 0.1, "high": 0.2}}
    result = {
        "responses": [4],
        "true_nll": 1.0,
        "reported": {"responses_per_prompt": [1]},
        "strategies": {},
        "excess": {"bkon": by_recipe, "dbkon": by_recipe},
        "alphas": {"alphas": [0.5], "k": 4, "last": of_alphas, "best": of_alphas},
    }
    outcomes = {p.id: p.outcome for p in distributional.predictions(result)}
    for recipe in by_recipe:
        assert outcomes[f"distributional.bkon-over-rkon.{recipe}.k4"] == "holds"
        assert outcomes[f"distributional.dbkon-over-rkon.{recipe}.k4"] == "fails"
        assert outcomes[f"distributional.dbkon-alpha-over-rkon.{recipe}-a050"] == "fails"
        assert outcomes[f"distributional.best-alpha.{recipe}"] == "fails"
