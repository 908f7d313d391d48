"""Training of one learner: full-batch or minibatch steps in a scan, pure, and small enough to vmap.

A batch of independent runs (replicates, seeds, strategies, budgets) is `jax.vmap` of a function that calls `fit`; on
many cores or devices, `mrtsim.montecarlo.replicate` of it. A single run's loss after hundreds of steps is not
reproducible across programs, because training amplifies rounding; its distribution is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from mrtsim.errors import InputError

Model = TypeVar("Model")


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a learner trains; the defaults are the paper's for the mixture density network.

    `validate_every` is the number of steps between two looks at the validation loss; it divides `steps`.
    """

    steps: int = 400
    learning_rate: float = 0.005
    clip: float = 5.0
    weight_decay: float = 0.0
    validate_every: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.validate_every < 1 or self.steps % self.validate_every:
            raise InputError(
                f"validate_every = {self.validate_every} must divide steps = {self.steps}, both at least 1"
            )

    def optimiser(self) -> optax.GradientTransformation:
        """Adam after clipping by the global norm; AdamW where weights decay."""
        if self.weight_decay:
            adam = optax.adamw(self.learning_rate, weight_decay=self.weight_decay)
        else:
            adam = optax.adam(self.learning_rate)
        return optax.chain(optax.clip_by_global_norm(self.clip), adam)


class Fit(NamedTuple):
    """A trained learner in both recipes, and how it got there.

    `last` is the model after the last step (as published), `best` the one with the least validation loss, found
    after `best_step` steps; without validation `best` is `last`. `losses` are the training losses before each step.
    `diverged` is the first step whose loss or gradient was not finite, or `steps` where there was none: from then on
    the run stands still at its last finite parameters. `records` is what `record` returned, (checks, ...).
    """

    last: Any
    best: Any
    best_step: Int[Array, ""]
    losses: Float[Array, " steps"]
    validation_losses: Float[Array, " checks"]
    diverged: Int[Array, ""]
    records: PyTree


def fit(
    model: Model,
    objective: Callable[[Model, Any], Float[Array, ""]],
    recipe: Recipe,
    batches: PyTree = None,
    validate: Callable[[Model], Float[Array, ""]] | None = None,
    record: Callable[[Model], PyTree] | None = None,
) -> Fit:
    """Train one model: `recipe.steps` steps on `objective(model, batch)`.

    `batches` is a pytree whose arrays have a leading axis of `recipe.steps`, one slice per step: minibatch indices,
    dropout keys. Full-batch objectives close over their data and ignore the batch, which is then None. `validate`
    maps a model to its validation loss; `record` to anything worth keeping of it. Both see the model after every
    `recipe.validate_every` steps.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = recipe.optimiser()

    def loss_of(params: PyTree, batch: PyTree) -> Float[Array, ""]:
        return objective(eqx.combine(params, static), batch)

    def step(carry: tuple, batch: PyTree) -> tuple[tuple, Float[Array, ""]]:
        params, state, taken = carry
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, new_state = optimiser.update(gradient, state, params)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient)) & (taken >= 0)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        params = jax.tree.map(keep, optax.apply_updates(params, updates), params)
        state = jax.tree.map(keep, new_state, state)
        # `taken` counts the steps; -1 - n marks a run that diverged after n of them.
        taken = jnp.where(taken < 0, taken, jnp.where(finite, taken + 1, -1 - taken))
        return (params, state, taken), loss

    def stretch(carry: tuple, batches: PyTree) -> tuple[tuple, tuple]:
        trained, best, best_loss, best_step = carry
        trained, losses = jax.lax.scan(step, trained, batches, length=recipe.validate_every)
        params, _, taken = trained
        model = eqx.combine(params, static)
        loss = best_loss
        if validate is not None:
            loss = validate(model)
            better = (loss < best_loss) & (taken >= 0)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
            best_loss, best_step = jnp.where(better, loss, best_loss), jnp.where(better, taken, best_step)
        records = None if record is None else record(model)
        return (trained, best, best_loss, best_step), (losses, loss, records)

    checks = recipe.steps // recipe.validate_every
    batches = jax.tree.map(lambda a: a.reshape(checks, recipe.validate_every, *a.shape[1:]), batches)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    unchecked = None if validate is None else params
    start = (
        (params, optimiser.init(params), jnp.int32(0)),
        unchecked,
        jnp.array(jnp.inf, dtype),
        jnp.int32(0),
    )
    ((params, _, taken), best, _, best_step), (losses, validation, records) = jax.lax.scan(
        stretch, start, batches, length=checks
    )
    diverged = jnp.where(taken < 0, -1 - taken, recipe.steps)
    last = eqx.combine(params, static)
    if validate is None:
        best, best_step = last, diverged
    else:
        best = eqx.combine(best, static)
    return Fit(last, best, best_step, losses.reshape(-1), validation, diverged, records)
