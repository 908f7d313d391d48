"""Two models on the same prompts: known numbers, enumeration, invariances, coverage, and every refusal."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

import mrtsim as mrt
from mrtsim import InputError, compare_models


def rows(losses):
    """(prompts, responses) as one row per response, with the prompt of each."""
    losses = np.asarray(losses, float)
    return losses.ravel(), np.repeat(np.arange(losses.shape[0]), losses.shape[1])


def two_models(seed=0, prompts=40, k_a=4, k_b=4, v_d=0.5, gap=0.3):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(prompts, 1))
    a = base + gap + math.sqrt(v_d) * rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, k_a))
    return a, base + 1.5 * rng.normal(size=(prompts, k_b))


def test_the_difference_is_a_paired_t_test():
    a, b = two_models()
    found = compare_models(a, b)
    test = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    interval = test.confidence_interval(0.95)
    assert found.difference.value == pytest.approx(a.mean() - b.mean())
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high))
    assert found.mean_a - found.mean_b == pytest.approx(found.difference.value)
    assert found.detectable.degrees_of_freedom == 39


def test_responses_that_stand_twice_are_told():
    a, b = two_models()
    found = compare_models(a, np.repeat(b, 2, axis=1)).warnings
    assert sum("model B: in all prompts every loss stands 2 times" in warning for warning in found) == 1
    assert not any("times" in warning for warning in compare_models(a, b).warnings)


def test_components_by_their_definition():
    a, b = two_models(k_a=4, k_b=4)
    found = compare_models(a, b)
    w_a, w_b = a.var(axis=1, ddof=1).mean(), b.var(axis=1, ddof=1).mean()
    square = (a.mean(axis=1) - b.mean(axis=1)).var(ddof=1)
    assert (found.response_a.value, found.response_b.value) == pytest.approx((w_a, w_b))
    assert found.prompt.value == pytest.approx(square - (w_a + w_b) / 4)
    for estimate in (found.prompt, found.response_a, found.response_b):
        assert estimate.low < estimate.value < estimate.high
    v_a, v_b = a.mean(axis=1).var(ddof=1) - w_a / 4, b.mean(axis=1).var(ddof=1) - w_b / 4
    rho = (v_a + v_b - found.prompt.value) / (2 * math.sqrt(v_a * v_b))
    assert found.correlation == pytest.approx(rho)
    apart = compare_models(a, b[:, :2])  # K_A = 4, K_B = 2
    w_b = b[:, :2].var(axis=1, ddof=1).mean()
    square = (a.mean(axis=1) - b[:, :2].mean(axis=1)).var(ddof=1)
    assert apart.prompt.value == pytest.approx(square - w_a / 4 - w_b / 2)
    assert apart.prompt.low <= apart.prompt.value <= apart.prompt.high
    assert not apart.equal_responses


def test_v_d_is_unbiased_by_enumeration():
    """All samples of two prompts of three, with replacement, and two responses to each of two models."""
    weights = (0.5, 0.3, 0.2)
    rates_a, rates_b = (0.2, 0.9, 0.5), (0.3, 0.5, 0.6)
    gaps = np.subtract(rates_a, rates_b)
    v_d = np.dot(weights, (gaps - np.dot(weights, gaps)) ** 2)
    expected = {"v_d": 0.0, "w_a": 0.0, "w_b": 0.0, "se2": 0.0}
    outcomes = list(itertools.product((0, 1), repeat=4))
    for i, j in itertools.product(range(3), repeat=2):
        for x, y in itertools.product(outcomes, repeat=2):
            chance = weights[i] * weights[j]
            for prompt, draw in ((i, x), (j, y)):
                rates = (rates_a[prompt],) * 2 + (rates_b[prompt],) * 2
                chance *= math.prod(p if r else 1 - p for p, r in zip(rates, draw, strict=True))
            found = compare_models([x[:2], y[:2]], [x[2:], y[2:]])
            expected["v_d"] += chance * found.components.difference
            expected["w_a"] += chance * found.components.response_a
            expected["w_b"] += chance * found.components.response_b
            expected["se2"] += chance * found.difference.standard_error**2
    w_a, w_b = (np.dot(weights, [p * (1 - p) for p in rates]) for rates in (rates_a, rates_b))
    assert expected["v_d"] == pytest.approx(v_d)
    assert (expected["w_a"], expected["w_b"]) == pytest.approx((w_a, w_b))
    assert expected["se2"] == pytest.approx((v_d + w_a / 2 + w_b / 2) / 2)


def test_v_d_of_unequal_numbers_is_unbiased():
    """K_A = (3, 1, 2), K_B = (1, 2, 4) on normal losses, 800 comparisons: within 4 standard errors."""
    rng = np.random.default_rng(1)
    k_a, k_b = np.tile([3, 1, 2], 6), np.tile([1, 2, 4], 6)
    prompts_a, prompts_b = np.repeat(np.arange(18), k_a), np.repeat(np.arange(18), k_b)
    found = []
    for _ in range(800):
        d = 0.7 * rng.normal(size=18)
        a = d[prompts_a] + rng.normal(size=prompts_a.size)
        b = 1.5 * rng.normal(size=prompts_b.size)
        found.append(compare_models(a, b, prompts_a, prompts_b).components.difference)
    assert np.mean(found) == pytest.approx(0.49, abs=4 * np.std(found) / math.sqrt(800))


def test_pairs_are_analysed_as_one_sample():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(50, 6))
    a = rng.normal(size=(50, 1)) + noise + 0.1 * rng.normal(size=(50, 6))
    b = 0.8 * noise + 0.1 * rng.normal(size=(50, 6))
    (la, p), (lb, _) = rows(a), rows(b)
    seeds = np.tile(np.arange(6), 50)
    found = compare_models(la, lb, p, p, seeds)
    pilot = mrt.estimate_components(a - b)
    assert found.components.response == pytest.approx(pilot.components.response)
    assert found.prompt.to_dict() == pytest.approx(pilot.prompt.to_dict())
    assert found.response.to_dict() == pytest.approx(pilot.response.to_dict())
    assert found.response.value < found.response_a.value  # the shared noise cancels
    order = rng.permutation(p.size)
    shuffled = compare_models(la[order], lb, p[order], p, (seeds[order], seeds))
    assert shuffled.prompt.to_dict() == pytest.approx(found.prompt.to_dict())
    assert compare_models(la, lb, p, p).difference.to_dict() == pytest.approx(found.difference.to_dict())


def test_groups_are_the_independent_units():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(20), 3)
    d = rng.normal(size=20)[groups] + 0.3 * rng.normal(size=60)
    a, b = d[:, None] + 0.5 * rng.normal(size=(60, 4)), 0.5 * rng.normal(size=(60, 4))
    (la, p), (lb, _) = rows(a), rows(b)
    found = compare_models(la, lb, p, p, groups=np.repeat(groups, 4))
    means = (a.mean(axis=1) - b.mean(axis=1)).reshape(20, 3).mean(axis=1)
    assert found.difference.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(20))
    assert (found.detectable.degrees_of_freedom, found.n_groups, found.redundancy) == (19, 20, 3)
    both = mrt.PromptSums(
        np.full(60, 4.0),
        a.mean(axis=1) - b.mean(axis=1),
        4 * (a.var(axis=1) + b.var(axis=1)),
        np.arange(0, 60, 3),
    )
    pilot = mrt.estimate_components(both)
    assert found.components.difference == pytest.approx(pilot.components.prompt)
    assert found.components.group == pytest.approx(pilot.components.group)
    assert found.group.low < found.group.value < found.group.high
    assert found.planning.difference == pytest.approx(3 * pilot.components.group + pilot.components.prompt)
    apart = compare_models(la, lb[:-1], p, p[:-1], groups=(np.repeat(groups, 4), np.repeat(groups, 4)[:-1]))
    assert apart.group.value == pytest.approx(found.group.value, rel=0.2)


def test_unequal_numbers_weigh_the_prompts():
    """Weights n / (1 + theta n) at n = (W_A + W_B) / (W_A/K_A + W_B/K_B), and the jackknife over prompts."""
    rng = np.random.default_rng(4)
    k_a, k_b = rng.integers(1, 9, 30), rng.integers(2, 5, 30)
    pa, pb = np.repeat(np.arange(30), k_a), np.repeat(np.arange(30), k_b)
    a, b = rng.normal(size=30)[pa] + rng.normal(size=pa.size), 2 * rng.normal(size=pb.size)
    found = compare_models(a, b, pa, pb)

    def mean(x, p, i):
        return x[p == i].mean()

    d = np.array([mean(a, pa, i) - mean(b, pb, i) for i in range(30)])
    w = [
        sum(((x[p == i] - mean(x, p, i)) ** 2).sum() for i in range(30)) / (p.size - 30)
        for x, p in ((a, pa), (b, pb))
    ]
    n, m, omega = sum(w) / (w[0] / k_a + w[1] / k_b), sum(w), np.ones(30)
    for _ in range(2):
        total = omega.sum()
        c = total - (omega**2).sum() / total
        s = (omega * (d - omega @ d / total) ** 2).sum() / c
        h = ((omega / n).sum() - (omega**2 / n).sum() / total) / c
        omega = n / (1 + max((s - h * m) / m, 0.3) * n)
    share = omega / omega.sum()
    assert found.difference.value == pytest.approx(share @ d)
    without = [np.delete(omega, i) @ np.delete(d, i) / np.delete(omega, i).sum() for i in range(30)]
    error = math.sqrt(29 / 30 * ((np.array(without) - share @ d) ** 2).sum())
    assert found.difference.standard_error == pytest.approx(error)


def test_given_prompts():
    """Of a given benchmark: SE^2 = sum (s_A^2/K_A + s_B^2/K_B) / P^2, and Cochran's two terms of a part of it."""
    a, b = two_models(k_a=4, k_b=3)
    found = compare_models(a, b, population=40)
    noise = a.var(axis=1, ddof=1) / 4 + b.var(axis=1, ddof=1) / 3
    assert found.difference.standard_error**2 == pytest.approx(noise.sum() / 40**2)
    assert found.difference.value == pytest.approx(a.mean() - b.mean())
    scatter = ((a.var(axis=1, ddof=1) / 4) ** 2 / 5 + (b.var(axis=1, ddof=1) / 3) ** 2 / 4).sum()
    assert found.detectable.degrees_of_freedom == pytest.approx(noise.sum() ** 2 / scatter)
    part = compare_models(a, b, population=100)
    square = (a.mean(axis=1) - b.mean(axis=1)).var(ddof=1)
    assert part.difference.standard_error**2 == pytest.approx(0.6 * square / 40 + 0.4 * noise.mean() / 40)
    endless = compare_models(a, b, population=10**9)
    assert endless.difference.standard_error == pytest.approx(
        compare_models(a, b).difference.standard_error, rel=1e-6
    )
    with pytest.raises(InputError, match="40 prompts have one response"):
        compare_models(a[:, :1], b, population=40)
    with pytest.raises(InputError, match="less than the 40 prompts"):
        compare_models(a, b, population=39)


def test_given_prompts_cover():
    """1,000 comparisons on 20 binary prompts, K = 4: 95 % intervals of the difference on these prompts."""
    rng = np.random.default_rng(5)
    rates = rng.uniform(0.1, 0.9, (2, 20))
    target = (rates[0] - rates[1]).mean()
    held = 0
    for _ in range(1000):
        a, b = (rng.random((20, 4)) < r[:, None] for r in rates)
        interval = compare_models(a, b, population=20).difference
        held += interval.low <= target <= interval.high
    assert 0.93 < held / 1000 < 0.97


def test_swapping_the_models_changes_the_sign():
    a, b = two_models(k_a=3, k_b=5)
    found, swapped = compare_models(a, b), compare_models(b, a)
    assert swapped.difference.value == pytest.approx(-found.difference.value)
    assert (swapped.difference.low, swapped.difference.high) == pytest.approx(
        (-found.difference.high, -found.difference.low)
    )
    assert swapped.prompt.to_dict() == pytest.approx(found.prompt.to_dict())
    assert swapped.response_a.to_dict() == pytest.approx(found.response_b.to_dict())
    assert swapped.correlation == pytest.approx(found.correlation)


def test_units_and_location_do_not_matter():
    a, b = two_models()
    found, scaled = compare_models(a, b), compare_models(3 * a + 1000, 3 * b + 1000)
    assert scaled.difference.low == pytest.approx(3 * found.difference.low)
    assert scaled.detectable.difference == pytest.approx(3 * found.detectable.difference)
    assert scaled.prompt.to_dict() == pytest.approx({k: 9 * v for k, v in found.prompt.to_dict().items()})
    assert scaled.correlation == pytest.approx(found.correlation)


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(6)
    (la, pa), (lb, pb) = (rows(x) for x in two_models(k_a=3, k_b=2))
    one, two = rng.permutation(la.size), rng.permutation(lb.size)
    found = compare_models(la, lb, pa, pb)
    shuffled = compare_models(la[one], lb[two], pa[one], pb[two])
    assert shuffled.difference.to_dict() == pytest.approx(found.difference.to_dict())
    named = compare_models(la, lb, [f"q{i}" for i in pa], [f"q{i}" for i in pb])
    assert named.difference.to_dict() == pytest.approx(found.difference.to_dict())


def test_prompts_of_one_model_are_dropped():
    (la, pa), (lb, pb) = (rows(x) for x in two_models())
    kept = compare_models(la[pa < 30], lb[pb >= 5], pa[pa < 30], pb[pb >= 5])
    inner = compare_models(
        *(x[(p >= 5) & (p < 30)] for x, p in ((la, pa), (lb, pb))),
        *(p[(p >= 5) & (p < 30)] for p in (pa, pb)),
    )
    assert (kept.n_prompts, kept.n_dropped, inner.n_dropped) == (25, 15, 0)
    assert kept.difference.to_dict() == pytest.approx(inner.difference.to_dict())


def test_two_dimensional_losses_have_pairs_and_groups_of_their_own():
    a, b = two_models()
    (la, p), (lb, _) = rows(a), rows(b)
    paired, named = compare_models(a, b, pairs=True), compare_models(la, lb, p, p, np.tile(np.arange(4), 40))
    assert paired.response.to_dict() == pytest.approx(named.response.to_dict())
    groups = np.arange(40) // 4
    grouped, named = (
        compare_models(a, b, groups=groups),
        compare_models(la, lb, p, p, groups=np.repeat(groups, 4)),
    )
    assert grouped.group.to_dict() == pytest.approx(named.group.to_dict())


def test_one_response_per_prompt():
    a, b = two_models(k_a=1, k_b=1)
    found = compare_models(a, b)
    assert math.isfinite(found.difference.low)
    assert found.prompt is found.response_a is found.response_b is None
    assert math.isnan(found.correlation)
    error = found.difference.standard_error
    assert found.detectable.large_sample == pytest.approx((1.959964 + 0.841621) * error, rel=1e-6)
    with pytest.raises(InputError, match="model A and model B has one response per prompt"):
        found.planning  # noqa: B018
    a, b = two_models(k_a=1, k_b=3)
    half = compare_models(a, b)
    assert half.response_b is not None
    assert half.prompt is half.response_a is None
    with pytest.raises(InputError, match="model A has one response"):
        half.planning  # noqa: B018
    assert half.difference.standard_error == pytest.approx(
        (a.mean(axis=1) - b.mean(axis=1)).std(ddof=1) / math.sqrt(40)
    )


def test_responses_that_do_not_differ():
    """Greedy decoding: W is 0, not an error; V_D is then the variance of the differences."""
    a, b = two_models(k_a=1, k_b=1)
    found = compare_models(np.repeat(a, 3, axis=1), np.repeat(b, 3, axis=1))
    assert (found.response_a.value, found.response_b.value) == (0, 0)
    assert found.prompt.value == pytest.approx((a - b).var(ddof=1))
    assert found.prompt.low < found.prompt.value < found.prompt.high
    mixed = compare_models(np.repeat(a, 3, axis=1), two_models()[1])
    assert mixed.response_a.value == 0 < mixed.response_b.value
    grouped = compare_models(
        np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(40), 3), np.repeat(np.arange(40), 3),
        groups=np.repeat(np.arange(40) // 2, 3),
    )  # fmt: skip
    assert math.isfinite(grouped.group.value)


def test_no_difference_at_all():
    a, _ = two_models()
    found = compare_models(a, a + 0.1)
    assert found.difference.value == pytest.approx(-0.1)
    assert found.difference.standard_error == 0
    assert math.isnan(found.difference.low)
    assert math.isnan(found.detectable.difference)
    assert "no standard error and no interval" in found.warnings[0]


def test_a_negative_v_d_is_reported_and_warned_of():
    rng = np.random.default_rng(1)
    found = compare_models(rng.normal(size=(60, 4)), rng.normal(size=(60, 4)))
    assert found.components.difference < 0 == found.prompt.low
    assert any("V_D is estimated at -" in warning for warning in found.warnings)
    assert math.isnan(found.correlation)


def test_skewed_differences_are_warned_of():
    rng = np.random.default_rng(1)
    skewed = np.exp(1.3 * rng.normal(size=(200, 1))) + 0.3 * rng.normal(size=(200, 4))
    found = compare_models(skewed, np.zeros((200, 1)) + 0.3 * rng.normal(size=(200, 4)))
    assert any("skewed or far out" in warning for warning in found.warnings)
    normal = compare_models(*two_models(prompts=200))
    assert normal.warnings == ()
    few = compare_models(*two_models(prompts=10)).warnings
    assert any("10 prompts are few" in warning for warning in few)


def test_advantage():
    a, b = two_models()
    found = compare_models(a, b)
    loss, score = found.advantage(), found.advantage(higher_is_better=True)
    assert (loss.value, score.value) == (-found.difference.value, found.difference.value)
    d = a.mean(axis=1) - b.mean(axis=1)
    limit = stats.ttest_1samp(d, 0, alternative="greater").confidence_interval(0.95).low
    assert score.low == pytest.approx(limit)


def test_the_interval_covers_and_has_its_power():
    """20 prompts, normal: coverage and power in 1,500 comparisons; all families are in docs/comparisons.md."""
    rng = np.random.default_rng(7)
    prompts, replicates, k = 20, 1500, 2
    components = mrt.DifferenceComponents(0.3, 1.0, 0.5)
    gap = mrt.detectable_difference(components, prompts, k).difference
    d = gap + math.sqrt(0.3) * rng.normal(size=(replicates, prompts))
    held = shown = 0
    for row in d:
        a = row[:, None] + rng.normal(size=(prompts, k))
        interval = compare_models(a, math.sqrt(0.5) * rng.normal(size=(prompts, k))).difference
        held += interval.low <= gap <= interval.high
        shown += interval.low > 0
    assert held / replicates == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / replicates))
    assert shown / replicates == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / replicates))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_models([[1.0, 2.0]], [[1.0, 2.0]]), "1 prompts in common"),
        (lambda: compare_models([1.0, 2], [1.0, 2], ["a", "b"], ["c", "d"]), "0 prompts in common"),
        (lambda: compare_models([], [1.0], [], [1]), "losses_a is empty"),
        (lambda: compare_models([1.0, math.nan], [1.0, 2], [1, 2], [1, 2]), r"losses_a\[1\] is nan"),
        (lambda: compare_models([1.0, 2], [1.0, 1e200], [1, 2], [1, 2]), "too large"),
        (lambda: compare_models([1.0, 2], [1.0, 2]), "give prompts_a"),
        (lambda: compare_models([1.0, 2], [1.0, 2], [1, 2], [1, 2, 3]), "losses_b has shape"),
        (lambda: compare_models(["x", 2], [1.0, 2], [1, 2], [1, 2]), "losses_a must be numbers"),
        (lambda: compare_models([1.0, 2], [1.0, 2], [1, 2], [1, 2], [1, 1, 1]), "give pairs as"),
        (
            lambda: compare_models([1.0, 2, 3], [1.0, 2], [1, 1, 2], [1, 2], ([5, 5, 5], [5, 5])),
            "pair 5 of prompt 1 has two rows of model A",
        ),
        (
            lambda: compare_models([1.0, 2, 3], [1.0, 2], [1, 1, 2], [1, 2], ([5, 6, 5], [5, 5])),
            "pair 6 of prompt 1 has no row of model B",
        ),
        (lambda: compare_models([1.0, 2], [1.0, 2], [1, 2], [1, 2], groups=[1, 1]), "one group"),
        (lambda: compare_models([1.0, 2], [1.0, 2], [1, 2], [1, 2], groups=[1, 2]), "every group has one"),
        (
            lambda: compare_models([1.0, 2], [1.0, 2], [1, 2], [1, 2], groups=([1, 2], [2, 2])),
            "prompt 1 is in group",
        ),
        (lambda: compare_models(*two_models(), redundancy=2), "needs groups"),
        (lambda: compare_models(*two_models(), pairs=3), "pairs must be labels"),
        (lambda: compare_models(*two_models(), population=40.5), "whole number"),
        (lambda: compare_models(*two_models(), confidence=95), "confidence"),
        (lambda: compare_models(*two_models(), power=0.01), "no difference at all"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
