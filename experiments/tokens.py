"""E7: a small language model learns from a biased generator; its test NLL is taken under the true modes.

A prompt has three right responses, equally likely under p(y|x), but the generator almost always gives the first, and so
does a selector that ranks by reward. The test NLL is an exact expectation over the three responses of each test prompt.
Content tokens cannot be inferred for a prompt that was not seen, so every strategy shares a high floor; the strategies
differ in the mode's token, and in how much they overfit.

Of every trained model responses are sampled too, to prompts of the training set and to unseen ones: do several
references per prompt collapse their diversity? The cosine of two responses is the share of their tokens that agree, or,
for modes alone, 1 where the mode is the same. Given the model's probabilities the modes' metrics are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray
from scipy.special import ndtr

from experiments.harness import intervals
from experiments.harness.statements import (
    Prediction,
    Role,
    above,
    below,
    equals,
    published,
    read,
)
from experiments.shared.token_modes import TokenModes
from experiments.shared.training import Recipe, fit
from experiments.shared.transformer import Transformer, next_token_nll
from mrtsim.distributions.quadrature import trapezoid
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.selection.exact_laws import inclusion_probability
from mrtsim.selection.registry import Pool, strategy
from mrtsim.selection.response_metrics import response_metrics

CLAIMS = (7, 1, 6)
TOY = TokenModes()
RECIPES = {"last": "as published (last step)", "best": "at the best validation step"}
STRATEGIES = ("rkon", "bkon", "mode-seeking")
_RARE_MARGIN = 0.05  # within which a share of rare modes equals its exact value, of the generator's share


PAPER = Recipe(600, 2e-3, clip=1.0, weight_decay=0.01, validate_every=10)


@dataclass(frozen=True)
class Config:
    """The paper's setting; batches of `batch` rows are drawn with replacement.

    Of `generation_prompts` test prompts, and of as many training prompts, `generations` responses are sampled from
    each trained model.
    """

    responses: tuple[int, ...] = (1, 2, 4, 8)
    n_prompts: int = 200
    n_candidates: int = 32
    filter_quantile: float = 0.3
    test_prompts: int = 200
    test_responses: int = 20
    validation_prompts: int = 32
    batch: int = 64
    dropout: float = 0.1
    recipe: Recipe = PAPER
    replicates: int = 5
    generation_prompts: int = 16
    generations: int = 16

    def __post_init__(self):
        if list(self.responses) != sorted(set(self.responses)) or self.responses[0] < 1:
            raise InputError(f"responses must be increasing whole numbers from 1 on, not {self.responses}")
        if self.responses[-1] > self.n_candidates:
            raise InputError(f"K = {self.responses[-1]} exceeds a pool of {self.n_candidates} candidates")
        if not 1 <= self.generation_prompts <= min(self.n_prompts, self.test_prompts):
            raise InputError(
                f"generation_prompts = {self.generation_prompts} must be at least 1 and at most n_prompts and "
                "test_prompts"
            )


PRESETS = {
    "quick": Config(
        n_prompts=50, test_prompts=50, recipe=replace(PAPER, steps=60), replicates=2, generation_prompts=6
    ),
    "paper": Config(),
    "precise": Config(replicates=40, generation_prompts=32),
}


def mode_seeking(
    rewards: Float[Array, " candidates"], modes: Int[Array, " candidates"], k: int, quantile: float
) -> Int[Array, " k"]:
    """The experiment's third selector: filter by reward, then prefer unseen modes.

    Of the candidates whose reward reaches the pool's quantile (linear interpolation), always the best one of a mode
    that is not kept yet; then the other ones by reward; then those that did not pass. With K = 1 it is BKoN.
    """
    n = rewards.size
    passes = rewards >= jnp.quantile(rewards, quantile)
    better = (modes == modes[:, None]) & (rewards > rewards[:, None])
    rank = jnp.argsort(jnp.argsort(rewards))
    return jax.lax.top_k(rank + n * (passes & ~better.any(1)) + 2 * n * passes, k)[1]


def pick(name: str, key: PRNGKeyArray, modes: Array, rewards: Array, k: int, quantile: float) -> Array:
    """The modes (prompts, k) that a strategy keeps, in the order of picking: its picks for a smaller k come first."""
    if name == "mode-seeking":
        kept = jax.vmap(lambda r, m: mode_seeking(r, m, k, quantile))(rewards, modes)
    else:
        method = strategy(name)
        kept = method(key if method.random else None, Pool(rewards=rewards), k)
    return jnp.take_along_axis(modes, kept, axis=1)


def generate(
    key: PRNGKeyArray, model: Transformer, prompts: Int[Array, "prompts start"], count: int
) -> Int[Array, "prompts count tokens"]:
    """Sample responses token by token, at temperature 1; `prompts` are the tokens up to and with the separator.

    A response is as long as every true one, so that one which does not end by itself is cut.
    """
    start = prompts.shape[1]
    tokens = jnp.pad(jnp.repeat(prompts, count, axis=0), ((0, 0), (0, TOY.length - start)))

    def step(tokens: Array, place: tuple[Array, PRNGKeyArray]) -> tuple[Array, None]:
        at, step_key = place
        logits = model(tokens[:, :-1])[:, at - 1]  # causal: what stands after the place does not count
        return tokens.at[:, at].set(jax.random.categorical(step_key, logits)), None

    places = jnp.arange(start, TOY.length)
    tokens = jax.lax.scan(step, tokens, (places, jax.random.split(key, len(places))))[0]
    return tokens[:, start:].reshape(len(prompts), count, -1)


def train_once(key: PRNGKeyArray, which: Array, k: Array, config: Config) -> dict[str, Any]:
    """One run of strategy number `which` with the first `k` of its picks; both are dynamic, so one program does all.

    All strategies and all K share prompts, pools, initial weights, dropout and test sets through the key.
    """
    prompt_key, pool_key, pick_key, row_key, drop_key, model_key, test_key = jax.random.split(key, 7)
    edges = np.cumsum([config.n_prompts, config.validation_prompts])
    sequences = TOY.sequences(TOY.sample_prompts(prompt_key, int(edges[-1]) + config.test_prompts))
    train, validation, test = jnp.split(sequences, edges)
    modes, rewards = TOY.sample_pools(pool_key, (config.n_prompts, config.n_candidates))
    most = config.responses[-1]
    kept = jnp.stack(
        [pick(name, pick_key, modes, rewards, most, config.filter_quantile) for name in STRATEGIES]
    )[which]

    def objective(model: Transformer, batch: tuple[Array, PRNGKeyArray]) -> Array:
        rows, dropout_key = batch
        prompts = rows // k
        return next_token_nll(model, train[prompts, kept[prompts, rows % k]], dropout_key).mean()

    def expected(model: Transformer, sequences: Array) -> Float[Array, "prompts modes tokens"]:
        nll = next_token_nll(model, sequences.reshape(-1, TOY.length))
        return nll.reshape(*sequences.shape[:2], -1)

    truth = jnp.asarray(TOY.truth, jnp.float32)
    rows = jax.random.randint(row_key, (config.recipe.steps, config.batch), 0, config.n_prompts * k)
    trained = fit(
        Transformer(model_key, TOY.vocabulary, TOY.length - 1, dropout=config.dropout),
        objective,
        config.recipe,
        (rows, jax.random.split(drop_key, config.recipe.steps)),
        validate=lambda model: jnp.einsum("pmt,m->", expected(model, validation), truth),
    )
    sampled = jax.random.choice(test_key, TOY.modes, (config.test_prompts, config.test_responses), p=truth)
    drawn = jax.nn.one_hot(sampled, TOY.modes).mean(1)
    used = jnp.arange(most) < k
    # Half of the sampled responses are to prompts of the training set, half to unseen ones.
    asked = jnp.concatenate([train[: config.generation_prompts], test[: config.generation_prompts]])
    generation_key = jax.random.fold_in(key, 7)
    scores: dict[str, Any] = {
        "kept": jnp.sum(jax.nn.one_hot(kept, TOY.modes) * used[:, None], (0, 1)) / (config.n_prompts * k),
        "best_step": trained.best_step,
        "diverged": trained.diverged,
        "references": asked[..., TOY.mode_position :],
    }
    for recipe in RECIPES:
        model = getattr(trained, recipe)
        nll = expected(model, test)
        scores[recipe] = {
            "tokens": jnp.einsum("pmt,m->t", nll, truth) / config.test_prompts,
            "sampled": jnp.einsum("pmt,pm->", nll, drawn) / nll[:, 0].size,
            "modes": jnp.exp(-nll[:, :, TOY.mode_position - 1]).mean(0),
            "generated": generate(
                generation_key, model, asked[:, 0, : TOY.mode_position], config.generations
            ),
            "mode_probabilities": jnp.exp(-expected(model, asked)[:, :, TOY.mode_position - 1]),
        }
    return scores


# What a mean over next tokens may range over.
PARTS = {
    "all": slice(None),
    "prompt": slice(0, TOY.prompt_length),
    "response": slice(TOY.mode_position - 1, None),
    "mode": slice(TOY.mode_position - 1, TOY.mode_position),
    "content": slice(TOY.mode_position, -1),
}


def kept_law(config: Config) -> dict[str, list[list[float]]]:
    """Exact shares of the modes among the kept, one list per K: for RKoN the generator's, for BKoN order statistics."""
    noise = trapezoid(4096)
    rewards = TOY.reward_means[:, None] + TOY.reward_noise * noise.nodes
    higher = ndtr((TOY.reward_means - rewards[..., None]) / TOY.reward_noise) @ TOY.generator

    def shares(k: int) -> list[float]:
        included = inclusion_probability(higher, config.n_candidates, k) @ noise.weights
        return (TOY.generator * config.n_candidates / k * included).tolist()

    return {
        "rkon": [TOY.generator.tolist() for _ in config.responses],
        "bkon": [shares(k) for k in config.responses],
    }


def floors(modes: Any, content_known: bool) -> dict[str, float]:
    """`TokenModes.token_floor` averaged over each part of a sequence."""
    tokens = TOY.token_floor(modes, content_known=content_known)
    return {part: float(tokens[where].mean()) for part, where in PARTS.items()}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Train every strategy at every K."""
    cells = sweep.grid(
        train_once,
        key,
        config.replicates,
        {
            f"{name}/k={k}": (np.int32(which), np.int32(k), config)
            for which, name in enumerate(STRATEGIES)
            for k in config.responses
            if (name, k) != ("mode-seeking", 1)
        },
        block=1,  # a run fills a core
    )
    if 1 in config.responses:
        cells["mode-seeking/k=1"] = cells["bkon/k=1"]  # the same pick
    scores = {name: [cells[f"{name}/k={k}"] for k in config.responses] for name in STRATEGIES}
    nll = {
        name: {recipe: [s[recipe]["tokens"].mean(-1) for s in cells] for recipe in RECIPES}
        for name, cells in scores.items()
    }
    law = kept_law(config)
    return {
        "responses": list(config.responses),
        "replicates": config.replicates,
        "reported": published()["tokens"],
        "strategies": {name: _summarise(config, cells) for name, cells in scores.items()},
        "excess": {
            name: {
                recipe: [
                    intervals.mean(a - b) for a, b in zip(nll[name][recipe], nll["rkon"][recipe], strict=True)
                ]
                for recipe in RECIPES
            }
            for name in STRATEGIES
            if name != "rkon"
        },
        "gain": {
            name: {recipe: [intervals.mean(cells[0] - cell) for cell in cells] for recipe, cells in n.items()}
            for name, n in nll.items()
        },
        "kept_law": law,
        "response_share": len(range(TOY.length - 1)[PARTS["response"]]) / (TOY.length - 1),
        "floors": {
            "entropy": floors(TOY.truth, True),
            "unseen prompts": floors(TOY.truth, False),
            **{name: [floors(modes, False) for modes in cells] for name, cells in law.items()},
        },
        "readings": _readings(config, scores),
        "generations": _generations(scores),
    }


def _summarise(config: Config, cells: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for recipe in RECIPES:
        tokens = [s[recipe]["tokens"] for s in cells]
        out[recipe] = {
            part: [intervals.mean(t[:, where].mean(-1)) for t in tokens] for part, where in PARTS.items()
        }
        out[recipe]["sampled"] = [intervals.mean(s[recipe]["sampled"]) for s in cells]
        out[recipe]["modes"] = [[intervals.mean(m) for m in s[recipe]["modes"].T] for s in cells]
    out["kept"] = [[intervals.mean(m) for m in s["kept"].T] for s in cells]
    out["best_step"] = [intervals.mean(s["best_step"]) for s in cells]
    out["diverged"] = [int(np.sum(s["diverged"] < config.recipe.steps)) for s in cells]
    return out


PROMPTS = {"seen": "training prompts", "unseen": "unseen prompts"}


def judge(generated: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
    """Metrics of the responses sampled from one model, means over prompts.

    Args:
        generated: tokens from the mode's on, (prompts, responses, tokens).
        references: the responses of the modes, (prompts, modes, tokens).

    Returns:
        Coverage, alignment and diversity with the share of agreeing tokens as the cosine (the end token apart),
        coverage and diversity of the modes, rewards (0 without a mode), the chance to hit one of the references.
    """
    modes = generated[..., 0] - (4 + TOY.prompt_tokens)
    known = (modes >= 0) & (modes < TOY.modes)
    modes = np.where(known, modes, TOY.modes)  # one more for what is no mode
    exact_match = (generated[:, :, None] == references[:, None]).all(-1).any(-1)
    tokens = response_metrics(
        _one_hot(generated[..., :-1]),
        _one_hot(references[..., :-1]),
        rewards=np.append(TOY.reward_means, 0.0)[modes],
        successes=exact_match,
    )
    kinds = response_metrics(
        np.eye(TOY.modes + 1)[modes],
        np.broadcast_to(np.eye(TOY.modes, TOY.modes + 1), (len(modes), TOY.modes, TOY.modes + 1)),
    )
    found = {
        "coverage": tokens.coverage,
        "alignment": tokens.alignment,
        "diversity": tokens.diversity,
        "mode_coverage": kinds.coverage,
        "mode_diversity": kinds.diversity,
        "mean_reward": tokens.mean_reward,
        "best_reward": tokens.best_reward,
        "pass_at_all": tokens.pass_at_k,
    }
    means = {name: estimate.value for name, estimate in found.items() if estimate is not None}
    return means | {"pass_at_1": float(exact_match.mean())}


def _one_hot(tokens: NDArray[Any]) -> NDArray[np.float64]:
    """Vectors whose cosine is the share of positions with the same token."""
    return np.eye(TOY.vocabulary)[tokens].reshape(*tokens.shape[:-1], -1)


def expected_modes(probabilities: NDArray[Any], count: int) -> dict[str, float]:
    """What `judge` says of the modes of `count` responses in expectation, given their probabilities."""
    p = np.asarray(probabilities, np.float64)
    other = np.maximum(1 - p.sum(-1), 0)
    return {
        "mode_coverage": float((1 - (1 - p) ** count).mean()),
        "mode_diversity": float((1 - np.square(p).sum(-1) - other**2).mean()),
        "mean_reward": float((p @ TOY.reward_means).mean()),
    }


def _generations(scores: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over runs of `judge`, by recipe, prompts, strategy and K, with changes from the first K and from RKoN.

    Differences are paired: runs of one number share their prompts, pools and initial weights.
    """
    out: dict[str, Any] = {}
    gaps: dict[str, list[NDArray[np.float64]]] = {}  # per cell, of each run
    for recipe in RECIPES:
        each: dict[str, dict[str, list[dict[str, np.ndarray]]]] = {where: {} for where in PROMPTS}
        for name, cells in scores.items():
            for cell in cells:
                drawn, known = np.asarray(cell[recipe]["generated"]), np.asarray(cell["references"])
                chances = np.asarray(cell[recipe]["mode_probabilities"])
                half = drawn.shape[1] // 2
                for where, part in (("seen", slice(0, half)), ("unseen", slice(half, None))):
                    runs = [judge(d[part], r[part]) for d, r in zip(drawn, known, strict=True)]
                    each[where].setdefault(name, []).append(
                        {metric: np.array([run[metric] for run in runs]) for metric in runs[0]}
                    )
                    exact = [expected_modes(p[part], drawn.shape[2]) for p in chances]
                    for metric in exact[0]:
                        gap = [run[metric] - value[metric] for run, value in zip(runs, exact, strict=True)]
                        gaps.setdefault(metric, []).append(np.array(gap))
        out[recipe] = {
            where: {
                name: {
                    metric: {
                        "k": [intervals.mean(cell[metric]) for cell in cells],
                        "change": intervals.mean(cells[-1][metric] - cells[0][metric]),
                        "over_rkon": [
                            intervals.mean(cell[metric] - base[metric])
                            for cell, base in zip(cells, by_name["rkon"], strict=True)
                        ],
                    }
                    for metric in cells[0]
                }
                for name, cells in by_name.items()
            }
            for where, by_name in each.items()
        }
    out["generator"] = {"mode_diversity": float(1 - np.square(TOY.generator).sum())}
    out["gap"] = {metric: intervals.mean(np.mean(cells, axis=0)) for metric, cells in gaps.items()}
    return out


def _readings(config: Config, scores: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """How far the re-run's figures are from three readings of "test NLL", root mean square over all cells."""
    reported = published()["tokens"]
    known = reported["responses_per_prompt"]
    if set(known) - set(config.responses):
        return None
    theirs = np.array([reported[name.replace("-", "_")] for name in STRATEGIES])
    tokens = np.array(
        [
            [scores[name][config.responses.index(k)]["last"]["tokens"].mean(0) for k in known]
            for name in STRATEGIES
        ]
    )
    where = PARTS["response"]
    readings = {
        "mean over all next tokens": tokens.mean(-1),
        "mean over the response": tokens[..., where].mean(-1),
        "sum over the response / all next tokens": tokens[..., where].sum(-1) / tokens.shape[-1],
    }
    return {name: float(np.sqrt(np.mean((ours - theirs) ** 2))) for name, ours in readings.items()}


_K = 4  # at which the paper compares strategies; other K are limits


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 7: BKoN against RKoN, and what BKoN keeps; claims 1 and 6: what more responses, and mode-seeking, do."""
    ks, reported = result["responses"], result["reported"]

    def theirs(name: str, k: int) -> float:
        return reported[name.replace("-", "_")][reported["responses_per_prompt"].index(k)]

    found, note = [], ""
    if result["readings"]:
        nearest, *others = sorted(result["readings"].items(), key=lambda reading: reading[1])
        note = (
            f"the re-run's figures fit our {nearest[0]}, r.m.s. difference {nearest[1]:.2f} nats; "
            + "; ".join(f"{name}: {distance:.2f}" for name, distance in others)
        )
    for recipe, label in RECIPES.items():
        compare = recipe == "last" and set(ks) <= set(reported["responses_per_prompt"])
        for name, claim, title in (("bkon", 7, "BKoN"), ("mode-seeking", 6, "mode-seeking")):
            for k, cell in zip(ks, result["excess"][name][recipe], strict=True):
                found.append(
                    Prediction(
                        f"tokens.{name}-over-rkon.{recipe}.k{k}",
                        claim,
                        f"NLL of token sequences, {title} − RKoN, K = {k}, {label}",
                        read(cell),
                        above(0.0),
                        Role.PRIMARY if name == "bkon" and k == _K else Role.LIMIT,
                        unit="nats per token",
                        reported=theirs(name, k) - theirs("rkon", k) if compare else None,
                        note=note if compare and claim == 7 and k == ks[-1] else "",
                    )
                )
        found.append(
            Prediction(
                f"tokens.rkon-gain.{recipe}",
                1,
                f"RKoN's NLL of token sequences, K = {ks[0]} − K = {ks[-1]}, {label}",
                read(result["gain"]["rkon"][recipe][-1]),
                above(0.0),
                Role.LIMIT,
                unit="nats per token",
                reported=theirs("rkon", ks[0]) - theirs("rkon", ks[-1]) if compare else None,
                note=note if compare else "",
            )
        )
    for name, claim, title in (("rkon", 6, "RKoN"), ("bkon", 7, "BKoN")):
        exact = 1 - result["kept_law"][name][-1][0]
        found.append(
            Prediction(
                f"tokens.rare-modes.{name}",
                claim,
                f"share of rare modes among what {title} keeps, K = {ks[-1]}",
                _rare(result, name),
                equals(exact, absolute=_RARE_MARGIN * (1 - TOY.generator[0])),
                Role.LIMIT,
                note=f"by order statistics; the margin is {_RARE_MARGIN:.0%} of the generator's share",
            )
        )
    found.append(
        Prediction(
            "tokens.rare-modes.bkon-below-generator",
            7,
            f"share of rare modes among what BKoN keeps, K = {ks[-1]}, against the generator's",
            _rare(result, "bkon"),
            below(1 - TOY.generator[0]),
            Role.PRIMARY,
        )
    )
    return found + _diversity_predictions(result)


def _diversity_predictions(result: dict[str, Any]) -> list[Prediction]:
    """Whether several references per prompt collapse the diversity of what a trained model says."""
    ks, found = result["responses"], []
    words = {
        "mode_diversity": "diversity of the modes of sampled responses",
        "diversity": "diversity of sampled responses",
        "coverage": "coverage of the true responses by sampled ones",
    }
    cells = [("mode_diversity", recipe, where) for recipe in RECIPES for where in PROMPTS] + [
        ("diversity", "last", "seen"),
        ("coverage", "last", "seen"),
    ]
    for metric, recipe, where in cells:
        for name, claim, title in (
            ("rkon", 1, "RKoN"),
            ("bkon", 7, "BKoN"),
            ("mode-seeking", 6, "mode-seeking"),
        ):
            cell = result["generations"][recipe][where][name][metric]
            each = ", ".join(f"{of_k['estimate']:.3f}" for of_k in cell["k"])
            found.append(
                Prediction(
                    f"tokens.{metric.replace('_', '-')}.{name}.{recipe}-{where}",
                    claim,
                    f"{words[metric]}, {title}, K = {ks[-1]} − K = {ks[0]}, {PROMPTS[where]}, {_SHORT[recipe]}",
                    read(cell["change"]),
                    above(0.0),
                    Role.LIMIT if name == "rkon" else Role.CONTEXT,
                    note=f"for K = {', '.join(map(str, ks))}: {each}; below 0, more references per prompt collapse it",
                )
            )
    if _K in ks:
        for recipe in RECIPES:
            cell = result["generations"][recipe]["unseen"]["bkon"]["mode_diversity"]
            found.append(
                Prediction(
                    f"tokens.mode-diversity.bkon-over-rkon.{recipe}-k{_K}",
                    7,
                    f"{words['mode_diversity']}, BKoN − RKoN, K = {_K}, unseen prompts, {_SHORT[recipe]}",
                    read(cell["over_rkon"][ks.index(_K)]),
                    below(0.0),
                    Role.CONTEXT,
                )
            )
    for metric, gap in result["generations"]["gap"].items():
        found.append(
            Prediction(
                f"tokens.sampled-is-exact.{metric.replace('_', '-')}",
                1,
                f"{metric.replace('_', ' ')} of sampled responses − its exact value given the model",
                read(gap),
                equals(0.0, absolute=0.01),
                Role.CONTEXT,
                note="over all models; exact by the probabilities of the modes",
            )
        )
    return found


_SHORT = {"last": "last step", "best": "best step"}


def _rare(result: dict[str, Any], name: str) -> Estimate:
    """The share of rare modes among the kept of the largest K."""
    first = read(result["strategies"][name]["kept"][-1][0])
    return Estimate(1 - first.value, 1 - first.high, 1 - first.low)
