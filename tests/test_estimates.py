import math

import pytest
from scipy import stats

from mrtsim.estimates import Estimate, normal_quantile, t_quantile


def test_quantiles_are_two_sided():
    assert normal_quantile(0.95) == pytest.approx(1.959963984540054, rel=1e-12)
    assert t_quantile(9, 0.9) == pytest.approx(stats.t.ppf(0.95, 9), rel=1e-12)
    assert t_quantile(math.inf, 0.99) == pytest.approx(stats.norm.ppf(0.995), rel=1e-12)


def test_quantiles_of_arrays():
    found = t_quantile([-1.0, 0.0, 2.5, math.inf], 0.9)
    assert list(found) == pytest.approx([math.inf, math.inf, stats.t.ppf(0.95, 2.5), stats.norm.ppf(0.95)])


def test_an_interval_from_a_standard_error_is_symmetric():
    e = Estimate.from_standard_error(2.0, 0.5, freedom=7, confidence=0.9)
    half = stats.t.ppf(0.95, 7) * 0.5
    assert (e.low, e.high) == pytest.approx((2 - half, 2 + half), rel=1e-12)
    assert e.standard_error == 0.5


def test_the_json_form_names_the_standard_error_only_where_it_is_known():
    assert Estimate(1.0, 0.5, math.inf).to_dict() == {"estimate": 1.0, "low": 0.5, "high": math.inf}
    assert Estimate(1.0, 0.0, 2.0, 0.5).to_dict()["standard_error"] == 0.5
