"""A pilot and a selection by the workers of Ray Data, on Parquet shards that no process holds as a whole.

    pip install 'mrtsim[ray]'
    python examples/ray_data.py pool/ --strategy dbkon -k 4 --out kept/

A pilot: each block of rows becomes the sums of its prompts, and these merge in any order. A selection: all candidates
of a prompt are brought together first, wherever they stand, and in the order of the shards, so that the workers keep
what one process keeps.
"""

from __future__ import annotations

import argparse
import json
import pickle
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

import mrtsim as mrt

ROW, BUCKET = "__row", "__bucket"  # columns that are added, and taken away again


def rows_of(paths: list[str], batch_size: int = 65_536) -> Any:
    """The rows of Parquet shards as a Ray data set, each with its place in all of them; a file is read in parts."""
    files = [{"path": path, "shard": shard} for shard, path in enumerate(paths)]
    return ray.data.from_items(files, override_num_blocks=len(files)).map_batches(
        partial(_read, batch_size=batch_size), batch_size=1, zero_copy_batch=True
    )


def _read(files: dict[str, np.ndarray], batch_size: int) -> Iterator[pa.Table]:
    for path, shard in zip(files["path"], files["shard"], strict=True):
        row = int(shard) << 40
        for batch in pq.ParquetFile(str(path)).iter_batches(batch_size):
            numbers = pa.array(np.arange(row, row + batch.num_rows))
            yield pa.Table.from_batches([batch]).append_column(ROW, numbers)
            row += batch.num_rows


def pilot(
    rows: Any, prompt: str = "prompt_id", loss: str = "loss", group: str | None = None
) -> mrt.PromptSums:
    """The sums of a pilot with one row per response; `mrt.estimate_components` takes them."""
    columns = [column for column in (prompt, loss, group) if column is not None]
    parts = rows.select_columns(columns).map_batches(
        partial(_sums, prompt=prompt, loss=loss, group=group), batch_format="pyarrow", batch_size=None
    )
    first, *others = (pickle.loads(row["sums"]) for row in parts.iter_rows())
    return first.merge(*others)


def _sums(table: pa.Table, prompt: str, loss: str, group: str | None) -> pa.Table:
    groups = None if group is None else table[group]
    return pa.table({"sums": [pickle.dumps(mrt.PromptSums.of(table[loss], table[prompt], groups))]})


def selected(rows: Any, strategy: str, k: int, columns: Any, buckets: int, **options: Any) -> Any:
    """The kept rows as a Ray data set, in no order.

    Args:
        rows: of `rows_of`.
        strategy: of `mrt.select_table`, as are `k`, `columns` and the options.
        k: how many to keep per prompt.
        columns: their names, `mrt.Columns`.
        buckets: groups of whole pools; as many as keep each of them small enough for a worker.
        **options: `seed`, `short_pools`, and the strategy's own.
    """
    whole = rows.map_batches(
        partial(_with_bucket, prompt=columns.prompt, buckets=buckets), batch_format="pyarrow"
    ).groupby(BUCKET, num_partitions=buckets)
    return whole.map_groups(
        partial(_keep, strategy=strategy, k=k, columns=columns, options=options), batch_format="pyarrow"
    )


def _with_bucket(table: pa.Table, prompt: str, buckets: int) -> pa.Table:
    """Python's own hash of text differs between processes."""
    numbers = [zlib.crc32(str(name).encode()) % buckets for name in table[prompt].to_pylist()]
    return table.append_column(BUCKET, pa.array(numbers, pa.int32()))


def _keep(table: pa.Table, strategy: str, k: int, columns: Any, options: dict[str, Any]) -> pa.Table:
    pools = table.drop_columns([BUCKET]).sort_by(ROW)
    return mrt.select_table(pools, strategy, k, columns=columns, **options).drop_columns([ROW])


def main() -> None:
    """Print the pilot as JSON, and write the kept rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of Parquet shards, one row per response")
    parser.add_argument("--prompt-column", default="prompt_id")
    parser.add_argument("--loss-column", default="loss", help="of the pilot")
    parser.add_argument("--reward-column", default="reward")
    parser.add_argument("--embedding-column", default="embedding")
    parser.add_argument("--strategy", default="dbkon")
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the kept rows")
    parser.add_argument("--cpus", type=int, help="default: all")
    parser.add_argument("--store-mb", type=int, help="object store of Ray (default: 30 % of the memory)")
    parser.add_argument("--batch-size", type=int, default=65_536, help="rows that are read at a time")
    parser.add_argument("--buckets", type=int, default=64)
    args = parser.parse_args()
    store = None if args.store_mb is None else args.store_mb << 20
    ray.init(num_cpus=args.cpus, object_store_memory=store, include_dashboard=False, log_to_driver=False)
    rows = rows_of(sorted(map(str, args.folder.glob("*.parquet"))), args.batch_size)
    estimate = mrt.estimate_components(pilot(rows, args.prompt_column, args.loss_column))
    print(json.dumps(estimate.to_dict()))
    if args.out is not None:
        columns = mrt.Columns(
            prompt=args.prompt_column, reward=args.reward_column, embedding=args.embedding_column
        )
        kept = selected(rows, args.strategy, args.k, columns, args.buckets, seed=args.seed)
        kept.write_parquet(str(args.out))


if __name__ == "__main__":
    main()
