"""Stored results as pages and figures: what `python -m experiments report` writes.

Nothing is computed again: outcomes follow from the stored intervals, verdicts from the outcomes, and sentences from
templates. Only the committed results of the `precise` preset write `paper_repro.md`, `docs/claims/` and `figures/`;
other presets get pages of their own beside their results, with a comparison to the committed ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import page
from experiments.harness.statements import Prediction, check
from mrtsim.devices import usable_cores
from mrtsim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "precise"


@dataclass(frozen=True)
class Found:
    """A stored result and what it says."""

    name: str
    stored: dict[str, Any]
    predictions: list[Prediction]


class Written(NamedTuple):
    """The files that a report consists of, and in one line how it compares with the committed one."""

    page: Path
    claims: list[Path]
    gallery: Path
    comparison: str


def write(preset: str, out: Path) -> Written:
    """Write the page, a page per claim and the figures of one preset from its results in `out`."""
    results = load(out / preset)
    if not results:
        raise InputError(
            f"{out / preset} holds no results: first run python -m experiments run all --preset {preset}"
        )
    committed = (out / preset).resolve() == COMMITTED
    home = ROOT if committed else out / preset
    texts = render(preset, results, None if committed else load(COMMITTED))
    drawn = draw_all(results, home / "figures")
    texts["figures/README.md"] = page.gallery(preset, drawn)
    paths = {name: home / name for name in texts}
    for name, text in texts.items():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(text, encoding="utf-8")
    comparison = "" if committed else page.comparison_line(results, load(COMMITTED))
    claims = [path for name, path in paths.items() if name.startswith("docs/claims/")]
    return Written(paths["paper_repro.md"], claims, paths["figures/README.md"], comparison)


def render(preset: str, results: dict[str, Found], reference: dict[str, Found] | None) -> dict[str, str]:
    """The page and the pages per claim, file name to Markdown.

    Args:
        preset: of the results.
        results: by experiment.
        reference: the committed results to compare with, where these are others.

    Raises:
        InputError: if the committed results settle a claim in a way that no answer is written for.
    """
    figures = {name: caption(found) for name, found in results.items() if has_figure(name)}
    return page.render(preset, results, figures, reference)


def load(folder: Path, names: Sequence[str] | None = None) -> dict[str, Found]:
    """The finished results in a preset's folder, all or the named ones, with their checked predictions."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        if names is not None and path.parent.name not in names:
            continue
        stored = json.loads(path.read_text(encoding="utf-8"))
        name = stored["experiment"]
        module = importlib.import_module(f"experiments.{name}")
        try:
            predictions = module.predictions(stored["result"])
        except KeyError as error:
            raise InputError(
                f"{path} was made by another version of experiment {name} (it lacks {error}): run it again"
            ) from error
        check(name, module.CLAIMS, predictions)
        found[name] = Found(name, stored, predictions)
    return found


def draw_all(results: dict[str, Found], folder: Path) -> dict[str, str]:
    """Draw every figure there is code for, as PNG and PDF, on all cores; returns experiment -> caption."""
    drawn = {name: caption(found) for name, found in results.items() if has_figure(name)}
    # Matplotlib draws under the interpreter's lock; processes are spawned because JAX's threads do not survive a fork.
    # Ctrl-C is for the main process alone.
    ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(usable_cores(), multiprocessing.get_context("spawn"), *ignore) as pool:
        list(pool.map(_draw, drawn, (results[name].stored["result"] for name in drawn), repeat(folder)))
    return drawn


def _draw(name: str, result: dict[str, Any], folder: Path) -> None:
    from figures import style

    style.save(importlib.import_module(f"figures.{name}").draw(result), folder / name)


def has_figure(name: str) -> bool:
    """Whether there is code that draws this experiment."""
    return importlib.util.find_spec(f"figures.{name}") is not None


def caption(found: Found) -> str:
    """The docstring of the code that draws an experiment, and how many replicates it rests on."""
    text = " ".join((importlib.import_module(f"figures.{found.name}").__doc__ or found.name).split())
    replicates = found.stored["config"].get("replicates")
    return text if replicates is None else f"{text} {replicates:,} replicates."
