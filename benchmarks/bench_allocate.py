"""Times of the calculator, beside NumPy's import, and for budgets of 400 and of 1e12.

`python benchmarks/bench_allocate.py` prints the ratio of whole processes, run in turn so that a machine whose speed
drifts favours neither; the least of many runs is the time without disturbance.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from mrtsim import Cost, VarianceComponents, allocate, allocate_per_prompt

ALLOCATE = [sys.executable, "-c", "import sys; from mrtsim.cli import main; sys.exit(main())", "allocate"]
ALLOCATE += ["--v-prompt", "0.187", "--v-response", "1.329", "--c-prompt", "4", "--c-response", "1"]
ALLOCATE += ["--json", "--budget"]
ROLLOUTS = [*ALLOCATE[:3], "rollouts", "--alpha", "0.6", "--beta", "1.8", "--json"]
COMMANDS = {
    "import numpy": [sys.executable, "-c", "import numpy"],
    "allocate 400": [*ALLOCATE, "400"],
    "allocate 1e12": [*ALLOCATE, "1e12"],
    "rollouts": ROLLOUTS,
}


def least_times(rounds: int = 20) -> dict[str, float]:
    """The least seconds of each command, run in turn."""
    least = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            least[name] = min(least[name], time.perf_counter() - begin)
    return least


@pytest.mark.parametrize("name", COMMANDS)
def test_process(benchmark, name):
    benchmark.group = "processes"
    benchmark.pedantic(
        subprocess.run,
        (COMMANDS[name],),
        {"check": True, "stdout": subprocess.DEVNULL},
        rounds=10,
        warmup_rounds=1,
    )


@pytest.mark.parametrize("v_prompt", [0.187, 1e-6])
@pytest.mark.parametrize("budget", [400.0, 1e6, 1e12])
def test_call(benchmark, budget, v_prompt):
    benchmark.group = f"allocate, V_x = {v_prompt}"
    benchmark(allocate, VarianceComponents(v_prompt, 1.329), Cost(4.0, 1.0), budget=budget)


@pytest.mark.parametrize("prompts", [5, 1_000, 10_000])
def test_per_prompt(benchmark, prompts):
    rng = np.random.default_rng(prompts)
    spreads, costs = rng.exponential(1, prompts), rng.uniform(0.2, 3, prompts)
    benchmark.group = "K_i of each prompt"
    assert benchmark(allocate_per_prompt, spreads, float(4 * costs.sum()), costs).gap < 1e-6


if __name__ == "__main__":
    times = least_times()
    for name, seconds in times.items():
        print(f"{name:14s} {1000 * seconds:6.0f} ms  {seconds / times['import numpy']:.2f} x import numpy")
