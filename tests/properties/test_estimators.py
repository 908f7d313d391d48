"""What must hold of every estimator of the components, on balanced, unbalanced and grouped pilots."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrtsim.errors import InputError
from mrtsim.pilot.estimate import Method, _anova, estimate_components
from mrtsim.pilot.sums import PromptSums
from mrtsim.plan.allocate import Cost

# Responses of each prompt, and the group of each prompt where there are groups.
DESIGNS = {
    "balanced": ((3, 3, 3, 3, 3), None),
    "unbalanced": ((1, 4, 2, 3, 6), None),
    "grouped": ((2, 2, 2, 2, 2, 2), (0, 0, 1, 1, 2, 2)),
    "unbalanced grouped": ((2, 3, 1, 2, 4, 2), (0, 0, 0, 1, 2, 2)),
}
designs = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
some = settings(max_examples=25)
few = settings(max_examples=6)  # for the likelihoods: 10 ms to 100 ms per estimate
methods = pytest.mark.parametrize("method", get_args(Method))


def labels(design):
    counts, group_of = design
    prompts = np.repeat(np.arange(len(counts)), counts)
    return prompts, None if group_of is None else np.array(group_of)[prompts]


@st.composite
def pilots(draw, design):
    """Losses with effects of groups, of prompts and of responses: small whole numbers, so that ties are common."""
    prompts, groups = labels(design)
    small = st.integers(-5, 5)
    effect = np.array(draw(st.lists(small, min_size=6, max_size=6)))
    own = np.array(draw(st.lists(small, min_size=prompts.size, max_size=prompts.size)))
    losses = draw(st.integers(0, 3)) * effect[prompts] + own + 0.0
    if groups is not None:
        losses += draw(st.integers(0, 3)) * np.array(draw(st.lists(small, min_size=6, max_size=6)))[groups]
    return losses


def estimate(losses, prompts, groups, method, **options):
    """The estimate, where the pilot is not degenerate."""
    try:
        return estimate_components(losses, prompts, groups=groups, method=method, **options)
    except InputError:
        assume(False)


def values(found):
    return np.array([found.components.prompt, found.components.response, found.components.group])


def close(left, right, losses, *, likelihood):
    """Equal up to rounding; a likelihood that is flat at its top is located to fewer digits."""
    scale = np.ptp(losses) ** 2
    np.testing.assert_allclose(
        left, right, rtol=1e-4 if likelihood else 1e-9, atol=scale * (1e-4 if likelihood else 1e-12)
    )


@methods
@designs
@few
@given(st.data(), st.sampled_from([-4.0, 0.25, 1024.0]), st.integers(-50, 50))
def test_units_location_labels_and_order_do_not_matter(method, design, data, unit, shift):
    losses = data.draw(pilots(design))
    prompts, groups = labels(design)
    found = estimate(losses, prompts, groups, method)
    order = np.array(data.draw(st.permutations(range(losses.size))))
    names = np.array(["b", "a", "f", "d", "c", "e"])
    moved = estimate(
        unit * (losses + shift)[order],
        names[prompts][order],
        None if groups is None else names[groups][order],
        method,
    )
    likelihood = method != "anova"
    close(values(moved) / unit**2, values(found), losses, likelihood=likelihood)
    assert moved.mean == pytest.approx(unit * (found.mean + shift), rel=1e-9, abs=1e-9)
    assert moved.standard_error == pytest.approx(abs(unit) * found.standard_error, rel=1e-9, abs=1e-9)
    # The limits do not rest on the likelihood, except where they give way to its estimate.
    if method == "anova":
        for name in ("ratio", "icc"):
            here, there = getattr(found, name), getattr(moved, name)
            assert there.low == pytest.approx(here.low, rel=1e-6, abs=1e-9)
            assert there.high == pytest.approx(here.high, rel=1e-6, abs=1e-9)


@methods
@designs
@few
@given(st.data())
def test_intervals_hold_the_estimate_and_widen_with_confidence(method, design, data):
    losses = data.draw(pilots(design))
    found = estimate(losses, *labels(design), method)
    wider = estimate(losses, *labels(design), method, confidence=0.99)
    for name in ("prompt", "response", "group", "ratio", "icc"):
        inner, outer = getattr(found, name), getattr(wider, name)
        if inner is None:
            assert name == "group"
            assert labels(design)[1] is None
            continue
        assert 0 <= inner.low <= max(0.0, inner.value) <= inner.high
        assert outer.low <= inner.low * (1 + 1e-12)
        assert outer.high >= inner.high * (1 - 1e-12)
    assert found.icc.high <= 1
    if method != "anova":
        assert values(found).min() >= 0
    # K* is the root of the ratio times that of the prices' ratio, at each end.
    k_star, dearer = (found.k_star(Cost(price, 1.0)) for price in (1.0, 9.0))
    for end in ("low", "value", "high"):
        ratio = getattr(found.ratio, end)
        assert getattr(k_star, end) == pytest.approx(math.sqrt(ratio))
        assert getattr(dearer, end) == pytest.approx(3 * math.sqrt(ratio))
    for k in (1, 3):
        assert found.largest_regret(k, Cost(4.0, 1.0)) >= 0


def sums_of_squares(losses, prompts, groups):
    """Between groups, of prompts within groups, and of responses within prompts, from the rows."""
    prompt_mean = np.array([losses[prompts == p].mean() for p in prompts])
    if groups is None:
        return 0.0, np.sum((prompt_mean - losses.mean()) ** 2), np.sum((losses - prompt_mean) ** 2)
    group_mean = np.array([losses[groups == g].mean() for g in groups])
    return (
        np.sum((group_mean - losses.mean()) ** 2),
        np.sum((prompt_mean - group_mean) ** 2),
        np.sum((losses - prompt_mean) ** 2),
    )


@some
@given(st.data())
def test_anova_shares_out_the_whole_sum_of_squares(data):
    """In balanced pilots degrees of freedom times expected mean squares, at the estimates, add up to the total."""
    for design, k, r in ((DESIGNS["balanced"], 3, 1), (DESIGNS["grouped"], 2, 2)):
        losses = data.draw(pilots(design))
        prompts, groups = labels(design)
        c = estimate(losses, prompts, groups, "anova").components
        p = prompts.max() + 1
        g = p if groups is None else groups.max() + 1
        expected = p * (k - 1) * c.response
        if groups is None:
            expected += (p - 1) * (k * c.prompt + c.response)
        else:
            expected += g * (r - 1) * (k * c.prompt + c.response)
            expected += (g - 1) * (k * r * c.group + k * c.prompt + c.response)
        assert expected == pytest.approx(np.sum((losses - losses.mean()) ** 2), rel=1e-10)
        assert expected == pytest.approx(sum(sums_of_squares(losses, prompts, groups)), rel=1e-10)
        if groups is not None:
            # Leaving the groups out loses V_g (r - 1)/(P - 1) of V_x: prompts of a group are not independent.
            plain = estimate(losses, prompts, None, "anova").components
            assert plain.response == pytest.approx(c.response)
            assert plain.prompt == pytest.approx(
                c.prompt + c.group * (1 - (r - 1) / (p - 1)), rel=1e-9, abs=1e-9
            )


@some
@given(st.data())
def test_balanced_likelihood_estimates_have_their_closed_forms(data):
    """Searle, Casella, McCulloch 1992, section 4.7: MSB and MSW, ML with P for P - 1, and the boundary V_x = 0."""
    losses = data.draw(pilots(DESIGNS["balanced"]))
    prompts, _ = labels(DESIGNS["balanced"])
    _, between, within = sums_of_squares(losses, prompts, None)
    p, k = 5, 3
    for method, degrees in (("reml", p - 1), ("ml", p)):
        c = estimate(losses, prompts, None, method).components
        msw, top = within / (p * (k - 1)), between / degrees
        boundary = 0.0, (between + within) / (degrees + p * (k - 1))
        expected = ((top - msw) / k, msw) if top > msw else boundary
        assert (c.prompt, c.response) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def log_likelihood(losses, prompts, groups, components, restricted):
    """Of the normal model, from the whole covariance matrix; the mean is estimated."""
    v_prompt, v_response, v_group = components
    sigma = v_response * np.eye(losses.size) + v_prompt * (prompts[:, None] == prompts)
    if groups is not None:
        sigma = sigma + v_group * (groups[:, None] == groups)
    one = np.ones(losses.size)
    inverse = np.linalg.inv(sigma)
    information = one @ inverse @ one
    rest = losses - (one @ inverse @ losses) / information
    value = np.linalg.slogdet(sigma)[1] + rest @ inverse @ rest
    return -0.5 * (value + restricted * math.log(information))


@pytest.mark.parametrize("method", ["ml", "reml"])
@designs
@few
@given(st.data())
def test_no_other_components_are_more_likely(method, design, data):
    losses = data.draw(pilots(design))
    prompts, groups = labels(design)
    found = values(estimate(losses, prompts, groups, method))
    factors = st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.01, 1.1, 3.0])
    others = st.tuples(factors, factors.filter(bool), factors if groups is not None else st.just(1.0))
    best = log_likelihood(losses, prompts, groups, found, method == "reml")
    for other in data.draw(st.lists(others, min_size=5, max_size=5)):
        # relative steps, and from the boundary into the inside
        moved = found * other + 0.05 * found[1] * (np.array(other) > 1) * (found == 0)
        assert log_likelihood(losses, prompts, groups, moved, method == "reml") <= best + 1e-6


two_points = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9))


@pytest.mark.parametrize("counts", [(2, 2), (1, 2), (3, 1, 2), (2, 2, 2)])
@settings(max_examples=12)
@given(st.tuples(two_points, two_points), st.integers(1, 9))
def test_anova_is_unbiased_by_enumeration(counts, kinds, share):
    """Every pilot of two kinds of prompts with two possible losses each: skewed and heteroscedastic at will."""
    shares = np.array([share, 10 - share]) / 10
    chances = np.array([[weight, 10 - weight] for _, _, weight in kinds]) / 10
    losses = np.array([[low, high] for low, high, _ in kinds], float)
    mean = (chances * losses).sum(axis=1)
    spread = (chances * losses**2).sum(axis=1) - mean**2
    truth = [shares @ mean**2 - (shares @ mean) ** 2, shares @ spread]

    def outcomes(k):
        for kind, draws in itertools.product(range(2), itertools.product(range(2), repeat=k)):
            rows = losses[kind, list(draws)]
            yield (
                shares[kind] * chances[kind, list(draws)].prod(),
                rows.mean(),
                np.sum((rows - rows.mean()) ** 2),
            )

    expectation = np.zeros(2)
    for chosen in itertools.product(*(list(outcomes(k)) for k in counts)):
        chance, means, within = np.array(chosen).T
        c = _anova(PromptSums(np.array(counts, float), means, within))
        expectation += chance.prod() * np.array([c.prompt, c.response])
    np.testing.assert_allclose(expectation, truth, rtol=1e-9, atol=1e-9)
