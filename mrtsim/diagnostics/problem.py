"""What is estimated: a loss of a model on prompts, with its exact expectation and the geometry of its gradients.

A per-prompt gradient is J(x)^T g(y), with J the Jacobian of the model's few outputs and g the loss's gradient in them.
So norms, cosines and traces need one small Gram matrix J J^T per prompt, and no gradient is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mrtsim.distributions.quadrature import Rule, panels
from mrtsim.errors import InputError
from mrtsim.losses import Loss
from mrtsim.models import in_float64


class Problem(eqx.Module):
    """What is estimated: a loss of a model on prompts, with its exact expectation over p(y|x). Made by `Problem.of`.

    Attributes:
        true_loss: E[l | x], (prompts,).
        true_gradient: E[dl/do | x] in the model's outputs o (or in the parameters, if not factored), (prompts, O).
        factor: L with L L^T = J J^T, (prompts, O, O): L^T g are coordinates of J^T g in an orthonormal basis. None if
            not factored.
        true_batch: the mean over prompts of the expected gradient, raveled.
        truth_error: numerical error of the true loss and gradient, the largest over prompts.
    """

    distribution: Any
    model: Any
    prompts: Any
    loss: Loss = eqx.field(static=True)
    reward: Callable[[Any, Any], Any] | None = eqx.field(static=True, default=None)
    factored: bool = eqx.field(static=True, default=True)
    outputs: Any = None
    factor: Any = None
    true_loss: Any = None
    true_gradient: Any = None
    true_batch: Any = None
    truth_error: Any = None

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
            distribution: p(y|x), as in `mrtsim.distributions`.
            loss: loss(model, prompts (P, d), responses (P, K)) -> (P, K).
            model: any pytree; its floating-point arrays are the parameters, taken in float64.
            prompts: (P, d).
            reward: reward(prompts, responses) to select by; the distribution's own by default.
            factored: whether the loss uses the model only by calling it on the prompts, and each row of the outputs
                for the losses of that prompt alone. If not (a weight penalty, say), gradients are taken in the
                parameters: a trial then costs prompts x parameters numbers, and `exact` is not available.
            rule: quadrature for the truth where not factored; by default composite, 600 nodes a mode.

        Raises:
            InputError: a factored loss reaches into the model.
        """
        with jax.enable_x64(True):
            model = in_float64(model)
            prompts = jnp.asarray(np.asarray(prompts, np.float64))
            problem = cls(distribution, model, prompts, loss, reward, factored)
            if factored:
                # Filled up, so that problems of any size share a program.
                filled = np.pad(np.asarray(prompts), ((0, -len(prompts) % 64), (0, 0)), mode="edge")
                linearised = _linearised(model, filled)
                outputs, grams = jax.tree.map(lambda a: np.asarray(a)[: len(prompts)], linearised)
                problem = replace(problem, outputs=outputs, factor=_factors(grams))
                try:
                    values = distribution.expectation(partial(_rows_of, problem), prompts)
                except AttributeError as error:
                    raise InputError(
                        f"the loss reaches into the model ({error}): pass factored=False, or let it only call the model"
                    ) from error
                # NumPy's float is an array to JAX; Python's would be static, and every problem its own program.
                truth, error = values.value, np.max(values.error)
            else:
                responses, weights = distribution.quadrature(prompts, rule or panels(75, 8))
                truth, error = np.asarray(_weighted(problem, responses, weights)), np.float64("nan")
            problem = replace(
                problem,
                true_loss=truth[:, 0],
                true_gradient=truth[:, 1:],
                true_batch=np.asarray(batch_gradients(problem, truth[None, :, 1:]))[0],
                truth_error=error,
            )
            # As NumPy: a float64 JAX array that leaves the 64-bit mode degrades silently.
            return jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, problem)

    def rows(self, responses: Float[Array, "prompts q"]) -> Float[Array, "prompts q columns"]:
        """Loss of each response, followed by its gradient in the outputs (or in the parameters, if not factored)."""
        if not self.factored:
            params, unravel, static = _raveled(self.model)

            def of_prompt(x: Array, y: Array) -> Array:
                losses = lambda p: self.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
                return jnp.concatenate([losses(params)[:, None], jax.jacrev(losses)(params)], axis=1)

            return jax.vmap(of_prompt)(jnp.asarray(self.prompts), responses)
        q = responses.shape[1]
        outputs, prompts = jax.tree.map(lambda o: jnp.repeat(o, q, axis=0), (self.outputs, self.prompts))

        def total(outputs: Any) -> tuple[Array, Array]:
            losses = self.loss(lambda _: outputs, prompts, responses.reshape(-1, 1))[:, 0]
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(outputs)
        return jnp.concatenate([losses[:, None], _rows(gradient)], axis=1).reshape(*responses.shape, -1)

    def coordinates(
        self, gradient: Float[Array | np.ndarray, "prompts *k o"]
    ) -> Float[Array, "prompts *k r"]:
        """Gradients in coordinates whose Euclidean norm and inner product are those of the parameters' gradients."""
        if self.factor is None:
            return jnp.asarray(gradient)
        return jnp.einsum("p...o,por->p...r", gradient, self.factor)

    def batch(self, gradient: Float[Array, "prompts o"]) -> Float[Array, " parameters"]:
        """The gradient of the mean over prompts, raveled."""
        if not self.factored:
            return gradient.mean(0)
        params, unravel, static = _raveled(self.model)
        prompts = jnp.asarray(self.prompts)
        _, pull = jax.vjp(lambda p: _rows(eqx.combine(unravel(p), static)(prompts)), params)
        return pull(gradient / len(gradient))[0]


@eqx.filter_jit
def _rows_of(problem: Problem, responses: Array) -> Array:
    return problem.rows(responses)


@eqx.filter_jit
def values_of(problem: Problem, responses: Any) -> tuple[Array, Array, Array]:
    """Losses, gradients in the outputs and in coordinates."""
    rows = problem.rows(responses)
    return rows[..., 0], rows[..., 1:], problem.coordinates(rows[..., 1:])


def _rows(tree: Any) -> Float[Array, "rows o"]:
    """The leaves of a pytree with a common leading axis, side by side."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@eqx.filter_jit
def _weighted(problem: Problem, responses: Array, weights: Array) -> Float[Array, "prompts columns"]:
    """Each prompt's weighted sum of `rows` in the parameters, without the rows."""
    params, unravel, static = _raveled(problem.model)

    def of_prompt(row: tuple[Array, Array, Array]) -> Array:
        x, y, w = row
        loss = lambda p: w @ problem.loss(eqx.combine(unravel(p), static), x[None], y[None])[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        return jnp.concatenate([value[None], gradient])

    return jax.lax.map(of_prompt, (problem.prompts, responses, weights))


def _raveled(model: Any) -> tuple[Array, Callable[[Array], Any], Any]:
    """The raveled parameters, their inverse, and the rest of the model."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return *ravel_pytree(params), static


@eqx.filter_jit
def _linearised(
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
    problem: Problem, gradients: Float[Array | np.ndarray, "n prompts o"]
) -> Float[Array, "n parameters"]:
    """Gradients of the mean over prompts, raveled, from those in the outputs."""
    return jax.lax.map(problem.batch, gradients)


@eqx.filter_jit
def in_parameters(
    problem: Problem, gradients: Float[Array | np.ndarray, "batches settings prompts o"]
) -> tuple[Array, Array, Array]:
    """Coordinates of gradients in the outputs, (batches, settings, prompts, r), and of the true one, (prompts, r).

    And the gradients of the mean over prompts in the parameters, (batches, settings, parameters).
    """
    # Batches stand where kept responses do.
    vectors = jnp.moveaxis(problem.coordinates(jnp.moveaxis(gradients, 2, 0)), 0, 2)
    each = batch_gradients(problem, gradients.reshape(-1, *gradients.shape[2:]))
    return vectors, problem.coordinates(problem.true_gradient), each.reshape(*gradients.shape[:2], -1)


def gradient_cosines(
    loss: Loss, model: Any, prompts: Float[Array, "prompts d"], responses: Float[Array, "prompts n"]
) -> Float[Array, "prompts n n"]:
    """Cosines of the gradients of every two responses to a prompt, without the gradients. Traceable.

    For a loss that uses the model only by calling it (`Problem.of`, `factored`).
    """
    outputs, grams = _linearised(model, prompts)
    gradients = Problem(None, model, prompts, loss, outputs=outputs).rows(responses)[..., 1:]
    products = gradients @ grams @ gradients.mT
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(products, axis1=1, axis2=2), jnp.finfo(products.dtype).tiny))
    return products / (norms[:, :, None] * norms[:, None, :])
