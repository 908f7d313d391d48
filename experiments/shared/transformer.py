"""A small causal transformer over sequences of tokens: the learner of E7."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mrtsim.errors import InputError
from mrtsim.models import initialise

Drop = Callable[[Array], Array]


def keep_masks(
    key: PRNGKeyArray, drop_rate: float, shapes: Sequence[tuple[int, ...]]
) -> list[Bool[Array, ...]]:
    """One mask a shape, each entry False (dropped) with probability `drop_rate`, all from one flat draw.

    A decision takes 16 bits, so `drop_rate` must be a multiple of 2^-16, and both words of every Threefry block are
    used: four decisions a block, where `jax.random.bernoulli` makes one. The key must be a Threefry key (the default).
    """
    sizes = [math.prod(shape) for shape in shapes]
    blocks = -(-sum(sizes) // 4)
    words = threefry_2x32(jax.random.key_data(key), jnp.arange(2 * blocks, dtype=jnp.uint32))
    keep = jnp.concatenate([words & 0xFFFF, words >> 16]) >= round(drop_rate * 2**16)
    pieces = jnp.split(keep, np.cumsum(sizes))[:-1]
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


class TransformerLayer(eqx.Module):
    """Post-norm layer, as PyTorch's `nn.TransformerEncoderLayer` with GELU: attention, then two dense layers.

    Dropout is where PyTorch has it: on the attention weights, on what attention adds, after the GELU, and on what the
    dense layers add.
    """

    heads: int = eqx.field(static=True)
    project: eqx.nn.Linear  # queries, keys and values in one product
    merge: eqx.nn.Linear
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]

    def __call__(
        self, rows: Float[Array, "rows width"], length: int, drop: Drop
    ) -> Float[Array, "rows width"]:
        """Rows are the positions of all sequences, one sequence of `length` after another."""
        attended = drop(jax.vmap(self.merge)(self._attend(rows, length, drop)))
        rows = jax.vmap(self.norms[0])(rows + attended)
        hidden = drop(jax.nn.gelu(jax.vmap(self.widen)(rows), approximate=False))
        return jax.vmap(self.norms[1])(rows + drop(jax.vmap(self.narrow)(hidden)))

    def _attend(
        self, rows: Float[Array, "rows width"], length: int, drop: Drop
    ) -> Float[Array, "rows width"]:
        # `jax.nn.dot_product_attention` has no dropout, and its softmax is float32 even for float64 inputs.
        size = rows.shape[1] // self.heads
        projected = jax.vmap(self.project)(rows).reshape(-1, length, 3, self.heads, size)
        queries, keys, values = (projected[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / math.sqrt(size)
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        return jnp.einsum("bhqk,bkhd->bqhd", drop(jax.nn.softmax(scores)), values).reshape(rows.shape)


class Transformer(eqx.Module):
    """Decoder-only language model: token and learned position embeddings, post-norm layers, a linear head.

    The defaults are the learner of arXiv:2606.00544's token experiment, for its vocabulary of 199 tokens and sequences
    of at most 11 inputs. Weights start as in PyTorch: embeddings and positions N(0, 1); the joint projection to
    queries, keys and values Xavier-uniform (+-sqrt(6 / (4 width))) with zero biases, as is the bias after attention;
    every other weight and bias uniform in +-1/sqrt(fan_in); norms 1 and 0. Layers start from independent draws.

    Args:
        key: random key of the weights.
        vocabulary: number of tokens.
        length: most positions of an input.
        width: features of a position, a multiple of `heads`.
        heads: attention heads.
        depth: layers.
        hidden: features between a layer's two dense maps.
        dropout: rate while training, in [0, 1); rounded to a multiple of 2^-16 (0.1 to 0.1000061).

    Raises:
        InputError: `width` is not a multiple of `heads`, or `dropout` is out of range.
    """

    tokens: Float[Array, "vocabulary width"]
    positions: Float[Array, "length width"]
    layers: tuple[TransformerLayer, ...]
    head: eqx.nn.Linear
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        key: PRNGKeyArray,
        vocabulary: int = 199,
        length: int = 11,
        width: int = 64,
        heads: int = 4,
        depth: int = 2,
        hidden: int = 128,
        dropout: float = 0.1,
    ):
        if width % heads:
            raise InputError(f"width = {width} must be a multiple of heads = {heads}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout = {dropout} must be at least 0 and below 1")
        embedding_key, linear_key = jax.random.split(key)
        embeddings = jax.random.normal(embedding_key, (vocabulary + length, width))
        self.tokens, self.positions = jnp.split(embeddings, [vocabulary])
        sizes = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)] * depth
        sizes.append((width, vocabulary))
        template = eqx.filter_eval_shape(
            lambda key: [eqx.nn.Linear(*size, key=key) for size in sizes], linear_key
        )
        *linears, self.head = initialise(template, linear_key)
        self.layers = tuple(
            TransformerLayer(heads, *_attention_start(project, merge), widen, narrow, _norms(width))
            for project, merge, widen, narrow in zip(*(linears[i::4] for i in range(4)), strict=True)
        )
        self.dropout = round(dropout * 2**16) / 2**16

    def __call__(
        self, tokens: Int[Array, "sequences positions"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "sequences positions vocabulary"]:
        """Logits of the next token after each position; with a key, under dropout."""
        count, length = tokens.shape
        drop = self._dropout(key, count, length) if key is not None and self.dropout else _keep_all
        # Two-dimensional throughout: XLA's CPU products are a fifth slower over (sequences, positions, width).
        rows = self.tokens[tokens.reshape(-1)] + jnp.tile(self.positions[:length], (count, 1))
        for layer in self.layers:
            rows = layer(rows, length, drop)
        return jax.vmap(self.head)(rows).reshape(count, length, -1)

    def _dropout(self, key: PRNGKeyArray, count: int, length: int) -> Drop:
        """Drops from the arrays in the order in which the layers ask."""
        shapes: list[tuple[int, ...]] = []
        for layer in self.layers:
            added = (count * length, self.head.in_features)
            inner = (count * length, layer.widen.out_features)
            shapes += [(count, layer.heads, length, length), added, inner, added]
        masks = iter(keep_masks(key, self.dropout, shapes))
        return lambda a: jnp.where(next(masks), a / (1 - self.dropout), 0)


def _keep_all(array: Array) -> Array:
    return array


def _attention_start(project: eqx.nn.Linear, merge: eqx.nn.Linear) -> tuple[eqx.nn.Linear, eqx.nn.Linear]:
    """Xavier-uniform projections with zero biases, from draws in +-1/sqrt(width): sqrt(6 / (4 width)) is the bound."""
    weight = math.sqrt(1.5) * project.weight
    project = eqx.tree_at(lambda p: [p.weight, p.bias], project, [weight, jnp.zeros(len(weight))])
    return project, eqx.tree_at(lambda m: m.bias, merge, jnp.zeros(merge.out_features))


def _norms(width: int) -> tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]:
    return eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)


def next_token_nll(
    model: Transformer, sequences: Int[Array, "sequences tokens"], key: PRNGKeyArray | None = None
) -> Float[Array, "sequences tokens-1"]:
    """Negative log-likelihood in nats of every token but the first, given those before; with a key, under dropout."""
    logits = model(sequences[:, :-1], key)
    chosen = jnp.take_along_axis(logits, sequences[:, 1:, None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
