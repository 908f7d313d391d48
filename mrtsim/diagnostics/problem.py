"""What is estimated: a loss of a model on prompts, its exact expectation, and the geometry of its gradients.

A per-prompt gradient is J(x)^T g(y), with J the Jacobian of the model's few outputs and g the loss's gradient in them.
So norms, cosines and traces need one small Gram matrix J J^T per prompt, and no gradient is ever stored
(`LinearisedModel`). A loss that reaches into the model has its gradients taken in the parameters (`WholeModel`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mrtsim.distributions.protocol import Distribution, WithQuadrature, require
from mrtsim.distributions.quadrature import Rule, panels
from mrtsim.errors import InputError
from mrtsim.losses import Loss
from mrtsim.models import in_float64


class LossReachesIntoModelError(InputError, AttributeError):
    """A loss that was said to use the model only by calling it asks it for an attribute."""


class _OutputsOnly:
    """Stands for a model of which nothing is known but its outputs."""

    def __init__(self, outputs: Any):
        self._outputs = outputs

    def __call__(self, prompts: Any) -> Any:
        return self._outputs

    def __getattr__(self, name: str) -> Any:
        raise LossReachesIntoModelError(
            f"the loss reaches into the model (for {name!r}): pass factored=False, or let it only call the model"
        )


class LinearisedModel(eqx.Module):
    """A model at its prompts, for losses that use it only by calling it. Gradients are in its outputs.

    Attributes:
        outputs: of the model, a pytree with leading axis prompts.
        factor: L with L L^T = J J^T, (prompts, O, O): L^T g are coordinates of J^T g in an orthonormal basis. None
            where only `rows` is wanted.
    """

    model: Any
    prompts: Any
    loss: Loss = eqx.field(static=True)
    outputs: Any
    factor: Any = None

    @classmethod
    def of(cls, loss: Loss, model: Any, prompts: Any) -> LinearisedModel:
        """Linearise a model at prompts (P, d).

        Args:
            loss: loss(model, prompts (P, d), responses (P, K)) -> (P, K), which uses the model only by calling it.
            model: any pytree; its floating-point arrays are the parameters.
            prompts: (P, d).
        """
        # Filled up, so that problems of any size share a program.
        filled = np.pad(np.asarray(prompts), ((0, -len(prompts) % 64), (0, 0)), mode="edge")
        linearised = _outputs_and_grams(model, filled)
        outputs, grams = jax.tree.map(lambda a: np.asarray(a)[: len(prompts)], linearised)
        return cls(model, prompts, loss, outputs, _factors(grams))

    def rows(self, responses: Float[Array, "prompts q"]) -> Float[Array, "prompts q columns"]:
        """Loss of each response, followed by its gradient in the outputs."""
        q = responses.shape[1]
        outputs, prompts = jax.tree.map(lambda o: jnp.repeat(o, q, axis=0), (self.outputs, self.prompts))

        def total(outputs: Any) -> tuple[Array, Array]:
            losses = self.loss(_OutputsOnly(outputs), prompts, responses.reshape(-1, 1))[:, 0]
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(outputs)
        return jnp.concatenate([losses[:, None], _rows(gradient)], axis=1).reshape(*responses.shape, -1)

    def coordinates(
        self, gradient: Float[Array | np.ndarray, "prompts *k o"]
    ) -> Float[Array, "prompts *k r"]:
        """Gradients in coordinates whose Euclidean norm and inner product are those of the parameters' gradients."""
        return jnp.einsum("p...o,por->p...r", gradient, self.factor)

    def batch(self, gradient: Float[Array, "prompts o"]) -> Float[Array, " parameters"]:
        """The gradient in the parameters of the mean over prompts, raveled."""
        params, unravel, static = _raveled(self.model)
        prompts = jnp.asarray(self.prompts)
        _, pull = jax.vjp(lambda p: _rows(eqx.combine(unravel(p), static)(prompts)), params)
        return pull(gradient / len(gradient))[0]


class WholeModel(eqx.Module):
    """A model at its prompts, for losses that reach into it. Gradients are in its parameters, raveled."""

    model: Any
    prompts: Any
    loss: Loss = eqx.field(static=True)

    def rows(self, responses: Float[Array, "prompts q"]) -> Float[Array, "prompts q columns"]:
        """Loss of each response, followed by its gradient in the parameters."""
        params, unravel, static = _raveled(self.model)

        def of_prompt(x: Array, y: Array) -> Array:
            losses = lambda p: self.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
            return jnp.concatenate([losses(params)[:, None], jax.jacrev(losses)(params)], axis=1)

        return jax.vmap(of_prompt)(jnp.asarray(self.prompts), responses)

    def coordinates(
        self, gradient: Float[Array | np.ndarray, "prompts *k o"]
    ) -> Float[Array, "prompts *k r"]:
        """The gradients themselves."""
        return jnp.asarray(gradient)

    def batch(self, gradient: Float[Array, "prompts o"]) -> Float[Array, " parameters"]:
        """The gradient of the mean over prompts."""
        return gradient.mean(0)


class Problem(eqx.Module):
    """What is estimated: a loss of a model on prompts, with its exact expectation over p(y|x). Made by `Problem.of`.

    Attributes:
        distribution: p(y|x).
        gradients: the model at the prompts: losses and gradients of responses.
        reward: reward(prompts, responses) to select by; the distribution's own where None.
        true_loss: E[l | x], (prompts,).
        true_gradient: E[dl/do | x] in the model's outputs o (or in the parameters, if not factored), (prompts, O).
        true_batch: the mean over prompts of the expected gradient, raveled.
        truth_error: numerical error of the true loss and gradient, the largest over prompts; NaN if not factored.
    """

    distribution: Any
    gradients: LinearisedModel | WholeModel
    reward: Callable[[Any, Any], Any] | None = eqx.field(static=True)
    true_loss: Any
    true_gradient: Any
    true_batch: Any
    truth_error: Any

    @property
    def model(self) -> Any:
        """The model, in float64."""
        return self.gradients.model

    @property
    def prompts(self) -> Any:
        """The prompts, (prompts, d)."""
        return self.gradients.prompts

    @classmethod
    def of(
        cls,
        distribution: Any,
        loss: Loss,
        model: Any,
        prompts: Any,
        *,
        reward: Callable[[Any, Any], Any] | None = None,
        factored: bool = True,
        rule: Rule | None = None,
    ) -> Problem:
        """Pose a problem: compute the truth and the per-prompt Gram matrices.

        Args:
            distribution: p(y|x), a `mrtsim.distributions.protocol.Distribution`; `WithQuadrature` if not factored.
            loss: loss(model, prompts (P, d), responses (P, K)) -> (P, K).
            model: any pytree; its floating-point arrays are the parameters, taken in float64.
            prompts: (P, d).
            reward: reward(prompts, responses) to select by; the distribution's own by default.
            factored: whether the loss uses the model only by calling it on the prompts, and each row of the outputs
                for the losses of that prompt alone. If not (a weight penalty, say), gradients are taken in the
                parameters: a trial then costs prompts x parameters numbers, and `exact` is not available.
            rule: quadrature for the truth where not factored; by default composite, 600 nodes per mode.

        Raises:
            InputError: the distribution lacks a method, or a factored loss reaches into the model.
        """
        require(distribution, Distribution, "Problem.of")
        with jax.enable_x64(True):
            model = in_float64(model)
            prompts = jnp.asarray(np.asarray(prompts, np.float64))
            if factored:
                gradients = LinearisedModel.of(loss, model, prompts)
                values = distribution.expectation(lambda y: _rows_of(gradients, y), prompts)
                # NumPy's float is an array to JAX; Python's would be static, and every problem its own program.
                truth, error = values.value, np.max(values.error)
            else:
                require(distribution, WithQuadrature, "a problem that is not factored")
                gradients = WholeModel(model, prompts, loss)
                responses, weights = distribution.quadrature(prompts, rule or panels(75, 8))
                truth, error = np.asarray(_weighted(gradients, responses, weights)), np.float64("nan")
            batch = np.asarray(batch_gradients(gradients, truth[None, :, 1:]))[0]
            problem = cls(distribution, gradients, reward, truth[:, 0], truth[:, 1:], batch, error)
            # As NumPy: a float64 JAX array that leaves the 64-bit mode degrades silently.
            return jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, problem)


def gradient_cosines(
    loss: Loss, model: Any, prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts n"]
) -> Float[Array, "prompts n n"]:
    """Cosines of the gradients of every two responses to a prompt, without the gradients. Traceable.

    For a loss that uses the model only by calling it (`Problem.of`, `factored`).

    Args:
        loss: loss(model, prompts, responses) -> (prompts, n).
        model: any pytree; its floating-point arrays are the parameters.
        prompts: (prompts, d).
        responses: (prompts, n).
    """
    outputs, grams = _outputs_and_grams(model, prompts)
    gradients = LinearisedModel(model, prompts, loss, outputs).rows(responses)[..., 1:]
    products = gradients @ grams @ gradients.mT
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products, axis1=1, axis2=2), jnp.finfo(products.dtype).tiny))
    return products / (norms[:, :, None] * norms[:, None, :])


@eqx.filter_jit
def _rows_of(gradients: LinearisedModel, responses: Array) -> Array:
    return gradients.rows(responses)


@eqx.filter_jit
def values_of(gradients: LinearisedModel, responses: Any) -> tuple[Array, Array, Array]:
    """Losses, gradients in the outputs and in coordinates."""
    rows = gradients.rows(responses)
    return rows[..., 0], rows[..., 1:], gradients.coordinates(rows[..., 1:])


def _rows(tree: Any) -> Float[Array, "rows o"]:
    """The leaves of a pytree with a common leading axis, concatenated along the second."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@eqx.filter_jit
def _weighted(gradients: WholeModel, responses: Array, weights: Array) -> Float[Array, "prompts columns"]:
    """Each prompt's weighted sum of `rows` in the parameters, without the rows."""
    params, unravel, static = _raveled(gradients.model)

    def of_prompt(row: tuple[Array, Array, Array]) -> Array:
        x, y, w = row
        loss = lambda p: w @ gradients.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        return jnp.concatenate([value[None], gradient])

    return jax.lax.map(of_prompt, (gradients.prompts, responses, weights))


def _raveled(model: Any) -> tuple[Array, Callable[[Array], Any], Any]:
    """The raveled parameters, their inverse, and the rest of the model."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return *ravel_pytree(params), static


@eqx.filter_jit
def _outputs_and_grams(
    model: Any, prompts: Float[Array | np.ndarray, "prompts d"]
) -> tuple[Any, Float[Array, "prompts o o"]]:
    """The model's outputs, and J J^T of each prompt's Jacobian J (outputs x parameters)."""
    params, unravel, static = _raveled(model)

    def gram(prompt: Float[Array, " d"]) -> Float[Array, "o o"]:
        jacobian = jax.jacrev(lambda p: _rows(eqx.combine(unravel(p), static)(prompt[None]))[0])(params)
        return jacobian @ jacobian.T

    # So few Jacobians at a time stay in the cache; chunks of one size, since `batch_size` would compile the rest again.
    filled = jnp.pad(prompts, ((0, -len(prompts) % 4), (0, 0)), mode="edge")
    grams = jax.lax.map(jax.vmap(gram), filled.reshape(-1, 4, prompts.shape[-1]))
    return model(prompts), grams.reshape(-1, *grams.shape[2:])[: len(prompts)]


def _factors(grams: Float[np.ndarray, "prompts o o"]) -> Float[np.ndarray, "prompts o o"]:
    """L with L L^T = J J^T. In NumPy: XLA's own eigensolver hangs when two threads run it at once on CPU."""
    values, vectors = np.linalg.eigh(grams)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]


@eqx.filter_jit
def batch_gradients(
    gradients: LinearisedModel | WholeModel, each: Float[Array | np.ndarray, "n prompts o"]
) -> Float[Array, "n parameters"]:
    """n gradients of the mean over prompts, raveled, from those in the outputs."""
    return jax.lax.map(gradients.batch, each)


@eqx.filter_jit
def in_parameters(
    problem: Problem, gradients: Float[Array | np.ndarray, "batches settings prompts o"]
) -> tuple[Array, Array, Array]:
    """Coordinates of gradients in the outputs, (batches, settings, prompts, r), and of the true one, (prompts, r).

    And the gradients of the mean over prompts in the parameters, (batches, settings, parameters).
    """
    # Batches stand where kept responses do.
    vectors = jnp.moveaxis(problem.gradients.coordinates(jnp.moveaxis(gradients, 2, 0)), 0, 2)
    each = batch_gradients(problem.gradients, gradients.reshape(-1, *gradients.shape[2:]))
    return (
        vectors,
        problem.gradients.coordinates(problem.true_gradient),
        each.reshape(*gradients.shape[:2], -1),
    )
