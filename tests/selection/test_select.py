"""Every strategy against enumeration, a textbook implementation or its exact law; and what `select` promises of all."""

import importlib.metadata
import itertools
import math
import os
import subprocess
import sys
import textwrap

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import mrtsim as mrt
from mrtsim.errors import InputError
from mrtsim.selection import registry as registered
from mrtsim.selection import select as selection
from mrtsim.selection.exact_laws import rkon_pool_variance
from mrtsim.selection.facility_location import (
    best_subset,
    facility_location,
    marginal_gains,
    quality,
    similarity_matrix,
)
from mrtsim.selection.registry import Pool, register_strategy

NAMES = list(mrt.strategies())
DETERMINISTIC = [name for name, known in mrt.strategies().items() if not known.random]
KEY = jax.random.key(7)


def pools(prompts, candidates, features=3, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "rewards": rng.normal(size=(prompts, candidates)),
        "embeddings": rng.normal(size=(prompts, candidates, features)).astype(dtype),
    }


def tied_pools(prompts, candidates, rng):
    """Few distinct rewards and directions, so that most pools hold ties and duplicates."""
    embeddings = rng.integers(-1, 2, size=(prompts, candidates, 3)).astype(float)
    embeddings[~embeddings.any(axis=-1)] = (1, 0, 0)
    return rng.integers(0, 4, size=(prompts, candidates)).astype(float), embeddings


# --- RKoN ---------------------------------------------------------------------------------------------------------


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


# --- BKoN and Gumbel ----------------------------------------------------------------------------------------------


def test_bkon_is_the_sort_by_reward_then_index():
    rewards, _ = tied_pools(500, 9, np.random.default_rng(0))
    for k in (1, 4, 9):
        expected = np.argsort(-rewards, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(mrt.select("bkon", k, rewards=rewards), expected)


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


# --- the GRADES objective -----------------------------------------------------------------------------------------


def textbook_greedy(rewards, embeddings, k, alpha):
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


@pytest.mark.parametrize(("name", "alpha"), [("dkon", 0.0), ("dbkon", 1.0), ("dbkon", 0.5)])
@pytest.mark.parametrize(("candidates", "k", "prompts"), [(4, 4, 1200), (7, 4, 1200), (10, 5, 1000)])
def test_greedy_is_the_textbook_on_pools_with_ties(name, alpha, candidates, k, prompts):
    rewards, embeddings = tied_pools(prompts, candidates, np.random.default_rng([candidates, int(4 * alpha)]))
    embeddings[::2] += 0.3 * np.random.default_rng(1).normal(size=embeddings[::2].shape)
    kept = mrt.select(name, k, rewards=rewards, embeddings=embeddings, alpha=alpha)
    expected = [textbook_greedy(r, e, k, alpha) for r, e in zip(rewards, embeddings, strict=True)]
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("name", ["dkon", "dbkon"])
def test_float32_picks_differ_from_float64_only_at_the_edge_of_a_tie(name):
    data = pools(1500, 32, 384, seed=2)
    exact = mrt.select(name, 8, **data)
    rounded = mrt.select(name, 8, rewards=data["rewards"], embeddings=data["embeddings"].astype(np.float32))
    same = exact == rounded
    print(f"{name}: {same.mean():.4%} of picks are the same in float32")
    assert same.mean() >= 0.995
    for prompt in np.flatnonzero(~same.all(axis=1)):
        step = int(np.argmin(same[prompt]))
        q = quality(data["rewards"][prompt]) if name == "dbkon" else None
        exactly = similarity_matrix(data["embeddings"][prompt])
        error = np.abs(similarity_matrix(data["embeddings"][prompt].astype(np.float32)) - exactly).max()
        gains = marginal_gains(exactly, exact[prompt, :step], q)
        gap = abs(gains[exact[prompt, step]] - gains[rounded[prompt, step]]) / gains.max()
        rounding = 2 * 32 * (error + np.finfo(np.float32).eps) / gains.max()
        print(
            f"{name}: prompt {prompt}, step {step}: gap {gap:.1e} of the largest gain, rounding {rounding:.1e}"
        )
        assert gap < 1e-5 + rounding


small_pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, (n, 2), elements=st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)),
        hnp.arrays(np.float64, n, elements=st.floats(-2, 2, width=16)),
    )
)


@given(small_pools, st.sampled_from([0.0, 1.0, 2.0]), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_the_objective_is_monotone_and_submodular(pool, alpha, random):
    embeddings, rewards = pool
    n = len(rewards)
    s, q = similarity_matrix(embeddings), quality(rewards, alpha)
    order = random.sample(range(n), n)
    small = order[: random.randint(0, n)]
    large = small + order[len(small) : random.randint(len(small), n)]
    value = facility_location(s, np.array(large, int), q)
    gains_small, gains_large = (marginal_gains(s, np.array(chosen, int), q) for chosen in (small, large))
    assert value >= facility_location(s, np.array(small, int), q) - 1e-12
    assert (gains_large >= 0).all()
    assert (gains_small >= gains_large - 1e-12).all()
    for j in set(range(n)) - set(large):
        with_j = facility_location(s, np.array([*large, j], int), q)
        assert with_j - value == pytest.approx(gains_large[j], abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_greedy_reaches_its_bound_of_the_best_subset(k, tied):
    rng = np.random.default_rng(k)
    rewards, embeddings = tied_pools(400, 8, rng) if tied else pools(400, 8, seed=k).values()
    kept = mrt.select("dbkon", k, rewards=rewards, embeddings=embeddings)
    # A pick may be below the best gain by the tie rule's 1e-5, which takes as much of the bound.
    bound = 1 - (1 - (1 - 1e-5) / k) ** k
    for s, q, chosen in zip(similarity_matrix(embeddings), quality(rewards), kept, strict=True):
        subset, best = best_subset(s, k, q)
        assert facility_location(s, subset, q) == pytest.approx(best)
        value = facility_location(s, chosen, q)
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


# --- filtered max-min ---------------------------------------------------------------------------------------------


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


# --- what holds for every strategy --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_of_the_pool_are_kept_where_k_is_its_size(name):
    kept = mrt.select(name, 6, **pools(50, 6), key=KEY)
    np.testing.assert_array_equal(np.sort(kept, axis=1), np.tile(np.arange(6), (50, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    data = pools(128, 8)
    mask = np.ones((128, 8), bool)
    mask[::3, 5:] = False
    ragged = mrt.select(name, 4, **data, mask=mask, key=KEY)
    for size, prompts in ((5, slice(0, None, 3)), (8, slice(1, None, 3))):
        alone = {field: array[:, :size] for field, array in data.items()}
        np.testing.assert_array_equal(mrt.select(name, 4, **alone, key=KEY)[prompts], ragged[prompts])
    padded = {
        field: np.pad(array, [(0, 0), (0, 4), (0, 0)][: array.ndim], constant_values=np.nan)
        for field, array in data.items()
    }
    mask = np.pad(mask, [(0, 0), (0, 4)])
    np.testing.assert_array_equal(mrt.select(name, 4, **padded, mask=mask, key=KEY), ragged)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_the_candidates_permutes_the_answer(name):
    data = pools(128, 8)
    permutation = np.random.default_rng(5).permutation(8)
    kept = mrt.select(name, 4, **data)
    permuted = permutation[mrt.select(name, 4, **{f: a[:, permutation] for f, a in data.items()})]
    if name not in ("dkon", "dbkon"):
        np.testing.assert_array_equal(kept, permuted)
        return
    # These tie by structure, candidates that add nothing included: each pick is still one of the tied best.
    similarity = similarity_matrix(data["embeddings"])
    qualities = quality(data["rewards"]) if name == "dbkon" else None
    for step in range(4):
        gains = marginal_gains(similarity, permuted[:, :step], qualities)
        chosen = np.take_along_axis(gains, permuted[:, step : step + 1], axis=1)[:, 0]
        assert (chosen >= gains.max(axis=1) * (1 - 1.01e-5) - 1e-12).all()
    assert (kept == permuted).mean() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_answered_alike_alone_in_a_block_and_in_any_block(name, monkeypatch):
    data = pools(700, 8)
    whole = mrt.select(name, 4, **data, key=KEY)
    monkeypatch.setattr(selection, "BLOCK_ELEMENTS", 128 * 64)
    np.testing.assert_array_equal(mrt.select(name, 4, **data, key=KEY), whole)
    first = {field: array[:5] for field, array in data.items()}
    np.testing.assert_array_equal(mrt.select(name, 4, **first, key=KEY), whole[:5])


@pytest.mark.parametrize("name", NAMES)
def test_strategies_work_inside_jit_and_over_leading_axes(name):
    data = pools(6, 8, dtype=np.float32)
    data["rewards"] = data["rewards"].astype(np.float32)
    known = mrt.strategies()[name]
    pool = Pool(
        **{field: jnp.asarray(array.reshape(2, 3, *array.shape[1:])) for field, array in data.items()}
    )
    kept = jax.jit(lambda key, pool: known(key, pool, 3))(KEY, pool)
    assert kept.shape == (2, 3, 3)
    np.testing.assert_array_equal(kept.reshape(6, 3), mrt.select(name, 3, **data, key=KEY))


@pytest.mark.parametrize("name", NAMES)
def test_jax_arrays_lists_and_low_precision_are_accepted(name):
    data = pools(10, 6)
    data = {field: np.round(array * 8) / 8 + 0.0625 for field, array in data.items()}
    kept = mrt.select(name, 3, **data, key=KEY)
    for convert in (jnp.asarray, np.ndarray.tolist, lambda a: a.astype(np.float16)):
        again = mrt.select(name, 3, **{field: convert(array) for field, array in data.items()}, key=KEY)
        assert again.shape == kept.shape
        if name != "dkon":  # its ties are decided within 1e-5, whatever the precision, but not its near-ties
            np.testing.assert_array_equal(again, kept)


def test_no_prompts_is_no_answer():
    assert mrt.select("bkon", 2, rewards=np.zeros((0, 4))).shape == (0, 2)


def test_memory_does_not_grow_with_the_prompts():
    script = textwrap.dedent("""
        import resource
        import numpy as np
        import mrtsim as mrt

        def peak(prompts):
            # Stride 0: the prompts would take 49 kB each if they were ever copied as a whole.
            embeddings = np.broadcast_to(np.eye(32, 384, dtype=np.float32), (prompts, 32, 384))
            mrt.select("dkon", 2, embeddings=embeddings)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        few = peak(1024)
        print(peak(12288) - few)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150  # MB; a copy of all would be 600


def test_several_devices_give_the_same_answer():
    script = textwrap.dedent("""
        import jax
        import numpy as np
        import mrtsim as mrt

        rng = np.random.default_rng(0)
        data = {"rewards": rng.normal(size=(3000, 16)), "embeddings": rng.normal(size=(3000, 16, 256))}
        kept = [mrt.select(name, 4, **data, key=jax.random.key(1)) for name in ("dbkon", "rkon")]
        print(jax.local_device_count(), *[hash(k.tobytes()) for k in kept])
    """)
    answers = []
    for devices in (1, 3):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        count, *answer = done.stdout.split()
        assert int(count) == devices
        answers.append(answer)
    assert answers[0] == answers[1]


# --- errors -------------------------------------------------------------------------------------------------------

R, E = np.arange(12.0).reshape(3, 4), np.ones((3, 4, 2))
S = np.ones((3, 4, 4))


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", 2, {"rewards": R}), "no strategy 'best'; there are rkon, bkon"),
        (("bkon", 0, {"rewards": R}), "k must be at least 1, got 0"),
        (("bkon", 1.5, {"rewards": R}), "k must be a whole number, got 1.5"),
        (("bkon", 5, {"rewards": R}), "prompt 0 has 4 candidates, fewer than k = 5"),
        (
            ("bkon", 3, {"rewards": R, "mask": changed(R >= 0, (1, slice(2)), False)}),
            r"prompt 1 has 2 candidates, fewer than k = 3 \(1 of 3",
        ),
        (("bkon", 2, {"embeddings": E}), "bkon needs rewards"),
        (("dkon", 2, {"rewards": R}), "dkon needs embeddings or a similarity matrix"),
        (("dbkon", 2, {"embeddings": E}), "dbkon needs rewards and embeddings or a similarity matrix"),
        (("rkon", 2, {"key": KEY}), r"needs an array or shape=\(prompts, candidates\)"),
        (("rkon", 2, {"rewards": R}), "rkon is random: give key"),
        (("rkon", 2, {"rewards": R, "key": 3}), r"jax.random.key\(seed\), got 3"),
        (("rkon", 2, {"rewards": R, "key": jax.random.split(KEY, 2)}), "key must be one JAX random key"),
        (("bkon", 2, {"rewards": R, "alpha": None}), "alpha must be a finite number >= 0, got None"),
        (("bkon", 2, {"rewards": R[0]}), r"rewards must be \(prompts, candidates\), got shape \(4,\)"),
        (("bkon", 2, {"rewards": [[1.0], [1.0, 2.0]]}), "pad them and give mask"),
        (("bkon", 2, {"rewards": np.full((3, 4), "a")}), "rewards must be numbers"),
        (("dkon", 2, {"embeddings": R}), r"embeddings must be \(prompts, candidates, features\)"),
        (("dbkon", 2, {"rewards": R[:2], "embeddings": E}), r"rewards \(2, 4\), embeddings \(3, 4, 2\)"),
        (("dkon", 2, {"similarity": np.ones((3, 4, 5))}), r"must agree.*similarity \(3, 4, 5\)"),
        (("dkon", 2, {"embeddings": E, "similarity": S}), "not both"),
        (("bkon", 2, {"rewards": R, "mask": R > 100, "k": 2}), "prompt 0 has 0 candidates"),
        (("bkon", 2, {"rewards": R, "mask": R}), "mask must be boolean"),
        (("bkon", 2, {"rewards": R, "mask": np.ones((3, 5), bool)}), r"mask \(3, 5\)"),
        (("bkon", 2, {"rewards": changed(R, (1, 2), np.nan)}), "reward of prompt 1, candidate 2 is nan"),
        (("bkon", 2, {"rewards": changed(R, (2, 0), np.inf)}), "reward of prompt 2, candidate 0 is inf"),
        (
            ("dkon", 2, {"embeddings": changed(E, (1, 3), 0)}),
            "embedding of prompt 1, candidate 3 is all zero",
        ),
        (
            ("dkon", 2, {"embeddings": changed(E, (1, 3, 0), np.nan)}),
            "embedding of prompt 1, candidate 3 has a NaN",
        ),
        (
            ("filtered-max-min", 2, {"rewards": R, "embeddings": changed(E, (0, 1, 0), np.inf)}),
            "embedding of prompt 0, candidate 1 has a NaN or infinite",
        ),
        (("dkon", 2, {"embeddings": 1e-30 * E.astype(np.float32)}), "scale the embeddings to length 1"),
        (
            ("dkon", 2, {"similarity": changed(S, (1, 2, 3), -0.5)}),
            r"similarity of prompt 1, candidates 2 and 3 is -0.5.*\(1 \+ cos\) / 2",
        ),
        (("dbkon", 2, {"rewards": R, "embeddings": E, "alpha": -1.0}), "alpha must be a finite number >= 0"),
        (
            ("gumbel", 2, {"rewards": R, "key": KEY, "temperature": -1.0}),
            r"temperature must be a number >= 0, got -1.0",
        ),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    name, k, rest = arguments
    rest.pop("k", None)
    with pytest.raises(InputError, match=message):
        mrt.select(name, k, **rest)


def test_the_first_of_many_bad_prompts_is_named():
    embeddings = np.ones((5000, 32, 8), np.float32)
    embeddings[1234:, 3] = 0
    with pytest.raises(InputError, match="prompt 1234, candidate 3"):
        mrt.select("dkon", 2, embeddings=embeddings)


def test_the_objective_rejects_shapes_that_do_not_go_together():
    with pytest.raises(InputError, match="similarity must be"):
        facility_location(np.ones((2, 3)), np.array([0]))
    with pytest.raises(InputError, match="quality must be"):
        marginal_gains(np.ones((3, 3)), np.array([0]), np.ones(2))
    with pytest.raises(InputError, match="mask must be"):
        facility_location(np.ones((3, 3)), np.array([0]), mask=np.ones(2, bool))
    with pytest.raises(InputError, match="k must be between 1"):
        best_subset(np.ones((3, 3)), 4)
    with pytest.raises(InputError, match="too many"):
        best_subset(np.ones((40, 40)), 20)


# --- new strategies -----------------------------------------------------------------------------------------------

PLUGIN = """
import jax
import jax.numpy as jnp
from mrtsim import register_strategy

@register_strategy("worst", needs=("rewards",))
def worst(key, pool, k):
    return jax.lax.top_k(jnp.where(pool.exists(), -pool.rewards, -jnp.inf), k)[1]
"""


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTRY", dict(registered._REGISTRY))


@pytest.fixture
def plugin(tmp_path, registry):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_plugin_is_one_function_in_a_file(plugin):
    assert mrt.load_plugin(plugin) == ("worst",)
    assert mrt.load_plugin(plugin) == ("worst",)
    assert list(mrt.strategies())[-1] == "worst"
    assert mrt.select("worst", 2, rewards=R).tolist() == [[0, 1]] * 3
    for check in (
        test_all_of_the_pool_are_kept_where_k_is_its_size,
        test_padding_changes_nothing,
        test_permuting_the_candidates_permutes_the_answer,
        test_strategies_work_inside_jit_and_over_leading_axes,
    ):
        check("worst")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "registers no strategy"),
        ("1 / 0", "failed: ZeroDivisionError"),
        (PLUGIN.replace("worst", "rkon"), "'rkon' is already registered"),
        (PLUGIN.replace("rewards", "reward"), r"needs \['reward'\]; a need is one of rewards"),
    ],
)
def test_bad_plugins_are_told_so(plugin, source, message):
    plugin.write_text(source)
    with pytest.raises(InputError, match=message):
        mrt.load_plugin(plugin)


def test_a_plugin_must_be_a_python_file(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        mrt.load_plugin(tmp_path / "absent.py")
    (tmp_path / "mine.txt").write_text(PLUGIN)
    with pytest.raises(InputError, match=r"must end in \.py"):
        mrt.load_plugin(tmp_path / "mine.txt")


def test_entry_points_are_strategies_too(plugin, monkeypatch):
    entry = importlib.metadata.EntryPoint("worst", "mine:worst", "mrtsim.strategies")
    monkeypatch.syspath_prepend(plugin.parent)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])
    registered._load_entry_points.cache_clear()
    assert mrt.select("worst", 2, rewards=R).tolist() == [[0, 1]] * 3
    registered._load_entry_points.cache_clear()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda k: jnp.zeros(k, jnp.int32), r"kept \[0, 0\] of prompt 0"),
        (lambda k: jnp.arange(k) + 3, r"kept \[3, 4\] of prompt 0"),
        (lambda k: jnp.arange(k) + 1, r"kept \[1, 2\] of prompt 1"),
        (lambda k: jnp.arange(k + 1), "must return k = 2 integers"),
        (lambda k: jnp.arange(k) * 1.0, "must return k = 2 integers"),
    ],
)
def test_a_strategy_that_keeps_what_it_must_not_is_told_so(registry, answer, message):
    @register_strategy("wrong")
    def wrong(key, pool, k):
        return answer(k)

    mask = np.ones((3, 4), bool)
    mask[1:, 2] = False
    with pytest.raises(InputError, match=message):
        mrt.select("wrong", 2, mask=mask)
