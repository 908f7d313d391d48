"""Inside one update: the best split of a batch into prompts and responses, beside the gradient's K*.

A network learns online, from fresh prompts and fresh responses at every step, so that nothing but the noise of the
gradient tells the splits of a batch apart. The gradient's V_x and V_{y|x} (traces of covariance matrices) are computed
exactly along the way, and with them the K* of the variance law; beside it stands what training finds: the test NLL of
every split at equal cost per update. Two prices: a prompt that costs as much as 4 responses (E2's), and batches of a
fixed number of sequences, where prompts are free and the law says one response each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    Source,
    above,
    below,
    read,
    within_factor,
)
from experiments.shared.mdn_training import RULE, TOY, judge, sobol_prompts, true_nll
from experiments.shared.training import Recipe, fit
from mrtsim.errors import InputError
from mrtsim.losses import mdn_nll, mixture_nll
from mrtsim.models import MDN, Mixture

CLAIMS = (4,)
ONLINE = Recipe(steps=600, validate_every=25)
NEAR = 2.0
SMALL = 0.05  # of the excess NLL: a loss of less than this share is small


@dataclass(frozen=True)
class Config:
    """`budget` is the cost of one update in responses; `prices` are costs of a prompt in responses."""

    responses: tuple[int, ...] = (1, 2, 4, 8, 16)
    budget: float = 160.0
    prices: tuple[float, ...] = (4.0, 0.0)
    sequences: int = 64
    recipe: Recipe = ONLINE
    replicates: int = 8
    points: int = 256
    component_replicates: int = 8
    block: int = 4

    def __post_init__(self):
        if list(self.responses) != sorted(set(self.responses)) or self.responses[0] != 1:
            raise InputError(f"responses must be increasing whole numbers from 1 on, not {self.responses}")
        for price in self.prices:
            if self.prompts(price, self.responses[-1]) < 2:
                raise InputError(
                    f"an update must pay 2 prompts with K = {self.responses[-1]}: raise the budget"
                )

    def prompts(self, price: float, k: int) -> int:
        """Prompts in an update with k responses each: `sequences` / k where prompts are free."""
        return self.sequences // k if price == 0 else int((self.budget + 1e-9) // (price + k))


PRESETS = {
    "quick": Config(
        responses=(1, 4, 16),
        recipe=Recipe(steps=100, validate_every=25),
        replicates=4,
        points=64,
        component_replicates=4,
    ),
    "paper": Config(),
    "precise": Config(replicates=200, points=512, component_replicates=20),
}


def gradient_components(model: MDN, prompts: Float[Array, "n d"]) -> dict[str, Array]:
    """Traces of the per-response gradient's V_x and V_{y|x}, and the squared norm of its mean, at these prompts.

    The gradient of a response is J(x)^T g(y), with J the Jacobian of the 15 outputs and g the loss's gradient in them.
    So with the Gram matrix G = J J^T of each prompt, E |gradient|^2 is tr(G E[g g^T | x]), by quadrature.
    """
    responses, weights = TOY.quadrature(prompts, RULE)

    def outputs(model: MDN, prompt: Float[Array, " d"]) -> Float[Array, " outputs"]:
        return jnp.concatenate([part[0] for part in model(prompt[None])])

    def slopes(out: Float[Array, " outputs"], y: Array) -> Float[Array, " outputs"]:
        return jax.grad(lambda out: mixture_nll(Mixture(*jnp.split(out, 3)), y[None])[0])(out)

    def moments(row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, y, w = row
        blocks = jax.tree.leaves(eqx.filter_jacrev(outputs)(model, x))
        jacobian = jnp.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)
        gram = jacobian @ jacobian.T
        g = jax.vmap(slopes, (None, 0))(outputs(model, x), y)
        mean = w @ g
        second = jnp.einsum("q,qi,ij,qj->", w, g, gram, g)
        return second, mean @ gram @ mean

    second, squared_mean = jax.lax.map(moments, (prompts, responses, weights), batch_size=32)
    total = eqx.filter_grad(lambda m: jnp.mean(jnp.sum(weights * mdn_nll(m, prompts, responses), axis=1)))(
        model
    )
    signal = jnp.square(optax.tree.norm(total))
    n = len(prompts)
    return {
        "prompt": (jnp.mean(squared_mean) - signal) * n / (n - 1),
        "response": jnp.mean(second - squared_mean),
        "signal": signal,
    }


@dataclass(frozen=True)
class Shape:
    """Static sizes of a run; `components` records those of the gradient along the way, which is slow, not the NLL."""

    rows: int
    recipe: Recipe
    components: bool = False


def train_online(
    key: PRNGKeyArray, n_prompts: Array, k: Array, points: Float[Array, "points d"], shape: Shape
) -> dict[str, Any]:
    """Learning curve (checks,) on a fresh batch at every step; splits with the same key share their initial weights.

    `n_prompts` and `k` are dynamic, so that all splits share a program: of `rows` responses the first are used.
    """
    model_key, batch_key = jax.random.split(key)
    recipe = shape.recipe
    row = jnp.arange(shape.rows)

    def objective(model: MDN, key: PRNGKeyArray) -> Float[Array, ""]:
        prompt_key, response_key = jax.random.split(key)
        prompts = TOY.sample_prompts(prompt_key, shape.rows)[row // k]
        responses, _ = TOY.sample_responses(response_key, prompts, 1)
        losses = mdn_nll(model, prompts, responses)[:, 0]
        return jnp.sum(jnp.where(row < n_prompts * k, losses, 0)) / (n_prompts * k)

    def record(model: MDN) -> dict[str, Array]:
        return (
            gradient_components(model, points) if shape.components else {"nll": judge(model, points)["nll"]}
        )

    start = MDN(model_key)
    trained = fit(start, objective, recipe, jax.random.split(batch_key, recipe.steps), record=record)
    whole = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), record(start), trained.records
    )
    return {**whole, "diverged": trained.diverged}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train every split at every price; components along the middle split of the first price."""
    points = TOY.prompts_at(jnp.asarray(sobol_prompts(config.points), jnp.float32))
    recipe, truth = config.recipe, true_nll()
    splits = {price: [(config.prompts(price, k), k) for k in config.responses] for price in config.prices}
    names = {(n, k): f"n={n}/k={k}" for n, k in sorted(set().union(*splits.values()))}
    shape = Shape(max(n * k for n, k in names), recipe)
    runs = sweep.grid(
        train_online,
        key,
        config.replicates,
        {name: (np.int32(n), np.int32(k), points, shape) for (n, k), name in names.items()},
        block=config.block,
    )
    prices = []
    for price, used in splits.items():
        excess = np.stack([runs[names[split]]["nll"] - truth for split in used], axis=-1)
        prices.append({"price": price, "prompts": [n for n, _ in used], **_summarise(config, excess)})
    middle = config.responses[len(config.responses) // 2]
    components = sweep.replicates(
        "components",
        train_online,
        key,
        config.component_replicates,
        np.int32(config.prompts(config.prices[0], middle)),
        np.int32(middle),
        points,
        replace(shape, components=True),
        block=config.block,
    )
    return {
        "responses": list(config.responses),
        "steps": list(range(0, recipe.steps + 1, recipe.validate_every)),
        "replicates": config.replicates,
        "true_nll": truth,
        "prices": prices,
        "components": _components(components, config.prices[0]) | {"responses": middle},
        "diverged": sum(int(np.sum(found["diverged"] < recipe.steps)) for found in runs.values()),
    }


def _summarise(config: Config, excess: np.ndarray) -> dict[str, Any]:
    """Mean curves, and the best split at every check after the start, of (replicates, checks, responses)."""
    ks = list(config.responses)
    return {
        "excess": excess.mean(0),
        "standard_error": excess.std(0, ddof=1) / np.sqrt(len(excess)),
        "best": [intervals.best(excess[:, check], ks, chosen=ks[0]) for check in range(1, excess.shape[1])],
        # over the best split; resampled together, so that what the splits share cancels
        "final": intervals.bootstrap(excess[:, -1], lambda runs: runs.mean(0) / runs.mean(0).min()),
    }


def _components(found: dict[str, np.ndarray], price: float) -> dict[str, Any]:
    """Traces along training, their ratio, and the K* they give where a prompt costs `price` responses."""

    def ratio(runs: np.ndarray) -> np.ndarray:
        return runs[..., 1].mean(0) / runs[..., 0].mean(0)

    both = np.stack([found["prompt"], found["response"]], axis=-1)
    return {
        "price": price,
        **{name: found[name].mean(0) for name in ("prompt", "response", "signal")},
        "ratio": intervals.bootstrap(both, ratio),
        "k_star": intervals.bootstrap(both, lambda runs: np.sqrt(price * ratio(runs))),
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 4 inside an update: the best split beside the gradient's K*, and prompts against responses."""
    components, ks = result["components"], result["responses"]
    found, half = [], len(result["steps"]) // 2
    for entry in result["prices"]:
        best, price = entry["best"][-1], entry["price"]
        if price == components["price"]:
            # The gradient's noise over the second half of training, when it limits the loss.
            k_star = float(np.median(components["k_star"]["estimate"][half:]))
            found.append(
                Prediction(
                    "batch.best-k",
                    4,
                    f"K that trains best inside an update of equal cost (a prompt costs {price:g} responses)",
                    read(best),
                    within_factor(NEAR, k_star, Source.MEASURED),
                    Role.LIMIT,
                    note=f"after {result['steps'][-1]} steps; compared with the gradient's K*, exact at the networks "
                    "along the way, median over the second half of training",
                )
            )
            nearest = int(np.argmin(np.abs(np.log(np.array(ks) / k_star))))
            found.append(
                Prediction(
                    "batch.nearest-to-k-star",
                    4,
                    f"excess NLL inside an update, K = {ks[nearest]} (nearest to the gradient's K*) / best split",
                    read(entry["final"], nearest),
                    below(1 + SMALL),
                    Role.LIMIT,
                )
            )
        elif price == 0:
            found.append(
                Prediction(
                    "batch.sequences.k1",
                    4,
                    f"excess NLL, updates of a fixed number of sequences, K = {ks[0]} / best split",
                    read(entry["final"], 0),
                    below(1 + SMALL),
                    Role.LIMIT,
                    note="prompts are free there, so K* = 0",
                )
            )
        if price == 0:
            found.append(
                Prediction(
                    f"batch.sequences.k{ks[-1]}",
                    4,
                    f"excess NLL, updates of a fixed number of sequences, K = {ks[-1]} / best split",
                    read(entry["final"], len(ks) - 1),
                    above(1.0),
                    Role.LIMIT,
                )
            )
    return found
