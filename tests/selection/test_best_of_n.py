"""Divergence and win rate of the best K of N."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.selection.best_of_n import best_of_n, binary_best_of_n


def test_known():
    eight = best_of_n(8, 2)
    assert eight.kl == pytest.approx(0.831867, abs=5e-7)
    assert eight.win_rate == pytest.approx(0.833333, abs=5e-7)
    assert binary_best_of_n(0.3, 8) == pytest.approx(0.93468, abs=5e-6)
    assert best_of_n(8).kl == pytest.approx(math.log(8) - 7 / 8)
    assert best_of_n(8).win_rate == pytest.approx(8 / 9)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (9, 8), (30, 7), (400, 3)])
def test_on_a_grid(n, k):
    """The density is a sum of binomial probabilities; a midpoint rule integrates it without the code's functions."""
    w = (np.arange(200_000) + 0.5) / 200_000
    density = n / k * sum(math.comb(n - 1, j) * w**j * (1 - w) ** (n - 1 - j) for j in range(k))
    found = best_of_n(n, k)
    assert density.mean() == pytest.approx(1, rel=1e-6)
    assert found.kl == pytest.approx((density * np.log(np.maximum(density, 1e-300))).mean(), rel=1e-5)
    assert found.win_rate == pytest.approx((density * (1 - w)).mean(), rel=1e-6)


@given(st.integers(1, 3000), st.data())
def test_bounds_and_limits(n, data):
    k = data.draw(st.integers(1, n))
    found = best_of_n(n, k)
    assert -1e-12 <= found.kl <= found.kl_bound
    assert 0.5 <= found.win_rate < 1
    if k < n:
        assert best_of_n(n, k + 1).kl <= found.kl + 1e-9
        assert best_of_n(n, k + 1).win_rate < found.win_rate


@given(st.floats(1e-6, 1 - 1e-6), st.integers(1, 10_000))
def test_binary_rewards(p, n):
    kl = binary_best_of_n(p, n)
    assert (
        -1e-12 <= kl <= min(math.log(n), -math.log(p)) + 1e-9
    )  # fewer distinctions than a reward without ties
    kept = 1 - (1 - p) ** n
    direct = kept * math.log(kept / p) if kept else 0.0
    if (1 - p) ** n > 1e-300:
        direct += (1 - kept) * math.log((1 - p) ** n / (1 - p)) if kept < 1 else 0.0
    assert kl == pytest.approx(direct, rel=1e-6, abs=1e-9)


def test_refusals():
    for call, message in (
        (lambda: best_of_n(0), "n_candidates must be a whole number"),
        (lambda: best_of_n(4, 5), "k = 5 is more than n_candidates = 4"),
        (lambda: best_of_n(4, 0), "k must be a whole number"),
        (lambda: binary_best_of_n(1.2, 4), "success_rate must lie between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert binary_best_of_n(0.0, 4) == binary_best_of_n(1.0, 4) == 0.0
