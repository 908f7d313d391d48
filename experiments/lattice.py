"""Claim 5: which cells of a cluster of near-duplicate prompts to train on, in the designs of the authors' MOSAIC.

By the law of a design's variance (`experiments.shared.cluster_grids`) the diagonal (implicit: near-duplicate prompts
with one response each) is best of all designs of four cells, two variants with two slots each (hybrid) vary less than
one prompt with four responses (explicit) where V_j < 4 V_v, and four prompts with one response (same, the negative
control) vary less than explicit where V_j < V_v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.harness import intervals
from experiments.harness.statements import Prediction, Relation, Role, above, below, equals, read
from experiments.shared.cluster_grids import (
    DESIGNS,
    FOUR,
    SIDE,
    Corpus,
    cells,
    coefficients,
    exact_components,
    grid_losses,
    law,
    sample,
    size,
)
from experiments.shared.mdn_training import (
    RECIPES,
    STEPS,
    TOY,
    Sample,
    in_float32,
    judge,
    shifted,
    sobol_prompts,
    true_nll,
)
from experiments.shared.reference_network import reference_network
from experiments.shared.training import Recipe, fit
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.exact_components import decompose
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate, normal_quantile
from mrtsim.losses import mdn_nll, squared_loss
from mrtsim.models import MDN, MLP
from mrtsim.montecarlo import subkeys
from mrtsim.pilot.crossed import Squares, crossed_components, table_mean_squares
from mrtsim.selection.exact_laws import bkon_law

CLAIMS = (5,)
MINIBATCHES = Recipe(validate_every=8)
NAMES = {"disjoint": "hybrid with disjoint slots"}
_LAW_MARGIN = 0.05  # within which a measured variance equals the exact one, relative
_COMPONENT_MARGIN = 0.005  # of the sum of the components
_SMALL = 0.05  # of the excess NLL: a loss of less than this share is small


# Components on both sides of V_j = 4 V_v and of V_j = V_v.
CORPORA = {"duplicates": Corpus(0.9, 1.0), "between": Corpus(0.3, 0.9), "apart": Corpus(0.1, 0.3)}


@dataclass(frozen=True)
class Config:
    """Simulated corpora of `n_clusters`, pilots of whole grids, and networks trained on `learner_clusters`.

    The learner takes `recipe.steps` minibatches of `batch` pairs, whatever the design.
    """

    n_clusters: int = 64
    replicates: int = 2_000
    pilot_clusters: int = 100
    pilots: int = 500
    learner_clusters: int = 256
    learner_replicates: int = 6
    batch: int = 64
    recipe: Recipe = MINIBATCHES
    points: int = 2**14

    def __post_init__(self):
        if self.learner_clusters % SIDE:
            raise InputError(
                f"learner_clusters = {self.learner_clusters} must be a multiple of {SIDE}, so that whole grids can "
                "have as many pairs as the other designs"
            )


PRESETS = {
    "quick": Config(replicates=500, pilots=200, learner_replicates=3, points=2**11),
    "paper": Config(),
    "precise": Config(replicates=40_000, pilots=2_000, learner_replicates=200),
}


def pilot_losses(
    key: PRNGKeyArray, config: Config, model: MLP, prompts: ClusteredPrompts, sharing: float
) -> Float[Array, "clusters 16"]:
    """The losses of one pilot of whole grids."""
    return grid_losses(key, config.pilot_clusters, model, prompts, sharing)


def mean_losses(
    key: PRNGKeyArray, config: Config, model: MLP, prompts: ClusteredPrompts, sharing: float, ranked: float
) -> Float[Array, " designs"]:
    """The mean loss of every design on the same clusters."""
    grid_key, cell_key = jax.random.split(key)
    losses = grid_losses(grid_key, config.n_clusters, model, prompts, sharing, ranked)
    taken = jnp.take_along_axis(losses[None], cells(cell_key, config.n_clusters), axis=2)
    return jnp.mean(taken, axis=(1, 2))  # cells that are repeated are so equally often


def at(
    variants: Float[Array, "n 4 d"],
    responses: Float[Array, "n 4 4"],
    taken: Int[Array, "n 16"],
    cluster: Int[Array, "steps batch"],
    which: Int[Array, "steps batch"],
) -> Sample:
    """The pairs of prompt and response in cell number `which` of those taken of a cluster."""
    cell = taken[cluster, which]
    return Sample(variants[cluster, cell // SIDE], responses[cluster, cell // SIDE, cell % SIDE][..., None])


def trained_nll(
    key: PRNGKeyArray,
    config: Config,
    prompts: ClusteredPrompts,
    sharing: float,
    which: int,
    pairs: int,
    clusters: int,
) -> dict[str, Float[Array, ""]]:
    """Test NLL of a network trained on `pairs` cells of design number `which` in each of the first `clusters`.

    All designs share one program, and with the same key also grids, network and held-out sets.
    """
    grid_key, cell_key, batch_key, held_out_key, init_key, test_key = jax.random.split(key, 6)
    n, recipe = config.learner_clusters, config.recipe
    variants, responses = sample(grid_key, n, prompts, sharing)
    row = jax.random.randint(batch_key, (recipe.steps, config.batch), 0, clusters * pairs)
    batches = at(variants, responses, cells(cell_key, n)[which], row // pairs, row % pairs)
    fresh = TOY.sample_prompts(held_out_key, 100)
    validation = Sample(fresh, TOY.sample_responses(jax.random.fold_in(held_out_key, 0), fresh, 16)[0])
    fitted = fit(
        MDN(init_key),
        lambda model, batch: jnp.mean(mdn_nll(model, *batch)),
        recipe,
        batches,
        validate=lambda model: jnp.mean(mdn_nll(model, *validation)),
    )
    test = shifted(jnp.asarray(sobol_prompts(128), variants.dtype), test_key)
    return {name: judge(getattr(fitted, name), test)["nll"] for name in RECIPES}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Corpora on both sides of each comparison against the exact law, pilots, ranked slots, and trained networks."""
    corpus_key, pilot_key, ranked_key, learner_key = subkeys(key, 4)
    corpora = {}
    with jax.enable_x64(True):
        model = reference_network()
        for i, (name, corpus) in enumerate(CORPORA.items()):
            exact = exact_components(model, corpus, config.points)
            prompts = ClusteredPrompts(SIDE, corpus.similarity)
            means = sweep.replicates(
                f"corpus/{name}",
                mean_losses,
                jax.random.fold_in(corpus_key, i),
                config.replicates,
                config,
                model,
                prompts,
                corpus.sharing,
                0.0,
                block=64,
            )
            losses = sweep.replicates(
                f"pilots/{name}",
                pilot_losses,
                jax.random.fold_in(pilot_key, i),
                config.pilots,
                config,
                model,
                prompts,
                corpus.sharing,
                block=64,
            )
            corpora[name] = {
                "similarity": corpus.similarity,
                "sharing": corpus.sharing,
                "components": {part: intervals.with_error(value) for part, value in exact.items()},
                "pilots": _judge_pilots(losses.reshape(*losses.shape[:-1], SIDE, SIDE)),
                **_summarise(config, {part: value.value for part, value in exact.items()}, means),
            }
        duplicates = CORPORA["duplicates"]
        means = sweep.replicates(
            "ranked",
            mean_losses,
            ranked_key,
            config.replicates,
            config,
            model,
            ClusteredPrompts(SIDE, duplicates.similarity),
            duplicates.sharing,
            1.0,
            block=64,
        )
        truth = decompose(squared_loss, model, TOY, points=config.points).mean.value
    best = bkon_law(
        TOY, np.zeros((1, TOY.prompt_dim)), SIDE, 1
    )  # about a centre of 0, where u is the response
    ranked = {
        "truth": truth,
        "bias": {name: intervals.mean(means[:, i] - truth) for i, name in enumerate(DESIGNS)},
        "exact": float(best.moments(best.responses**2).bias[0]),
    }
    return {
        "n_clusters": config.n_clusters,
        "replicates": config.replicates,
        "coefficients": {name: coefficients(name) for name in DESIGNS},
        "corpora": corpora,
        "ranked": ranked,
        "learner": _train(config, learner_key, sweep),
    }


def _summarise(config: Config, components: dict[str, float], means: np.ndarray) -> dict[str, Any]:
    """M times each design's variance beside its exact value, and the ratios of pairs of designs."""
    exact = np.array([law(name, components) for name in DESIGNS])
    squares = config.n_clusters * (means - means.mean(0)) ** 2
    variance = squares.sum(0) / (len(means) - 1)
    errors = squares.std(0, ddof=1) / np.sqrt(len(means))

    def ratio(first: str, second: str) -> dict[str, float]:
        """The designs share their clusters, so that their variances are correlated."""
        a, b = DESIGNS.index(first), DESIGNS.index(second)
        value = float(variance[a] / variance[b])
        log_error = float(
            np.std(squares[:, a] / variance[a] - squares[:, b] / variance[b], ddof=1) / np.sqrt(len(means))
        )
        half = normal_quantile() * log_error
        return {
            "estimate": value,
            "low": value * float(np.exp(-half)),
            "high": value * float(np.exp(half)),
            "exact": float(exact[a] / exact[b]),
        }

    return {
        "variance": {"estimate": variance, "standard_error": errors, "exact": exact},
        "over_explicit": {name: ratio(name, "explicit") for name in DESIGNS},
        "implicit_over": {name: ratio("implicit", name) for name in FOUR if name != "implicit"},
        "explicit_over_same": ratio("explicit", "same"),
    }


def _judge_pilots(losses: np.ndarray) -> dict[str, Any]:
    """Means over pilots of the components that mean squares give, of losses (pilots, clusters, variants, slots)."""
    rows = table_mean_squares(losses)
    columns = table_mean_squares(np.swapaxes(losses, -1, -2))
    squares = (SIDE * rows.between.value, SIDE * columns.between.value, rows.response.value)
    v, j, e = (square.mean(-1) for square in squares)
    found = crossed_components(Squares(v, j, e, np.nan), SIDE, SIDE, 1)
    grid = SIDE**2 * losses.mean((-1, -2)).var(-1, ddof=1)
    parts = {"g": (grid - v - j + e) / SIDE**2, "v": found.prompt, "j": found.judge, "e": found.response}
    return {name: intervals.mean(values) for name, values in parts.items()}


def _train(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Excess test NLL by design over explicit's, where variants are near-duplicates and where they are not."""
    entropy, n = true_nll(), config.learner_clusters
    runs = {name: (i, size(name), n) for i, name in enumerate(DESIGNS)}
    runs["full at equal pairs"] = (DESIGNS.index("full"), SIDE**2, n // SIDE)
    corpora = {}
    for i, name in enumerate(("duplicates", "apart")):
        corpus = CORPORA[name]
        prompts = in_float32(ClusteredPrompts(SIDE, corpus.similarity))
        found = sweep.grid(
            trained_nll,
            jax.random.fold_in(key, i),
            config.learner_replicates,
            {
                f"learner/{name}/{design}": (config, prompts, corpus.sharing, *how)
                for design, how in runs.items()
            },
            block=2,
        )
        corpora[name] = {
            recipe: _compare({design: found[f"learner/{name}/{design}"][recipe] - entropy for design in runs})
            for recipe in RECIPES
        }
    return {
        "clusters": n,
        "pairs": SIDE * n,
        "steps": config.recipe.steps,
        "batch": config.batch,
        "replicates": config.learner_replicates,
        "corpora": corpora,
    }


def _compare(excess: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean excess NLL of every design, and ratios of means of pairs that share their runs."""

    def ratio(first: str, second: str) -> dict[str, Any]:
        both = np.stack([excess[first], excess[second]], axis=-1)
        return intervals.bootstrap(
            both, lambda runs: runs[..., 0].mean(-1) / runs[..., 1].mean(-1), vectorized=True
        )

    return {
        "mean": {name: intervals.mean(values) for name, values in excess.items()},
        "over_explicit": {name: ratio(name, "explicit") for name in excess},
        "same_over_implicit": ratio("same", "implicit"),
        "explicit_over_same": ratio("explicit", "same"),
        "full_over_implicit": {name: ratio(name, "implicit") for name in excess if name.startswith("full")},
    }


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claim 5 on clusters of near-duplicates: variances, components, and trained networks."""
    corpora = result["corpora"]
    duplicates = corpora["duplicates"]
    where = "near-duplicate variants"

    def side(exact: float) -> Relation:
        return below(1.0) if exact < 1 else above(1.0)

    found = [
        Prediction(
            "lattice.implicit-over-explicit",
            5,
            f"variance, 4 variants with a response each / 1 prompt with 4 responses, {where}",
            read(duplicates["over_explicit"]["implicit"]),
            below(1.0),
            Role.PRIMARY,
            note=f"exact {duplicates['over_explicit']['implicit']['exact']:.4f}",
        ),
        Prediction(
            "lattice.same-over-explicit",
            5,
            f"variance, 4 variants with one response / 1 prompt with 4 responses, {where}",
            read(duplicates["over_explicit"]["same"]),
            above(1.0),
            Role.LIMIT,
            note=f"the negative control: exact {duplicates['over_explicit']['same']['exact']:.4f}",
        ),
        *_trained(result["learner"]),
        _law(corpora),
    ]
    for name, corpus in corpora.items():
        v, j = (corpus["components"][part]["estimate"] for part in ("v", "j"))
        others = corpus["implicit_over"]
        found.append(
            Prediction(
                f"lattice.implicit-best.{name}",
                5,
                f"variance, implicit / the best other design of four cells, V_j = {j / v:.2g} V_v",
                _largest(others),
                below(1.0),
                Role.LIMIT,
                note="simultaneous limits; exact "
                + ", ".join(f"{design} {cell['exact']:.3f}" for design, cell in others.items()),
            )
        )
        for label, words, cell in (
            ("hybrid-over-explicit", "hybrid / explicit", corpus["over_explicit"]["hybrid"]),
            ("explicit-over-same", "explicit / same", corpus["explicit_over_same"]),
        ):
            found.append(
                Prediction(
                    f"lattice.{label}.{name}",
                    5,
                    f"variance, {words}, V_j = {j / v:.2g} V_v",
                    read(cell),
                    side(cell["exact"]),
                    Role.LIMIT,
                    note=f"exact {cell['exact']:.4f}",
                )
            )
        for part, cell in corpus["pilots"].items():
            exact = {name: value["estimate"] for name, value in corpus["components"].items()}
            found.append(
                Prediction(
                    f"lattice.pilot.v-{part}.{name}",
                    5,
                    f"V_{part} from the mean squares of pilots, mean, V_j = {j / v:.2g} V_v",
                    read(cell),
                    _close(exact[part], sum(exact.values())),
                    Role.LIMIT,
                )
            )
    ranked = result["ranked"]
    for name in ("explicit", "implicit", "same"):
        exact = ranked["exact"] if name == "same" else 0.0
        found.append(
            Prediction(
                f"lattice.ranked-bias.{name}",
                5,
                f"bias of the mean loss where slot 0 holds the best reward, {name}",
                read(ranked["bias"][name]),
                equals(exact, absolute=_LAW_MARGIN * abs(ranked["exact"])),
                Role.LIMIT,
                note="a fixed slot adds a bias that no variance shows",
            )
        )
    return found


def _trained(learner: dict[str, Any]) -> list[Prediction]:
    """The designs' excess NLL after training, at equal pairs and at equal steps."""
    near, apart = learner["corpora"]["duplicates"], learner["corpora"]["apart"]
    found = []
    for recipe, label in STEPS.items():
        rows = near[recipe]
        note = ", ".join(f"{name} {cell['estimate']:.3f}" for name, cell in rows["mean"].items()) + " nats"
        note += "; training follows the components of the gradient, which are not those of the loss"
        for name, words, cell, relation, role in (
            (
                "implicit-over-explicit",
                "implicit / explicit",
                rows["over_explicit"]["implicit"],
                below(1 + _SMALL),
                Role.PRIMARY if recipe == "best" else Role.LIMIT,  # no published recipe here
            ),
            ("same-over-implicit", "same / implicit", rows["same_over_implicit"], above(1.0), Role.LIMIT),
            (
                "hybrid-over-explicit",
                "hybrid / explicit",
                rows["over_explicit"]["hybrid"],
                below(1 + _SMALL),
                Role.LIMIT,
            ),
            (
                "full-over-implicit.equal-steps",
                "full (4 times the pairs) / implicit, equal steps",
                rows["full_over_implicit"]["full"],
                below(1.0),
                Role.LIMIT,
            ),
            (
                "full-over-implicit.equal-pairs",
                "full (a quarter of the clusters) / implicit, equal pairs",
                rows["full_over_implicit"]["full at equal pairs"],
                above(1.0),
                Role.LIMIT,
            ),
            (
                "explicit-over-same.apart",
                "explicit / same, variants far apart (V_j < V_v)",
                apart[recipe]["explicit_over_same"],
                above(1.0),
                Role.LIMIT,
            ),
        ):
            found.append(
                Prediction(
                    f"lattice.trained.{name}.{recipe}",
                    5,
                    f"excess test NLL, {words}, {label}",
                    read(cell),
                    relation,
                    role,
                    note="" if name.endswith("apart") else note,
                )
            )
    return found


def _close(component: float, total: float) -> Relation:
    """The margin of the variances, or, of a component that is next to nothing, a share of the sum of the components."""
    if _LAW_MARGIN * component > _COMPONENT_MARGIN * total:
        return equals(component, relative=_LAW_MARGIN)
    return equals(component, absolute=_COMPONENT_MARGIN * total)


def _law(corpora: dict[str, Any]) -> Prediction:
    """All measured variances against the law, with limits that hold for all of them at once."""
    value, error, exact = (
        np.concatenate([np.asarray(c["variance"][part], float) for c in corpora.values()])
        for part in ("estimate", "standard_error", "exact")
    )
    distance, half = np.abs(value / exact - 1), error / exact * normal_quantile(1 - 0.05 / len(value))
    return Prediction(
        "lattice.law",
        5,
        f"largest distance of {len(value)} measured variances from the crossed law, relative",
        intervals.largest_distance(distance, half),
        below(_LAW_MARGIN),
        Role.LIMIT,
        note=f"every design and corpus; simultaneous limits; largest |z| {np.max(np.abs(value - exact) / error):.1f}",
    )


def _largest(ratios: dict[str, dict[str, float]]) -> Estimate:
    """The largest of several ratios, with limits that hold for all of them at once."""
    scale = normal_quantile(1 - 0.05 / len(ratios)) / normal_quantile()
    logs = np.log([[cell["estimate"], cell["low"], cell["high"]] for cell in ratios.values()])
    low, high = (logs[:, 0] + scale * (logs[:, i] - logs[:, 0]) for i in (1, 2))
    return Estimate(*(float(np.exp(ends.max())) for ends in (logs[:, 0], low, high)))
