"""Claim 8: paired shares by enumeration, and cosines where they are known."""

from __future__ import annotations

import jax
import pytest
from scipy import stats

from experiments import misalignment
from mrtsim.errors import InputError


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("misalignment")


@pytest.mark.parametrize("table", [(0.3, 0.1, 0.2, 0.4), (0.05, 0.1, 0.3, 0.55), (0.0, 0.5, 0.1, 0.4)])
def test_paired_shares_differ_within_their_interval_by_enumeration(table):
    """Coverage over every 2 x 2 table of 30 networks, with the probabilities of both, one, the other, and neither."""
    n, truth = 30, table[1] - table[2]
    covered = total = 0.0
    for both in range(n + 1):
        for one in range(n + 1 - both):
            for other in range(n + 1 - both - one):
                counts = (both, one, other, n - both - one - other)
                chance = stats.multinomial.pmf(counts, n, table)
                if chance < 1e-9:
                    continue
                shares = (misalignment._share(both + part, n) for part in (one, other))
                found = misalignment._difference(*shares, both / n, n)
                covered += chance * (found.low <= truth <= found.high)
                total += chance
    assert total == pytest.approx(1.0, abs=1e-5)
    assert 0.93 < covered < 0.985


def test_misalignment_is_exact_where_it_is_known(result):
    everything = next(row for row in result["sizes"] if row["n"] == row["k"])
    assert everything["estimate"] == pytest.approx(1.0, abs=1e-9)
    assert everything["per_prompt"] == pytest.approx(1.0, abs=1e-9)
    by_agreement = {row["agreement"]: row["estimate"] for row in result["agreements"] if row["n"] == 32}
    assert by_agreement[0.0] == pytest.approx(result["here"]["estimate"])
    assert by_agreement[1.0] == pytest.approx(result["likelihood"]["estimate"])
    assert by_agreement[1.0] > 0.99 > by_agreement[0.0]


def test_the_numeric_law_of_misalignment_agrees_with_the_closed_form():
    from experiments.misalignment import _cosines, _law
    from experiments.shared.untrained_network import problems
    from mrtsim.diagnostics.exact import exact

    (problem,) = problems(jax.random.key(1), 1, 4)
    known = exact(problem, "bkon", n_candidates=16, k=4)
    ((batch, each),) = _cosines(problem, [_law(16, 4, 0.0)])
    assert batch == pytest.approx(known.batch_cosine, abs=1e-4)
    assert each == pytest.approx(known.gradient.cosine.mean(), abs=1e-4)


@pytest.mark.parametrize("checkpoints", [(0,), (-1, 5), (10, 5), (5, 5)])
def test_checkpoints_that_make_no_sense(checkpoints):
    with pytest.raises(InputError, match="increasing whole numbers that end above 0"):
        misalignment.Config(checkpoints=checkpoints)


def test_the_first_checkpoint_is_the_untrained_network(result):
    rkon, bkon = result["training"]["rkon"], result["training"]["bkon"]
    assert rkon["steps"] == [0, 5]
    # Same keys, same initial network and prompts; then the picks tell them apart.
    for name in ("cosine", "test_nll", "norm_ratio"):
        assert rkon[name][0] == bkon[name][0]
        assert rkon[name][1] != bkon[name][1]
