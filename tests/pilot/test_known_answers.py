"""Published data sets and the answers of other programs to them."""

import math

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.intervals import interval_method
from mrtsim.pilot.mean_squares import weighted_mean_squares
from mrtsim.pilot.sums import PromptSums

# Travel time in nanoseconds of ultrasound in 6 railway rails x 3 measurements: Devore (2000), as shipped with R's nlme.
RAIL = [[55, 53, 54], [26, 37, 32], [78, 91, 85], [92, 100, 96], [49, 51, 50], [80, 85, 83]]
# Simulated yields, 6 batches x 5: Box and Tiao (1973), table 5.1.4, as shipped with R's lme4 under the name Dyestuff2.
DYESTUFF2 = [
    [7.298, 3.846, 2.434, 9.566, 7.99],
    [5.22, 6.556, 0.608, 11.788, -0.892],
    [0.11, 10.386, 13.434, 5.51, 8.166],
    [2.212, 4.852, 7.092, 9.288, 4.98],
    [0.282, 9.014, 4.458, 9.446, 7.198],
    [1.722, 4.782, 8.106, 0.758, 3.758],
]
# Strength of a paste product, 10 batches x 3 casks x 2 samples: Davies and Goldsmith (1972), table 6.3, as shipped with
# R's lme4 under the name Pastes.
PASTES = np.array(
    [
        [62.8, 62.6, 60.1, 62.3, 62.7, 63.1],
        [60.0, 61.4, 57.5, 56.9, 61.1, 58.9],
        [58.7, 57.5, 63.9, 63.1, 65.4, 63.7],
        [57.1, 56.4, 56.9, 58.6, 64.7, 64.5],
        [55.1, 55.1, 54.7, 54.2, 58.8, 57.5],
        [63.4, 64.9, 59.3, 58.1, 60.5, 60.0],
        [62.5, 62.6, 61.0, 58.7, 56.9, 57.7],
        [59.2, 59.4, 65.2, 66.0, 64.8, 64.1],
        [54.8, 54.8, 64.0, 64.0, 57.7, 56.8],
        [58.3, 59.3, 59.2, 59.2, 58.9, 56.6],
    ]
).reshape(30, 2)
# Synthetic data set 2 of Brennan (2001), Generalizability Theory: 8 items nested in each of 10 persons.
BRENNAN_2 = np.array(
    [
        [2, 4, 5, 5, 4, 4, 2, 3, 0, 6],
        [6, 5, 5, 9, 3, 4, 6, 4, 5, 8],
        [7, 6, 4, 8, 5, 4, 6, 4, 4, 7],
        [5, 7, 6, 6, 6, 7, 5, 5, 5, 6],
        [2, 6, 5, 5, 4, 6, 2, 6, 5, 6],
        [5, 7, 4, 7, 5, 4, 7, 6, 5, 8],
        [5, 5, 5, 7, 6, 7, 7, 6, 5, 8],
        [5, 7, 5, 6, 4, 8, 5, 4, 3, 6],
    ]
).T


@pytest.mark.parametrize(("method", "deviation"), [("reml", 24.80547), ("anova", 24.80547), ("ml", 22.62435)])
def test_rail(method, deviation):
    """Pinheiro and Bates (2000), section 1.1: standard deviations of lme."""
    found = mrt.estimate_components(RAIL, method=method)
    assert math.sqrt(found.components.prompt) == pytest.approx(deviation, rel=1e-6)
    assert math.sqrt(found.components.response) == pytest.approx(4.020779, rel=1e-6)
    assert found.mean == 66.5


def test_dyestuff2():
    """Box and Tiao made them so that the estimate between batches is negative; likelihoods stop at 0.

    Bates, Machler, Bolker and Walker (2015): residual standard deviation 3.7157 by REML. ML has 30 for 29 degrees of
    freedom: 3.6532, the answer of R's lme4 and of MixedModels.jl.
    """
    anova = mrt.estimate_components(DYESTUFF2)
    assert anova.components.prompt == pytest.approx(-1.32, abs=0.005)
    assert anova.components.response == pytest.approx(14.946, abs=0.0005)
    for method, deviation in (("reml", 3.7157), ("ml", 3.6532)):
        found = mrt.estimate_components(DYESTUFF2, method=method)
        assert found.components.prompt == 0
        assert math.sqrt(found.components.response) == pytest.approx(deviation, abs=5e-5)


@pytest.mark.parametrize(("method", "batch"), [("reml", 1.6573), ("anova", 1.6573), ("ml", 1.1992)])
def test_pastes(method, batch):
    """R's lme4 1.0, lmer(strength ~ (1 | batch) + (1 | batch:cask)): casks 8.4337, residual 0.6780."""
    found = mrt.estimate_components(PASTES, groups=np.repeat(np.arange(10), 3), method=method)
    assert found.components.group == pytest.approx(batch, rel=5e-4)
    assert found.components.prompt == pytest.approx(8.4337, rel=5e-4)
    assert found.components.response == pytest.approx(0.678, rel=5e-4)
    assert found.mean == pytest.approx(60.0533, abs=5e-5)


def test_brennan_synthetic_data_2():
    """Mean squares from the book (items within persons); limits from the specification of the interval."""
    sums = PromptSums.of(BRENNAN_2)
    squares = weighted_mean_squares(sums)
    assert 8 * float(squares.between.value) == pytest.approx(6.9111, abs=5e-5)
    assert float(squares.response.value) == pytest.approx(2.025, abs=5e-5)
    found = mrt.estimate_components(BRENNAN_2)
    assert found.components.prompt == pytest.approx(0.6108, abs=5e-5)
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(0.7155, abs=5e-5), math.inf)
    assert (found.prompt.low, found.prompt.high) == (0.0, pytest.approx(2.4666, abs=5e-5))
    assert float(interval_method("weighted")(sums, 0.95, 1.0).prompt[0]) == pytest.approx(-0.0103, abs=5e-5)
    assert [found.response.low, found.response.high] == pytest.approx([1.3271, 3.0898], abs=5e-5)
