import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrtsim as mrt
from experiments.shared import distillation as lab
from experiments.shared import llama
from experiments.shared.training import Recipe

SHAPE = llama.Shape(vocabulary=40, width=24, hidden=32, depth=3, heads=6, key_heads=2, rope_base=1e4)
END = 4  # among the allowed tokens
PROMPTS, R, T = 4, 6, 5
# One program each instead of one per operation.
random_llama = eqx.filter_jit(llama.Llama.random)
divergence, nll_difference, logits = map(eqx.filter_jit, (lab.divergence, lab.nll_difference, llama.logits))
nlls = eqx.filter_jit(jax.vmap(lab.nll, (None, None, None, 0, 0)))


@pytest.fixture(scope="module")
def world():
    """A random teacher, its context, the learner's prompts without it, and drawn answers."""
    rng, model = np.random.default_rng(0), random_llama(jax.random.key(0), SHAPE, 0.2)
    short = [list(rng.integers(0, 40, n)) for n in (3, 2, 4, 3)]
    context = list(rng.integers(0, 40, 4))
    learner, teacher = lab.filled(short), lab.filled([context + prompt for prompt in short])
    allowed = jnp.arange(1, 40, 2)
    answers = lab.draw_answers(jax.random.key(1), model, teacher, allowed, END, R, T)
    return model, learner, teacher, allowed, answers


def judged(world, text, trained):
    model, _, teacher, allowed, answers = world
    data = lab.learner_data(model, text, answers, allowed, trained)
    return (
        lab.Learner.of(model, trained),
        lab.Fixed.of(model, allowed),
        lab.judge_of(model, teacher, data, allowed)[0],
    )


def test_the_teacher_has_no_divergence_from_itself(world):
    for trained in (1, 3):
        learner, fixed, judge = judged(world, world[2], trained)
        assert np.abs(divergence(learner, fixed, judge)).max() < 1e-6
        assert np.abs(nll_difference(learner, fixed, judge.data)).max() < 1e-5


@pytest.mark.stress  # each depth compiles its own programs
def test_all_depths_give_the_same_divergence(world):
    found = [divergence(*judged(world, world[1], trained)) for trained in (1, 2, 3)]
    assert found[0].min() > 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def test_the_divergence_is_that_of_the_definition(world):
    """Position by position, from the whole model's logits over the allowed tokens."""
    model, text, teacher, allowed, answers = world
    ours = divergence(*judged(world, text, 1))
    total = 0.0
    for tokens, counted in zip(answers.tokens[0], answers.counted[0], strict=True):
        scores = []
        for side in (teacher, text):
            prompt = side.tokens[0, side.starts[0] :]
            row = logits(model, jnp.concatenate([prompt, allowed[tokens]]))[len(prompt) - 1 : -1, allowed]
            scores.append(np.asarray(jax.nn.log_softmax(row), np.float64))
        total += float((np.exp(scores[0]) * (scores[0] - scores[1])).sum(1) @ np.asarray(counted))
    assert ours[0] == pytest.approx(total / R, rel=1e-4)


def test_what_follows_an_end_mark_does_not_count(world):
    answers = world[4]
    tokens, counted = np.asarray(answers.tokens), np.asarray(answers.counted)
    ended = [(row, list(row).index(END)) for row in tokens.reshape(-1, T) if END in row]
    assert ended  # the seed draws some
    for row, seen in zip(tokens.reshape(-1, T), counted.reshape(-1, T), strict=True):
        end = list(row).index(END) if END in row else T
        assert seen.tolist() == [t <= end for t in range(T)]


def test_what_the_allowed_tokens_leave_out(world):
    model, text, teacher, allowed, answers = world
    data = lab.learner_data(model, text, answers, allowed, 1)
    judge, left = lab.judge_of(model, teacher, data, allowed)
    row = logits(
        model, jnp.concatenate([teacher.tokens[0, teacher.starts[0] :], allowed[answers.tokens[0, 0]]])
    )
    exact = jax.nn.softmax(row[-T - 1 : -1])[:, allowed].sum(-1)
    np.testing.assert_allclose(left[0, 0], 1 - exact, atol=2e-6)
    # The sampler's log-probabilities are the judge's of the tokens drawn.
    chosen = jnp.take_along_axis(judge.log_p, answers.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(answers.log_p, chosen, atol=1e-5)


@pytest.mark.parametrize("trained", [1, pytest.param(3, marks=pytest.mark.stress)])
def test_pilots_are_those_of_explicit_gradients(world, trained, tmp_path):
    """Norms alone, rows by the recipe of docs/gradients.md, and its file of sketches, which is random."""
    learner, fixed, judge = judged(world, world[1], trained)
    found = lab.pilots(learner, fixed, judge.data, PROMPTS, 3)
    recipe, page = {}, (Path(__file__).parents[3] / "docs" / "gradients.md").read_text(encoding="utf-8")
    for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        if "import jax" in code or "def write_pilot" in code:
            exec(code, recipe)
    prompts, responses = (a.ravel() for a in np.indices((PROMPTS, 3)))
    rows = jax.jit(
        lambda learner: recipe["per_response_gradients"](
            lambda m, p, r: lab.nll(m, fixed, judge.data, p, r), learner, prompts, responses
        )
    )(learner)
    explicit = mrt.estimate_components(np.asarray(rows, float), prompts)
    ours = mrt.estimate_components(found.gradients)
    assert ours.response.value == pytest.approx(explicit.response.value, rel=1e-4)
    assert ours.prompt.value == pytest.approx(explicit.prompt.value, rel=1e-3)
    losses = nlls(learner, fixed, judge.data, jnp.asarray(prompts), jnp.asarray(responses))
    np.testing.assert_allclose(found.losses.means, losses.reshape(PROMPTS, 3).mean(1), rtol=1e-5)
    if trained == 1:
        recipe["write_pilot"](
            tmp_path / "pilot.parquet", learner, fixed, judge.data, PROMPTS, 3, jax.random.key(4)
        )
        read = mrt.read_pilot(tmp_path / "pilot.parquet", vector_column="gradient")
        sketched = mrt.estimate_components(read.losses, read.prompts, sketched=True)
        assert sketched.response.value == pytest.approx(explicit.response.value, rel=4 * (2 / 1000) ** 0.5)


def test_rows_are_those_of_the_design(world):
    answers = world[4]
    order = lab.order_of("bkon", answers, len(world[3]))
    per_token = (answers.log_p * answers.counted).sum(-1) / answers.counted.sum(-1)
    np.testing.assert_array_equal(order[:, 0], per_token.argmax(-1))
    kept = {}
    for shuffled in (False, True):
        design = lab.Design(2, 3, order, shuffled)
        prompts, responses = lab.rows_of(jax.random.key(0), design, (50, 8))
        kept[shuffled] = {(int(p), int(r)) for p, r in zip(prompts.ravel(), responses.ravel(), strict=True)}
        assert len(kept[shuffled]) == 6
    chosen = {p for p, _ in kept[False]}
    assert {p for p, _ in kept[True]} == chosen
    assert kept[False] == {(p, int(r)) for p in chosen for r in order[p, :3]}


def test_training_lowers_the_divergence(world):
    learner, fixed, judge = judged(world, world[1], 1)
    design = lab.Design(PROMPTS, R, jnp.zeros((PROMPTS, R), jnp.int32), True)
    schedule = lab.Schedule(Recipe(40, 3e-3, 1e9, validate_every=20), 8)
    trained = lab.train(jax.random.key(0), learner, fixed, judge.data, design, schedule).last
    assert divergence(trained, fixed, judge).mean() < 0.7 * divergence(learner, fixed, judge).mean()
