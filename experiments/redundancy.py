"""Claim 5: in a redundant corpus near-duplicate prompts act as further responses, so that the gain of MRT shrinks.

Prompts come in groups of r, and a dial (`similarity`) takes them from independent to exact duplicates without changing
V_x or V_{y|x}. The variance of the mean loss is V_g/M + V_{x|g}/(M r) + V_{y|x}/(M r K) with N_p = M r; the gain of MRT
is the share of the K = 1 variance that K -> infinity removes, V_{y|x} / (r V_g + V_{x|g} + V_{y|x}); and several
responses pay where K*^2 = V_{y|x} C_p / ((r V_g + V_{x|g}) C_r) > 2, which is where K = 2 beats K = 1 at equal cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    above,
    below,
    equals,
    number,
)
from experiments.shared.mdn_training import (
    RECIPES,
    TOY,
    Sample,
    in_float32,
    judge,
    shifted,
    sobol_prompts,
    train,
    true_nll,
)
from experiments.shared.reference_network import mean_losses, reference_network
from experiments.shared.training import Recipe
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.exact_components import Decomposition, decompose
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, normal_quantile
from mrtsim.losses import squared_loss
from mrtsim.models import MLP
from mrtsim.montecarlo import subkeys
from mrtsim.pilot.estimate import estimate_components
from mrtsim.pilot.intervals import DEFAULT, interval_method
from mrtsim.pilot.sums import PromptSums
from mrtsim.variance import estimator_variance, mrt_gain

CLAIMS = (5,)
_LAW_MARGIN = 0.05  # within which every measured variance equals the exact one, relative
_SETTLED = 3.3  # standard errors at which one of many settings is settled
_OFFSETS = np.array([-1.5, 0.0, 1.5])


@dataclass(frozen=True)
class Config:
    """Corpora of `n_prompts` prompts in groups of every size, pilots of one size for the estimator, trained networks.

    `mode_scales` multiply the distances between the modes, and so set the response diversity V_{y|x}/V_x. The costs are
    those of the paper's E2. With fewer than some 500 prompts a network that stops at the best validation step learns
    next to nothing from any K.
    """

    n_prompts: int = 128
    group_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    similarities: tuple[float, ...] = (0.5, 0.9, 1.0)
    mode_scales: tuple[float, ...] = (0.35, 0.6, 1.0, 1.7)
    responses: tuple[int, ...] = (1, 2, 8)
    replicates: int = 2_000
    c_prompt: float = 4.0
    c_response: float = 1.0
    pilot_groups: int = 50
    pilot_group_size: int = 4
    pilot_responses: int = 4
    pilots: int = 500
    learner_prompts: int = 512
    learner_group_sizes: tuple[int, ...] = (1, 4, 16)
    learner_similarities: tuple[float, ...] = (0.5, 0.9)
    learner_responses: int = 8
    learner_replicates: int = 6
    learner_block: int = 1
    points: int = 2**14

    def __post_init__(self):
        if any(self.n_prompts % size for size in self.group_sizes):
            raise InputError(f"n_prompts = {self.n_prompts} must be a multiple of each of {self.group_sizes}")
        if self.responses[:2] != (1, 2) or len(self.responses) < 3:
            raise InputError(f"responses must start with 1, 2 and go on, not {self.responses}")
        if 1.0 not in self.similarities or 1.0 not in self.mode_scales:
            raise InputError("similarities and mode_scales must contain 1: the map is of exact duplicates")


PRESETS = {
    "quick": Config(
        replicates=500, pilots=300, learner_similarities=(0.5,), learner_replicates=3, points=2**11
    ),
    "paper": Config(),
    "precise": Config(replicates=40_000, pilots=10_000, learner_replicates=100, learner_block=4),
}


def corpus(group_size: int, similarity: float, mode_scale: float) -> ClusteredPrompts:
    """The toy distribution with redundant prompts, and modes further apart or closer together."""
    return ClusteredPrompts(group_size, similarity, offsets=mode_scale * _OFFSETS)


def pilot_losses(
    key: PRNGKeyArray, config: Config, model: MLP, distribution: ClusteredPrompts
) -> Float[Array, "prompts responses"]:
    """The losses of one pilot."""
    prompt_key, response_key = jax.random.split(key)
    prompts = distribution.sample_prompts(prompt_key, config.pilot_groups * config.pilot_group_size)
    responses, _ = distribution.sample_responses(response_key, prompts, config.pilot_responses)
    return squared_loss(model, prompts, responses)


def trained_nll(
    key: PRNGKeyArray, config: Config, distribution: ClusteredPrompts, k: int
) -> dict[str, Float[Array, ""]]:
    """Test NLL of a mixture density network trained on a redundant corpus with k responses per prompt, by recipe.

    All k share one program, and with the same key also prompts and network.
    """
    prompt_key, response_key, held_out_key, init_key, test_key = jax.random.split(key, 5)
    prompts = distribution.sample_prompts(prompt_key, config.learner_prompts)
    responses, _ = distribution.sample_responses(response_key, prompts, config.learner_responses)
    fresh = TOY.sample_prompts(held_out_key, 100)
    validation = Sample(fresh, TOY.sample_responses(jax.random.fold_in(held_out_key, 0), fresh, 16)[0])
    fitted = train(init_key, Sample(prompts, responses), len(prompts), k, Recipe(), validation)
    test = shifted(jnp.asarray(sobol_prompts(128), prompts.dtype), test_key)
    return {recipe: judge(getattr(fitted, recipe), test)["nll"] for recipe in RECIPES}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Corpora of every redundancy, dial and response diversity against the exact law; pilots against the truth."""
    corpus_key, pilot_key, learner_key = subkeys(key, 3)
    # The dial at the paper's diversity, and the map of exact duplicates at every diversity.
    kinds = [(similarity, 1.0) for similarity in config.similarities]
    kinds += [(1.0, scale) for scale in config.mode_scales if scale != 1.0]
    settings, pilots = [], []
    with jax.enable_x64(True):
        model = reference_network()
        for i, (similarity, scale) in enumerate(kinds):
            exact = decompose(squared_loss, model, corpus(2, similarity, scale), points=config.points)
            for j, size in enumerate(config.group_sizes):
                means = sweep.replicates(
                    f"corpus/similarity={similarity}/scale={scale}/r={size}",
                    mean_losses,
                    jax.random.fold_in(corpus_key, i * len(config.group_sizes) + j),
                    config.replicates,
                    config,
                    model,
                    corpus(size, similarity, scale),
                    block=32,
                )
                setting = {"similarity": similarity, "mode_scale": scale, "group_size": size}
                settings.append(setting | _summarise(config, exact, size, means))
            if scale == 1.0:
                losses = sweep.replicates(
                    f"pilots/similarity={similarity}",
                    pilot_losses,
                    jax.random.fold_in(pilot_key, i),
                    config.pilots,
                    config,
                    model,
                    corpus(config.pilot_group_size, similarity, scale),
                    block=32,
                )
                pilots.append({"similarity": similarity} | _judge_pilots(config, exact, losses))
    return {
        "learner": _train(config, learner_key, sweep),
        "n_prompts": config.n_prompts,
        "group_sizes": list(config.group_sizes),
        "responses": list(config.responses),
        "replicates": config.replicates,
        "cost_ratio": config.c_prompt / config.c_response,
        "pilot_group_size": config.pilot_group_size,
        "settings": settings,
        "pilots": pilots,
    }


def _summarise(config: Config, exact: Decomposition, size: int, means: np.ndarray) -> dict[str, Any]:
    """Measured variances, MRT gain, and efficiency of K = 2 over K = 1 at equal cost, each beside its exact value."""
    n, k, components = config.n_prompts, np.array(config.responses), exact.components
    law = np.asarray(estimator_variance(components, n, k, redundancy=size))
    squares = (means - means.mean(0)) ** 2
    variance = squares.sum(0) / (len(means) - 1)
    errors = squares.std(0, ddof=1) / np.sqrt(len(means))
    numerical = (exact.prompt.standard_error + size * exact.group.standard_error) / n

    def log_ratio_error(a: int, b: int) -> float:
        """Standard error of log(variance_a / variance_b); the two share their prompts."""
        return float(
            np.std(squares[:, a] / variance[a] - squares[:, b] / variance[b], ddof=1) / np.sqrt(len(means))
        )

    # All of the K-dependent part is V_{y|x} / (N_p K): what K removes of it scales up to what K -> infinity removes.
    removed, last = k[-1] / (k[-1] - 1), variance[-1] / variance[0]
    price = config.c_prompt + config.c_response * k
    worth = float(variance[0] * price[0] / (variance[1] * price[1]))
    worth_error = log_ratio_error(0, 1)
    total = components.prompt + components.group
    return {
        "components": {
            "group": intervals.with_error(exact.group),
            "prompt": intervals.with_error(exact.prompt),
            "response": intervals.with_error(exact.response),
        },
        "diversity": components.response / total,
        "variance": {
            "estimate": variance,
            "standard_error": errors,
            "exact": law,
            "z": (variance - law) / np.hypot(errors, numerical),
        },
        "gain": {
            "estimate": float(removed * (1 - last)),
            "standard_error": float(removed * last * log_ratio_error(-1, 0)),
            "exact": mrt_gain(components, size),
        },
        "removed": {
            "estimate": float(removed * (variance[0] - variance[-1]) * n),
            "standard_error": float(
                removed * n * np.std(squares[:, 0] - squares[:, -1], ddof=1) / np.sqrt(len(means))
            ),
            "exact": components.response,
        },
        "k_star_squared": components.response
        * config.c_prompt
        / ((size * components.group + components.prompt) * config.c_response),
        "efficiency": {
            "estimate": worth,
            "low": worth * np.exp(-normal_quantile() * worth_error),
            "high": worth * np.exp(normal_quantile() * worth_error),
            "z": np.log(worth) / worth_error,
            "exact": float(law[0] * price[0] / (law[1] * price[1])),
        },
    }


def _judge_pilots(config: Config, exact: Decomposition, losses: np.ndarray) -> dict[str, Any]:
    """Coverage of the intervals of V_g and of the gain over all pilots, and the first pilot in full."""
    size = config.pilot_group_size
    means = losses.mean(-1)
    pilot = PromptSums(
        counts=np.full(means.shape[1], float(config.pilot_responses)),
        means=means,
        within=((losses - means[..., None]) ** 2).sum(-1),
        starts=np.arange(0, means.shape[1], size),
    )
    bounds = interval_method(DEFAULT)(pilot, 0.95, size)
    one = estimate_components(losses[0], groups=np.arange(means.shape[1]) // size, redundancy=size)
    truth = exact.components
    ratio = truth.response / (size * truth.group + truth.prompt)

    def coverage(low: np.ndarray, high: np.ndarray, value: float) -> dict[str, float]:
        share = float(np.mean((low <= value) & (value <= high)))
        return {
            "estimate": share,
            "standard_error": float(np.sqrt(max(share * (1 - share), 1e-4) / len(losses))),
        }

    assert bounds.group is not None
    assert one.group is not None
    return {
        "exact": {
            "group": truth.group,
            "prompt": truth.prompt,
            "response": truth.response,
            "gain": mrt_gain(truth, size),
        },
        "first": {
            "group": one.group.to_dict(),
            "prompt": one.prompt.to_dict(),
            "response": one.response.to_dict(),
            "gain": {name: _gain(value) for name, value in one.ratio.to_dict().items()},
        },
        "coverage": {
            "gain": coverage(*bounds.ratio, ratio),
            "group": coverage(*bounds.group, truth.group),
        },
        "pilots": len(losses),
    }


def _train(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Excess test NLL of trained networks for K = 1 and many responses, and the share of it that many remove."""
    entropy = true_nll()

    def row(i: int, similarity: float, label: str) -> dict[str, Any]:
        excess, size = [], config.learner_group_sizes[i]
        for k in (1, config.learner_responses):
            nll = sweep.replicates(
                f"{label}/r={size}/k={k}",
                trained_nll,
                jax.random.fold_in(key, i),
                config.learner_replicates,
                config,
                in_float32(corpus(size, similarity, 1.0)),
                k,
                block=config.learner_block,
            )
            excess.append({recipe: np.asarray(values) - entropy for recipe, values in nll.items()})
        return {"group_size": size} | {
            recipe: _share_removed(excess[0][recipe], excess[1][recipe]) for recipe in RECIPES
        }

    last = len(config.learner_group_sizes) - 1
    return {
        "n_prompts": config.learner_prompts,
        "responses": config.learner_responses,
        "replicates": config.learner_replicates,
        "entropy": entropy,
        "rows": [row(i, 1.0, "learner") for i in range(last + 1)],
        # with the keys of the exact duplicates
        "near": [
            {"similarity": similarity} | row(last, similarity, f"learner/similarity={similarity}")
            for similarity in config.learner_similarities
        ],
    }


def _share_removed(one: np.ndarray, many: np.ndarray) -> dict[str, float]:
    """1 - mean(many) / mean(one) with its standard error (delta method, paired runs)."""
    ratio = many.mean() / one.mean()
    error = np.std(many / many.mean() - one / one.mean(), ddof=1) / np.sqrt(len(one))
    return {
        "one": float(one.mean()),
        "many": float(many.mean()),
        "estimate": float(1 - ratio),
        "standard_error": float(abs(ratio) * error),
    }


def _gain(ratio: float) -> float:
    """The gain rises with V_{y|x} / (r V_g + V_{x|g}), and so do its limits."""
    return 1.0 if np.isinf(ratio) else ratio / (1 + ratio)


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 5, from simulated corpora, trained networks and pilots."""
    settings, sizes = result["settings"], result["group_sizes"]

    def at(**wanted: float) -> dict[str, Any]:
        return next(s for s in settings if all(s[name] == value for name, value in wanted.items()))

    def fall(first: dict[str, Any], second: dict[str, Any], quantity: str) -> tuple[Estimate, float]:
        a, b = first[quantity], second[quantity]
        error = float(np.hypot(a["standard_error"], b["standard_error"]))
        return Estimate.from_standard_error(a["estimate"] - b["estimate"], error), a["exact"] - b["exact"]

    unique, redundant = (
        at(group_size=size, similarity=1.0, mode_scale=1.0) for size in (sizes[0], sizes[-1])
    )
    looser = at(group_size=sizes[-1], similarity=min(s["similarity"] for s in settings), mode_scale=1.0)
    scales = [s["mode_scale"] for s in settings]
    diverse, narrow = (
        at(group_size=sizes[0], similarity=1.0, mode_scale=scale) for scale in (max(scales), min(scales))
    )
    falls = (
        ("redundancy", unique, redundant, f"unique prompts − groups of {sizes[-1]} duplicates"),
        (
            "similarity",
            looser,
            redundant,
            f"groups of {sizes[-1]}: similarity {looser['similarity']} − duplicates",
        ),
        (
            "diversity",
            diverse,
            narrow,
            f"unique prompts: V_{{y|x}}/V_x = {diverse['diversity']:.2g} − {narrow['diversity']:.2g}",
        ),
    )
    found = []
    for name, first, second, words in falls:
        gap, exact = fall(first, second, "gain")
        found += [
            Prediction(f"redundancy.gain.{name}", 5, f"MRT gain, {words}", gap, above(0.0), Role.PRIMARY),
            Prediction(
                f"redundancy.gain.{name}.exact",
                5,
                f"the same against the exact law: MRT gain, {words}",
                gap,
                equals(exact, relative=_LAW_MARGIN),
                Role.LIMIT,
            ),
        ]
    learner = result["learner"]
    fewest, most = learner["rows"][0], learner["rows"][-1]
    for recipe, label in RECIPES.items():
        error = float(np.hypot(fewest[recipe]["standard_error"], most[recipe]["standard_error"]))
        found.append(
            Prediction(
                f"redundancy.trained-gain.{recipe}",
                5,
                f"share of excess test NLL that K = {learner['responses']} removes, unique prompts − groups of "
                f"{most['group_size']}, {label}",
                Estimate.from_standard_error(fewest[recipe]["estimate"] - most[recipe]["estimate"], error),
                above(0.0),
                Role.PRIMARY,
                note="; ".join(
                    f"r = {row['group_size']}: {row[recipe]['one']:.2f} to {row[recipe]['many']:.2f} nats above the "
                    f"truth, share {row[recipe]['estimate']:.2f}"
                    for row in learner["rows"]
                ),
            )
        )
    for near in learner["near"]:
        for recipe, label in RECIPES.items():
            error = float(np.hypot(near[recipe]["standard_error"], most[recipe]["standard_error"]))
            found.append(
                Prediction(
                    f"redundancy.trained-near.{recipe}-s{round(100 * near['similarity'])}",
                    5,
                    f"share of excess NLL that K = {learner['responses']} removes, groups of "
                    f"{near['group_size']}: similarity {near['similarity']:g} − duplicates, {label}",
                    Estimate.from_standard_error(near[recipe]["estimate"] - most[recipe]["estimate"], error),
                    above(0.0),
                    Role.LIMIT,
                    note=f"{near[recipe]['one']:.2f} to {near[recipe]['many']:.2f} nats above the truth, share "
                    f"{near[recipe]['estimate']:.2f}; of duplicates {most[recipe]['estimate']:.2f}",
                )
            )
    settled = [s for s in settings if abs(s["efficiency"]["z"]) > _SETTLED]
    wrong = sum((s["efficiency"]["z"] > 0) != (s["k_star_squared"] > 2) for s in settled)
    removed, _ = fall(unique, redundant, "removed")
    covered = [pilot["coverage"]["gain"] for pilot in result["pilots"]]
    return [
        *found,
        _law(settings),
        Prediction(
            "redundancy.two-beats-one",
            5,
            "settings where K = 2 against K = 1 at equal cost is not as K* > sqrt(2) says",
            number(wrong),
            below(1, text="< 1 (none)"),
            Role.LIMIT,
            note=f"{len(settled)} of {len(settings)} settings are settled, at {_SETTLED:g} standard errors",
        ),
        Prediction(
            "redundancy.removed",
            5,
            f"V_{{y|x}} that K removes at fixed N_p, unique prompts − groups of {sizes[-1]}",
            removed,
            equals(0.0, absolute=_LAW_MARGIN * unique["removed"]["exact"]),
            Role.LIMIT,
            note="the margin is 5 % of V_{y|x}; the gain shrinks because the rest of the variance grows",
        ),
        Prediction(
            "redundancy.pilot-coverage",
            5,
            "least coverage of a pilot's 95 % interval of the gain, by similarity",
            _least(covered),
            above(0.93),
            Role.CONTEXT,
            note="simultaneous over similarities; "
            + "; ".join(
                f"similarity {p['similarity']:g}: {p['coverage']['gain']['estimate']:.3f} of {p['pilots']:,} pilots"
                for p in result["pilots"]
            ),
        ),
    ]


def _law(settings: list[dict[str, Any]]) -> Prediction:
    """All measured variances against the three-part law, with limits that hold for all of them at once."""
    value, error, exact = (
        np.concatenate([np.asarray(s["variance"][part], float) for s in settings])
        for part in ("estimate", "standard_error", "exact")
    )
    distance, half = np.abs(value / exact - 1), error / exact * normal_quantile(1 - 0.05 / len(value))
    z = max(abs(z) for s in settings for z in s["variance"]["z"])
    return Prediction(
        "redundancy.law",
        5,
        f"largest distance of {len(value)} measured variances from the three-part law, relative",
        intervals.largest_distance(distance, half),
        below(_LAW_MARGIN),
        Role.LIMIT,
        note=f"every group size, similarity, response diversity and K; simultaneous limits; largest |z| {z:.1f}",
    )


def _least(shares: list[dict[str, float]]) -> Estimate:
    """The least of several shares, with limits that hold for all of them at once."""
    value, error = (np.array([share[part] for share in shares]) for part in ("estimate", "standard_error"))
    half = error * normal_quantile(1 - 0.05 / len(shares))
    return Estimate(float(value.min()), float((value - half).min()), float((value + half).min()))
