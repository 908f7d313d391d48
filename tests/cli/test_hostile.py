"""Hostile command lines and files: exit code 0 or 2, never a traceback, a hang, a partial output or a wrong number.

Everything is drawn from one seed. `make test` runs a sample, `make stress` the whole.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrtsim.cli import main
from mrtsim.tables import chunks, csv_format, lines_format
from tests.tables.writers import TEXT, rows_of, write, zstd

NUMBERS = (
    "1", "0.5", "4", "400", "1e12", "0", "-1", "nan", "inf", "1e999", "-1e308", "1e-400", "1_000", "٣", "0x10", "",
)  # fmt: skip
CELLS = (
    "nan", "inf", "-inf", "1e999", "-1e999", "1e308", "-1e308", "5e-324", "", " ", "abc", "٣", "0x10", "1_000", "1,5",
    "true", "null", "None", "[1", "[]", "{}", "[[1]]", '"', "\x00", "１", "007", "-0", "+1", "1e5", "\ufeff1",
    "a" * 5000,
)  # fmt: skip
JSON_VALUES = (
    None, True, False, "1", "abc", "", [], [1, 2], [[1.0, 2.0]], {}, {"a": 1}, 1e308, -1e308, 10**400, 0, -1, 0.5,
    5e-324, float("nan"), float("inf"), "007",
)  # fmt: skip


def rows(rng, layout):
    """A small sound file as records: 4 prompts x 3 responses."""
    records = []
    for prompt in range(4):
        pool = [
            {
                "loss": round(float(rng.normal(2 + prompt, 1)), 3),
                "reward": round(float(rng.normal()), 3),
                "embedding": [round(float(v), 3) for v in rng.normal(size=2)],
            }
            for _ in range(3)
        ]
        ids = {"prompt_id": f"p{prompt}", "group": f"g{prompt // 2}"}
        if layout == "lists":
            records.append({**ids, **{name: [r[name] for r in pool] for name in pool[0]}})
        else:
            records += [{**ids, **r} for r in pool]
    return records


def spoil_records(rng, records):
    """Change records in ways that survive serialisation, or not."""
    for _ in range(rng.integers(0, 3)):
        if not records:
            break
        i = int(rng.integers(len(records)))
        name = str(rng.choice(["loss", "reward", "embedding", "prompt_id", "group"]))
        match rng.integers(8):
            case 0:
                records[i][name] = JSON_VALUES[rng.integers(len(JSON_VALUES))]
            case 1:
                records[i].pop(name, None)
            case 2:
                for record in records:
                    record.pop(name, None)
            case 3:
                records.append(dict(records[i]))
            case 4:
                del records[i]
            case 5:
                records[:] = [records[j] for j in rng.permutation(len(records))]
            case 6:
                value = records[i].get(name)
                if isinstance(value, list) and value:
                    records[i][name] = [*value[:-1], JSON_VALUES[rng.integers(len(JSON_VALUES))]]
            case 7:
                records[:] = records[:1]
    return records


def spoil_bytes(rng, data):
    """Damage a file's bytes."""
    match rng.integers(10):
        case 0:
            return data[: rng.integers(len(data) + 1)]
        case 1:
            at = rng.integers(len(data) + 1)
            return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]
        case 2:
            return b""
        case 3:
            return b"\xef\xbb\xbf" + data
        case 4:
            return data.decode("utf-8", "replace").encode("utf-16")
        case 5:
            return data.replace(b"\n", b"\r\n")
        case 6:
            return data.replace(b"\n", b"\n\n")
        case 7:
            return data.rstrip(b"\n")
        case _:
            return data


def text_csv(rng, records, hostile=True, delimiter=","):
    names = list(dict.fromkeys(name for r in records for name in r))
    if hostile and names and rng.random() < 0.1:
        names.append(names[int(rng.integers(len(names)))])
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(names)
    for record in records:
        cells = [
            json.dumps(v) if isinstance(v, list | dict) else v for v in (record.get(n, "") for n in names)
        ]
        if hostile and rng.random() < 0.02 and cells:
            cells[int(rng.integers(len(cells)))] = CELLS[int(rng.integers(len(CELLS)))]
        if hostile and rng.random() < 0.01:
            cells = cells[:-1]
        writer.writerow(cells)
    return out.getvalue().encode("utf-8", "surrogatepass")


def typed(records, suffix):
    """Parquet or Arrow; records that no table can hold give an empty file, which is hostile too."""
    out = io.BytesIO()
    with contextlib.suppress(Exception):
        table = pa.Table.from_pylist(records)
        if suffix == ".parquet":
            pq.write_table(table, out)
        else:
            make = pa.ipc.new_stream if suffix == ".arrows" else pa.ipc.new_file
            with make(out, table.schema) as writer:
                writer.write_table(table)
    return out.getvalue()


def contents(rng, records, suffix):
    """A file's bytes, without its compression."""
    if suffix in (".csv", ".tsv"):
        return text_csv(rng, records, delimiter="," if suffix == ".csv" else "\t")
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(r, ensure_ascii=bool(rng.integers(2))) + "\n" for r in records).encode()
    if suffix == ".json":
        return json.dumps(records, indent=None if rng.integers(2) else 1).encode()
    return typed(records, suffix)


def packed(rng, data, suffix):
    """Compressed as the ending says, or seldom not."""
    if rng.random() < 0.03:
        return data
    return gzip.compress(data) if suffix == ".gz" else zstd(data)


SCORES = ("loss", "reward")


def nested(records):
    """The same with the numbers one object deeper."""
    return [
        {n: v for n, v in r.items() if n not in SCORES} | {"scores": {n: r[n] for n in SCORES if n in r}}
        for r in records
    ]


def write_file(rng, folder):
    """A file, or a folder of two, and how the command must name its columns."""
    suffix = str(rng.choice([".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".arrows"]))
    records = rows(rng, str(rng.choice(["rows", "lists"])))
    if rng.random() < 0.5:
        records = spoil_records(rng, records)
    deep = rng.random() < 0.15
    if deep:
        records = nested(records)
    outer = str(rng.choice([".gz", ".zst"])) if suffix in TEXT and rng.random() < 0.2 else ""
    halves = [records[: len(records) // 2], records[len(records) // 2 :]] if rng.random() < 0.1 else [records]
    path = folder / f"in{suffix}{outer}"
    if len(halves) == 2:
        path = folder / "in"
        path.mkdir()
    for number, half in enumerate(halves):
        data = contents(rng, half, suffix)
        data = packed(rng, data, outer) if outer else data
        target = path if len(halves) == 1 else path / f"{number}{suffix}{outer}"
        target.write_bytes(spoil_bytes(rng, data) if rng.random() < 0.25 else data)
    return path, f"{suffix}{outer}", deep


def odd_path(rng, folder, path):
    return str(
        rng.choice(
            [*[str(path)] * 20, str(folder), str(folder / "absent.csv"), "", "/dev/null", str(folder / "in"),
             str(folder / "in.txt"), str(folder / ("n" * 300 + ".csv")), str(folder / "new\nline.csv")]
        )
    )  # fmt: skip


def number(rng):
    return str(rng.choice(NUMBERS)) if rng.random() < 0.1 else f"{math.exp(rng.normal(0, 3)):.4g}"


def command_line(rng, folder):
    """A command line, and the file that it writes where it succeeds."""
    path, suffix, deep = write_file(rng, folder)
    out = folder / f"out{suffix}"
    reading = []
    if deep:
        reading += ["--loss-column", "scores.loss"]
    if rng.random() < 0.1:
        reading += ["--layout", str(rng.choice(["rows", "prompts"]))]
    if rng.random() < 0.1:
        reading += ["--missing-ids", "drop"]
    if rng.random() < 0.05:
        reading += ["--format", str(rng.choice(["csv", "jsonl", "json", "parquet", "arrow", "guess"]))]
    match rng.integers(3):
        case 0:
            line = ["allocate", "--v-prompt", number(rng), "--v-response", number(rng)]
            line += ["--c-prompt", number(rng), "--c-response", number(rng)]
            line += [str(rng.choice(["--budget", "--target-variance"])), number(rng)]
            for option in (
                "--max-responses",
                "--max-prompts",
                "--population",
                "--candidates",
                "--redundancy",
            ):
                if rng.random() < 0.15:
                    line += [
                        option,
                        str(rng.choice(["1", "3", "8", "100", "0", "-2", "1.5", "many", "1" + "0" * 30])),
                    ]
        case 1:
            line = ["pilot", odd_path(rng, folder, path), *reading]
            if rng.random() < 0.4:
                line += ["--group-column", str(rng.choice(["group", "absent", "loss"]))]
            if rng.random() < 0.5:
                line += ["--c-prompt", number(rng), "--c-response", number(rng)]
                line += [str(rng.choice(["--budget", "--target-variance"])), number(rng)]
            if rng.random() < 0.3:
                line += ["--method", str(rng.choice(["anova", "ml", "reml", "guess"]))]
            if rng.random() < 0.2:
                line += ["--max-responses", str(rng.choice(["4", "0", "x"]))]
        case _:
            strategy = str(rng.choice(["rkon", "bkon", "dkon", "dbkon", "filtered-max-min", "bkon", "none"]))
            line = ["select", odd_path(rng, folder, path), "--strategy", strategy]
            line += ["-k", str(rng.choice(["1", "2", "2", "2", "3", "4", "0", "-1", "x"]))]
            out = out if rng.random() < 0.9 else Path(odd_path(rng, folder, path))
            line += ["--out", str(out), *reading]
            if deep and rng.random() < 0.8:
                line += ["--reward-column", "scores.reward"]
            if rng.random() < 0.1:
                pools = ["reward", "embedding,reward", "absent", "loss", "scores.reward"]
                line += ["--pool-columns", str(rng.choice(pools))]
            if rng.random() < 0.2:
                line += ["--short-pools", str(rng.choice(["keep", "drop"]))]
            if not deep and rng.random() < 0.1:
                line += ["--loss-column", str(rng.choice(["loss", "absent"]))]
    if line[0] != "select" or rng.random() < 0.5:
        line.append("--json")
    return line, path, out


def answer(line):
    """Exit code, standard output and standard error of the command's main function."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


def refuse_constant(name):
    raise AssertionError(f"{name} is not strict JSON")


def everything(path):
    """The bytes of a file, or of all in a folder."""
    return [p.read_bytes() for p in sorted(path.iterdir())] if path.is_dir() else path.read_bytes()


def attack(seed, folder):
    """One command line; returns whether it was answered."""
    rng = np.random.default_rng(seed)
    line, path, out = command_line(rng, folder)
    before = everything(path)
    code, stdout, stderr = answer(line)
    told = f"seed {seed}: mrtsim {' '.join(map(repr, line))}\n{stdout}{stderr}"
    assert code in (0, 2), told
    assert "Traceback" not in stderr, told
    assert everything(path) == before, told
    left = sorted(p.name for p in folder.iterdir() if p != path)
    if code == 2:
        assert stdout == "", told
        assert stderr.startswith("mrtsim"), told
        assert stderr.count("\n") == 1, told
        assert left == [], told
        return False
    if line[0] == "select":
        assert left == [out.name], told
    if line[-1] == "--json":
        result = json.loads(stdout, parse_constant=refuse_constant)
        assert stdout.count("\n") == 1, told
        if line[0] == "pilot":
            check_pilot(path, result, told)
        if line[0] == "allocate":
            check_plan(line, result, told)
    return True


def check_pilot(path, result, told):
    """The counts and V_{y|x} of the analysis of variance against a plain reading of the file."""
    pools = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        for record in rows_of(file, ("prompt_id", "loss", "scores")):
            losses = plain(plain(record["scores"])["loss"] if "scores" in record else record["loss"])
            pools.setdefault(str(record.get("prompt_id")), []).extend(
                losses if isinstance(losses, list) else [losses]
            )
    pools = {p: [float(TRUTH.get(str(v).strip().lower(), v)) for v in pool] for p, pool in pools.items()}
    if "left out" not in " ".join(result["warnings"]):
        assert result["n_prompts"] == len(pools), told
        assert result["n_responses"] == sum(map(len, pools.values())), told
        within = sum(np.sum(np.square(np.array(pool) - np.mean(pool))) for pool in pools.values())
        freedom = result["n_responses"] - len(pools)
        estimate = result["components"]["response"]["estimate"]
        if result.get("method", "anova") == "anova":
            assert estimate == pytest.approx(within / freedom, rel=1e-6), told


TRUTH = {"true": 1.0, "false": 0.0}


def plain(value):
    """What JSON text in a cell holds."""
    return json.loads(value) if isinstance(value, str) and value.strip()[:1] in ("[", "{") else value


def check_plan(line, result, told):
    given = {name: float(value) for name, value in zip(line[1:-1:2], line[2:-1:2], strict=True)}
    n, k = result["n_prompts"], result["responses_per_prompt"]
    price = n * (given["--c-prompt"] + k * given["--c-response"])
    assert result["cost"] == pytest.approx(price, rel=1e-9), told
    if "--budget" in given:
        assert price <= given["--budget"] * (1 + 1e-9), told
    if "--population" not in given and "--candidates" not in given:
        variance = (given["--v-prompt"] + given["--v-response"] / k) / n
        assert result["variance"] == pytest.approx(variance, rel=1e-9), told
        if "--target-variance" in given:
            assert variance <= given["--target-variance"] * (1 + 1e-9), told


@pytest.fixture
def pieces(part, monkeypatch):
    """Of odd parts the files are read in pieces of a few rows, as large ones are."""
    if part % 2:
        monkeypatch.setattr(chunks, "BYTES", 100)
        monkeypatch.setattr(chunks, "ROWS", 4)
        monkeypatch.setattr(csv_format, "LARGE", 0)
        monkeypatch.setattr(lines_format, "FIRST_RECORDS", 2)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("part", range(4))
def test_a_sample_of_hostile_commands(part, tmp_path):
    answered = 0
    for seed in range(part * 100, (part + 1) * 100):
        folder = tmp_path / str(seed)
        folder.mkdir()
        answered += attack(seed, folder)
    assert 10 < answered < 90, "the attack is too mild, or too wild"


@pytest.mark.stress
@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("part", range(20))
def test_twenty_thousand_hostile_commands(part, tmp_path):
    for seed in range(10_000 + part * 1000, 10_000 + (part + 1) * 1000):
        folder = tmp_path / str(seed)
        folder.mkdir()
        attack(seed, folder)


@pytest.mark.stress
def test_hundreds_of_hostile_processes(tmp_path):
    for seed in range(300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        line, _, _ = command_line(np.random.default_rng(seed), folder)
        done = process(line)
        assert done.returncode in (0, 2), (seed, line, done.stderr)
        assert "Traceback" not in done.stderr, (seed, line, done.stderr)


def process(line):
    program = "import sys; from mrtsim.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    "suffix", [".csv", ".jsonl.gz", ".jsonl.zst", ".json", ".jsonl", ".parquet", ".arrow"]
)
def test_a_full_disk_is_a_message_and_leaves_nothing(tmp_path, capsys, suffix, scattered):
    records = [dict(r) for r in rows(np.random.default_rng(0), "rows") * 200]
    for i, record in enumerate(records):
        record["prompt_id"] = f"p{i % 800 if scattered else i // 3}"
        record["text"] = f"{i * 7919 % 10007} and {i * 104729 % 10007}"  # what compression cannot make small
    source, out = write(tmp_path / f"in{suffix}", records), tmp_path / f"out{suffix}"
    line = [
        "select",
        str(source),
        "--strategy",
        "rkon",
        "-k",
        "1",
        "--out",
        str(out),
        "--short-pools",
        "drop",
    ]
    assert main(line) == 0  # with room; it compiles what the tests' cache must not be given in pieces
    out.unlink()
    capsys.readouterr()
    ours = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, ours[1]))
    try:
        code = main(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, ours)
    error = capsys.readouterr().err
    assert code == 2, error
    assert "cannot write" in error
    assert len(error.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name]
