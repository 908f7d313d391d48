"""Exact error reports of strategies whose law is known, by quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from mrtsim.diagnostics.problem import LinearisedModel, Problem, batch_gradients, values_of
from mrtsim.diagnostics.reports import cosine
from mrtsim.errors import InputError
from mrtsim.selection.exact_laws import KeptMean
from mrtsim.selection.registry import law


@dataclass(frozen=True)
class ExactReport:
    """The exact counterparts of what `measure` finds, by quadrature.

    Attributes:
        loss, gradient: exact moments, one entry per prompt; gradients in orthonormal coordinates of each prompt's span.
        batch_cosine: cosine of the strategy's expected batch gradient with the true one.
        batch_bias_squared, batch_variance: of the batch gradient.
        weights_error: largest distance of a kept density's mass from 1.
    """

    loss: KeptMean
    gradient: KeptMean
    batch_cosine: float
    batch_bias_squared: float
    batch_variance: float
    weights_error: float


def exact(
    problem: Problem, name: str, *, n_candidates: int, k: int, chunk: int = 32, **options: Any
) -> ExactReport:
    """The exact counterpart of `measure`, by quadrature over the law of what a strategy keeps.

    Args:
        problem: what is estimated; factored.
        name: a strategy with a law: "rkon", "bkon", or another that `register_law` knows.
        n_candidates: N.
        k: K.
        chunk: prompts worked on at a time.
        **options: keyword options of the law, as `resolution` of `bkon_law`.

    Raises:
        InputError: a strategy without a law, a problem that is not factored, or K not in 1..N.
    """
    law_of = law(name)
    if not isinstance(problem.gradients, LinearisedModel):
        raise InputError("exact results need a factored problem: see Problem.of")
    parts: list[tuple[KeptMean, KeptMean]] = []
    shifts: list[np.ndarray] = []
    mass = 0.0
    with jax.enable_x64(True):
        for start in range(0, len(problem.prompts), chunk):
            rows = slice(start, start + chunk)
            part = [jax.tree.map(lambda a, rows=rows: a[rows], a) for a in _of_prompts(problem.gradients)]
            piece = eqx.tree_at(_of_prompts, problem.gradients, part)
            kept = law_of(problem.distribution, piece.prompts, n_candidates, k, problem.reward, **options)
            mass = max(mass, float(np.abs(kept.kept.sum(1) - 1).max()))
            losses, gradients, vectors = map(np.asarray, values_of(piece, kept.responses))
            parts.append((kept.moments(losses), kept.moments(vectors)))
            shifts.append(np.einsum("pq,pqo->po", kept.kept, gradients))
        mean = np.asarray(batch_gradients(problem.gradients, np.concatenate(shifts)[None]))[0]
    loss, gradient = (_join(moments) for moments in zip(*parts, strict=True))
    true = problem.true_batch
    return ExactReport(
        loss,
        gradient,
        float(cosine(mean, true)),
        float(np.square(mean - true).sum()),
        float(gradient.variance.sum() / len(gradient.variance) ** 2),
        mass,
    )


def _of_prompts(gradients: LinearisedModel) -> list[Any]:
    return [gradients.prompts, gradients.outputs, gradients.factor]


def _join(moments: tuple[KeptMean, ...]) -> KeptMean:
    fields = ("truth", "mean", "single_variance", "variance")
    return KeptMean(*(np.concatenate([getattr(m, f) for m in moments]) for f in fields))
