"""Quadrature rules for a standard normal, and expectations over p(y|x) with a numerical error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array
from scipy.special import roots_hermitenorm, roots_legendre


class Rule(NamedTuple):
    """Quadrature for a standard normal Z: E g(Z) is about sum_q weights[q] g(nodes[q])."""

    nodes: np.ndarray
    weights: np.ndarray


def hermite(order: int) -> Rule:
    """Gauss-Hermite: exact for polynomials up to degree 2 order - 1, poor for anything with kinks."""
    nodes, weights = roots_hermitenorm(order)
    return Rule(nodes, weights / weights.sum())


def panels(count: int, order: int, half_width: float = 10.0) -> Rule:
    """`count` equal panels over [-half_width, half_width], Gauss-Legendre of `order` in each, times the density.

    Ten standard deviations leave out 1.5e-23 of the mass.

    Args:
        count: number of panels.
        order: nodes per panel.
        half_width: in standard deviations.
    """
    edges = np.linspace(-half_width, half_width, count + 1)
    nodes, weights = roots_legendre(order)
    half = 0.5 * np.diff(edges)[:, None]
    z = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes).ravel()
    return Rule(z, (half * weights).ravel() * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def trapezoid(count: int, half_width: float = 9.0) -> Rule:
    """Equally spaced nodes for a standard normal: spectrally accurate for smooth functions, and even atoms."""
    z, step = np.linspace(-half_width, half_width, count, retstep=True)
    return Rule(z, step * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


class Expectation(NamedTuple):
    """A value with a numerical error, both float64 (prompts, ...)."""

    value: np.ndarray
    error: np.ndarray


def parts(rule: Rule, size: int) -> list[Rule]:
    """The rule in pieces of one size, the last filled up with weight 0: one shape is compiled once."""
    fill = -len(rule.nodes) % size
    nodes = np.concatenate([rule.nodes, np.full(fill, rule.nodes[-1])]).reshape(-1, size)
    weights = np.concatenate([rule.weights, np.zeros(fill)]).reshape(-1, size)
    return [Rule(*piece) for piece in zip(nodes, weights, strict=True)]


@eqx.filter_jit
def quadrature(distribution: Any, prompts: Array, rule: Rule | None) -> tuple[Array, Array]:
    """The distribution's `quadrature`, compiled.

    Args:
        distribution: has `quadrature`.
        prompts: (prompts, d).
        rule: nodes and weights per mode; None for the distribution's own.
    """
    return distribution.quadrature(prompts, rule)


def weighted_sums(
    distribution: Any, fn: Callable[[Array], Array], prompts: Array, parts: list[Rule | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the nodes of all parts of weight fn and of its absolute value.

    Args:
        distribution: has `quadrature`.
        fn: maps responses (prompts, q) to values (prompts, q, ...).
        prompts: (prompts, d).
        parts: rules whose nodes are added up.
    """
    total = size = np.zeros(())
    for part in parts:
        responses, weights = quadrature(distribution, prompts, part)
        values = np.asarray(fn(responses), np.float64)
        terms = np.asarray(weights).reshape(weights.shape + (1,) * (values.ndim - 2)) * values
        total, size = total + terms.sum(1), size + np.abs(terms).sum(1)
    return total, size
