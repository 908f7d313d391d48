"""Networks that learn p(y|x), with the paper's initialisation: weights and biases uniform in +-1/sqrt(fan_in)."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

Tree = TypeVar("Tree", bound=PyTree)


@eqx.filter_jit  # one program, where a model is made outside of one
def initialise(template: Tree, key: PRNGKeyArray) -> Tree:
    """Fill the arrays of a tree of `eqx.nn.Linear` layers with uniform draws in +-1/sqrt(fan_in), as PyTorch does.

    All layers share one flat draw, since every `jax.random` call inside a compiled program costs it 0.3 s.
    """

    def is_layer(node: PyTree) -> bool:
        return isinstance(node, eqx.nn.Linear)

    nodes, structure = jax.tree.flatten(template, is_leaf=is_layer)
    sizes = [leaf.size for node in nodes if is_layer(node) for leaf in jax.tree.leaves(node)]
    flat = jax.random.uniform(key, (sum(sizes),), minval=-1.0, maxval=1.0)
    pieces = iter(jnp.split(flat, np.cumsum(sizes)[:-1]))

    def fill(layer: eqx.nn.Linear) -> eqx.nn.Linear:
        bound = 1 / np.sqrt(layer.in_features)
        return jax.tree.map(lambda leaf: bound * next(pieces).reshape(leaf.shape), layer)

    return jax.tree.unflatten(structure, [fill(node) if is_layer(node) else node for node in nodes])


def in_float64(model: Tree) -> Tree:
    """The model with its floating-point arrays as NumPy's float64: use it in `jax.enable_x64(True)`."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if eqx.is_inexact_array(a) else a, model)


class MLP(eqx.Module):
    """ReLU network from prompts to one number; the paper's E1 uses 5-32-32-1."""

    network: eqx.nn.MLP

    def __init__(self, key: PRNGKeyArray, in_size: int = 5, width: int = 32, depth: int = 2):
        template = eqx.filter_eval_shape(
            lambda key: eqx.nn.MLP(in_size, "scalar", width, depth, jax.nn.relu, key=key), key
        )
        self.network = initialise(template, key)

    def __call__(self, prompts: Float[Array, "prompts d"]) -> Float[Array, " prompts"]:
        return jax.vmap(self.network)(prompts)


class Mixture(NamedTuple):
    """Parameters of a Gaussian mixture, one row per prompt; components on the last axis."""

    log_weights: Float[Array, "*prompts components"]
    means: Float[Array, "*prompts components"]
    log_scales: Float[Array, "*prompts components"]


class MDN(eqx.Module):
    """Mixture density network of the paper: 5-64-64 ReLU trunk, three linear heads for 5 Gaussians.

    The heads (softmax weights, means, log-scales clipped to [-3, 3]) are one layer cut in three.
    """

    network: eqx.nn.MLP

    def __init__(
        self, key: PRNGKeyArray, in_size: int = 5, width: int = 64, depth: int = 2, components: int = 5
    ):
        template = eqx.filter_eval_shape(
            lambda key: eqx.nn.MLP(in_size, 3 * components, width, depth, jax.nn.relu, key=key), key
        )
        self.network = initialise(template, key)

    def __call__(self, prompts: Float[Array, "prompts d"]) -> Mixture:
        logits, means, log_scales = jnp.split(jax.vmap(self.network)(prompts), 3, axis=-1)
        return Mixture(jax.nn.log_softmax(logits), means, jnp.clip(log_scales, -3.0, 3.0))
