"""Records (dictionaries) written in every container that the reader takes, for tests."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEXT = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
TYPED = (".parquet", ".arrow", ".feather", ".arrows")
COMPRESSED = tuple(f"{ending}{outer}" for ending in TEXT for outer in (".gz", ".zst"))
CONTAINERS = TEXT + TYPED + COMPRESSED


def text_of(rows, ending):
    names = list(dict.fromkeys(name for row in rows for name in row))
    if ending in (".csv", ".tsv"):
        out = io.StringIO()
        writer = csv.writer(out, delimiter="," if ending == ".csv" else "\t", lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            cells = (row.get(name) for name in names)
            writer.writerow(
                json.dumps(c, ensure_ascii=False) if isinstance(c, list | dict) else "" if c is None else c
                for c in cells
            )
        return out.getvalue()
    if ending == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table_of(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as file:
        file.write(data)
    return out.getvalue().to_pybytes()


def write(path, rows):
    """Write rows to a path in the container that its ending names."""
    path = Path(path)
    ending = Path(path.stem).suffix.lower() if path.suffix in (".gz", ".zst") else path.suffix.lower()
    if ending == ".parquet":
        pq.write_table(table_of(rows), path, row_group_size=max(1, len(rows) // 2))
    elif ending in TYPED:
        table = table_of(rows)
        make = pa.ipc.new_stream if ending == ".arrows" else pa.ipc.new_file
        with make(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=max(1, len(rows) // 2))
    else:
        data = text_of(rows, ending).encode()
        data = gzip.compress(data) if path.suffix == ".gz" else zstd(data) if path.suffix == ".zst" else data
        path.write_bytes(data)
    return path


def unpacked(path):
    """A file's bytes without its compression."""
    data = Path(path).read_bytes()
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    return data


def rows_of(path, columns=None):
    """A file's records as dictionaries; cells of CSV that hold JSON lists as lists."""
    path = Path(path)
    data = unpacked(path)
    ending = Path(path.stem).suffix.lower() if path.suffix in (".gz", ".zst") else path.suffix.lower()
    if ending == ".parquet":
        with pq.ParquetFile(path) as file:
            there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            return file.read(there).to_pylist()
    if ending in TYPED:
        open_ = pa.ipc.open_stream if ending == ".arrows" else pa.ipc.open_file
        return open_(data).read_all().to_pylist()
    text = data.decode("utf-8-sig")
    if ending in (".csv", ".tsv"):
        delimiter = "," if ending == ".csv" else "\t"
        return [
            {name: cell(text) for name, text in row.items()}
            for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        ]
    return (
        json.loads(text)
        if ending == ".json"
        else [json.loads(line) for line in text.split("\n") if line.strip()]
    )


def cell(text):
    """The list in a cell; the text where it holds none, or a broken one that nobody reads."""
    try:
        return json.loads(text) if text[:1] == "[" else text
    except ValueError:
        return text
