"""`mrtsim select` from files: 131,072 candidates with 384 features, in order and scattered, as whole processes.

`python benchmarks/bench_select_file.py --against PYTHON`, where PYTHON is an interpreter that has another version
installed, runs both in turn and prints their ratio. What a run costs beyond starting is the full run less one on 64
rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_pilot import MAIN, compare

PROMPTS, CANDIDATES, FEATURES = 4096, 32, 384
JSON_PROMPTS = 512  # 16,384 rows: 63 MB of JSON


def table(prompts: int, *, scattered: bool = False) -> Any:
    """Pools of one size, with float32 embeddings."""
    rng = np.random.default_rng(0)
    n = prompts * CANDIDATES
    ids = np.repeat(np.arange(prompts), CANDIDATES)
    if scattered:
        rng.shuffle(ids)
    vectors = rng.standard_normal((n, FEATURES), np.float32).round(4)
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * FEATURES), pa.array(vectors.ravel())
    )
    return pa.table({"prompt_id": ids, "reward": rng.standard_normal(n), "embedding": lists})


def write(path: Path, data: Any) -> Path:
    """The table as Parquet or JSON lines, by the ending."""
    if path.suffix == ".parquet":
        pq.write_table(data, path)
    else:
        with path.open("w") as file:
            for batch in data.to_batches(1000):
                file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
    return path


def command(path: Path) -> list[str]:
    """Select 4 of 32 by reward and cover."""
    out = path.with_name(f"kept{path.suffix}")
    return ["select", str(path), "--strategy", "dbkon", "-k", "4", "--out", str(out), "--json"]


@pytest.fixture(scope="module", params=[".parquet", ".jsonl"])
def pool(request, tmp_path_factory):
    prompts = PROMPTS if request.param == ".parquet" else JSON_PROMPTS
    return write(tmp_path_factory.mktemp("pool") / f"pool{request.param}", table(prompts))


def test_process(benchmark, pool):
    benchmark.pedantic(
        subprocess.run,
        ([sys.executable, "-c", MAIN, *command(pool)],),
        {"check": True, "stdout": subprocess.DEVNULL},
        rounds=3,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another version installed")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, prompts, scattered in (
            ("64 rows.parquet", 2, False),
            ("64 rows.jsonl", 2, False),
            ("131,072 rows.parquet", PROMPTS, False),
            ("131,072 rows, scattered.parquet", PROMPTS, True),
            ("16,384 rows.jsonl", JSON_PROMPTS, False),
        ):
            path = write(Path(folder) / name, table(prompts, scattered=scattered))
            compare(f"select {name}", command(path), command(path), args.against, args.rounds)
