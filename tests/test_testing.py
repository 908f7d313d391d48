import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.clustered import ClusteredPrompts
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.pilot import estimate as components
from mrtsim.plan.allocate import allocate, optimal_responses
from mrtsim.selection.registry import register_strategy
from mrtsim.tables.csv_format import CsvFormat
from mrtsim.tables.formats import FORMATS
from mrtsim.testing import (
    CheckFailed,
    check_allocator,
    check_distribution,
    check_estimator,
    check_format,
    check_selector,
    check_unbiased,
)
from tests.tables.writers import CONTAINERS, TEXT, text_of

BUILT_IN = ("rkon", "bkon", "dkon", "dbkon", "filtered-max-min", "gumbel")


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_strategy_is_sound(name):
    check_selector(name, max_examples=10, order=name not in ("dkon", "dbkon"))


def test_rkon_is_unbiased_and_the_others_are_not():
    check_unbiased("rkon")
    for name in ("bkon", "dbkon", "gumbel"):
        with pytest.raises(CheckFailed, match="not K/N"):
            check_unbiased(name, draws=5000)


def broken(name, function, **options):
    """Register a defective strategy under a name of its own."""
    return register_strategy(f"test-{name}", **options)(function).name


def test_defective_selectors_are_caught():
    def repeats(key, pool, k):
        return jnp.zeros(k, jnp.int32)

    def blind_to_mask(key, pool, k):
        return jax.lax.top_k(pool.rewards, k)[1]

    def first(key, pool, k):
        return jax.lax.top_k(pool.exists().astype(jnp.float32), k)[1]

    def backwards(key, pool, k):
        return jax.lax.top_k(jnp.where(pool.exists(), pool.rewards, -jnp.inf), k)[1][::-1]

    with pytest.raises(CheckFailed, match="registered as nested"):
        check_selector(broken("backwards", backwards, needs=("rewards",), nested=True))
    with pytest.raises(CheckFailed, match="distinct"):
        check_selector(broken("repeats", repeats, needs=("rewards",)))
    name = broken("blind", blind_to_mask, needs=("rewards",))
    with pytest.raises(CheckFailed, match="mask = "):
        check_selector(name)
    with pytest.raises(CheckFailed, match="stand in the order"):
        check_selector(broken("first", first))


def test_a_selector_that_weighs_slightly_is_caught():
    def tilted(key, pool, k):
        noise = jax.random.gumbel(key, pool.rewards.shape) + 0.1 * pool.rewards
        return jax.lax.top_k(jnp.where(pool.exists(), noise, -jnp.inf), k)[1]

    name = broken("tilted", tilted, needs=("rewards",), random=True)
    with pytest.raises(CheckFailed, match="keeps candidate"):
        check_unbiased(name)


def anova(losses):
    responses = losses.shape[1]
    within = losses.var(axis=1, ddof=1).mean()
    return losses.mean(axis=1).var(ddof=1) - within / responses, within


def test_estimators():
    check_estimator(anova)

    def clipped(losses):
        prompt, response = anova(losses)
        return max(prompt, 0.0), response

    def uncorrected(losses):
        return losses.mean(axis=1).var(ddof=1), losses.var(axis=1, ddof=1).mean()

    for biased in (clipped, uncorrected):
        with pytest.raises(CheckFailed, match="biased"):
            check_estimator(biased)
        check_estimator(biased, unbiased=False)
    with pytest.raises(CheckFailed, match="adding 10"):
        check_estimator(lambda x: (float(np.mean(x**2)), 1.0), unbiased=False)
    with pytest.raises(CheckFailed, match="order of prompts"):
        check_estimator(lambda x: (float(x[0].var()), float(x.var())), unbiased=False)


@pytest.mark.parametrize(("method", "unbiased"), [("anova", True), ("ml", False), ("reml", False)])
def test_our_own_estimators(method, unbiased):
    def estimator(losses):
        prompts = np.repeat(np.arange(len(losses)), losses.shape[1])
        try:
            found = components.estimate_components(losses.ravel(), prompts, method=method).components
        except (
            ValueError
        ):  # no spread at all, or none within prompts: refused with a message; the components are 0 then
            return anova(losses)
        return found.prompt, found.response

    check_estimator(estimator, unbiased=unbiased)


def test_allocators():
    def ours(components, cost, budget):
        plan = allocate(components, cost, budget=budget)
        return plan.n_prompts, plan.responses_per_prompt

    check_allocator(ours)

    def rounded(components, cost, budget):
        star = optimal_responses(components, cost)
        k = max(1, min(round(star) if star < 99 else 99, int((budget - cost.prompt) // cost.response)))
        return int(budget // (cost.prompt + k * cost.response)), k

    def dearer(components, cost, budget):
        n, k = ours(components, cost, budget)
        return n, k + 1

    for allocator, message in (
        (rounded, "have the variance"),
        (dearer, "cost"),
        (lambda components, cost, budget: (1, 1), "have the variance"),
        (lambda components, cost, budget: (1.5, 1), "is no plan"),
        (lambda components, cost, budget: (0, 1), "is no plan"),
    ):
        with pytest.raises(CheckFailed, match=message):
            check_allocator(allocator)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_formats(kind):
    """Ours, of text; in a format with types a number cannot be a word, and `tests/tables` compare them in all else."""
    ending = kind.endings[0]
    assert ending in CONTAINERS
    if ending == ".json":
        check_format(kind, lambda rows: ("[" + ",\n".join(map(json.dumps, rows)) + "]\n").encode())
    elif ending in TEXT:
        check_format(kind, lambda rows: text_of(rows, ending).encode())


def test_a_format_that_reads_something_else_is_caught():
    def rounded(rows):
        return text_of([{**row, "loss": round(row["loss"], 1)} for row in rows], ".csv").encode()

    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check_format(CsvFormat, rounded)


@pytest.mark.parametrize(
    "distribution", [GaussianModes(), ClusteredPrompts(), Categorical()], ids=lambda d: type(d).__name__
)
def test_distributions(distribution):
    check_distribution(distribution)


def test_a_distribution_with_a_wrong_expectation_is_caught():
    class Shifted(GaussianModes):
        def sample_responses(self, key, prompts, n):
            responses, modes = super().sample_responses(key, prompts, n)
            return responses + 0.02, modes

    with pytest.raises(CheckFailed, match="the sampled mean of y"):
        check_distribution(Shifted())


def test_a_distribution_is_told_what_it_lacks():
    class HalfDone:
        def sample_prompts(self, key, n): ...

        def reward(self, prompts, responses): ...

    with pytest.raises(CheckFailed, match="HalfDone lacks sample_responses, expectation: see"):
        check_distribution(HalfDone())


def test_wrong_parts_of_a_distribution_are_caught():
    class WrongModes(GaussianModes):
        def mode_weights(self, prompts):
            return super().mode_weights(prompts)[..., :2] * 1.5

    class HeavyRule(GaussianModes):
        def quadrature(self, prompts, rule=None):
            responses, weights = super().quadrature(prompts, rule)
            return responses, weights * 1.01

        def expectation(self, fn, prompts, **_):
            return GaussianModes().expectation(fn, prompts)

    with pytest.raises(CheckFailed, match="the sampled frequency of mode 0"):
        check_distribution(WrongModes(), draws=20_000)
    with pytest.raises(CheckFailed, match=r"the sum of 1 over quadrature is 1\.01"):
        check_distribution(HeavyRule(), draws=20_000)
