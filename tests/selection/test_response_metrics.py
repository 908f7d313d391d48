"""Metrics of responses against brute force, and what must not change them."""

import itertools
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import mrtsim as mrt
from mrtsim.errors import InputError
from mrtsim.selection.response_metrics import (
    alignment,
    best_of_k,
    coverage_at_k,
    mean_over_prompts,
    semantic_diversity,
)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def brute(generations, references, k):
    """Coverage of all subsets of k, alignment and diversity of one prompt, in words."""
    table = np.array([[cosine(g, r) for r in references] for g in generations])
    subsets = list(itertools.combinations(range(len(generations)), k))
    coverage = np.mean([table[list(subset)].max(axis=0).mean() for subset in subsets])
    pairs = [cosine(a, b) for a, b in itertools.combinations(generations, 2)]
    return coverage, table.max(axis=1).mean(), 1 - np.mean(pairs) if pairs else np.nan


def ragged(seed, prompts=4, features=3):
    rng = np.random.default_rng(seed)
    generations = [rng.normal(size=(n, features)) for n in rng.integers(1, 6, prompts)]
    references = [rng.normal(size=(n, features)) for n in rng.integers(1, 4, prompts)]
    generations[0] = rng.normal(size=(5, features))
    return generations, references


def padded(pools, rng):
    """Pools at random places of a wide array, with junk elsewhere."""
    width = max(map(len, pools)) + 2
    values = rng.normal(size=(len(pools), width, *pools[0].shape[1:]))
    values[:, 0] = np.nan
    mask = np.zeros((len(pools), width), bool)
    for row, pool in enumerate(pools):
        places = np.sort(rng.permutation(np.arange(1, width))[: len(pool)])
        values[row, places], mask[row, places] = pool, True
    return values, mask


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=60)
def test_metrics_are_those_of_all_subsets(seed, k):
    generations, references = ragged(seed)
    expected = [brute(g, r, k) for g, r in zip(generations, references, strict=True) if len(g) >= k]
    enough = np.array([len(g) >= k for g in generations])
    coverage = coverage_at_k(generations, references, k)
    assert np.isnan(coverage[~enough]).all()
    np.testing.assert_allclose(coverage[enough], [e[0] for e in expected], atol=1e-12)
    np.testing.assert_allclose(
        alignment(generations, references)[enough], [e[1] for e in expected], atol=1e-12
    )
    np.testing.assert_allclose(semantic_diversity(generations)[enough], [e[2] for e in expected], atol=1e-12)


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 5]), st.sampled_from([1e-200, 1e-3, 7.0, 1e200])
)
@settings(max_examples=60)
def test_order_padding_and_length_of_embeddings_do_not_matter(seed, k, scale):
    generations, references = ragged(seed)
    rng = np.random.default_rng(seed)
    first = (
        coverage_at_k(generations, references, k),
        alignment(generations, references),
        semantic_diversity(generations),
    )
    moved = [g[rng.permutation(len(g))] * scale * rng.uniform(0.5, 2, (len(g), 1)) for g in generations]
    others = [r[rng.permutation(len(r))] / scale for r in references]
    (wide, mask), (wide_references, reference_mask) = padded(moved, rng), padded(others, rng)
    masks = {"mask": mask, "reference_mask": reference_mask}
    second = (
        coverage_at_k(wide, wide_references, k, **masks),
        alignment(wide, wide_references, **masks),
        semantic_diversity(wide, mask=mask),
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7), st.integers(1, 7))
def test_best_of_k_is_the_mean_over_subsets(values, k):
    if k > len(values):
        with pytest.raises(InputError, match=f"k = {k}, but no prompt has more than {len(values)} responses"):
            best_of_k([values], k)
        return
    expected = np.mean([max(subset) for subset in itertools.combinations(values, k)])
    assert best_of_k([values], k)[0] == pytest.approx(expected, abs=1e-12)
    assert best_of_k([values])[0] == max(values)


def test_of_zeros_and_ones_best_of_k_is_pass_at_k():
    rng = np.random.default_rng(0)
    hits = (rng.random((30, 10)) < rng.random((30, 1))).astype(float)
    for k in (1, 3, 10):
        np.testing.assert_allclose(
            best_of_k(hits, k), mrt.pass_at_k(hits.sum(1), np.full(30, 10), k), atol=1e-12
        )
    found = mrt.response_metrics(successes=hits, k=3)
    assert found.pass_at_k.value == pytest.approx(
        mrt.estimate_pass_at_k(hits.sum(1), [10] * 30, 3).value.value
    )
    assert found.pass_at_k.standard_error == pytest.approx(
        mrt.estimate_pass_at_k(hits.sum(1), [10] * 30, 3).value.standard_error
    )


def test_best_of_k_is_unbiased_for_fewer_responses():
    """Its expectation does not depend on how many responses there are: normal order statistics, 0.5642 of two."""
    rng = np.random.default_rng(1)
    pools = [rng.normal(size=n) for n in rng.integers(2, 9, 20_000)]
    values = best_of_k(pools, 2)
    assert abs(values.mean() - 0.56419) < 4 * values.std() / np.sqrt(len(values))


def test_metrics_by_hand():
    e = np.eye(3)
    generations = [[e[0], e[0], e[1]]]
    references = [[e[0], e[2]]]
    found = mrt.response_metrics(
        generations, references, rewards=[[1.0, 3.0, 2.0]], lengths=[[4, 5, 9]], successes=[[0, 1, 0]]
    )
    assert found.coverage.value == 0.5  # of the first reference alone
    assert found.alignment.value == pytest.approx(2 / 3)
    assert found.diversity.value == pytest.approx(2 / 3)
    assert (found.mean_reward.value, found.best_reward.value, found.length.value) == (2, 3, 6)
    assert found.pass_at_k.value == 1
    assert found.n_prompts["coverage"] == 1
    assert np.isinf(found.coverage.high)  # one prompt says nothing about others
    at_two = mrt.response_metrics(generations, references, rewards=[[1.0, 3.0, 2.0]], k=2)
    assert at_two.best_of_k.value == pytest.approx((3 + 3 + 2) / 3)
    assert at_two.best_reward.value == 3
    assert at_two.to_dict()["k"] == 2
    assert "length" not in at_two.to_dict()
    assert mrt.response_metrics(np.ones((2, 1, 3)), np.ones((2, 1, 3))).diversity is None
    with pytest.raises(InputError, match="no prompt has enough responses for the metric"):
        mean_over_prompts([np.nan, np.nan])


def test_means_with_groups_are_jackknifed_over_groups():
    rng = np.random.default_rng(2)
    groups = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5])
    values = rng.normal(size=15) + (groups == "e")
    order = rng.permutation(15)
    found = mean_over_prompts(values[order], groups[order])
    without = np.array([values[groups != g].mean() for g in "abcde"])
    error = np.sqrt(4 / 5 * np.square(without - values.mean()).sum())
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(2.7764451051977934 * found.standard_error)
    alone = mean_over_prompts(values)
    assert alone.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(15))
    assert mean_over_prompts(np.append(values, np.nan)).value == pytest.approx(values.mean())


def test_groups_widen_the_interval_and_make_it_cover():
    """Topics of 4 prompts that share half their variance: over prompts too narrow, over topics right."""
    rng = np.random.default_rng(3)
    groups, misses = np.repeat(np.arange(12), 4), {"prompts": 0, "groups": 0}
    for _ in range(400):
        values = np.repeat(rng.normal(size=12), 4) + rng.normal(size=48)
        for name, labels in (("prompts", None), ("groups", groups)):
            found = mean_over_prompts(values, labels)
            misses[name] += not found.low < 0 < found.high
    assert misses["groups"] < 40 < misses["prompts"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is nothing to judge"),
        (
            {"references": np.ones((2, 3, 2)), "rewards": np.ones((2, 3))},
            "references are compared with generations",
        ),
        (
            {"generations": np.ones((2, 3))},
            "generations must be \\(prompts, responses, features\\), got shape \\(2, 3\\)",
        ),
        ({"generations": np.zeros((2, 3, 2))}, "prompt 0, response 0 is all zeros"),
        ({"generations": np.full((2, 3, 2), np.nan)}, "generations of prompt 0, response 0 must be finite"),
        (
            {"generations": np.ones((2, 3, 2)), "references": np.ones((3, 3, 2))},
            "the same prompts and features",
        ),
        ({"generations": np.ones((2, 3, 2)), "rewards": np.ones((2, 4))}, "the same prompts and responses"),
        (
            {"generations": np.ones((2, 3, 2)), "rewards": [[1.0], [1.0, 2.0]]},
            "the same prompts and responses",
        ),
        ({"rewards": [["a"]]}, "rewards must be numbers"),
        ({"rewards": [[1.0], [1.0, np.inf]]}, "rewards of prompt 1, response 1 must be finite"),
        ({"rewards": np.ones((2, 3)), "mask": np.ones((2, 3))}, "must be booleans of shape \\(2, 3\\)"),
        ({"rewards": [[1.0], [1.0, 2.0]], "mask": np.ones((2, 2), bool)}, "it needs no mask"),
        ({"successes": [[0.5, 1.0]]}, "successes must be 0 or 1"),
        ({"rewards": np.ones((2, 3)), "k": 4}, "no prompt has more than 3 responses"),
        ({"rewards": np.ones((2, 3)), "k": 0}, "k must be at least 1"),
        ({"rewards": np.ones((2, 3)), "k": 1.5}, "k must be a whole number"),
        ({"rewards": np.ones((2, 3)), "groups": ["a"]}, "one label for each of 2 prompts"),
        ({"rewards": np.ones((2, 3)), "confidence": 95}, "confidence is 95"),
    ],
)
def test_what_cannot_be_judged_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        mrt.response_metrics(**arguments)


def test_it_needs_no_jax():
    code = (
        "import sys, numpy as np, mrtsim as mrt\n"
        "mrt.response_metrics(np.ones((3, 2, 2)), np.ones((3, 1, 2)), groups=['a', 'a', 'b'])\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
