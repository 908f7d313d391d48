"""Claim 5 on clusters of near-duplicates: designs by the law, pilots, and what training sees."""

import jax
import numpy as np
import pytest

from experiments import lattice
from experiments.harness.statements import Outcome
from experiments.lattice import CORPORA, Config
from experiments.shared.cluster_grids import DESIGNS, cells, size
from mrtsim.errors import InputError


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("lattice")


def test_every_cell_has_the_toy_law_whatever_the_dials(result):
    """The designs differ in variance alone: a mean loss is unbiased but where slots are ranked."""
    bias = result["ranked"]["bias"]
    for name in ("explicit", "hybrid", "implicit", "full"):
        cell = bias[name]
        assert abs(cell["estimate"]) < 2.5 * (cell["high"] - cell["low"]) / 2
    assert result["ranked"]["exact"] == pytest.approx(-1.118, abs=5e-4)
    assert bias["same"]["low"] < result["ranked"]["exact"] < bias["same"]["high"]


def test_variances_follow_the_law_and_pilots_find_the_components(result):
    for name, corpus in result["corpora"].items():
        variance = {part: np.array(values) for part, values in corpus["variance"].items()}
        z = (variance["estimate"] - variance["exact"]) / variance["standard_error"]
        assert np.abs(z).max() < 4, name
        for part, cell in corpus["pilots"].items():
            half = (cell["high"] - cell["low"]) / 2
            assert abs(cell["estimate"] - corpus["components"][part]["estimate"]) < 2.2 * half, (name, part)


def test_the_corpora_lie_on_both_sides_of_every_comparison(result):
    assert set(result["corpora"]) == set(CORPORA)
    ratios = [
        c["components"]["j"]["estimate"] / c["components"]["v"]["estimate"]
        for c in result["corpora"].values()
    ]
    assert ratios[0] > 4 > ratios[1] > 1 > ratios[2]
    found = lattice.predictions(result)
    assert not [p.id for p in found if p.outcome is Outcome.FAILS and "trained" not in p.id]


def test_training_sees_the_cells_of_the_design_alone():
    n, rng = 6, np.random.default_rng(3)
    variants, responses = rng.normal(size=(n, 4, 2)), rng.normal(size=(n, 4, 4))
    taken = np.asarray(cells(jax.random.key(4), n))
    for name, rows in zip(DESIGNS, taken, strict=True):
        pairs = size(name)
        row = np.arange(n * pairs)
        drawn = lattice.at(variants, responses, rows, row // pairs, row % pairs)
        expected = {(c, cell // 4, cell % 4) for c in range(n) for cell in rows[c]}
        assert len(expected) == n * pairs
        found = {
            (*np.argwhere((variants == x).all(-1))[0].tolist(), *np.argwhere(responses == y)[0].tolist())
            for x, y in zip(drawn.prompts, drawn.responses, strict=True)
        }
        assert found == {(c, v, c, v, j) for c, v, j in expected}, name


def test_trained_designs_are_judged_in_pairs(result):
    for corpus in result["learner"]["corpora"].values():
        for recipe in ("last", "best"):
            rows = corpus[recipe]
            mean = {name: cell["estimate"] for name, cell in rows["mean"].items()}
            assert rows["over_explicit"]["explicit"]["low"] == rows["over_explicit"]["explicit"]["high"] == 1
            assert rows["same_over_implicit"]["estimate"] == pytest.approx(mean["same"] / mean["implicit"])
            assert len(set(mean.values())) == len(DESIGNS) + 1


def test_clusters_must_divide():
    with pytest.raises(InputError, match="multiple of 4"):
        Config(learner_clusters=10)
