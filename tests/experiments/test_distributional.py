"""E4: configs that cannot run."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import distributional
from mrtsim.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": (1, 20)}, "padded=False"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(distributional.Config(), **changes)
