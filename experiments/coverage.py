"""How often the intervals of `mrtsim pilot` hold the truth, and how often its warnings say so: simulated pilots.

Every cell simulates pilots of one design and one law of losses, and counts how often each nominal 95 % interval of each
registered method holds the truth: V_{y|x}/V_x (with groups V_{y|x}/(r V_g + V_{x|g}); K* is a monotone function of it,
so its coverage is the same), V_x or V_{x|g}, V_g, and V_{y|x}. The methods see the same pilots. A pilot without spread
within its prompts is refused by the command; such pilots are counted apart.

`python -m experiments.coverage` writes `docs/coverage.md` from the stored results.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.harness.statements import Prediction
from experiments.shared.effects import effects
from experiments.shared.studies import measure_cells, write_page
from mrtsim.pilot.intervals import DEFAULT, interval_methods
from mrtsim.pilot.mean_squares import weighted_mean_squares
from mrtsim.pilot.sums import PromptSums
from mrtsim.pilot.warnings import at_risk

Floats = NDArray[np.float64]

CLAIMS = ()
CONFIDENCE = 0.95
BASELINE = "0.1.0"  # the method that widths are relative to
ROWS_AT_ONCE = 2**20
QUANTITIES = ("ratio", "prompt", "response", "group")

# Losses that are mu + prompt (group) effect + response effect: the laws of these effects.
ADDITIVE = {
    "normal": ("normal", "normal"),
    "heteroscedastic": ("normal", "normal"),
    "log-normal 0.5": ("log-normal 0.5", "log-normal 0.5"),
    "exponential": ("exponential", "exponential"),
    "t4": ("t4", "t4"),
    "two-point": ("two-point", "two-point"),
    "log-normal 1 prompts": ("log-normal 1", "normal"),
    "log-normal 1 responses": ("normal", "log-normal 1"),
    "log-normal 1.5 responses": ("normal", "log-normal 1.5"),
}
BINARY = {
    "Beta(2, 2)": (2.0, 2.0),
    "Beta(.5, .5)": (0.5, 0.5),
    "Beta(.2, 2)": (0.2, 2.0),
    "Beta(8, .5)": (8.0, 0.5),
}
LOSSES = (*ADDITIVE, "multiplicative", "zero-inflated", *BINARY)
COUNTS = ("balanced", "half one", "1 to 40")
GROUPS = ("none", "equal", "1 to 3", "very unequal")
ACTIVE = 0.4  # share of prompts whose losses are not 0, "zero-inflated"


@dataclass(frozen=True)
class Config:
    """The cells: `losses` x `prompts` (groups where there are any) x `ratios` (binary losses have their own) x designs.

    The designs are every entry of `responses` for balanced pilots without groups, `counts` other than balanced without
    groups, and `groups` other than none with `grouped_responses` per prompt.
    """

    losses: tuple[str, ...] = LOSSES
    ratios: tuple[float, ...] = (0.15, 1.0, 7.0)
    prompts: tuple[int, ...] = (6, 20, 50, 200)
    responses: tuple[int, ...] = (2, 4, 8, 32)
    counts: tuple[str, ...] = COUNTS
    groups: tuple[str, ...] = GROUPS
    grouped_responses: int = 4
    replicates: int = 40


PRESETS = {
    "quick": Config(prompts=(6, 20), responses=(2, 8), ratios=(1.0,), replicates=40),
    "paper": Config(),
    "precise": Config(replicates=1_000),
}


@dataclass(frozen=True)
class Cell:
    """One design and one law; ratio is V_{y|x} / (r V_g + V_{x|g}), and `clusters` counts prompts, or groups.

    `responses` is K where balanced, and None otherwise.
    """

    losses: str
    ratio: float
    clusters: int
    responses: int | None = None
    counts: str = "balanced"
    groups: str = "none"
    sizes: NDArray[np.int64] = field(init=False, compare=False)
    responses_per_prompt: NDArray[np.int64] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        n = self.clusters
        if self.groups == "very unequal":  # the g-th largest has 1/g of the prompts of the largest
            sizes = np.maximum(np.round((1.1 * n + 6) / np.arange(1, n + 1)), 1)
        else:
            sizes = np.resize({"none": [1], "equal": [3], "1 to 3": [1, 2, 3]}[self.groups], n)
        object.__setattr__(self, "sizes", sizes.astype(np.int64))
        prompts = int(sizes.sum())
        if self.counts == "half one":
            several = np.resize([2, 5, 8, 11, 14, 17, 20], prompts - prompts // 2)
            counts = np.concatenate([np.ones(prompts // 2), several])
        elif self.counts == "1 to 40":
            counts = 1 + 17 * np.arange(prompts) % 40
        else:
            counts = np.full(prompts, self.responses)
        object.__setattr__(self, "responses_per_prompt", counts.astype(np.int64))

    @property
    def grouped(self) -> bool:
        """Whether the prompts come in groups."""
        return self.groups != "none"

    @property
    def redundancy(self) -> float:
        """r of the design: 1 without groups."""
        return float((self.sizes**2).sum() / self.sizes.sum())

    @property
    def name(self) -> str:
        """A unique label; it also seeds the cell."""
        design = f"K={self.responses}" if self.counts == "balanced" else self.counts
        return f"{self.losses}/ratio={self.ratio:g}/n={self.clusters}/{design}/groups {self.groups}"

    def components(self) -> tuple[float, float, float]:
        """(V_g, V_x or V_{x|g}, V_{y|x})."""
        return _family(self.losses).components(self)


class Additive:
    """Effects of given laws, scaled to V_g = V_{x|g} (V_x = 1 without groups) and the cell's ratio."""

    def components(self, cell: Cell) -> tuple[float, float, float]:
        share = 1 / (1 + cell.redundancy) if cell.grouped else 1.0
        return share * cell.grouped, share, cell.ratio

    def losses(self, cell: Cell, rng: np.random.Generator, n: int) -> Floats:
        between, within = ADDITIVE[cell.losses]
        v_group, v_prompt, v_response = cell.components()
        mean = math.sqrt(v_prompt) * effects(between, rng, (n, cell.responses_per_prompt.size))
        if cell.grouped:
            mean += np.repeat(
                math.sqrt(v_group) * effects(between, rng, (n, cell.clusters)), cell.sizes, axis=1
            )
        losses = effects(within, rng, (n, int(cell.responses_per_prompt.sum())))
        if cell.losses == "heteroscedastic":
            scale = np.sqrt(rng.standard_exponential(mean.shape))
            losses *= np.repeat(scale, cell.responses_per_prompt, axis=1)
        losses *= math.sqrt(v_response)
        losses += np.repeat(mean, cell.responses_per_prompt, axis=1)
        return losses


class Multiplicative:
    """exp(normal + normal) with total sigma 1, so that the spread follows the mean; V_g = V_{x|g}."""

    def _relative(self, cell: Cell) -> float:
        """V_{x|g} over the squared mean loss."""
        return (math.exp(1.0) - 1) / (cell.ratio * (cell.redundancy * cell.grouped + 1) + 1 + cell.grouped)

    def components(self, cell: Cell) -> tuple[float, float, float]:
        # With V_g = V_{x|g} = m^2 v the squares of the log-normal means are 1 + v and 1 + 2 v.
        v, mean2 = self._relative(cell), math.exp(1.0)
        return mean2 * v * cell.grouped, mean2 * v, mean2 * (math.exp(1.0) - 1 - v * (1 + cell.grouped))

    def losses(self, cell: Cell, rng: np.random.Generator, n: int) -> Floats:
        v = self._relative(cell)
        group, prompt = math.log1p(v * cell.grouped), math.log1p(v * (1 + cell.grouped))
        log_mean = math.sqrt(prompt - group) * rng.standard_normal((n, cell.responses_per_prompt.size))
        if cell.grouped:
            of_group = math.sqrt(group) * rng.standard_normal((n, cell.clusters))
            log_mean += np.repeat(of_group, cell.sizes, axis=1)
        losses = math.sqrt(1 - prompt) * rng.standard_normal((n, int(cell.responses_per_prompt.sum())))
        losses += np.repeat(log_mean, cell.responses_per_prompt, axis=1)
        return np.exp(losses, out=losses)


class Binary:
    """0/1 losses; a prompt's probability is Beta, with groups the mean of one Beta of the group and one of its own."""

    def components(self, cell: Cell) -> tuple[float, float, float]:
        a, b = BINARY[cell.losses]
        mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
        group, prompt = (variance / 4, variance / 4) if cell.grouped else (0.0, variance)
        return group, prompt, mean * (1 - mean) - group - prompt

    def losses(self, cell: Cell, rng: np.random.Generator, n: int) -> Floats:
        a, b = BINARY[cell.losses]
        p = rng.beta(a, b, (n, cell.responses_per_prompt.size))
        if cell.grouped:
            p = (p + np.repeat(rng.beta(a, b, (n, cell.clusters)), cell.sizes, axis=1)) / 2
        p = np.repeat(p, cell.responses_per_prompt, axis=1)
        return (rng.random(p.shape) < p).astype(np.float64)


class ZeroInflated:
    """All losses of a prompt are 0 with probability 0.6; else an exponential mean loss plus exponential responses.

    With groups the mean loss is the sum of an exponential of the group and one of the prompt.
    """

    def components(self, cell: Cell) -> tuple[float, float, float]:
        parts = 1 + cell.grouped  # exponentials of mean 1: second moment of their sum is parts (parts + 1)
        total = ACTIVE * parts * (parts + 1) - (ACTIVE * parts) ** 2
        group = ACTIVE**2 * cell.grouped
        return group, total - group, cell.ratio * (cell.redundancy * group + total - group)

    def losses(self, cell: Cell, rng: np.random.Generator, n: int) -> Floats:
        shape = (n, cell.responses_per_prompt.size)
        active = rng.random(shape) < ACTIVE
        mean = rng.standard_exponential(shape)
        if cell.grouped:
            mean += np.repeat(rng.standard_exponential((n, cell.clusters)), cell.sizes, axis=1)
        losses = effects("exponential", rng, (n, int(cell.responses_per_prompt.sum())))
        losses *= math.sqrt(cell.components()[2] / ACTIVE)
        losses += np.repeat(mean, cell.responses_per_prompt, axis=1)
        losses *= np.repeat(active, cell.responses_per_prompt, axis=1)
        return losses


def _family(losses: str) -> Additive | Multiplicative | Binary | ZeroInflated:
    named = {"multiplicative": Multiplicative(), "zero-inflated": ZeroInflated()}
    return named.get(losses) or (Additive() if losses in ADDITIVE else Binary())


def simulate(cell: Cell, rng: np.random.Generator, n: int) -> PromptSums:
    """n pilots of a cell, as sums per prompt."""
    counts = cell.responses_per_prompt
    first = np.cumsum(counts) - counts
    losses = _family(cell.losses).losses(cell, rng, n)
    means = np.add.reduceat(losses, first, axis=1) / counts
    losses -= np.repeat(means, counts, axis=1)
    within = np.add.reduceat(np.square(losses, out=losses), first, axis=1)
    starts = np.cumsum(cell.sizes) - cell.sizes if cell.grouped else None
    return PromptSums(counts.astype(float), means, within, starts)


def cells(config: Config) -> Iterator[Cell]:
    """All cells of a config."""
    designs = [(k, "balanced", "none") for k in config.responses if "balanced" in config.counts]
    designs += [(None, counts, "none") for counts in config.counts if counts != "balanced"]
    designs += [
        (config.grouped_responses, "balanced", groups) for groups in config.groups if groups != "none"
    ]
    for losses, clusters, (responses, counts, groups) in product(config.losses, config.prompts, designs):
        if losses in BINARY:
            cell = Cell(losses, math.nan, clusters, responses, counts, groups)
            group, prompt, response = cell.components()
            ratio = response / (cell.redundancy * group + prompt)
            yield Cell(losses, ratio, clusters, responses, counts, groups)
        else:
            for ratio in config.ratios:
                yield Cell(losses, ratio, clusters, responses, counts, groups)


def measure(cell: Cell, replicates: int, seed: list[int]) -> dict[str, Any]:
    """Coverage of every method in one cell; the same bits for the same arguments.

    Returns:
        The design, `answered` (pilots that the command does not refuse), `warned` and `held_warned` (pilots with a
        warning about a quantity's interval, and those whose interval holds the truth nevertheless), and `intervals`:
        for each method and quantity the numbers of pilots whose interval lies below the truth, holds it, lies above it,
        and the median width over that of version 0.1.0 (of the ratio's inverse, which is finite).
    """
    rng = np.random.default_rng([*seed, zlib.crc32(cell.name.encode())])
    at_once = max(1, ROWS_AT_ONCE // int(cell.responses_per_prompt.sum()))
    parts = []
    for begin in range(0, replicates, at_once):
        parts.append(_judged(cell, simulate(cell, rng, min(at_once, replicates - begin))))
    judged = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    kept = judged.pop("answered")
    settings = ("losses", "ratio", "clusters", "responses", "counts", "groups")
    result: dict[str, Any] = {name: getattr(cell, name) for name in settings}
    result["answered"] = int(kept.sum())
    quantities = [name for name in QUANTITIES if name != "group" or cell.grouped]
    warned = {name: judged[f"warned {name}"][kept] for name in quantities}
    held = {name: judged[f"side {DEFAULT} {name}"][kept] == 0 for name in quantities}
    result["warned"] = {name: int(warned[name].sum()) for name in quantities}
    result["held_warned"] = {name: int((warned[name] & held[name]).sum()) for name in quantities}
    result["intervals"] = {}
    for method in interval_methods():
        result["intervals"][method] = found = {}
        for name in quantities:
            side = judged[f"side {method} {name}"][kept]
            width, base = (judged[f"width {m} {name}"][kept] for m in (method, BASELINE))
            both = np.isfinite(width) & np.isfinite(base) & (base > 0)
            relative = float(np.median(width[both] / base[both])) if both.any() else None
            counts = [int((side == where).sum()) for where in (1, 0, -1)]
            found[name] = [*counts, None if relative is None else round(relative, 3)]
    return result


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _judged(cell: Cell, pilots: PromptSums) -> dict[str, NDArray[Any]]:
    group, prompt, response = cell.components()
    truth = {
        "ratio": response / (cell.redundancy * group + prompt),
        "prompt": prompt,
        "response": response,
        "group": group,
    }
    risk = at_risk(weighted_mean_squares(pilots))
    warned = {"ratio": risk.ratio, "prompt": risk.prompt if cell.grouped else risk.between}
    warned |= {"response": risk.response, "group": risk.between}
    judged: dict[str, NDArray[Any]] = {"answered": pilots.within.sum(axis=-1) > 1e-20}
    judged |= {f"warned {name}": flags for name, flags in warned.items()}
    for method, function in interval_methods().items():
        limits = function(pilots, CONFIDENCE, cell.redundancy)
        for name in QUANTITIES:
            found = getattr(limits, name)
            if found is not None:
                judged[f"side {method} {name}"] = _side(truth[name], found)
                judged[f"width {method} {name}"] = _width(name, found)
    return judged


def _side(truth: float, interval: tuple[Floats, Floats]) -> NDArray[np.int8]:
    return (truth > interval[1]).astype(np.int8) - (truth < interval[0]).astype(np.int8)


def _width(name: str, interval: tuple[Floats, Floats]) -> Floats:
    """Of the part of the interval that is not negative; of the ratio's inverse."""
    low, high = (1 / interval[1], 1 / interval[0]) if name == "ratio" else interval
    return np.maximum(high, 0) - np.maximum(low, 0)


def run(config: Config, key: jax.Array, sweep: Any) -> dict[str, Any]:
    """Measure every cell."""
    table = measure_cells(
        "coverage",
        list(cells(config)),
        lambda cell, seed: measure(cell, config.replicates, seed),
        key,
        progress=sweep.progress,
    )
    return {"replicates": config.replicates, "cells": table}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """None: the intervals are the package's, not the paper's."""
    return []


def coverage(cell: dict[str, Any], quantity: str, method: str = DEFAULT) -> float:
    """Share of the answered pilots whose interval holds the truth."""
    return cell["intervals"][method][quantity][1] / cell["answered"] if cell["answered"] else math.nan


def warned(cell: dict[str, Any], quantity: str) -> float:
    """Share of the answered pilots with a warning about this interval."""
    return cell["warned"][quantity] / cell["answered"] if cell["answered"] else math.nan


def chosen(result: dict[str, Any], quantity: str | None = None, **where: Any) -> list[dict[str, Any]]:
    """The cells with these settings, each a value or a tuple of values, in which a quantity is known.

    Cells of which more than half of the pilots are refused are left out.
    """
    found = []
    for cell in result["cells"]:
        fits = all(
            cell[key] in (value if isinstance(value, tuple) else (value,)) for key, value in where.items()
        )
        known = quantity is None or quantity in cell["warned"]
        if fits and known and cell["answered"] >= result["replicates"] / 2:
            found.append(cell)
    return found


BALANCED: dict[str, Any] = {"counts": "balanced", "groups": "none"}
ENOUGH = (20, 50, 200)  # prompts or groups
SHORT, TOO_SHORT = 0.92, 0.85


def findings(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that the page states and the tests hold to their thresholds."""
    found: dict[str, float] = {}
    even = chosen(result, clusters=ENOUGH, **BALANCED)
    changes = [
        coverage(cell, name) - coverage(cell, name, BASELINE) for cell in even for name in cell["warned"]
    ]
    found["balanced, mean change"] = float(np.mean(changes))
    found["balanced, worst change"] = min(changes)
    binary = chosen(result, losses=tuple(BINARY), clusters=ENOUGH, **BALANCED)
    found["binary V_x, least"] = min(coverage(cell, "prompt") for cell in binary)
    found["binary V_x, designs below 92 %"] = sum(coverage(cell, "prompt") < SHORT for cell in binary)
    found["binary V_x, least in 0.1.0"] = min(coverage(cell, "prompt", BASELINE) for cell in binary)
    unequal = chosen(result, losses="normal", clusters=ENOUGH, groups=("1 to 3", "very unequal"))
    for method in (DEFAULT, BASELINE):
        shares = [coverage(cell, name, method) for cell in unequal for name in QUANTITIES]
        found[f"unequal groups, least, {method}"] = min(shares)
    trusted = {"normal": (("normal",), ENOUGH), "other": (("heteroscedastic", *BINARY), ENOUGH[1:])}
    for word, (losses, clusters) in trusted.items():
        cells_ = chosen(result, losses=losses, clusters=clusters)
        found[f"trusted, {word}"] = min(coverage(cell, name) for cell in cells_ for name in cell["warned"])
    for clusters in ENOUGH:
        alarms = [
            warned(cell, name)
            for cell in chosen(result, losses="normal", clusters=clusters)
            for name in cell["warned"]
        ]
        found[f"false alarms, mean, {clusters}"] = float(np.mean(alarms))
        found[f"false alarms, worst, {clusters}"] = max(alarms)
        for limit, word in ((SHORT, "short"), (TOO_SHORT, "too short")):
            rates = [
                warned(cell, name)
                for cell in chosen(result, clusters=clusters)
                for name in cell["warned"]
                if coverage(cell, name) < limit
            ]
            found[f"{word}, intervals, {clusters}"] = len(rates)
            found[f"{word}, warned, mean, {clusters}"] = float(np.mean(rates)) if rates else math.nan
            found[f"{word}, warned, least, {clusters}"] = min(rates) if rates else math.nan
    for name in ("ratio", "prompt", "response"):
        for word, silent in (("silent", True), ("warned", False)):
            pilots = held = 0
            for cell in chosen(result, clusters=20, **BALANCED):
                if cell["losses"] not in ("normal", "heteroscedastic"):
                    here = cell["answered"] - cell["warned"][name] if silent else cell["warned"][name]
                    all_held = cell["intervals"][DEFAULT][name][1]
                    pilots += here
                    held += all_held - cell["held_warned"][name] if silent else cell["held_warned"][name]
            found[f"{word}, 20 prompts, {name}"] = held / pilots if pilots else math.nan
    return found


def stated(result: dict[str, Any]) -> dict[str, int]:
    """What `mrtsim.pilot.warnings.COVERAGE` must say: least coverage over balanced cells, in per cent, rounded down."""

    def least(quantity: str, losses: tuple[str, ...], clusters: tuple[int, ...]) -> int:
        cells_ = chosen(result, losses=losses, clusters=clusters, **BALANCED)
        return int(100 * min(coverage(cell, quantity) for cell in cells_) + 1e-9)

    six, some = (6,), ENOUGH
    return {
        "few, normal": least("ratio", ("normal", "heteroscedastic"), six),
        "few, skewed": least("ratio", ("log-normal 1 prompts",), six),
        "few, rare": least("ratio", ("two-point",), six),
        "prompts, V_x": least("prompt", ("log-normal 1 prompts",), some),
        "prompts, K*": least("ratio", ("log-normal 1 prompts",), some),
        "responses, V_y|x": least("response", ("log-normal 1.5 responses",), some),
        "responses, K*": least("ratio", ("log-normal 1.5 responses",), some),
    }


def _range(shares: list[float]) -> str:
    """Mean and least of shares, in per cent."""
    known = [share for share in shares if not math.isnan(share)]
    return f"{100 * np.mean(known):.0f}/{100 * min(known):.0f}" if known else ""


def _row(result: dict[str, Any], quantities: tuple[str, ...], **where: Any) -> list[str]:
    """Per quantity: coverage in 0.1.0, coverage now, width against 0.1.0, share of pilots warned."""
    row = []
    for name in quantities:
        cells_ = chosen(result, name, **where)
        widths = [cell["intervals"][DEFAULT][name][3] for cell in cells_]
        width = float(np.median([w for w in widths if w is not None])) if any(widths) else math.nan
        row.append(_range([coverage(cell, name, BASELINE) for cell in cells_]))
        row.append(f"**{_range([coverage(cell, name) for cell in cells_])}**")
        row.append(f"{width:.2f}")
        row.append(f"{100 * np.mean([warned(cell, name) for cell in cells_]):.0f}")
    return row


NAMES = {"ratio": "K*", "prompt": "V_x", "response": "V_{y\\|x}", "group": "V_g"}


def _table(rows: list[list[str]], header: list[str]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    rule = "| --- |" + " ---: |" * (len(header) - 1)
    return "\n".join(
        ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]
    )


def _family_table(result: dict[str, Any], quantities: tuple[str, ...], **where: Any) -> str:
    header = ["losses"]
    for name in quantities:
        label = "V_{x\\|g}" if name == "prompt" and where.get("groups") != "none" else NAMES[name]
        header += [f"{label}, 0.1.0", "now", "width", "warned"]
    present = [name for name in LOSSES if chosen(result, losses=name, **where)]
    return _table([[name, *_row(result, quantities, losses=name, **where)] for name in present], header)


KINDS = {
    "normal; spread may differ between prompts": ("normal", "heteroscedastic"),
    "0/1 (Beta success rates)": tuple(BINARY),
    "moderately skewed or heavy-tailed": ("log-normal 0.5", "exponential", "t4"),
    "mostly 0, or one of two values": ("zero-inflated", "two-point"),
    "spread follows the mean": ("multiplicative",),
    "very skewed prompts (log-normal 1)": ("log-normal 1 prompts",),
    "very skewed responses (log-normal 1)": ("log-normal 1 responses",),
    "extremely skewed responses (log-normal 1.5)": ("log-normal 1.5 responses",),
}


def page(result: dict[str, Any]) -> str:
    """docs/coverage.md: where to trust the intervals, and the tables behind it."""
    f, three = findings(result), ("ratio", "prompt", "response")

    def percent(name: str) -> str:
        return f"{100 * f[name]:.0f} %"

    trust = []
    for kind, losses in KINDS.items():
        cells_ = chosen(result, losses=losses, clusters=ENOUGH, **BALANCED)
        trust.append([kind])
        for name in three:
            trust[-1].append(_range([coverage(cell, name) for cell in cells_]))
            trust[-1].append(f"{100 * np.mean([warned(cell, name) for cell in cells_]):.0f}")
    warnings = []
    for n in ENOUGH:
        alarms = (100 * f[f"false alarms, {which}, {n}"] for which in ("mean", "worst"))
        warnings.append([str(n), "{:.1f} ({:.1f})".format(*alarms)])
        for word in ("short", "too short"):
            shares = (100 * f[f"{word}, warned, {which}, {n}"] for which in ("mean", "least"))
            warnings[-1].append(f"{int(f[f'{word}, intervals, {n}'])}: " + "{:.0f} ({:.0f})".format(*shares))
    every, methods = [], list(result["cells"][0]["intervals"])
    for losses in dict.fromkeys(cell["losses"] for cell in result["cells"]):
        cells_ = chosen(result, losses=losses, clusters=ENOUGH, **BALANCED)
        every.append([losses, *(_range([coverage(c, "ratio", m) for c in cells_]) for m in methods)])
    header = ["losses", "K*", "warned", "V_x", "warned", NAMES["response"], "warned"]
    columns = ["prompts or groups", "false alarms", "below 92 %", "below 85 %"]

    def families(quantities: tuple[str, ...] = three, **where: Any) -> str:
        return _family_table(result, quantities, **where)

    return Template((Path(__file__).parent / "data" / "coverage.md").read_text(encoding="utf-8")).substitute(
        designs=f"{len(result['cells']):,}",
        replicates=f"{result['replicates']:,}",
        trust=_table(trust, header),
        trust_normal=percent("trusted, normal"),
        trust_other=percent("trusted, other"),
        error=f"{100 * math.sqrt(0.95 * 0.05 / result['replicates']):.1f}",
        **{
            f"{word}_{name}": percent(f"{word}, 20 prompts, {name}")
            for word in ("silent", "warned")
            for name in ("prompt", "response")
        },
        balanced=families(clusters=ENOUGH, **BALANCED),
        mean_change=f"{100 * f['balanced, mean change']:+.1f}",
        worst_change=f"{100 * f['balanced, worst change']:+.1f}",
        binary=percent("binary V_x, least"),
        binary_before=percent("binary V_x, least in 0.1.0"),
        unequal=families(clusters=ENOUGH, counts=("half one", "1 to 40"), groups="none"),
        groups_equal=families(QUANTITIES, clusters=ENOUGH, groups="equal"),
        groups_few=families(QUANTITIES, clusters=ENOUGH, groups="1 to 3"),
        groups_unequal=families(QUANTITIES, clusters=ENOUGH, groups="very unequal"),
        groups_normal=percent(f"unequal groups, least, {DEFAULT}"),
        groups_normal_before=percent(f"unequal groups, least, {BASELINE}"),
        six=families(clusters=6, **BALANCED),
        warnings=_table(warnings, columns),
        methods=_table(every, ["losses", *methods]),
    )


if __name__ == "__main__":
    write_page("coverage", page)
