import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.shared.learning_curves import (
    EXPONENT_BOUNDS,
    fit_learning_curve,
    leave_one_out_errors,
    shared_exponent,
)
from mrtsim.errors import InputError

K = np.array([1.0, 2, 4, 8, 16])


@given(
    level=st.floats(-10, 10),
    drop=st.floats(0.01, 5),
    exponent=st.floats(0.05, 3.5),
)
def test_a_noiseless_power_law_is_recovered(level, drop, exponent):
    floor = level - drop / exponent
    curve = fit_learning_curve(K, floor + (drop / exponent) * K**-exponent)
    assert curve.exponent == pytest.approx(exponent, abs=1e-3)
    assert curve.level == pytest.approx(level, abs=1e-3 * drop)
    assert curve.drop == pytest.approx(drop, rel=1e-2)


def test_the_two_named_shapes_are_members_of_the_family():
    np.testing.assert_allclose(fit_learning_curve(K, 2 + 3 / K, exponent=1.0)(K), 2 + 3 / K, rtol=1e-13)
    np.testing.assert_allclose(
        fit_learning_curve(K, 2 - 3 * np.log(K), exponent=0.0)(K), 2 - 3 * np.log(K), rtol=1e-13
    )
    assert fit_learning_curve(K, 2 + 3 / K, exponent=1.0).floor == pytest.approx(2.0)
    assert fit_learning_curve(K, 2 - 3 * np.log(K), exponent=0.0).floor is None


def test_the_exponents_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    k = np.array([1.0, 2, 3, 4, 6, 8, 12, 16])
    true = 0.8
    covered = []
    for _ in range(400):
        curve = fit_learning_curve(k, 1.0 + 0.5 * k**-true + rng.normal(0, 0.01, len(k)))
        covered.append(curve.low <= true <= curve.high)
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)


def test_a_shared_exponent_is_tighter_than_each_alone():
    rng = np.random.default_rng(1)
    curves = {str(i): (K, i + (i + 1) * K**-0.5 + rng.normal(0, 0.02, len(K))) for i in range(6)}
    _, low, high = shared_exponent(curves)
    widths = [c.high - c.low for c in (fit_learning_curve(*curve) for curve in curves.values())]
    assert high - low < min(widths)
    assert low <= 0.5 <= high


def test_no_degree_of_freedom_gives_no_interval():
    curve = fit_learning_curve([1, 2, 4], [3.0, 2.0, 1.5])
    assert (curve.low, curve.high) == EXPONENT_BOUNDS
    assert curve.residual is None


def test_leave_one_out_prefers_the_curve_that_made_the_data():
    inverse = leave_one_out_errors(K, 1 + 2 / K)
    assert inverse["inverse"] < 1e-12
    assert inverse["log"] > 0.1
    log = leave_one_out_errors(K, 1 - 0.1 * np.log(K))
    assert log["log"] < 1e-12
    assert log["inverse"] > 0.01


@pytest.mark.parametrize(
    ("k", "losses", "message"),
    [
        ([1, 2], [1.0, 2.0], "3 different K"),
        ([1, 2, 2], [1.0, 2.0, 2.0], "3 different K"),
        ([1, 2, 4], [1.0, np.nan, 2.0], "finite"),
        ([0.5, 2, 4], [1.0, 1.0, 2.0], "at least 1"),
        ([1, 2, 4], [1.0, 2.0], "equal length"),
    ],
)
def test_bad_input_is_named(k, losses, message):
    with pytest.raises(InputError, match=message):
        fit_learning_curve(k, losses)
