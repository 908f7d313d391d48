"""Checks that a methods author runs on their own selector, estimator, allocation rule or distribution.

They come with `pip install mrtsim[testing]`.

Each check raises `CheckFailed` with the counter-example it found, shrunk by Hypothesis where it searched for one. The
searches are derandomised: the same code passes or fails every time.

    from mrtsim.testing import check_selector, check_unbiased

    check_selector("my-strategy")      # distinct, existing, repeatable; padding and order of candidates do not matter
    check_unbiased("my-strategy")      # is every candidate kept equally often?
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import ArrayLike, NDArray

from mrtsim.distributions.protocol import Distribution, NamedModes, WithQuadrature, missing
from mrtsim.errors import InputError
from mrtsim.plan.allocate import Cost
from mrtsim.selection.registry import strategy
from mrtsim.selection.select import select
from mrtsim.selection.select_file import select_file
from mrtsim.tables.format import Format
from mrtsim.tables.formats import open_tables
from mrtsim.tables.pilots import read_pilot
from mrtsim.variance import VarianceComponents

FEATURES = 2
# Few shapes, so that few programs are compiled; pools of one, of few and of many candidates.
SIZES = ((1, 1), (2, 1), (4, 2), (4, 4), (7, 3))


class CheckFailed(AssertionError):
    """A property does not hold; the message has the counter-example."""


def pools(
    n: int, prompts: int = 2, *, ties: bool = True
) -> st.SearchStrategy[dict[str, NDArray[np.float64]]]:
    """Hypothesis strategy for `rewards` (prompts, n) and `embeddings` (prompts, n, 2); with or without ties.

    Values are small whole numbers, so that a counter-example can be read; without ties rewards are a permutation and
    embeddings lie at different angles.

    Args:
        n: candidates per prompt.
        prompts: number of prompts.
        ties: whether rewards and similarities may tie.
    """
    if ties:
        rewards = arrays.arrays(np.float64, (prompts, n), elements=st.integers(-2, 2).map(float))
        vectors = st.sampled_from([(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (-1.0, -2.0)])
        embeddings = st.lists(vectors, min_size=prompts * n, max_size=prompts * n)
    else:
        rewards = st.lists(st.permutations(range(n)), min_size=prompts, max_size=prompts)
        # Irrational steps: no two pairs of candidates are equally similar.
        angles = st.lists(st.permutations(range(n)), min_size=prompts, max_size=prompts)
        embeddings = angles.map(
            lambda turns: [
                (math.cos(2.4 * t + 0.1 * t * t), math.sin(2.4 * t + 0.1 * t * t))
                for turn in turns
                for t in turn
            ]
        )

    def pool(r: Any, e: Any) -> dict[str, NDArray[np.float64]]:
        return {
            "rewards": np.asarray(r, np.float64),
            "embeddings": np.asarray(e, np.float64).reshape(prompts, n, FEATURES),
        }

    return st.builds(pool, rewards, embeddings)


def check_selector(
    name: str, *, order: bool = True, max_examples: int = 25, sizes: Sequence[tuple[int, int]] = SIZES
) -> None:
    """Check a registered strategy against what every strategy must do, on pools with and without ties.

    The kept indices are distinct and exist; the same key gives the same answer; K = N keeps all; candidates that do not
    exist, wherever they stand, change nothing; a prompt's answer does not depend on the other prompts; for a strategy
    that is registered as nested, what it keeps for K - 1 is the first of what it keeps for K; and, for a strategy that
    is not random, putting the candidates in another order keeps the same ones (pools without ties).

    Args:
        name: a registered strategy; decorate yours with `mrtsim.register_strategy`.
        order: whether to check the order of candidates. Not for a strategy whose ties are structural: two candidates
            that cover each other best tie in "dkon" whatever their embeddings, and the lower index wins.
        max_examples: pools per size and property.
        sizes: the (N, K) to try.

    Raises:
        CheckFailed: with the pool and the answers.
        InputError: there is no such strategy.
    """
    random = strategy(name).random
    for n, k in sizes:
        _search(pools(n), max_examples, lambda pool, k=k: _check_answer(name, k, pool))
        _search(pools(n), max_examples, lambda pool, k=k: _check_padding(name, k, pool, random))
        if order and not random:
            _search(
                st.tuples(pools(n, ties=False), st.permutations(range(n))),
                max_examples,
                lambda drawn, k=k: _check_order(name, k, *drawn),
            )


def check_unbiased(name: str, *, n: int = 6, k: int = 2, draws: int = 20_000, max_examples: int = 5) -> None:
    """Check that a strategy keeps every candidate with probability K/N, whatever its reward and embedding.

    That is when the mean over the kept is unbiased for the mean over the pool, for every loss (Horvitz and Thompson
    1952). A strategy that is not random can only be unbiased for K = N, so it fails. Frequencies over `draws` keys are
    compared in standard errors; the bound is five, which an unbiased strategy passes with probability above 0.9999.

    Args:
        name: a registered strategy.
        n: N.
        k: K.
        draws: keys per pool, of a random strategy.
        max_examples: number of pools.

    Raises:
        CheckFailed: with the candidate that is kept too often or too rarely.
        InputError: there is no such strategy.
    """
    random = strategy(name).random
    share = k / n
    error = math.sqrt(share * (1 - share) / draws) if random else 0.0

    def check(pool: dict[str, NDArray[np.float64]]) -> None:
        # Prompts are drawn independently, so copies of a prompt are draws.
        copies = {key: np.repeat(value, draws if random else 1, axis=0) for key, value in pool.items()}
        kept = _select(name, k, copies, jax.random.key(0))
        frequency = np.bincount(kept.ravel(), minlength=n) / len(kept)
        worst = int(np.argmax(np.abs(frequency - share)))
        if abs(frequency[worst] - share) > 5 * error:
            raise CheckFailed(
                f"{name} keeps candidate {worst} with frequency {frequency[worst]:.4f} ± {error:.4f}, not K/N = "
                f"{share:.4f}, of the pool\n{_shown(pool)}"
            )

    _search(pools(n, prompts=1), max_examples, check)


def check_estimator(
    estimator: Callable[[NDArray[np.float64]], tuple[float, float]],
    *,
    unbiased: bool = True,
    prompts: int = 3,
    responses: int = 2,
) -> None:
    """Check an estimator of (V_x, V_{y|x}) from balanced losses (prompts, responses).

    Always: adding a constant to the losses changes nothing, scaling them by c scales both by c squared, the order of
    prompts and of responses does not matter. With `unbiased`: its exact expectation over every data set that a small
    discrete distribution can give (enumerated, with its probability) is the truth, to rounding.

    Args:
        estimator: losses (prompts, responses) -> (V_x, V_{y|x}).
        unbiased: whether to check the expectation; likelihood estimates are biased, and so is one that clips at 0.
        prompts: how many; the enumeration grows as 6 to this power for two responses.
        responses: how many per prompt.

    Raises:
        CheckFailed: with the losses, or with the expectation and the truth.
    """
    values = st.integers(-4, 4).map(float)
    losses = arrays.arrays(np.float64, (prompts, responses), elements=values).filter(
        lambda x: np.ptp(x, axis=1).max() > 0 and np.ptp(x.mean(axis=1)) > 0
    )
    shuffles = st.tuples(st.permutations(range(prompts)), st.permutations(range(responses)))

    def check(drawn: tuple[NDArray[np.float64], tuple[list[int], list[int]]]) -> None:
        data, (rows, columns) = drawn
        before = np.asarray(estimator(data), np.float64)
        for what, changed, factor in (
            ("adding 10 to every loss", data + 10.0, 1.0),
            ("doubling every loss", 2.0 * data, 4.0),
            ("another order of prompts", data[rows], 1.0),
            ("another order of responses", data[:, columns], 1.0),
        ):
            after = np.asarray(estimator(changed), np.float64)
            if not np.allclose(after, factor * before, rtol=1e-5, atol=1e-7):
                raise CheckFailed(
                    f"{what} takes the estimate from {before.tolist()} to {after.tolist()}, expected "
                    f"{(factor * before).tolist()}, for the losses\n{data.tolist()}"
                )

    _search(st.tuples(losses, shuffles), 50, check)
    if unbiased:
        _check_expectation(estimator, prompts, responses)


def check_allocator(
    allocator: Callable[[VarianceComponents, Cost, float], tuple[int, int]], *, max_examples: int = 200
) -> None:
    """Check an allocation rule against every plan that a small budget can buy.

    The plan must fit into the budget, and no other that does may have a lower variance V_x / N_p + V_{y|x} / (N_p K).
    Components, costs and budgets are whole numbers, so that every comparison is exact, and budgets often leave a
    rest: the rounded K* is not always best.

    Args:
        allocator: (components, cost, budget) -> (N_p, K).
        max_examples: how many instances.

    Raises:
        CheckFailed: with the instance, the plan, and what is wrong with it: not whole numbers, too dear, or another
            plan that is better.
    """
    instances = st.tuples(
        st.integers(0, 30), st.integers(0, 60), st.integers(0, 6), st.integers(1, 5), st.integers(0, 60)
    ).filter(lambda drawn: drawn[0] + drawn[2] > 0)  # V_x = C_p = 0 has no finite optimum

    def check(drawn: tuple[int, int, int, int, int]) -> None:
        v_prompt, v_response, c_prompt, c_response, rest = drawn
        budget = c_prompt + c_response + rest
        components = VarianceComponents(float(v_prompt), float(v_response))
        cost = Cost(float(c_prompt), float(c_response))
        case = f"for {components}, {cost} and a budget of {budget}"
        n, k = allocator(components, cost, float(budget))
        if n != int(n) or k != int(k) or min(n, k) < 1:
            raise CheckFailed(f"{n} prompts with {k} responses is no plan, {case}")
        n, k = int(n), int(k)
        spent = n * (c_prompt + k * c_response)
        if spent > budget:
            raise CheckFailed(f"{n} prompts with {k} responses cost {spent}, {case}")
        # Fewer prompts with the same K are never better, so that the most for each K are all there is to compare.
        for other_k in range(1, (budget - c_prompt) // c_response + 1):
            other_n = budget // (c_prompt + other_k * c_response)
            # V_x / N_p + V_{y|x} / (N_p K), both sides multiplied by N_p K of both plans
            if (v_prompt * other_k + v_response) * n * k < (v_prompt * k + v_response) * other_n * other_k:
                raise CheckFailed(
                    f"{n} prompts with {k} responses have the variance "
                    f"{(v_prompt + v_response / k) / n:.6g}, {other_n} with {other_k} have "
                    f"{(v_prompt + v_response / other_k) / other_n:.6g}, {case}"
                )

    _search(instances, max_examples, check)


def check_distribution(distribution: Any, *, prompts: int = 3, draws: int = 200_000) -> None:
    """Check that a distribution has the methods of `Distribution`, and that its samples have the promised moments.

    For each of a few prompts the sampled mean of y, y squared and the reward are compared with `expectation`, in
    standard errors (five); and the expectation of 1 must be 1. Of the optional parts of
    `mrtsim.distributions.protocol` those that are there are checked too: weighted sums over `quadrature` must be the
    expectations, and the sampled modes must have the frequencies `mode_weights`.

    Args:
        distribution: yours.
        prompts: how many prompts to check at.
        draws: responses per prompt.

    Raises:
        CheckFailed: with the methods that are missing; or with the prompt, the moment and both values.
    """
    if lacking := missing(distribution, Distribution):
        raise CheckFailed(
            f"{type(distribution).__name__} lacks {', '.join(lacking)}: see mrtsim.distributions.protocol.Distribution"
        )
    prompt_key, response_key = jax.random.split(jax.random.key(0))
    given_prompts = distribution.sample_prompts(prompt_key, prompts)
    sampled, modes = distribution.sample_responses(response_key, given_prompts, draws)

    def moments(responses: Any) -> Any:
        reward = distribution.reward(given_prompts, responses)
        one = reward * 0 + 1
        y = responses * one
        return jax.numpy.stack([one, y, y * y, reward], axis=-1)

    exact = np.asarray(distribution.expectation(moments, given_prompts).value, np.float64)
    names = ("1", "y", "y^2", "reward")
    _compare("mean", names, np.asarray(moments(sampled), np.float64), exact)
    if isinstance(distribution, WithQuadrature):
        responses, weights = distribution.quadrature(given_prompts, None)
        sums = np.einsum("pq,pqm->pm", np.asarray(weights, np.float64), np.asarray(moments(responses)))
        size = np.abs(sums) + np.abs(exact)
        for prompt, moment in np.argwhere(np.abs(sums - exact) > 1e-4 * (1 + size)):
            raise CheckFailed(
                f"prompt {prompt}: the sum of {names[moment]} over quadrature is {sums[prompt, moment]:.6g}, its "
                f"expectation {exact[prompt, moment]:.6g}"
            )
    if isinstance(distribution, NamedModes):
        chances = np.asarray(distribution.mode_weights(given_prompts), np.float64)
        kept = np.asarray(modes)[..., None] == np.arange(chances.shape[-1])
        _compare(
            "frequency", [f"mode {m}" for m in range(chances.shape[-1])], kept.astype(np.float64), chances
        )


def _compare(what: str, names: Sequence[str], drawn: NDArray[np.float64], exact: NDArray[np.float64]) -> None:
    """Sampled means over draws (prompts, draws, moments) against their expectations (prompts, moments)."""
    mean, error = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / math.sqrt(drawn.shape[1])
    # float32 sampling: rounding of the order of 1e-5 relative is not a defect.
    wrong = np.abs(mean - exact) > 5 * error + 1e-5 * (1 + np.abs(exact))
    for prompt, moment in np.argwhere(wrong):
        raise CheckFailed(
            f"prompt {prompt}: the sampled {what} of {names[moment]} is {mean[prompt, moment]:.6g} ± "
            f"{error[prompt, moment]:.2g}, its expectation {exact[prompt, moment]:.6g}"
        )


def check_format(kind: type[Format], encode: Callable[[Sequence[dict[str, Any]]], bytes]) -> None:
    """Check a file format against JSON lines: the same pilot, the same picks, records copied, faults named.

    The format must be in `mrtsim.tables.formats.FORMATS`, and hold text, whole numbers and decimals.

    Args:
        kind: the format.
        encode: records, which all have the same fields, to the bytes of a file.

    Raises:
        AssertionError: it reads, copies or refuses something else.
    """
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt_id": f"q{i % 20}",
            "loss": round(float(rng.normal()), 3),
            "reward": i * 7 % 11,
            "text": f'é "{i}", so',
        }
        for i in range(100)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = folder / f"ours{kind.endings[0]}", folder / "theirs.jsonl"
        ours.write_bytes(encode(rows))
        theirs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        a, b = read_pilot(ours), read_pilot(theirs)
        np.testing.assert_array_equal(a.losses, b.losses)
        np.testing.assert_array_equal(a.prompts, b.prompts)
        assert a.data.ids["prompt"].names == b.data.ids["prompt"].names
        for strategy_name in ("bkon", "rkon"):
            out, expected = folder / f"kept{kind.endings[0]}", folder / "expected.jsonl"
            select_file(ours, out, strategy_name, 2, layout="rows")
            select_file(theirs, expected, strategy_name, 2)
            kept = [json.loads(line) for line in expected.read_text().splitlines()]
            assert out.read_bytes() == encode(kept), "the kept records are not as they stood in the input"
        _refused(ours, "no column 'absent'", loss_column="absent")
        ours.write_bytes(encode([*rows[:41], {**rows[41], "loss": "oops"}, *rows[42:]]))
        place = open_tables(ours)[0].place(41)
        _refused(ours, f"{place}, column 'loss': 'oops'")


def _refused(path: Path, message: str, **options: Any) -> None:
    told = None
    try:
        read_pilot(path, **options)
    except InputError as error:
        told = str(error)
    assert told is not None, f"a file was read that should be refused: {message}"
    assert message in told, f"expected {message!r} in {told!r}"


def _check_answer(name: str, k: int, pool: dict[str, NDArray[np.float64]]) -> None:
    key = jax.random.key(0)
    kept = _select(name, k, pool, key)
    n = pool["rewards"].shape[1]
    for prompt, row in enumerate(kept.tolist()):
        if len(set(row)) != k or min(row) < 0 or max(row) >= n:
            raise CheckFailed(
                f"{name} keeps {row} of prompt {prompt}: not {k} distinct of {n}, pool\n{_shown(pool)}"
            )
    again = _select(name, k, pool, key)
    if not np.array_equal(kept, again):
        raise CheckFailed(
            f"{name} gives {kept.tolist()}, then {again.tolist()}, for one key and the pool\n{_shown(pool)}"
        )
    if strategy(name).nested and k > 1:
        fewer = _select(name, k - 1, pool, key)
        if not np.array_equal(kept[:, :-1], fewer):
            raise CheckFailed(
                f"{name} is registered as nested, but keeps {fewer.tolist()} for k = {k - 1} and {kept.tolist()} for "
                f"k = {k}, pool\n{_shown(pool)}"
            )
    alone = _select(name, k, {key_: value[:1] for key_, value in pool.items()}, key)
    if not np.array_equal(kept[:1], alone):
        raise CheckFailed(
            f"{name} keeps {kept[0].tolist()} of prompt 0 beside another prompt and {alone[0].tolist()} alone, pool\n"
            f"{_shown(pool)}"
        )


def _check_padding(name: str, k: int, pool: dict[str, NDArray[np.float64]], random: bool) -> None:
    kept = _select(name, k, pool, jax.random.key(0))
    prompts, n = pool["rewards"].shape
    # Where a random strategy's noise falls depends on the place, so only later places may be empty.
    places = np.arange(n) if random else np.arange(n) * 2 + 1
    mask = np.zeros((prompts, n * 2 + 1), bool)
    mask[:, places] = True
    padded = {key: np.full((prompts, n * 2 + 1, *value.shape[2:]), 9.0) for key, value in pool.items()}
    for key, value in pool.items():
        padded[key][:, places] = value
    got = _select(name, k, padded, jax.random.key(0), mask)
    if not np.array_equal(places[kept], got):
        raise CheckFailed(
            f"{name} keeps {kept.tolist()}, but {got.tolist()} where the same candidates stand at {places.tolist()} "
            f"among masked ones, pool\n{_shown(pool)}"
        )


def _check_order(name: str, k: int, pool: dict[str, NDArray[np.float64]], order: list[int]) -> None:
    kept = _select(name, k, pool, None)
    got = np.asarray(order)[_select(name, k, {key: value[:, order] for key, value in pool.items()}, None)]
    if not np.array_equal(np.sort(kept), np.sort(got)):
        raise CheckFailed(
            f"{name} keeps {kept.tolist()}, but {got.tolist()} where the candidates stand in the order {order}, pool\n"
            f"{_shown(pool)}"
        )


def _select(
    name: str, k: int, pool: dict[str, Any], key: Any, mask: ArrayLike | None = None
) -> NDArray[np.integer]:
    needs = set(strategy(name).needs)
    try:
        return select(
            name,
            k,
            rewards=pool["rewards"] if "rewards" in needs else None,
            embeddings=pool["embeddings"] if needs & {"embeddings", "similarity", "distance"} else None,
            shape=pool["rewards"].shape,
            mask=mask,
            key=key if key is not None else jax.random.key(0),
        )
    except InputError as error:
        exists = "" if mask is None else f"\nmask = {np.asarray(mask).tolist()}"
        raise CheckFailed(f"{error}, pool\n{_shown(pool)}{exists}") from error


def _check_expectation(
    estimator: Callable[[NDArray[np.float64]], tuple[float, float]], prompts: int, responses: int
) -> None:
    # Two prompts in unequal shares, three losses in shares that depend on the prompt: skewed and heteroscedastic.
    shares, losses = np.array([0.3, 0.7]), np.array([0.0, 1.0, 5.0])
    given_prompt = np.array([[0.5, 0.4, 0.1], [0.1, 0.3, 0.6]])
    mean = given_prompt @ losses
    truth = np.array([shares @ mean**2 - (shares @ mean) ** 2, shares @ (given_prompt @ losses**2 - mean**2)])
    # The chance that one prompt's responses are these: a mixture over which prompt it is.
    rows = list(itertools.product(range(3), repeat=responses))
    chance = np.array([shares @ given_prompt[:, row].prod(axis=1) for row in map(list, rows)])
    expectation = np.zeros(2)
    for chosen in itertools.product(range(len(rows)), repeat=prompts):
        data = losses[np.array([rows[i] for i in chosen])]
        expectation += chance[list(chosen)].prod() * np.asarray(estimator(data), np.float64)
    if not np.allclose(expectation, truth, rtol=1e-9, atol=1e-12):
        raise CheckFailed(
            f"the expectation of the estimate over all {len(rows) ** prompts} data sets is {expectation.tolist()}, the "
            f"truth {truth.tolist()}: it is biased"
        )


def _search(examples: st.SearchStrategy[Any], max_examples: int, check: Callable[[Any], None]) -> None:
    """Run a check on examples; a failure is shrunk and raised as it stands."""

    @settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(examples)
    def run(example: Any) -> None:
        check(example)

    run()


def _shown(pool: dict[str, NDArray[np.float64]]) -> str:
    return "\n".join(f"{name} = {value.tolist()}" for name, value in pool.items())


__all__ = [
    "CheckFailed",
    "check_allocator",
    "check_distribution",
    "check_estimator",
    "check_selector",
    "check_unbiased",
    "pools",
]
