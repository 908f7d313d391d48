"""The GRADES objective and its greedy maximiser: guarantee, ties, saturation, against enumeration and the textbook."""

import itertools
import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

import mrtsim as mrt
from mrtsim.errors import InputError
from mrtsim.selection.facility_location import (
    facility_location,
    quality,
    similarity_matrix,
)
from mrtsim.selection.select import select_picks
from tests.selection.objective import best_subset, marginal_gains
from tests.selection.random_pools import KEY, pools, tied_pools


def textbook_greedy(rewards, embeddings, k, alpha, side="both"):
    """DBKoN of one pool as the paper states it, with the structural tie rule; alpha = 0 is DKoN."""
    n = len(rewards)
    norms = [math.sqrt(sum(x * x for x in e)) for e in embeddings]
    s = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            dot = sum(a * b for a, b in zip(embeddings[i], embeddings[j], strict=True))
            s[i, j] = (1 + dot / (norms[i] * norms[j])) / 2
    low, high = min(rewards), max(rewards)
    q = [1.0] * n
    if high > low:
        q = [min(max((r - low) / (high - low), 1e-4), 1.0) ** alpha for r in rewards]
    kept, covered = [], np.zeros(n)
    weights = np.maximum(q, 1e-4)
    q = q if side == "both" else [1.0] * n
    for _ in range(k):
        gains = {
            j: float(np.sum(weights * np.maximum(q[j] * s[:, j] - covered, 0)))
            for j in range(n)
            if j not in kept
        }
        # A gain at the rounding of the objective is no gain.
        gains = {j: gain if gain > 1e-13 * n else 0.0 for j, gain in gains.items()}
        best = max(gains.values())
        choice = min(j for j, gain in gains.items() if gain >= best - 1e-5 * best)
        kept.append(choice)
        covered = np.maximum(covered, q[choice] * s[:, choice])
    return kept


@pytest.mark.parametrize(
    ("name", "alpha", "side"),
    [("dkon", 0.0, "both"), ("dbkon", 1.0, "both"), ("dbkon", 0.5, "both"), ("dbkon", 0.5, "covered")],
)
@pytest.mark.parametrize(("candidates", "k", "prompts"), [(4, 4, 1200), (7, 4, 1200), (10, 5, 1000)])
def test_greedy_is_the_textbook_on_pools_with_ties(name, alpha, side, candidates, k, prompts):
    rewards, embeddings = tied_pools(prompts, candidates, np.random.default_rng([candidates, int(4 * alpha)]))
    embeddings[::2] += 0.3 * np.random.default_rng(1).normal(size=embeddings[::2].shape).astype(np.float32)
    embeddings = embeddings.astype(np.float32).astype(float)
    options = {"alpha": alpha, "quality_side": side} if name == "dbkon" else {}
    kept = mrt.select(name, k, rewards=rewards, embeddings=embeddings, **options)
    expected = [textbook_greedy(r, e, k, alpha, side) for r, e in zip(rewards, embeddings, strict=True)]
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dkon", {}),
        ("dbkon", {}),
        ("dkon", {"ties": "random"}),
        ("dbkon", {"ties": "diverse"}),
        ("filtered-max-min", {}),
    ],
)
def test_float32_and_float64_embeddings_give_the_same_picks(name, options):
    """Digits that float32 does not hold, as of vectors that were normalised in float64, change nothing."""
    rng = np.random.default_rng(2)
    rewards, embeddings = rng.normal(size=(1500, 24)), rng.normal(size=(1500, 24, 16)) + 1.0
    embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
    long, short = (
        select_picks(name, 8, rewards=rewards, embeddings=embeddings.astype(dtype), key=KEY, **options)
        for dtype in (np.float64, np.float32)
    )
    np.testing.assert_array_equal(long.indices, short.indices)
    np.testing.assert_array_equal(long.saturated, short.saturated)


def saturated_by_definition(rewards, embeddings, kept, alpha):
    """Which picks of one pool gain at most 1e-9 of F."""
    similarity, qualities = similarity_matrix(embeddings), quality(rewards, alpha)
    value = [facility_location(similarity, kept[:place], qualities) for place in range(len(kept) + 1)]
    return [after - before <= 1e-9 * after for before, after in itertools.pairwise(value)]


@pytest.mark.parametrize("ties", ["index", "reward", "diverse", "random"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0, 2.0])
def test_picks_that_add_nothing_are_those_without_a_gain(alpha, ties):
    data = pools(60, 12, features=4, seed=3)
    data["embeddings"] += 1.0
    data["embeddings"] = data["embeddings"].astype(np.float32).astype(float)
    picks = select_picks("dbkon", 8, **data, alpha=alpha, ties=ties, key=KEY)
    expected = [
        saturated_by_definition(r, e, kept, alpha)
        for r, e, kept in zip(data["rewards"], data["embeddings"], picks.indices, strict=True)
    ]
    np.testing.assert_array_equal(picks.saturated, expected)
    assert picks.saturated.any() == (alpha > 0)
    # What adds nothing comes last: F is submodular.
    np.testing.assert_array_equal(picks.saturated, np.sort(picks.saturated, axis=1))


@pytest.mark.parametrize("alpha", [0.05, 1.0, 4.0])
def test_with_quality_on_the_covered_side_every_pick_adds_what_is_its_own(alpha):
    """At least w_j (1 - its largest similarity to what is kept): nothing for a direction that is kept already."""
    data = pools(60, 12, features=4, seed=3)
    data["embeddings"] = (data["embeddings"] + 1.0).astype(np.float32).astype(float)
    picks = select_picks("dbkon", 12, **data, alpha=alpha, quality_side="covered")
    assert not picks.saturated.any()
    for r, e, kept in zip(data["rewards"], data["embeddings"], picks.indices, strict=True):
        s, weights = similarity_matrix(e), np.maximum(quality(r, alpha), 1e-4)
        for place in range(1, 12):
            gain = marginal_gains(s, kept[:place], weights=weights)[kept[place]]
            own = weights[kept[place]] * (1 - s[kept[place], kept[:place]].max())
            assert gain >= own - 1e-12
    twice = {name: np.repeat(given, 2, axis=1) for name, given in data.items()}
    picks = select_picks("dbkon", 24, **twice, alpha=alpha, quality_side="covered")
    assert (picks.saturated == (np.arange(24) >= 12)).all()


def test_quality_on_the_covered_side_covers_what_is_good_by_what_is_central():
    # The good ones are 0 and 1, and 2, which is bad, lies between them: it covers both best.
    similarity = np.array([[[1.0, 0.2, 0.8], [0.2, 1.0, 0.8], [0.8, 0.8, 1.0]]])
    rewards = np.array([[1.0, 1.0, 0.0]])
    keep = lambda side: mrt.select("dbkon", 1, rewards=rewards, similarity=similarity, quality_side=side)  # noqa: E731
    assert keep("both").tolist() == [[0]]  # 1 + .2, against 1.6e-4 of candidate 2
    assert keep("covered").tolist() == [[2]]  # .8 + .8 + 1e-4
    with pytest.raises(InputError, match="quality_side must be one of both, covered, got 'left'"):
        keep("left")


def test_the_best_reward_soon_covers_everything():
    """Two candidates alike but for the reward: the worse one adds nothing, whatever its place (theory, section 8)."""
    embeddings = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    for rewards, first in (([[1.0, 0.5, 0.9]], [0, 2]), ([[0.5, 1.0, 0.9]], [1, 2])):
        picks = select_picks("dbkon", 3, rewards=np.array(rewards), embeddings=embeddings, alpha=0.2)
        assert picks.indices[0, :2].tolist() == first
        assert picks.saturated.tolist() == [[False, False, True]]


@pytest.mark.parametrize("similar", [False, True], ids=["embeddings", "similarity"])
@pytest.mark.parametrize("ties", ["reward", "diverse", "random"])
@pytest.mark.parametrize("name", ["dkon", "dbkon"])
@given(st.integers(0, 2**32 - 1), st.permutations(range(7)), st.sampled_from([0.5, 2.0]))
@settings(max_examples=25)
def test_but_for_index_the_kept_set_does_not_depend_on_the_order_of_the_candidates(
    name, ties, similar, seed, order, alpha
):
    """Pools of few directions and rewards tie all the time. Candidates are told apart by what the strategy reads."""
    rng = np.random.default_rng(seed)
    rewards, embeddings = tied_pools(3, 7, rng)
    if not similar:
        embeddings[0] += rng.normal(size=embeddings[0].shape)
    similarity = np.round(similarity_matrix(embeddings), 12)  # the same numbers in any order
    options = {"ties": ties} | ({"alpha": alpha} if name == "dbkon" else {})
    reads = [rewards[..., None]] if name == "dbkon" or ties == "reward" else []
    reads.append(np.sort(similarity, axis=-1) if similar else embeddings)

    def kept(order):
        vectors = {"embeddings": embeddings[:, order]}
        if similar:
            vectors = {"similarity": similarity[:, order][:, :, order]}
        indices = mrt.select(name, 6, rewards=rewards[:, order], **vectors, key=KEY, **options)
        rows = np.take_along_axis(np.concatenate(reads, axis=-1)[:, order], indices[..., None], axis=1)
        return [[sorted(pool[:k]) for k in range(1, 7)] for pool in rows.tolist()]  # nested: every K at once

    assert kept(list(order)) == kept(list(range(7)))


def test_tie_rules_choose_what_they_say():
    # Candidate 0 covers all; of the rest none adds anything under quality 1 / 0 / 0 / 0.
    embeddings = np.array([[[1.0, 0.0], [1.0, 0.1], [1.0, 0.6], [1.0, 0.2]]])
    rewards = np.array([[1.0, 0.1, 0.2, 0.3]])
    keep = lambda ties: mrt.select("dbkon", 2, rewards=rewards, embeddings=embeddings, alpha=4.0, ties=ties)  # noqa: E731
    assert keep("index").tolist() == [[0, 1]]
    assert keep("reward").tolist() == [[0, 3]]
    assert keep("diverse").tolist() == [[0, 2]]


def test_random_ties_are_broken_by_the_key_evenly():
    embeddings, rewards = np.tile([1.0, 0.0], (1, 4, 1)), np.ones((1, 4))
    embeddings = embeddings + np.arange(4)[None, :, None] * [
        0.0,
        1e-9,
    ]  # the same to the tolerance, yet not identical
    embeddings = embeddings * (1 + np.arange(4))[None, :, None]
    kept = [
        int(mrt.select("dkon", 1, embeddings=embeddings, ties="random", key=jax.random.key(seed))[0, 0])
        for seed in range(400)
    ]
    counts = np.bincount(kept, minlength=4)
    assert np.abs(counts - 100).max() < 4 * math.sqrt(400 * 0.25 * 0.75)
    with pytest.raises(InputError, match="dkon is random with these options: give key"):
        mrt.select("dkon", 1, embeddings=embeddings, ties="random")
    with pytest.raises(InputError, match="dkon needs embeddings or a similarity matrix and rewards"):
        mrt.select("dkon", 1, embeddings=embeddings, ties="reward")
    del rewards


small_pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, (n, 2), elements=st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)),
        hnp.arrays(np.float64, n, elements=st.floats(-2, 2, width=16)),
    )
)


def sides(rewards, alpha, side):
    """Quality of who covers, and weights of who is covered."""
    q = quality(rewards, alpha)
    return (q, None) if side == "both" else (None, np.maximum(q, 1e-4))


@given(
    small_pools,
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from(["both", "covered"]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=300)
def test_the_objective_is_monotone_and_submodular(pool, alpha, side, random):
    embeddings, rewards = pool
    n = len(rewards)
    s, (q, w) = similarity_matrix(embeddings), sides(rewards, alpha, side)
    order = random.sample(range(n), n)
    small = order[: random.randint(0, n)]
    large = small + order[len(small) : random.randint(len(small), n)]
    value = facility_location(s, np.array(large, int), q, weights=w)
    gains_small, gains_large = (marginal_gains(s, np.array(chosen, int), q, w) for chosen in (small, large))
    assert value >= facility_location(s, np.array(small, int), q, weights=w) - 1e-12
    assert (gains_large >= 0).all()
    assert (gains_small >= gains_large - 1e-12).all()
    for j in set(range(n)) - set(large):
        with_j = facility_location(s, np.array([*large, j], int), q, weights=w)
        assert with_j - value == pytest.approx(gains_large[j], abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("side", ["both", "covered"])
def test_greedy_reaches_its_bound_of_the_best_subset(k, tied, side):
    rng = np.random.default_rng(k)
    rewards, embeddings = tied_pools(400, 8, rng) if tied else pools(400, 8, seed=k).values()
    kept = mrt.select("dbkon", k, rewards=rewards, embeddings=embeddings, quality_side=side)
    # A pick may be below the best gain by the tie rule's 1e-5, which takes as much of the bound.
    bound = 1 - (1 - (1 - 1e-5) / k) ** k
    for s, r, chosen in zip(similarity_matrix(embeddings), rewards, kept, strict=True):
        q, w = sides(r, 1.0, side)
        subset, best = best_subset(s, k, q, w)
        assert facility_location(s, subset, q, weights=w) == pytest.approx(best)
        value = facility_location(s, chosen, q, weights=w)
        assert bound * best - 1e-12 <= value <= best + 1e-12


def test_the_bound_is_attained():
    # Four rows; column 0 covers two, columns 1 and 2 the two halves: greedy starts with 0 and ends with 3 of 4.
    similarity = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]], float)
    kept = mrt.select("dkon", 2, similarity=similarity[None])[0]
    assert facility_location(similarity, kept) == 3
    assert best_subset(similarity, 2)[1] == 4


def test_best_subset_is_the_best_of_all():
    data = pools(1, 6)
    s, q = similarity_matrix(data["embeddings"][0]), quality(data["rewards"][0])
    values = {c: facility_location(s, np.array(c), q) for c in itertools.combinations(range(6), 3)}
    subset, best = best_subset(s, 3, q)
    assert best == pytest.approx(max(values.values()))
    assert tuple(subset) == max(values, key=lambda c: values[c])


def test_quality_is_the_clipped_scaled_reward_to_a_power():
    np.testing.assert_allclose(quality(np.array([0.0, 1.0, 4.0]), 2.0), [1e-8, 1 / 16, 1.0])
    np.testing.assert_array_equal(quality(np.array([3.0, 3.0])), [1, 1])
    np.testing.assert_array_equal(quality(np.array([3.0, 5.0]), 0.0), [1, 1])
    masked = quality(np.array([0.0, 1.0, np.nan]), mask=np.array([True, True, False]))
    np.testing.assert_allclose(masked[:2], [1e-4, 1.0])


def test_alpha_zero_is_dkon():
    data = pools(128, 8)
    np.testing.assert_array_equal(mrt.select("dbkon", 4, **data, alpha=0.0), mrt.select("dkon", 4, **data))


def test_a_similarity_matrix_says_the_same_as_embeddings():
    data = pools(128, 8)
    for name in ("dkon", "dbkon"):
        given_matrix = mrt.select(
            name, 4, rewards=data["rewards"], similarity=similarity_matrix(data["embeddings"])
        )
        np.testing.assert_array_equal(given_matrix, mrt.select(name, 4, **data))


def test_the_objective_rejects_shapes_that_do_not_go_together():
    with pytest.raises(InputError, match="similarity must be"):
        facility_location(np.ones((2, 3)), np.array([0]))
    with pytest.raises(InputError, match="quality must be"):
        facility_location(np.ones((3, 3)), np.array([0]), np.ones(2))
    with pytest.raises(InputError, match="weights must be"):
        facility_location(np.ones((3, 3)), np.array([0]), weights=np.ones(2))
    with pytest.raises(InputError, match="mask must be"):
        facility_location(np.ones((3, 3)), np.array([0]), mask=np.ones(2, bool))
