from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import llama

SHAPE = llama.Shape(vocabulary=40, width=24, hidden=32, depth=3, heads=6, key_heads=2, rope_base=1e4)
P, R, T, FILLING = 6, 3, 4, 2


@pytest.fixture(scope="module")
def model():
    return llama.Llama.random(jax.random.key(0), SHAPE)


@pytest.fixture(scope="module")
def plain(model):
    return partial(jax.jit(llama.logits), model)


@pytest.fixture(scope="module")
def pack():
    """A prompt of 4 tokens in 6 slots, and 3 responses of 4."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.zeros(FILLING, int), rng.integers(0, 40, P - FILLING)]), rng.integers(
        0, 40, (R, T)
    )


def test_a_pack_equals_plain_rows(model, plain, pack):
    prompt, responses = pack
    states = llama.Pack(model.embedding[prompt], model.embedding[responses])
    predicting = jax.jit(llama.predicting, static_argnums=4)
    ours = predicting(model.layers, model.norm, states, jnp.int32(FILLING), SHAPE) @ model.embedding.T
    for response, scores in zip(responses, ours, strict=True):
        alone = plain(jnp.concatenate([prompt[FILLING:], response]))[P - FILLING - 1 : -1]
        np.testing.assert_allclose(scores, alone, atol=2e-6 * np.abs(alone).max())


def test_a_row_of_numpy(model, plain):
    """The architecture written out for one sequence, head by head, in float64."""
    tokens = np.array([3, 1, 4, 1, 5])
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), (model.layers, model.embedding, model.norm))
    layers, embedding, norm = arrays

    def normed(x, w):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + SHAPE.epsilon) * w

    def rotated(x):  # neighbouring pairs as complex numbers
        turns = np.arange(5)[:, None] * SHAPE.rope_base ** (-np.arange(0, 4, 2) / 4)
        z = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * turns)
        return np.stack([z.real, z.imag], -1).reshape(5, 4)

    x = embedding[tokens]
    for i in range(3):
        layer = llama.Layer(*(a[i] for a in layers))
        h, out = normed(x, layer.attention_norm), []
        for head in range(6):
            group = head // 3
            q = rotated(h @ layer.query[4 * head : 4 * head + 4].T)
            k = rotated(h @ layer.key[4 * group : 4 * group + 4].T)
            scores = np.where(np.tri(5, dtype=bool), q @ k.T / 2, -np.inf)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out.append(
                weights / weights.sum(1, keepdims=True) @ (h @ layer.value[4 * group : 4 * group + 4].T)
            )
        x = x + np.concatenate(out, 1) @ layer.merge.T
        h = normed(x, layer.feed_norm)
        gate = h @ layer.gate.T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer.up.T)) @ layer.down.T
    exact = normed(x, norm) @ embedding.T
    np.testing.assert_allclose(plain(jnp.asarray(tokens)), exact, atol=1e-5 * np.abs(exact).max())


def test_the_sampler_draws_what_teacher_forcing_says(model, plain, pack):
    """The cached sampler draws from the logits of the plain sequence so far, token by token, for every response."""
    prompt, allowed = jnp.asarray(pack[0]), jnp.arange(3, 40, 2)
    key = jax.random.key(3)
    sample = jax.jit(llama.sample, static_argnums=(5, 6))
    drawn, log_p = sample(key, model, prompt, jnp.int32(FILLING), allowed, R, T)
    rows = [plain(jnp.concatenate([prompt[FILLING:], allowed[row]])) for row in drawn]
    for t, step_key in enumerate(jax.random.split(key, T)):
        scores = jnp.stack([row[P - FILLING - 1 + t, allowed] for row in rows])
        np.testing.assert_array_equal(drawn[:, t], jax.random.categorical(step_key, scores))
        exact = jax.nn.log_softmax(scores)[jnp.arange(R), drawn[:, t]]
        np.testing.assert_allclose(log_p[:, t], exact, atol=1e-5)
    assert len(np.unique(drawn, axis=0)) > 1
