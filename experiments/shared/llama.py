"""A Llama-style decoder over packs: one prompt, and many responses to it that see the prompt and themselves alone.

A pack is a prompt of P tokens, filled up on the left, and R responses of T tokens behind it. So the prompt is computed
once for all of its responses; response token t is predicted from the token before it, which is the prompt's last for
t = 0. Attention keeps heads in front of slots: XLA's products of a batch are several times faster so on a CPU.
Weights are float32, in the layout of GGUF files: GGML's rotary embedding turns neighbouring pairs. Source of the
architecture: Touvron et al. 2023 (arXiv:2302.13971); of grouped queries: Ainslie et al. 2023 (arXiv:2305.13245).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

_HIDDEN = -1e30  # the score of a slot that is not seen; finite, so that slots which see nothing have no NaN


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are SmolLM2-135M's."""

    vocabulary: int = 49_152
    width: int = 576
    hidden: int = 1_536
    depth: int = 30
    heads: int = 9
    key_heads: int = 3
    rope_base: float = 100_000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads


class Layer(NamedTuple):
    """Weights of one layer, (outputs, inputs); of several, with a leading axis."""

    attention_norm: Any
    query: Any
    key: Any
    value: Any
    merge: Any
    feed_norm: Any
    gate: Any
    up: Any
    down: Any


# Layer's fields as a GGUF file names them.
_NAMES = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)


class Llama(eqx.Module):
    """A model: token embeddings (vocabulary, width), which are the output's weights too, and stacked layers."""

    embedding: Float[Array, "vocabulary width"]
    layers: Layer
    norm: Float[Array, " width"]
    shape: Shape = eqx.field(static=True)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], shape: Shape) -> Llama:
        """The model of a GGUF file's tensors."""
        layers = [
            jnp.asarray(np.stack([tensors[f"blk.{i}.{name}.weight"] for i in range(shape.depth)]))
            for name in _NAMES
        ]
        embedding, norm = (jnp.asarray(tensors[f"{n}.weight"]) for n in ("token_embd", "output_norm"))
        return cls(embedding, Layer(*layers), norm, shape)

    @classmethod
    def random(cls, key: PRNGKeyArray, shape: Shape, scale: float = 0.3) -> Llama:
        """A model with normal weights: for tests."""
        sizes = [
            (shape.width,),
            (shape.width, shape.width),
            *[(shape.key_heads * shape.head_width, shape.width)] * 2,
            (shape.width, shape.width),
            (shape.width,),
            *[(shape.hidden, shape.width)] * 2,
            (shape.width, shape.hidden),
        ]
        keys = jax.random.split(key, len(sizes) + 2)
        layers = [
            scale * jax.random.normal(k, (shape.depth, *size)) + (len(size) == 1)
            for k, size in zip(keys, sizes, strict=False)
        ]
        embedding = jax.random.normal(keys[-1], (shape.vocabulary, shape.width))
        norm = 1 + scale * jax.random.normal(keys[-2], (shape.width,))
        return cls(embedding, Layer(*layers), norm, shape)


class Pack(NamedTuple):
    """One value per slot of a prompt and of the responses to it: tokens, or states with a last axis of features."""

    prompt: Any  # (P, ...)
    responses: Any  # (R, T, ...)

    def rows(self) -> Array:
        """All slots one after the other, (P + R T, ...)."""
        return jnp.concatenate([self.prompt, self.responses.reshape(-1, *self.responses.shape[2:])])

    def part(self, asked: tuple[int, int]) -> Pack:
        """The prompt's last slots and every response's first ones, as many as `asked`."""
        return Pack(self.prompt[len(self.prompt) - asked[0] :], self.responses[:, : asked[1]])

    def like(self, rows: Array) -> Pack:
        """A pack of these sizes from one row per slot."""
        size, (n, length) = len(self.prompt), self.responses.shape[:2]
        return Pack(rows[:size], rows[size:].reshape(n, length, *rows.shape[1:]))


def _normed(x: Array, weight: Array, epsilon: float) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * weight


def _rotated(x: Float[Array, "heads slots features"], positions: Array, base: float) -> Array:
    """Neighbouring pairs of features, turned by angles that grow with the position."""
    features = x.shape[-1]
    rates = base ** (-np.arange(0, features, 2) / features)
    angles = positions[:, None] * jnp.asarray(rates, x.dtype)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def _heads(x: Float[Array, "slots width"], weight: Array, features: int) -> Array:
    """Features of each head, (heads, slots, features)."""
    return (x @ weight.T).reshape(len(x), -1, features).transpose(1, 0, 2)


def _keys(layer: Layer, x: Array, positions: Array, shape: Shape) -> tuple[Array, Array]:
    """Keys and values of slots, (key heads, slots, features) each."""
    h = _normed(x, layer.attention_norm, shape.epsilon)
    keys, values = (_heads(h, weight, shape.head_width) for weight in (layer.key, layer.value))
    return _rotated(keys, positions, shape.rope_base), values


def _queries(layer: Layer, x: Array, positions: Array, shape: Shape) -> Array:
    """Queries of slots, scaled, (key heads, heads that share a key, slots, features)."""
    h = _normed(x, layer.attention_norm, shape.epsilon)
    queries = _rotated(_heads(h, layer.query, shape.head_width), positions, shape.rope_base)
    return queries.reshape(shape.key_heads, -1, *queries.shape[1:]) / shape.head_width**0.5


def _finished(layer: Layer, x: Array, mixed: Array, shape: Shape) -> Float[Array, "slots width"]:
    """The layer's output from its input and what attention mixed, (key heads, sharing heads, slots, features)."""
    x = x + mixed.transpose(2, 0, 1, 3).reshape(len(x), -1) @ layer.merge.T
    h = _normed(x, layer.feed_norm, shape.epsilon)
    return x + (jax.nn.silu(h @ layer.gate.T) * (h @ layer.up.T)) @ layer.down.T


def _over_prompt(queries: Array, keys: tuple[Array, Array], seen: Array) -> Array:
    """Attention of a prompt's slots, which see the slots of the keys that `seen` (slots, prompt slots) says."""
    groups, sharing, n, features = queries.shape
    scores = jnp.einsum("gqd,gkd->gqk", queries.reshape(groups, -1, features), keys[0])
    scores = jnp.where(seen, scores.reshape(groups, sharing, n, -1), _HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).reshape(groups, sharing * n, -1)
    return jnp.einsum("gqk,gkd->gqd", weights, keys[1]).reshape(queries.shape)


def _over_both(
    queries: Array, prompt: tuple[Array, Array], own: tuple[Array, Array], start: Array, seen: Array
) -> Array:
    """Attention of responses' slots, which see the whole prompt and of their own response what `seen` says.

    Args:
        queries: (key heads, sharing heads, R Q, features), of Q slots per response.
        prompt: keys and values of the prompt, (key heads, P, features).
        own: keys and values of the responses, (key heads, R, T, features).
        start: how many of the prompt's slots are filling.
        seen: (Q, T).
    """
    groups, sharing, _, features = queries.shape
    n, asked = own[0].shape[1], len(seen)
    apart = queries.reshape(groups, sharing, n, asked, features)
    flat, alone = (groups, sharing * n * asked), (groups, n, sharing * asked)
    scores = jnp.einsum("gqd,gkd->gqk", queries.reshape(*flat, features), prompt[0])
    scores = jnp.where(jnp.arange(scores.shape[-1]) >= start, scores, _HIDDEN)
    scores = scores.reshape(groups, sharing, n, asked, -1)
    inner = jnp.einsum("gnqd,gnkd->gnqk", apart.transpose(0, 2, 1, 3, 4).reshape(*alone, features), own[0])
    inner = jnp.where(seen, inner.reshape(groups, n, sharing, asked, -1), _HIDDEN).transpose(0, 2, 1, 3, 4)
    # One softmax over both kinds of slots, without copying them behind each other.
    top = jnp.maximum(scores.max(-1, keepdims=True, initial=_HIDDEN), inner.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    scores, inner = jnp.exp(scores - top), jnp.exp(inner - top)
    mixed = jnp.einsum("gqk,gkd->gqd", scores.reshape(*flat, -1), prompt[1]).reshape(apart.shape)
    mine = jnp.einsum("gnqk,gnkd->gnqd", inner.transpose(0, 2, 1, 3, 4).reshape(*alone, -1), own[1])
    mixed = mixed + mine.reshape(groups, n, sharing, asked, features).transpose(0, 2, 1, 3, 4)
    total = scores.sum(-1, keepdims=True) + inner.sum(-1, keepdims=True)
    return (mixed / total).reshape(queries.shape)


def _layer(layer: Layer, pack: Pack, start: Array, asked: tuple[int, int], shape: Shape) -> Pack:
    """The layer's output at the prompt's last slots and every response's first ones, as many as `asked`."""
    size, (n, length) = len(pack.prompt), pack.responses.shape[:2]
    order = Pack(np.arange(size), np.broadcast_to(size + np.arange(length), (n, length)))
    wanted, places = pack.part(asked), order.part(asked)
    positions = jnp.maximum(order.rows() - start, 0), jnp.maximum(places.rows() - start, 0)
    k, v = _keys(layer, pack.rows(), positions[0], shape)
    queries = _queries(layer, wanted.rows(), positions[1], shape)
    prompt = k[:, :size], v[:, :size]
    mixed = []
    if asked[0]:
        seen = (order.prompt <= places.prompt[:, None]) & (order.prompt >= start)
        mixed.append(_over_prompt(queries[:, :, : asked[0]], prompt, seen))
    if n * asked[1]:
        own = k[:, size:].reshape(len(k), n, length, -1), v[:, size:].reshape(len(v), n, length, -1)
        seen = jnp.asarray(np.arange(length) <= np.arange(asked[1])[:, None])
        mixed.append(_over_both(queries[:, :, asked[0] :], prompt, own, start, seen))
    return wanted.like(_finished(layer, wanted.rows(), jnp.concatenate(mixed, axis=2), shape))


def through(layers: Layer, pack: Pack, start: Int[Array, ""], shape: Shape) -> Pack:
    """A pack's states behind these layers, at every slot."""
    everything = len(pack.prompt), pack.responses.shape[1]

    def step(pack: Pack, layer: Layer) -> tuple[Pack, None]:
        return _layer(layer, pack, start, everything, shape), None

    return jax.lax.scan(step, pack, layers)[0]


def predicting(
    layers: Layer, norm: Array, pack: Pack, start: Int[Array, ""], shape: Shape
) -> Float[Array, "responses length width"]:
    """Normalised output states that predict the response tokens.

    The last layer answers only where a token is predicted, which of one layer is nearly all of the cost.
    """
    pack = through(jax.tree.map(lambda a: a[:-1], layers), pack, start, shape)
    last = jax.tree.map(lambda a: a[-1], layers)
    n, length = pack.responses.shape[:2]
    end, rest = _layer(last, pack, start, (1, length - 1), shape)
    states = jnp.concatenate([jnp.broadcast_to(end, (n, *end.shape)), rest], axis=1)
    return _normed(states, norm, shape.epsilon)


def logits(model: Llama, tokens: Int[Array, " tokens"]) -> Float[Array, "tokens vocabulary"]:
    """Logits of the next token after each of a plain sequence."""
    pack = Pack(model.embedding[tokens], jnp.zeros((0, 0, model.shape.width), model.embedding.dtype))
    x = through(model.layers, pack, jnp.int32(0), model.shape).prompt
    return _normed(x, model.norm, model.shape.epsilon) @ model.embedding.T


def sample(
    key: PRNGKeyArray,
    model: Llama,
    prompt: Int[Array, " prompt"],
    start: Int[Array, ""],
    allowed: Int[Array, " allowed"],
    responses: int,
    length: int,
) -> tuple[Int[Array, "responses length"], Float[Array, "responses length"]]:
    """Independent responses at temperature 1, drawn from the allowed tokens.

    Args:
        key: of the draws.
        model: which draws.
        prompt: its tokens, filled up on the left.
        start: how many slots are filling.
        allowed: the tokens that may be drawn, in any order.
        responses: R.
        length: T; what follows an end mark is to be ignored.

    Returns:
        Tokens as numbers in `allowed`, and their log-probabilities among the allowed tokens.
    """
    shape, size, (head, n) = model.shape, len(prompt), (model.embedding[allowed], responses)
    places = jnp.arange(size)
    positions, seen = jnp.maximum(places - start, 0), (places <= places[:, None]) & (places >= start)

    def read_prompt(x: Array, layer: Layer) -> tuple[Array, tuple[Array, Array]]:
        keys = _keys(layer, x, positions, shape)
        return _finished(
            layer, x, _over_prompt(_queries(layer, x, positions, shape), keys, seen), shape
        ), keys

    x, of_prompt = jax.lax.scan(read_prompt, model.embedding[prompt], model.layers)
    behind = jnp.broadcast_to(x[-1], (n, shape.width))
    empty = jnp.zeros((shape.depth, shape.key_heads, n, length, shape.head_width), x.dtype)

    def draw(key: PRNGKeyArray, x: Array) -> tuple[Array, Array]:
        scores = jax.nn.log_softmax(_normed(x, model.norm, shape.epsilon) @ head.T, axis=-1)
        tokens = jax.random.categorical(key, scores)
        return tokens, jnp.take_along_axis(scores, tokens[:, None], axis=-1)[:, 0]

    def step(carry: Any, xs: Any) -> tuple[Any, tuple[Array, Array]]:
        (tokens, log_p), own = carry
        t, key = xs
        here, sees = jnp.broadcast_to(size - start + t, (n,)), (jnp.arange(length) <= t)[None]

        def read(x: Array, parts: Any) -> tuple[Array, tuple[Array, Array]]:
            layer, keys, own = parts
            new = _keys(layer, x, here, shape)
            own = jax.tree.map(
                lambda old, added: jax.lax.dynamic_update_slice_in_dim(old, added[:, :, None], t, axis=2),
                own,
                new,
            )
            mixed = _over_both(_queries(layer, x, here, shape), keys, own, start, sees)
            return _finished(layer, x, mixed, shape), own

        x, own = jax.lax.scan(read, model.embedding[allowed[tokens]], (model.layers, of_prompt, own))
        return (draw(key, x), own), (tokens, log_p)

    first_key, *_ = keys = jax.random.split(key, length)
    (last, _), drawn = jax.lax.scan(
        step, (draw(first_key, behind), (empty, empty)), (jnp.arange(length - 1), keys[1:])
    )
    return jax.tree.map(lambda some, end: jnp.concatenate([some, end[None]]).T, drawn, last)
