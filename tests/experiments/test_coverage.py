"""The coverage study: its losses have the components they claim, an exact interval covers as it must, and its page."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import coverage
from experiments.coverage import (
    BALANCED,
    DEFAULT,
    ENOUGH,
    Cell,
    Config,
    cells,
    chosen,
    findings,
    measure,
    simulate,
)
from experiments.harness.store import InMemory
from experiments.shared.effects import effects
from figures.coverage import draw
from mrtsim.pilot.classical_intervals import unweighted_mean_squares
from mrtsim.pilot.intervals import interval_methods
from mrtsim.pilot.warnings import COVERAGE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "coverage.md"
STORED = ROOT / "results" / "precise" / "coverage" / "result.json"

SMALL = Config(
    losses=("normal", "multiplicative", "Beta(2, 2)"),
    ratios=(1.0,),
    prompts=(6,),
    responses=(2, 8),
    counts=("balanced", "half one"),
    groups=("none", "1 to 3"),
    replicates=40,
)


@pytest.mark.parametrize(
    ("counts", "groups"), [("balanced", "none"), ("half one", "none"), ("balanced", "1 to 3")]
)
@pytest.mark.parametrize("losses", coverage.LOSSES)
def test_losses_have_their_components(losses, counts, groups):
    """Mean squares over many pilots against their expectations, in standard errors."""
    cell = Cell(losses, 0.5, 12, 4, counts, groups)
    group, prompt, response = cell.components()
    if losses not in coverage.BINARY:
        assert response / (cell.redundancy * group + prompt) == pytest.approx(0.5)
    pilots = simulate(cell, np.random.default_rng(5), 8_000)
    found = unweighted_mean_squares(pilots)
    expected = {
        "between": found.between_group[0] * group + prompt + found.between_response[0] * response,
        "response": response,
    }
    if found.prompts_response is not None:
        expected["prompts"] = prompt + found.prompts_response[0] * response
    for name, value in expected.items():
        drawn = getattr(found, name)[:, 0]
        assert abs(drawn.mean() - value) < 4.5 * drawn.std() / np.sqrt(drawn.size), name


@pytest.mark.parametrize(
    "law", ["normal", "two-point", "exponential", "t4", "log-normal 0.5", "log-normal 1"]
)
def test_effects_are_standard(law):
    drawn = effects(law, np.random.default_rng(1), (400_000,))
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.var() == pytest.approx(1, abs=0.06)


def test_designs():
    assert list(Cell("normal", 1.0, 6, None, "half one").responses_per_prompt) == [1, 1, 1, 2, 5, 8]
    assert list(Cell("normal", 1.0, 4, None, "1 to 40").responses_per_prompt) == [1, 18, 35, 12]
    few = Cell("normal", 1.0, 4, 4, groups="1 to 3")
    assert list(few.sizes) == [1, 2, 3, 1]
    assert few.redundancy == pytest.approx(15 / 7)
    unequal = Cell("normal", 1.0, 20, 4, groups="very unequal")
    assert list(unequal.sizes[:4]) == [28, 14, 9, 7]
    assert unequal.sizes.min() == 1
    every = list(cells(Config()))
    assert len({cell.name for cell in every}) == len(every) == 1332


def test_exact_interval_covers_exactly():
    """For normal balanced losses the F interval covers 95 %: the study finds that, within its error."""
    found = measure(Cell("normal", 1.0, 12, 4), 4_000, [3])
    assert abs(coverage.coverage(found, "ratio", "F") - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4_000)
    below, _, above, _ = found["intervals"]["F"]["ratio"]
    assert abs(below - above) < 4 * np.sqrt(0.05 * 4_000)


def test_same_bits_alone_and_in_company():
    """A cell's numbers depend on the seed and its own settings alone; every registered method is judged."""
    result = coverage.run(SMALL, jax.random.key(3), InMemory())
    assert result == coverage.run(SMALL, jax.random.key(3), InMemory())
    seed = [int(word) for word in np.ravel(jax.random.key_data(jax.random.key(3)))]
    for cell, stored in zip(cells(SMALL), result["cells"], strict=True):
        assert measure(cell, SMALL.replicates, seed) == stored
        assert set(stored["intervals"]) == set(interval_methods())
    assert coverage.run(SMALL, jax.random.key(4), InMemory()) != result


def test_refused_pilots_are_counted_apart():
    """Two responses that are two-point agree in every prompt of a small pilot now and then."""
    found = measure(Cell("two-point", 1.0, 6, 2), 500, [0])
    assert 0.1 < 1 - found["answered"] / 500 < 0.6  # (1 - 2 p q)^6 = 0.30
    assert sum(found["intervals"][DEFAULT]["ratio"][:3]) == found["answered"]


def test_figure():
    result = coverage.run(
        Config(losses=("normal",), prompts=(20,), responses=(2,), ratios=(1.0,), replicates=20),
        jax.random.key(0),
        InMemory(),
    )
    figure = draw(result)
    assert len(figure.axes) == 3
    shown = figure.axes[0].lines[0].get_xdata()
    assert list(shown) == [coverage.coverage(chosen(result, **BALANCED)[0], "ratio")]


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text(encoding="utf-8"))["result"]


def test_stored_study_is_of_this_code(stored):
    """Cells measured afresh; another instruction set may move a pilot across a limit, another method many."""
    fresh = list(cells(coverage.PRESETS["precise"]))
    seed = [int(word) for word in np.ravel(jax.random.key_data(jax.random.key(0)))]
    assert len(stored["cells"]) == len(fresh)
    compared = 0
    for old, cell in list(zip(stored["cells"], fresh, strict=True))[::67]:
        if cell.responses_per_prompt.sum() <= 500:
            new = measure(cell, stored["replicates"], seed)
            compared += 1
            for method, quantities in old["intervals"].items():
                for name, (*counts, _) in quantities.items():
                    now = new["intervals"][method][name][:3]
                    assert np.abs(np.subtract(counts, now)).max() <= 2, (cell.name, method, name)
            for name, count in old["warned"].items():
                assert abs(count - new["warned"][name]) <= 2
    assert compared >= 10


def test_goals_of_the_stored_study(stored):
    """What was promised of the intervals and the warnings, on common pilots of fixed seeds."""
    f = findings(stored)
    assert f["balanced, mean change"] >= 0
    assert f["balanced, worst change"] >= -0.025
    # V_x of 0/1 losses: 92 % in all designs but one (Beta(8, .5), 20 x 32, which is warned of in most pilots).
    assert f["binary V_x, designs below 92 %"] <= 1
    assert f["binary V_x, least"] >= 0.9
    assert f["unequal groups, least, weighted"] >= 0.93 - 2 * np.sqrt(0.95 * 0.05 / stored["replicates"])
    assert f["too short, warned, mean, 50"] >= 0.8
    assert f["too short, warned, least, 200"] >= 0.8
    for prompts in ENOUGH:
        assert f[f"false alarms, mean, {prompts}"] <= 0.06
        assert f[f"false alarms, worst, {prompts}"] <= 0.1


def test_stated_coverage_is_the_stored_one(stored):
    assert coverage.stated(stored) == COVERAGE


def test_the_page_is_written_from_the_stored_study(stored):
    assert coverage.page(stored) == PAGE.read_text(encoding="utf-8")
