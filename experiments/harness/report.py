"""Which claims hold? The page and the figures, from stored results alone.

A claim's verdict follows from its predictions (see `verdict`), and these from intervals. Only the committed results of
the `precise` preset write `paper_repro.md` and `figures/`; other presets get a page of their own beside their results,
with a comparison to the committed ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.harness.statements import Estimate, Outcome, Prediction
from mrtsim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "precise"


@dataclass(frozen=True)
class Found:
    """A stored result and what it says."""

    name: str
    stored: dict[str, Any]
    predictions: list[Prediction]


def write(preset: str, out: Path) -> tuple[Path, Path, str]:
    """Write the page and the figures of one preset; returns the paths of page and gallery, and how it compares."""
    results = load(out / preset)
    if not results:
        raise InputError(
            f"{out / preset} holds no results: first run python -m experiments run all --preset {preset}"
        )
    home = ROOT if (out / preset).resolve() == COMMITTED else out / preset
    drawn = draw_all(results, home / "figures")
    reference = None if home == ROOT else load(COMMITTED)
    page, gallery = home / "paper_repro.md", home / "figures" / "README.md"
    gallery.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(preset, results, drawn, reference), encoding="utf-8")
    gallery.write_text(render_gallery(preset, drawn), encoding="utf-8")
    return page, gallery, agreement(results, reference)[0] if reference else ""


def load(folder: Path) -> dict[str, Found]:
    """The finished results in a preset's folder, by experiment, with their predictions."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        name = stored["experiment"]
        module = importlib.import_module(f"experiments.{name}")
        try:
            predictions = module.predictions(stored["result"])
        except KeyError as error:
            raise InputError(
                f"{path} was made by another version of experiment {name} (it lacks {error}): run it again"
            ) from error
        found[name] = Found(name, stored, predictions)
    return found


def verdict(predictions: Sequence[Prediction]) -> tuple[str, list[str]]:
    """The verdict on a claim, and the statements that limit it.

    Every statement is phrased so that "holds" speaks for the claim, and its outcome is computed from an interval. The
    claim rests on its primary statements; limits say how far it reaches; context does not count.

    - not testable here: no primary statement is settled (or there is none);
    - does not hold: of the primary statements that are settled, every one fails;
    - holds: every primary statement holds, and no limit fails;
    - holds with limits: anything between; named are the statements that fail, and the primary ones that are open.
    """
    predictions = [p for p in predictions if p.kind != "context"]
    primary = [p for p in predictions if p.primary]
    holding = [p for p in primary if p.outcome == Outcome.HOLDS]
    failing = [p for p in primary if p.outcome == Outcome.FAILS]
    limits = [
        f"{p.outcome}: {p.statement}"
        for p in predictions
        if p.outcome == Outcome.FAILS or (p.primary and p.outcome == Outcome.OPEN)
    ]
    if not holding and not failing:
        return "not testable here", limits
    if not holding:
        return "does not hold", limits
    return ("holds with limits" if limits else "holds"), limits


def draw_all(results: dict[str, Found], folder: Path) -> dict[str, str]:
    """Draw every figure there is code for, as PNG and PDF; returns experiment -> caption."""
    from figures import style

    drawn = {name: caption(name) for name in results if has_figure(name)}
    for name in drawn:
        style.save(
            importlib.import_module(f"figures.{name}").draw(results[name].stored["result"]), folder / name
        )
    return drawn


def has_figure(name: str) -> bool:
    """Is there code that draws this experiment?"""
    return importlib.util.find_spec(f"figures.{name}") is not None


def caption(name: str) -> str:
    """The docstring of the code that draws an experiment."""
    return " ".join((importlib.import_module(f"figures.{name}").__doc__ or name).split())


def render(
    preset: str, results: dict[str, Found], drawn: dict[str, str], reference: dict[str, Found] | None
) -> str:
    """The page, as Markdown. `reference`: the committed results to compare with, where these are others."""
    claims = _claims()
    prefix = "results/precise/" if reference is None else ""
    evidence = {number: _evidence(number, claim, results) for number, claim in claims.items()}
    seeds = ", ".join(map(str, sorted({found.stored["seed"] for found in results.values()})))
    lines = [
        "# The paper's claims, tested",
        "",
        f"Preset `{preset}`, seed {seeds}. Every number and verdict on this page is computed from the stored "
        "results by `python -m experiments report`; typed are the claims in our words and the explanations "
        "(`experiments/harness/claims.toml`). Intervals are 95 % unless a statement says otherwise.",
        "",
        "## Summary",
        "",
        *_table(
            ["claim", "quantity", "reported", "ours", "exact", "verdict", "figure", "command"],
            [_summary_row(n, c, evidence[n], results, drawn, preset) for n, c in claims.items()],
        ),
        "",
        f"Verdicts: {_HOW}",
        "",
    ]
    for number, claim in claims.items():
        lines += _section(number, claim, evidence[number], results, drawn)
    if reference is not None:
        lines += _agreement_section(results, reference)
    lines += [
        "## How it was made",
        "",
        *_table(
            ["experiment", "replicates", "seed", "result", "provenance"],
            [
                [
                    name,
                    str(found.stored["config"].get("replicates", "")),
                    str(found.stored["seed"]),
                    f"[result.json]({prefix}{name}/result.json)",
                    f"[run.json]({prefix}{name}/run.json)",
                ]
                for name, found in results.items()
            ],
        ),
        "",
    ]
    return "\n".join(lines)


_HOW = (
    "a claim *holds* where all its primary statements hold and no statement about its limits fails; it *does not hold* "
    "where every settled primary statement fails; it is *not testable here* where no primary statement can be settled; "
    "anything between *holds with limits*, and its section names them. Statements marked as context do not count. A "
    "statement holds or fails only where its whole interval says so."
)


def render_gallery(preset: str, drawn: dict[str, str]) -> str:
    """A page with every figure."""
    lines = ["# Figures", "", f"Drawn from the stored results of preset `{preset}`.", ""]
    for name, caption in drawn.items():
        lines += [
            f"## {name}",
            "",
            f"![{caption}]({name}.png)",
            "",
            f"{caption} ([PDF]({name}.pdf))",
            "",
        ]
    return "\n".join(lines)


@cache
def _claims() -> dict[int, dict[str, Any]]:
    content = tomllib.loads((Path(__file__).parent / "claims.toml").read_text(encoding="utf-8"))
    return {int(number): claim for number, claim in content.items()}


def _evidence(number: int, claim: dict[str, Any], results: dict[str, Found]) -> list[tuple[str, Prediction]]:
    """Every prediction on a claim with its experiment, in the claim's order of experiments."""
    order = [name for name in claim["experiments"] if name in results]
    order += [name for name in results if name not in order]
    return [(name, p) for name in order for p in results[name].predictions if p.claim == number]


def _missing(claim: dict[str, Any], results: dict[str, Found]) -> list[str]:
    return [name for name in claim["experiments"] if name not in results]


def _judge(
    claim: dict[str, Any], evidence: list[tuple[str, Prediction]], results: dict[str, Found]
) -> tuple[str, list[str]]:
    """The verdict and its limits; "not run" where experiments are missing that could have settled it."""
    judged, limits = verdict([p for _, p in evidence])
    if judged == "not testable here":
        return ("not run" if _missing(claim, results) else judged), []
    return judged, limits


def _summary_row(
    number: int,
    claim: dict[str, Any],
    evidence: list[tuple[str, Prediction]],
    results: dict[str, Found],
    drawn: dict[str, str],
    preset: str,
) -> list[str]:
    title = f"[{number}. {claim['title']}](#{_anchor(number, claim)})"
    headline = next((pair for pair in evidence if pair[1].kind == "primary"), None)
    name = headline[0] if headline else claim["experiments"][0]
    command = f"`python -m experiments run {name} --preset {preset}`"
    figure = f"[{name}](figures/{name}.png)" if name in drawn else ""
    judged = _judge(claim, evidence, results)[0]
    if headline is None:
        return [title, "", "", "", "", f"**{judged}**", figure, command]
    p = headline[1]
    return [
        title,
        p.statement,
        _number(p.reported),
        _interval(p.ours),
        _number(p.exact),
        f"**{judged}**",
        figure,
        command,
    ]


def _section(
    number: int,
    claim: dict[str, Any],
    evidence: list[tuple[str, Prediction]],
    results: dict[str, Found],
    drawn: dict[str, str],
) -> list[str]:
    lines = [f"## {_heading(number, claim)}", "", claim["text"], ""]
    judged, limits = _judge(claim, evidence, results)
    lines += [f"Verdict: **{judged}**" + (":" if limits else "."), ""]
    lines += [f"- {limit}" for limit in limits] + ([""] if limits else [])
    if missing := _missing(claim, results):
        lines += [f"Not run: {', '.join(missing)}.", ""]
    for name in [n for n in claim["experiments"] if n in drawn]:
        lines += [f"![{drawn[name]}](figures/{name}.png)", "", f"*{drawn[name]}*", ""]
    if others := sorted({n for n, _ in evidence if n in drawn} - set(claim["experiments"])):
        links = ", ".join(f"[{name}](figures/{name}.png)" for name in others)
        lines += [f"Figures of the other experiments in the table: {links}.", ""]
    if evidence:
        lines += _table(
            ["statement", "reported", "ours", "exact", "outcome", "kind", "experiment", "note"],
            [
                [
                    p.statement,
                    _number(p.reported),
                    _interval(p.ours),
                    _number(p.exact),
                    str(p.outcome),
                    p.kind,
                    name,
                    p.note,
                ]
                for name, p in evidence
            ],
        )
        lines.append("")
    return [*lines, "What differs from the paper, and why:", "", claim["differs"].strip(), ""]


def agreement(results: dict[str, Found], reference: dict[str, Found]) -> tuple[str, list[list[str]]]:
    """Statement by statement, do these results agree with the committed ones? In one line, and as rows of a table."""
    theirs = {(n, p.claim, p.statement): p for n, f in reference.items() for p in f.predictions}
    rows, outcomes, overlaps = [], Counter(), Counter()
    for name, found in results.items():
        for p in found.predictions:
            q = theirs.get((name, p.claim, p.statement))
            outcome = "not there" if q is None else _same_outcome(p.outcome, q.outcome)
            overlap = "" if q is None else _overlap(p.ours, q.ours)
            outcomes[outcome] += 1
            overlaps[overlap] += 1
            there = [_interval(q.ours), str(q.outcome)] if q else ["", ""]
            cells = [str(p.claim), name, p.statement, _interval(p.ours), there[0], str(p.outcome), there[1]]
            rows.append([*cells, outcome, overlap])
    counted = [f"{outcome}: {n} of {len(rows)}" for outcome, n in sorted(outcomes.items())]
    counted.append(f"intervals overlap: {overlaps['yes']} of {overlaps['yes'] + overlaps['no']}")
    return "; ".join(counted), rows


def _agreement_section(results: dict[str, Found], reference: dict[str, Found]) -> list[str]:
    title = ["## Agreement with the committed page", ""]
    if not reference:
        return [*title, "There are no committed results to compare with.", ""]
    judged = []
    for number, claim in _claims().items():
        here, there = (_judge(claim, _evidence(number, claim, r), r)[0] for r in (results, reference))
        judged.append([f"{number}. {claim['title']}", here, there, "yes" if here == there else "no"])
    line, rows = agreement(results, reference)
    return [
        *title,
        "Fewer replicates leave more statements open. Intervals over trials are for the networks and prompts of a run; "
        "presets draw other networks, and such intervals need not overlap.",
        "",
        f"{line}.",
        "",
        *_table(["claim", "verdict here", "committed", "same"], judged),
        "",
        *_table(
            [
                "claim",
                "experiment",
                "statement",
                "here",
                "committed",
                "outcome here",
                "committed",
                "outcome",
                "overlap",
            ],
            rows,
        ),
        "",
    ]


def _same_outcome(here: Outcome, there: Outcome) -> str:
    if here == there:
        return "same outcome"
    return "settled in one only" if Outcome.OPEN in (here, there) else "opposite outcome"


def _overlap(here: Estimate, there: Estimate) -> str:
    """Do two intervals overlap? Empty where there is nothing to compare: an undefined one, or neither has a width."""
    ends = (here.low, here.high, there.low, there.high)
    if any(map(math.isnan, ends)) or (here.low == here.high and there.low == there.high):
        return ""
    return "yes" if max(here.low, there.low) <= min(here.high, there.high) else "no"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _heading(number: int, claim: dict[str, Any]) -> str:
    return f"{number}. {claim['title']}"


def _anchor(number: int, claim: dict[str, Any]) -> str:
    text = _heading(number, claim).lower()
    return "".join(c for c in text if c.isalnum() or c in " -").replace(" ", "-")


def _number(value: float | None, decimals: int | None = None) -> str:
    """A number with so many decimals, or with four digits."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(estimate: Estimate) -> str:
    """value [low, high], with as many decimals as the interval supports: two digits of its half width."""
    ends = (estimate.value, estimate.low, estimate.high)
    if estimate.low == estimate.high:
        return _number(estimate.value)
    half = min(abs(end - estimate.value) for end in ends[1:])
    decimals = 1 - math.floor(math.log10(half)) if 0 < half < math.inf else None
    if decimals is not None:
        decimals = max(decimals, 0) if decimals <= 5 else None
    value, low, high = (_number(end, decimals) or "undefined" for end in ends)
    return f"{value} [{low}, {high}]"
