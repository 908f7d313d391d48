"""`mrtsim pilot` on 10 million rows and a million prompts, interval included, in every family of containers.

Whole processes; "shuffled" has a prompt's rows all over the file. `python benchmarks/bench_pilot.py --against PYTHON`,
where PYTHON is an interpreter that has another version installed, runs both versions in turn and prints their ratio,
least of a few runs: what else the machine does then meets both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

PROMPTS, ROWS, SHARDS = 1_000_000, 10_000_000, 64
MAIN = "import sys; from mrtsim.cli import main; sys.exit(main())"
# A process that runs the command and prints its seconds and its largest memory in MB.
TIMED = f"""
import resource, subprocess, sys, time
begin = time.perf_counter()
subprocess.run([sys.argv[1], "-c", {MAIN!r}, *sys.argv[2:]], check=True, stdout=subprocess.DEVNULL, cwd="/")
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def table(rows: int, *, shuffled: bool) -> Any:
    """A pilot with unbalanced K_i, V_x = 1 and V_{y|x} = 4."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, rows // 10, rows)
    if not shuffled:
        prompts.sort()
    losses = rng.standard_normal(rows // 10)[prompts] + 2 * rng.standard_normal(rows)
    join: Any = pyarrow.compute
    ids = join.binary_join_element_wise("prompt-", pa.array(prompts).cast(pa.string()), "")
    return pa.table({"prompt_id": ids, "group": prompts // 4, "loss": losses})


def write(folder: Path, kind: str, data: Any) -> Path:
    """The table as "parquet", "csv", "jsonl" or a folder of "shards"."""
    path = folder / f"pilot.{kind}"
    if kind == "parquet":
        pq.write_table(data, path)
    elif kind == "csv":
        pyarrow.csv.write_csv(data, path, pyarrow.csv.WriteOptions(quoting_style="needed"))
    elif kind == "jsonl":
        with path.open("w") as file:
            for batch in data.to_batches(100_000):
                columns = (batch.column(name).to_pylist() for name in ("prompt_id", "group", "loss"))
                file.writelines(
                    f'{{"prompt_id": "{p}", "group": {g}, "loss": {x!r}}}\n'
                    for p, g, x in zip(*columns, strict=True)
                )
    else:
        path.mkdir()
        size = -(-data.num_rows // SHARDS)
        for shard in range(SHARDS):
            pq.write_table(data.slice(shard * size, size), path / f"{shard:05d}.parquet")
    return path


def measure(python: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds and megabytes of one command."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED, python, *arguments], check=True, capture_output=True, text=True
    )
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def compare(name: str, ours: list[str], theirs: list[str] | None, other: str | None, rounds: int) -> None:
    """Print the least seconds of our command, and beside another version's."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for version, python, arguments in (("ours", sys.executable, ours), ("theirs", other, theirs)):
            if python and arguments:
                best[version] = min(best.get(version, (float("inf"), 0.0)), measure(python, arguments))
    seconds, memory = best["ours"]
    line = f"{name:32s} {seconds:6.2f} s {memory:6.0f} MB"
    if "theirs" in best:
        line += f"   {best['theirs'][0]:6.2f} s {best['theirs'][1]:6.0f} MB   ratio {seconds / best['theirs'][0]:.2f}"
    print(line, flush=True)


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def pilot(request, tmp_path_factory):
    data = table(ROWS, shuffled=request.param == "shuffled")
    return write(tmp_path_factory.mktemp("pilot"), "parquet", data)


@pytest.mark.parametrize("options", [[], ["--method", "reml"], ["--group-column", "group"]], ids=" ".join)
def test_process(benchmark, pilot, options):
    benchmark.pedantic(
        subprocess.run,
        ([sys.executable, "-c", MAIN, "pilot", str(pilot), "--json", *options],),
        {"check": True, "stdout": subprocess.DEVNULL},
        rounds=3,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another version installed")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for shuffled in (False, True):
            data = table(args.rows, shuffled=shuffled)
            one = None
            for kind in ("parquet", "csv", "jsonl", "shards") if not shuffled else ("parquet",):
                place = Path(folder) / f"{shuffled}"
                place.mkdir(exist_ok=True)
                path = write(place, kind, data)
                one = one or path
                # 0.1.0 read one file only: its time for the shards is that of the same rows in one.
                theirs = ["pilot", str(path if kind != "shards" else one), "--json"]
                name = f"pilot {kind}{', shuffled' if shuffled else ''}"
                compare(name, ["pilot", str(path), "--json"], theirs, args.against, args.rounds)
