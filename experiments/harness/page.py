"""The page that a reader reads, and a page per claim with every statement, as Markdown."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from experiments.harness.statements import (
    Outcome,
    Prediction,
    Role,
    known_claims,
    not_tested,
    verdict,
)
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate

WIDTH = 120  # of a table's cell, in characters
_FIELD = re.compile(r"\{(\w+\.[\w.-]+(?:\|\w+)?)\}")  # {id} or {id|part} in an answer


class Found(Protocol):
    """A stored result and what it says."""

    stored: dict[str, Any]
    predictions: list[Prediction]


Results = Mapping[str, Any]


def render(
    preset: str, results: Results, figures: Mapping[str, str], reference: Results | None
) -> dict[str, str]:
    """The page and a page per claim, file name to text; see `report.render`."""
    claims = known_claims()
    evidence = {number: of_claim(number, results) for number in claims}
    texts = {"paper_repro.md": _page(preset, results, evidence, figures, reference)}
    for number in claims:
        texts[claim_file(number)] = _claim_page(number, evidence[number], results)
    texts["docs/claims/README.md"] = _index(preset, results, evidence)
    return texts


def of_claim(number: int, results: Results) -> list[tuple[str, Prediction]]:
    """Every statement about a claim with its experiment: primaries first, in the claim's order of experiments."""
    order = [name for name in known_claims()[number]["experiments"] if name in results]
    order += [name for name in results if name not in order]
    found = [(name, p) for name in order for p in results[name].predictions if p.claim == number]
    roles = list(Role)
    return sorted(found, key=lambda pair: roles.index(pair[1].role))


def counts(statements: Iterable[Prediction], role: Role) -> str:
    """How many statements of a role hold: "14 of 19 (2 open)"."""
    count = Counter(p.outcome for p in statements if p.role is role)
    unsettled = f" ({count[Outcome.OPEN]} open)" if count[Outcome.OPEN] else ""
    return f"{count[Outcome.HOLDS]} of {count.total()}{unsettled}"


def deciding(statements: Sequence[Prediction]) -> Prediction | None:
    """The primary that decides: where one fails, the first of these, otherwise the first that holds, or the first."""
    primaries = [p for p in statements if p.role is Role.PRIMARY]
    for outcome in (Outcome.FAILS, Outcome.HOLDS):
        for p in primaries:
            if p.outcome is outcome:
                return p
    return primaries[0] if primaries else None


def answer(number: int, statements: Sequence[Prediction], *, strict: bool) -> str:
    """The claim's answer in sentences: the first template whose outcomes are those found, filled with the numbers.

    Behind it stands what experiments under `further` add, where they were run.

    Args:
        number: of the claim.
        statements: all of the claim.
        strict: whether an outcome that no template is written for is an error.

    Raises:
        InputError: where it is, or where a template names a statement that does not exist.
    """
    by_id, claim = {p.id: p for p in statements}, known_claims()[number]
    parts = [claim.get("answers", [])]
    # What an experiment adds that not everybody can run.
    ran = {p.id.partition(".")[0] for p in statements}
    parts += [templates for name, templates in claim.get("further", {}).items() if name in ran]
    texts = [_first_that_fits(templates, by_id) for templates in parts]
    found = " ".join(text for text in texts if text)
    if None in texts:
        if strict:
            outcomes = ", ".join(f"{p.id} {p.outcome}" for p in statements if p.role is Role.PRIMARY)
            raise InputError(f"claims.toml has no answer to claim {number} for these outcomes: {outcomes}")
        found += " At this size other outcomes have no answer written for them: their statements below stand alone."
    return found.strip()


def _first_that_fits(templates: Sequence[Any], by_id: Mapping[str, Prediction]) -> str | None:
    for template in templates:
        if all(name in by_id and by_id[name].outcome == wanted for name, wanted in template["when"].items()):
            return " ".join(_FIELD.sub(lambda match: _filled(match[1], by_id), template["text"]).split())
    return None


def _filled(field: str, by_id: Mapping[str, Prediction]) -> str:
    name, _, part = field.partition("|")
    if name not in by_id:
        raise InputError(f"an answer in claims.toml names {name!r}, which is no statement of its claim")
    p = by_id[name]
    values = {
        "": interval(p.ours),
        "value": decimal(p.ours.value, 3),
        "percent": f"{100 * p.ours.value:.{2 if 0.99 < p.ours.value < 1 else 0}f} %",
        "reported": "" if p.reported is None else decimal(p.reported, 3),
        "with": decimal(p.relation.value, 3),
    }
    if part not in values:
        raise InputError(f"an answer in claims.toml asks for {part!r} of {name}: one of {', '.join(values)}")
    return values[part]


def _page(
    preset: str,
    results: Results,
    evidence: Mapping[int, list[tuple[str, Prediction]]],
    figures: Mapping[str, str],
    reference: Results | None,
) -> str:
    claims = known_claims()
    seeds = ", ".join(map(str, sorted({found.stored["seed"] for found in results.values()})))
    lines = ["# The paper's claims, tested", "", *_WHAT.strip().splitlines(), ""]
    lines += [
        f"Preset `{preset}`, seed {seeds}. Intervals are 95 %; an equality is judged by 90 % to hold, 99.9 % to fail.",
        "",
    ]
    rows = []
    for number, claim in claims.items():
        statements = [p for _, p in evidence[number]]
        p = deciding(statements)
        figure = next((name for name in claim["experiments"] if name in figures), None)
        rows.append(
            [
                f"[{number}. {claim['title']}](#{anchor(number)})",
                f"**{_verdict(number, statements, results)}**",
                counts(statements, Role.PRIMARY),
                counts(statements, Role.LIMIT),
                *([p.quantity, *_numbers(p), f"{p.outcome}"] if p else [""] * 6),
                f"[figure](figures/{figure}.png)" if figure else "",
            ]
        )
    lines += _table(
        [
            "claim",
            "verdict",
            "primaries hold",
            "limits hold",
            "the number that decides",
            "needs",
            "ours",
            "reported",
            "exact",
            "outcome",
            "",
        ],
        rows,
    )
    lines += ["", *_RULES.strip().splitlines(), ""]
    for number in claims:
        lines += _section(number, evidence[number], results, figures, strict=reference is None)
    if reference is not None:
        lines += _comparison(results, reference)
    lines += ["## Not tested here", "", *(f"- {item}" for item in not_tested()), ""]
    return "\n".join(lines)


_WHAT = """
Eleven claims of "Escaping the Mode Lottery" (arXiv:2606.00544), tested on toy distributions whose truth is known.
A claim is a list of statements about quantities; simulations and small trained networks give each an interval, which
settles it or leaves it open. Numbers, verdicts and the choice of sentences are computed from the stored results.
Quantities are tested against exact values where they exist; claims 1, 8, 10 and 11 have none.
Tested on: a mixture density network, a token model, a shipped pool of real responses, the authors' published tables.
"""

_RULES = """
A claim **holds** where every primary statement holds, **holds in part** where some hold and some fail, and **does not
hold** where some fail and none holds; it **holds so far** or is **open** where statements are unsettled. Primaries are
what the paper asserts, in its own setting, and the same at the best validation step; limits say how far it reaches.
"""


def _section(
    number: int,
    evidence: list[tuple[str, Prediction]],
    results: Results,
    figures: Mapping[str, str],
    *,
    strict: bool,
) -> list[str]:
    claim, statements = known_claims()[number], [p for _, p in evidence]
    judged = _verdict(number, statements, results)
    lines = [f"## {heading(number)}", "", f"The paper: {claim['text']}", ""]
    lines += [f"**{judged[0].upper()}{judged[1:]}.** {answer(number, statements, strict=strict)}", ""]
    if missing := _missing(number, results):
        lines += [f"Not run here: {', '.join(missing)}.", ""]
    drawn = [name for name in claim["experiments"] if name in figures]
    for figure in [name for name in drawn if name in claim.get("figures", drawn[:1])]:
        lines += [f"![{figures[figure]}](figures/{figure}.png)", ""]
    primaries = [p for p in statements if p.role is Role.PRIMARY]
    if primaries:
        lines += _table(
            ["what the paper asserts", "needs", "ours", "reported", "exact", "outcome"],
            [[p.quantity, *_numbers(p), str(p.outcome)] for p in primaries],
        )
        lines.append("")
    file = claim_file(number)
    if stops := _stops(statements):
        return [*lines, f"Where it stops ([all statements of claim {number}]({file})):", "", *stops, ""]
    return [*lines, f"[All statements of claim {number}]({file})", ""]


def _stops(statements: Sequence[Prediction]) -> list[str]:
    """The limits that fail or are open, one line for those whose ids have the first two parts in common."""
    groups: dict[tuple[Outcome, str], list[Prediction]] = {}
    for p in statements:
        if p.role is Role.LIMIT and p.outcome is not Outcome.HOLDS:
            groups.setdefault((p.outcome, _family(p)), []).append(p)
    lines = []
    for (outcome, family), (first, *others) in groups.items():
        line = f"- {outcome}: {first.quantity}: {interval(first.ours)}, needs {first.relation.text}"
        words = []
        for p in others:
            needs = "" if p.relation.text == first.relation.text else f" (needs {p.relation.text})"
            words.append(f"`{p.id.removeprefix(family + '.')}` {interval(p.ours)}{needs}")
        lines.append(line + ("; likewise " + ", ".join(words) if words else ""))
    return lines


def _family(p: Prediction) -> str:
    return ".".join(p.id.split(".")[:2])


def _verdict(number: int, statements: Sequence[Prediction], results: Results) -> str:
    """The verdict; "not run" where experiments are missing that could have settled it."""
    judged = verdict(statements)
    return "not run" if judged == "open" and _missing(number, results) else judged


def _missing(number: int, results: Results) -> list[str]:
    return [name for name in known_claims()[number]["experiments"] if name not in results]


def _claim_page(number: int, evidence: list[tuple[str, Prediction]], results: Results) -> str:
    claim, statements = known_claims()[number], [p for _, p in evidence]
    lines = [
        f"# Claim {heading(number)}",
        "",
        "<!-- Written by `python -m experiments report`; do not edit. -->",
        "",
        f"The paper: {claim['text']}",
        "",
        f"Verdict: **{_verdict(number, statements, results)}**; primaries hold: {counts(statements, Role.PRIMARY)}; "
        f"limits hold: {counts(statements, Role.LIMIT)}.",
        "",
        "## What differs from the paper, and why",
        "",
        claim["differs"].strip(),
        "",
        "## Statements",
        "",
    ]
    rows = [
        [
            *(f"`{p.id}`", p.quantity, p.unit, p.relation.text, interval(p.ours), decimal(p.reported)),
            *(decimal(p.relation.value), str(p.relation.source), str(p.outcome), str(p.role)),
        ]
        for _, p in evidence
    ]
    head = [
        "id",
        "quantity",
        "unit",
        "needs",
        "ours",
        "reported",
        "compared with",
        "which is",
        "outcome",
        "role",
    ]
    lines += [*_table(head, rows), "", "## Notes", ""]
    lines += [f"- `{p.id}`: {p.note}." for _, p in evidence if p.note]
    names = list(dict.fromkeys(name for name, _ in evidence))
    lines += ["", "## Provenance", "", *_provenance(names, results), ""]
    return "\n".join(lines)


def _provenance(names: Sequence[str], results: Results) -> list[str]:
    rows = []
    for name in names:
        stored = results[name].stored
        replicates = str(stored["config"].get("replicates", ""))
        rows.append(
            [name, stored["preset"], replicates, str(stored["seed"]), f"`results/{stored['preset']}/{name}/`"]
        )
    return _table(["experiment", "preset", "replicates", "seed", "result and how it was made"], rows)


def _index(preset: str, results: Results, evidence: Mapping[int, list[tuple[str, Prediction]]]) -> str:
    lines = [
        "# Every statement, claim by claim",
        "",
        "<!-- Written by `python -m experiments report`; do not edit. -->",
        "",
        f"Preset `{preset}`. The page to read is `paper_repro.md`; here stands everything that it is computed from.",
        "",
    ]
    rows = []
    for number in known_claims():
        statements = [p for _, p in evidence[number]]
        link = f"[{heading(number)}]({claim_file(number).rpartition('/')[2]})"
        rows.append(
            [link, _verdict(number, statements, results), *(counts(statements, role) for role in Role)]
        )
    lines += _table(["claim", "verdict", "primaries hold", "limits hold", "context holds"], rows)
    return "\n".join([*lines, "", *_provenance(list(results), results), ""])


def gallery(preset: str, drawn: Mapping[str, str]) -> str:
    """A page with every figure."""
    lines = ["# Figures", "", f"Drawn from the stored results of preset `{preset}`.", ""]
    for name, caption in drawn.items():
        lines += [f"## {name}", "", f"![{caption}]({name}.png)", "", f"{caption} ([PDF]({name}.pdf))", ""]
    return "\n".join(lines)


def compare(results: Results, reference: Results) -> list[tuple[Prediction, Prediction | None]]:
    """Each statement with the one of the same id among the committed ones."""
    theirs = {p.id: p for found in reference.values() for p in found.predictions}
    return [(p, theirs.get(p.id)) for found in results.values() for p in found.predictions]


def comparison_line(results: Results, reference: Results) -> str:
    """How the outcomes compare with the committed ones, in one line."""
    count = Counter(_agreement(p, q) for p, q in compare(results, reference))
    return "; ".join(f"{kind}: {n} of {count.total()}" for kind, n in sorted(count.items()))


def _agreement(here: Prediction, there: Prediction | None) -> str:
    if there is None:
        return "not among the committed ones"
    if here.outcome == there.outcome:
        return "same outcome"
    return "settled in one only" if Outcome.OPEN in (here.outcome, there.outcome) else "opposite outcome"


def _comparison(results: Results, reference: Results) -> list[str]:
    title = ["## Beside the committed page", ""]
    if not reference:
        return [*title, "There are no committed results to compare with.", ""]
    rows = []
    for number in known_claims():
        here, there = (_verdict(number, [p for _, p in of_claim(number, r)], r) for r in (results, reference))
        rows.append([heading(number), here, there])
    pairs = compare(results, reference)
    opposite = [
        [f"`{p.id}`", p.relation.text, interval(p.ours), str(p.outcome), interval(q.ours), str(q.outcome)]
        for p, q in pairs
        if q is not None and _agreement(p, q) == "opposite outcome"
    ]
    lines = [
        *title,
        f"Statements by id: {comparison_line(results, reference)}. Fewer replicates leave more of them open; presets "
        "draw other networks, so intervals over trials differ by more than their width.",
        "",
        *_table(["claim", "verdict here", "committed"], rows),
        "",
    ]
    if opposite:
        head = ["opposite outcomes", "needs", "here", "outcome", "committed", "outcome"]
        lines += [*_table(head, opposite), ""]
    return lines


def _numbers(p: Prediction) -> list[str]:
    """What is needed, ours with its unit, reported, and the exact value where there is one."""
    ours = f"{interval(p.ours)} {p.unit}".strip()
    return [p.relation.text, ours, decimal(p.reported), decimal(p.exact)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def heading(number: int) -> str:
    """The claim's number and title."""
    return f"{number}. {known_claims()[number]['title']}"


def anchor(number: int) -> str:
    """What a link to the claim's section ends with."""
    return "".join(c for c in heading(number).lower() if c.isalnum() or c in " -").replace(" ", "-")


def claim_file(number: int) -> str:
    """The page of the claim, from the root of the report."""
    return f"docs/claims/{number:02d}-{anchor(number).partition('-')[2]}.md"


def decimal(value: float | None, digits: int = 4, decimals: int | None = None) -> str:
    """A number with so many digits, or with so many decimals; empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is not None:
        text = f"{value:.{decimals}f}"
    elif value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.2e}"
    else:
        text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def interval(estimate: Estimate) -> str:
    """value [low, high], with as many decimals as the interval supports: two digits of its half width."""
    ends = (estimate.value, estimate.low, estimate.high)
    if estimate.low == estimate.high:
        return decimal(estimate.value)
    half = min(abs(end - estimate.value) for end in ends[1:])
    decimals = 1 - math.floor(math.log10(half)) if 0 < half < math.inf else None
    if decimals is not None:
        decimals = max(decimals, 0) if decimals <= 5 else None
    value, low, high = (decimal(end, decimals=decimals) or "undefined" for end in ends)
    return f"{value} [{low}, {high}]"
