"""The report: verdicts from intervals, the same page from the same results, and the committed page in step."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.harness import report
from experiments.harness.report import verdict
from experiments.harness.statements import Estimate, Outcome, Prediction, agrees, greater, less

HOLDS, FAILS, OPEN = Outcome.HOLDS, Outcome.FAILS, Outcome.OPEN


def prediction(outcome: Outcome, primary: bool = True, **options) -> Prediction:
    return Prediction(
        **{
            "claim": 2,
            "statement": f"it {outcome}",
            "ours": Estimate(1.0, 0.9, 1.1),
            "outcome": outcome,
            "primary": primary,
            **options,
        }
    )


class TestOutcomes:
    def test_only_a_whole_interval_decides(self):
        assert less(Estimate(1, 0.9, 1.1), 1.2) == HOLDS
        assert less(Estimate(1, 0.9, 1.1), 0.8) == FAILS
        assert less(Estimate(1, 0.9, 1.1), 1.05) == OPEN
        assert greater(Estimate(1, 0.9, 1.1), 0.8) == HOLDS
        assert greater(Estimate(1, 0.9, 1.1), 1.2) == FAILS
        assert greater(Estimate(1, 0.9, 1.1), 0.95) == OPEN

    def test_an_undefined_number_decides_nothing(self):
        nan = float("nan")
        assert less(Estimate(nan, nan, nan), 1) == greater(Estimate(nan, nan, nan), 1) == OPEN
        assert less(Estimate(None, 0.0, None), 1) == OPEN  # null in JSON
        assert agrees(nan, 1.0, 0.1) == agrees(1.0, 1.0, nan) == OPEN

    def test_agreement_is_within_standard_errors(self):
        assert agrees(1.39, 1.0, 0.1) == HOLDS
        assert agrees(1.41, 1.0, 0.1) == FAILS


class TestVerdict:
    @pytest.mark.parametrize(
        ("primary", "others", "expected"),
        [
            ([HOLDS, HOLDS], [HOLDS, OPEN], "holds"),
            ([HOLDS], [FAILS], "holds with limits"),
            ([HOLDS, FAILS], [], "holds with limits"),
            ([HOLDS, OPEN], [], "holds with limits"),
            ([FAILS, FAILS], [HOLDS], "does not hold"),
            ([FAILS, OPEN], [HOLDS], "does not hold"),
            ([OPEN, OPEN], [HOLDS], "not testable here"),
            ([], [HOLDS, FAILS], "not testable here"),
            ([], [], "not testable here"),
        ],
    )
    def test_rule(self, primary, others, expected):
        predictions = [prediction(o) for o in primary] + [prediction(o, primary=False) for o in others]
        for order in itertools.permutations(predictions):
            assert verdict(order)[0] == expected

    def test_context_does_not_count(self):
        assert verdict([prediction(HOLDS), prediction(FAILS, primary=False, context=True)]) == ("holds", [])
        assert verdict([prediction(FAILS, context=True)])[0] == "not testable here"

    def test_limits_are_named(self):
        judged, limits = verdict(
            [prediction(HOLDS), prediction(FAILS, primary=False, statement="at small K")]
        )
        assert judged == "holds with limits"
        assert limits == ["does not hold: at small K"]


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, ""),
            (float("nan"), ""),
            (float("inf"), "∞"),
            (0.0, "0"),
            (0.067458, "0.06746"),
            (12345.6, "12346"),
            (5.13e-4, "5.13e-04"),
            (-2.0, "-2"),
        ],
    )
    def test_four_digits(self, value, text):
        assert report._number(value) == text

    @pytest.mark.parametrize(
        ("estimate", "text"),
        [
            (Estimate(0.07614, 0.05735, 0.09493), "0.076 [0.057, 0.095]"),
            (Estimate(42.534, 39.1, 46.2), "42.5 [39.1, 46.2]"),
            (Estimate(1234.5, 1000.2, 1500.9), "1234 [1000, 1501]"),
            (Estimate(5.3, 3.2, float("inf")), "5.3 [3.2, ∞]"),
            (Estimate(3.0, 3.0, 3.0), "3"),
            (Estimate(3.0, 2.0, float("nan")), "3.0 [2.0, undefined]"),
            (Estimate(1e-9, 0.5e-9, 2e-9), "1.00e-09 [5.00e-10, 2.00e-09]"),
        ],
    )
    def test_decimals_follow_the_interval(self, estimate, text):
        assert report._interval(estimate) == text


@pytest.fixture
def stored(tmp_path) -> Path:
    """Results of an experiment that needs no simulation, in another preset than the committed one."""
    from experiments.__main__ import main

    assert main(["run", "reported", "--preset", "quick", "--out", str(tmp_path), "--no-cache"]) == 0
    return tmp_path


class TestPage:
    def test_the_same_results_give_the_same_bytes(self, stored):
        first = {p: p.read_bytes() for p in report.write("quick", stored)[:2]}
        figures = {p: p.read_bytes() for p in (stored / "quick" / "figures").iterdir()}
        assert {p.suffix for p in figures} >= {".png", ".pdf", ".md"}
        assert {p: p.read_bytes() for p in report.write("quick", stored)[:2]} == first
        assert {p: p.read_bytes() for p in (stored / "quick" / "figures").iterdir()} == figures

    def test_every_claim_has_a_row_and_every_link_a_file(self, stored):
        page, gallery, _ = report.write("quick", stored)
        text = page.read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if re.match(r"\| \[\d+\. ", line)]
        assert len(rows) == 11
        assert "Preset `quick`, seed 0." in text
        for path in (page, gallery):
            for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
                assert (path.parent / target).exists(), target
        headings = {report._anchor(n, c) for n, c in report._claims().items()}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) == headings

    def test_every_row_of_a_table_has_all_its_cells(self, stored):
        lines = report.write("quick", stored)[0].read_text(encoding="utf-8").splitlines()
        columns = 0
        for line, following in itertools.pairwise([*lines, ""]):
            if not line.startswith("|"):
                columns = 0
                continue
            cells = len(re.findall(r"(?<!\\)\|", line))
            if columns == 0:
                assert following.startswith("| ---")
                columns = cells
            assert cells == columns, line

    def test_numbers_come_from_the_stored_result(self, stored):
        path = stored / "quick" / "reported" / "result.json"
        content = json.loads(path.read_text())
        drop = content["result"]["relative_drop"]
        drop.update(value=-0.5, low=-0.6, high=-0.4)
        path.write_text(json.dumps(content))
        text = report.write("quick", stored)[0].read_text(encoding="utf-8")
        row = next(line for line in text.splitlines() if line.startswith("| [11. "))
        assert "-0.50 [-0.60, -0.40]" in row
        assert "**does not hold**" in row

    def test_what_was_not_run_is_said(self, stored):
        text = report.write("quick", stored)[0].read_text(encoding="utf-8")
        row = next(line for line in text.splitlines() if line.startswith("| [1. "))
        assert "**not run**" in row

    def test_agreement_counts_outcomes_and_overlapping_intervals(self, stored):
        here = report.load(stored / "quick")
        found = here["reported"]
        first, second, *others, last = found.predictions
        moved = replace(first, ours=Estimate(*(end + 99 for end in dataclasses.astuple(first.ours))))
        turned = replace(second, outcome=FAILS if second.outcome == HOLDS else HOLDS)
        there = {"reported": report.Found("reported", found.stored, [moved, turned, *others])}
        line, rows = report.agreement(here, there)
        n = len(found.predictions)
        assert line == (
            f"not there: 1 of {n}; opposite outcome: 1 of {n}; same outcome: {n - 2} of {n}; "
            f"intervals overlap: {n - 2} of {n - 1}"
        )
        assert rows[0][-2:] == ["same outcome", "no"]
        assert rows[1][-2:] == ["opposite outcome", "yes"]
        assert rows[-1][-2:] == ["not there", ""]
        assert last.statement == rows[-1][2]

    def test_only_committed_precise_results_write_the_root_page(self, stored, monkeypatch):
        (stored / "quick").rename(stored / "precise")
        page, _, _ = report.write("precise", stored)
        assert page == stored / "precise" / "paper_repro.md"


def test_the_committed_page_is_what_the_committed_results_give():
    page = report.ROOT / "paper_repro.md"
    results = report.load(report.COMMITTED)
    assert page.exists() == bool(results)
    if results:
        captions = {name: report.caption(name) for name in results if report.has_figure(name)}
        assert page.read_text(encoding="utf-8") == report.render("precise", results, captions, None)
        gallery = report.ROOT / "figures" / "README.md"
        assert gallery.read_text(encoding="utf-8") == report.render_gallery("precise", captions)
        for name in captions:
            for ending in (".png", ".pdf"):
                assert (report.ROOT / "figures" / name).with_suffix(ending).exists()


def test_statements_are_told_apart_and_bear_on_the_claims_that_their_experiment_names():
    for name, found in report.load(report.COMMITTED).items():
        statements = [(p.claim, p.statement) for p in found.predictions]
        assert len(set(statements)) == len(statements), name
        assert {claim for claim, _ in statements} <= set(
            importlib.import_module(f"experiments.{name}").CLAIMS
        )
