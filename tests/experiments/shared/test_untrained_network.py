"""Reports averaged over models: the interval of a difference covers as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.shared import untrained_network
from mrtsim.diagnostics.reports import estimator_error


def test_differences_over_models_have_the_error_of_repetition():
    """Two settings on the same trials of three models: the interval of their difference covers as it says."""
    rng = np.random.default_rng(0)
    gaps, errors = [], []
    for _ in range(300):
        reports = []
        for scale in (0.5, 1.0, 2.0):
            common = rng.standard_exponential((100, 2))
            reports.append(
                [
                    estimator_error(scale * (common + rng.normal(0, 0.2, (100, 2))), np.zeros(2)).variance
                    for _ in range(2)
                ]
            )
        one, other = (untrained_network._mean(column) for column in zip(*reports, strict=True))
        gap = untrained_network.difference(one, other)
        gaps.append(gap.value)
        errors.append((gap.high - gap.value) / stats.t.ppf(0.975, 49))
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / np.sqrt(300)
    # 300 repetitions tell the spread to 4 %, and each error has the noise of 50 heavy-tailed batches.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(gaps, ddof=1), rel=0.15)
    assert np.std(gaps) < 0.5 * np.hypot(one["standard_error"], other["standard_error"])
