"""The study of comparisons: laws have the components they claim, it judges as the package does, and its page."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import mrtsim as mrt
from experiments import comparisons
from experiments.comparisons import BINARY, DESIGNS, INNER, PRESETS, Cell, cells, detected, judge, simulate
from figures.comparisons import draw
from mrtsim.pilot.compare import LOG_NORMAL_HELD, LOG_NORMAL_POWER

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparisons.md"
STORED = ROOT / "results" / "precise" / "comparisons" / "result.json"


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text(encoding="utf-8"))["result"]


@pytest.mark.parametrize("losses", ["normal", "heteroscedastic", "minus log-normal 1", *BINARY[::3]])
def test_laws_have_their_components(losses):
    """Var of a prompt's difference is V_D + W_A/K + W_B/K, its mean the gap: 200,000 prompts, 5 standard errors."""
    cell, gap = Cell(losses, 200, 2), 0.25
    d, samples = simulate(cell, gap, np.random.default_rng(0), 1000)
    c = comparisons.components(losses, gap)
    assert d.mean() == pytest.approx(gap, abs=5 * d.std() / math.sqrt(d.size))
    squares = (d - d.mean()) ** 2
    expected = c.difference + (c.response_a + c.response_b) / 2
    assert squares.mean() == pytest.approx(expected, abs=5 * squares.std() / math.sqrt(d.size))
    for sums, w in zip(samples, (c.response_a, c.response_b), strict=True):
        assert sums.within.mean() == pytest.approx(w, abs=5 * sums.within.std() / math.sqrt(d.size))


def test_rates_stay_in_their_range():
    for losses in INNER:
        a, b = comparisons.rates(losses, 0.3)
        assert 0.1 <= min(a.min(), b.min()) < max(a.max(), b.max()) <= 0.9
        assert (a - b).mean() == pytest.approx(0.3)


@pytest.mark.parametrize("design", ["plain", *DESIGNS])
@pytest.mark.parametrize("losses", ["normal", "binary Beta 0.3, apart"])
def test_judged_as_the_package_does(design, losses):
    if design != "plain" and losses != "normal":
        pytest.skip("other designs have normal losses")
    cell = Cell(losses, 20, 2, design)
    rng = np.random.default_rng(1)
    d, samples = simulate(cell, 0.2, rng, 8)
    found = judge(d, samples, 0.2)
    for i in range(8):
        kept = [mrt.PromptSums(s.counts, s.means[i], s.within[i], s.starts) for s in samples]
        arrays, grouped = losses_of(kept)
        result = mrt.compare_models(*arrays, **grouped)
        interval = result.difference
        assert found["held"][i] == (interval.low <= 0.2 <= interval.high)
        assert found["shown"][i] == (interval.low > 0)
        assert found["warned"][i] == any("skewed or far out" in warning for warning in result.warnings)


def losses_of(samples):
    """Arguments of `compare_models` with these sums: two values per prompt with its mean and spread."""
    losses, prompts, groups = [], [], []
    for s in samples:
        k = s.counts.astype(int)
        values = np.repeat(s.means, k)
        first = np.cumsum(k) - k
        several = k > 1
        step = np.sqrt(s.within / 2)
        values[first[several]] += step[several]
        values[first[several] + 1] -= step[several]
        losses.append(values)
        prompts.append(np.repeat(np.arange(k.size), k))
        groups.append(np.repeat(s.group_of, k))
    grouped = {} if samples[0].starts is None else {"groups": tuple(groups)}
    return (*losses, *prompts), grouped


def test_the_detectable_difference_is_that_of_the_package():
    cell = Cell("normal", 50, 2)
    c = comparisons.components("normal", 0.0)
    assert detected(cell) == pytest.approx(mrt.detectable_difference(c, 50, 2).difference)
    binary = Cell("binary .1 to .9, apart", 50, 2)
    gap = detected(binary)
    c = comparisons.components(binary.losses, gap)
    assert gap == pytest.approx(mrt.detectable_difference(c, 50, 2).difference)


def test_normal_cells_keep_what_they_promise(stored):
    for cell in stored["cells"]:
        n = stored["replicates"]
        if (cell["losses"], cell["design"]) == ("normal", "plain"):
            assert 0.93 <= cell["held"] / n <= 0.97
            assert 0.93 <= cell["held_at_0"] / n <= 0.97
            assert abs(cell["shown"] / n - 0.8) < 0.02
        if cell["losses"] in INNER:
            assert 0.93 <= cell["held"] / n <= 0.97
            assert 0.93 <= cell["held_at_0"] / n <= 0.97


def test_the_warning_quotes_the_stored_results(stored):
    n = stored["replicates"]
    alone = [c for c in stored["cells"] if c["losses"].endswith("alone")]
    for prompts, held in LOG_NORMAL_HELD.items():
        shares = [c[name] / n for c in alone if c["prompts"] == prompts for name in ("held", "held_at_0")]
        assert round(100 * np.mean(shares)) == held
    power = [100 * c["shown"] / n for c in alone]
    assert (math.floor(min(power)), math.floor(max(power))) == LOG_NORMAL_POWER


def test_the_stored_cells_are_those_of_the_preset(stored):
    fresh = [(c.losses, c.prompts, c.responses, c.design) for c in cells(PRESETS["precise"])]
    assert [(c["losses"], c["prompts"], c["responses"], c["design"]) for c in stored["cells"]] == fresh
    assert stored["replicates"] == PRESETS["precise"].replicates


def test_the_page_is_that_of_the_stored_result(stored):
    assert comparisons.page(stored) == PAGE.read_text(encoding="utf-8")
    assert len(draw(stored).axes) == 2
