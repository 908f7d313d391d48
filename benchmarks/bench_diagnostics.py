"""Times of E5 at the paper's size, and how they scale with trials and prompts.

Run with `make bench`. 200 trials, 30 prompts, N = 32, K = 4, three strategies, once compiled. Each timing carries, as
`extra_info`, how many times faster it is than a loop that computes one prompt's gradient at a time, timed on the same
machine a moment before, and the floor that arithmetic and memory set: FLOPs at the rate of the calibration kernel
(float32; the diagnostics are float64, at most half as fast), and bytes.
"""

import time
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.harness.calibration import gigaflops
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.simulate import measure
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN

TRIALS, PROMPTS, N, K = 200, 30, 32, 4
STRATEGIES = ("rkon", "bkon", "filtered-max-min")
TOY = GaussianModes()


@cache
def problem(prompts=PROMPTS):
    x = np.asarray(TOY.sample_prompts(jax.random.key(0), prompts))
    return Problem.of(TOY, mdn_nll, MDN(jax.random.key(1)), x)


def run(trials=TRIALS, prompts=PROMPTS):
    for name in STRATEGIES:
        measure(problem(prompts), name, n_candidates=N, k=K, trials=trials, key=jax.random.key(2))


def floor(trials, prompts):
    """FLOPs and bytes of one strategy's trials.

    A prompt's candidates: two random numbers of 100 operations each, and the reward. Its K losses and gradients in the
    15 outputs: about 60 operations a component. K quadratic forms of 15 x 15. The batch gradient: two products with
    each of the network's parameters, forward and back. The candidates and the sums are written once and read once.
    """
    parameters = 5 * 64 + 64 + 64 * 64 + 64 + 64 * 15 + 15
    flops = N * 210 + K * 5 * 60 + K * 15 * 15 * 2 + 4 * parameters
    return trials * prompts * flops, trials * prompts * (N + 18) * 2 * 8


@cache
def one_at_a_time():
    """Seconds for one prompt's gradient in a loop: a compiled call, its gradient as a vector, and a cosine."""
    model, prompts = MDN(jax.random.key(1)), TOY.sample_prompts(jax.random.key(0), PROMPTS)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m, x, y: mdn_nll(m, x, y).mean()))
    responses = TOY.sample_responses(jax.random.key(3), prompts, K)[0]
    truth = jnp.ones_like(ravel_pytree(gradient(model, prompts[:1], responses[:1]))[0])

    def loop():
        for p in range(PROMPTS):
            g = np.asarray(ravel_pytree(gradient(model, prompts[p : p + 1], responses[p : p + 1]))[0])
            g @ np.asarray(truth) / np.linalg.norm(g)

    loop()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loop()
        times.append(time.perf_counter() - start)
    return min(times) / PROMPTS


def report(benchmark, trials, prompts):
    if benchmark.stats is None:
        return
    seconds = benchmark.stats["min"]
    flops, size = (len(STRATEGIES) * part for part in floor(trials, prompts))
    rate = gigaflops()
    benchmark.extra_info["loop_seconds"] = round(one_at_a_time() * trials * prompts * len(STRATEGIES), 1)
    benchmark.extra_info["times_faster_than_loop"] = round(benchmark.extra_info["loop_seconds"] / seconds)
    benchmark.extra_info["floor_gigaflop"] = round(flops / 1e9, 3)
    benchmark.extra_info["floor_megabytes"] = round(size / 1e6, 1)
    benchmark.extra_info["calibration_gigaflops"] = round(rate)
    benchmark.extra_info["share_of_floor"] = round(flops / (rate * 1e9) / seconds, 4)


def test_e5_at_the_papers_size(benchmark):
    benchmark.pedantic(run, rounds=7, warmup_rounds=2)
    report(benchmark, TRIALS, PROMPTS)


@pytest.mark.parametrize("trials", [400, 800, 1600])
def test_linear_in_trials(benchmark, trials):
    benchmark.pedantic(run, (trials,), rounds=5, warmup_rounds=1)
    report(benchmark, trials, PROMPTS)


@pytest.mark.parametrize("prompts", [60, 120])
def test_linear_in_prompts(benchmark, prompts):
    benchmark.pedantic(run, (TRIALS, prompts), rounds=5, warmup_rounds=1)
    report(benchmark, TRIALS, prompts)


def test_exact_bkon(benchmark):
    benchmark.pedantic(exact, (problem(), "bkon"), {"n_candidates": N, "k": K}, rounds=5, warmup_rounds=1)
