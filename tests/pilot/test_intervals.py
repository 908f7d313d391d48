"""Confidence limits: reference answers, definitions redone from the rows, and every registered method."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import mrtsim as mrt
from mrtsim.pilot.intervals import interval_methods, limits_of, mover
from mrtsim.pilot.mean_squares import response_mean_square, unseen_tail, weighted_mean_squares
from mrtsim.pilot.sums import PromptSums

CASES = json.loads((Path(__file__).parent / "interval_cases.json").read_text(encoding="utf-8"))


def of_case(case):
    sizes = case.get("sizes")
    starts = None if sizes is None else np.cumsum(sizes) - sizes
    arrays = (np.array(case[name], float) for name in ("counts", "means", "within"))
    return PromptSums(*arrays, starts)


@pytest.mark.parametrize("inflate", [False, True])
@pytest.mark.parametrize("case", CASES["ungrouped"] + CASES["grouped"], ids=lambda c: c["losses"])
def test_reference_answers(case, inflate):
    """12 pilots without and 4 with groups: normal, binary, log-normal and t_4 losses, balanced or not."""
    found = limits_of(
        weighted_mean_squares(of_case(case)), 0.95, case.get("redundancy", 1.0), inflate=inflate
    )
    expected = case["with_inflation" if inflate else "without_inflation"]
    assert set(expected) >= {"ratio", "prompt", "response"}
    for name, ends in expected.items():
        ends = [math.inf if end is None else end for end in ends]
        assert [float(end) for end in getattr(found, name)] == pytest.approx(ends, rel=1e-9), name


def leave_out(sums, g):
    """The same pilot without cluster g, from its definition."""
    keep = sums.group_of != g
    starts = None
    if sums.starts is not None:
        starts = np.flatnonzero(np.diff(sums.group_of[keep], prepend=-1))
    return PromptSums(sums.counts[keep], sums.means[keep], sums.within[keep], starts)


def fixed_weight_squares(sums, weights):
    """S, h and M from their definitions, the weights given."""
    w, n, m = weights, sums.counts, sums.means
    degrees = w.sum() - (w**2).sum() / w.sum()
    s = (w * (m - np.average(m, weights=w)) ** 2).sum() / degrees
    h = ((w / n).sum() - (w**2 / n).sum() / w.sum()) / degrees
    return s, h, sums.within.sum() / (n - 1).sum()


def kurtosis_excess(x):
    return ((x - x.mean()) ** 4).mean() / ((x - x.mean()) ** 2).mean() ** 2 - 1


def limits_by_definition(sums, confidence):
    """Limits of the ratio, V_x and V_{y|x} without groups, equal K_i: prompt by prompt, in the words of the method."""
    p, k = sums.n_prompts, sums.counts[0]
    everything = np.ones(p)
    s, h, m = fixed_weight_squares(sums, everything)
    logs = []
    for i in range(p):
        rest = fixed_weight_squares(leave_out(sums, i), np.ones(p - 1))
        logs.append([math.log(rest[0]), math.log(rest[2]), math.log(rest[0] / rest[1] / rest[2])])
    j = (p - 1) / p * p * np.cov(np.array(logs).T, bias=True)
    q = stats.t.ppf((1 + confidence) / 2, p - 1)
    z = (sums.means - sums.means.mean()) / math.sqrt(max(s - h * m, 0) + m / k)
    moments = [(z**r).mean() for r in (2, 3, 4)]
    tail = float(unseen_tail(moments[1] / moments[0] ** 1.5, moments[2] / moments[0] ** 2, p))
    e = []
    for x, kappa, own, least in (
        (z**2, 15.0, j[0, 0], tail),
        ((sums.within - (k - 1) * m) / math.sqrt(k - 1), 3 + 12 / (k - 1), j[1, 1], 0.0),
    ):
        usual = (kappa - 1) * p / (p + 2 * kappa - 5)
        quantiles = stats.t.ppf((1 + confidence) / 2, 2 * (p - 1) / np.array([kurtosis_excess(x), usual]))
        f = min(max(quantiles[0] / quantiles[1], 1.0), 1.5)
        e.append(min(max(least, (f**2 - 1) * own), max((2.5 / q) ** 2 - own, least)))
    s_ends = s * math.exp(-q * math.sqrt(j[0, 0] + tail)), s * math.exp(q * math.sqrt(j[0, 0] + e[0]))
    m_ends = m * math.exp(-q * math.sqrt(j[1, 1])), m * math.exp(q * math.sqrt(j[1, 1] + e[1]))
    f = s / (h * m)
    f_ends = f * math.exp(-q * math.sqrt(j[2, 2] + tail + e[1])), f * math.exp(q * math.sqrt(j[2, 2] + e[0]))
    ratio = [1 / (h * (end - 1)) if end > 1 else math.inf for end in f_ends[::-1]]
    r = max(0.0, -j[0, 1] / math.sqrt((j[0, 0] + tail) * j[1, 1]))
    down = s - s_ends[0], h * (m_ends[1] - m)
    up = s_ends[1] - s, h * (m - m_ends[0])
    prompt = [
        s - h * m - math.sqrt(down[0] ** 2 + down[1] ** 2 + 2 * r * down[0] * down[1]),
        s - h * m + math.sqrt(up[0] ** 2 + up[1] ** 2 + 2 * r * up[0] * up[1]),
    ]
    return {"ratio": ratio, "prompt": prompt, "response": list(m_ends)}, e, r


def test_limits_by_definition():
    """Normal, skewed and 0/1 losses; together they need every part: both inflations, the tail, the correlation."""
    rng, needed = np.random.default_rng(7), np.zeros(3)
    for losses in (
        rng.standard_normal((25, 1)) + rng.standard_normal((25, 4)),
        2 * rng.standard_normal((40, 1)) + np.exp(1.3 * rng.standard_normal((40, 3))),
        np.exp(rng.standard_normal((30, 1))) + 0.4 * rng.standard_normal((30, 6)),
        (rng.random((60, 2)) < rng.beta(2, 2, (60, 1))).astype(float),
    ):
        sums = PromptSums.of(losses)
        expected, inflations, r = limits_by_definition(sums, 0.9)
        found = interval_methods()["weighted"](sums, 0.9, 1.0)
        for name, ends in expected.items():
            assert [float(end) for end in getattr(found, name)] == pytest.approx(ends, rel=1e-9), name
        needed += [inflations[0] > 0, inflations[1] > 0, r > 0]
    assert needed.min() >= 1


def test_mean_squares_without_a_cluster():
    """What the closed forms give for "all but one prompt" is what the data without it give at the same weights."""
    rng = np.random.default_rng(4)
    counts = rng.integers(2, 9, 15).astype(float)
    sums = PromptSums(counts, rng.standard_normal(15), rng.chisquare(counts - 1))
    found = weighted_mean_squares(sums)
    theta = 0.3  # the least value, in both rounds of this pilot
    for _ in range(2):
        weights = counts / (1 + theta * counts) if _ else np.ones(15)
        s, h, m = fixed_weight_squares(sums, weights)
        theta = max((s - h * m) / m, 0.3)
    weights = counts / (1 + theta * counts)
    s, h, m = fixed_weight_squares(sums, weights)
    assert [float(found.between.value), float(found.between_response), float(found.response.value)] == (
        pytest.approx([s, h, m], rel=1e-12)
    )
    for g in range(15):
        s, h, m = fixed_weight_squares(leave_out(sums, g), np.delete(weights, g))
        assert found.between.without[g] == pytest.approx(s, rel=1e-12)
        assert found.between_response_without[g] == pytest.approx(h, rel=1e-12)
        assert found.response.without[g] == pytest.approx(m, rel=1e-12)


def test_expectations_of_the_mean_squares():
    """Unequal K_i and groups: over many normal pilots the mean squares have the expectations that are claimed.

    The weights are estimated, so that the expectations hold up to their error: within 2 %.
    """
    rng = np.random.default_rng(5)
    sizes = np.array([1, 2, 3, 4, 6, 8] * 8)
    counts = rng.integers(1, 7, sizes.sum()).astype(float)
    starts, n = np.cumsum(sizes) - sizes, 8_000
    v_group, v_prompt, v_response = 0.8, 0.5, 1.2
    means = np.repeat(rng.normal(0, math.sqrt(v_group), (n, sizes.size)), sizes, axis=1)
    means += rng.normal(0, np.sqrt(v_prompt + v_response / counts), (n, counts.size))
    within = v_response * np.where(
        counts > 1, rng.chisquare(np.maximum(counts - 1, 1), (n, counts.size)), 0.0
    )
    found = weighted_mean_squares(PromptSums(counts, means, within, starts))
    m, a, b = found.response.value, found.prompts.value, found.between.value
    prompt = a - found.prompt_response * m
    group = b - found.between_prompt * prompt - found.between_response * m
    for estimate, truth in ((m, v_response), (prompt, v_prompt), (group, v_group)):
        assert estimate.mean() == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("name", interval_methods())
def test_many_pilots_at_once(name):
    """Pilots on a leading axis give the limits that each gives alone."""
    rng = np.random.default_rng(0)
    counts = np.array([2.0, 3, 4, 2, 5, 3])
    for starts in (None, np.array([0, 1, 3, 5])):
        means, within = rng.standard_normal((4, 6)), rng.chisquare(counts - 1, (4, 6))
        method = interval_methods()[name]
        together = method(PromptSums(counts, means, within, starts), 0.9, 1.5)
        for i in range(4):
            alone = method(PromptSums(counts, means[i], within[i], starts), 0.9, 1.5)
            for quantity in ("ratio", "icc", "response", "prompt", "group"):
                if getattr(alone, quantity) is None:
                    assert (quantity, starts) == ("group", None)
                    continue
                for left, right in zip(getattr(together, quantity), getattr(alone, quantity), strict=True):
                    np.testing.assert_allclose(left[i], right, rtol=1e-10)


@pytest.mark.parametrize("name", interval_methods())
def test_units_and_confidence(name):
    """Components scale with the square of the unit, ratios not at all; a higher confidence widens every interval."""
    rng = np.random.default_rng(1)
    losses, groups = rng.standard_normal((24, 1)) + rng.standard_normal((24, 5)), np.repeat(np.arange(8), 3)
    for some in (None, groups):
        found = mrt.estimate_components(losses, groups=some, interval=name)
        scaled = mrt.estimate_components(10 * losses + 3, groups=some, interval=name)
        wider = mrt.estimate_components(losses, groups=some, interval=name, confidence=0.99)
        for quantity, factor in (("prompt", 100), ("response", 100), ("ratio", 1), ("icc", 1)):
            one, ten, more = (getattr(e, quantity) for e in (found, scaled, wider))
            assert [ten.low, ten.high] == pytest.approx(
                [factor * one.low, factor * one.high], rel=1e-8, abs=1e-12
            )
            assert more.low <= one.low
            assert more.high >= one.high


def test_f_interval_is_the_textbook_one():
    """Searle, Casella and McCulloch (1992), section 3.6: F and chi-square limits, balanced."""
    rng = np.random.default_rng(2)
    p, k = 15, 4
    losses = 2 * rng.standard_normal((p, 1)) + rng.standard_normal((p, k))
    msb, msw = k * losses.mean(axis=1).var(ddof=1), losses.var(axis=1, ddof=1).mean()
    found = mrt.estimate_components(losses, interval="F")
    f = stats.f.ppf([0.975, 0.025], p - 1, p * (k - 1))
    ends = k / (msb / msw / f[::-1] - 1)  # the upper quantile of F gives the upper end of V_{y|x} / V_x
    assert [found.ratio.low, found.ratio.high] == pytest.approx(list(ends), rel=1e-9)
    chi = stats.chi2.ppf([0.975, 0.025], p * (k - 1))
    assert [found.response.low, found.response.high] == pytest.approx(list(p * (k - 1) * msw / chi), rel=1e-9)


def test_icc_limits_are_those_of_the_ratio_at_one_prompt_per_group():
    rng = np.random.default_rng(1)
    losses, groups = rng.standard_normal((24, 1)) + rng.standard_normal((24, 5)), np.repeat(np.arange(8), 3)
    found = mrt.estimate_components(losses, groups=groups)
    single = mrt.estimate_components(losses, groups=groups, redundancy=1)
    assert [found.icc.low, found.icc.high] == pytest.approx(
        [1 / (1 + single.ratio.high), 1 / (1 + single.ratio.low)], rel=1e-12
    )
    assert found.icc.value == pytest.approx(1 / (1 + single.ratio.value), rel=1e-12)


def test_balanced_counts_need_no_weights():
    """With equal K_i the weights are equal, and without skewness so are the limits of 0.1.0 for the ratio."""
    losses = np.random.default_rng(3).standard_normal((30, 4))
    losses += 2 * stats.norm.ppf((np.arange(30) + 0.5) / 30)[:, None] - losses.mean(axis=1, keepdims=True)
    now, before = (mrt.estimate_components(losses, interval=name) for name in ("weighted", "0.1.0"))
    assert now.ratio.high == pytest.approx(before.ratio.high, rel=1e-9)
    assert now.components == before.components


def test_binary_losses_have_correlated_mean_squares():
    """Two responses of 0 or 1: within = 1/2 exactly where the mean is 1/2, so V_x's interval must widen."""
    rng = np.random.default_rng(6)
    losses = (rng.random((200, 2)) < rng.beta(2, 2, (200, 1))).astype(float)
    now, before = (mrt.estimate_components(losses, interval=name).prompt for name in ("weighted", "0.1.0"))
    assert now.high - now.low > 1.2 * (before.high - before.low)


def test_mover_of_independent_and_of_correlated_terms():
    """Zou and Donner (2008): distances add in squares; a correlation r adds 2 r times their product."""
    x, y = (3.0, (2.0, 5.0)), (1.0, (0.5, 2.0))
    low, high = mover((1.0, *x), (-2.0, *y))
    assert (low, high) == pytest.approx((1 - math.hypot(1, 2), 1 + math.hypot(2, 1)))
    low, high = mover((1.0, *x), (-2.0, *y), correlation=lambda j, k: np.array(-0.5))
    assert (low, high) == pytest.approx((1 - math.sqrt(1 + 4 + 2), 1 + math.sqrt(4 + 1 + 2)))
    same = mover((1.0, *x), (-2.0, *y), correlation=lambda j, k: np.array(0.5))
    assert same == pytest.approx(mover((1.0, *x), (-2.0, *y)))  # what would narrow the interval is left out
    assert mover((0.0, 3.0, (0.0, math.inf)), (1.0, *y)) == pytest.approx((0.5, 2.0))


def test_unseen_tail_is_that_of_a_log_normal():
    """Of a skewness of 6.18 a log-normal (sigma 1) has kurtosis 113.9; nothing is added where the sample shows more."""
    skewness, kurtosis = stats.lognorm.stats(1.0, moments="sk")
    assert float(unseen_tail(skewness, np.array(3.0), 10)) == pytest.approx((kurtosis + 3 - 3) / 10, rel=1e-9)
    assert float(unseen_tail(-skewness, np.array(13.0), 10)) == pytest.approx(
        (kurtosis + 3 - 13) / 10, rel=1e-9
    )
    assert float(unseen_tail(skewness, np.array(200.0), 10)) == 0
    assert float(unseen_tail(0.0, np.array(2.0), 10)) == pytest.approx(0, abs=1e-12)


def test_sums_of_two_models_have_twice_the_degrees_of_freedom():
    """Equal K: kurtosis of a chi-square variable of 2 (K - 1) degrees of freedom, 3 + 12 / (2 (K - 1))."""
    rng = np.random.default_rng(0)
    counts, means = np.full(40_000, 4.0), np.zeros(40_000)
    first, second = (PromptSums(counts, means, rng.chisquare(3, 40_000)) for _ in range(2))
    found = response_mean_square(first, second)
    assert found.normal_kurtosis == pytest.approx(3 + 6 / 3)
    assert float(found.kurtosis) == pytest.approx(3 + 6 / 3, rel=0.1)
    assert float(found.value) == pytest.approx(2, rel=0.02)


def test_methods_are_named():
    assert next(iter(interval_methods())) == "weighted"
    assert set(interval_methods()) >= {"weighted", "0.1.0", "jackknife", "F", "bootstrap"}
    with pytest.raises(mrt.InputError, match=r"choose one of weighted, 0\.1\.0, jackknife, F, bootstrap"):
        mrt.estimate_components(np.eye(4), interval="t")
    with pytest.raises(mrt.InputError, match="already"):
        mrt.register_interval_method("F")(lambda sums, confidence, redundancy: None)


def test_a_method_of_ones_own(monkeypatch):
    from mrtsim.pilot import intervals

    monkeypatch.setattr(intervals, "_methods", dict(interval_methods()))

    @mrt.register_interval_method("everything")
    def everything(sums, confidence, redundancy):
        pair = np.zeros(sums.means.shape[:-1]), np.full(sums.means.shape[:-1], np.inf)
        return intervals.Limits(ratio=pair, icc=pair, response=pair, prompt=pair, group=None)

    found = mrt.estimate_components(np.random.default_rng(0).standard_normal((5, 3)), interval="everything")
    assert (found.response.low, found.response.high) == (0, math.inf)
