"""Claims 2 and 3: a number of responses K_i for every prompt by the authors' rule, and what the rows then weigh.

The rule gives every prompt one response of its pool of four, then, one at a time, a further one where the score times
1/k - 1/(k+1) is largest, until the mean K is 2.0 or 2.5. If the score is the variance of the prompt's losses, that
makes the response part of the variance of the prompts' mean, E[Var(l|x)/K(x)], as small as it can be. The authors then
train on rows, so that a prompt weighs K_i: the mean is off by Cov(K, mu)/E K. The toy has prompts whose responses
spread by tau(x), tau^2 = exp(x_3/2), about the centre: y = f(x) + tau u with u the distance of the paper's toy. The
loss (y - f)^2 then has the mean tau^2 E u^2 and the variance tau^4 Var u^2, and every K(x) is a step function of x_3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.optimize import brentq
from scipy.special import ndtr

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Role, below, equals, read
from experiments.shared.mdn_training import RECIPES, STEPS, Sample, judge, shifted, sobol_prompts, true_nll
from experiments.shared.training import Recipe, fit
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import Rule
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, normal_quantile
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN, MLP
from mrtsim.montecarlo import subkeys

CLAIMS = (2, 3)
MINIBATCHES = Recipe(validate_every=8)
POOL = 4
_MARGIN = 0.05  # within which a measured variance or bias equals the exact one, relative
_UNBIASED = 0.01  # of the mean loss
_ROW_BIAS_MARGIN = 0.005  # of the mean loss

# Scores that are known of the prompt: exponents c of exp(c x_3). The variance of the losses, their mean, the mean
# distance of two responses.
EXPECTED = {"oracle": 1.0, "expected loss": 0.5, "expected diversity": 0.25}
# Scores of a pool: the spread of its losses, of another pool's, its mean loss, its responses' mean distance.
POOLED = ("same pool's spread", "other pool's spread", "pool's loss", "pool's diversity")
SCORES = ("uniform", *EXPECTED, *POOLED)
TRAINED = ("uniform", "oracle", "pool's loss", "pool's diversity")
WEIGHTINGS = ("rows", "prompts")  # what is as likely as any other in a minibatch
LEARNERS = {"value": "error of the mean loss", "density": "excess NLL"}


class ScaledModes(GaussianModes):
    """The paper's toy with distances from the centre that are scaled by tau(x) = exp(x_3 / 4)."""

    def __init__(self) -> None:
        super().__init__()

    def _scaled(
        self, prompts: Float[Array, "*batch d"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        centre = self.centre(prompts)[..., None]
        return centre + tau(prompts)[..., None] * (responses - centre)

    def sample_responses(
        self, key: PRNGKeyArray, prompts: Float[Array, "*batch d"], n: int
    ) -> tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]:
        responses, modes = super().sample_responses(key, prompts, n)
        return self._scaled(prompts, responses), modes

    def quadrature(
        self, prompts: Float[Array, "*batch d"], rule: Rule | None = None
    ) -> tuple[Float[Array, "*batch q"], Float[Array, "*batch q"]]:
        responses, weights = super().quadrature(prompts, rule)
        return self._scaled(prompts, responses), weights

    def log_density(
        self, prompts: Float[Array, "*batch d"], responses: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        scale, centre = tau(prompts)[..., None], self.centre(prompts)[..., None]
        return super().log_density(prompts, centre + (responses - centre) / scale) - jnp.log(scale)


def tau(prompts: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """How far the responses to a prompt spread."""
    return jnp.exp(0.25 * prompts[..., 2])


TOY = ScaledModes()


@dataclass(frozen=True)
class Config:
    """Corpora of `n_prompts`; networks take `recipe.steps` minibatches of `batch` rows of as many prompts."""

    n_prompts: int = 860
    means: tuple[float, ...] = (2.0, 2.5)
    replicates: int = 2_000
    learner_replicates: int = 6
    batch: int = 64
    recipe: Recipe = MINIBATCHES

    def __post_init__(self):
        for mean in self.means:
            if not 1 <= mean <= POOL or (mean * self.n_prompts) % 1:
                raise InputError(
                    f"a mean of {mean:g} responses per prompt must lie between 1 and {POOL}, and make a whole number "
                    f"of rows of {self.n_prompts} prompts"
                )

    def further(self, mean: float) -> int:
        """Responses beyond the first of every prompt."""
        return round((mean - 1) * self.n_prompts)


PRESETS = {
    "quick": Config(replicates=400, learner_replicates=3),
    "paper": Config(),
    "precise": Config(replicates=40_000, learner_replicates=150),
}


def greedy(scores: Float[Array, " prompts"], further: int | Array) -> Int[Array, " prompts"]:
    """K_i between 1 and the pool's size: one each, then `further` more where score (1/k - 1/(k+1)) is largest.

    A prompt's gains fall with k, so that the largest gains of all prompts are those of the greedy rule. Ties go to the
    first prompt.
    """
    k = jnp.arange(1, POOL)
    gains = (scores[:, None] / (k * (k + 1))).T.ravel()  # k leads: of equal gains every prompt has its first
    least = jnp.where(further > 0, jnp.sort(gains, descending=True)[further - 1], jnp.inf)
    above, equal = gains > least, gains == least
    taken = above | (equal & (jnp.cumsum(equal) <= further - jnp.sum(above)))
    return 1 + jnp.sum(taken.reshape(POOL - 1, -1), axis=0)


class Law(NamedTuple):
    """Exact in the limit of many prompts.

    `variance` is n times that of the prompts' mean, V_x + `response`; `bias` that of the rows' mean, over the mean
    loss; `row_variance` n times the variance of the rows' mean.
    """

    response: float
    variance: float
    bias: float
    row_variance: float


def moments() -> tuple[float, float]:
    """E u^2 and Var u^2."""
    offsets, noise, weights = TOY.offsets, TOY.scales, TOY.weights
    second = float(weights @ (offsets**2 + noise**2))
    fourth = float(weights @ (offsets**4 + 6 * offsets**2 * noise**2 + 3 * noise**4))
    return second, fourth - second**2


def components() -> tuple[float, float]:
    """V_x and V_{y|x} of the loss (y - f)^2: tau^2 and tau^4 are log-normal."""
    second, variance = moments()
    return second**2 * math.exp(0.25) * math.expm1(0.25), variance * math.exp(0.5)


def law(exponent: float | None, mean: float) -> Law:
    """The exact law where the score is exp(exponent x_3), or, without one, as equal K as the mean allows.

    K(x) passes k where exp(c x_3) passes lambda k (k + 1); lambda follows from the mean. With z = x_3 normal,
    E[exp(b z); z < t] = exp(b^2/2) Phi(t - b).
    """
    k = np.arange(1, POOL + 1)
    if exponent is None:
        share = np.clip(1 - np.abs(k - mean), 0, None)

        def expected(of_k: np.ndarray, b: float) -> float:
            return float(share @ of_k) * math.exp(b * b / 2)
    else:
        steps = np.log(k[:-1] * (k[:-1] + 1.0))
        price = brentq(lambda p: 1 + ndtr(-(p + steps) / exponent).sum() - mean, -50, 50, xtol=1e-14)
        ends = np.concatenate([[-np.inf], (price + steps) / exponent, [np.inf]])

        def expected(of_k: np.ndarray, b: float) -> float:
            return float(np.diff(ndtr(ends - b)) @ of_k) * math.exp(b * b / 2)

    second, variance = moments()
    response = variance * expected(1 / k, 1.0)
    rows = second * expected(k, 0.5) / mean
    square = expected(k**2, 0.0) * rows**2 - 2 * rows * second * expected(k**2, 0.5)
    square += second**2 * expected(k**2, 1.0)
    return Law(
        response=response,
        variance=components()[0] + response,
        bias=rows / (second * math.exp(0.125)) - 1,
        row_variance=(square + variance * expected(k, 1.0)) / mean**2,
    )


def scores_of(
    prompts: Float[Array, "n d"], pool: Float[Array, "n 4"], other: Float[Array, "n 4"]
) -> Float[Array, "scores n"]:
    """SCORES of prompts with a pool of responses each, and another that is not trained on."""
    expected = [jnp.exp(exponent * prompts[:, 2]) for exponent in EXPECTED.values()]
    losses, others = -TOY.reward(prompts, pool), -TOY.reward(prompts, other)
    distance = jnp.mean(jnp.abs(pool[:, :, None] - pool[:, None]), axis=(1, 2))
    spread = [jnp.var(values, axis=1, ddof=1) for values in (losses, others)]
    return jnp.stack([jnp.ones(len(prompts)), *expected, *spread, jnp.mean(losses, axis=1), distance])


def mean_losses(key: PRNGKeyArray, config: Config) -> dict[str, Float[Array, "means scores"]]:
    """The mean loss over prompts and over rows of one corpus for every mean K and score.

    A response of the pool is as likely to come first as any other, whatever the score, so the first K_i are kept.
    `given_pool` is n times the exact variance of the prompts' mean given the pools.
    """
    prompt_key, pool_key, other_key = jax.random.split(key, 3)
    prompts = TOY.sample_prompts(prompt_key, config.n_prompts)
    pool, other = (TOY.sample_responses(k, prompts, POOL)[0] for k in (pool_key, other_key))
    scores = scores_of(prompts, pool, other)
    losses = -TOY.reward(prompts, pool)
    sums, spread = jnp.cumsum(losses, axis=1), jnp.var(losses, axis=1, ddof=1)

    def one(scores: Array, further: int) -> dict[str, Array]:
        k = greedy(scores, further)
        kept = jnp.take_along_axis(sums, k[:, None] - 1, axis=1)[:, 0]
        return {
            "prompts": jnp.mean(kept / k),
            "rows": jnp.sum(kept) / jnp.sum(k),
            "given_pool": jnp.mean((1 / k - 1 / POOL) * spread),
        }

    found = [jax.vmap(lambda s, m=m: one(s, config.further(m)))(scores) for m in config.means]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *found)


def draw_rows(
    key: PRNGKeyArray, k: Int[Array, " prompts"], shape: tuple[int, ...], by_prompt: float
) -> Int[Array, "*shape"]:
    """Cells (prompt times the pool's size + response) of rows drawn at random among those that are kept.

    Args:
        key: of the draw.
        k: responses kept of each prompt, the first of its pool.
        shape: of the draw.
        by_prompt: 1 where every prompt is as likely as any other, and then each of its rows; 0 where every row is.
    """
    first, second = jax.random.uniform(key, (2, *shape))
    cells = jnp.argsort(
        jnp.arange(POOL) >= k[:, None], axis=None, stable=True
    )  # those that are kept come first
    prompt = (first * len(k)).astype(int)
    alike = prompt * POOL + (second * k[prompt]).astype(int)
    return jnp.where(by_prompt, alike, cells[(first * jnp.sum(k)).astype(int)])


def trained_loss(
    key: PRNGKeyArray, config: Config, learner: str, which: int, further: int, by_prompt: float
) -> dict[str, Float[Array, ""]]:
    """Test loss of a network trained on minibatches of rows, by recipe.

    The learner "value" regresses the loss (y - f)^2 on the prompt, so that its targets vary as the oracle
    knows: its test loss is the squared error of the mean loss that it predicts. The learner "density" is the mixture
    network with its NLL. All scores, means and weightings of a learner share one program, and with the same key also
    pools, network and held-out sets.
    """
    prompt_key, pool_key, other_key, batch_key, held_out_key, init_key, test_key = jax.random.split(key, 7)
    n, recipe, second = config.n_prompts, config.recipe, moments()[0]
    prompts = TOY.sample_prompts(prompt_key, n)
    pool, other = (TOY.sample_responses(k, prompts, POOL)[0] for k in (pool_key, other_key))
    k = greedy(scores_of(prompts, pool, other)[which], further)
    cell = draw_rows(batch_key, k, (recipe.steps, config.batch), by_prompt)
    batches = Sample(prompts[cell // POOL], pool.ravel()[cell][..., None])
    fresh = TOY.sample_prompts(held_out_key, 100)
    validation = Sample(fresh, TOY.sample_responses(jax.random.fold_in(held_out_key, 0), fresh, 16)[0])
    test = shifted(jnp.asarray(sobol_prompts(128), prompts.dtype), test_key)

    def regression(model: Any, x: Array, y: Array) -> Array:
        return jnp.square(model(x)[:, None] + TOY.reward(x, y))

    value = learner == "value"
    loss: Any = regression if value else mdn_nll
    fitted = fit(
        MLP(init_key, width=64) if value else MDN(init_key),
        lambda model, batch: jnp.mean(loss(model, *batch)),
        recipe,
        batches,
        validate=lambda model: jnp.mean(loss(model, *validation)),
    )

    def test_loss(model: Any) -> Array:
        if value:
            return jnp.mean(jnp.square(model(test) - second * jnp.square(tau(test))))
        return judge(model, test, TOY)["nll"]

    return {name: test_loss(getattr(fitted, name)) for name in RECIPES}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Corpora of every score and mean K against the exact law, and networks trained on rows weighted in two ways."""
    corpus_key, learner_key = subkeys(key, 2)
    with jax.enable_x64(True):
        means = sweep.replicates("corpora", mean_losses, corpus_key, config.replicates, config, block=16)
    second, _ = moments()
    truth = second * math.exp(0.125)
    return {
        "n_prompts": config.n_prompts,
        "means": list(config.means),
        "replicates": config.replicates,
        "components": dict(zip(("prompt", "response"), components(), strict=True)),
        "mean_loss": truth,
        "corpora": [
            _summarise(config, mean, {name: values[:, i] for name, values in means.items()}, truth)
            for i, mean in enumerate(config.means)
        ],
        "learner": _train(config, learner_key, sweep),
    }


def _summarise(config: Config, mean: float, found: dict[str, np.ndarray], truth: float) -> dict[str, Any]:
    """n times the variances, biases and squared errors of one mean K, by score, from means (replicates, scores)."""
    n, v = config.n_prompts, components()
    squares = {name: n * (found[name] - found[name].mean(0)) ** 2 for name in ("prompts", "rows")}
    errors = n * (found["rows"] - truth) ** 2
    uniform = squares["prompts"][:, 0]
    rows: dict[str, Any] = {}
    for i, name in enumerate(SCORES):
        exponent = EXPECTED.get(name)
        exact = None if name in POOLED else law(exponent, mean)
        given_pool = intervals.mean(v[0] + v[1] / POOL + found["given_pool"][:, i])
        rows[name] = {
            "variance": intervals.mean(squares["prompts"][:, i] * len(uniform) / (len(uniform) - 1)),
            "given_pool": given_pool,
            "exact": None if exact is None else exact._asdict(),
            "over_uniform": _ratio(squares["prompts"][:, i], uniform),
            "bias": intervals.mean(found["prompts"][:, i] / truth - 1),
            "row_bias": intervals.mean(found["rows"][:, i] / truth - 1),
            "row_error_over_uniform": _ratio(errors[:, i], uniform),
        }
    return {"mean": mean, "scores": rows}


def _ratio(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Ratio of the means of paired replicates, with a normal interval of its logarithm."""
    value = first.mean() / second.mean()
    error = np.std(first / first.mean() - second / second.mean(), ddof=1) / np.sqrt(len(first))
    log = Estimate.from_standard_error(math.log(value), float(error))
    return Estimate(float(value), math.exp(log.low), math.exp(log.high))


def _train(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Excess test loss by learner, mean K, score and weighting over that of equal K."""
    settings = [("uniform", "prompts"), *product(TRAINED[1:], WEIGHTINGS)]
    learners: dict[str, Any] = {}
    for i, learner in enumerate(LEARNERS):
        means = config.means if learner == "value" else config.means[:1]
        labels = {
            f"{learner}/mean={mean:g}/{name}/{weighting}": (mean, name, weighting)
            for mean in means
            for name, weighting in settings
        }
        found = sweep.grid(
            trained_loss,
            jax.random.fold_in(key, i),
            config.learner_replicates,
            {
                label: (
                    config,
                    learner,
                    SCORES.index(name),
                    config.further(mean),
                    float(weighting == "prompts"),
                )
                for label, (mean, name, weighting) in labels.items()
            },
            block=2,
        )
        # scaling about the centre adds E log tau = 0 to the entropy
        least = true_nll() if learner == "density" else 0.0
        excess = {
            how: {recipe: found[label][recipe] - least for recipe in RECIPES} for label, how in labels.items()
        }
        learners[learner] = [
            {"mean": mean} | {recipe: _compare(excess, mean, recipe) for recipe in RECIPES} for mean in means
        ]
    return {
        "steps": config.recipe.steps,
        "batch": config.batch,
        "replicates": config.learner_replicates,
        "learners": learners,
    }


def _compare(
    excess: dict[tuple[float, str, str], dict[str, np.ndarray]], mean: float, recipe: str
) -> dict[str, Any]:
    """Mean excess of equal K, and by score and weighting the ratio to it; the runs are paired."""
    uniform = excess[mean, "uniform", "prompts"][recipe]

    def ratio(values: np.ndarray) -> dict[str, Any]:
        both = np.stack([values, uniform], axis=-1)
        return intervals.bootstrap(
            both, lambda runs: runs[..., 0].mean(-1) / runs[..., 1].mean(-1), vectorized=True
        )

    return {
        "uniform": intervals.mean(uniform),
        "over_uniform": {
            name: {weighting: ratio(excess[mean, name, weighting][recipe]) for weighting in WEIGHTINGS}
            for name in TRAINED[1:]
        },
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 2 where K differs between prompts, claim 3's diminishing returns as a rule, and what training does."""
    found = [_law(result, exact=True), _law(result, exact=False), _unbiased(result)]
    for corpus in result["corpora"]:
        mean = corpus["mean"]
        for name in EXPECTED:
            row = corpus["scores"][name]
            found.append(
                Prediction(
                    f"adaptive.row-bias.{_slug(name, mean)}",
                    2,
                    f"bias of the rows' mean loss, relative, {name}, mean K = {mean:g}",
                    read(row["row_bias"]),
                    equals(row["exact"]["bias"], absolute=_ROW_BIAS_MARGIN),
                    Role.LIMIT,
                    note="Cov(K, mu) / (E K E mu); rows weigh a prompt by its K",
                )
            )
    for corpus in result["corpora"]:
        mean = corpus["mean"]
        for name in ("oracle", *POOLED):
            row = corpus["scores"][name]
            exact = row["exact"]
            uniform = corpus["scores"]["uniform"]["exact"]["variance"]
            # the authors have no score of another pool
            role = Role.CONTEXT if name.startswith("other") else Role.LIMIT
            found += [
                Prediction(
                    f"adaptive.gain.{_slug(name, mean)}",
                    3,
                    f"variance of the prompts' mean loss, K by {name} / equal K, mean K = {mean:g}",
                    read(row["over_uniform"]),
                    below(1.0),
                    role,
                    note="" if exact is None else f"exact {exact['variance'] / uniform:.4f}",
                ),
                Prediction(
                    f"adaptive.rows-error.{_slug(name, mean)}",
                    3,
                    f"squared error of the rows' mean loss, K by {name} / equal K, mean K = {mean:g}",
                    read(row["row_error_over_uniform"]),
                    below(1.0),
                    role,
                    note=f"the authors' weighting, at {result['n_prompts']} prompts",
                ),
            ]
    for learner, rows in result["learner"]["learners"].items():
        for row, (recipe, label) in product(rows, STEPS.items()):
            for weighting, name in product(WEIGHTINGS, TRAINED[1:]):
                found.append(
                    Prediction(
                        f"adaptive.trained.{learner}-{weighting}-{recipe}-{_slug(name, row['mean'])}",
                        3,
                        f"{LEARNERS[learner]}, K by {name} / equal K, mean {row['mean']:g}, {weighting} alike, {label}",
                        read(row[recipe]["over_uniform"][name][weighting]),
                        below(1.0),
                        Role.LIMIT,
                    )
                )
    return found


def _law(result: dict[str, Any], *, exact: bool) -> Prediction:
    """The measured variances of the prompts' mean against the law, with limits that hold for all of them at once."""
    cells = []
    for corpus in result["corpora"]:
        for name, row in corpus["scores"].items():
            if (name in POOLED) != exact:
                target = row["exact"]["variance"] if exact else row["given_pool"]["estimate"]
                cells.append((read(row["variance"]), target))
    scale = normal_quantile(1 - 0.05 / len(cells)) / normal_quantile()
    distance = np.array([abs(ours.value / target - 1) for ours, target in cells])
    half = scale * np.array([(ours.high - ours.low) / 2 / target for ours, target in cells])
    kind = "scores known of the prompt, exact" if exact else "scores of a pool, given the pools"
    return Prediction(
        f"adaptive.law.{'expected' if exact else 'pooled'}",
        2,
        f"largest distance of {len(cells)} variances from V_x/n + sum s_i/K_i /n^2, relative, {kind}",
        intervals.largest_distance(distance, half),
        below(_MARGIN),
        Role.LIMIT,
        note="every mean K and score; simultaneous limits",
    )


def _unbiased(result: dict[str, Any]) -> Prediction:
    """The largest bias of the prompts' mean over all scores, with limits that hold for all of them at once."""
    cells = [read(row["bias"]) for corpus in result["corpora"] for row in corpus["scores"].values()]
    scale = normal_quantile(1 - 0.05 / len(cells)) / normal_quantile()
    half = scale * np.array([(cell.high - cell.low) / 2 for cell in cells])
    size = np.abs([cell.value for cell in cells])
    return Prediction(
        "adaptive.prompts-bias",
        2,
        f"largest of {len(cells)} biases of the prompts' mean loss, relative",
        intervals.largest_distance(size, half),
        below(_UNBIASED),
        Role.LIMIT,
        note="every mean K and score, scores of the trained pool too; simultaneous limits",
    )


def _slug(name: str, mean: float) -> str:
    """The last part of an id: those of one question differ in it alone, and take one line of the page."""
    return f"{name}-k{mean:g}".replace("'s ", "-").replace(" ", "-").replace(".", "-")
