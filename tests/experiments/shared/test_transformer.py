import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.shared.training import Recipe, fit
from experiments.shared.transformer import Transformer, keep_masks, next_token_nll
from mrtsim.errors import InputError

TINY = {"vocabulary": 7, "length": 5, "width": 8, "heads": 2, "depth": 2, "hidden": 12}


def tiny(seed=0, **changes):
    return Transformer(jax.random.key(seed), **TINY | changes)


def tokens(seed, n, length=6, vocabulary=7):
    return jax.random.randint(jax.random.key(seed), (n, length), 0, vocabulary)


@pytest.mark.parametrize("dropout_key", [None, jax.random.key(5)])
def test_a_later_token_changes_no_earlier_logit(dropout_key):
    sequences = tokens(1, 3, 5)
    logits = jax.jit(lambda sequences: tiny()(sequences, dropout_key))
    before = np.asarray(logits(sequences))
    for position in range(5):
        changed = sequences.at[:, position].set((sequences[:, position] + 1) % 7)
        after = np.asarray(logits(changed))
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert np.all(np.abs(after[:, position:] - before[:, position:]).max((0, 2)) > 1e-3)


@pytest.mark.parametrize("dropout_key", [None, jax.random.key(5)])
def test_gradient_against_finite_differences(dropout_key):
    with jax.enable_x64(True):
        model, sequences = tiny(), tokens(2, 4)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(params)
        directions = jax.random.normal(jax.random.key(3), (6, flat.size), flat.dtype)

        def loss(flat):
            return next_token_nll(eqx.combine(unravel(flat), static), sequences, dropout_key).mean()

        @jax.jit
        def both(step):
            """Along each direction, by differences and by the gradient."""
            ends = jax.lax.map(loss, flat + step * jnp.concatenate([directions, -directions]))
            return (ends[:6] - ends[6:]) / (2 * step), directions @ jax.grad(loss)(flat)

        numeric, exact = both(1e-5)
        assert exact.dtype == jnp.float64
    assert np.abs(exact).min() > 1e-3
    np.testing.assert_allclose(numeric, exact, rtol=1e-7, atol=1e-8)


def plain_layer(layer, x, heads):
    """A post-norm layer on one sequence (positions, width), as PyTorch documents `nn.TransformerEncoderLayer`."""

    def dense(linear, x):
        return x @ np.asarray(linear.weight).T + np.asarray(linear.bias)

    def normalise(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    queries, keys, values = np.split(dense(layer.project, x), 3, axis=1)
    size, attended = x.shape[1] // heads, np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            scores = keys[: i + 1, part] @ queries[i, part] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            attended[i, part] = weights @ values[: i + 1, part] / weights.sum()
    x = normalise(x + dense(layer.merge, attended))
    hidden = dense(layer.widen, x)
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return normalise(x + dense(layer.narrow, gelu))


def test_logits_are_those_of_the_textbook():
    with jax.enable_x64(True):
        model, sequence = tiny(), np.asarray(tokens(3, 1, 5)[0])
        logits = np.asarray(eqx.filter_jit(model)(sequence[None]))[0]
        x = np.asarray(model.tokens)[sequence] + np.asarray(model.positions)
        for layer in model.layers:
            x = plain_layer(layer, x, TINY["heads"])
        expected = x @ np.asarray(model.head.weight).T + np.asarray(model.head.bias)
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10)


def test_sequences_do_not_see_each_other():
    model, sequences = tiny(), tokens(4, 3, 5)
    logits = eqx.filter_jit(model)
    np.testing.assert_allclose(logits(sequences)[1:2], logits(sequences[1:2]), atol=2e-6)


def test_nll_is_that_of_a_distribution_over_the_vocabulary():
    model, prefix = tiny(), tokens(6, 1, 4)
    every = jnp.concatenate([jnp.tile(prefix, (7, 1)), jnp.arange(7)[:, None]], axis=1)
    nll = eqx.filter_jit(next_token_nll)(model, every)
    assert nll.shape == (7, 4)
    assert float(jnp.exp(-nll[:, -1]).sum()) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(nll[:, :-1], jnp.tile(nll[:1, :-1], (7, 1)), atol=1e-6)


def test_parameters_of_the_papers_learner():
    width, hidden, vocabulary, length = 64, 128, 4 + 64 + 3 + 128, 11
    attention = (3 * width * width + 3 * width) + (width * width + width)
    dense = (width * hidden + hidden) + (hidden * width + width)
    expected = (vocabulary + length) * width + 2 * (attention + dense + 4 * width) + vocabulary * (width + 1)
    leaves = jax.tree.leaves(eqx.filter(Transformer(jax.random.key(0)), eqx.is_array))
    assert sum(leaf.size for leaf in leaves) == expected == 93_319


def test_weights_start_as_in_pytorch():
    model = Transformer(jax.random.key(0))
    for layer in model.layers:
        bound = math.sqrt(6 / (4 * 64))
        weight = np.asarray(layer.project.weight)
        assert np.abs(weight).max() == pytest.approx(bound, rel=1e-3)
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not np.any(layer.project.bias)
        assert not np.any(layer.merge.bias)
    for linear in (model.head, *(part for x in model.layers for part in (x.merge, x.widen, x.narrow))):
        bound = 1 / math.sqrt(linear.in_features)
        assert np.abs(linear.weight).max() == pytest.approx(bound, rel=1e-2)
        assert np.asarray(linear.weight).std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert np.asarray(model.tokens).std() == pytest.approx(1, rel=0.02)
    assert np.asarray(model.positions).std() == pytest.approx(1, rel=0.1)
    assert not np.array_equal(model.layers[0].widen.weight, model.layers[1].widen.weight)


def test_dropout_keeps_at_its_rate_and_independently():
    rate, n = 0.3, 400_000
    rate = round(rate * 2**16) / 2**16
    first, second = keep_masks(jax.random.key(0), rate, [(n,), (3, 5)])
    assert second.shape == (3, 5)
    kept = np.asarray(first, float)
    error = math.sqrt(rate * (1 - rate) / n)
    assert abs(kept.mean() - (1 - rate)) < 4 * error
    # Decisions that share a word or a Threefry block lie a quarter or a half of the draw apart.
    for lag in (1, n // 4, n // 4 + 4, n // 2, n // 2 + 8):
        pairs = (kept[lag:] - (1 - rate)) * (kept[:-lag] - (1 - rate))
        assert abs(pairs.mean()) < 4.5 * rate * (1 - rate) / math.sqrt(len(pairs))


def test_words_that_decisions_share_are_cut_in_halves():
    # 8 decisions are 4 words: the low halves decide the first four, the high halves the others.
    halves = [np.asarray(keep_masks(jax.random.key(1), r, [(8,)])[0]) for r in np.arange(1, 2**10) / 2**10]
    levels = np.sum(halves, axis=0)  # the top ten bits of each 16-bit number
    words = jax.extend.random.threefry_2x32(
        jax.random.key_data(jax.random.key(1)), jnp.arange(4, dtype=jnp.uint32)
    )
    low, high = np.asarray(words & 0xFFFF) >> 6, np.asarray(words >> 16) >> 6
    np.testing.assert_array_equal(levels, np.concatenate([low, high]))


def test_dropout_leaves_the_expectation():
    model = tiny(dropout=0.1)
    assert model.dropout == 6554 / 2**16
    ones = jnp.ones((4 * 5, 8))

    def added(key):
        drop = model._dropout(key, 4, 5)
        drop(jnp.ones((4, 2, 5, 5)))
        return drop(ones)

    values = np.asarray(jax.vmap(added)(jax.random.split(jax.random.key(0), 2000)))
    assert set(np.unique(values).tolist()) == {0.0, np.float32(1 / (1 - model.dropout)).item()}
    error = math.sqrt(model.dropout / (1 - model.dropout) / values.size)
    assert abs(values.mean() - 1) < 4 * error


def test_dropout_is_off_without_a_key_and_differs_between_keys():
    sequences = tokens(8, 3, 5)
    model = tiny()
    plain = np.asarray(eqx.filter_jit(model)(sequences))
    dropped = eqx.filter_jit(model)
    one, same, other = (np.asarray(dropped(sequences, jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, plain)
    undropped = eqx.filter_jit(tiny(dropout=0.0))
    np.testing.assert_array_equal(undropped(sequences, jax.random.key(0)), undropped(sequences))


def train(key, steps, sequences):
    model_key, row_key, drop_key = jax.random.split(key, 3)
    recipe = Recipe(steps=steps, learning_rate=2e-3, clip=1.0, weight_decay=0.01, validate_every=steps)
    rows = jax.random.randint(row_key, (steps, 8), 0, len(sequences))

    def objective(model, batch):
        return next_token_nll(model, sequences[batch[0]], batch[1]).mean()

    model = Transformer(model_key, **TINY | {"depth": 1})
    return fit(model, objective, recipe, (rows, jax.random.split(drop_key, steps))).losses


@pytest.mark.parametrize(
    ("x64", "steps", "tolerance"),
    [pytest.param(False, 20, 2e-4, marks=pytest.mark.stress), (True, 50, 1e-8)],
)
def test_a_batch_of_runs_follows_the_same_runs_alone(x64, steps, tolerance):
    with jax.enable_x64(x64):
        keys = jax.random.split(jax.random.key(9), 3)
        sequences = tokens(10, 20)
        together = np.asarray(jax.jit(jax.vmap(lambda k: train(k, steps, sequences)))(keys))
        alone = jax.jit(lambda k: train(k, steps, sequences))
        one_by_one = np.stack([np.asarray(alone(k)) for k in keys])
    np.testing.assert_allclose(together, one_by_one, atol=tolerance)
    assert np.ptp(one_by_one[:, -1]) > 1e-3


def test_it_learns_to_look_back():
    # The second half repeats the first: only attention over three positions can tell.
    half = tokens(11, 256, 3)
    sequences = jnp.concatenate([half, half], axis=1)
    recipe = Recipe(steps=300, learning_rate=1e-2, clip=1.0, weight_decay=0.01, validate_every=300)
    rows = jax.random.randint(jax.random.key(0), (300, 64), 0, 256)
    fresh = jnp.concatenate([tokens(12, 200, 3)] * 2, axis=1)

    @jax.jit
    def learn():
        model = tiny(width=16, hidden=32, depth=1, dropout=0.0)
        trained = fit(model, lambda m, r: next_token_nll(m, sequences[r]).mean(), recipe, rows).last
        return next_token_nll(trained, fresh).mean(0)

    nll = learn()
    assert float(nll[2:].max()) < 0.5 * math.log(7) < float(nll[:2].min())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"heads": 3}, "multiple of heads"), ({"dropout": 1.0}, "dropout"), ({"dropout": -0.1}, "dropout")],
)
def test_sizes_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)
