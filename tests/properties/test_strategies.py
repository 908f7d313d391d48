"""What must hold of every registered strategy, and of the law by which BKoN keeps."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrtsim.selection.exact_laws import inclusion_probability, tied_inclusion_probability
from mrtsim.selection.facility_location import facility_location, quality, similarity_matrix
from mrtsim.selection.registry import strategies
from mrtsim.selection.select import select
from mrtsim.testing import pools
from tests.selection.objective import best_subset

STRATEGIES = strategies()  # as registered when tests are collected
every = pytest.mark.parametrize("name", STRATEGIES)
N, K = 6, 3
PROMPTS = 2
some = settings(max_examples=20)
keys = st.integers(0, 2**31 - 1)
drawn_pools = st.booleans().flatmap(lambda ties: pools(N, PROMPTS, ties=ties))


def keep(name, pool, seed=0, k=K, **options):
    """What a strategy keeps of the arrays it asks for."""
    needs = set(STRATEGIES[name].needs)
    vectors = bool(needs & {"embeddings", "similarity", "distance"})
    return select(
        name,
        k,
        rewards=pool["rewards"] if "rewards" in needs else None,
        embeddings=pool["embeddings"] if vectors else None,
        shape=pool["rewards"].shape,
        key=jax.random.key(seed),
        **options,
    )


@every
@given(drawn_pools, keys, st.sampled_from([0.25, 8.0]), st.integers(-8, 8))
@some
def test_rewards_have_no_unit_and_no_zero(name, pool, seed, unit, shift):
    """A temperature is in the reward's unit. (Powers of two and small whole numbers: no rounding on the way.)"""
    kept = keep(name, pool, seed)
    scaled = {**pool, "rewards": unit * pool["rewards"]}
    options = {"temperature": unit} if name == "gumbel" else {}
    np.testing.assert_array_equal(keep(name, scaled, seed, **options), kept)
    if name != "gumbel":  # the noise is added to the reward: other rounding
        np.testing.assert_array_equal(keep(name, {**pool, "rewards": pool["rewards"] + shift}, seed), kept)


@every
@given(drawn_pools, keys, st.sampled_from([0.25, 8.0]))
@some
def test_embeddings_have_no_unit_and_no_axes(name, pool, seed, unit):
    kept = keep(name, pool, seed)
    for changed in (
        unit * pool["embeddings"],
        pool["embeddings"][..., ::-1].copy(),
        pool["embeddings"] * [1.0, -1.0],
    ):
        np.testing.assert_array_equal(keep(name, {**pool, "embeddings": changed}, seed), kept)


@every
@given(drawn_pools)
@some
def test_the_order_of_prompts_does_not_matter(name, pool):
    if STRATEGIES[name].random:  # a prompt's noise belongs to its place: the first place's is the same
        swapped = {field: array[[0, 0]] for field, array in pool.items()}
        np.testing.assert_array_equal(keep(name, swapped)[0], keep(name, pool)[0])
        return
    swapped = {field: array[::-1].copy() for field, array in pool.items()}
    np.testing.assert_array_equal(keep(name, swapped), keep(name, pool)[::-1])


RANDOM_CHOICES = {
    "rkon": {},
    "gumbel": {"temperature": math.inf},
}  # a strategy, and the options that make it random


@pytest.mark.parametrize("name", STRATEGIES)
@given(drawn_pools, keys)
@settings(max_examples=4)
def test_random_choice_alone_keeps_each_candidate_with_probability_k_of_n(name, pool, seed):
    """A strategy is unbiased for every loss, the reward included, exactly if each candidate has the chance K/N."""
    draws = 2_000
    one = {field: np.broadcast_to(array[:1], (draws, *array.shape[1:])) for field, array in pool.items()}
    kept = keep(name, one, seed, **RANDOM_CHOICES.get(name, {}))
    frequency = np.bincount(kept.ravel(), minlength=N) / draws
    four_errors = 4 * math.sqrt(K / N * (1 - K / N) / draws)
    assert (np.abs(frequency - K / N).max() < four_errors) == (name in RANDOM_CHOICES)


@every
@given(drawn_pools, keys)
@some
def test_nothing_beats_the_best_rewards_or_the_best_subset(name, pool, seed):
    kept = keep(name, pool, seed)
    rewards = np.take_along_axis(pool["rewards"], kept, axis=1).sum(axis=1)
    best = np.take_along_axis(pool["rewards"], keep("bkon", pool), axis=1).sum(axis=1)
    assert np.all(rewards <= best)
    for prompt, indices in enumerate(kept):
        s, q = similarity_matrix(pool["embeddings"][prompt]), quality(pool["rewards"][prompt])
        assert facility_location(s, indices, q) <= best_subset(s, K, q)[1] * (1 + 1e-12)


NESTED = [name for name in STRATEGIES if name != "filtered-max-min"]  # changes its mind where too few pass


@pytest.mark.parametrize("name", NESTED)
@given(drawn_pools, keys)
@some
def test_a_larger_k_only_adds(name, pool, seed):
    whole = keep(name, pool, seed, k=N)
    for k in (1, K):
        np.testing.assert_array_equal(keep(name, pool, seed, k=k), whole[:, :k])


# -- the objective and the law of inclusion --------------------------------------------------------------------------


@given(drawn_pools, st.permutations(range(N)), st.integers(1, N), st.sampled_from([0.5, 1.0, 2.0]))
@some
def test_the_objective_depends_on_the_set_alone(pool, order, k, alpha):
    s, q = similarity_matrix(pool["embeddings"][0]), quality(pool["rewards"][0], alpha)
    order = np.array(order)
    chosen = order[:k]
    value = facility_location(s, chosen, q)
    assert facility_location(s, chosen[::-1].copy(), q) == value
    assert facility_location(s, np.append(chosen, chosen[0]), q) == value
    inverse = np.argsort(order)
    assert facility_location(s[order][:, order], inverse[chosen], q[order]) == pytest.approx(value, rel=1e-12)
    # Masked candidates neither cover nor need cover.
    mask = np.zeros(N, bool)
    mask[chosen] = True
    alone = facility_location(s[chosen][:, chosen], np.arange(k), q[chosen])
    assert facility_location(s, chosen, q, mask=mask) == pytest.approx(alone, rel=1e-12)
    assert facility_location(s, np.arange(N), q) == pytest.approx(
        np.maximum(q, 1e-4) @ (s * q).max(axis=1), rel=1e-12
    )


@pytest.mark.parametrize("name", ["dkon", "dbkon"])
@given(drawn_pools)
@some
def test_one_greedy_step_is_the_best_singleton(name, pool):
    for prompt, first in enumerate(keep(name, pool, k=1)):
        s = similarity_matrix(pool["embeddings"][prompt])
        q = quality(pool["rewards"][prompt], 1.0 if name == "dbkon" else 0.0)
        assert facility_location(s, first, q) >= best_subset(s, 1, q)[1] * (1 - 1.01e-5)


@given(st.integers(1, 200), st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_inclusion_probabilities_sum_to_k_and_follow_the_reward(n, data, masses):
    """Over any partition of the reward's distribution into ties, best first."""
    k = data.draw(st.integers(1, n))
    ends = np.concatenate([[0.0], np.cumsum(masses) / sum(masses)])
    ends[-1] = 1.0
    kept = tied_inclusion_probability(ends[:-1], ends[1:], n, k)
    assert n * (kept @ np.diff(ends)) == pytest.approx(k, rel=1e-9)
    assert np.all(kept >= 0)
    assert np.all(kept <= 1 + 1e-12)
    assert np.all(np.diff(kept) <= 1e-12)
    if k < n:
        assert np.all(tied_inclusion_probability(ends[:-1], ends[1:], n, k + 1) >= kept - 1e-12)
    # Splitting a tie in two leaves its mean.
    middle = (ends[0] + ends[1]) / 2
    halves = tied_inclusion_probability([ends[0], middle], [middle, ends[1]], n, k)
    assert halves.mean() == pytest.approx(kept[0], rel=1e-7, abs=1e-12)


@given(st.integers(1, 12), st.data(), st.floats(0, 1))
def test_inclusion_is_a_binomial_tail(n, data, v):
    k = data.draw(st.integers(1, n))
    tail = sum(math.comb(n - 1, j) * v**j * (1 - v) ** (n - 1 - j) for j in range(k))
    assert float(inclusion_probability(v, n, k)) == pytest.approx(tail, rel=1e-9, abs=1e-12)
