"""The designs' coefficients by enumeration, and the exact components as covariances of simulated cells."""

import jax
import numpy as np
import pytest

from experiments.shared import cluster_grids
from experiments.shared.cluster_grids import DESIGNS, FOUR, Corpus
from experiments.shared.reference_network import reference_network
from mrtsim.distributions.clustered import ClusteredPrompts

EXAMPLE = {"g": 0.06, "v": 0.03, "j": 0.20, "e": 0.30}


def test_coefficients_are_those_of_the_authors_designs():
    known = {
        "explicit": (1, 1 / 4, 1 / 4),
        "hybrid": (1 / 2, 3 / 8, 1 / 4),
        "disjoint": (1 / 2, 1 / 4, 1 / 4),
        "implicit": (1 / 4, 1 / 4, 1 / 4),
        "same": (1 / 4, 1, 1 / 4),
        "full": (1 / 4, 1 / 4, 1 / 16),
    }
    assert {name: cluster_grids.coefficients(name) for name in DESIGNS} == known
    variances = {
        name: cluster_grids.law(name, EXAMPLE) for name in ("explicit", "hybrid", "implicit", "same")
    }
    assert variances == pytest.approx(
        {"explicit": 0.215, "hybrid": 0.225, "implicit": 0.1925, "same": 0.3425}
    )


def test_sampled_cells_have_the_coefficients():
    n = 4_000
    taken = np.asarray(cluster_grids.cells(jax.random.key(1), n))
    for name, rows in zip(DESIGNS, taken, strict=True):
        v, j = rows // 4, rows % 4
        shares = [np.stack([(which == i).mean(1) for i in range(4)], axis=1) for which in (v, j)]
        squares = [np.sum(share**2, axis=1) for share in shares]
        expected = cluster_grids.coefficients(name)
        for square, coefficient in zip(squares, expected[:2], strict=True):
            assert square.mean() == pytest.approx(coefficient, abs=4 * square.std() / np.sqrt(n) + 1e-12)
        assert len(set(rows[0])) == cluster_grids.size(name) == 1 / expected[2]


@pytest.mark.parametrize("v", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("j", [0.02, 0.3, 3.0])
def test_which_design_is_better(v, j):
    variance = {name: cluster_grids.law(name, {"g": 0.5, "v": v, "j": j, "e": 0.7}) for name in FOUR}
    assert min(variance, key=variance.__getitem__) == "implicit"
    assert (variance["hybrid"] <= variance["explicit"]) == (j <= 4 * v)
    assert (variance["explicit"] <= variance["same"]) == (v <= j)


def test_exact_components_are_covariances_of_cells():
    """Of cells of two variants and two slots, one variant, one slot, and one cell: V_g, + V_v, + V_j, all four."""
    n, corpus = 40_000, Corpus(0.6, 0.8)
    with jax.enable_x64(True):
        model = reference_network()
        exact = {
            name: part.value for name, part in cluster_grids.exact_components(model, corpus, 2**11).items()
        }
        prompts = ClusteredPrompts(4, corpus.similarity)
        losses = np.asarray(
            jax.jit(lambda key: cluster_grids.grid_losses(key, n, model, prompts, corpus.sharing))(
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
