"""Times of E1, how they scale with replicates, and the machine's floor beside them.

Run with `make bench`. The floor is what any program must do: one threefry word for each half of a float64 draw, and the
products of the network for every prompt. Both are measured on the same machine a moment before: the generator's rate by
drawing alone, the products' by the calibration kernel. Each timing carries, as `extra_info`, its loss evaluations per
second and the share of the floor it reaches.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.calibration import gigaflops
from experiments.variance import Config, mean_losses, reference_network
from mrtsim.devices import usable_cores
from mrtsim.distributions.exact_components import decompose
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import squared_loss
from mrtsim.montecarlo import replicate

CONFIG = Config()
EVALUATIONS = CONFIG.n_prompts * CONFIG.responses[-1]  # losses per replicate
# mode and noise of every response, and the coordinates of every prompt, two 32-bit words each in float64
WORDS = 2 * CONFIG.n_prompts * (2 * CONFIG.responses[-1] + 5)
FLOPS = 2 * CONFIG.n_prompts * (5 * 32 + 32 * 32 + 32)


def simulate(model, replicates):
    return replicate(mean_losses, jax.random.key(0), replicates, CONFIG, model, GaussianModes(), block=32)


def words_per_second():
    """Random words per second on all cores, in blocks as large as the experiment's."""

    def draw(key):
        return jnp.bitwise_xor.reduce(jax.random.bits(key, (WORDS,)))

    replicate(draw, jax.random.key(0), 256, block=32)
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        replicate(draw, jax.random.key(0), 1024, block=32)
        times.append(time.perf_counter() - begin)
    return 1024 * WORDS / min(times)


def floor_seconds(replicates):
    """Generator and products; float64 products run at half the rate of the float32 kernel."""
    return replicates * (WORDS / words_per_second() + FLOPS / (gigaflops() * 1e9 / 2))


@pytest.mark.parametrize("evaluations", [10**4, 10**5, 10**6, 10**7])
def test_linear_in_replicates(benchmark, evaluations):
    replicates = max(1, evaluations // EVALUATIONS)
    with jax.enable_x64(True):
        model = reference_network()
        benchmark.pedantic(simulate, (model, replicates), rounds=5, warmup_rounds=1)
        if benchmark.stats is not None:
            fastest = benchmark.stats["min"]
            benchmark.extra_info["evaluations_per_second"] = round(replicates * EVALUATIONS / fastest)
            benchmark.extra_info["share_of_floor"] = round(floor_seconds(replicates) / fastest, 3)


def test_paper_size(benchmark):
    """500 replicates, the paper's size, after compilation; a straightforward reference takes 9.5 s."""
    with jax.enable_x64(True):
        model = reference_network()
        benchmark.pedantic(simulate, (model, CONFIG.replicates), rounds=9, warmup_rounds=2)
        if benchmark.stats is not None:
            benchmark.extra_info["times_faster_than_reference"] = round(9.5 / benchmark.stats["min"])
            benchmark.extra_info["share_of_floor"] = round(
                floor_seconds(CONFIG.replicates) / benchmark.stats["min"], 3
            )
            benchmark.extra_info["cores"] = usable_cores()


def test_exact_components(benchmark):
    """What the exact law costs beside the simulation of it."""
    model = reference_network()
    exact = benchmark.pedantic(decompose, (squared_loss, model, GaussianModes()), rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:
        relative = exact.prompt.standard_error / exact.prompt.value
        benchmark.extra_info["relative_error_of_v_prompt"] = float(np.format_float_scientific(relative, 1))
