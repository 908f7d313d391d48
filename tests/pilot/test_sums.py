"""Sums per prompt: any container, any order, in parts or at once."""

import itertools
import time

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.mean_squares import weighted_mean_squares


def rows(seed=0, grouped=True):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, 30, 200)
    losses = 3 + rng.standard_normal(200) + rng.standard_normal(30)[prompts]
    return losses, np.array([f"prompt {p}" for p in prompts]), prompts // 3 if grouped else None


def test_sums_are_the_sums():
    losses, prompts, groups = rows()
    sums = mrt.PromptSums.of(losses, prompts, groups)
    assert sums.labels is not None
    for label, count, mean, within in zip(
        sums.labels.to_pylist(), sums.counts, sums.means, sums.within, strict=True
    ):
        own = losses[prompts == label]
        assert count == own.size
        assert mean == pytest.approx(own.mean(), rel=1e-14)
        assert within == pytest.approx(((own - own.mean()) ** 2).sum(), rel=1e-9)
    assert sums.n_prompts == len(set(prompts))
    assert sums.n_groups == 10
    assert sums.group_labels is not None
    for label, group in zip(sums.labels.to_pylist(), sums.group_of, strict=True):
        assert sums.group_labels[int(group)].as_py() == int(label.split()[1]) // 3


@pytest.mark.parametrize("prompts", [[0, 0, 1, 2, 1], [0, 2, 2, 1, 0], [1, 1, 0, 2, 2], [0, -1, -1, 1, 0]])
def test_numbers_of_prompts_are_names_like_any_others(prompts):
    """Whole numbers that count up from 0 need no table; the rest do."""
    losses, prompts = np.arange(5.0) ** 2, np.array(prompts)
    sums = mrt.PromptSums.of(losses, prompts)
    assert sums.labels is not None
    assert sums.labels.to_pylist() == list(dict.fromkeys(prompts.tolist()))
    means = [losses[prompts == label].mean() for label in sums.labels.to_pylist()]
    np.testing.assert_allclose(sums.means, means, rtol=1e-14)


@pytest.mark.parametrize("grouped", [False, True])
def test_parts_merge_in_any_order(grouped):
    """Prompts that are split over parts count once; every order gives the estimate of the whole."""
    losses, prompts, groups = rows(grouped=grouped)
    parts = [
        mrt.PromptSums.of(losses[part], prompts[part], None if groups is None else groups[part])
        for part in np.array_split(np.arange(200), 3)
    ]
    whole = mrt.estimate_components(losses, prompts, groups=groups)
    for first, second, third in itertools.permutations(parts):
        for merged in (
            first.merge(second).merge(third),
            first.merge(second.merge(third)),
            first.merge(second, third),
        ):
            found = mrt.estimate_components(merged)
            assert found.n_responses == 200
            for name in ("prompt", "response", "ratio", "icc", "group"):
                one, other = getattr(found, name), getattr(whole, name)
                if other is not None:
                    assert [one.value, one.low, one.high] == pytest.approx(
                        [other.value, other.low, other.high], rel=1e-12, abs=1e-12
                    )
            assert found.mean == pytest.approx(whole.mean, rel=1e-13)
            assert found.components.prompt == pytest.approx(whole.components.prompt, rel=1e-12)
            assert found.components.response == pytest.approx(whole.components.response, rel=1e-12)


def test_what_stands_in_one_part_alone_keeps_every_digit():
    """Also far from zero, and whatever the others hold."""
    parts = [mrt.PromptSums.of(1e9 + np.array([0.1, 0.2, 0.7]) * (i + 1), np.repeat(i, 3)) for i in range(4)]
    merged = parts[0].merge(*parts[1:])
    assert merged.labels.to_pylist() == [0, 1, 2, 3]
    for i, part in enumerate(parts):
        assert (merged.means[i], merged.within[i]) == (part.means[0], part.within[0])
    again = parts[2].merge(*parts, parts[2])
    place = again.labels.to_pylist().index(2)
    assert again.counts[place] == 9
    assert again.means[place] == pytest.approx(parts[2].means[0], rel=1e-15)
    assert again.within[place] == pytest.approx(3 * parts[2].within[0], rel=1e-12)
    assert parts[0].merge().counts == 3


def test_parts_may_be_too_small_for_an_estimate():
    one = mrt.PromptSums.of([1.0], ["a"])
    more = mrt.PromptSums.of([3.0, 2.0, 5.0], ["a", "b", "b"])
    with pytest.raises(mrt.InputError, match="one prompt"):
        mrt.estimate_components(one)
    merged = mrt.estimate_components(one.merge(more))
    assert merged.components == mrt.estimate_components([[1.0, 3.0], [2.0, 5.0]]).components


def test_arrow_columns():
    import pyarrow as pa

    losses, prompts, groups = rows()
    plain = mrt.estimate_components(losses, prompts, groups=groups)
    for text in (
        pa.array(prompts),
        pa.chunked_array([prompts[:90], prompts[90:]]),
        pa.array(prompts).dictionary_encode(),
    ):
        found = mrt.estimate_components(pa.array(losses), text, groups=pa.array(groups))
        assert found == plain
    with pytest.raises(mrt.InputError, match="missing label"):
        mrt.PromptSums.of([1.0, 2.0], pa.array(["a", None]))


def test_labels_of_many_kinds():
    import pandas as pd

    losses = [1.0, 2.0, 4.0, 7.0]
    plain = mrt.estimate_components(losses, ["a", "a", "b", "b"]).components
    for labels in (
        ("a", "a", "b", "b"),
        pd.Series(["a", "a", "b", "b"]),
        pd.Categorical(["a", "a", "b", "b"]),
        np.array([1.5, 1.5, 2.0, 2.0], np.float32),
        np.array([2**64 - 1, 2**64 - 1, 1, 1], np.uint64),
        [True, True, False, False],
        pd.to_datetime(["2026-01-01", "2026-01-01", "2026-01-02", "2026-01-02"]),
    ):
        assert mrt.estimate_components(pd.Series(losses), labels).components == plain


def test_integers_of_any_width_are_one_kind_of_label():
    left = mrt.PromptSums.of([1.0, 2.0], np.array([3, 4], np.int32))
    right = mrt.PromptSums.of([5.0, 7.0], np.array([4, 3], np.uint8))
    assert mrt.estimate_components(left.merge(right)).n_prompts == 2


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (([[1.0, 2.0]],), ([3.0], ["a"]), "without prompt names cannot be merged"),
        (([1.0], ["a"]), ([3.0], [7]), "large_string in one part and int64 in the other"),
        (([1.0], ["a"], ["g"]), ([3.0], ["b"]), "one part has groups and the other has none"),
        (([1.0], ["a"], ["g"]), ([3.0], ["a"], ["h"]), "prompt 'a' is in one group in the first part"),
    ],
)
def test_parts_that_do_not_fit(left, right, message):
    with pytest.raises(mrt.InputError, match=message):
        mrt.PromptSums.of(*left).merge(mrt.PromptSums.of(*right))


def test_labels_that_are_not_labels():
    for mixed in (np.array(["7", 7], object), ["7", 7], [7, "7"], np.zeros((2, 1))):
        with pytest.raises(mrt.InputError, match="all text or all numbers"):
            mrt.PromptSums.of([1.0, 2.0], mixed)
    for missing in ([None, 1], ["a", None], [1.0, float("nan")], np.array([np.nan, 1.0])):
        with pytest.raises(mrt.InputError, match="missing label"):
            mrt.PromptSums.of([1.0, 2.0], missing)
    with pytest.raises(mrt.InputError, match="hold prompts and groups already"):
        mrt.estimate_components(mrt.PromptSums.of([[1.0, 2.0], [3.0, 5.0]]), ["a", "b"])
    with pytest.raises(mrt.InputError, match=r"losses\[1, 0\] is nan"):
        mrt.PromptSums.of([[1.0, 2.0], [np.nan, 2.0]])


@pytest.mark.stress
def test_a_million_prompts():
    """From sums to limits and warnings in 1.5 s of one core; with unequal counts and groups too."""
    rng = np.random.default_rng(0)
    n = 10**6
    counts = rng.integers(1, 5, n).astype(float)
    means, within = rng.standard_normal(n) + rng.standard_normal(n) / np.sqrt(counts), rng.chisquare(counts)
    within[counts == 1] = 0
    for starts in (None, np.arange(0, n, 5)):
        sums = mrt.PromptSums(counts, means, within, starts)
        mrt.estimate_components(mrt.PromptSums(counts[:100], means[:100], within[:100]))
        best = min(_seconds(sums) for _ in range(3))
        assert best < 1.5
        assert np.isfinite(weighted_mean_squares(sums).between.value)


def _seconds(sums):
    start = time.process_time()
    mrt.estimate_components(sums)
    return time.process_time() - start
