"""The report: the same page from the same results, answers that fit the outcomes, and the committed page in step."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.__main__ import find, main
from experiments.harness import page, report
from experiments.harness.statements import Outcome, Prediction, Role, Source, above, known_claims
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate

HOLDS, FAILS, OPEN = Outcome.HOLDS, Outcome.FAILS, Outcome.OPEN


def statement(name: str, ours: float, role: Role = Role.PRIMARY) -> Prediction:
    return Prediction(name, 2, "a quantity", Estimate(ours, ours - 0.1, ours + 0.1), above(1.0), role)


def test_limits_of_one_kind_share_a_line_and_say_where_what_they_need_differs():
    other = replace(statement("e.kind.last.k2", 0.5, Role.LIMIT), relation=above(0.7))
    limits = [
        statement("e.kind.last.k1", 0.5, Role.LIMIT),
        other,
        statement("e.kind.best-k1", 0.4, Role.LIMIT),
    ]
    lines = page._stops(
        [*limits, statement("e.other", 1.05, Role.LIMIT), statement("e.kind.fine", 2, Role.LIMIT)]
    )
    assert lines == [
        "- fails: a quantity: 0.50 [0.40, 0.60], needs > 1; likewise `last.k2` 0.50 [0.40, 0.60] (needs > 0.7), "
        "`best-k1` 0.40 [0.30, 0.50]",
        "- open: a quantity: 1.05 [0.95, 1.15], needs > 1",
    ]


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, ""),
            (float("nan"), ""),
            (float("inf"), "∞"),
            (float("-inf"), "−∞"),
            (0.0, "0"),
            (0.067458, "0.06746"),
            (12345.6, "12346"),
            (5.13e-4, "5.13e-04"),
            (-2.0, "−2"),
        ],
    )
    def test_four_digits(self, value, text):
        assert page.decimal(value) == text

    @pytest.mark.parametrize(
        ("estimate", "text"),
        [
            (Estimate(0.07614, 0.05735, 0.09493), "0.076 [0.057, 0.095]"),
            (Estimate(42.534, 39.1, 46.2), "42.5 [39.1, 46.2]"),
            (Estimate(1234.5, 1000.2, 1500.9), "1234 [1000, 1501]"),
            (Estimate(5.3, 3.2, float("inf")), "5.3 [3.2, ∞]"),
            (Estimate(3.0, 3.0, 3.0), "3"),
            (Estimate(-0.5, -0.6, -0.4), "−0.50 [−0.60, −0.40]"),
            (Estimate(3.0, 2.0, float("nan")), "3.0 [2.0, undefined]"),
            (Estimate(1e-9, 0.5e-9, 2e-9), "1.00e-09 [5.00e-10, 2.00e-09]"),
        ],
    )
    def test_decimals_follow_the_interval(self, estimate, text):
        assert page.interval(estimate) == text


class TestAnswers:
    @pytest.fixture(autouse=True)
    def claim(self, monkeypatch):
        answers = [
            {"when": {"toy.a": "holds", "toy.b": "fails"}, "text": "a is {toy.a}, b {toy.b|value}."},
            {"when": {"toy.a": "holds"}, "text": "a holds: {toy.a|percent}, above {toy.a|with}."},
        ]
        further = {"rare": [{"when": {"rare.c": "holds"}, "text": "A rare one: {rare.c|value}."}]}
        monkeypatch.setattr(page, "known_claims", lambda: {2: {"answers": answers, "further": further}})
        self.answers = answers

    def test_the_outcomes_pick_the_template(self):
        a, b = statement("toy.a", 2.0), statement("toy.b", 0.5)
        assert page.answer(2, [a, b], strict=True) == "a is 2.00 [1.90, 2.10], b 0.5."
        assert (
            page.answer(2, [a, replace(b, ours=Estimate(2, 1.9, 2.1))], strict=True)
            == "a holds: 200 %, above 1."
        )

    def test_outcomes_that_no_answer_is_written_for_fail_the_build(self):
        turned = [statement("toy.a", 0.5), statement("toy.b", 0.5)]
        with pytest.raises(
            InputError, match=r"no answer to claim 2 for these outcomes: toy.a fails, toy.b fails"
        ):
            page.answer(2, turned, strict=True)
        assert "stand alone" in page.answer(2, turned, strict=False)

    def test_an_experiment_that_not_everybody_can_run_adds_its_part_where_it_ran(self):
        known, rare = statement("toy.a", 2.0), statement("rare.c", 3.0)
        alone = page.answer(2, [known], strict=True)
        assert page.answer(2, [known, rare], strict=True) == f"{alone} A rare one: 3."
        turned = replace(rare, ours=Estimate(0.5, 0.4, 0.6))
        with pytest.raises(InputError, match="no answer to claim 2"):
            page.answer(2, [known, turned], strict=True)
        assert page.answer(2, [known, turned], strict=False).startswith(f"{alone} At this size other")

    @pytest.mark.parametrize(
        ("text", "message"), [("{toy.c}", "'toy.c', which is no"), ("{toy.a|x}", "asks for 'x'")]
    )
    def test_a_template_names_what_exists(self, text, message):
        self.answers[:] = [{"when": {}, "text": text}]
        with pytest.raises(InputError, match=message):
            page.answer(2, [statement("toy.a", 2.0)], strict=True)


def test_where_a_primary_fails_it_is_the_number_that_decides():
    holds, fails, unsettled = (statement(n, v) for n, v in (("a", 2.0), ("b", 0.5), ("c", 1.0)))
    limit = statement("d", 0.5, Role.LIMIT)
    for order in itertools.permutations([holds, fails, unsettled, limit]):
        assert page.deciding(order) is fails
    assert page.deciding([unsettled, holds, limit]) is holds
    assert page.deciding([unsettled, limit]) is unsettled
    assert page.deciding([limit]) is None


def test_counts_say_what_is_open():
    found = [statement("a", 2.0), statement("b", 0.5), statement("c", 1.0), statement("d", 2.0, Role.LIMIT)]
    assert page.counts(found, Role.PRIMARY) == "1 of 3 (1 open)"
    assert page.counts(found, Role.LIMIT) == "1 of 1"
    assert page.counts(found, Role.CONTEXT) == "0 of 0"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Results of an experiment that is soon run, in another preset than the committed one."""
    out = tmp_path_factory.mktemp("results")
    assert main(["run", "real_pool", "--preset", "quick", "--out", str(out), "--no-cache"]) == 0
    return out


def tables(text: str) -> list[list[str]]:
    """The rows of all tables, as their cells."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


class TestPage:
    def test_the_same_results_give_the_same_bytes(self, stored):
        home = stored / "quick"
        report.write("quick", stored)
        first = {p: p.read_bytes() for p in home.rglob("*") if p.suffix in (".md", ".png", ".pdf")}
        assert {p.suffix for p in first} == {".png", ".pdf", ".md"}
        report.write("quick", stored)
        assert {p: p.read_bytes() for p in first} == first

    def test_every_claim_has_a_row_and_every_link_a_file(self, stored):
        written = report.write("quick", stored)
        text = written.page.read_text(encoding="utf-8")
        assert len(re.findall(r"^\| \[\d+\. ", text, re.M)) == 11
        assert "Preset `quick`, seed 0." in text
        assert len(written.claims) == 12
        for path in (written.page, written.gallery, *written.claims):
            for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
                assert (path.parent / target).exists(), target
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) == {page.anchor(n) for n in known_claims()}

    def test_every_row_of_a_table_has_all_its_cells(self, stored):
        written = report.write("quick", stored)
        for path in (written.page, *written.claims):
            columns = 0
            lines = path.read_text(encoding="utf-8").splitlines()
            for line, following in itertools.pairwise([*lines, ""]):
                if not line.startswith("|"):
                    columns = 0
                    continue
                cells = len(re.findall(r"(?<!\\)\|", line))
                if columns == 0:
                    assert following.startswith("| ---")
                    columns = cells
                assert cells == columns, line

    def test_numbers_come_from_the_stored_result(self, stored, tmp_path):
        content = json.loads((stored / "quick" / "real_pool" / "result.json").read_text())
        row = next(r for r in content["result"]["strategies"]["bkon"] if r["k"] == 4)
        row["shift"].update(estimate=0.5, low=0.4, high=0.6)
        (tmp_path / "quick" / "real_pool").mkdir(parents=True)
        (tmp_path / "quick" / "real_pool" / "result.json").write_text(json.dumps(content))
        text = report.write("quick", tmp_path).page.read_text(encoding="utf-8")
        assert (
            "- fails: mean loss of real responses, kept by BKoN − the pool's, K = 4 of 12: 0.50 [0.40, 0.60]"
            in text
        )

    def test_what_was_not_run_is_said(self, stored):
        text = report.write("quick", stored).page.read_text(encoding="utf-8")
        row = next(line for line in text.splitlines() if line.startswith("| [1. "))
        assert "**not run**" in row
        assert "Not run here: lottery, distributional, tokens." in text

    def test_the_comparison_joins_on_ids_and_names_what_is_opposite(self, stored):
        here = report.load(stored / "quick")
        found = here["real_pool"]
        first, second, *others, last = found.predictions
        assert first.outcome is HOLDS
        turned = replace(first, relation=above(1e9), quantity="the same in other words")
        unsettled = replace(second, ours=Estimate(0.0, -9.0, 9.0))
        there = {"real_pool": report.Found("real_pool", found.stored, [turned, unsettled, *others])}
        n = len(found.predictions)
        assert page.comparison_line(here, there) == (
            f"not among the committed ones: 1 of {n}; opposite outcome: 1 of {n}; same outcome: {n - 3} of {n}; "
            f"settled in one only: 1 of {n}"
        )
        text = page.render("quick", here, {}, there)["paper_repro.md"]
        rows = [row for row in tables(text) if row[0].startswith("`")]
        assert [row[0] for row in rows] == [f"`{first.id}`"]
        assert [row[3] for row in rows] == ["holds"]
        assert "overlap" not in text
        assert last.id not in text.partition("Beside the committed page")[2]

    def test_only_committed_precise_results_write_the_root_page(self, stored, tmp_path):
        (tmp_path / "precise").symlink_to(stored / "quick")
        written = report.write("precise", tmp_path)
        assert written.page == tmp_path / "precise" / "paper_repro.md"
        assert written.claims[0].is_relative_to(tmp_path)


@pytest.fixture(scope="module")
def committed() -> dict[str, report.Found]:
    return report.load(report.COMMITTED)


def test_the_committed_pages_are_what_the_committed_results_give(committed):
    texts = report.render("precise", committed, None)
    captions = {name: report.caption(found) for name, found in committed.items() if report.has_figure(name)}
    texts["figures/README.md"] = page.gallery("precise", captions)
    for name, text in texts.items():
        assert (report.ROOT / name).read_text(encoding="utf-8") == text, (
            f"{name}: python -m experiments report"
        )
    pages = {f"docs/claims/{p.name}" for p in (report.ROOT / "docs" / "claims").iterdir()}
    assert pages == {name for name in texts if name.startswith("docs/claims/")}
    for name in captions:
        for ending in (".png", ".pdf"):
            assert (report.ROOT / "figures" / name).with_suffix(ending).exists()


def test_the_page_is_short_enough_to_be_read():
    text = (report.ROOT / "paper_repro.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert max(len(cell) for row in tables(text) for cell in row) <= page.WIDTH


def test_every_experiment_is_committed_and_no_id_is_given_twice(committed):
    assert set(committed) == set(find())
    ids = [p.id for found in committed.values() for p in found.predictions]
    assert len(set(ids)) == len(ids)


def test_an_equality_is_never_settled_against_the_package(committed):
    """At the precise sizes no simulated quantity with an exact value lies outside its margin."""
    for found in committed.values():
        for p in found.predictions:
            if p.relation.equivalence and p.relation.source is Source.EXACT and p.role is not Role.CONTEXT:
                assert p.outcome is not FAILS, p.id


def test_a_result_of_another_version_is_refused(tmp_path):
    (tmp_path / "reported").mkdir()
    (tmp_path / "reported" / "result.json").write_text(json.dumps({"experiment": "reported", "result": {}}))
    with pytest.raises(InputError, match=r"made by another version of experiment reported \(it lacks"):
        report.load(tmp_path)
