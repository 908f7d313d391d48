"""The plane of prompts and responses: the fitted law, and cells with equal rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments import resources
from experiments.harness.store import to_json
from mrtsim.errors import InputError


def test_the_plane_recovers_a_law_it_was_made_with():
    n, k = (10, 40, 160), (1, 2, 4, 8, 16)
    for rho, power in ((8.0, 0.5), (1.0, 1.5)):
        excess = 3.0 * ((1 + rho / np.array(k)) / np.array(n, float)[:, None]) ** power
        found = resources.fit_law(n, k, excess)
        np.testing.assert_allclose(found, [rho, power, 1.0], rtol=0.03)
        config = resources.Config(prompts=n, responses=k)
        best = resources._best_k(config, excess, budget=400.0)
        # within the coarse grid's interpolation
        assert best == pytest.approx(np.sqrt(4 * rho), rel=0.35)


def test_cells_with_equal_rows_are_compared():
    config = resources.Config(prompts=(10, 20, 40), responses=(1, 2, 4))
    excess = np.ones((5, 3, 3)) * np.array([1.0, 2.0, 4.0])
    found = {
        (cell["prompts"], cell["responses"]): cell for cell in to_json(resources._equal_rows(config, excess))
    }
    assert set(found) == {(10, 2), (10, 4), (20, 2)}
    assert found[10, 4]["log_ratio"]["estimate"] == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": (10, 20)}, "three or more"),
        ({"responses": (1, 2, 64)}, "exceeds a pool"),
    ],
)
def test_configs_that_cannot_run_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(resources.Config(), **changes)
