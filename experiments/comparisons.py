"""How often the interval of `mrtsim compare` holds the difference, and whether its power is the power promised.

Every cell simulates comparisons of one design and one law: two models on the same prompts, K responses of each. The
true difference is once 0 and once what the design detects with power 0.8 by `detectable_difference` at the true
components. Counted are the nominal 95 % intervals that hold the truth, those that lie above 0 (the power), and the
comparisons with a warning about their interval. A standard error of 0 (no difference seen) has no interval and counts
as not holding.

`python -m experiments.comparisons` writes `docs/comparisons.md` from the stored results.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from scipy import special

from experiments.harness.statements import Prediction
from experiments.shared.effects import effects
from experiments.shared.studies import measure_cells, write_page
from mrtsim.estimates import t_quantile
from mrtsim.pilot.compare import difference_mean_squares, mean_difference, prompt_weights, response_noise
from mrtsim.pilot.sums import PromptSums
from mrtsim.pilot.warnings import at_risk
from mrtsim.plan.power import detectable_difference
from mrtsim.variance import DifferenceComponents

Floats = NDArray[np.float64]

CLAIMS = ()
CONFIDENCE, POWER = 0.95, 0.8
PER_BLOCK = 500  # comparisons simulated at once
V_D, W_A, W_B = 0.4, 1.0, 0.5
GRID = 4096  # equally likely prompts of a binary law, so that its components are exact

# The laws of the prompts' differences and of the responses.
ADDITIVE = {
    "normal": ("normal", "normal"),
    "heteroscedastic": ("normal", "normal"),
    "t4": ("t4", "t4"),
    "exponential": ("exponential", "exponential"),
    "log-normal 0.5": ("log-normal 0.5", "normal"),
    "log-normal 1": ("log-normal 1", "normal"),
    "minus log-normal 1": ("log-normal 1", "normal"),
    "two-point": ("two-point", "normal"),
    "log-normal 1 responses": ("normal", "log-normal 1"),
    "log-normal 1 alone": ("log-normal 1", "none"),
    "minus log-normal 1 alone": ("log-normal 1", "none"),
}
INNER = ("binary .1 to .9, alike", "binary .1 to .9, apart")
OUTER = tuple(f"binary Beta {rate:g}, {kind}" for rate in (0.1, 0.3, 0.5) for kind in ("alike", "apart"))
BINARY = (*INNER, *OUTER)
DESIGNS = ("groups of 3", "groups of 1 to 3", "very unequal groups", "unequal K")


SUMMARIES: dict[str, dict[str, Any]] = {
    "normal": {"losses": "normal"},
    "inner": {"losses": INNER},
    "single": {"losses": INNER, "prompts": 20, "responses": 1},
    "several": {"losses": INNER, "prompts": 20, "responses": (2, 8)},
    "larger": {"losses": INNER, "prompts": (50, 200)},
    "outer": {"losses": OUTER},
    "skewed": {"losses": ("log-normal 1", "minus log-normal 1", "two-point")},
    "alone": {"losses": ("log-normal 1 alone", "minus log-normal 1 alone")},
}


@dataclass(frozen=True)
class Config:
    """The cells: `losses` x `prompts` x `responses`, and the `designs` with normal losses."""

    losses: tuple[str, ...] = (*ADDITIVE, *BINARY)
    designs: tuple[str, ...] = DESIGNS
    prompts: tuple[int, ...] = (20, 50, 200)
    responses: tuple[int, ...] = (1, 2, 8)
    replicates: int = 500


PRESETS = {
    "quick": Config(prompts=(20,), responses=(1, 2), replicates=200),
    "paper": Config(),
    "precise": Config(replicates=4_000),
}


@dataclass(frozen=True)
class Cell:
    """One law and one design; `prompts` counts groups where there are any."""

    losses: str
    prompts: int
    responses: int
    design: str = "plain"

    @property
    def name(self) -> str:
        """A unique label; it also seeds the cell."""
        return f"{self.losses}/{self.design}/n={self.prompts}/K={self.responses}"

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Prompts per group, or 1 each."""
        n = self.prompts
        if self.design == "very unequal groups":  # the g-th largest has 1/g of the prompts of the largest
            return np.maximum(np.round((1.1 * n + 6) / np.arange(1, n + 1)), 1).astype(np.int64)
        cycle = {"groups of 3": [3], "groups of 1 to 3": [1, 2, 3]}.get(self.design, [1])
        return np.resize(cycle, n).astype(np.int64)

    @property
    def counts(self) -> tuple[Floats, Floats]:
        """K_A and K_B of every prompt."""
        n = int(self.sizes.sum())
        if self.design == "unequal K":
            return np.resize([1.0, 2, 3, 4, 6, 8], n), np.resize([4.0, 1, 2, 2, 8, 1, 3], n)
        equal = np.full(n, float(self.responses))
        return equal, equal


def rates(losses: str, gap: float) -> tuple[Floats, Floats]:
    """Success rates of A and B on equally likely prompts, which differ by `gap` in the mean.

    ".1 to .9": uniform on a range of width 0.8 - gap, so that no rate leaves [0.1, 0.9]. "Beta r": Beta(2 m, 2 (1 - m))
    with means m of r and r + gap, so that many rates are near 0 and 1. "alike": a prompt that is easy for one model is
    easy for the other; "apart": independent.
    """
    *_, law, mean, kind = losses.replace(",", "").split() if losses in OUTER else ("", "", losses.split()[-1])
    u = (np.arange(GRID) + 0.5) / GRID
    order = np.arange(GRID) if kind == "alike" else np.random.default_rng(0).permutation(GRID)
    if not law:
        b = 0.1 + (0.8 - gap) * u
        return b + gap, b[order]
    a, b = [special.betaincinv(2 * m, 2 * (1 - m), u) for m in (float(mean) + gap, float(mean))]
    return a, b[order]


def components(losses: str, gap: float) -> DifferenceComponents:
    """V_D, W_A and W_B."""
    if losses in ADDITIVE:
        noisy = ADDITIVE[losses][1] != "none"
        return DifferenceComponents(V_D, W_A * noisy, W_B * noisy)
    a, b = rates(losses, gap)
    return DifferenceComponents(
        float(np.var(a - b)), float((a * (1 - a)).mean()), float((b * (1 - b)).mean())
    )


def detected(cell: Cell) -> float:
    """The difference that the design detects with power 0.8; NaN where that takes a mean rate above 0.9.

    With unequal K_i the plan has no formula: K = 2 is taken.
    """
    k = cell.responses if cell.design != "unequal K" else 2
    redundancy = float((cell.sizes**2).sum() / cell.sizes.sum())
    most = math.inf
    if cell.losses in BINARY:
        most = 0.8 if cell.losses in INNER else 0.9 - float(cell.losses.split()[2].rstrip(","))
    gap = min(0.2, most)
    for _ in range(1 if cell.losses in ADDITIVE else 25):
        c = components(cell.losses, gap)
        if redundancy > 1:  # half of V_D is between groups
            c = DifferenceComponents(c.difference / 2, c.response_a, c.response_b, group=c.difference / 2)
        found = detectable_difference(
            c, int(cell.sizes.sum()), k, redundancy=redundancy, power=POWER
        ).difference
        gap = min(found, most)
    return gap if gap < most else math.nan


def simulate(
    cell: Cell, gap: float, rng: np.random.Generator, n: int
) -> tuple[Floats, tuple[PromptSums, PromptSums]]:
    """Differences per prompt of n comparisons, and the sums of both models' responses."""
    sizes, counts = cell.sizes, cell.counts
    prompts = int(sizes.sum())
    starts = np.cumsum(sizes) - sizes if sizes.max() > 1 else None
    if cell.losses in BINARY:
        of = rng.integers(0, GRID, (n, prompts))
        means = [p[of] for p in rates(cell.losses, gap)]
    else:
        law = ADDITIVE[cell.losses][0]
        sign = -1.0 if cell.losses.startswith("minus") else 1.0
        d = sign * effects(law, rng, (n, prompts))
        if starts is not None:
            d = math.sqrt(0.5) * (d + np.repeat(effects(law, rng, (n, sizes.size)), sizes, axis=1))
        means = [gap + math.sqrt(V_D) * d, np.zeros((n, prompts))]
    spread = np.ones((n, prompts))
    if cell.losses == "heteroscedastic":
        spread = rng.standard_exponential((n, prompts))
    sums = []
    for mean, w, k in zip(means, (W_A, W_B), counts, strict=True):
        average, within = _responses(cell.losses, mean, w * spread, k, rng)
        sums.append(PromptSums(k, average, within, starts))
    return sums[0].means - sums[1].means, (sums[0], sums[1])


def _responses(
    losses: str, mean: Floats, variance: Floats, k: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Mean and sum of squared deviations of K responses; drawn as such where their joint law is known."""
    if losses in BINARY:
        right = rng.binomial(k.astype(np.int64), mean)
        return right / k, right * (1 - right / k)
    law = ADDITIVE[losses][1]
    if law == "none":
        return mean, np.zeros(mean.shape)
    if law == "normal":
        chi_square = 2 * rng.standard_gamma(np.broadcast_to((k - 1) / 2, mean.shape))
        return mean + np.sqrt(variance / k) * rng.standard_normal(mean.shape), variance * chi_square
    noise = effects(law, rng, (mean.size, int(k[0]))).reshape(*mean.shape, -1)
    average = noise.mean(axis=-1)
    within = ((noise - average[..., None]) ** 2).sum(axis=-1)
    return mean + np.sqrt(variance) * average, variance * within


def judge(d: Floats, samples: Sequence[PromptSums], gap: float) -> dict[str, NDArray[Any]]:
    """For each comparison: whether its interval holds the truth, lies above 0, and is warned of."""
    known = all(sums.counts.max() > 1 for sums in samples)
    noise = response_noise(samples) if known else None
    if noise is not None:
        noise = np.maximum(noise, 1e-12)  # no response differs: the differences are all there is
    sums, squares = difference_mean_squares(d, samples, noise)
    weights = np.ones(d.shape)
    if noise is not None and not all(np.ptp(s.counts) == 0 for s in samples):
        weights = prompt_weights(sums.counts, d, squares.response.value)
    share = weights / weights.sum(axis=-1, keepdims=True)
    value, square, freedom = mean_difference(d, share, samples[0])
    half = float(t_quantile(freedom, CONFIDENCE)) * np.sqrt(square)
    seen = square > 1e-20
    return {
        "held": seen & (np.abs(value - gap) <= half),
        "shown": seen & (value - half > 0),
        "warned": np.asarray(at_risk(squares).between),
    }


def cells(config: Config) -> Iterator[Cell]:
    """All cells of a config."""
    for losses, prompts, k in product(config.losses, config.prompts, config.responses):
        yield Cell(losses, prompts, k)
    for design, prompts in product(config.designs, config.prompts):
        yield Cell("normal", prompts, 2, design)


def measure(cell: Cell, replicates: int, seed: list[int]) -> dict[str, Any]:
    """Counts of one cell; the same bits for the same arguments.

    Returns:
        The design; `gap`, what it detects (None where a rate would leave its range); `held_at_0` and `held`, intervals
        that hold the true difference where it is 0 and where it is `gap`; `shown`, intervals above 0 there; `warned`
        and `held_warned` there.
    """
    gap = detected(cell)
    total = dict.fromkeys(("held_at_0", "held", "shown", "warned", "held_warned"), 0)
    rng = np.random.default_rng([*seed, zlib.crc32(cell.name.encode())])
    for start in range(0, replicates, PER_BLOCK):
        n = min(PER_BLOCK, replicates - start)
        d, samples = simulate(cell, 0.0, rng, n)
        found = judge(d, samples, 0.0)
        total["held_at_0"] += int(found["held"].sum())
        if not math.isnan(gap):
            d, samples = simulate(cell, gap, rng, n)
            found = judge(d, samples, gap)
        for name in ("held", "shown", "warned"):
            total[name] += int(found[name].sum())
        total["held_warned"] += int((found["held"] & found["warned"]).sum())
    design = {
        "losses": cell.losses,
        "prompts": cell.prompts,
        "responses": cell.responses,
        "design": cell.design,
    }
    return design | {"gap": None if math.isnan(gap) else gap} | total


def run(config: Config, key: jax.Array, sweep: Any) -> dict[str, Any]:
    """Measure every cell."""
    table = measure_cells(
        "comparisons",
        list(cells(config)),
        lambda cell, seed: measure(cell, config.replicates, seed),
        key,
        progress=sweep.progress,
    )
    return {"replicates": config.replicates, "cells": table}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """None: the intervals are the package's, not the paper's."""
    return []


# The page


def share(cell: dict[str, Any], name: str, replicates: int) -> float:
    """A count of a cell as a share in per cent."""
    return 100 * cell[name] / replicates


def chosen(result: dict[str, Any], **where: Any) -> list[dict[str, Any]]:
    """The cells with these values; a tuple stands for any of its entries."""
    wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in where.items()}
    return [c for c in result["cells"] if all(c[name] in values for name, values in wanted.items())]


def _ends(values: list[float]) -> str:
    if not values:
        return ""
    low, high = (f"{v:.1f}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _row(result: dict[str, Any], cells_: list[dict[str, Any]]) -> list[str]:
    n = result["replicates"]
    powered = [c for c in cells_ if c["gap"] is not None]
    return [
        _ends([share(c, "held_at_0", n) for c in cells_]),
        _ends([share(c, "held", n) for c in powered]),
        _ends([share(c, "shown", n) for c in powered]),
        _ends([share(c, "warned", n) for c in powered]),
    ]


def _table(result: dict[str, Any], names: Sequence[str], of: str, key: str) -> str:
    """A line per name and number of prompts: the least and the greatest share over the numbers of responses."""
    lines = [
        f"| {of} | prompts | held, D = 0 | held, D detectable | power | warned |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    other = {} if key == "design" else {"design": "plain"}
    for name in names:
        for prompts in sorted({c["prompts"] for c in result["cells"]}):
            cells_ = chosen(result, prompts=prompts, **{key: name}, **other)
            if cells_:
                lines.append(f"| {name} | {prompts} | " + " | ".join(_row(result, cells_)) + " |")
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """docs/comparisons.md: what the interval and the power of a comparison promise, and what they keep."""
    n = result["replicates"]

    def summary(**where: Any) -> tuple[str, str]:
        cells_ = [c for c in chosen(result, design="plain", **where) if c["gap"] is not None]
        held = [share(c, name, n) for c in cells_ for name in ("held", "held_at_0")]
        return _ends(held), _ends([share(c, "shown", n) for c in cells_])

    texts = {
        "designs": str(len(result["cells"])),
        "replicates": f"{n:,}",
        "v_d": f"{V_D:g}",
        "w_a": f"{W_A:g}",
        "w_b": f"{W_B:g}",
        "additive": _table(result, list(ADDITIVE), "losses", "losses"),
        "binary": _table(result, BINARY, "answers", "losses"),
        "others": _table(result, DESIGNS, "design", "design"),
    }
    for name, where in SUMMARIES.items():
        texts[f"{name}_held"], texts[f"{name}_power"] = summary(**where)
    template = Template((Path(__file__).parent / "data" / "comparisons.md").read_text(encoding="utf-8"))
    return template.substitute(texts)


if __name__ == "__main__":
    write_page("comparisons", page)
