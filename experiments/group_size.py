"""The best group size for reinforcement learning at equal budget, by the exact gradient variance and by training.

RLOO, Dr.GRPO and GRPO compare the rewards of G responses per prompt; G times N prompts is the budget of an update.
The policy (`experiments.shared.token_policy`) has an exact variance law and an exact expected reward, before training
and after it. Policies are trained by plain gradient ascent at several rates, and each group size is judged at its best
one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    Source,
    above,
    below,
    between,
    equals,
    number,
    read,
    within_factor,
)
from experiments.shared.token_policy import (
    METHODS,
    Floats,
    Parts,
    Shape,
    a_and_b,
    draw_problem,
    estimate_gradient,
    exact_noise,
    exact_parts,
    parts_in_float64,
    simulated_variance,
)
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, normal_quantile
from mrtsim.montecarlo import subkeys
from mrtsim.plan.allocate import Cost
from mrtsim.plan.rollouts import GradientComponents, best_group

CLAIMS = (4,)
TRAINED = ("rloo", "grpo")  # Dr.GRPO is RLOO at (G - 1) / G of its rate
NEAR = 2.0  # "near the law's best G" is within this factor
SMALL = 0.05  # a loss of less than this share of the reward gained is small
_MARGIN = 0.03  # within which a simulated variance equals the exact one, relative
_FLAT = 0.1  # a slope of log(best G) in log(compute) within this is none
_STRETCHES = 16  # of a training run
LEVELS = [2, 4, 8, 16]  # stretches after which policies are compared


@dataclass(frozen=True)
class Config:
    """Policies of several lengths, updates of several budgets, each trained on `compute` responses in all.

    `rates` are learning rates of updates of the first budget; those of the others are in proportion to the budget. The
    law is averaged over `problems` sets of prompts; every training replicate draws its own. `draws` are pairs of
    simulated gradients per problem.
    """

    tokens: tuple[int, ...] = (1, 16)
    budgets: tuple[int, ...] = (48, 192)
    group_sizes: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16)
    rates: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0)
    compute: int = 24_576
    replicates: int = 8
    problems: int = 16
    draws: int = 256
    n_prompts: int = 64
    features: int = 32
    actions: int = 4
    block: int = 4

    def __post_init__(self):
        if {2, 16} - set(self.group_sizes) or list(self.group_sizes) != sorted(set(self.group_sizes)):
            raise InputError(f"group_sizes must be increasing and contain 2 and 16, not {self.group_sizes}")
        for budget in self.budgets:
            if budget < self.group_sizes[-1] or self.compute % (budget * _STRETCHES):
                raise InputError(
                    f"an update of {budget} responses must pay a group of {self.group_sizes[-1]}, and "
                    f"{_STRETCHES} x {budget} must divide compute = {self.compute}"
                )

    def shape(self, tokens: int, budget: int) -> Shape:
        """The sizes of policies of a length that are trained by updates of a budget."""
        return Shape(self.n_prompts, tokens, self.features, self.actions, budget, self.compute // budget)


PRESETS = {
    "quick": Config(
        tokens=(4,),
        budgets=(48,),
        group_sizes=(2, 4, 16),
        rates=(16.0, 64.0),
        compute=3_072,
        replicates=4,
        problems=4,
        draws=100,
    ),
    "paper": Config(),
    "precise": Config(
        tokens=(1, 4, 16),
        rates=(4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
        replicates=100,
        problems=32,
        draws=500,
    ),
}


def train_once(
    key: PRNGKeyArray,
    method: Array,
    group_size: Array,
    rates: Float[Array, " rates"],
    shape: Shape,
) -> Any:
    """Exact expected reward along one training on prompts of its own: (rates, 1 + stretches), the start first.

    Group sizes, methods and rates with the same key share the problem and the random numbers.
    """
    problem_key, train_key = jax.random.split(key)
    problem = draw_problem(problem_key, shape)
    keys = jax.random.split(train_key, shape.steps).reshape(_STRETCHES, -1)

    def record(policy: Array) -> Any:
        parts = exact_parts(policy, problem)
        if not shape.follow:
            return jnp.mean(parts.rate)
        common = jnp.sum(jnp.mean(parts.gradient, axis=0) ** 2)
        return parts._replace(gradient=jnp.mean(parts.squared_gradient) - common)  # V_x in its place

    def at_rate(rate: Array) -> Any:
        def step(policy: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            slope = estimate_gradient(key, problem, policy, method, group_size, shape.budget)
            return policy + rate * slope, None

        def stretch(policy: Array, keys: PRNGKeyArray) -> tuple[Array, Any]:
            policy, _ = jax.lax.scan(step, policy, keys)
            return policy, record(policy)

        _, records = jax.lax.scan(stretch, problem.start, keys)
        start = record(problem.start)
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, records)

    return jax.vmap(at_rate)(rates)


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Exact and simulated variance at the start, then training at every length, budget, method and group size."""
    problem_key, draw_key, train_key = subkeys(key, 3)
    entries = []
    for tokens in config.tokens:
        shape = config.shape(tokens, config.budgets[0])
        problems = jax.vmap(partial(draw_problem, shape=shape))(
            jax.random.split(problem_key, config.problems)
        )
        parts = parts_in_float64(problems)
        names = {size: f"variance/tokens={tokens}/g={size}" for size in config.group_sizes}
        found = sweep.grid(
            simulated_variance,
            draw_key,
            config.draws,
            {name: (problems, size, shape) for size, name in names.items()},
        )
        simulated = np.stack([found[name] for name in names.values()], axis=1)
        law = {m: _law(config, parts, simulated[..., i], m) for i, m in enumerate(METHODS)}
        trained = {m: _train(config, train_key, sweep, tokens, m, law[m]["best_g"]) for m in TRAINED}
        entries.append(
            {
                "tokens": tokens,
                **_describe(config, parts),
                "law": law,
                "trained": trained,
                "followed": _follow(config, train_key, sweep, tokens, trained["rloo"]),
            }
        )
    return {
        "group_sizes": list(config.group_sizes),
        "budgets": list(config.budgets),
        "rates": list(config.rates),
        "compute": [config.compute * level // _STRETCHES for level in LEVELS],
        "replicates": config.replicates,
        "policies": entries,
    }


def _describe(config: Config, parts: Parts) -> dict[str, Any]:
    """R^2 and coherence, success rates, the law's components, and its best G at a budget and at 64 times that."""
    v = parts.rate * (1 - parts.rate)
    squares = parts.rate * parts.spread_success + (1 - parts.rate) * parts.spread_failure
    squares = squares + parts.squared_gradient / v
    common = np.mean(np.sum(np.mean(parts.gradient, axis=1) ** 2, axis=(-2, -1)))
    a, b = (float(np.mean(part)) for part in a_and_b(parts))
    components = GradientComponents(float(np.mean(parts.squared_gradient) - common), a, b)
    plans = [
        best_group(components, Cost(0.0, 1.0), budget=factor * config.budgets[-1], max_group_size=256)
        for factor in (1, 64)
    ]
    return {
        "signal": float(np.mean(parts.squared_gradient) / np.mean(v * squares)),
        "coherence": float(common / np.mean(parts.squared_gradient)),
        "success_rate": {"mean": float(np.mean(parts.rate)), "std": float(np.std(parts.rate))},
        "components": {"prompt": components.prompt, "a": a, "b": b},
        "plans": [plan.group_size for plan in plans],
        "continuous_g": plans[0].continuous_group_size,
    }


def _law(config: Config, parts: Parts, simulated: Floats, method: str) -> dict[str, Any]:
    """Exact variance of an update per group size at the first budget, and the simulated one over it.

    What is compared between group sizes, at every budget, is the variance over the squared norm of the mean: RLOO's
    mean does not depend on G, those of the others do, and a learning rate makes up for it.
    """
    exact, signal = np.array([exact_noise(parts, method, size) for size in config.group_sizes]).T
    groups = np.array([[budget // size for size in config.group_sizes] for budget in config.budgets])
    noise = exact / signal / groups
    ratio = simulated / (exact / groups[0])
    return {
        "variance": exact / groups[0],
        "noise_to_signal": noise,
        "best_g": [config.group_sizes[i] for i in noise.argmin(1)],
        "simulated_over_exact": {
            "estimate": ratio.mean(0),
            "standard_error": ratio.std(0, ddof=1) / np.sqrt(len(ratio)),
        },
    }


def _train(
    config: Config, key: PRNGKeyArray, sweep: Any, tokens: int, method: str, chosen: list[int]
) -> dict[str, Any]:
    """Reward of every group size and rate at the levels of compute, by budget; `chosen` are the law's best G."""
    rewards = []
    for budget in config.budgets:
        names = {size: f"train/tokens={tokens}/b={budget}/{method}/g={size}" for size in config.group_sizes}
        rates, shape = _rates(config, budget), config.shape(tokens, budget)
        which = list(METHODS).index(method)
        found = sweep.grid(
            train_once,
            key,
            config.replicates,
            {name: (which, size, rates, shape) for size, name in names.items()},
            block=config.block,
        )
        rewards.append(np.stack([found[name][..., [0, *LEVELS]] for name in names.values()], axis=1))
    return _summarise(config, np.stack(rewards, axis=1), chosen)


def _rates(config: Config, budget: int) -> Float[Array, " rates"]:
    """In proportion to the budget, so that equal compute climbs equally far but for the noise."""
    return jnp.asarray(config.rates) * (budget / config.budgets[0])


def tuned(reward: Floats) -> Floats:
    """Mean reward of (..., replicates, budgets, sizes, rates, checks) at each group size's best rate."""
    return reward.mean(axis=-5).max(axis=-2)


def _summarise(config: Config, reward: Floats, chosen: list[int]) -> dict[str, Any]:
    """What training says: the best G, what others lose, how the best G moves with the compute.

    `reward` is (replicates, budgets, sizes, rates, 1 + levels), the start first; replicates are resampled whole, and
    the rate is chosen anew in each resample.
    """
    sizes, x = np.array(config.group_sizes, float), np.log(LEVELS)
    at = np.array([config.group_sizes.index(g) for g in chosen])
    two, sixteen = (config.group_sizes.index(g) for g in (2, 16))

    def gain(values: Floats) -> Floats:
        """(..., budgets, sizes, levels) above the start."""
        found = tuned(values)
        return found[..., 1:] - found[..., :1]

    def share(values: Floats) -> Floats:
        gained = gain(values)
        return gained / gained.max(axis=-2, keepdims=True)

    def lost(values: Floats) -> Floats:
        """At the law's best G, the most over the levels, (..., budgets)."""
        return 1 - share(values)[..., np.arange(len(at)), at, :].min(axis=-1)

    def best(values: Floats) -> Floats:
        return sizes[gain(values).argmax(axis=-2)]

    def slopes(values: Floats) -> Floats:
        """Of log(best G) in log(compute), mean over budgets: over all levels, and of the first less the last two."""
        winners = np.log(best(values)).mean(axis=-2)
        centred, steps = x - x.mean(), np.diff(winners) / np.diff(x)
        return np.stack([winners @ centred / np.sum(centred**2), steps[..., 0] - steps[..., -1]], axis=-1)

    def two_over_sixteen(values: Floats) -> Floats:
        """Gain after all the compute, mean over budgets."""
        gained = gain(values)[..., -1].mean(axis=-2)
        return gained[..., two] / gained[..., sixteen]

    statistics = {f.__name__: f for f in (share, lost, best, slopes, two_over_sixteen)}
    drawn = {name: intervals.bootstrap(reward, f, vectorized=True) for name, f in statistics.items()}
    mean = reward.mean(0)
    return {
        "reward": tuned(reward)[..., 1:],
        "best_rate": np.array(config.rates)[mean.argmax(axis=2)[..., 1:]],
        "start": float(mean[..., 0].mean()),
        **{name: intervals.held(found) for name, found in drawn.items()},
    }


def _follow(
    config: Config, key: PRNGKeyArray, sweep: Any, tokens: int, trained: dict[str, Any]
) -> dict[str, Any]:
    """The law's best G along a training with RLOO, at the largest budget, the best G and its best rate at the end."""
    budget = config.budgets[-1]
    size = int(trained["best"]["estimate"][-1, -1])
    rate = float(trained["best_rate"][-1, config.group_sizes.index(size), -1])
    shape = replace(config.shape(tokens, budget), follow=True)
    scale = _rates(config, budget) / jnp.asarray(config.rates)
    parts = sweep.replicates(
        f"follow/tokens={tokens}",
        train_once,
        key,
        config.replicates,
        list(METHODS).index("rloo"),
        size,
        rate * scale[:1],
        shape,
        block=config.block,
    )
    parts = Parts(*(part[:, 0] for part in parts))  # the one rate
    both = np.stack([a_and_b(parts)[0], parts.gradient], axis=-1)  # A and V_x, (replicates, checks)

    def best(runs: Floats) -> Floats:
        a, v_prompt = np.moveaxis(runs.mean(axis=-3), -1, 0)
        return 1 + np.sqrt(a / v_prompt)

    grown = intervals.bootstrap(both, lambda runs: best(runs)[..., -1] / best(runs)[..., 0], vectorized=True)
    return {
        "group_size": size,
        "rate": rate,
        "compute": [config.compute * check // _STRETCHES for check in range(_STRETCHES + 1)],
        "reward": parts.rate.mean(axis=(0, 2)),
        "best_g": intervals.bootstrap(both, best, vectorized=True),
        "grown": intervals.held(grown),
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 4 where responses are compared within their group: limits by the law and by training; three readings."""
    found = [_all_variances(result)]
    for entry in result["policies"]:
        tag, words = f"t{entry['tokens']}", f"R^2 = {entry['signal']:.2g}"
        for method, name in METHODS.items():
            law = entry["law"][method]
            best = law["best_g"][0]
            found.append(
                Prediction(
                    f"group_size.variance.{method}.{tag}",
                    4,
                    f"variance of {name}'s gradient, simulated / exact, G = {best}, {words}",
                    read(law["simulated_over_exact"], result["group_sizes"].index(best)),
                    equals(1.0, relative=_MARGIN),
                    Role.CONTEXT,
                    note=f"the G with the least variance at equal budget; {entry['tokens']} tokens per response",
                )
            )
        for method in TRAINED:
            found += _of_training(result, entry, method)
        found += _of_the_law(entry)
    return found


def _all_variances(result: dict[str, Any]) -> Prediction:
    cells = [law["simulated_over_exact"] for e in result["policies"] for law in e["law"].values()]
    ratio, error = (np.concatenate([cell[part] for cell in cells]) for part in ("estimate", "standard_error"))
    distance = np.abs(ratio - 1)
    half = error * normal_quantile(1 - 0.05 / len(ratio))
    return Prediction(
        "group_size.variance.all",
        4,
        f"largest deviation of a simulated gradient variance from the exact one, {len(ratio)} settings",
        intervals.largest_distance(distance, half),
        below(_MARGIN),
        Role.LIMIT,
        note=f"every method, G and length; simultaneous limits; largest |z| {float(np.max(distance / error)):.1f}",
    )


def _of_training(result: dict[str, Any], entry: dict[str, Any], method: str) -> list[Prediction]:
    trained, law = entry["trained"][method], entry["law"][method]
    tag = f"{method}.t{entry['tokens']}"
    words = f"{METHODS[method]}, R^2 = {entry['signal']:.2g}"
    found = []
    for i, budget in enumerate(result["budgets"]):
        chosen = law["best_g"][i]
        # RLOO's law has an optimum without whole numbers; GRPO's weights are defined for whole G alone.
        target = entry["continuous_g"] if method == "rloo" else chosen
        found += [
            Prediction(
                f"group_size.best-g.{tag}-b{budget}",
                4,
                f"group size that trains best, {words}, updates of {budget} responses",
                _cell(trained["best"], i, -1),
                within_factor(NEAR, target, Source.EXACT),
                Role.LIMIT,
                note=f"after {result['compute'][-1]:,} responses; compared with the G of the least exact variance; "
                f"the reward is {trained['reward'][i][0][-1]:.3f} at G = 2, "
                f"{trained['reward'][i][-1][-1]:.3f} at G = {result['group_sizes'][-1]}, "
                f"{trained['start']:.3f} at the start",
            ),
            Prediction(
                f"group_size.lost.{tag}-b{budget}",
                4,
                f"share of the reward gained that the law's G = {chosen} loses, {words}, updates of {budget}",
                _cell(trained["lost"], i),
                below(SMALL),
                Role.LIMIT,
                note="against the group size that trains best, the largest of four levels of compute",
            ),
        ]
    slope, slowing = (_cell(trained["slopes"], i) for i in (0, 1))
    per = "per doubling of the compute, in doublings"
    return [
        *found,
        Prediction(
            f"group_size.budget-free.{tag}",
            4,
            f"growth of the best G {per}, {words}",
            slope,
            between(-_FLAT, _FLAT),
            Role.CONTEXT,
            note='a reading of arXiv 2603.01162: "budget-free"',
        ),
        Prediction(
            f"group_size.growing.{tag}",
            4,
            f"growth of the best G {per}, {words}",
            slope,
            above(0.0),
            Role.CONTEXT,
            note='a reading of arXiv 2603.12151: "growing with compute then saturating"',
        ),
        Prediction(
            f"group_size.saturating.{tag}",
            4,
            f"growth of the best G {per}, first − last doubling, {words}",
            slowing,
            above(0.0),
            Role.CONTEXT,
            note='a reading of arXiv 2603.12151: "growing with compute then saturating"',
        ),
        Prediction(
            f"group_size.two-as-sixteen.{tag}",
            4,
            f"reward gained, G = 2 / G = 16, {words}",
            _cell(trained["two_over_sixteen"]),
            above(1 - SMALL),
            Role.CONTEXT,
            note='a reading of arXiv 2510.00977: "2 nearly as good as 16"; after all the compute, mean over budgets',
        ),
    ]


def _of_the_law(entry: dict[str, Any]) -> list[Prediction]:
    few, many = entry["plans"]
    tag, words = f"t{entry['tokens']}", f"R^2 = {entry['signal']:.2g}"
    return [
        Prediction(
            f"group_size.law-budget-free.{tag}",
            4,
            f"the law's best G at 64 times the budget / at the budget, {words}",
            number(many / few),
            within_factor(1.5, 1.0, Source.BOUND),
            Role.CONTEXT,
            note=f"G = {many} and {few}; without whole numbers {entry['continuous_g']:.1f} at every budget",
        ),
        Prediction(
            f"group_size.law-grows.{tag}",
            4,
            f"the law's best G at the trained policy / at the start, {words}",
            _cell(entry["followed"]["grown"]),
            above(1.0),
            Role.CONTEXT,
            note="1 + sqrt(A / V_x) from the exact components along a training with RLOO",
        ),
    ]


def _cell(found: dict[str, Any], *index: int) -> Estimate:
    value, low, high = (np.asarray(found[part], float)[index] for part in ("estimate", "low", "high"))
    return Estimate(float(value), float(low), float(high))
