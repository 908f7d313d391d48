"""Prompts in groups of near-duplicates."""

import numpy as np
import pytest
from scipy import stats

from mrtsim.distributions.clustered import ClusteredPrompts
from tests.distributions.shared import prompts_of


@pytest.mark.parametrize("similarity", [0.0, 0.3, 1.0])
def test_clustered_prompts_keep_the_marginal_and_have_the_correlation(similarity):
    dist = ClusteredPrompts(group_size=4, similarity=similarity)
    x = prompts_of(dist, 40_000).reshape(10_000, 4, 5)
    first, second = x[:, 0].ravel(), x[:, 1].ravel()
    assert stats.kstest(first, "norm").pvalue > 1e-3
    if similarity == 1.0:
        np.testing.assert_array_equal(first, second)
    else:
        correlation = np.mean(first * second)
        assert abs(correlation - similarity) < 4 * np.std(first * second) / np.sqrt(first.size)
    # no correlation between groups
    across = x[:-1, 0].ravel() * x[1:, 0].ravel()
    assert abs(across.mean()) < 4 * across.std() / np.sqrt(across.size)


def test_neighbours_share_a_group_and_the_last_may_be_smaller():
    dist = ClusteredPrompts(group_size=3, similarity=1.0)
    x = prompts_of(dist, 7)
    assert x.shape == (7, 5)
    np.testing.assert_array_equal(x[3], x[5])
    assert not np.array_equal(x[5], x[6])
