"""What `measure` should find for a strategy whose law is known, by quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from mrtsim.diagnostics.problem import Problem, batch_gradients, values_of
from mrtsim.diagnostics.reports import cosine
from mrtsim.errors import InputError
from mrtsim.selection.exact_laws import KeptLaw, KeptMean, bkon_law, rkon_law


@dataclass(frozen=True)
class ExactReport:
    """What `measure` should find for RKoN or BKoN, by quadrature.

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
    problem: Problem, name: str, *, n_candidates: int, k: int, resolution: int | None = None, chunk: int = 32
) -> ExactReport:
    """The exact counterpart of `measure` for "rkon" and "bkon", by quadrature over the kept responses' law.

    `resolution` as in `bkon_law`; `chunk` prompts are worked on at a time.

    Raises:
        InputError: another strategy, a problem that is not factored, or K not in 1..N.
    """
    if name not in ("rkon", "bkon"):
        raise InputError(f"exact results exist for rkon and bkon, not for {name!r}: measure it")
    if not problem.factored:
        raise InputError("exact results need a factored problem: see Problem.of")
    parts: list[tuple[KeptMean, KeptMean]] = []
    shifts: list[np.ndarray] = []
    mass = 0.0
    with jax.enable_x64(True):
        for start in range(0, len(problem.prompts), chunk):
            rows = slice(start, start + chunk)
            part = [jax.tree.map(lambda a, rows=rows: a[rows], a) for a in _of_prompts(problem)]
            piece = eqx.tree_at(_of_prompts, problem, part)
            law = _law(piece, name, n_candidates, k, resolution)
            mass = max(mass, float(np.abs(law.kept.sum(1) - 1).max()))
            losses, gradients, vectors = map(np.asarray, values_of(piece, law.responses))
            parts.append((law.moments(losses), law.moments(vectors)))
            shifts.append(np.einsum("pq,pqo->po", law.kept, gradients))
        kept = np.asarray(batch_gradients(problem, np.concatenate(shifts)[None]))[0]
    loss, gradient = (_join(moments) for moments in zip(*parts, strict=True))
    true = problem.true_batch
    return ExactReport(
        loss,
        gradient,
        float(cosine(kept, true)),
        float(np.square(kept - true).sum()),
        float(gradient.variance.sum() / len(gradient.variance) ** 2),
        mass,
    )


def _of_prompts(problem: Problem) -> list[Any]:
    return [problem.prompts, problem.outputs, problem.factor]


def _law(problem: Problem, name: str, n_candidates: int, k: int, resolution: int | None) -> KeptLaw:
    if name == "rkon":
        return rkon_law(problem.distribution, problem.prompts, k)
    return bkon_law(
        problem.distribution, problem.prompts, n_candidates, k, problem.reward, resolution=resolution
    )


def _join(moments: tuple[KeptMean, ...]) -> KeptMean:
    fields = ("truth", "mean", "single_variance", "variance")
    return KeptMean(*(np.concatenate([getattr(m, f) for m in moments]) for f in fields))
