"""Times of E7, beside the machine's floor.

Run with `make bench`. One recipe is timed: training alone, without the validation and the test of the experiment; these
are in `test_experiment_beside_training`. Compilation is apart, in `extra_info`. The floor is the matrix products of
forward and backward passes at the rate of the calibration kernel; the reference (PyTorch, one run after another) took
740 s for the 60 runs of the paper's setting where that kernel reached 169 GFLOP/s.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tokens
from experiments.harness.calibration import gigaflops
from experiments.shared.training import Recipe, fit
from experiments.shared.transformer import Transformer, next_token_nll
from mrtsim.montecarlo import prepare, replicate

STEPS, BATCH, LENGTH = 60, 64, 11
PAPER_STEPS = 3 * 4 * 5 * 600  # strategies x K x repeats x steps
REFERENCE_SECONDS, REFERENCE_GIGAFLOPS = 740, 169
CONFIG = dataclasses.replace(
    tokens.Config(), recipe=Recipe(STEPS, 2e-3, 1.0, 0.01, validate_every=10), replicates=4
)


def flops_per_step(width=64, hidden=128, depth=2, vocabulary=199):
    """Products of one training step: a backward pass costs two forward ones."""
    layer = 2 * width * (4 * width + 2 * hidden) + 4 * LENGTH * width
    return 3 * BATCH * LENGTH * (depth * layer + 2 * width * vocabulary)


def train(key, dropout):
    """Training alone."""
    data_key, row_key, drop_key, model_key = jax.random.split(key, 4)
    sequences = tokens.TOY.sequences(tokens.TOY.sample_prompts(data_key, 200))[:, 0]
    rows = jax.random.randint(row_key, (STEPS, BATCH), 0, 200)
    recipe = Recipe(STEPS, 2e-3, 1.0, 0.01, validate_every=STEPS)

    def objective(model, batch):
        return next_token_nll(model, sequences[batch[0]], batch[1]).mean()

    model = Transformer(model_key, dropout=dropout.rate)
    return fit(model, objective, recipe, (rows, jax.random.split(drop_key, STEPS))).losses[-1]


@dataclasses.dataclass(frozen=True)
class Dropout:
    """A static argument of `replicate`."""

    rate: float


def compile_seconds(fn, *args):
    begin = time.perf_counter()
    plan = prepare(fn, jax.random.key(0), 2, *args, block=1)
    jax.jit(lambda key: fn(key, *args)).lower(jax.random.key(0)).compile()
    assert plan.n_blocks == 2
    return time.perf_counter() - begin


def report(benchmark, runs):
    """Per step, against the floor, and projected to the paper's setting, each scaled by the kernel of this minute."""
    if benchmark.stats is None:
        return
    rate = gigaflops()
    step = benchmark.stats.stats.min / (runs * STEPS)
    paper = step * PAPER_STEPS
    benchmark.extra_info |= {
        "kernel_gigaflops": rate,
        "milliseconds_per_step": 1e3 * step,
        "share_of_floor": flops_per_step() / (1e9 * rate) / step,
        "paper_seconds": paper,
        "times_reference_scaled": REFERENCE_SECONDS * REFERENCE_GIGAFLOPS / rate / paper,
    }


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_training(benchmark, rate, block):
    def runs():
        return replicate(train, jax.random.key(0), 8, Dropout(rate), block=block)

    if block == 1:
        benchmark.extra_info["compile_seconds"] = compile_seconds(train, Dropout(rate))
    losses = benchmark.pedantic(runs, rounds=4, warmup_rounds=1)
    assert np.isfinite(losses).all()
    report(benchmark, 8)


def test_experiment_beside_training(benchmark):
    def runs():
        which, k = np.int32(0), np.int32(8)
        return replicate(tokens.train_once, jax.random.key(0), 4, which, k, CONFIG, block=1)

    scores = benchmark.pedantic(runs, rounds=3, warmup_rounds=1)
    assert jnp.isfinite(scores["last"]["tokens"]).all()
    report(benchmark, 4)
