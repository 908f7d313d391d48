"""Prompts per second that `select` answers, and how that scales with prompts, K and N.

Run with `make bench`. Each timing carries, as `extra_info`, its prompts per second; the greedy ones also the share they
reach of the floor that arithmetic sets: the products of the Gram matrix and the gains of the greedy steps, at the rate
of the calibration kernel in float64, in which both are computed, on the same machine a moment before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrtsim as mrt
from experiments.harness.calibration import gigaflops

PROMPTS, CANDIDATES, FEATURES, K = 8192, 32, 384, 8
EMBEDDINGS = np.random.default_rng(0).normal(size=(PROMPTS * CANDIDATES * FEATURES,)).astype(np.float32)


def arguments(prompts=PROMPTS, candidates=CANDIDATES):
    size = prompts * candidates * FEATURES
    return {
        "rewards": np.random.default_rng(1).normal(size=(prompts, candidates)),
        "embeddings": EMBEDDINGS[:size].reshape(prompts, candidates, FEATURES),
    }


def flops(candidates, k):
    """Of one prompt: N^2 products of two vectors, and K times N^2 differences, maxima and sums."""
    return candidates**2 * (2 * FEATURES + 3 * k)


def timed(benchmark, name, k, prompts=PROMPTS, candidates=CANDIDATES):
    data = arguments(prompts, candidates)
    with jax.enable_x64(True):
        rate = gigaflops(dtype=jnp.float64)
    benchmark.pedantic(mrt.select, (name, k), data, rounds=7, warmup_rounds=2)
    if benchmark.stats is not None:
        per_second = prompts / benchmark.stats["min"]
        benchmark.extra_info["prompts_per_second"] = round(per_second)
        benchmark.extra_info["calibration_gigaflops"] = round(rate)
        benchmark.extra_info["share_of_floor"] = round(per_second * flops(candidates, k) / (rate * 1e9), 3)


@pytest.mark.parametrize("name", ["dbkon", "dkon"])
def test_throughput(benchmark, name):
    timed(benchmark, name, K)


@pytest.mark.parametrize("prompts", [2048, 4096, 8192])
def test_linear_in_prompts(benchmark, prompts):
    timed(benchmark, "dbkon", K, prompts=prompts)


@pytest.mark.parametrize("k", [1, 8, 16, 32])
def test_linear_in_k(benchmark, k):
    timed(benchmark, "dbkon", k)


@pytest.mark.parametrize("candidates", [16, 32, 64, 128])
def test_quadratic_in_candidates(benchmark, candidates):
    timed(benchmark, "dbkon", K, prompts=2048, candidates=candidates)


@pytest.mark.parametrize("name", ["rkon", "bkon", "gumbel", "filtered-max-min"])
def test_the_others(benchmark, name):
    data = arguments() | {"key": jax.random.key(0)}
    benchmark.pedantic(mrt.select, (name, K), data, rounds=7, warmup_rounds=2)
    if benchmark.stats is not None:
        benchmark.extra_info["prompts_per_second"] = round(PROMPTS / benchmark.stats["min"])
