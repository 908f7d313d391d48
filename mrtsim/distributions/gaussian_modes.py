"""Gaussian modes about a centre, the toy distribution of arXiv:2606.00544: sampling, reward, exact expectations.

Prompts are (prompts, d), responses (prompts, responses).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mrtsim.distributions.quadrature import Expectation, Rule, hermite, panels, parts, weighted_sums
from mrtsim.errors import InputError

# Neighbours differ in kind, in order and in where their panels end, so that they do not err together.
_SMOOTH = ((hermite, (32,)), (hermite, (45,)), (panels, (20, 8)))


_COMPOSITE = tuple((panels, sizes) for sizes in ((20, 8), (31, 11), (67, 10), (150, 9), (331, 8), (743, 7)))


def paper_centre(prompts: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """The paper's centre of p(y|x): f(x) = sin(2 x_1) + 0.5 x_2."""
    return jnp.sin(2.0 * prompts[..., 0]) + 0.5 * prompts[..., 1]


def checked_probabilities(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Probabilities of a given shape that sum to 1 over the last axis, float64; InputError when they do not.

    Args:
        name: what the message calls them.
        given: array-like; None stands for equal probabilities.
        shape: of the answer.
    """
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


class GaussianModes(eqx.Module):
    """Prompts x ~ N(0, I); a response is centre(x) + offset_m + scale_m * prompt_scale(x) * eps, m drawn by weight.

    The defaults are the toy distribution of arXiv:2606.00544: three equal modes at -1.5, 0, 1.5 and noise 0.1.

    Args:
        offsets: (modes,) distance of each mode from the centre, in units of the response.
        weights: (modes,) probabilities; all equal when not given.
        scales: noise standard deviation, one number or one per mode, positive.
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
        weights = checked_probabilities(
            "weights", np.full(modes, 1 / modes) if weights is None else weights, offsets.shape
        )
        scales = np.asarray(scales, np.float64)
        if scales.shape not in ((), (modes,)):
            raise InputError(
                f"scales must be one number or one per mode: {modes} modes but shape {scales.shape}"
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
        """Draw n responses to each prompt; returns them and the mode of each.

        Args:
            key: seeds the draws.
            prompts: (..., d).
            n: responses per prompt.
        """
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

    def mode_weights(self, prompts: Float[Array, "*batch d"]) -> Float[Array, "*batch modes"]:
        """Probabilities of the modes, the same at every prompt."""
        return jnp.broadcast_to(
            jnp.asarray(self.weights, prompts.dtype), (*prompts.shape[:-1], len(self.weights))
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
        until the largest error is below `tolerance` relative to E|fn(y)|, or the finest (5,201 nodes per mode) is
        reached. `smooth=True` starts with Gauss-Hermite, which is right only for functions that are smooth on the
        scale of a mode. The value is the finest rule's; the error is its largest distance to the two before it, and
        no less than the root mean square of these distances over the prompts. That is cautious for smooth
        functions and kinks, an estimate for jumps, and blind to features narrower than the finest panel (1/37 of a
        standard deviation): check the mass of a weighted density yourself. At most `max_values` responses (or one
        node per mode) are evaluated at a time.

        Args:
            fn: maps responses (prompts, q) to values (prompts, q, ...).
            prompts: (prompts, d).
            smooth: whether fn is smooth on the scale of a mode, so that Gauss-Hermite is a start.
            tolerance: of the largest error, relative to E|fn(y)|.
            max_values: responses that are evaluated at a time, or one node per mode.
        """
        with jax.enable_x64(True):
            x = jnp.asarray(np.asarray(prompts, np.float64))
            nodes = max(1, min(256, max_values // max(1, len(x) * len(self.weights))))
            estimates: list[np.ndarray] = []
            error = np.zeros(())
            for make, sizes in _SMOOTH + _COMPOSITE[1:] if smooth else _COMPOSITE:
                total, size = weighted_sums(self, fn, x, [*parts(make(*sizes), nodes)])
                rounding = 4 * np.finfo(float).eps * size
                gaps = [np.abs(total - earlier) for earlier in estimates[-2:]]
                # Two rules can agree by accident on one prompt, not on all: no error is below the typical one.
                typical = [np.broadcast_to(np.sqrt(np.mean(gap**2, axis=0)), gap.shape) for gap in gaps]
                error = np.maximum.reduce([rounding, *gaps, *typical])
                estimates.append(total)
                if len(estimates) >= 3 and np.all(error <= tolerance * size + rounding):
                    break
        return Expectation(estimates[-1], error)
