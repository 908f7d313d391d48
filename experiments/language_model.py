"""A real language model whose target is known exactly: does the law choose K there, from losses or from gradients?

SmolLM2-135M-Instruct learns without a context what it says behind one (`experiments/shared/distillation.py`): the error
is the KL divergence from the teacher, in nats per response, on held-out prompts, and its floor is 0. The top layer is
trained, or all layers. Predictions were written down before the first run; their bounds are in `Config`. Intervals
resample seeds and test prompts, both; the K* of a pilot is drawn from its own interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments.harness.intervals import mean
from experiments.harness.statements import Prediction, Role, above, below, between, equals, read
from experiments.shared import distillation as lab
from experiments.shared import smollm
from experiments.shared.context_tasks import END, prompts
from experiments.shared.resampling import (
    estimate_of,
    estimates_of,
    k_star_draws,
    law_r_squared,
    resampled_means,
)
from experiments.shared.training import Recipe
from mrtsim.errors import InputError
from mrtsim.pilot.estimate import PilotEstimate, estimate_components
from mrtsim.plan.allocate import Cost

CLAIMS = (4, 6, 7, 11)
_UNCLIPPED = 1e9
# Rates: the lowest validation divergence of three (3e-4, 1e-3, 3e-3 and 3e-5, 1e-4, 3e-4), at K = 1 and at K = 16.
TOP = Recipe(steps=60, learning_rate=3e-4, clip=_UNCLIPPED, validate_every=5)
LATER = replace(TOP, steps=30, validate_every=10)
ALL = Recipe(steps=30, learning_rate=3e-5, clip=_UNCLIPPED, validate_every=3)
STEPS = {"last": "after the last step", "best": "at the best validation step"}


@dataclass(frozen=True)
class Config:
    """Sizes, and the bounds of the predictions.

    `rows` are the responses of every design with equal rows, and `fixed_prompts` the prompts where K alone changes and
    where strategies are compared. `all_layers` are the K for which all layers are trained, in the first task and at
    the first budget. `later` says at which steps the pilot of gradients is taken again.
    """

    tasks: tuple[str, ...] = ("haiku",)
    responses: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    budgets: tuple[int, ...] = (160, 320)
    prompt_cost: int = 4
    rows: int = 64
    row_responses: tuple[int, ...] = (1, 4, 16, 32)
    fixed_prompts: int = 40
    fixed_responses: tuple[int, ...] = (1, 4, 16)
    selectors: tuple[str, ...] = ("bkon", "dkon", "dbkon")
    selector_responses: tuple[int, ...] = (4, 8)
    candidates: int = 32
    length: int = 16
    vocabulary: int = 4_096
    vocabulary_prompts: int = 24
    pool_prompts: int = 96
    validation_prompts: int = 32
    test_prompts: int = 64
    judge_responses: int = 4
    batch: int = 32
    recipe: Recipe = TOP
    replicates: int = 8
    pilot_prompts: int = 48
    pilot_responses: int = 8
    later: Recipe | None = LATER
    all_layers: tuple[int, ...] = ()
    all_replicates: int = 4
    all_pilot_prompts: int = 32
    all_recipe: Recipe = ALL
    # The predictions. The first and the fifth are the spec's; margins are shares of the divergence before training.
    best_k_factor: float = 2.0
    equal_rows_margin: float = 0.05
    not_beaten_margin: float = 0.02
    r_squared: float = 0.8

    def __post_init__(self) -> None:
        for k in (*self.responses, *self.row_responses, *self.fixed_responses, *self.selector_responses):
            if not 1 <= k <= self.candidates:
                raise InputError(f"K = {k} must be between 1 and the {self.candidates} candidates")
        if max(n for n, *_ in self.designs()) > self.pool_prompts:
            raise InputError(f"a design needs more than the {self.pool_prompts} prompts of the pool")

    @property
    def cost(self) -> Cost:
        """Of a prompt, in responses."""
        return Cost(float(self.prompt_cost), 1.0)

    def prompts_at(self, budget: int, k: int) -> int:
        """Prompts that a budget pays for with k responses each."""
        return budget // (self.prompt_cost + k)

    def designs(self) -> list[tuple[int, int, str]]:
        """Prompts, responses and strategy of every run, each once."""
        found = [(self.prompts_at(b, k), k, "rkon") for b in self.budgets for k in self.responses]
        found += [(self.rows // k, k, "rkon") for k in self.row_responses]
        found += [(self.fixed_prompts, k, "rkon") for k in (*self.fixed_responses, *self.selector_responses)]
        found += [(self.fixed_prompts, k, name) for k in self.selector_responses for name in self.selectors]
        return list(dict.fromkeys(found))


_QUICK = Config(
    responses=(1, 4, 8),
    budgets=(60,),
    rows=8,
    row_responses=(1, 8),
    fixed_prompts=8,
    fixed_responses=(1, 4, 8),
    selector_responses=(4,),
    candidates=8,
    length=8,
    vocabulary=512,
    vocabulary_prompts=4,
    pool_prompts=16,
    validation_prompts=4,
    test_prompts=8,
    judge_responses=2,
    batch=8,
    recipe=replace(TOP, steps=8, validate_every=4),
    replicates=2,
    pilot_prompts=8,
    pilot_responses=4,
    later=None,
)

PRESETS = {
    "quick": _QUICK,
    "paper": Config(),
    "precise": Config(
        tasks=("haiku", "mix"),
        pool_prompts=192,
        test_prompts=96,
        replicates=16,
        pilot_prompts=192,
        pilot_responses=16,
        all_layers=(1, 4, 16, 32),
        all_replicates=8,
    ),
}


def unavailable() -> str | None:
    """Why this experiment cannot run here; None where it can."""
    return None if smollm.weights() else smollm.MISSING


class Task(NamedTuple):
    """One task's teacher and data: what to train on, and what judges."""

    fixed: lab.Fixed
    texts: Mapping[str, tuple[lab.Text, lab.Text]]  # of learner and teacher
    answers: Mapping[str, lab.Answers]


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """Draw the teacher's responses, take both pilots, and train every design in every task."""
    language = smollm.load()
    with jax.default_matmul_precision("highest"):  # float32 in full on every device
        found = {}
        for number, name in enumerate(config.tasks):
            found[name] = _task(config, jax.random.fold_in(key, number), name, language, sweep)
    return {
        "replicates": config.replicates,
        "test_prompts": config.test_prompts,
        "candidates": config.candidates,
        "bounds": {
            name: getattr(config, name)
            for name in ("best_k_factor", "equal_rows_margin", "not_beaten_margin", "r_squared")
        },
        "tasks": found,
    }


def _task(
    config: Config, key: PRNGKeyArray, name: str, language: smollm.Language, sweep: Any
) -> dict[str, Any]:
    data_key, seed_key, later_key = jax.random.split(key, 3)
    task, model = _drawn(config, data_key, name, language), language.model
    orders = {s: lab.order_of(s, task.answers["pool"], config.vocabulary) for s in config.selectors}
    top = _Depth(model, task, 1, config.validation_prompts)
    designs = config.designs()
    curves = _trained(
        config,
        seed_key,
        sweep,
        f"{name}/top",
        top,
        designs,
        orders,
        config.recipe,
        config.replicates,
    )
    start = jax.jit(lab.divergence)(top.learner, task.fixed, top.judges["test"])
    pilots = _pilots(config, top, config.pilot_prompts)
    result = {
        "left_out": top.left_out,
        "prompt_tokens": {"learner": _size(task, 0), "teacher": _size(task, 1)},
        "start": mean(np.asarray(start)),
        "start_by_nll": mean(
            np.asarray(jax.jit(lab.nll_difference)(top.learner, task.fixed, top.judges["test"].data))
        ),
        "pilots": {kind: _pilot(pilot, config) for kind, pilot in pilots.items()},
        "later": _later(config, later_key, top),
        **_judged(config, designs, curves, pilots, float(np.mean(np.asarray(start)))),
    }
    if config.all_layers and name == config.tasks[0]:
        result["all_layers"] = _all_layers(config, seed_key, sweep, name, model, task)
    return result


def _size(task: Task, which: int) -> int:
    return task.texts["pool"][which].tokens.shape[1]


def _drawn(config: Config, key: PRNGKeyArray, name: str, language: smollm.Language) -> Task:
    """The task's prompts in disjoint parts, and the teacher's responses to them; `judge` is validation, then test."""
    model, tokens = language
    split_key, word_key, *keys = jax.random.split(key, 4)
    encoded = {
        task: [[tokens.encode(prompt[side]) for prompt in prompts(task)] for side in (0, 1)]
        for task in config.tasks
    }
    order = np.asarray(jax.random.permutation(split_key, len(encoded[name][0])))
    ends = np.cumsum([config.pool_prompts, config.validation_prompts + config.test_prompts])
    if ends[-1] > len(order):
        raise InputError(f"{ends[-1]} prompts are more than the {len(order)} that there are")
    # All tasks have as many slots, so that they share their compiled programs.
    sizes = [max(len(p) for sides in encoded.values() for p in sides[side]) for side in (0, 1)]
    whole = [lab.filled(side, size) for side, size in zip(encoded[name], sizes, strict=True)]
    texts = {
        part: (lab.Text(*(a[rows] for a in whole[0])), lab.Text(*(a[rows] for a in whole[1])))
        for part, rows in zip(("pool", "judge"), np.split(order, ends)[:2], strict=True)
    }
    first = jax.tree.map(lambda a: a[: config.vocabulary_prompts], texts["pool"][1])
    allowed = lab.most_likely(
        word_key, model, first, config.vocabulary, config.judge_responses, config.length
    )
    end = tokens.ids[END]
    if not bool(jnp.any(allowed == end)):
        allowed = jnp.sort(allowed.at[-1].set(end))
    place = int(jnp.searchsorted(allowed, end))
    answers = {}
    for (part, (_, teacher)), part_key in zip(texts.items(), keys, strict=True):
        n = config.candidates if part == "pool" else config.judge_responses
        answers[part] = lab.draw_answers(part_key, model, teacher, allowed, place, n, config.length)
    return Task(lab.Fixed.of(model, allowed), texts, answers)


class _Depth:
    """The learner before training, its pool and its judges, where the upper `trained` layers are trained."""

    def __init__(self, model: Any, task: Task, trained: int, validation: int):
        self.learner, self.fixed = lab.Learner.of(model, trained), task.fixed
        allowed = task.fixed.allowed
        data = {
            part: lab.learner_data(model, learner, task.answers[part], allowed, trained)
            for part, (learner, _) in task.texts.items()
        }
        self.pool = data["pool"]
        judge, left = lab.judge_of(model, task.texts["judge"][1], data["judge"], allowed)
        self.left_out = float(np.average(left, weights=judge.data.answers.counted))
        self.judges = {
            "validation": jax.tree.map(lambda a: a[:validation], judge),
            "test": jax.tree.map(lambda a: a[validation:], judge),
        }


def train_one(
    key: PRNGKeyArray,
    design: lab.Design,
    start: lab.Learner,
    fixed: lab.Fixed,
    pool: lab.Data,
    judges: dict[str, lab.Judge],
    schedule: lab.Schedule,
) -> dict[str, Array]:
    """One seed: divergence per test prompt after the last and at the best check, and the validation's (checks,)."""

    def validate(learner: lab.Learner) -> Array:
        return jnp.mean(lab.divergence(learner, fixed, judges["validation"]))

    found = lab.train(key, start, fixed, pool, design, schedule, validate)
    tested = {
        step: lab.divergence(learner, fixed, judges["test"])
        for step, learner in (("last", found.last), ("best", found.best))
    }
    return {**tested, "step": found.best_step, "validation": found.validation_losses}


def _trained(
    config: Config,
    key: PRNGKeyArray,
    sweep: Any,
    label: str,
    depth: _Depth,
    designs: list[tuple[int, int, str]],
    orders: Mapping[str, Array],
    recipe: Recipe,
    replicates: int,
) -> dict[tuple[int, int, str], dict[str, np.ndarray]]:
    """Divergence per test prompt (seeds, prompts) of every design after the last and at the best validation step."""
    anything = jnp.zeros(depth.pool.answers.tokens.shape[:2], jnp.int32)
    fixed, schedule, settings = depth.fixed, lab.Schedule(recipe, config.batch), {}
    for n, k, name in designs:
        design = lab.Design(n, k, orders.get(name, anything), name not in orders)
        settings[f"{label}/n={n}/k={k}/{name}"] = (
            design, depth.learner, fixed, depth.pool, depth.judges, schedule,
        )  # fmt: skip
    found = sweep.grid(train_one, key, replicates, settings, block=1)
    return dict(zip(designs, found.values(), strict=True))


def _estimates(found: lab.Pilots) -> dict[str, PilotEstimate]:
    return {"losses": estimate_components(found.losses), "gradients": estimate_components(found.gradients)}


def _pilots(
    config: Config, depth: _Depth, n_prompts: int, learner: lab.Learner | None = None
) -> dict[str, PilotEstimate]:
    """Both pilots at the learner, by default the one before training."""
    at = depth.learner if learner is None else learner
    return _estimates(lab.pilots(at, depth.fixed, depth.pool, n_prompts, config.pilot_responses))


def _pilot(pilot: PilotEstimate, config: Config) -> dict[str, Any]:
    return {
        "prompt": pilot.prompt,
        "response": pilot.response,
        "ratio": pilot.ratio,
        "k_star": pilot.k_star(config.cost),
    }


def _later(config: Config, key: PRNGKeyArray, depth: _Depth) -> list[dict[str, Any]]:
    """Pilots of gradients along one run, at the middle K of the first budget."""
    if config.later is None:
        return []
    k = config.responses[len(config.responses) // 2]
    anything = jnp.zeros(depth.pool.answers.tokens.shape[:2], jnp.int32)
    design = lab.Design(config.prompts_at(config.budgets[0], k), k, anything, True)
    schedule = lab.Schedule(config.later, config.batch)
    # The learner itself is what is kept at every check.
    train = eqx.filter_jit(lab.train)
    along = train(
        key, depth.learner, depth.fixed, depth.pool, design, schedule, record=lambda learner: learner
    ).records
    found = []
    for check in range(config.later.steps // config.later.validate_every):
        learner = jax.tree.map(lambda a, check=check: a[check], along)
        pilot = _pilots(config, depth, config.pilot_prompts, learner)["gradients"]
        found.append({"step": (check + 1) * config.later.validate_every, **_pilot(pilot, config)})
    return found


def _all_layers(
    config: Config, key: PRNGKeyArray, sweep: Any, name: str, model: Any, task: Task
) -> dict[str, Any]:
    """All layers trained at the first budget: its pilots, and the best K."""
    depth, budget = _Depth(model, task, model.shape.depth, config.validation_prompts), config.budgets[0]
    pilots = _pilots(config, depth, min(config.all_pilot_prompts, config.pilot_prompts))
    designs = [(config.prompts_at(budget, k), k, "rkon") for k in config.all_layers]
    curves = _trained(
        config, key, sweep, f"{name}/all", depth, designs, {}, config.all_recipe, config.all_replicates
    )  # fmt: skip
    values = {step: np.stack([curves[d][step] for d in designs]) for step in STEPS}
    return {
        "replicates": config.all_replicates,
        "pilots": {kind: _pilot(pilot, config) for kind, pilot in pilots.items()},
        **_cost(config, budget, list(config.all_layers), values, pilots),
    }


# --- what the curves say ------------------------------------------------------------------------------------------


def _cost(
    config: Config,
    budget: int,
    ks: list[int],
    values: Mapping[str, np.ndarray],
    pilots: Mapping[str, PilotEstimate],
) -> dict[str, Any]:
    """One budget: the divergence of every K, the best K beside both K*, and what choosing by losses costs."""
    grid = np.array(ks, float)
    means = {step: resampled_means(v) for step, v in values.items()}
    stars = {kind: k_star_draws(pilot, config.cost) for kind, pilot in pilots.items()}
    best = {step: grid[m.argmin(1)] for step, m in means.items()}

    def at(star: np.ndarray) -> np.ndarray:
        """The divergence at the K of the grid that is nearest to K*."""
        known = np.where(np.isnan(star), 1.0, star)
        nearest = np.abs(np.log(grid / known[:, None])).argmin(1)
        return np.where(np.isnan(star), np.nan, means["best"][np.arange(len(star)), nearest])

    off = {kind: np.abs(np.log2(best["best"] / star)) for kind, star in stars.items()}
    return {
        "budget": budget,
        "responses": ks,
        "prompts": [config.prompts_at(budget, k) for k in ks],
        **{step: estimates_of(m) for step, m in means.items()},
        "best_k": {step: estimate_of(b) for step, b in best.items()},
        "best_over_k_star": {kind: estimate_of(best["best"] / star) for kind, star in stars.items()},
        "gradients_off_less_losses_off": estimate_of(off["gradients"] - off["losses"]),
        "losses_less_gradients": estimate_of(at(stars["losses"]) - at(stars["gradients"])),
        "first_less_others_last": estimate_of(means["last"][:, 0] - means["last"][:, 1:].max(1)),
    }


def _judged(
    config: Config,
    designs: list[tuple[int, int, str]],
    curves: Mapping[tuple[int, int, str], dict[str, np.ndarray]],
    pilots: Mapping[str, PilotEstimate],
    start: float,
) -> dict[str, Any]:
    """Every comparison of designs, as intervals."""

    def values(chosen: list[tuple[int, int, str]], step: str) -> np.ndarray:
        return np.stack([curves[d][step] for d in chosen])

    def by_k(pairs: Callable[[int], int], ks: tuple[int, ...]) -> list[tuple[int, int, str]]:
        return [(pairs(k), k, "rkon") for k in ks]

    costs, paid = [], []
    for budget in config.budgets:
        chosen = by_k(lambda k, budget=budget: config.prompts_at(budget, k), config.responses)
        paid += chosen
        of = {step: values(chosen, step) for step in STEPS}
        costs.append(_cost(config, budget, list(config.responses), of, pilots))
    means = resampled_means(values(paid, "best"))
    n, k = (np.array([d[i] for d in paid], float) for i in (0, 1))
    law = {
        kind: estimate_of(
            law_r_squared(n, k, k_star_draws(pilot, config.cost) ** 2 / config.prompt_cost, means)
        )
        for kind, pilot in pilots.items()
    }
    rows = {
        step: resampled_means(values(by_k(lambda k: config.rows // k, config.row_responses), step))
        for step in STEPS
    }
    ks = tuple(sorted({*config.fixed_responses, *config.selector_responses}))
    fixed = {step: resampled_means(values(by_k(lambda _: config.fixed_prompts, ks), step)) for step in STEPS}
    return {
        "costs": costs,
        "law": law,
        "rows": {
            "responses": config.row_responses,
            **{step: estimates_of(m) for step, m in rows.items()},
            "over_first": estimates_of((rows["best"][:, 1:] - rows["best"][:, :1]) / start),
        },
        "fixed": {
            "prompts": config.fixed_prompts,
            "responses": ks,
            **{step: estimates_of(m) for step, m in fixed.items()},
            "drop": {step: estimate_of(m[:, 0] - m[:, -1]) for step, m in fixed.items()},
        },
        "selectors": [_strategies(config, k, curves, start) for k in config.selector_responses],
        "best_step": {f"{n}x{k}/{name}": float(curves[n, k, name]["step"].mean()) for n, k, name in designs},
    }


def _strategies(
    config: Config, k: int, curves: Mapping[Any, dict[str, np.ndarray]], start: float
) -> dict[str, Any]:
    """Divergence of each strategy less RKoN's, in nats, and the least of them but BKoN's as a share of the start."""
    names = ["rkon", *config.selectors]
    means = resampled_means(np.stack([curves[config.fixed_prompts, k, name]["best"] for name in names]))
    over = means[:, 1:] - means[:, :1]
    return {
        "responses": k,
        "rkon": estimate_of(means[:, 0]),
        "over_rkon": dict(zip(config.selectors, estimates_of(over), strict=True)),
        "least": estimate_of(over.min(1) / start),
    }


# --- statements ---------------------------------------------------------------------------------------------------


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """The five predictions, per task, and what the paper asserts of language models."""
    found = []
    for name, task in result["tasks"].items():
        found += _of_budgets(name, task, result["bounds"])
        found += _of_k(name, task, result["bounds"])
        found += _of_strategies(name, task, result["bounds"])
    return found


def _of_budgets(name: str, task: Mapping[str, Any], bounds: Mapping[str, float]) -> list[Prediction]:
    found, factor = [], bounds["best_k_factor"]
    groups = [(f"b{entry['budget']}", "", entry) for entry in task["costs"]]
    if "all_layers" in task:
        groups.append(("all-layers", ", all layers", task["all_layers"]))
    for suffix, words, entry in groups:
        where = f"language model ({name}), budget {entry['budget']}{words}"
        pilots = (task if suffix != "all-layers" else entry)["pilots"]
        stars = ", ".join(f"{read(pilots[kind]['k_star']).value:.3g} from {kind}" for kind in pilots)
        found += [
            Prediction(
                f"language_model.best-k.{name}.{suffix}", 4, f"{where}: best K / K* of the gradients",
                read(entry["best_over_k_star"]["gradients"]), between(1 / factor, factor), Role.LIMIT,
                note=f"the best K is {entry['best_k']['best']['estimate']:g}; K* is {stars}",
            ),
            Prediction(
                f"language_model.gradients-closer.{name}.{suffix}", 4,
                f"{where}: distance of best K from K*, gradients' less losses'",
                read(entry["gradients_off_less_losses_off"]), below(0), Role.LIMIT, unit="factors of 2",
            ),
            Prediction(
                f"language_model.chosen-by-losses.{name}.{suffix}", 4,
                f"{where}: error at the losses' K* less that at the gradients'",
                read(entry["losses_less_gradients"]), above(0), Role.LIMIT, unit="nats",
            ),
            Prediction(
                f"language_model.overfits.{name}.{suffix}", 4,
                f"{where}: error after the last step, K = 1 less the largest other",
                read(entry["first_less_others_last"]), above(0), Role.CONTEXT, unit="nats",
            ),
        ]  # fmt: skip
    found.append(
        Prediction(
            f"language_model.law.{name}",
            4,
            f"language model ({name}): R^2 of the law's line through the budgets' designs",
            read(task["law"]["gradients"]),
            above(bounds["r_squared"]),
            Role.LIMIT,
            note=f"with the gradients' ratio; with the losses' {read(task['law']['losses']).value:.2f}",
        )
    )
    return found


def _of_k(name: str, task: Mapping[str, Any], bounds: Mapping[str, float]) -> list[Prediction]:
    rows, fixed, margin = task["rows"], task["fixed"], bounds["equal_rows_margin"]
    found = [
        Prediction(
            f"language_model.equal-rows.{name}.k{k}", 11,
            f"language model ({name}): error at equal rows, K = {k} less K = 1, share of that before training",
            read(cell), equals(0.0, absolute=margin), Role.CONTEXT,
        )
        for k, cell in zip(rows["responses"][1:], rows["over_first"], strict=True)
    ]  # fmt: skip
    first, last = fixed["responses"][0], fixed["responses"][-1]
    found += [
        Prediction(
            f"language_model.falls.{name}.{step}", 11,
            f"language model ({name}): error {words}, {fixed['prompts']} prompts, K = {first} less K = {last}",
            read(fixed["drop"][step]), above(0), Role.PRIMARY, unit="nats",
        )
        for step, words in STEPS.items()
    ]  # fmt: skip
    return found


def _of_strategies(name: str, task: Mapping[str, Any], bounds: Mapping[str, float]) -> list[Prediction]:
    found = []
    for entry in task["selectors"]:
        k = entry["responses"]
        found += [
            Prediction(
                f"language_model.not-beaten.{name}.k{k}", 6,
                f"language model ({name}), K = {k}: least error of others less RKoN's, share of that before training",
                read(entry["least"]), above(-bounds["not_beaten_margin"]), Role.LIMIT,
            ),
            *(
                Prediction(
                    f"language_model.{strategy}-over-rkon.{name}.k{k}", 7 if strategy == "bkon" else 6,
                    f"language model ({name}), K = {k}: error under {strategy} less that under rkon",
                    read(cell), above(0), Role.LIMIT if strategy == "bkon" else Role.CONTEXT, unit="nats",
                )
                for strategy, cell in entry["over_rkon"].items()
            ),
        ]  # fmt: skip
    return found
