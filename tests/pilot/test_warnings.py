"""What a reader is told before acting on a pilot: when, about which interval, and at which confidence."""

import numpy as np

import mrtsim as mrt
from mrtsim.pilot.mean_squares import weighted_mean_squares
from mrtsim.pilot.sums import PromptSums
from mrtsim.pilot.warnings import at_risk


def warned(losses, prompts=None, **options):
    return " / ".join(mrt.estimate_components(losses, prompts, **options).warnings)


def pilot(prompts, responses, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((prompts, 1)) + rng.standard_normal((prompts, responses))


def test_a_pilot_of_many_normal_losses_has_no_warning():
    assert warned(pilot(80, 6)) == ""


def test_small_pilots_say_what_they_cannot_show():
    """A share q is absent with probability (1 - q)^P: 1 in 20 at q = 1 - 0.05^(1/P)."""
    assert "a kind of prompt that makes up 7 % of the corpus" in warned(pilot(40, 6))
    assert 0.93**40 < 0.06
    assert "few" not in warned(pilot(40, 6))
    assert "6 prompts are few, so the 90 % intervals of V_x, V_y|x and K* rest on little" in warned(
        pilot(6, 5), confidence=0.9
    )
    assert "a kind of prompt that makes up 39 %" in warned(pilot(6, 5))
    pairs = np.repeat(np.arange(20), 2)
    assert "a kind of group that makes up 14 % of the corpus" in warned(pilot(40, 6), groups=pairs)
    assert "10 groups are few" in warned(pilot(40, 6), groups=pairs // 2)


def test_few_is_judged_by_effective_numbers():
    """60 prompts of which 55 have one response know V_{y|x} like 5; groups of very unequal size likewise."""
    counts = np.array([20] * 5 + [1] * 55)
    rows = np.repeat(np.arange(60), counts)
    losses = pilot(60, 20)[rows, np.arange(rows.size) % 20]
    message = warned(losses, rows)
    assert "the 60 prompts are worth only 5 of equal weight for V_y|x" in message
    sizes = np.array([60] + [2] + [1] * 28)
    message = warned(pilot(90, 4, seed=3), groups=np.repeat(np.arange(30), sizes))
    assert "the 30 groups are worth only" in message
    assert "1 of equal weight for V_x|g" in message
    equal = warned(pilot(60, 4), groups=np.repeat(np.arange(30), 2))
    assert "worth only" not in equal


def test_skewed_and_heavy_tailed_losses():
    """The warning names the intervals at risk: V_x where prompts are skewed, V_{y|x} where responses are."""
    normal = pilot(80, 6)
    for losses in (np.exp(1.5 * normal[:, :1]) + normal, -np.exp(1.5 * normal[:, :1]) + normal):
        message = warned(losses)
        assert "the 95 % intervals of V_x and K* may be too short" in message
        assert "V_y|x and K*" not in message
    rng = np.random.default_rng(1)
    message = warned(normal[:, :1] + np.exp(1.5 * rng.standard_normal((80, 6))))
    assert "the 95 % intervals of V_y|x and K* may be too short" in message
    grouped = warned(np.exp(1.5 * normal[:, :1]) + normal, groups=np.arange(80) // 2)
    assert "intervals of V_g and K* may be too short" in grouped or "intervals of V_x|g" in grouped


def test_the_confidence_is_the_one_asked_for():
    losses = np.exp(1.5 * pilot(80, 6)[:, :1]) + pilot(80, 6)
    assert "the 90 % intervals of V_x and K* may be too short" in warned(losses, confidence=0.9)
    assert "at 99.9 % confidence the data do not rule out V_x = 0" in warned(pilot(20, 2), confidence=0.999)


def test_estimates_at_or_below_zero():
    flat = np.random.default_rng(2).standard_normal((12, 4))
    assert "V_x is estimated at -" in warned(flat)
    assert "2 V_g + V_x|g" in warned(flat, groups=np.arange(12) // 2)
    losses = pilot(40, 6)
    assert "even the upper 95 % limit of V_x is below 0" in warned(
        losses - 0.9 * losses.mean(axis=1, keepdims=True)
    )


def test_losses_that_say_nothing_about_prompts():
    """Ranks, pairs and centred rewards give all prompts the same mean, and an evaluation a standard error of 0."""
    rng = np.random.default_rng(0)
    ranks = np.argsort(rng.random((40, 7)), axis=1) + 1.0
    pairs = np.tile([0.0, 1.0], (40, 1))
    losses = pilot(40, 6)
    centred = np.round((losses - losses.mean(1, keepdims=True)) / losses.std(1, keepdims=True), 3)
    for alike in (ranks, pairs, centred, centred.astype(np.float32)):
        assert "all prompts have the same mean loss" in warned(alike)
    for different in (losses, ranks[:9], np.round(rng.random((10, 2)))):
        assert "all prompts have the same mean loss" not in warned(different)


def test_responses_that_stand_more_than_once():
    losses, rng = pilot(40, 3), np.random.default_rng(1)
    for times in (2, 3):
        rows = rng.permutation(np.tile(np.arange(120), times))
        found = warned(losses.ravel()[rows], (np.arange(120) // 3)[rows])
        assert f"in all prompts every loss stands {times} times" in found
        assert "more than once" in warned(np.repeat(losses, times, axis=1), groups=np.arange(40) // 2)
    half = np.concatenate([np.arange(120), np.arange(60)])
    scored = (rng.random((60, 4)) < rng.random((60, 1))).astype(float)
    constant_but_few = np.repeat(rng.integers(0, 2, (60, 1)), 4, axis=1)
    constant_but_few[:9] = [0, 0, 1, 1]
    for fine in (losses, scored, constant_but_few, np.repeat(losses[:9], 2, axis=1)):
        assert "more than once" not in warned(fine)
    assert "more than once" not in warned(losses.ravel()[half], (np.arange(120) // 3)[half])


def test_copies_of_merged_parts():
    losses, names = np.repeat(pilot(40, 2), 2, axis=1).ravel(), np.repeat(np.arange(40), 4)
    first = PromptSums.of(losses[:80], names[:80])
    assert first.copies == 2
    assert first.merge(PromptSums.of(losses[80:], names[80:])).copies == 2
    assert first.merge(PromptSums.of(pilot(20, 4).ravel(), names[80:])).copies == 1
    # what stands in both parts is not looked for
    assert first.merge(first).copies == 1


def test_counts_that_follow_the_losses():
    losses = pilot(40, 6)
    counts = np.where(losses[:, 0] > 0.5, 6, 2)
    rows = np.repeat(np.arange(40), counts)
    drawn = np.random.default_rng(0).standard_normal(rows.size)
    assert "another mean (" in warned(drawn + 3 * (counts[rows] == 6), rows)
    assert "another spread (" not in warned(drawn, rows)
    assert "another spread (" in warned(drawn * np.where(counts[rows] == 6, 5, 1), rows)
    assert "more responses" not in warned(drawn + losses[rows, 3], rows)


def test_false_alarms_and_alarms_of_many_pilots_at_once():
    """Normal effects: at most 10 % of pilots flagged; log-normal prompts of sigma 1: most."""
    rng = np.random.default_rng(0)
    counts, n = np.full(50, 4.0), 2_000

    def flagged(effects):
        means = effects + rng.standard_normal((n, 50)) / 2
        return at_risk(weighted_mean_squares(PromptSums(counts, means, rng.chisquare(3, (n, 50)))))

    normal = flagged(rng.standard_normal((n, 50)))
    assert 0.01 < normal.between.mean() < 0.1
    assert 0.005 < normal.response.mean() < 0.1
    skewed = flagged(np.exp(rng.standard_normal((n, 50))))
    assert skewed.between.mean() > 0.8
    assert skewed.response.mean() < 0.1
