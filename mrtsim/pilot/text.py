"""What a pilot or a comparison says, as a person reads it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mrtsim.display import number, table

if TYPE_CHECKING:
    from mrtsim.estimates import Estimate
    from mrtsim.pilot.compare import Comparison
    from mrtsim.pilot.estimate import PilotEstimate

Row = tuple[Any, ...]
METHODS = {"anova": "ANOVA", "ml": "ML", "reml": "REML"}


def estimate_row(name: str, estimate: Estimate, meaning: str) -> Row:
    """A row of a table of estimates.

    Args:
        name: of the quantity.
        estimate: with its interval.
        meaning: a few words.
    """
    return name, estimate.value, estimate.low, estimate.high, meaning


def pilot_rows(pilot: PilotEstimate) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of a pilot's estimates."""
    grouped, r = pilot.group is not None, number(pilot.redundancy)
    rows = []
    if pilot.group is not None:
        rows.append(estimate_row("V_g", pilot.group, "between groups of redundant prompts"))
    between = ("V_x|g", "between prompts of a group") if grouped else ("V_x", "between prompts")
    rows.append(estimate_row(between[0], pilot.prompt, between[1]))
    rows.append(estimate_row("V_y|x", pilot.response, "between responses to a prompt"))
    meaning = "V_y|x / V_x"
    if grouped:
        meaning = f"V_y|x / ({r} V_g + V_x|g), {r} prompts per group" if pilot.redundancy else "V_y|x / V_x|g"
    rows.append(estimate_row("ratio", pilot.ratio, meaning))
    meaning = "share of the variance that responses to a prompt have in common"
    rows.append(estimate_row("icc", pilot.icc, meaning))
    return (METHODS[pilot.method], "estimate", f"{100 * pilot.confidence:g} % low", "high", ""), rows


def pilot_text(
    pilot: PilotEstimate, loss: str | None = None, more: Iterable[tuple[str, Estimate, str]] = ()
) -> str:
    """How much data a pilot has, its mean, and its estimates with `more` of them.

    Args:
        pilot: the estimates.
        loss: what the losses are called.
        more: further rows: name, estimate, meaning.
    """
    per_prompt = number(pilot.n_responses / pilot.n_prompts)
    groups = "" if pilot.n_groups is None else f" in {pilot.n_groups} groups"
    header, rows = pilot_rows(pilot)
    mean = f"length of the mean {loss or 'vector'}" if pilot.vectors else f"mean {loss or 'loss'}"
    return "\n".join(
        [
            f"{pilot.n_responses} responses to {pilot.n_prompts} prompts{groups}, {per_prompt} per prompt",
            f"{mean} {number(pilot.mean)}, standard error {number(pilot.standard_error)}",
            "",
            table([*rows, *(estimate_row(*row) for row in more)], header),
        ]
    )


def comparison_rows(c: Comparison) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of the estimates of two models' difference."""

    def row(name: str, estimate: Estimate | None, meaning: str) -> Row:
        if estimate is None:
            return name, "unknown", "", "", f"{meaning}: one response per prompt"
        limits = ["" if math.isnan(x) else number(x) for x in (estimate.low, estimate.high)]
        return name, number(estimate.value), *limits, meaning

    freedom, error = number(c.detectable.degrees_of_freedom), number(c.difference.standard_error)
    rows = [
        row("A - B", c.difference, f"standard error {error} on {freedom} degrees of freedom"),
        row("V_D|g" if c.group else "V_D", c.prompt, "between prompts, of the models' difference"),
    ]
    if c.group is not None:
        rows.append(row("V_g", c.group, "between groups of redundant prompts, of the difference"))
    rows.append(row("W_A", c.response_a, "between A's responses to a prompt"))
    rows.append(row("W_B", c.response_b, "between B's responses to a prompt"))
    if paired(c):
        rows.append(row("W", c.response, "between a prompt's pairs, of their difference"))
    return ("", "estimate", f"{100 * c.rule.confidence:g} % low", "high", ""), rows


def comparison_text(c: Comparison, names: Sequence[str] = ("A", "B"), word: str = "loss") -> str:
    """How much data a comparison has, the means, and its estimates.

    Args:
        c: the comparison.
        names: of the two models.
        word: what the losses are called.
    """
    counts = [
        f"{letter} = {name}: {n} response{'s' if n > 1 else ''}"
        for letter, name, n in zip("AB", names, (c.n_responses_a, c.n_responses_b), strict=True)
    ]
    groups = "" if c.n_groups is None else f" in {c.n_groups} groups"
    lines = [f"{', '.join(counts)}{' in pairs' if paired(c) else ''}, to {c.n_prompts} prompts{groups}"]
    if c.n_dropped:
        lines.append(f"{c.n_dropped} prompt{'s' if c.n_dropped > 1 else ''} of one model only left out")
    lines.append(f"mean {word} of A {number(c.mean_a)}, of B {number(c.mean_b)}")
    header, rows = comparison_rows(c)
    lines += ["", table(rows, header)]
    if math.isfinite(c.correlation):
        rho = number(c.correlation, 3)
        lines += ["", f"  rho = {rho}: correlation of the models' mean {word} per prompt"]
    return "\n".join(lines)


def paired(c: Comparison) -> bool:
    """Whether the responses of the two models come in pairs."""
    return c.response is not None or c.components.response is not None


def warning_lines(warnings: Iterable[str]) -> list[str]:
    """Warnings, wrapped, each after an empty line."""
    lines = []
    for warning in warnings:
        lines += ["", textwrap.fill(f"warning: {warning}", 100, subsequent_indent="  ")]
    return lines
