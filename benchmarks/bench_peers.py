"""Ours beside what a user would pick instead, in one run and in turn: ratios of times, not times.

`python benchmarks/bench_peers.py` (part of `make bench`) prints, for every case and peer, how many times as long the
peer takes: wall-clock and processor time, the least of a few rounds each. Peers: statsmodels' MixedLM; apricot
(apricot-select) and submodlib (submodlib-py), where they are installed; and loops over prompts in NumPy, each step
vectorised. Every peer gets the same arrays, and its answer is compared with ours first.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.pilot.estimate import estimate_components
from mrtsim.selection.facility_location import facility_location, similarity_matrix

RNG = np.random.default_rng(0)
PROMPTS, CANDIDATES, FEATURES, K = 512, 32, 384, 8
LARGE_POOL, LARGE_K = 2048, 32


def pools(prompts: int, candidates: int) -> dict[str, np.ndarray]:
    """Rewards and embeddings of random pools."""
    embeddings = RNG.normal(size=(prompts, candidates, FEATURES)).astype(np.float32)
    return {"rewards": RNG.normal(size=(prompts, candidates)), "embeddings": embeddings}


def losses(prompts: int, responses: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses with V_x = 1 and V_{y|x} = 4, and the prompt of each."""
    which = np.repeat(np.arange(prompts), responses)
    return RNG.normal(size=prompts)[which] + 2 * RNG.normal(size=which.size), which


def ours_components(data: Any, method: Any) -> tuple[float, float]:
    found = estimate_components(*data, method=method)
    return found.components.prompt, found.components.response


def mixed_lm(data: Any) -> tuple[float, float]:
    from statsmodels.regression.mixed_linear_model import MixedLM

    values, which = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM(values, np.ones((values.size, 1)), groups=which).fit(reml=True)
    return float(fit.cov_re[0, 0]), float(fit.scale)


def anova_loop(data: Any) -> tuple[float, float]:
    """One-way analysis of variance of a balanced pilot, one prompt after another."""
    values, which = data
    ends = np.flatnonzero(np.diff(which)) + 1
    means, within = [], 0.0
    for part in np.split(values, ends):
        means.append(part.mean())
        within += np.square(part - part.mean()).sum()
    k = len(values) // len(means)
    response = within / (len(values) - len(means))
    return float(np.var(means, ddof=1) - response / k), float(response)


def bkon_loop(data: Any, k: int) -> np.ndarray:
    return np.stack([np.argsort(-rewards, kind="stable")[:k] for rewards in data["rewards"]])


def similarities(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return 0.5 + 0.5 * unit @ unit.T


def facility_location_loop(data: Any, k: int) -> np.ndarray:
    """DKoN by the book: in every step the gain of every candidate."""
    kept = []
    for embeddings in data["embeddings"]:
        similarity = similarities(embeddings)
        covered, chosen = np.zeros(len(similarity)), []
        for _ in range(k):
            gains = np.maximum(similarity - covered[:, None], 0).sum(axis=0)
            gains[chosen] = -1
            chosen.append(int(np.argmax(gains)))
            covered = np.maximum(covered, similarity[:, chosen[-1]])
        kept.append(chosen)
    return np.array(kept)


def apricot(data: Any, k: int) -> np.ndarray:
    from apricot import FacilityLocationSelection

    kept = []
    for embeddings in data["embeddings"]:
        method = FacilityLocationSelection(k, metric="precomputed", optimizer="lazy")
        kept.append(method.fit(similarities(embeddings).astype(np.float64)).ranking)
    return np.array(kept)


def submodlib(data: Any, k: int, optimizer: str) -> np.ndarray:
    from submodlib import FacilityLocationFunction

    kept = []
    for embeddings in data["embeddings"]:
        similarity = similarities(embeddings)
        method = FacilityLocationFunction(len(similarity), "dense", sijs=similarity, separate_rep=False)
        kept.append([index for index, _ in method.maximize(k, optimizer, show_progress=False)])
    return np.array(kept)


def same_components(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def as_good(data: Any) -> Callable[[Any, Any], None]:
    """Greedy sets reach the same objective, but for the few pools where the rule of ties (1e-5) takes another path."""

    def check(ours: np.ndarray, theirs: np.ndarray) -> None:
        similarity = similarity_matrix(data["embeddings"].astype(np.float64))
        ratio = facility_location(similarity, theirs) / facility_location(similarity, ours)
        assert np.mean(np.abs(ratio - 1) > 1e-4) < 0.01
        assert abs(ratio.mean() - 1) < 1e-4

    return check


Case = tuple[
    str, Callable[[Any], Any], dict[str, tuple[str, Callable[[Any], Any]]], Callable[[Any, Any], None], Any
]


def cases(scale: int = 1) -> list[Case]:
    """Name, ours, peers by name with the module each needs, how answers compare, and the data; sizes over `scale`."""
    pilot = losses(2000 // scale, 8)
    small, large = pools(PROMPTS // scale, CANDIDATES), pools(1, LARGE_POOL // scale)
    k = LARGE_K // scale

    def selectors(k: int, optimizer: str) -> dict[str, tuple[str, Callable[[Any], Any]]]:
        return {
            "loop in NumPy": ("numpy", lambda data: facility_location_loop(data, k)),
            "submodlib": ("submodlib", lambda data: submodlib(data, k, optimizer)),
        }

    # It compiles anew for every pool, some four seconds each: not for many pools.
    one_pool = {"apricot": ("apricot", lambda data: apricot(data, k))}
    return [
        (
            f"REML, {len(pilot[0])} losses of {2000 // scale} prompts",
            lambda data: ours_components(data, "reml"),
            {"statsmodels MixedLM": ("statsmodels", mixed_lm)},
            same_components,
            pilot,
        ),
        (
            f"analysis of variance, {len(pilot[0])} losses",
            lambda data: ours_components(data, "anova"),
            {"loop in NumPy": ("numpy", anova_loop)},
            same_components,
            pilot,
        ),
        (
            f"BKoN, {PROMPTS // scale} pools of {CANDIDATES}, K = {K}",
            lambda data: mrt.select("bkon", K, rewards=data["rewards"]),
            {"loop in NumPy": ("numpy", lambda data: bkon_loop(data, K))},
            np.testing.assert_array_equal,
            small,
        ),
        (
            f"DKoN, {PROMPTS // scale} pools of {CANDIDATES} x {FEATURES}, K = {K}",
            lambda data: mrt.select("dkon", K, embeddings=data["embeddings"]),
            selectors(K, "NaiveGreedy"),
            as_good(small),
            small,
        ),
        (
            f"DKoN, one pool of {LARGE_POOL // scale} x {FEATURES}, K = {k}",
            lambda data: mrt.select("dkon", k, embeddings=data["embeddings"]),
            selectors(k, "LazyGreedy") | one_pool,
            as_good(large),
            large,
        ),
    ]


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(case: Case, rounds: int) -> dict[str, tuple[float, float]]:
    """Each installed peer's least wall-clock and processor time over ours, after its answer was compared."""
    _, ours, peers, agree, data = case
    installed = {name: call for name, (module, call) in peers.items() if find_spec(module) is not None}
    answer = ours(data)
    for call in installed.values():
        agree(answer, call(data))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", *installed)}
    for _ in range(rounds):
        for name, call in {"ours": ours, **installed}.items():
            times[name].append(seconds(lambda call=call: call(data)))
    least = {name: np.min(found, axis=0) for name, found in times.items()}
    return {name: tuple((least[name] / least["ours"]).tolist()) for name in installed}


@pytest.mark.parametrize("case", cases(scale=16), ids=lambda case: case[0])
def test_peers_give_the_same_answers(case):
    assert all(ratio > 0 for ratios in compare(case, rounds=1).values() for ratio in ratios)


def main(rounds: int = 3) -> None:
    """Print the table."""
    print(f"{'case':52s} {'peer':22s} {'times as long':>14s} {'processor time':>15s}")
    for case in cases():
        ratios = compare(case, rounds)
        for name, (wall, processor) in ratios.items():
            print(f"{case[0]:52s} {name:22s} {wall:14.1f} {processor:15.1f}", flush=True)
        for name in case[2].keys() - ratios.keys():
            print(f"{case[0]:52s} {name:22s} {'not installed':>14s}")


if __name__ == "__main__":
    main()
