"""Crossed pilots: known answers, definitions, unbiasedness, coverage, and the test for judges nobody mentioned."""

import math

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.cells import Cells, henderson_components
from mrtsim.pilot.common_judges import (
    _effects,
    _one_mean_per_judge,
    cells_by_column,
    common_judge_warnings,
    judge_test,
)
from mrtsim.pilot.crossed import (
    crossed_components,
    crossed_limits,
    estimate_crossed,
    mean_squares,
    mean_uncertainty,
    table_mean_squares,
)

# Diameter in mm of the zone of inhibition, 24 plates x 6 penicillin samples: Davies and Goldsmith (1972), table 6.6,
# as shipped with R's lme4 under the name Penicillin.
PENICILLIN = np.array(
    [
        [27, 23, 26, 23, 23, 21],
        [27, 23, 26, 23, 23, 21],
        [25, 21, 25, 24, 24, 20],
        [26, 23, 25, 23, 23, 20],
        [25, 22, 26, 22, 23, 20],
        [24, 22, 25, 23, 22, 19],
        [24, 20, 23, 21, 22, 19],
        [26, 22, 26, 24, 24, 21],
        [24, 21, 24, 22, 22, 20],
        [24, 21, 24, 23, 22, 19],
        [26, 23, 26, 24, 24, 21],
        [25, 22, 26, 24, 24, 20],
        [26, 24, 26, 24, 25, 22],
        [26, 23, 26, 23, 23, 20],
        [26, 23, 25, 24, 24, 22],
        [25, 22, 25, 23, 23, 20],
        [25, 21, 24, 23, 23, 20],
        [25, 22, 24, 23, 23, 19],
        [24, 21, 23, 21, 21, 19],
        [26, 23, 26, 24, 24, 21],
        [25, 21, 24, 22, 22, 18],
        [25, 22, 25, 22, 22, 20],
        [24, 21, 24, 22, 24, 19],
        [24, 21, 24, 22, 21, 18],
    ]
)
# 6 targets x 4 judges: Shrout and Fleiss (1979), table 2.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)
# 10 persons x 12 items: Brennan (2001), synthetic data set 1.
BRENNAN = np.array(
    [
        [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
# 12 persons x 6 items with empty cells: Brennan (2001), chapter 7, as in the tests of the package GeneralizIT.
NO = math.nan
BRENNAN_MISSING = np.array(
    [
        [1, 1, 1, 1, 0, 1],
        [1, 0, 1, 1, 1, 1],
        [NO, 1, 1, 1, 0, 0],
        [0, NO, NO, 1, 0, 1],
        [1, NO, 0, 1, 0, NO],
        [1, 1, 1, 1, 0, 1],
        [0, NO, 1, NO, 0, 0],
        [0, NO, 1, 1, 1, 1],
        [1, 1, 0, 1, NO, 0],
        [NO, 0, 0, 0, NO, 0],
        [1, 1, 1, 1, 1, 1],
        [NO, 0, NO, 0, 0, 1],
    ]
)


def squares_of(table):
    table = np.asarray(table, float)
    return mean_squares(table, np.zeros(table.shape), 1)


def rows_of(table):
    prompts, judges = np.nonzero(np.isfinite(table))
    return table[prompts, judges], prompts, judges


def test_penicillin():
    squares = squares_of(PENICILLIN)
    assert [round(value, 6) for value in squares[:3]] == [4.603865, 89.844444, 0.302415]
    pilot = estimate_crossed(PENICILLIN, None, list("ABCDEF"))
    c = pilot.components
    assert [round(v, 6) for v in (c.prompt, c.judge, c.response)] == [0.716908, 3.730918, 0.302415]
    assert round(pilot.mean, 5) == 22.97222
    assert round(pilot.standard_error, 6) == 0.808573
    assert round(mean_uncertainty(squares, 24, 6, 1)[1], 3) == 5.487
    fixed = estimate_crossed(PENICILLIN, None, list("ABCDEF"), fixed_judges=True)
    assert round(fixed.standard_error, 6) == 0.178805
    assert fixed.components == c
    t = 2.0687  # of 23 degrees of freedom
    assert fixed.mean_interval.high == pytest.approx(fixed.mean + t * fixed.standard_error, rel=1e-5)
    for estimate in (pilot.prompt, pilot.judge, pilot.response):
        assert 0 < estimate.low < estimate.value < estimate.high < math.inf
    assert pilot.interaction is None


def test_penicillin_agrees_with_statsmodels():
    import warnings

    import pandas as pd
    from statsmodels.regression.mixed_linear_model import MixedLM

    losses, plates, samples = rows_of(PENICILLIN.astype(float))
    data = pd.DataFrame({"loss": losses, "plate": plates, "sample": samples, "all": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM.from_formula(
            "loss ~ 1",
            data,
            groups="all",
            re_formula="0",
            vc_formula={"plate": "0 + C(plate)", "sample": "0 + C(sample)"},
        ).fit()
    c = estimate_crossed(losses, plates, samples).components
    assert c.prompt == pytest.approx(fit.vcomp[0], rel=1e-3)
    assert c.judge == pytest.approx(fit.vcomp[1], rel=1e-3)
    assert c.response == pytest.approx(fit.scale, rel=1e-3)


def test_shrout_and_fleiss():
    squares = squares_of(SHROUT_FLEISS)
    assert [round(value, 4) for value in squares[:3]] == [11.2417, 32.4861, 1.0194]
    c = estimate_crossed(SHROUT_FLEISS, None, range(4)).components
    one_way = mrt.estimate_components(SHROUT_FLEISS)
    assert round(one_way.icc.value, 3) == 0.166  # ICC(1, 1)
    assert round(c.prompt / (c.prompt + c.judge + c.response), 3) == 0.290  # ICC(2, 1)
    assert round(c.prompt / (c.prompt + c.response), 3) == 0.715  # ICC(3, 1)


def test_brennan():
    squares = squares_of(BRENNAN)
    assert [round(value, 4) for value in squares[:3]] == [0.8157, 0.8811, 0.1269]
    c = estimate_crossed(BRENNAN, None, range(12)).components
    assert [round(v, 4) for v in (c.prompt, c.judge, c.response)] == [0.0574, 0.0754, 0.1269]
    relative, absolute = c.response / 12, (c.judge + c.response) / 12  # sigma^2(delta), sigma^2(Delta)
    assert round(c.prompt / (c.prompt + relative), 3) == 0.844
    assert round(c.prompt / (c.prompt + absolute), 3) == 0.773


def test_brennan_with_missing_cells():
    pilot = estimate_crossed(*rows_of(BRENNAN_MISSING))
    c = pilot.components
    assert [round(v, 4) for v in (c.prompt, c.judge, c.response)] == [0.0473, 0.0117, 0.1840]
    assert math.isnan(pilot.standard_error)
    assert math.isnan(pilot.prompt.low)
    assert math.isnan(pilot.judge.high)
    assert pilot.responses_per_cell is None
    assert "13 of 72 cells are empty" in pilot.warnings[0]
    assert "4 of 12 prompts were seen by every judge" in pilot.warnings[0]


def test_henderson_is_the_analysis_of_variance_where_complete():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(9, 1, 1)) + rng.normal(size=(1, 4, 1)) + rng.normal(size=(9, 4, 3))
    prompts, judges, _ = (index.ravel() for index in np.indices(table.shape))
    complete = estimate_crossed(table.ravel(), prompts, judges).components
    general = henderson_components(Cells.of(table.ravel(), prompts, judges))
    for name, value in vars(complete).items():
        assert getattr(general, name) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("replicated", [False, True])
def test_henderson_is_unbiased(replicated):
    """The estimate is quadratic: its mean is sum over pairs of effects, by one pass over unit effects."""
    rng = np.random.default_rng(4)
    cells = np.argwhere(rng.random((7, 5)) < 0.7)
    repeats = rng.integers(1, 4, len(cells)) if replicated else np.ones(len(cells), int)
    prompts, judges = np.repeat(cells, repeats, axis=0).T
    cell = np.repeat(np.arange(len(cells)), repeats)

    def estimate(losses):
        return np.array(list(vars(henderson_components(Cells.of(losses, prompts, judges))).values()))

    def expected(code):
        """Mean of the estimate where the effects of `code` are independent with variance 1, and there is no other."""
        return sum(estimate((code == level).astype(float)) for level in np.unique(code))

    found = [expected(code) for code in (prompts, judges, cell, np.arange(cell.size))]
    if replicated:
        assert np.array(found) == pytest.approx(np.eye(4), abs=1e-9)
    else:  # the cells are the responses
        assert np.array(found)[[0, 1, 3]] == pytest.approx(np.eye(4)[[0, 1, 3]], abs=1e-9)


def test_table_without_each_row():
    rng = np.random.default_rng(5)
    table = rng.normal(size=(7, 4))
    squares = table_mean_squares(table)
    for row in range(7):
        rest = table_mean_squares(np.delete(table, row, axis=0))
        assert squares.between.without[row] == pytest.approx(float(rest.between.value), rel=1e-12)
        assert squares.response.without[row] == pytest.approx(float(rest.response.value), rel=1e-12)
    anova = squares_of(table)
    assert 4 * float(squares.between.value) == pytest.approx(anova.prompt)
    assert float(squares.response.value) == pytest.approx(anova.interaction)


def simulate(rng, sets, n, j, k, components):
    v_p, v_j, v_pj, v_r = components
    return (
        rng.normal(0, v_p**0.5, (sets, n, 1, 1))
        + rng.normal(0, v_j**0.5, (sets, 1, j, 1))
        + rng.normal(0, v_pj**0.5, (sets, n, j, 1))
        + rng.normal(0, v_r**0.5, (sets, n, j, k))
    )


@pytest.mark.parametrize(
    ("n", "j", "k", "components"),
    [
        (10, 3, 1, (1.0, 0.3, 0.0, 2.0)),
        (60, 8, 1, (1.0, 0.3, 0.0, 2.0)),
        (20, 5, 3, (0.1, 0.1, 0.5, 1.0)),
        (30, 10, 2, (0.5, 0.2, 0.2, 1.0)),
    ],
)
def test_intervals_cover_with_normal_effects(n, j, k, components):
    """Nominal 95 %: 2,000 tables have a standard error of 0.5 points."""
    sets = 2000
    losses = simulate(np.random.default_rng([7, n, j, k]), sets, n, j, k, components)
    means = losses.mean(-1)
    within = ((losses - means[..., None]) ** 2).sum((-1, -2))
    limits = crossed_limits(means, within, k, 0.95)
    truth = {
        "prompt": components[0],
        "judge": components[1],
        "interaction": components[2],
        "response": components[2] + components[3] if k == 1 else components[3],
    }
    for name, pair in limits._asdict().items():
        if pair is not None:
            low, high = pair
            covered = np.mean((np.maximum(low, 0) <= truth[name]) & (truth[name] <= high))
            assert covered >= 0.925, name
    held = 0
    for table, inside in zip(means, within, strict=True):
        error, freedom = mean_uncertainty(mean_squares(table, inside, k), n, j, k)
        held += abs(table.mean()) <= mrt.estimates.t_quantile(freedom) * error
    assert 0.925 <= held / sets <= 0.985


def test_squares_have_their_expectations():
    n, j, k, components = 6, 4, 3, (0.7, 0.4, 0.3, 0.9)
    losses = simulate(np.random.default_rng(8), 20_000, n, j, k, components)
    means = losses.mean(-1)
    within = ((losses - means[..., None]) ** 2).sum(-1)
    found = np.array(
        [
            list(vars(crossed_components(mean_squares(m, w, k), n, j, k)).values())
            for m, w in zip(means, within, strict=True)
        ]
    )
    error = found.std(0, ddof=1) / len(found) ** 0.5
    assert np.all(np.abs(found.mean(0) - components) < 4 * error)


def test_estimate_components_takes_judges():
    pilot = mrt.estimate_components(PENICILLIN, judges=list("ABCDEF"))
    assert pilot == estimate_crossed(PENICILLIN, None, list("ABCDEF"))
    losses, plates, samples = rows_of(PENICILLIN.astype(float))
    assert mrt.estimate_components(losses, plates, judges=samples, fixed_judges=True).fixed_judges
    for arguments in ({"groups": plates}, {"method": "reml"}, {"redundancy": 2.0}, {"interval": "F"}):
        with pytest.raises(mrt.InputError, match="judges go with"):
            mrt.estimate_components(losses, plates, judges=samples, **arguments)
    with pytest.raises(mrt.InputError, match="no longer tell the judges apart"):
        mrt.estimate_components(mrt.PromptSums.of(losses, plates), judges=samples)
    with pytest.raises(mrt.InputError, match="needs judges"):
        mrt.estimate_components(losses, plates, fixed_judges=True)


def test_columns_that_differ_alike_are_pointed_out():
    """A 2-D array's columns are no evidence of common judges by themselves, but they are when F rejects."""
    (warning,) = (w for w in mrt.estimate_components(PENICILLIN).warnings if "differ alike" in w)
    assert "same column differ alike in all prompts" in warning
    assert "judges=range(6)" in warning
    noise = np.random.default_rng(15).normal(size=(24, 6))
    assert not any("differ alike" in w for w in mrt.estimate_components(noise).warnings)
    losses, plates, _ = rows_of(PENICILLIN.astype(float))
    assert not any("differ alike" in w for w in mrt.estimate_components(losses, plates).warnings)


def test_units_location_and_order():
    rng = np.random.default_rng(9)
    table = simulate(rng, 1, 12, 6, 2, (1.0, 0.5, 0.2, 1.0))[0]
    prompts, judges, _ = (index.ravel() for index in np.indices(table.shape))
    names = np.array([f"judge {j}" for j in judges])
    one = estimate_crossed(table.ravel(), prompts, names)
    order = rng.permutation(table.size)
    other = estimate_crossed(1e6 + 10 * table.ravel()[order], prompts[order], names[order])
    for name in ("prompt", "judge", "interaction", "response"):
        a, b = getattr(one, name), getattr(other, name)
        assert [b.value, b.low, b.high] == pytest.approx([100 * a.value, 100 * a.low, 100 * a.high], rel=1e-6)
    assert other.standard_error == pytest.approx(10 * one.standard_error, rel=1e-6)
    assert other.mean == pytest.approx(1e6 + 10 * one.mean, rel=1e-12)


def test_what_is_refused():
    rng = np.random.default_rng(10)
    table = rng.normal(size=(6, 3))
    losses, prompts, judges = rows_of(table)
    for arguments, message in (
        ((losses, prompts, np.zeros(18)), "one judge"),
        ((losses, np.zeros(18), judges), "one prompt"),
        ((losses, prompts, np.arange(18)), "every judge saw one prompt"),
        ((table, prompts, judges), "one number per response"),
        ((losses, None, judges), "losses of shape"),
        ((table, None, [0, 1]), "2 labels"),
        ((np.where(losses > 9, losses, np.nan), prompts, judges), "finite"),
        ((np.arange(18.0) % 3, prompts, judges), "a copy"),
    ):
        with pytest.raises(mrt.InputError, match=message):
            estimate_crossed(*arguments)
    with pytest.raises(mrt.InputError, match="each response repeated"):
        estimate_crossed(np.tile(losses, 2), np.tile(prompts, 2), np.tile(judges, 2))
    with pytest.raises(mrt.InputError, match="confidence"):
        estimate_crossed(table, None, range(3), confidence=95)
    with pytest.raises(mrt.InputError, match="too few prompts share judges"):
        estimate_crossed([1.0, 2.0, 3.0, 5.0], [0, 1, 2, 3], [0, 0, 1, 1])


# The test for judges that nobody mentioned


def test_judge_test_is_the_f_test_of_the_table():
    squares = squares_of(PENICILLIN)
    test = judge_test(Cells.of(*rows_of(PENICILLIN.astype(float))))
    assert test is not None
    assert test.f == pytest.approx(squares.judge / squares.interaction, rel=1e-9)
    assert test.freedom == (5, 115)
    # as least squares has it, which takes the place of the means where cells are empty
    cells = Cells.of_table(PENICILLIN.astype(float))
    residual = PENICILLIN - PENICILLIN.mean(1, keepdims=True)
    for found in (_effects(cells, residual.ravel()), _one_mean_per_judge(cells, residual.ravel())):
        assert found == (5, pytest.approx(squares.interaction * 115, rel=1e-9))


def test_judge_test_with_missing_cells_is_that_of_the_linear_model():
    losses, prompts, judges = rows_of(BRENNAN_MISSING)
    test = judge_test(Cells.of(losses, prompts, judges))
    assert test is not None

    def residual(*codes):
        design = np.concatenate([code[:, None] == np.unique(code) for code in codes], axis=1).astype(float)
        fitted = design @ np.linalg.lstsq(design, losses, rcond=None)[0]
        return ((losses - fitted) ** 2).sum(), losses.size - np.linalg.matrix_rank(design)

    (one, freedom_one), (two, freedom_two) = residual(prompts), residual(prompts, judges)
    assert test.freedom == (freedom_one - freedom_two, freedom_two)
    assert test.f == pytest.approx((one - two) / test.freedom[0] / (two / freedom_two), rel=1e-8)


def test_no_test_without_common_judges():
    losses = np.random.default_rng(11).normal(size=12)
    prompts = np.repeat(np.arange(4), 3)
    assert judge_test(Cells.of(losses, prompts, np.arange(12))) is None
    assert judge_test(Cells.of(losses, prompts, prompts)) is None


LAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "log-normal": lambda rng, size: rng.lognormal(size=size),
    "log-normal 1.5": lambda rng, size: rng.lognormal(sigma=1.5, size=size),
    "t": lambda rng, size: rng.standard_t(4, size=size),
    "binary": lambda rng, size: (rng.random(size) < rng.beta(2, 2, (*size[:-1], 1))).astype(float),
    "rare": lambda rng, size: (rng.random(size) < rng.beta(0.2, 2, (*size[:-1], 1))).astype(float),
    "heteroscedastic": lambda rng, size: rng.normal(size=size) * rng.lognormal(size=(*size[:-1], 1)),
}


def false_alarms(law, n, j, sets, seed):
    losses = LAWS[law](np.random.default_rng(seed), (sets, n, j))
    prompts, judges = np.repeat(np.arange(n), j), np.tile(np.arange(j), n)
    alarms = 0
    for table in losses:
        test = judge_test(Cells.of(table.ravel(), prompts, judges))
        alarms += test is not None and test.p_value < 0.01
    return alarms / sets


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_are_rare(law):
    """At most 1.5 % where no judge is common: 1,000 tables, with four standard errors of allowance."""
    assert false_alarms(law, 30, 4, 1000, [12, len(law)]) <= 0.015 + 4 * (0.01 * 0.99 / 1000) ** 0.5


@pytest.mark.stress
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("n", "j"), [(10, 2), (10, 8), (60, 8), (200, 4), (50, 32)])
def test_false_alarms_are_rare_in_many_tables(law, n, j):
    assert false_alarms(law, n, j, 4000, [13, n, j, len(law)]) <= 0.015 + 2 * (0.01 * 0.99 / 4000) ** 0.5


def test_the_warning_names_the_column_and_the_other_error():
    losses, plates, samples = rows_of(PENICILLIN.astype(float))
    columns = cells_by_column(losses, plates, {"sample": samples, "seed": np.arange(losses.size)})
    (warning,) = common_judge_warnings(
        columns, remedy=lambda column: f"say --judge-column {column}", standard_error=0.178805
    )
    assert "responses with the same sample differ alike in all prompts (F = 297 on 5 and 115" in warning
    assert "0.179 is wrong (0.809 if they are a sample)" in warning
    assert warning.endswith("say --judge-column sample")
    quiet = np.random.default_rng(14).normal(size=losses.size)
    columns = cells_by_column(quiet, plates, {"sample": samples})
    assert not list(common_judge_warnings(columns, remedy=str, standard_error=0.1))
