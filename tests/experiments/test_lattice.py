"""Claim 5 on clusters of near-duplicates: coefficients by enumeration, components by simulation, designs by the law."""

import jax
import numpy as np
import pytest

from experiments import lattice
from experiments.harness.statements import Outcome
from experiments.harness.store import InMemory, to_json
from experiments.lattice import CORPORA, DESIGNS, FOUR, Config, Corpus
from experiments.shared.reference_network import reference_network
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.errors import InputError

SMALL = Config(
    n_clusters=16,
    replicates=1_000,
    pilot_clusters=50,
    pilots=60,
    points=2**10,
)
EXAMPLE = {"g": 0.06, "v": 0.03, "j": 0.20, "e": 0.30}


@pytest.fixture(scope="module")
def result():
    """Without training, which the quick preset runs in `test_every_experiment.py`."""
    rng = np.random.default_rng(0)
    runs = {name: rng.gamma(4.0, 1.0, 20) for name in (*DESIGNS, "full at equal pairs")}
    corpus = {recipe: lattice._compare(runs) for recipe in ("last", "best")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice, "_train", lambda *_: {"corpora": {"duplicates": corpus, "apart": corpus}})
        return to_json(lattice.run(SMALL, jax.random.key(0), InMemory()))


def test_coefficients_are_those_of_the_authors_designs():
    known = {
        "explicit": (1, 1 / 4, 1 / 4),
        "hybrid": (1 / 2, 3 / 8, 1 / 4),
        "disjoint": (1 / 2, 1 / 4, 1 / 4),
        "implicit": (1 / 4, 1 / 4, 1 / 4),
        "same": (1 / 4, 1, 1 / 4),
        "full": (1 / 4, 1 / 4, 1 / 16),
    }
    assert {name: lattice.coefficients(name) for name in DESIGNS} == known
    variances = {name: lattice.law(name, EXAMPLE) for name in ("explicit", "hybrid", "implicit", "same")}
    assert variances == pytest.approx(
        {"explicit": 0.215, "hybrid": 0.225, "implicit": 0.1925, "same": 0.3425}
    )


def test_sampled_cells_have_the_coefficients():
    n = 4_000
    taken = np.asarray(lattice.cells(jax.random.key(1), n))
    for name, rows in zip(DESIGNS, taken, strict=True):
        v, j = rows // 4, rows % 4
        shares = [np.stack([(which == i).mean(1) for i in range(4)], axis=1) for which in (v, j)]
        squares = [np.sum(share**2, axis=1) for share in shares]
        expected = lattice.coefficients(name)
        for square, coefficient in zip(squares, expected[:2], strict=True):
            assert square.mean() == pytest.approx(coefficient, abs=4 * square.std() / np.sqrt(n) + 1e-12)
        assert len(set(rows[0])) == lattice.size(name) == 1 / expected[2]


@pytest.mark.parametrize("v", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("j", [0.02, 0.3, 3.0])
def test_which_design_is_better(v, j):
    variance = {name: lattice.law(name, {"g": 0.5, "v": v, "j": j, "e": 0.7}) for name in FOUR}
    assert min(variance, key=variance.__getitem__) == "implicit"
    assert (variance["hybrid"] <= variance["explicit"]) == (j <= 4 * v)
    assert (variance["explicit"] <= variance["same"]) == (v <= j)


def test_exact_components_are_covariances_of_cells():
    """Of cells of two variants and two slots, one variant, one slot, and one cell: V_g, + V_v, + V_j, all four."""
    n, corpus = 40_000, Corpus(0.6, 0.8)
    with jax.enable_x64(True):
        model = reference_network()
        exact = {name: part.value for name, part in lattice.exact_components(model, corpus, 2**11).items()}
        prompts = ClusteredPrompts(4, corpus.similarity)
        losses = np.asarray(
            jax.jit(lambda key: lattice.grid_losses(key, n, model, prompts, corpus.sharing))(
                jax.random.key(2)
            )
        ).reshape(n, 4, 4)
    centred = losses - losses.mean()
    pairs = {
        "g": ((0, 0), (1, 1)),
        "gv": ((2, 0), (2, 3)),
        "gj": ((1, 2), (3, 2)),
        "gvje": ((3, 3), (3, 3)),
    }
    for parts, (first, second) in pairs.items():
        products = centred[:, *first] * centred[:, *second]
        error = products.std() / np.sqrt(n)
        assert products.mean() == pytest.approx(sum(exact[p] for p in parts), abs=4.5 * error), parts


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
    taken = np.asarray(lattice.cells(jax.random.key(4), n))
    for name, rows in zip(DESIGNS, taken, strict=True):
        pairs = lattice.size(name)
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
