"""What a distribution p(y|x) must offer (`Distribution`), and the parts that it may offer besides.

Prompts are (..., d) and responses (..., n), numbers. Methods other than `expectation` and `support` are traced by JAX
and compute in the dtype of the prompts. A distribution needs to derive from nothing: having the methods is enough, and
`mrtsim.testing.check_distribution` says what is missing or wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mrtsim.distributions.quadrature import Expectation, Rule
from mrtsim.errors import InputError


@runtime_checkable
class Distribution(Protocol):
    """A conditional distribution of responses given a prompt, with a reward: what diagnostics need."""

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Array:
        """Draw n prompts, (n, d)."""
        ...

    def sample_responses(self, key: PRNGKeyArray, prompts: Any, n: int) -> tuple[Array, Any]:
        """Draw n responses to each prompt, (..., n), and the number of each one's mode; None without `NamedModes`.

        Args:
            key: seeds the draws.
            prompts: (..., d).
            n: responses per prompt.
        """
        ...

    def reward(self, prompts: Any, responses: Any) -> Any:
        """r(x, y) of each response, (..., n); higher is better."""
        ...

    def expectation(self, fn: Callable[[Array], Array], prompts: Any) -> Expectation:
        """E[fn(y) | x] of each prompt, float64, and its numerical error; fn maps (prompts, q) to (prompts, q, ...)."""
        ...


@runtime_checkable
class WithQuadrature(Protocol):
    """Expectations over the response as weighted sums: what exact laws and exact components need."""

    def quadrature(self, prompts: Any, rule: Rule | None = None) -> tuple[Array, Array]:
        """Responses (..., q) and weights (..., q) whose sum of weights g(responses) is about E[g(y) | x]."""
        ...


@runtime_checkable
class WithPromptCube(Protocol):
    """Prompts as a map of the unit cube: what quasi-Monte Carlo over prompts needs."""

    prompt_dim: int

    def prompts_at(self, uniforms: Any) -> Array:
        """Prompts (n, prompt_dim) at points of the unit cube (n, prompt_dim), in distribution if these are uniform."""
        ...


@runtime_checkable
class WithPromptPairs(WithPromptCube, Protocol):
    """Prompts that come in groups: pairs of one group tell V_g from V_{x|g}."""

    def prompt_pairs_at(self, uniforms: Any) -> tuple[Array, Array]:
        """Two prompts of a group, each (n, prompt_dim), at points of the unit cube (n, 2 prompt_dim)."""
        ...


@runtime_checkable
class WithFinitePrompts(Protocol):
    """Finitely many prompts: expectations over them are sums."""

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        """Every prompt (prompts, d), and its probability (prompts,)."""
        ...


@runtime_checkable
class NamedModes(Protocol):
    """Responses that belong to modes: what mode coverage needs. `sample_responses` says the mode of each."""

    def mode_weights(self, prompts: Any) -> Array:
        """Probabilities of the modes at each prompt, (..., modes)."""
        ...


def missing(distribution: Any, part: type) -> list[str]:
    """The attributes of a protocol that a distribution lacks."""
    wanted = [name for base in part.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))]
    return [
        n for n in dict.fromkeys(wanted) if not n.startswith("_") and getattr(distribution, n, None) is None
    ]


def require(distribution: Any, part: type, purpose: str) -> None:
    """Raise InputError unless a distribution has a protocol; the message names what it lacks and for which purpose.

    Args:
        distribution: what was given.
        part: the protocol.
        purpose: what needs it, for the message.
    """
    if not isinstance(distribution, part):
        raise InputError(
            f"{type(distribution).__name__} lacks {', '.join(missing(distribution, part))}, which {purpose} needs: "
            f"see mrtsim.distributions.protocol.{part.__name__}"
        )
