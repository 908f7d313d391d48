"""How large a pilot: the predicted interval is the printed one, the regret that of the plan made from it."""

import math

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.plan import pilot_design
from mrtsim.plan.pilot_design import effects, plan_regret

COST = mrt.Cost(4.0, 1.0)


@pytest.mark.parametrize(
    ("prompts", "responses", "ratio", "truth"),
    [
        (10, 12, 2.5, 0.281),
        (6, 8, 1.0, 0.494),
        (20, 4, 4.0, 0.655),
        (200, 8, 20.0, 0.139),
        (1_000, 4, 20.0, 0.066),
    ],
)
def test_probability_of_no_upper_limit(prompts, responses, ratio, truth):
    """Known answers of the specification, from 20,000 and more simulated pilots; the last one is a closed form.

    1,000 draws have a standard error of at most 0.016. The F interval would say .060, .102, .506, .114 and .058.
    """
    found = mrt.plan_pilot(ratio, prompts, responses)
    assert found.no_upper_limit == pytest.approx(truth, abs=0.04 if prompts < 1_000 else 0.006)
    assert found.cost is None
    assert found.expected_regret is None


def test_it_describes_what_estimate_components_prints():
    """Against whole pilots of losses, one by one: the share without an upper limit, the median, the refusals."""
    rng, pilots = np.random.default_rng(8), []
    for _ in range(400):
        losses = rng.standard_normal((15, 1)) + math.sqrt(2.0) * rng.standard_normal((15, 5))
        pilots.append(mrt.estimate_components(losses, confidence=0.9))
    found = mrt.plan_pilot(2.0, 15, 5, cost=COST, confidence=0.9)
    share = np.mean([math.isinf(p.ratio.high) for p in pilots])
    assert found.no_upper_limit == pytest.approx(share, abs=4 * math.sqrt(0.25 / 400 + 0.25 / 1_000))
    widths = sorted(p.k_star(COST).high / p.k_star(COST).low for p in pilots)
    assert widths[140] < found.median_ratio_of_limits < widths[260]
    assert found.refused == pytest.approx(np.mean([p.components.prompt <= 0 for p in pilots]), abs=0.03)
    planned = [p.ratio.value for p in pilots if p.components.prompt > 0]
    regret = plan_regret(np.array(planned), 2.0, COST)
    assert found.expected_regret == pytest.approx(regret.mean(), abs=5 * regret.std() / math.sqrt(400))


def test_closed_form_continues_the_simulation(monkeypatch):
    """At 1,000 prompts both ways agree."""
    closed = mrt.plan_pilot(20.0, 1_000, 3, cost=COST)
    monkeypatch.setattr(pilot_design, "CLOSED_FORM", 2_000)
    simulated = mrt.plan_pilot(20.0, 1_000, 3, cost=COST)
    assert closed.no_upper_limit == pytest.approx(simulated.no_upper_limit, abs=0.04)
    assert closed.median_ratio_of_limits == pytest.approx(simulated.median_ratio_of_limits, rel=0.1)
    # The F distribution of the estimates against simulated pilots (log-normal effects that are as good as normal).
    drawn = mrt.plan_pilot(1.0, 60, 8, cost=COST, skewness_x=1e-4)
    exact = mrt.plan_pilot(1.0, 60, 8, cost=COST)
    assert exact.expected_regret == pytest.approx(drawn.expected_regret, rel=0.2)
    assert exact.refused == pytest.approx(drawn.refused, abs=0.01)
    assert mrt.plan_pilot(1e9, 5_000, 2).median_ratio_of_limits == math.inf


def test_skewed_prompts_are_harder():
    """The specification's example: 20 x 8, ratio 1, prompt skewness 6.2 (log-normal, sigma 1): .37 against .002."""
    assert mrt.plan_pilot(1.0, 20, 8, skewness_x=6.2).no_upper_limit == pytest.approx(0.37, abs=0.05)
    assert mrt.plan_pilot(1.0, 20, 8).no_upper_limit < 0.02


def test_large_skewed_pilots_are_drawn_less_often(monkeypatch):
    monkeypatch.setattr(pilot_design, "MOST_VALUES", 10**5)
    drawn = []
    made = pilot_design._pilots
    monkeypatch.setattr(pilot_design, "_pilots", lambda *a: drawn.append(a[-1]) or made(*a))
    found = mrt.plan_pilot(2.0, 300, 3, skewness_x=1.0)
    assert sum(drawn) == 333
    assert 1 < found.median_ratio_of_limits < 3


@pytest.mark.parametrize("skewness", [0.0, 1.0, 6.2, -2.0])
def test_effects_have_their_skewness(skewness):
    """Mean, variance and skewness by integration over the quantiles of the normal behind them."""

    class Quantiles:
        def standard_normal(self, shape):
            from scipy.special import ndtri

            return ndtri((np.arange(shape[0]) + 0.5) / shape[0])

    x = effects(Quantiles(), (4_000_000,), skewness)
    assert x.mean() == pytest.approx(0, abs=1e-3)
    assert x.var() == pytest.approx(1, rel=0.01)
    assert (x**3).mean() == pytest.approx(skewness, rel=0.08, abs=1e-9)


def test_regret_is_that_of_the_plan():
    """Against whole K by search, at a budget so large that N_p is as good as continuous."""
    for truth, cost in ((2.5, COST), (0.3, mrt.Cost(1.0, 2.0)), (40.0, COST)):
        components = mrt.VarianceComponents(1.0, truth)
        best = mrt.allocate(components, cost, budget=1e9).variance
        for guess in (0.1, 1.0, truth, 9.0, 300.0):
            plan = mrt.allocate(mrt.VarianceComponents(1.0, guess), cost, budget=1e9)
            variance = mrt.estimator_variance(components, plan.n_prompts, plan.responses_per_prompt)
            assert plan_regret(np.array([guess]), truth, cost)[0] == pytest.approx(
                variance / best - 1, abs=1e-6
            )
    assert list(plan_regret(np.array([1.0, 9.0]), 2.0, mrt.Cost(0.0, 1.0))) == [0, 0]


def test_resume_adds_prompts_to_the_pilot():
    """More prompts help; adding none is not asked for; the pilot's own losses count."""
    rng = np.random.default_rng(1)
    losses = rng.standard_normal((12, 1)) + 1.5 * rng.standard_normal((12, 6))
    sums = mrt.PromptSums.of(losses)
    few, many = (mrt.plan_pilot(2.25, n, 6, cost=COST, resume=sums) for n in (2, 100))
    assert few.cost == 2 * (4 + 6)
    assert many.expected_regret < few.expected_regret
    assert many.no_upper_limit < few.no_upper_limit
    alone = mrt.plan_pilot(2.25, 100, 6, cost=COST)
    assert many.median_ratio_of_limits == pytest.approx(alone.median_ratio_of_limits, rel=0.2)
    # The units of the pilot do not matter.
    scaled = mrt.plan_pilot(2.25, 2, 6, cost=COST, resume=mrt.PromptSums.of(100 * losses + 7))
    assert scaled.no_upper_limit == few.no_upper_limit
    assert scaled.expected_regret == pytest.approx(few.expected_regret, rel=1e-9)


def test_cheapest_pilot():
    designs = [mrt.plan_pilot(2.5, p, r, cost=COST) for p in (10, 40, 100) for r in (2, 6)]
    found = mrt.cheapest_pilot(designs, 0.03)
    assert found is not None
    good = [d for d in designs if d.expected_regret <= 0.03 and d.refused <= 0.03]
    assert found.cost == min(d.cost for d in good)
    assert mrt.cheapest_pilot(designs, 1e-9) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 10, 4), "ratio is 0.0"),
        ((math.nan, 10, 4), "ratio is nan"),
        ((2.5, 1, 4), "n_prompts is 1; it must be a whole number of at least 2"),
        ((2.5, 10, 1.5), "responses_per_prompt is 1.5"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(mrt.InputError, match=message):
        mrt.plan_pilot(*arguments)


def test_wrong_options():
    grouped = mrt.PromptSums.of(np.arange(8.0).reshape(4, 2) ** 2, groups=[0, 0, 1, 1])
    for options, message in (
        ({"confidence": 95}, "between 0 and 1"),
        ({"skewness_x": math.inf}, "skewness_x is inf"),
        ({"resume": grouped}, "without groups"),
    ):
        with pytest.raises(mrt.InputError, match=message):
            mrt.plan_pilot(2.5, 10, 4, **options)
    with pytest.raises(mrt.InputError, match="depends on the costs"):
        mrt.cheapest_pilot([mrt.plan_pilot(2.5, 10, 4)], 0.1)
    with pytest.raises(mrt.InputError, match="tolerance is 0"):
        mrt.cheapest_pilot([], 0)


def test_an_estimate_is_not_components():
    """`allocate(estimate, ...)` says what to pass."""
    pilot = mrt.estimate_components(np.random.default_rng(0).standard_normal((20, 1)) + np.eye(20)[:, :4])
    for call in (
        lambda: mrt.allocate(pilot, COST, budget=100.0),
        lambda: mrt.optimal_responses(pilot, COST),
        lambda: mrt.estimator_variance(pilot, 10, 2),
    ):
        with pytest.raises(mrt.InputError, match=r"pass estimate\.planning"):
            call()
    assert mrt.allocate(pilot.planning, COST, budget=100.0).n_prompts > 0
