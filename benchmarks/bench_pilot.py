"""How long does `mrtsim pilot` take on 10 million rows and a million prompts, interval included?

Whole processes on a Parquet file with text ids; "shuffled" has a prompt's rows all over the file. `python
benchmarks/bench_pilot.py` prints the least of a few runs, and the times of the parts in one process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mrtsim import estimate_components
from mrtsim.tables.pilots import read_pilot

PROMPTS, ROWS = 1_000_000, 10_000_000
PILOT = [sys.executable, "-c", "import sys; from mrtsim.cli import main; sys.exit(main())", "pilot"]


def write(path: Path, *, shuffled: bool) -> Path:
    """A pilot with unbalanced K_i, V_x = 1 and V_{y|x} = 4."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, PROMPTS, ROWS)
    if not shuffled:
        prompts.sort()
    losses = rng.standard_normal(PROMPTS)[prompts] + 2 * rng.standard_normal(ROWS)
    frame = pl.DataFrame({"prompt_id": prompts, "group": prompts // 4, "loss": losses})
    frame.with_columns(pl.format("prompt-{}", "prompt_id").alias("prompt_id")).write_parquet(path)
    return path


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def pilot(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pilot") / "pilot.parquet"
    return write(path, shuffled=request.param == "shuffled")


@pytest.mark.parametrize("options", [[], ["--method", "reml"], ["--group-column", "group"]], ids=" ".join)
def test_process(benchmark, pilot, options):
    benchmark.pedantic(
        subprocess.run,
        ([*PILOT, str(pilot), "--json", *options],),
        {"check": True, "stdout": subprocess.DEVNULL},
        rounds=3,
    )


def _seconds(function, *arguments, **options):
    begin = time.perf_counter()
    value = function(*arguments, **options)
    return time.perf_counter() - begin, value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for order in ("in order", "shuffled"):
            path = write(Path(folder) / "pilot.parquet", shuffled=order == "shuffled")
            for options in ([], ["--method", "reml"], ["--group-column", "group"]):
                command = [*PILOT, str(path), "--json", *options]
                least = min(
                    _seconds(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)[0]
                    for _ in range(3)
                )
                print(f"{order:9s} {' '.join(options) or 'anova':22s} {least:5.1f} s, whole process")
            reading, rows = _seconds(read_pilot, path)
            estimating, _ = _seconds(estimate_components, rows.losses, rows.prompts)
            print(f"{order:9s} reading {reading:.1f} s, estimating {estimating:.1f} s")
