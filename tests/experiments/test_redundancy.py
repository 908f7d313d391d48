"""Claim 5: simulated redundant corpora against the three-part law, and pilots against the truth."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import redundancy
from experiments.harness.statements import Outcome, Role
from experiments.harness.store import InMemory
from experiments.redundancy import Config
from figures import redundancy as figure
from mrtsim.errors import InputError
from mrtsim.variance import VarianceComponents, estimator_variance


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("redundancy")


def test_corpora_follow_the_three_part_law(result):
    assert len(result["settings"]) == 9
    for setting in result["settings"]:
        assert np.abs(setting["variance"]["z"]).max() < 4
        for quantity in ("gain", "removed"):
            q = setting[quantity]
            assert abs(q["estimate"] - q["exact"]) < 4 * q["standard_error"]


def test_the_law_without_groups_is_refuted_by_redundant_corpora(result):
    duplicates = next(
        s for s in result["settings"] if (s["similarity"], s["mode_scale"], s["group_size"]) == (1.0, 1.0, 16)
    )
    c = {name: entry["estimate"] for name, entry in duplicates["components"].items()}
    independent = estimator_variance(
        VarianceComponents(c["group"] + c["prompt"], c["response"]), 32, (1, 2, 8)
    )
    v = duplicates["variance"]
    assert np.min((np.array(v["estimate"]) - independent) / v["standard_error"]) > 10


def test_the_dial_moves_only_the_split(result):
    rows = [s for s in result["settings"] if s["mode_scale"] == 1.0]
    totals = [s["components"]["group"]["estimate"] + s["components"]["prompt"]["estimate"] for s in rows]
    assert np.ptp(totals) < 0.05 * np.mean(totals)
    shares = {
        s["similarity"]: s["components"]["group"]["estimate"] / t for s, t in zip(rows, totals, strict=True)
    }
    assert 0 < shares[0.6] < shares[1.0] == 1.0


def test_equal_cost_boundary_is_two_responses_beating_one(result):
    for setting in result["settings"]:
        assert (setting["efficiency"]["exact"] > 1) == (setting["k_star_squared"] > 2)


def test_every_statement_of_the_claim_holds(result):
    found = redundancy.predictions(result)
    assert {p.claim for p in found} == {5}
    by_id = {p.id: p for p in found}
    assert all(p.outcome is Outcome.HOLDS for p in found if p.role is Role.PRIMARY and "trained" not in p.id)
    assert not by_id["redundancy.two-beats-one"].note.startswith("0 of")
    assert by_id["redundancy.law"].outcome is not Outcome.FAILS


def test_pilots_tell_the_gain_and_the_group_component(result):
    for pilot in result["pilots"]:
        for quantity in ("gain", "group"):
            c = pilot["coverage"][quantity]
            assert c["estimate"] > 0.95 - 4 * c["standard_error"]
        gain = pilot["first"]["gain"]
        assert 0 <= gain["low"] < gain["estimate"] < gain["high"] <= 1


def test_a_trained_network_gains_from_responses(result):
    unique = result["learner"]["rows"][0]["last"]
    assert unique["one"] > unique["many"] > 0
    trained = [p for p in redundancy.predictions(result) if "trained-gain" in p.id]
    assert [p.role for p in trained] == [Role.PRIMARY, Role.PRIMARY]


def test_near_duplicates_are_trained_beside_the_duplicates(result):
    (near,) = result["learner"]["near"]
    assert (near["similarity"], near["group_size"]) == (0.5, 16)
    duplicates = result["learner"]["rows"][-1]
    # Same keys: with the same group's centres apart, other prompts and other losses.
    assert near["last"]["one"] != duplicates["last"]["one"]
    by_id = {p.id: p for p in redundancy.predictions(result)}
    for recipe in ("last", "best"):
        p = by_id[f"redundancy.trained-near.{recipe}-s50"]
        assert p.role is Role.LIMIT
        assert p.ours.value == pytest.approx(near[recipe]["estimate"] - duplicates[recipe]["estimate"])


@pytest.mark.stress
def test_a_trained_network_gains_less_from_duplicates():
    config = Config(learner_group_sizes=(1, 16), learner_replicates=8)
    unique, duplicates = redundancy._train(config, jax.random.key(1), InMemory())["rows"]
    for recipe in ("last", "best"):
        error = np.hypot(unique[recipe]["standard_error"], duplicates[recipe]["standard_error"])
        assert unique[recipe]["estimate"] - duplicates[recipe]["estimate"] > 2 * error


def test_share_removed_has_the_error_of_paired_runs():
    rng = np.random.default_rng(0)
    one = rng.gamma(20.0, 0.1, (400, 60))
    many = 0.4 * one * rng.gamma(50.0, 0.02, one.shape)
    shares = [redundancy._share_removed(a, b) for a, b in zip(one, many, strict=True)]
    z = [(s["estimate"] - 0.6) / s["standard_error"] for s in shares]
    assert abs(np.mean(z)) < 4 * 1.1 / 20
    assert 0.85 < np.std(z) < 1.15


def test_an_unbounded_ratio_is_a_gain_of_one():
    assert redundancy._gain(float("inf")) == 1.0
    assert redundancy._gain(3.0) == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_sizes": (1, 3)}, "multiple"),
        ({"responses": (1, 4)}, "start with 1, 2"),
        ({"similarities": (0.5,)}, "contain 1"),
        ({"mode_scales": (0.5,)}, "contain 1"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(Config(), **change)


def test_figure_shows_gains_and_map(result):
    fig = figure.draw(result)
    gain, learner, map_ = fig.axes[:3]
    labels = [text.get_text() for text in gain.get_legend().get_texts()]
    assert labels == ["similarity 0.6", "similarity 1"]
    assert len(learner.get_legend().get_texts()) == 2
    shown = sum(len(line.get_xdata()) for line in map_.lines if line.get_marker() != "None")
    assert shown == 6  # every simulated cell of the map
