"""Statements: only an interval decides, an equality needs a narrow one; the verdict is the first rule that applies."""

from __future__ import annotations

import itertools
import math

import pytest

from experiments.harness.statements import (
    Outcome,
    Prediction,
    Role,
    Source,
    above,
    at_confidence,
    below,
    between,
    check,
    equals,
    known_claims,
    number,
    read,
    verdict,
    within_factor,
)
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, t_quantile

HOLDS, FAILS, OPEN = Outcome.HOLDS, Outcome.FAILS, Outcome.OPEN
NAN = math.nan


def prediction(outcome: Outcome = HOLDS, role: Role = Role.PRIMARY, **options) -> Prediction:
    """A statement with this outcome."""
    ours = {HOLDS: Estimate(0.5, 0.4, 0.6), FAILS: Estimate(2, 1.5, 2.5), OPEN: Estimate(1, 0.5, 1.5)}[
        outcome
    ]
    return Prediction(
        **{"id": "toy.a", "claim": 2, "quantity": "q", "ours": ours, "relation": below(1), "role": role}
        | options
    )


class TestRelations:
    @pytest.mark.parametrize(
        ("relation", "outcome"),
        [
            (below(1.2), HOLDS),
            (below(0.8), FAILS),
            (below(1.05), OPEN),
            (above(0.8), HOLDS),
            (above(1.2), FAILS),
            (above(0.95), OPEN),
            (between(0.8, 1.2), HOLDS),
            (between(1.2, 1.4), FAILS),
            (within_factor(2, 1.9, Source.EXACT), OPEN),
            (within_factor(2, 1.5, Source.EXACT), HOLDS),
            (within_factor(2, 4.0, Source.EXACT), FAILS),
        ],
    )
    def test_only_a_whole_interval_decides(self, relation, outcome):
        assert relation.judge(Estimate(1, 0.9, 1.1)) is outcome

    def test_an_undefined_number_decides_nothing(self):
        for relation in (below(1), above(1), equals(1.0, relative=0.1)):
            assert relation.judge(Estimate(NAN, NAN, NAN)) is OPEN
            assert relation.judge(Estimate(1.0, 0.9, NAN)) is OPEN
            assert relation.judge(Estimate(1.0, -math.inf, math.inf)) is OPEN

    @pytest.mark.parametrize(
        ("ours", "outcome"),
        [
            (Estimate(1.01, 0.97, 1.05), HOLDS),  # 90 % interval [0.976, 1.044]
            (Estimate(1.01, 0.95, 1.07), OPEN),  # [0.960, 1.060]
            (Estimate(1.00, 0.943, 1.057), HOLDS),  # the 95 % interval does not fit, the 90 % interval does
            (Estimate(1.10, 1.00, 1.20), OPEN),  # [1.016, 1.184]: it covers 1, and proves nothing by that
            (Estimate(1.10, 1.08, 1.12), FAILS),  # 99.9 % interval [1.066, 1.134]
            (Estimate(0.80, 0.75, 0.85), FAILS),  # [0.716, 0.884]
            (Estimate(0.90, 0.86, 0.94), OPEN),  # the 95 % interval lies outside, [0.833, 0.967] does not
        ],
    )
    def test_agreement_is_an_equivalence_within_a_margin(self, ours, outcome):
        assert equals(1.0, relative=0.05).judge(ours) is outcome

    def test_a_margin_is_relative_or_on_a_named_scale(self):
        assert equals(4.0, relative=0.05).text == "= 4 ± 5 %"
        assert equals(0.0, absolute=0.01).text == "= 0 ± 0.01"
        with pytest.raises(ValueError, match="needs a margin"):
            equals(0.0, relative=0.05)

    @pytest.mark.parametrize("freedom", [3, 10, 100, math.inf])
    def test_the_90_percent_interval_is_never_too_narrow(self, freedom):
        wide = Estimate.from_standard_error(2.0, 0.5, freedom)
        low, high = at_confidence(wide, 0.9)
        half = 0.5 * t_quantile(freedom, 0.9)
        assert low <= 2.0 - half + 1e-12
        assert high >= 2.0 + half - 1e-12
        assert high - low == pytest.approx(2 * half, rel=0.15 if freedom == 3 else 0.04)


class TestVerdict:
    @pytest.mark.parametrize(
        ("primaries", "expected"),
        [
            ([HOLDS, HOLDS], "holds"),
            ([HOLDS, FAILS], "holds in part"),
            ([HOLDS, FAILS, OPEN], "holds in part"),
            ([FAILS, FAILS], "does not hold"),
            ([FAILS, OPEN], "does not hold"),
            ([HOLDS, OPEN], "holds so far"),
            ([OPEN, OPEN], "open"),
            ([], "open"),
        ],
    )
    def test_rule(self, primaries, expected):
        others = [prediction(o, role) for o in Outcome for role in (Role.LIMIT, Role.CONTEXT)]
        for order in itertools.permutations(map(prediction, primaries)):
            assert verdict([*order, *others]) == expected

    def test_the_rules_leave_no_case_out(self):
        words = {"holds", "holds in part", "does not hold", "holds so far", "open"}
        for n in range(4):
            for outcomes in itertools.product(Outcome, repeat=n):
                assert verdict(map(prediction, outcomes)) in words


class TestCheck:
    @pytest.mark.parametrize(
        ("predictions", "claims", "message"),
        [
            ([prediction(), prediction(FAILS)], (2,), "'toy.a' is given to two statements"),
            ([prediction(claim=12)], (2, 12), "is about claim 12, but claims.toml has 1, 2"),
            ([prediction(claim=3)], (2,), "claim 3, which is not among its CLAIMS"),
            ([prediction(id="other.a")], (2,), "must begin with 'toy.'"),
        ],
    )
    def test_a_statement_that_cannot_stand_is_one_error(self, predictions, claims, message):
        with pytest.raises(InputError, match=message) as error:
            check("toy", claims, predictions)
        assert len(str(error.value).splitlines()) == 1

    def test_what_is_right_passes(self):
        check("toy", (2, 3), [prediction(), prediction(id="toy.b", claim=3)])


class TestStored:
    def test_cells_and_their_lists(self):
        assert read({"estimate": 1, "low": None, "high": 2.0}).high == 2.0
        assert math.isnan(read({"estimate": 1, "low": None, "high": 2.0}).low)
        assert read({"estimate": [1, 5], "low": [0, 4], "high": [2, 6]}, 1).low == 4.0

    def test_a_standard_error_makes_a_normal_interval(self):
        cell = read({"estimate": 3.0, "standard_error": 0.5})
        assert cell.high - 3.0 == pytest.approx(0.5 * 1.959964, rel=1e-6)
        assert (number(3).low, number(3).high) == (3, 3)


def test_the_claims_are_the_papers_eleven():
    assert list(known_claims()) == list(range(1, 12))
    for claim in known_claims().values():
        assert set(claim) >= {"title", "text", "experiments", "differs", "answers"}
