"""What the replicate engine costs: whether time is linear and memory flat in replicates, and all cores busy.

Run with `make bench`. A replicate of the scaling curve is one evaluation of E1's loss (a fresh prompt and response,
float32), so that the engine is stressed and not the network. Extra information beside each timing: evaluations per
second; the share they reach of the floor (the random words at the generator's rate, the products at the calibration
kernel's); cores busy (processor time over wall time); and how far the peak resident memory of the process rose.
"""

import resource
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.harness.calibration import gigaflops
from mrtsim.devices import usable_cores
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import squared_loss
from mrtsim.models import MLP
from mrtsim.montecarlo import moments, replicate

KEY = jax.random.key(0)
BLOCK = 4096
WORDS = 5 + 2  # a prompt; mode and noise of a response
FLOPS = 2 * (5 * 32 + 32 * 32 + 32)


def evaluation(key, model, distribution):
    """One loss of E1."""
    prompt_key, response_key = jax.random.split(key)
    prompts = distribution.sample_prompts(prompt_key, 1)
    responses, _ = distribution.sample_responses(response_key, prompts, 1)
    return squared_loss(model, prompts, responses)[0, 0]


def training_set(key, model, distribution):
    """A mean loss of E1 at the paper's size: 100 prompts, 32 responses."""
    prompt_key, response_key = jax.random.split(key)
    prompts = distribution.sample_prompts(prompt_key, 100)
    responses, _ = distribution.sample_responses(response_key, prompts, 32)
    return squared_loss(model, prompts, responses).mean()


def words_per_second():
    """Random words per second on all cores, drawn from one key per block of words."""

    def draw(key):
        return jnp.bitwise_xor.reduce(jax.random.bits(key, (2**14,)))

    return 1024 * 2**14 / fastest(lambda: replicate(draw, KEY, 1024, block=16))


def fastest(call, repeats=5):
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


@pytest.mark.parametrize("replicates", [10**3, 10**4, 10**5, 10**6, 10**7])
def test_linear_in_replicates(benchmark, replicates):
    model, distribution = MLP(KEY), GaussianModes()
    moments(evaluation, KEY, BLOCK, model, distribution, block=BLOCK)  # compiles
    peak, busy = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []

    def simulate():
        begin, processor = time.perf_counter(), time.process_time()
        summary = moments(evaluation, KEY, replicates, model, distribution, block=BLOCK)
        busy.append((time.process_time() - processor) / (time.perf_counter() - begin))
        return summary

    benchmark.pedantic(simulate, rounds=3, warmup_rounds=0)
    if benchmark.stats is not None:
        per_second = replicates / benchmark.stats["min"]
        floor = WORDS / words_per_second() + FLOPS / (gigaflops() * 1e9)
        risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        benchmark.extra_info["evaluations_per_second"] = round(per_second)
        benchmark.extra_info["share_of_floor"] = round(per_second * floor, 3)
        benchmark.extra_info["cores_busy"] = f"{max(busy):.2f} of {usable_cores()}"
        benchmark.extra_info["peak_memory_risen_mib"] = round(risen / 1024, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, threads):
    model, distribution = MLP(KEY), GaussianModes()
    call = (training_set, KEY, 2048, model, distribution)
    benchmark.pedantic(replicate, call, {"block": 32, "threads": threads}, rounds=9, warmup_rounds=1)


def test_what_a_block_costs_beside_its_work(benchmark):
    """A thousand blocks of one draw each: dispatch, threads, copies to the host."""
    benchmark.pedantic(replicate, (jax.random.normal, KEY, 1000), {"block": 1}, rounds=9, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["microseconds_per_block"] = round(benchmark.stats["min"] * 1e3, 1)


def test_compilation(benchmark):
    """From a fresh function to its first result, without the persistent cache."""
    model, distribution = MLP(KEY), GaussianModes()

    def fresh():
        return ((lambda *args: training_set(*args)), KEY, 32, model, distribution), {"block": 32}

    benchmark.pedantic(replicate, setup=fresh, rounds=3)
