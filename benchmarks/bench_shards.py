"""A pilot in shards by merged sums: 10^8 rows in 400 Parquet files, with the memory and the share of reading alone.

`python benchmarks/bench_shards.py` writes the shards (0.8 GB, 10 responses to each of 10^7 prompts, every fourth
prompt with one of its rows in the shard before), estimates the components from their sums, reads the same columns
without doing anything with them, and prints both: CPU time counts where the machine has other work. Too long for
`make bench`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESPONSES = 10


def write(folder: Path, shards: int, rows: int) -> None:
    """Whole-number prompt ids, V_x = 1 and V_{y|x} = 4; a fortieth of the rows stand in the shard before."""
    prompts = rows // RESPONSES
    for shard in range(shards):
        rng = np.random.default_rng(shard)
        ids = np.repeat(np.arange(prompts) + shard * prompts, RESPONSES)
        ids[::40] = (ids[::40] - prompts) % (prompts * shards)
        # one normal effect per prompt, the same in every shard
        effect = (ids * 2654435761 % 4294967296 / 4294967296 - 0.5) * np.sqrt(12)
        loss = effect + 2 * rng.standard_normal(rows, np.float32)
        pq.write_table(
            pa.table({"prompt_id": ids, "loss": loss.astype(np.float32)}), folder / f"{shard:05d}.parquet"
        )


def read(paths: list[str]) -> dict[str, float]:
    """The floor: the columns of every shard, decoded and let go."""
    total = 0
    for path in paths:
        total += pq.read_table(path, columns=["prompt_id", "loss"]).num_rows
    return {"rows": total}


def sums(paths: list[str]) -> dict[str, float]:
    """The components from the sums of every shard."""
    import mrtsim as mrt

    parts = []
    for path in paths:
        table = pq.read_table(path, columns=["prompt_id", "loss"])
        parts.append(mrt.PromptSums.of(table["loss"], table["prompt_id"]))
    whole = parts[0].merge(*parts[1:])
    found = mrt.estimate_components(whole)
    return {
        "rows": float(whole.counts.sum()),
        "prompts": whole.n_prompts,
        "prompt": found.components.prompt,
        "response": found.components.response,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--rows", type=int, default=250_000, help="per shard")
    parser.add_argument(
        "--folder", type=Path, help="where the shards are, or go (default: a temporary folder)"
    )
    parser.add_argument("--only", choices=("read", "sums"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        begin = time.perf_counter()
        record = {"read": read, "sums": sums}[args.only](sorted(map(str, args.folder.glob("*.parquet"))))
        wall = time.perf_counter() - begin
        usage = resource.getrusage(resource.RUSAGE_SELF)
        record |= {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "MB": usage.ru_maxrss / 1024}
        print(json.dumps(record))
        sys.exit()
    with tempfile.TemporaryDirectory() as room:
        folder = args.folder or Path(room)
        if not any(folder.glob("*.parquet")):
            write(folder, args.shards, args.rows)
        for what in ("read", "sums", "read", "sums"):
            command = [sys.executable, __file__, "--folder", str(folder), "--only", what]
            print(
                what,
                subprocess.run(command, check=True, capture_output=True, text=True).stdout,
                end="",
                flush=True,
            )
