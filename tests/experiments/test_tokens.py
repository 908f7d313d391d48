import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from experiments import tokens
from experiments.harness.statements import Outcome
from experiments.harness.store import InMemory
from experiments.shared.token_modes import BOS, EOS, SEP, TokenModes
from experiments.shared.training import Recipe
from experiments.shared.transformer import Transformer
from figures import tokens as figure
from mrtsim.errors import InputError
from tests.experiments.conftest import SMALL

TOY = TokenModes()
CONFIG = dataclasses.replace(tokens.PRESETS["quick"], **SMALL["tokens"])


@pytest.fixture(scope="module")
def result(small_result):
    return small_result("tokens")


def test_vocabulary_and_layout_are_the_papers():
    assert TOY.vocabulary == 4 + 64 + 3 + 128
    prompts = TOY.sample_prompts(jax.random.key(0), 500)
    sequences = np.asarray(TOY.sequences(prompts))
    assert sequences.shape == (500, 3, 12)
    assert set(sequences[..., 0].flat) == {BOS}
    np.testing.assert_array_equal(sequences[:, 1, 1:5], prompts)
    assert set(sequences[..., 5].flat) == {SEP}
    np.testing.assert_array_equal(sequences[..., 6], np.tile([68, 69, 70], (500, 1)))
    assert TOY.mode_position == 6
    assert set(sequences[..., 11].flat) == {EOS}
    assert sequences[..., 7:11].min() == 71
    assert sequences[..., 7:11].max() == 198
    assert all(len(set(prompt)) == 4 for prompt in np.asarray(prompts).tolist())
    assert set(np.asarray(prompts).flat) == set(range(4, 68))


def test_content_is_a_fixed_map_of_prompt_and_mode():
    prompts = jnp.array([[4, 5, 6, 7], [5, 4, 6, 7], [67, 66, 65, 64]])
    content = np.asarray(TOY.sequences(prompts))[..., 7:11]
    # Typed in: the map must not change between versions or runs.
    np.testing.assert_array_equal(
        content,
        [
            [[197, 196, 99, 169], [114, 189, 196, 132], [186, 82, 195, 72]],
            [[163, 175, 141, 105], [125, 100, 147, 125], [140, 177, 168, 72]],
            [[89, 187, 184, 146], [77, 104, 113, 113], [171, 111, 107, 172]],
        ],
    )
    np.testing.assert_array_equal(np.asarray(TOY.sequences(prompts[1:2]))[0, :, 7:11], content[1])
    other = np.asarray(TokenModes(map_seed=1).sequences(prompts))[..., 7:11]
    assert np.mean(other == content) < 0.2


def test_content_is_uniform_and_tells_nothing_about_another_prompt():
    prompts = TOY.sample_prompts(jax.random.key(1), 4000)
    content = np.asarray(TOY.sequences(prompts))[..., 7:11] - 71
    counts = np.bincount(content.ravel(), minlength=128)
    assert stats.chisquare(counts).pvalue > 1e-3
    # Within a prompt, two modes or two positions agree as often as independent tokens do.
    for agree in (content[:, 0] == content[:, 1], content[..., 0] == content[..., 1]):
        assert stats.binomtest(int(agree.sum()), agree.size, 1 / 128).pvalue > 1e-3


def test_pools_follow_the_generator():
    modes, rewards = (np.asarray(a) for a in TOY.sample_pools(jax.random.key(2), (2000, 32)))
    counts = np.bincount(modes.ravel(), minlength=3)
    assert stats.chisquare(counts, counts.sum() * TOY.generator).pvalue > 1e-3
    for mode, mean in enumerate((0.0, -0.03, -0.04)):
        assert stats.kstest((rewards[modes == mode] - mean) / 0.02, "norm").pvalue > 1e-3


def test_floors_are_entropies():
    entropy = TOY.token_floor(TOY.truth, content_known=True)
    # Every sequence is equally likely: ordered choices of 4 of 64, times 3.
    assert entropy.sum() == pytest.approx(math.log(math.perm(64, 4) * 3))
    assert entropy.shape == (11,)
    unseen = TOY.token_floor(TOY.truth, content_known=False)
    assert unseen.sum() - entropy.sum() == pytest.approx(4 * math.log(128))
    biased = TOY.token_floor(TOY.generator, content_known=False)
    kl = stats.entropy(TOY.truth, TOY.generator)
    assert biased.sum() - unseen.sum() == pytest.approx(kl)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": (0.5, 0.6, 0.0)}, "truth"),
        ({"generator": (0.5, 0.5)}, "generator"),
        ({"reward_noise": 0.0}, "reward_noise"),
        ({"prompt_length": 65}, "prompt_length"),
        ({"prompt_length": 6}, "2\\^32"),
    ],
)
def test_sizes_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        TokenModes(**changes)


def brute_mode_seeking(rewards, modes, k, quantile):
    """The rule in words: filter, then the best of an unseen mode, then by reward."""
    bar = np.quantile(rewards, quantile)
    by_reward = np.argsort(-rewards)
    passing = [i for i in by_reward if rewards[i] >= bar]
    kept = []
    while len(kept) < len(passing):
        seen = {modes[i] for i in kept}
        left = [i for i in passing if i not in kept]
        kept.append(next((i for i in left if modes[i] not in seen), left[0]))
    return (kept + [i for i in by_reward if i not in passing])[:k]


def test_mode_seeking_against_the_rule_in_words():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rewards, modes = rng.normal(size=12), rng.integers(0, 3, 12)
        for k in (1, 3, 9, 12):
            ours = tokens.mode_seeking(jnp.asarray(rewards, jnp.float32), jnp.asarray(modes), k, 0.3)
            assert ours.tolist() == brute_mode_seeking(rewards.astype(np.float32), modes, k, 0.3)


def test_with_one_response_mode_seeking_is_bkon():
    rewards = jax.random.normal(jax.random.key(0), (500, 12))
    modes = jax.random.randint(jax.random.key(1), (500, 12), 0, 3)
    both = [tokens.pick(name, None, modes, rewards, 1, 0.3) for name in ("bkon", "mode-seeking")]
    np.testing.assert_array_equal(*both)


def test_picks_of_each_strategy():
    modes, rewards = TOY.sample_pools(jax.random.key(3), (300, 32))
    picks = {
        name: np.asarray(tokens.pick(name, jax.random.key(4), modes, rewards, 8, 0.3))
        for name in tokens.STRATEGIES
    }
    best = np.argsort(-np.asarray(rewards), axis=1)[:, :8]
    np.testing.assert_array_equal(picks["bkon"], np.take_along_axis(np.asarray(modes), best, 1))
    np.testing.assert_array_equal(picks["mode-seeking"][:, 0], picks["bkon"][:, 0])
    assert (picks["mode-seeking"][:, :3] > 0).any(1).mean() > (picks["bkon"] > 0).any(1).mean()
    # A strategy's picks for fewer are the first of its picks for more.
    fewer = tokens.pick("rkon", jax.random.key(4), modes, rewards, 3, 0.3)
    np.testing.assert_array_equal(picks["rkon"][:, :3], fewer)


def test_kept_law_of_bkon_by_quadrature():
    def density(r, mode):
        return stats.norm.pdf(r, TOY.reward_means[mode], TOY.reward_noise)

    def inclusion(r, k):
        u = TOY.generator @ stats.norm.cdf(r, TOY.reward_means, TOY.reward_noise)
        return special.betainc(32 - k, k, u)

    law = tokens.kept_law(tokens.Config())["bkon"]
    for k, shares in zip((1, 2, 4, 8), law, strict=True):
        assert sum(shares) == pytest.approx(1, abs=1e-9)
        for mode, share in enumerate(shares):
            exact, _ = integrate.quad(
                lambda r, mode=mode, k=k: TOY.generator[mode] * density(r, mode) * 32 / k * inclusion(r, k),
                0.75,
                1.25,
                epsabs=1e-13,
                limit=200,
            )
            assert share == pytest.approx(exact, rel=1e-9)


def test_kept_shares_agree_with_their_law():
    law = tokens.kept_law(tokens.Config())
    modes, rewards = TOY.sample_pools(jax.random.key(5), (20_000, 32))
    for name in ("rkon", "bkon"):
        kept = np.asarray(tokens.pick(name, jax.random.key(6), modes, rewards, 8, 0.3)) > 0
        for i, k in enumerate((1, 2, 4, 8)):
            shares = kept[:, :k].mean(1)
            error = shares.std(ddof=1) / math.sqrt(len(shares))
            assert abs(shares.mean() - (1 - law[name][i][0])) < 4 * error


def test_result(result):
    assert result["responses"] == [1, 2, 4, 8]
    for name, found in result["strategies"].items():
        for recipe in tokens.RECIPES:
            for i in range(4):
                cell = {part: found[recipe][part][i]["estimate"] for part in tokens.PARTS}
                # 4 prompt tokens, the separator, and 6 of the response make the 11 next tokens.
                assert 4 * cell["prompt"] + 6 * cell["response"] < 11 * cell["all"]
                assert cell["mode"] + 4 * cell["content"] < 6 * cell["response"]
                assert cell["all"] > result["floors"]["entropy"]["all"]
                assert sum(m["estimate"] for m in found[recipe]["modes"][i]) < 1
            assert len(found[recipe]["sampled"]) == 4
        assert found["diverged"] == [0, 0, 0, 0], name
    last = {name: found["last"]["all"] for name, found in result["strategies"].items()}
    assert last["mode-seeking"][0] == last["bkon"][0]  # with K = 1 both keep the best reward
    difference = last["bkon"][3]["estimate"] - last["rkon"][3]["estimate"]
    assert result["excess"]["bkon"]["last"][3]["estimate"] == pytest.approx(difference)
    assert set(result["readings"]) == {
        "mean over all next tokens",
        "mean over the response",
        "sum over the response / all next tokens",
    }


def test_sampled_test_sets_agree_with_the_expectation():
    cells = InMemory().replicates(
        "x", tokens.train_once, jax.random.key(1), 30, np.int32(0), np.int32(1), CONFIG, block=1
    )
    difference = cells["last"]["sampled"] - cells["last"]["tokens"].mean(-1)
    assert difference.std(ddof=1) > 0
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / math.sqrt(30)


def test_predictions_are_computed_from_the_result(result):
    found = tokens.predictions(result)
    assert {p.claim for p in found} == set(tokens.CLAIMS)
    bkon = [p for p in found if p.id.startswith("tokens.bkon-over-rkon.last")]
    assert [p.reported for p in bkon] == pytest.approx([0.26, 0.47, 0.52, 0.36])
    worse, better = ({"estimate": s, "low": s - 0.1, "high": s + 0.1} for s in (1.0, -1.0))
    for cell, outcome in ((worse, Outcome.HOLDS), (better, Outcome.FAILS)):
        changed = {**result, "excess": {**result["excess"], "bkon": {r: [cell] * 4 for r in tokens.RECIPES}}}
        judged = [p.outcome for p in tokens.predictions(changed) if p.id.startswith("tokens.bkon-over-rkon")]
        assert judged == [outcome] * 8


def test_the_figure_shows_every_strategy(result):
    fig = figure.draw(result)
    texts = {t.get_text() for legend in fig.legends for t in legend.get_texts()}
    assert {"RKoN", "BKoN", "mode-seeking"} <= texts


def test_config_that_makes_no_sense():
    with pytest.raises(InputError, match="increasing"):
        tokens.Config(responses=(2, 1))
    with pytest.raises(InputError, match="pool"):
        tokens.Config(responses=(1, 64))


@pytest.mark.stress
def test_a_learner_gives_the_modes_what_is_kept():
    """RKoN's learner gives them the generator's probabilities; BKoN's hardly any but the first."""
    recipe = Recipe(100, 2e-3, 1.0, 0.01, validate_every=100)
    config = dataclasses.replace(tokens.Config(), recipe=recipe, responses=(8,))

    def learned(which):
        k = np.int32(8)
        found = InMemory().replicates(
            "x", tokens.train_once, jax.random.key(2), 4, np.int32(which), k, config
        )
        return found["last"]["modes"].mean(0)

    np.testing.assert_allclose(learned(0), TOY.generator, atol=0.02)
    assert learned(1)[0] > 0.98


def test_sampled_tokens_follow_the_model():
    """The mean of -log p of what was drawn is the mean entropy of what it was drawn from, place by place."""
    model = Transformer(jax.random.key(1), TOY.vocabulary, TOY.length - 1)
    prompts = TOY.sequences(TOY.sample_prompts(jax.random.key(2), 3))[:, 0, : TOY.mode_position]
    drawn = tokens.generate(jax.random.key(3), model, prompts, 700)
    assert drawn.shape == (3, 700, TOY.length - TOY.mode_position)
    whole = jnp.concatenate([jnp.repeat(prompts, 700, axis=0), drawn.reshape(2100, -1)], axis=1)
    log_p = np.asarray(jax.nn.log_softmax(model(whole[:, :-1])), np.float64)[:, TOY.mode_position - 1 :]
    of_drawn = np.take_along_axis(log_p, np.asarray(drawn.reshape(2100, -1))[..., None], 2)[..., 0]
    excess = -of_drawn + (np.exp(log_p) * log_p).sum(-1)
    error = excess.std(axis=0, ddof=1) / math.sqrt(len(excess))
    assert (np.abs(excess.mean(axis=0)) < 4 * error).all()
    assert len(np.unique(drawn.reshape(2100, -1), axis=0)) > 2000


def test_judging_by_hand():
    references = np.asarray(TOY.sequences(jnp.array([[4, 5, 6, 7]])))[:, :, TOY.mode_position :]
    first, second, third = references[0]
    other = first.copy()
    other[0], other[1] = 4, first[1] + 1  # no mode, and one of the other tokens differs
    found = tokens.judge(np.stack([first, first, second, other])[None], references)
    assert found["mode_coverage"] == pytest.approx(2 / 3)
    assert found["mode_diversity"] == pytest.approx(5 / 6)
    assert found["mean_reward"] == pytest.approx((1 + 1 + 0.97 + 0) / 4)
    assert found["best_reward"] == 1
    assert found["pass_at_1"] == 0.75
    assert found["pass_at_all"] == 1
    assert found["alignment"] == pytest.approx((1 + 1 + 1 + 3 / 5) / 4)
    nearest = max(np.mean(drawn[:-1] == third[:-1]) for drawn in (first, second, other))
    assert found["coverage"] == pytest.approx((2 + nearest) / 3)


def test_expected_modes_are_those_of_all_draws():
    p = np.array([[0.6, 0.3, 0.0], [0.2, 0.3, 0.5]])
    exact = tokens.expected_modes(p, 3)
    total = dict.fromkeys(exact, 0.0)
    references = np.asarray(TOY.sequences(jnp.array([[4, 5, 6, 7]])))[:, :, TOY.mode_position :]
    no_mode = np.zeros((1, references.shape[2]), int)
    kinds = np.concatenate([references[0], no_mode])
    for row in p:
        chances = np.append(row, 1 - row.sum())
        for draw in itertools.product(range(4), repeat=3):
            found = tokens.judge(kinds[list(draw)][None], references)
            for name in total:
                total[name] += chances[list(draw)].prod() * found[name] / 2
    assert total == pytest.approx(exact)


def test_generations_are_judged(result):
    found = result["generations"]
    assert found["generator"]["mode_diversity"] == pytest.approx(1 - 0.95**2 - 0.04**2 - 0.01**2)
    for recipe in tokens.RECIPES:
        for where in tokens.PROMPTS:
            for name in tokens.STRATEGIES:
                for cell in found[recipe][where][name].values():
                    assert len(cell["k"]) == 4
                    change = cell["k"][-1]["estimate"] - cell["k"][0]["estimate"]
                    assert cell["change"]["estimate"] == pytest.approx(change, abs=1e-12)
    outcomes = {p.id: p.outcome for p in tokens.predictions(result)}
    assert "tokens.mode-diversity.rkon.best-unseen" in outcomes
    assert "tokens.mode-diversity.bkon-over-rkon.last-k4" in outcomes


def test_more_responses_than_there_are_prompts_for_are_refused():
    with pytest.raises(InputError, match="generation_prompts = 11 must be at least 1"):
        dataclasses.replace(CONFIG, generation_prompts=11)
