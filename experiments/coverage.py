"""Do the intervals of `mrtsim pilot` tell the truth? Coverage over simulated pilots, method by method.

Every cell simulates pilots of one design and counts how often each nominal 95 % interval of V_{y|x}/V_x (with groups
V_{y|x}/(r V_g + V_{x|g})) holds the truth; K* is a monotone function of that ratio, so its coverage is the same. The
methods see the same pilots:

- `mrtsim`: the intervals of `estimate_components`, also for V_x (V_{x|g}), V_g and V_{y|x};
- `jackknife`: the plain log-jackknife-t it builds on;
- `F`: the F interval, exact for normal losses of equal variance;
- `bootstrap`: percentiles of the ratio over resampled prompts (groups).

A pilot without spread within its prompts is refused by the command; such pilots are counted apart.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from scipy import special
from tqdm import tqdm

from experiments.harness.statements import Prediction
from mrtsim.montecarlo import usable_cores
from mrtsim.pilot.classical_intervals import unweighted_mean_squares
from mrtsim.pilot.intervals import interval_method
from mrtsim.pilot.sums import PromptSums

Floats = NDArray[np.float64]

CLAIMS = ()
CONFIDENCE = 0.95
LOSSES = ("normal", "heteroscedastic", "log-normal 0.5", "log-normal 1", "two-point", "multiplicative")
ROWS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Config:
    """The cells are all combinations; `resamples` are of the bootstrap.

    Losses are mu + prompt effect + response effect. Both effects are normal, log-normal (of that sigma) or two-point
    (probability 0.1), scaled to the components; "heteroscedastic" has normal effects and a response variance that is
    exponential over prompts; "multiplicative" is exp(normal + normal) with total sigma 1, so that the spread follows
    the mean. Unbalanced pilots give a quarter of the prompts each R/2, R/2, R and 2 R responses. Groups are pairs, or
    of 1, 2, 3 prompts in turn where unbalanced, with V_g = V_{x|g}.
    """

    losses: tuple[str, ...] = LOSSES
    ratios: tuple[float, ...] = (0.15, 1.0, 7.0)
    prompts: tuple[int, ...] = (6, 20, 50, 200)
    responses: tuple[int, ...] = (2, 8, 32)
    replicates: int = 500
    resamples: int = 400


PRESETS = {
    "quick": Config(prompts=(6, 20), responses=(2, 8), replicates=100, resamples=100),
    "paper": Config(),
    "precise": Config(replicates=2_000),
}


@dataclass(frozen=True)
class Cell:
    """One design; ratio is V_{y|x} / (r V_g + V_{x|g})."""

    losses: str
    ratio: float
    prompts: int
    responses: int
    balanced: bool
    grouped: bool
    counts: NDArray[np.int64] = field(init=False, compare=False)
    sizes: NDArray[np.int64] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        pattern = [1.0] if self.balanced else [0.5, 0.5, 1.0, 2.0]
        counts = np.maximum(np.resize(pattern, self.prompts) * self.responses, 1)
        sizes = [1] * self.prompts
        if self.grouped:
            ends = np.cumsum(np.resize([2] if self.balanced else [1, 2, 3], self.prompts))
            sizes = np.diff(np.append(ends[ends < self.prompts], self.prompts), prepend=0)
        object.__setattr__(self, "counts", counts.astype(np.int64))
        object.__setattr__(self, "sizes", np.asarray(sizes))

    @property
    def redundancy(self) -> float:
        """r of the design: 1 without groups."""
        return float((self.sizes**2).sum() / self.sizes.sum())

    @property
    def name(self) -> str:
        """A unique label; it also seeds the cell."""
        return (
            f"{self.losses}/ratio={self.ratio:g}/P={self.prompts}/R={self.responses}/"
            f"{'balanced' if self.balanced else 'unbalanced'}/{'grouped' if self.grouped else 'plain'}"
        )

    def components(self) -> tuple[float, float, float]:
        """(V_g, V_{x|g}, V_{y|x})."""
        if self.losses == "multiplicative":
            # With V_g = V_{x|g} = m^2 v the squares of the log-normal means are 1 + v and 1 + 2 v; see `_losses`.
            v = _relative(self)
            mean2 = math.exp(1.0)
            return mean2 * v * self.grouped, mean2 * v, mean2 * (math.exp(1.0) - 1 - v * (1 + self.grouped))
        if not self.grouped:
            return 0.0, 1.0, self.ratio
        share = 1 / (1 + self.redundancy)
        return share, share, self.ratio


def _relative(cell: Cell) -> float:
    """V_{x|g} over the squared mean loss, of multiplicative losses with total sigma 1."""
    return (math.exp(1.0) - 1) / (cell.ratio * (cell.redundancy * cell.grouped + 1) + 1 + cell.grouped)


def simulate(cell: Cell, rng: np.random.Generator, n: int) -> PromptSums:
    """n pilots of a cell, as sufficient statistics."""
    starts = np.cumsum(cell.sizes) - cell.sizes if cell.grouped else None
    first = np.cumsum(cell.counts) - cell.counts
    losses = _losses(cell, rng, n)
    means = np.add.reduceat(losses, first, axis=1) / cell.counts
    losses -= np.repeat(means, cell.counts, axis=1)
    within = np.add.reduceat(np.square(losses, out=losses), first, axis=1)
    return PromptSums(cell.counts.astype(float), means, within, starts)


def _losses(cell: Cell, rng: np.random.Generator, n: int) -> Floats:
    """(n, rows) losses with the cell's components, the rows of a prompt side by side."""
    groups = _effects(cell, rng, (n, cell.sizes.size)) if cell.grouped else np.zeros((n, cell.prompts))
    groups = np.repeat(groups, cell.sizes, axis=1)
    prompts = _effects(cell, rng, (n, cell.prompts))
    responses = _effects(cell, rng, (n, int(cell.counts.sum())))
    if cell.losses == "multiplicative":
        v = _relative(cell)
        group, prompt = math.log1p(v * cell.grouped), math.log1p(v * (1 + cell.grouped))
        scales = np.sqrt([group, prompt - group, 1 - prompt])
    else:
        scales = np.sqrt(cell.components())
    if cell.losses == "heteroscedastic":
        responses *= np.repeat(np.sqrt(rng.standard_exponential((n, cell.prompts))), cell.counts, axis=1)
    responses *= float(scales[2])
    responses += np.repeat(scales[0] * groups + scales[1] * prompts, cell.counts, axis=1)
    return np.exp(responses, out=responses) if cell.losses == "multiplicative" else responses


def _effects(cell: Cell, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Effects of mean 0 and variance 1."""
    if cell.losses == "two-point":
        p = 0.1
        rare = (rng.random(shape) < p).astype(np.float64)
        return (rare - p) / math.sqrt(p * (1 - p))
    z = rng.standard_normal(shape)
    if not cell.losses.startswith("log-normal"):
        return z
    sigma2 = float(cell.losses.split()[1]) ** 2
    np.exp(math.sqrt(sigma2) * z, out=z)
    return (z - math.exp(sigma2 / 2)) / math.sqrt(math.exp(sigma2) * math.expm1(sigma2))


def cells(config: Config) -> Iterator[Cell]:
    """All cells of a config."""
    shapes = product(
        config.losses, config.prompts, config.responses, config.ratios, (True, False), (False, True)
    )
    for losses, prompts, responses, ratio, balanced, grouped in shapes:
        yield Cell(losses, ratio, prompts, responses, balanced, grouped)


def measure(cell: Cell, replicates: int, resamples: int, seed: list[int]) -> dict[str, Any]:
    """Coverage of every method in one cell; the same bits for the same arguments."""
    rng = np.random.default_rng([*seed, zlib.crc32(cell.name.encode())])
    rows = int(cell.counts.sum())
    at_once = max(1, ROWS_AT_ONCE // rows)
    weights = rng.multinomial(cell.sizes.size, np.full(cell.sizes.size, 1 / cell.sizes.size), resamples)
    parts = []
    for begin in range(0, replicates, at_once):
        pilots = simulate(cell, rng, min(at_once, replicates - begin))
        parts.append(_judged(cell, pilots, weights.astype(float)))
    judged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    answered = judged.pop("answered")
    n = int(answered.sum())
    result = {key: value for key, value in asdict(cell).items() if key not in ("counts", "sizes")}
    result |= {"answered": n, "intervals": {}}
    for name, outcome in judged.items():
        kept = outcome[answered]
        if kept.dtype == bool:
            result[name] = int(kept.sum())
        else:  # pilots whose interval lies below the truth, holds it, lies above it
            result["intervals"][name] = [int((kept == side).sum()) for side in (1, 0, -1)]
    return result


def _judged(cell: Cell, pilots: PromptSums, weights: Floats) -> dict[str, NDArray[Any]]:
    group, prompt, response = cell.components()
    truth = response / (cell.redundancy * group + prompt)
    r = cell.redundancy
    full = unweighted_mean_squares(pilots)
    h = full.target(r)[1][..., 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ours = interval_method("0.1.0")(pilots, CONFIDENCE, r)
        excess = full.excess(r)[..., 0]
        clusters = cell.sizes.size
        jackknife = interval_method("jackknife")(pilots, CONFIDENCE, r)
        tails = special.fdtri(
            clusters - 1, (cell.counts - 1).sum(), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        )
        drawn = unweighted_mean_squares(pilots, lambda values: values @ weights.T)
        between, h_drawn = drawn.target(r)
        share = np.nan_to_num(np.maximum(between / drawn.response - h_drawn, 0), posinf=np.inf)
        share = np.quantile(share, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)

        def ratio(low: Floats, high: Floats) -> tuple[Floats, Floats]:
            return 1 / (h * np.maximum(high - 1, 0)), 1 / (h * np.maximum(low - 1, 0))

        judged = {
            "answered": pilots.within.sum(axis=-1) > 1e-20,
            "ratio": _side(truth, ours.ratio),
            "ratio_jackknife": _side(truth, jackknife.ratio),
            "ratio_F": _side(truth, ratio(excess / tails[1], excess / tails[0])),
            "ratio_bootstrap": _side(truth, (1 / share[1], 1 / share[0])),
            "prompt": _side(prompt, ours.prompt),
            "response": _side(response, ours.response),
            "unbounded": np.isinf(ours.ratio[1]),
            "negative": excess <= 1,
        }
    if ours.group is not None:
        judged["group"] = _side(group, ours.group)
    return judged


def _side(truth: float, interval: tuple[Floats, Floats]) -> NDArray[np.int8]:
    return (truth > interval[1]).astype(np.int8) - (truth < interval[0]).astype(np.int8)


def run(config: Config, key: jax.Array, sweep: Any) -> dict[str, Any]:
    """Measure every cell; a thread a core, and each cell its own stream, so that the bits do not depend on threads."""
    seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
    todo = list(cells(config))
    with ThreadPoolExecutor(usable_cores()) as pool:
        measured = pool.map(lambda cell: measure(cell, config.replicates, config.resamples, seed), todo)
        bar = tqdm(measured, total=len(todo), desc="coverage", disable=None if sweep.progress else True)
        table = list(bar)
    return {"replicates": config.replicates, "cells": table}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """None: the intervals are the package's, not the paper's."""
    return []


def table(result: dict[str, Any]) -> str:
    """The coverage table in Markdown, in per cent: least to greatest over the cells of a row."""
    columns = {
        "ratio, K*": "ratio",
        "V_x": "prompt",
        "V_g": "group",
        "V_y given x": "response",
        "plain jackknife": "ratio_jackknife",
        "F": "ratio_F",
        "bootstrap": "ratio_bootstrap",
    }
    lines = [
        "| losses | groups | prompts | " + " | ".join(columns) + " | refused |",
        "| --- | --- | ---: |" + " ---: |" * (len(columns) + 1),
    ]
    rows: dict[tuple[str, bool, int], list[dict[str, Any]]] = {}
    for cell in result["cells"]:
        rows.setdefault((cell["losses"], cell["grouped"], cell["prompts"]), []).append(cell)
    for (losses, grouped, prompts), found in rows.items():
        cells_ = []
        for name in columns.values():
            shares = [coverage(cell, name) for cell in found if name in cell["intervals"]]
            cells_.append(f"{100 * min(shares):.1f} to {100 * max(shares):.1f}" if shares else "")
        refused = max(1 - cell["answered"] / result["replicates"] for cell in found)
        cells_.append(f"{100 * refused:.1f}" if refused else "")
        lines.append(f"| {losses} | {'yes' if grouped else 'no'} | {prompts} | " + " | ".join(cells_) + " |")
    return "\n".join(lines) + "\n"


def coverage(cell: dict[str, Any], name: str) -> float:
    """Share of the answered pilots whose interval holds the truth."""
    return cell["intervals"][name][1] / cell["answered"] if cell["answered"] else math.nan
