"""Times of E2, E3 and E4 at the paper's sizes, against the reference, which trains one run after another.

`python benchmarks/bench_training.py` compiles first and apart, then times the experiments in turn and prints the best
of several rounds. "one recipe" is what the reference does: the last step alone, judged on the paper's sampled test set.
"experiment" is what `python -m experiments run --preset paper` does: a validation set at every second step, both
recipes, quadrature. The reference is PyTorch on 2 cores, on which the calibration kernel reached 169 GFLOP/s; its
times are scaled by the kernel here, which favours the reference: few of its operations are products of that size.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import budget, distributional, lottery
from experiments.harness.calibration import gigaflops
from experiments.harness.store import InMemory
from experiments.shared.mdn_training import TOY, Sample, Shape, keep, train
from mrtsim.losses import mdn_nll
from mrtsim.montecarlo import replicate

REFERENCE = {"budget": 100.0, "lottery": 76.0, "distributional": 153.0}  # seconds
REFERENCE_GFLOPS = 169.0
KEY = jax.random.key(0)


def one_recipe(key, shape: Shape):
    """One run as published: test NLL after the last step, on 100 fresh prompts or (E4) on the training prompts."""
    keys = jax.random.split(key, 6)
    prompts = TOY.sample_prompts(keys[0], shape.rows)
    pools, _ = TOY.sample_responses(keys[1], prompts, shape.n_candidates)
    sample = keep(keys[2], shape, Sample(prompts, pools))
    trained = train(keys[3], sample, shape.rows, shape.width, shape.recipe, None)
    test = prompts if shape.test_prompts == 0 else TOY.sample_prompts(keys[4], shape.test_prompts)
    responses, _ = TOY.sample_responses(keys[5], test, shape.test_responses)
    return jnp.mean(mdn_nll(trained.last, test, responses))


def shapes(name: str) -> list[tuple[Shape, int, int]]:
    """(sizes, replicates, block) of every setting of an experiment at the paper's sizes."""
    if name == "budget":
        c = budget.PRESETS["paper"]
        cells = [(s, c.prompts(k), k) for s in c.strategies for k in c.responses]
        fresh = 100
    elif name == "lottery":
        c = lottery.PRESETS["paper"]
        cells = [("rkon", c.n_prompts, k) for k in c.responses]
        fresh = 100
    else:
        c = distributional.PRESETS["paper"]
        cells = [(s, c.n_prompts, k) for s in c.strategies for k in c.responses]
        fresh = 0
    return [
        (Shape((s,), n, k, n, c.n_candidates, c.recipe, test_prompts=fresh), c.replicates, c.block)
        for s, n, k in cells
    ]


def train_all(name: str) -> None:
    for shape, replicates, block in shapes(name):
        replicate(one_recipe, KEY, replicates, shape, block=block)


MODULES: dict[str, Any] = {"budget": budget, "lottery": lottery, "distributional": distributional}


def experiment(name: str, padded: bool) -> None:
    module = MODULES[name]
    config = dataclasses.replace(module.PRESETS["paper"], padded=padded)
    module.run(config, KEY, InMemory())


CASES = {
    "one recipe": train_all,
    "experiment, padded": lambda name: experiment(name, True),
    "experiment, own sizes": lambda name: experiment(name, False),
}


def speedup(name: str, seconds: float) -> float:
    """The reference's time on this machine over ours."""
    return REFERENCE[name] * REFERENCE_GFLOPS / gigaflops() / seconds


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", REFERENCE)
def test_training(benchmark, name, case):
    benchmark.group = f"training, {case}"
    begin = time.perf_counter()
    CASES[case](name)
    benchmark.extra_info["first_seconds"] = round(time.perf_counter() - begin, 2)
    benchmark.pedantic(CASES[case], (name,), rounds=3)
    if benchmark.stats is not None:
        benchmark.extra_info["speedup"] = round(speedup(name, benchmark.stats["min"]), 1)


def main(rounds: int) -> None:
    for case, call in CASES.items():
        total, cpu_total = 0.0, 0.0
        for name in REFERENCE:
            begin = time.perf_counter()
            call(name)
            first = time.perf_counter() - begin
            wall, cpu = [], []
            for _ in range(rounds):
                begin, processor = time.perf_counter(), time.process_time()
                call(name)
                wall.append(time.perf_counter() - begin)
                cpu.append(time.process_time() - processor)
            total, cpu_total = total + min(wall), cpu_total + min(cpu)
            print(
                f"{case:22s} {name:15s} first {first:6.1f} s  then {min(wall):6.2f} s  processor {min(cpu):6.2f} s"
            )
        rate = gigaflops()
        scaled = sum(REFERENCE.values()) * REFERENCE_GFLOPS / rate
        print(
            f"{case:22s} {'all':15s} {total:6.2f} s  processor {cpu_total:6.2f} s  kernel {rate:.0f} GFLOP/s  "
            f"reference scaled {scaled:.0f} s  speed-up {scaled / total:.1f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
