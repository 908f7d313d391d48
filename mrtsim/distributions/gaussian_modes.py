"""What is p(y|x)? Toy multi-modal conditional distributions: sampling, reward, exact expectations.

Every distribution here has `sample_prompts`, `sample_responses`, `reward`, `log_density`, `quadrature` and
`expectation`, and stands in `DISTRIBUTIONS` under its name, from where tests and sweeps pick it up. Prompts are
(prompts, d), responses (prompts, responses).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.special import roots_hermitenorm, roots_legendre

from mrtsim.errors import InputError

DISTRIBUTIONS: dict[str, Callable[..., Any]] = {}


def register(name: str) -> Callable[[type], type]:
    """Class decorator: make a distribution known by name. It must be constructible without arguments."""

    def add(cls: type) -> type:
        DISTRIBUTIONS[name] = cls
        return cls

    return add


def distribution(name: str, **parameters: Any) -> Any:
    """Build the registered distribution of this name; InputError when there is none."""
    if name not in DISTRIBUTIONS:
        raise InputError(f"unknown distribution {name!r}: choose one of {', '.join(sorted(DISTRIBUTIONS))}")
    return DISTRIBUTIONS[name](**parameters)


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
    """
    edges = np.linspace(-half_width, half_width, count + 1)
    nodes, weights = roots_legendre(order)
    half = 0.5 * np.diff(edges)[:, None]
    z = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes).ravel()
    return Rule(z, (half * weights).ravel() * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


class Expectation(NamedTuple):
    """A value with a numerical error, both float64 (prompts, ...)."""

    value: np.ndarray
    error: np.ndarray


# Neighbours differ in kind, in order and in where their panels end, so that they do not err together.
_SMOOTH = ((hermite, (32,)), (hermite, (45,)), (panels, (20, 8)))
_COMPOSITE = tuple((panels, sizes) for sizes in ((20, 8), (31, 11), (67, 10), (150, 9), (331, 8), (743, 7)))


def _parts(rule: Rule, size: int) -> list[Rule]:
    """The rule in pieces of one size, the last filled up with weight 0: one shape is compiled once."""
    fill = -len(rule.nodes) % size
    nodes = np.concatenate([rule.nodes, np.full(fill, rule.nodes[-1])]).reshape(-1, size)
    weights = np.concatenate([rule.weights, np.zeros(fill)]).reshape(-1, size)
    return [Rule(*piece) for piece in zip(nodes, weights, strict=True)]


@eqx.filter_jit
def quadrature(distribution: Any, prompts: Array, rule: Rule | None) -> tuple[Array, Array]:
    """The distribution's `quadrature`, compiled."""
    return distribution.quadrature(prompts, rule)


def _weighted_sums(
    distribution: Any, fn: Callable[[Array], Array], prompts: Array, parts: list[Rule | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the nodes of all parts of weight fn and of its absolute value."""
    total = size = np.zeros(())
    for part in parts:
        responses, weights = quadrature(distribution, prompts, part)
        values = np.asarray(fn(responses), np.float64)
        terms = np.asarray(weights).reshape(weights.shape + (1,) * (values.ndim - 2)) * values
        total, size = total + terms.sum(1), size + np.abs(terms).sum(1)
    return total, size


def paper_centre(prompts: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """The paper's centre of p(y|x): f(x) = sin(2 x_1) + 0.5 x_2."""
    return jnp.sin(2.0 * prompts[..., 0]) + 0.5 * prompts[..., 1]


def _probabilities(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(given, np.float64)
    if values.shape != shape:
        raise InputError(f"{name} must have shape {shape}, not {values.shape}")
    totals = values.sum(-1, keepdims=True)
    if not np.all(values >= 0) or not np.allclose(totals, 1.0, rtol=0, atol=1e-9):
        raise InputError(f"{name} must be non-negative and sum to 1, not {values.tolist()}")
    return values / totals


def _one_draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """A uniform and a standard normal array from one call of the generator: half the time to compile two.

    The draw is flat: the same bits as in the final shape, in an eighth of the time to compile.
    """
    size = math.prod(shape)
    u = jax.random.uniform(key, (2 * size,), dtype, minval=np.nextafter(np.asarray(-1, dtype), 0))
    u = u.reshape(2, *shape)
    return 0.5 * (u[0] + 1), np.sqrt(2).astype(dtype) * jax.lax.erf_inv(u[1])


@register("gaussian-modes")
class GaussianModes(eqx.Module):
    """Prompts x ~ N(0, I); a response is centre(x) + offset_m + scale_m * prompt_scale(x) * eps, m drawn by weight.

    The defaults are the toy distribution of arXiv:2606.00544: three equal modes at -1.5, 0, 1.5 and noise 0.1.

    Args:
        offsets: (modes,) distance of each mode from the centre, in units of the response.
        weights: (modes,) probabilities; all equal when not given.
        scales: noise standard deviation, one number or one a mode, positive.
        prompt_dim: coordinates of a prompt.
        centre: maps prompts (..., d) to (...).
        prompt_scale: maps prompts (..., d) to a positive factor (...) on the noise; None for 1.
    """

    offsets: Any
    weights: Any
    scales: Any
    prompt_dim: int = eqx.field(static=True)
    centre: Callable[[Array], Array] = eqx.field(static=True)
    prompt_scale: Callable[[Array], Array] | None = eqx.field(static=True)

    def __init__(
        self,
        offsets: Any = (-1.5, 0.0, 1.5),
        weights: Any = None,
        scales: Any = 0.1,
        prompt_dim: int = 5,
        centre: Callable[[Array], Array] = paper_centre,
        prompt_scale: Callable[[Array], Array] | None = None,
    ):
        offsets = np.asarray(offsets, np.float64)
        if offsets.ndim != 1 or offsets.size == 0 or not np.all(np.isfinite(offsets)):
            raise InputError(f"offsets must be a list of one or more finite numbers, not {offsets.tolist()}")
        modes = offsets.size
        weights = _probabilities(
            "weights", np.full(modes, 1 / modes) if weights is None else weights, offsets.shape
        )
        scales = np.asarray(scales, np.float64)
        if scales.shape not in ((), (modes,)):
            raise InputError(
                f"scales must be one number or one a mode: {modes} modes but shape {scales.shape}"
            )
        if not np.all((scales > 0) & np.isfinite(scales)):
            raise InputError(f"scales must be positive and finite, not {scales.tolist()}")
        if prompt_dim < 1 or (centre is paper_centre and prompt_dim < 2):
            raise InputError(
                f"prompt_dim = {prompt_dim} is too small: the paper's centre needs 2 coordinates, any other 1"
            )
        self.offsets = offsets
        self.weights = weights
        self.scales = np.broadcast_to(scales, (modes,)).copy()
        self.prompt_dim = prompt_dim
        self.centre = centre
        self.prompt_scale = prompt_scale

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        """Draw n prompts."""
        # Flat: the same bits, in half the time to compile.
        return jax.random.normal(key, (n * self.prompt_dim,)).reshape(n, self.prompt_dim)

    def prompts_at(self, uniforms: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Prompts at points of the unit cube (inverse distribution function), for quasi-Monte Carlo."""
        return jax.scipy.special.ndtri(uniforms)

    def sample_responses(
        self, key: PRNGKeyArray, prompts: Float[Array, "*batch d"], n: int
    ) -> tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]:
        """Draw n responses to each prompt; returns them and the mode of each."""
        dtype = prompts.dtype
        u, noise = _one_draw(key, (*prompts.shape[:-1], n), dtype)
        bounds = jnp.cumsum(jnp.asarray(self.weights, dtype))[:-1]
        modes = jnp.searchsorted(bounds, u, side="right", method="compare_all")
        offsets, scales = (jnp.asarray(a, dtype)[modes] for a in (self.offsets, self.scales))
        return self.centre(prompts)[..., None] + offsets + scales * self._factor(prompts) * noise, modes

    def _factor(self, prompts: Float[Array, "*batch d"]) -> Float[Array, "*#batch 1"]:
        if self.prompt_scale is None:
            return jnp.ones((*prompts.shape[:-1], 1), prompts.dtype)
        return self.prompt_scale(prompts)[..., None]

    def reward(
        self, prompts: Float[Array, "*batch d"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """The paper's reward r(x, y) = -(y - f(x))^2: it prefers the middle of the modes."""
        return -jnp.square(responses - self.centre(prompts)[..., None])

    def log_density(
        self, prompts: Float[Array, "*batch d"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """log p(y|x), in nats."""
        offsets, weights, scales = (
            jnp.asarray(a, responses.dtype) for a in (self.offsets, self.weights, self.scales)
        )
        scale = scales * self._factor(prompts)[..., None]
        z = (responses[..., None] - self.centre(prompts)[..., None, None] - offsets) / scale
        return jax.nn.logsumexp(
            -0.5 * jnp.square(z) - jnp.log(scale) - 0.5 * np.log(2 * np.pi), axis=-1, b=weights
        )

    def quadrature(
        self, prompts: Float[Array, "*batch d"], rule: Rule | None = None
    ) -> tuple[Float[Array, "*batch q"], Float[Array, "*batch q"]]:
        """Responses and weights with sum_q weights g(responses) about E[g(y) | x]; `rule` is applied in every mode.

        Mode-major: with a rule of Q nodes, nodes m Q to (m+1) Q - 1 are mode m's, so that parts of the sum are
        mode-conditional expectations. The default is `panels(20, 8)`. Computes in the dtype of the prompts: call it
        in `jax.enable_x64(True)`.
        """
        rule = panels(20, 8) if rule is None else rule
        dtype = prompts.dtype
        offsets, weights, scales = (jnp.asarray(a, dtype) for a in (self.offsets, self.weights, self.scales))
        scale = scales[:, None] * self._factor(prompts)[..., None]
        responses = (
            self.centre(prompts)[..., None, None] + offsets[:, None] + scale * jnp.asarray(rule.nodes, dtype)
        )
        weight = weights[:, None] * jnp.asarray(rule.weights, dtype)
        flat = (*prompts.shape[:-1], -1)
        return responses.reshape(flat), jnp.broadcast_to(weight, responses.shape).reshape(flat)

    def expectation(
        self,
        fn: Callable[[Array], Array],
        prompts: Any,
        *,
        smooth: bool = False,
        tolerance: float = 1e-10,
        max_values: int = 2**22,
    ) -> Expectation:
        """E[fn(y) | x] of each prompt, sum_m w_m int g(f + o_m + sigma z) phi(z) dz, with a numerical error.

        `fn` maps responses (prompts, q) to values (prompts, q, ...). Composite Gauss-Legendre rules are refined
        until the largest error is below `tolerance` relative to E|fn(y)|, or the finest (5,201 nodes a mode) is
        reached. `smooth=True` starts with Gauss-Hermite, which is right only for functions that are smooth on the
        scale of a mode. The value is the finest rule's; the error is its largest distance to the two before it, and
        no less than the root mean square of these distances over the prompts. That is cautious for smooth
        functions and kinks, an estimate for jumps, and blind to features narrower than the finest panel (1/37 of a
        standard deviation): check the mass of a weighted density yourself. At most `max_values` responses (or one
        node a mode) are evaluated at a time.
        """
        with jax.enable_x64(True):
            x = jnp.asarray(np.asarray(prompts, np.float64))
            nodes = max(1, min(256, max_values // max(1, len(x) * len(self.weights))))
            estimates: list[np.ndarray] = []
            error = np.zeros(())
            for make, sizes in _SMOOTH + _COMPOSITE[1:] if smooth else _COMPOSITE:
                total, size = _weighted_sums(self, fn, x, [*_parts(make(*sizes), nodes)])
                rounding = 4 * np.finfo(float).eps * size
                gaps = [np.abs(total - earlier) for earlier in estimates[-2:]]
                # Two rules can agree by accident on one prompt, not on all: no error is below the typical one.
                typical = [np.broadcast_to(np.sqrt(np.mean(gap**2, axis=0)), gap.shape) for gap in gaps]
                error = np.maximum.reduce([rounding, *gaps, *typical])
                estimates.append(total)
                if len(estimates) >= 3 and np.all(error <= tolerance * size + rounding):
                    break
        return Expectation(estimates[-1], error)


@register("clustered")
class ClusteredPrompts(GaussianModes):
    """`GaussianModes` whose prompts come in groups of near-duplicates, as in a large redundant corpus (claim 5).

    A prompt is sqrt(similarity) g + sqrt(1 - similarity) e, with g shared by its group and e its own, both N(0, I).
    So every prompt is N(0, I) whatever the dial says: V_x and V_{y|x} stay those of `GaussianModes`, and only the
    split of V_x into V_g and V_{x|g} moves.

    Args:
        group_size: r, prompts in a group.
        similarity: the dial, correlation of two prompts of a group: 1 for exact duplicates, 0 for independent.
        **modes: the arguments of `GaussianModes`.
    """

    group_size: Any
    similarity: Any

    def __init__(self, group_size: int = 5, similarity: Any = 1.0, **modes: Any):
        super().__init__(**modes)
        if int(group_size) != group_size or group_size < 1:
            raise InputError(f"group_size must be a whole number of 1 or more, not {group_size}")
        if not 0 <= float(similarity) <= 1:
            raise InputError(
                f"similarity must lie between 0 (independent) and 1 (duplicates), not {similarity}"
            )
        # Arrays, so that a sweep over either compiles once.
        self.group_size = np.asarray(group_size, np.int32)
        self.similarity = np.asarray(similarity, np.float64)

    def groups(self, n: int) -> np.ndarray:
        """Group label of each of n prompts (n,): neighbours share one, and the last group may be smaller."""
        return np.arange(n) // self.group_size

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        shared, own = jax.random.normal(key, (2, n, self.prompt_dim))
        shared = shared[jnp.arange(n) // self.group_size]
        similarity = jnp.asarray(self.similarity, own.dtype)
        return jnp.sqrt(similarity) * shared + jnp.sqrt(1 - similarity) * own


@register("categorical")
class Categorical(eqx.Module):
    """Finitely many prompts, finitely many responses to each: every moment is a finite sum.

    A prompt is its row number, as an array (..., 1) of floats. Without `values` it is a small example with a tie in
    the rewards, which tests enumerate.

    Args:
        values: (prompts, outcomes) the responses, distinct within a prompt.
        probabilities: (prompts, outcomes) p(y|x); all equal when not given.
        prompt_weights: (prompts,) probabilities of the prompts; all equal when not given.
        rewards: (prompts, outcomes) r(x, y); the response itself when not given.
    """

    values: Any
    probabilities: Any
    prompt_weights: Any
    rewards: Any

    def __init__(
        self,
        values: Any = None,
        probabilities: Any = None,
        prompt_weights: Any = None,
        rewards: Any = None,
    ):
        if values is None:
            values = ((-1.5, 0.0, 1.5), (-1.0, 0.5, 2.0))
            probabilities = ((0.25, 0.5, 0.25), (0.2, 0.2, 0.6)) if probabilities is None else probabilities
            rewards = ((0.0, 1.0, 0.0), (1.0, 0.5, 0.0)) if rewards is None else rewards
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.size == 0 or not np.all(np.isfinite(values)):
            raise InputError(
                f"values must be finite numbers (prompts, outcomes), not of shape {values.shape}"
            )
        if any(len(set(row)) < len(row) for row in values.tolist()):
            raise InputError("values must be distinct within a prompt: add the probabilities of equal ones")
        self.values = values
        prompts, outcomes = values.shape
        self.probabilities = _probabilities(
            "probabilities",
            np.full(values.shape, 1 / outcomes) if probabilities is None else probabilities,
            values.shape,
        )
        self.prompt_weights = _probabilities(
            "prompt_weights",
            np.full(prompts, 1 / prompts) if prompt_weights is None else prompt_weights,
            (prompts,),
        )
        self.rewards = values if rewards is None else np.asarray(rewards, np.float64)
        if self.rewards.shape != values.shape or not np.all(np.isfinite(self.rewards)):
            raise InputError(f"rewards must be finite numbers of shape {values.shape}, as values are")

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        """Every prompt (prompts, 1) and its probability (prompts,)."""
        return np.arange(len(self.values), dtype=np.float64)[:, None], np.asarray(self.prompt_weights)

    def _row(self, table: Any, prompts: Float[Array, "*batch 1"]) -> Float[Array, "*batch outcomes"]:
        return jnp.asarray(table, prompts.dtype)[prompts[..., 0].astype(int)]

    def _outcome(
        self, prompts: Float[Array, "*batch 1"], responses: Float[Array, "*batch n"]
    ) -> tuple[Int[Array, "*batch n"], Array]:
        distance = jnp.abs(responses[..., None] - self._row(self.values, prompts)[..., None, :])
        return jnp.argmin(distance, axis=-1), jnp.min(distance, axis=-1) == 0

    def sample_prompts(self, key: PRNGKeyArray, n: int) -> Float[Array, "n 1"]:
        weights = jnp.asarray(self.prompt_weights, float)
        return jax.random.choice(key, len(weights), (n, 1), p=weights).astype(weights.dtype)

    def sample_responses(
        self, key: PRNGKeyArray, prompts: Float[Array, "*batch 1"], n: int
    ) -> tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]:
        """Draw n responses to each prompt; returns them and the outcome number of each."""
        u = jax.random.uniform(key, (*prompts.shape[:-1], n, 1), prompts.dtype)
        bounds = jnp.cumsum(self._row(self.probabilities, prompts), axis=-1)[..., None, :-1]
        outcomes = jnp.sum(u >= bounds, axis=-1)
        return jnp.take_along_axis(self._row(self.values, prompts), outcomes, axis=-1), outcomes

    def reward(
        self, prompts: Float[Array, "*batch 1"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """r(x, y) from the table, of the nearest outcome."""
        outcomes, _ = self._outcome(prompts, responses)
        return jnp.take_along_axis(self._row(self.rewards, prompts), outcomes, axis=-1)

    def log_density(
        self, prompts: Float[Array, "*batch 1"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """log of the probability of each response, in nats; -inf for what is no outcome of its prompt."""
        outcomes, exists = self._outcome(prompts, responses)
        mass = jnp.take_along_axis(self._row(self.probabilities, prompts), outcomes, axis=-1)
        return jnp.where(exists, jnp.log(mass), -jnp.inf)

    def quadrature(
        self, prompts: Float[Array, "*batch 1"], rule: Rule | None = None
    ) -> tuple[Float[Array, "*batch q"], Float[Array, "*batch q"]]:
        """The outcomes and their probabilities: exact, so that no rule is needed."""
        return self._row(self.values, prompts), self._row(self.probabilities, prompts)

    def expectation(self, fn: Callable[[Array], Array], prompts: Any) -> Expectation:
        """E[fn(y) | x] of each prompt, a finite sum; the error is that of rounding."""
        with jax.enable_x64(True):
            total, size = _weighted_sums(self, fn, jnp.asarray(np.asarray(prompts, np.float64)), [None])
        return Expectation(total, 4 * np.finfo(float).eps * size)
