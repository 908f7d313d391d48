"""Every strategy against enumeration, a textbook implementation or its exact law."""

import itertools
import math

import jax
import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.selection.exact_laws import rkon_pool_variance
from mrtsim.selection.facility_location import (
    similarity_matrix,
)
from mrtsim.selection.registry import Pool, strategy
from tests.selection.random_pools import KEY, pools, tied_pools


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(1, 9) for k in range(1, n + 1)])
def test_the_finite_population_variance_is_that_of_all_subsets(n, k):
    losses = np.random.default_rng(n).gamma(2.0, size=n)
    means = [np.mean(subset) for subset in itertools.combinations(losses, k)]
    assert float(rkon_pool_variance(losses, k)) == pytest.approx(np.var(means), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 3), (8, 1), (7, 6)])
def test_the_mean_over_a_pool_is_unbiased_with_the_finite_population_variance(n, k):
    """Cochran 1977, theorems 2.1 and 2.2, for the subsets that `select` draws."""
    draws = 20_000
    losses = np.random.default_rng(n).gamma(2.0, size=n)
    means = losses[mrt.select("rkon", k, shape=(draws, n), key=KEY)].mean(axis=1)
    variance = float(rkon_pool_variance(losses, k))
    assert abs(means.mean() - losses.mean()) < 4 * math.sqrt(variance / draws)
    squares = np.square(means - losses.mean())
    assert abs(squares.mean() - variance) < 4 * squares.std() / math.sqrt(draws)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 3), (4, 1), (5, 4)])
def test_rkon_keeps_every_subset_equally_often(n, k):
    draws = 30_000
    kept = np.sort(mrt.select("rkon", k, shape=(draws, n), key=KEY), axis=1)
    subsets, counts = np.unique(kept, axis=0, return_counts=True)
    p = 1 / math.comb(n, k)
    assert len(subsets) == math.comb(n, k)
    assert np.abs(counts / draws - p).max() < 4 * math.sqrt(p * (1 - p) / draws)


def test_rkon_includes_every_candidate_and_position_equally_often():
    draws, n, k = 30_000, 32, 8
    kept = mrt.select("rkon", k, shape=(draws, n), key=KEY)
    for position in (*range(k), slice(None)):
        p = (k if isinstance(position, slice) else 1) / n
        frequency = np.bincount(kept[:, position].ravel(), minlength=n) / draws
        assert np.abs(frequency - p).max() < 4 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("name", [name for name, known in mrt.strategies().items() if known.nested])
def test_the_kept_of_k_are_the_first_of_the_kept_of_any_more(name):
    data = pools(200, 12)
    everything = mrt.select(name, 12, **data, key=KEY)
    for k in (1, 2, 5, 11):
        np.testing.assert_array_equal(mrt.select(name, k, **data, key=KEY), everything[:, :k])


def test_the_first_of_an_iid_pool_are_rkon_in_distribution():
    draws, n, k, p = 40_000, 6, 3, 0.3
    rewards = (np.random.default_rng(3).random((draws, n)) < p).astype(float)
    exact = np.array([math.comb(k, s) * p**s * (1 - p) ** (k - s) for s in range(k + 1)])
    kept = mrt.select("rkon", k, rewards=rewards, key=KEY)
    for sums in (rewards[:, :k].sum(1), np.take_along_axis(rewards, kept, 1).sum(1)):
        frequency = np.bincount(sums.astype(int), minlength=k + 1) / draws
        assert (np.abs(frequency - exact) < 4 * np.sqrt(exact * (1 - exact) / draws)).all()


def test_bkon_is_the_sort_by_reward_then_index():
    rewards, _ = tied_pools(500, 9, np.random.default_rng(0))
    for k in (1, 2, 4, 9):  # few are found one by one, many by sorting
        expected = np.argsort(-rewards, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(mrt.select("bkon", k, rewards=rewards), expected)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bkon_inside_a_program_ranks_infinite_rewards(dtype, k):
    rewards = np.random.default_rng(0).choice([-np.inf, 0.0, 1.0, np.inf], size=(300, 12)).astype(dtype)
    mask = np.random.default_rng(1).random(rewards.shape) < 0.7
    mask[:, :3] = True
    with jax.enable_x64(dtype == np.float64):
        kept = jax.vmap(lambda r, m: strategy("bkon")(None, Pool(rewards=r, mask=m), k))(rewards, mask)
    # Of what does not exist nothing is kept before the last finite reward; -inf ties with it.
    expected = np.argsort(-np.where(mask, rewards, -np.inf), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(kept, expected)


def test_rewards_are_ranked_in_float64():
    rewards = np.array([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]])
    assert mrt.select("bkon", 3, rewards=rewards).tolist() == [[1, 0, 2]]
    assert mrt.select("filtered-max-min", 1, rewards=rewards, embeddings=np.ones((1, 3, 1))).tolist() == [[1]]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_gumbel_samples_without_replacement_by_reward(temperature):
    draws, rewards = 40_000, np.array([0.0, 1.0, -0.5, 0.4])
    weights = np.exp(rewards / temperature)
    kept = mrt.select("gumbel", 2, rewards=np.tile(rewards, (draws, 1)), key=KEY, temperature=temperature)
    for first, second in itertools.permutations(range(4), 2):
        p = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        measured = np.mean((kept == (first, second)).all(axis=1))
        assert abs(measured - p) < 4 * math.sqrt(p * (1 - p) / draws)


def test_gumbel_runs_from_bkon_to_rkon():
    rewards, _ = tied_pools(300, 9, np.random.default_rng(0))
    best = mrt.select("bkon", 5, rewards=rewards)
    np.testing.assert_array_equal(mrt.select("gumbel", 5, rewards=rewards, key=KEY, temperature=0), best)
    kept = mrt.select("gumbel", 5, rewards=rewards, key=KEY, temperature=np.inf)
    np.testing.assert_array_equal(kept, mrt.select("rkon", 5, rewards=rewards, key=KEY))


def textbook_filtered_max_min(rewards, embeddings, k):
    best_first = sorted(range(len(rewards)), key=lambda j: (-rewards[j], j))
    passing = [j for j in range(len(rewards)) if rewards[j] >= np.median(rewards)]
    if len(passing) < k:
        return best_first[:k]
    kept = [best_first[0]]
    while len(kept) < k:
        nearest = {
            j: min(float(np.sum((embeddings[j] - embeddings[i]) ** 2)) for i in kept)
            for j in passing
            if j not in kept
        }
        kept.append(min(nearest, key=lambda j: (-nearest[j], j)))
    return kept


@pytest.mark.parametrize(("candidates", "features", "k"), [(9, 1, 4), (8, 3, 4), (8, 1, 7), (5, 2, 1)])
def test_filtered_max_min_is_the_textbook(candidates, features, k):
    rng = np.random.default_rng(candidates)
    rewards = rng.integers(0, 5, size=(300, candidates)).astype(float)
    embeddings = rng.integers(-3, 4, size=(300, candidates, features)).astype(float)
    kept = mrt.select("filtered-max-min", k, rewards=rewards, embeddings=embeddings)
    expected = [textbook_filtered_max_min(r, e, k) for r, e in zip(rewards, embeddings, strict=True)]
    np.testing.assert_array_equal(kept, expected)


def test_filtered_max_min_equals_bkon_at_one_and_from_half_the_pool():
    data = pools(128, 8)
    for k in (1, 4, 5, 8):
        kept, best = mrt.select("filtered-max-min", k, **data), mrt.select("bkon", k, rewards=data["rewards"])
        np.testing.assert_array_equal(np.sort(kept, 1), np.sort(best, 1))


@pytest.mark.parametrize(("dtype", "unit"), [(np.float32, 1e38), (np.float64, 1e308)])
def test_filtered_max_min_has_a_median_of_the_largest_rewards(dtype, unit):
    """Two of them add up to infinity."""
    rewards = (np.array([[1.7, 1.6, 1.5, 1.4, 1.3, 1.2]]) * unit * (2 if dtype == np.float32 else 1)).astype(
        dtype
    )
    positions = np.array([[[0.0], [0.1], [5.0], [9.0], [10.0], [11.0]]])
    assert mrt.select("filtered-max-min", 2, rewards=rewards, embeddings=positions).tolist() == [[0, 2]]


def test_filtered_max_min_measures_unit_embeddings_as_their_similarity_matrix():
    data = pools(100, 10)
    unit = data["embeddings"] / np.linalg.norm(data["embeddings"], axis=-1, keepdims=True)
    by_matrix = mrt.select("filtered-max-min", 4, rewards=data["rewards"], similarity=similarity_matrix(unit))
    by_vectors = mrt.select("filtered-max-min", 4, rewards=data["rewards"], embeddings=unit)
    np.testing.assert_array_equal(by_matrix, by_vectors)
