"""A Llama-style decoder over packs: one prompt, and many responses to it that see the prompt and themselves alone.

A pack is a prompt of P tokens, filled up on the left, and R responses of T tokens behind it, in P + R T slots. So the
prompt is computed once for all of its responses; response token t is predicted from the slot before it, which is the
prompt's last for t = 0. Weights are float32, in the layout of GGUF files: GGML's rotary embedding turns neighbouring
pairs. Source of the architecture: Touvron et al. 2023 (arXiv:2302.13971); of grouped queries: Ainslie et al. 2023
(arXiv:2305.13245).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

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


class Slots(NamedTuple):
    """Where a pack's tokens stand: `response` is -1 for the prompt's.

    `order` counts from the first slot, filled or not, as if a slot's response were alone with the prompt.
    """

    response: Int[np.ndarray, " slots"]
    order: Int[np.ndarray, " slots"]

    def positions(self, start: Int[Array, ""]) -> Int[Array, " slots"]:
        """Positions where the prompt's first `start` slots are filling."""
        return jnp.maximum(self.order - start, 0)

    def visible(self, start: Int[Array, ""], queries: np.ndarray) -> Bool[Array, "queries slots"]:
        """Which slots these slots see: the prompt, and earlier tokens of the same response."""
        ours = (self.response == -1) | (self.response == self.response[queries, None])
        return jnp.asarray(ours & (self.order <= self.order[queries, None])) & (self.order >= start)


def slots(prompt: int, responses: int, length: int) -> Slots:
    """The slots of a pack: the prompt, then response after response."""
    which = np.concatenate([np.full(prompt, -1), np.repeat(np.arange(responses), length)])
    index = np.concatenate([np.arange(prompt), np.tile(prompt + np.arange(length), responses)])
    return Slots(which, index)


def before(prompt: int, responses: int, length: int) -> Int[np.ndarray, " rows"]:
    """The slot before each response token, responses one after the other: what it is predicted from."""
    first = prompt + np.arange(responses)[:, None] * length + np.arange(length) - 1
    first[:, 0] = prompt - 1
    return first.reshape(-1)


def _normed(x: Array, weight: Array, epsilon: float) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * weight


def _rotated(x: Float[Array, "slots heads features"], positions: Array, base: float) -> Array:
    """Neighbouring pairs of features, turned by angles that grow with the position."""
    features = x.shape[-1]
    rates = base ** (-np.arange(0, features, 2) / features)
    angles = positions[:, None, None] * jnp.asarray(rates, x.dtype)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def _keys(layer: Layer, x: Array, positions: Array, shape: Shape) -> tuple[Array, Array]:
    """Keys and values of slots, (slots, key heads, features) each."""
    h = _normed(x, layer.attention_norm, shape.epsilon)
    k = (h @ layer.key.T).reshape(-1, shape.key_heads, shape.head_width)
    v = (h @ layer.value.T).reshape(-1, shape.key_heads, shape.head_width)
    return _rotated(k, positions, shape.rope_base), v


def _attended(
    layer: Layer, x: Array, positions: Array, keys: tuple[Array, Array], seen: Array, shape: Shape
) -> Float[Array, "queries width"]:
    """The layer's output at the slots of x, which see the slots of the keys that `seen` (queries, slots) says."""
    k, v = keys
    h = _normed(x, layer.attention_norm, shape.epsilon)
    q = _rotated((h @ layer.query.T).reshape(-1, shape.heads, shape.head_width), positions, shape.rope_base)
    q = q.reshape(len(x), shape.key_heads, -1, shape.head_width)
    scores = jnp.einsum("qgsd,kgd->gsqk", q, k) / shape.head_width**0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, _HIDDEN), axis=-1)
    mixed = jnp.einsum("gsqk,kgd->qgsd", weights, v).reshape(len(x), -1)
    x = x + mixed @ layer.merge.T
    h = _normed(x, layer.feed_norm, shape.epsilon)
    return x + (jax.nn.silu(h @ layer.gate.T) * (h @ layer.up.T)) @ layer.down.T


def through(
    layers: Layer, x: Float[Array, "slots width"], start: Int[Array, ""], places: Slots, shape: Shape
) -> Float[Array, "slots width"]:
    """A pack's states behind these layers, at every slot."""
    everywhere = np.arange(len(places.order))
    positions, seen = places.positions(start), places.visible(start, everywhere)

    def step(x: Array, layer: Layer) -> tuple[Array, None]:
        return _attended(layer, x, positions, _keys(layer, x, positions, shape), seen, shape), None

    return jax.lax.scan(step, x, layers)[0]


def predicting(
    layers: Layer,
    norm: Array,
    x: Float[Array, "slots width"],
    start: Int[Array, ""],
    sizes: tuple[int, int, int],
    shape: Shape,
) -> Float[Array, "responses length width"]:
    """Normalised output states that predict the response tokens; `sizes` of the pack: P, R, T.

    The last layer answers only where a token is predicted, which of one layer is nearly all of the cost.
    """
    places, queries = slots(*sizes), before(*sizes)
    x = through(jax.tree.map(lambda a: a[:-1], layers), x, start, places, shape)
    last = jax.tree.map(lambda a: a[-1], layers)
    positions = places.positions(start)
    keys = _keys(last, x, positions, shape)
    out = _attended(last, x[queries], positions[queries], keys, places.visible(start, queries), shape)
    return _normed(out, norm, shape.epsilon).reshape(sizes[1], sizes[2], -1)


def logits(model: Llama, tokens: Int[Array, " tokens"]) -> Float[Array, "tokens vocabulary"]:
    """Logits of the next token after each of a plain sequence."""
    x = through(model.layers, model.embedding[tokens], jnp.int32(0), slots(len(tokens), 0, 1), model.shape)
    return _normed(x, model.norm, model.shape.epsilon) @ model.embedding.T


def sample(
    key: PRNGKeyArray,
    model: Llama,
    prompt: Int[Array, " prompt"],
    start: Int[Array, ""],
    allowed: Int[Array, " allowed"],
    responses: int,
    length: int,
) -> Int[Array, "responses length"]:
    """Independent responses at temperature 1, drawn from the allowed tokens, as numbers in `allowed`.

    Args:
        key: of the draws.
        model: which draws.
        prompt: its tokens, filled up on the left.
        start: how many slots are filling.
        allowed: the tokens that may be drawn, in any order.
        responses: R.
        length: T; what follows an end mark is to be ignored.

    Returns:
        Numbers in `allowed`.
    """
    shape, size, (head, n) = model.shape, len(prompt), (model.embedding[allowed], responses)
    # Token t of response r stands in slot P + t R + r, so that a step writes neighbours.
    places = slots(size, n, length)
    order = np.concatenate([np.arange(size), size + np.arange(n * length).reshape(n, length).T.reshape(-1)])
    places = Slots(places.response[order], places.order[order])
    positions = places.positions(start)
    seen_by_prompt = places.visible(start, np.arange(size))[:, :size]

    def read_prompt(x: Array, layer: Layer) -> tuple[Array, tuple[Array, Array]]:
        keys = _keys(layer, x, positions[:size], shape)
        room = [(0, n * length), (0, 0), (0, 0)]
        x = _attended(layer, x, positions[:size], keys, seen_by_prompt, shape)
        return x, (jnp.pad(keys[0], room), jnp.pad(keys[1], room))

    x, cache = jax.lax.scan(read_prompt, model.embedding[prompt], model.layers)
    behind = jnp.broadcast_to(x[-1], (n, shape.width))

    def draw(key: PRNGKeyArray, x: Array) -> Array:
        return jax.random.categorical(key, _normed(x, model.norm, shape.epsilon) @ head.T)

    visible = jnp.asarray(places.visible(start, size + np.arange(n * length))).reshape(length, n, -1)

    def step(carry: Any, xs: Any) -> tuple[Any, Array]:
        tokens, cache = carry
        t, key, seen = xs
        at = size + t * n
        here = jnp.broadcast_to(size - start + t, (n,))

        def read(x: Array, layer_and_cache: Any) -> tuple[Array, Any]:
            layer, (k, v) = layer_and_cache
            new_k, new_v = _keys(layer, x, here, shape)
            k = jax.lax.dynamic_update_slice(k, new_k, (at, 0, 0))
            v = jax.lax.dynamic_update_slice(v, new_v, (at, 0, 0))
            return _attended(layer, x, here, (k, v), seen, shape), (k, v)

        x, cache = jax.lax.scan(read, model.embedding[allowed[tokens]], (model.layers, cache))
        return (draw(key, x), cache), tokens

    first_key, *_ = keys = jax.random.split(key, length)
    tokens = draw(first_key, behind)
    (last, _), drawn = jax.lax.scan(
        step, (tokens, cache), (jnp.arange(length - 1), keys[1:], visible[: length - 1])
    )
    return jnp.concatenate([drawn, last[None]]).T
