"""Layouts that people have, each with the command that its owner would type: read right, or refused with the fix."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from mrtsim.cli import main
from mrtsim.errors import InputError
from mrtsim.tables.pilots import read_pilot
from tests.tables.writers import rows_of, write

CUT = "cut_columns"


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """A command in the test's folder: its JSON, or its one message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        try:
            found = main([*map(str, arguments), "--json"])
        except SystemExit as leaving:
            found = leaving.code
        out, err = capsys.readouterr()
        assert found == code, err
        if code:
            assert out == ""
            assert len(err.splitlines()) == 1, err
            return err
        return json.loads(out)

    return run


def pilot_rows():
    """4 prompts x 3 responses."""
    losses = [[0.0, 5.0, 3.0], [1.0, 6.0, 4.0], [2.0, 0.0, 5.0], [3.0, 1.0, 6.0]]
    return [
        {"prompt_id": f"p{p}", "loss": loss, "reward": float((7 * p + 3 * r) % 5)}
        for p, pool in enumerate(losses)
        for r, loss in enumerate(pool)
    ]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_chat_rows_are_responses(run, tmp_path):
    rows = [
        {
            "prompt_id": f"p{p}",
            key: [{"role": "user", "content": f"q{p}"}, {"role": "assistant", "content": f"a{p}{r}"}],
        }
        for p in range(2)
        for r in range(3)
        for key in ["messages"]
    ]
    lines(tmp_path / "chat.jsonl", rows)
    write(tmp_path / "chat.parquet", rows)
    for name in ("chat.jsonl", "chat.parquet"):
        out = tmp_path / f"kept.{name.split('.')[1]}"
        report = run("select", name, "--strategy", "rkon", "-k", 1, "--out", out)
        assert (report["prompts"], report["candidates"], report["kept"], report[CUT]) == (2, 6, 2, [])
        assert all(row in rows for row in rows_of(out))


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 3],  # token ids, logprobs, a vector
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        ["a", "b"],
    ],
    ids=["numbers", "conversations", "texts"],
)
def test_lists_prove_nothing_where_no_number_is_named(run, tmp_path, column):
    rows = [{"prompt_id": p, "text": f"{p}{r}", "x": column} for p in "ab" for r in range(3)]
    lines(tmp_path / "in.jsonl", rows)
    report = run("select", "in.jsonl", "--strategy", "rkon", "-k", 2, "--out", "out.jsonl")
    assert (report["kept"], report[CUT]) == (4, [])
    lines(tmp_path / "in.jsonl", [{**row, "prompt_id": i} for i, row in enumerate(rows)])
    message = run("select", "in.jsonl", "--strategy", "rkon", "-k", 2, "--out", "o.jsonl", code=2)
    assert "--layout rows" in message
    assert "--layout prompts" in message
    assert not (tmp_path / "o.jsonl").exists()


def test_a_quote_inside_an_unquoted_field_is_text(run, tmp_path):
    (tmp_path / "q.csv").write_text(
        'prompt_id,loss,text\na,1,5" pipe\na,2,plain\nb,3,6" pipe\nb,5,plain\nc,5,plain\nc,7,plain\n'
    )
    assert run("pilot", "q.csv")["n_responses"] == 6
    run("select", "q.csv", "--strategy", "bkon", "-k", 1, "--reward-column", "loss", "--out", "o.csv")
    assert (tmp_path / "o.csv").read_text() == "prompt_id,loss,text\na,2,plain\nb,5,plain\nc,7,plain\n"


@pytest.mark.parametrize(
    "name", ["pool[1].parquet", "[2024] run/pool.parquet", "what?*.parquet", "~.parquet"]
)
def test_names_are_literal_first(run, tmp_path, name):
    rows = [{"prompt_id": p, "reward": r, "from": "named"} for p in "ab" for r in (0.0, 1.0)]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name, rows)
    write(tmp_path / "pool1.parquet", [{**row, "from": "other"} for row in rows])
    report = run("select", name, "--strategy", "bkon", "-k", 1, "--out", "out.parquet")
    assert (report["candidates"], report["kept"]) == (4, 2)
    assert {row["from"] for row in rows_of(tmp_path / "out.parquet")} == {"named"}
    rows = [{"prompt_id": p, "loss": r} for p in "ab" for r in (0.0, 1.0)]
    write(tmp_path / name, rows)
    assert run("pilot", name)["n_responses"] == 4


def test_nan_elsewhere(run, tmp_path):
    rows = [{**row, "advantage": float("nan") if i == 7 else 0.5} for i, row in enumerate(pilot_rows())]
    lines(tmp_path / "n.jsonl", rows)
    (tmp_path / "n.json").write_text(json.dumps(rows))
    for name in ("n.jsonl", "n.json"):
        assert run("pilot", name)["n_responses"] == 12
        message = run("pilot", name, "--loss-column", "advantage", code=2)
        assert "line" in message
        assert "column 'advantage'" in message
        assert "not a finite number" in message


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".json"])
def test_turns_as_many_as_candidates(run, tmp_path, ending):
    turns = [{"role": r, "content": r} for r in ("system", "user", "assistant", "user")]
    rows = [
        {
            "prompt_id": p,
            "messages": turns,
            "responses": list("wxyz"),
            "rewards": [0.1, 0.9, 0.2, 0.3],
            "ids": [1, 2, 3, 4],
        }
        for p in ("p0", "p1")
    ]
    write(tmp_path / f"in{ending}", rows)
    report = run(
        "select",
        f"in{ending}",
        "--strategy",
        "bkon",
        "-k",
        1,
        "--reward-column",
        "rewards",
        "--out",
        f"out{ending}",
    )
    assert sorted(report[CUT]) == ["responses", "rewards"]
    for row in rows_of(tmp_path / f"out{ending}"):
        assert row["messages"] == turns
        assert (row["responses"], row["rewards"], row["ids"]) == (["x"], [0.9], [1, 2, 3, 4])
    report = run(
        *("select", f"in{ending}", "--strategy", "bkon", "-k", 1, "--reward-column", "rewards"),
        *("--pool-columns", "ids", "--out", f"out{ending}"),
    )
    assert sorted(report[CUT]) == ["ids", "rewards"]
    assert rows_of(tmp_path / f"out{ending}")[0]["ids"] == [2]


def test_columns_that_are_as_long_as_the_pool_by_chance_are_asked_about(run, tmp_path):
    rows = [
        {"prompt_id": "a", "rewards": [1.0, 2.0, 3.0], "tags": ["u", "v", "w"]},
        {"prompt_id": "b", "rewards": [1.0, 2.0, 3.0], "tags": ["u", "v"]},
    ]
    lines(tmp_path / "in.jsonl", rows)
    arguments = (
        "select",
        "in.jsonl",
        "--strategy",
        "bkon",
        "-k",
        1,
        "--reward-column",
        "rewards",
        "--out",
        "o.jsonl",
    )
    message = run(*arguments, code=2)
    assert "line 2, column 'tags'" in message
    assert "--pool-columns rewards" in message
    assert run(*arguments, "--pool-columns", "rewards")[CUT] == ["rewards"]
    assert [row["tags"] for row in rows_of(tmp_path / "o.jsonl")] == [["u", "v", "w"], ["u", "v"]]


def test_answers_as_turns_are_asked_about(run, tmp_path):
    """One assistant turn per candidate, or one chat? The file does not say."""
    rows = [
        {
            "prompt_id": p,
            "rewards": [1.0, 2.0],
            "answers": [{"role": "assistant", "content": c} for c in "xy"],
        }
        for p in "ab"
    ]
    lines(tmp_path / "in.jsonl", rows)
    arguments = (
        "select",
        "in.jsonl",
        "--strategy",
        "bkon",
        "-k",
        1,
        "--reward-column",
        "rewards",
        "--out",
        "o.jsonl",
    )
    assert "one chat turn per candidate, or one chat" in run(*arguments, code=2)
    assert sorted(run(*arguments, "--pool-columns", "answers")[CUT]) == ["answers", "rewards"]
    assert rows_of(tmp_path / "o.jsonl")[0]["answers"] == [{"role": "assistant", "content": "y"}]


def every_type():
    """A table with the types that copies have lost, and metadata of every kind."""
    n = 4
    fields = [
        pa.field("prompt_id", pa.string(), metadata={"note": "of the field"}),
        pa.field("reward", pa.float64()),
        pa.field("sha", pa.binary(4)),
        pa.field("half", pa.float16()),
        pa.field("price", pa.decimal128(20, 3)),
        pa.field("level", pa.dictionary(pa.int8(), pa.string(), ordered=True)),
        pa.field("when", pa.timestamp("ms", "Europe/Paris")),
        pa.field("day", pa.date32()),
        pa.field("took", pa.duration("us")),
        pa.field("small", pa.uint8()),
        pa.field("large", pa.large_string()),
        pa.field("vector", pa.list_(pa.float32(), 2)),
        pa.field("chat", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("map", pa.map_(pa.string(), pa.int64())),
        pa.field("never", pa.null()),
        pa.field("must", pa.int64(), nullable=False),
    ]
    values = [
        ["a", "a", "b", "b"],
        [1.0, 2.0, 3.0, 4.0],
        [b"abcd"] * n,
        np.array([0.5] * n, np.float16),
        [None] * n,
        pa.DictionaryArray.from_arrays(
            pa.array([1, 0, 1, None], pa.int8()), pa.array(["low", "high"]), ordered=True
        ),
        [0, 1, 2, 3],
        [0, 1, 2, None],
        [1] * n,
        [255] * n,
        ["x" * 10] * n,
        [[1.0, 2.0]] * n,
        [[{"role": "user", "content": "q"}]] * n,
        [[("k", 1)]] * n,
        [None] * n,
        [1, 2, 3, 4],
    ]
    arrays = [
        v if isinstance(v, pa.Array) else pa.array(v, f.type) for v, f in zip(values, fields, strict=True)
    ]
    return pa.table(
        arrays, pa.schema(fields, metadata={"huggingface": '{"info": 1}', "pandas": '{"columns": []}'})
    )


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow", ".arrows"])
@pytest.mark.parametrize("compression", ["zstd", None])
def test_typed_copies_keep_schema_metadata_and_types(run, tmp_path, ending, compression):
    table = every_type()
    if ending == ".parquet":
        pq.write_table(table, tmp_path / "in.parquet", compression=compression or "NONE", row_group_size=2)
        table = pq.read_table(tmp_path / "in.parquet")
    else:
        make = pa.ipc.new_stream if ending == ".arrows" else pa.ipc.new_file
        with make(
            f"in{ending}", table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
        ) as out:
            out.write_table(table, max_chunksize=2)
    run("select", f"in{ending}", "--strategy", "bkon", "-k", 1, "--out", f"out{ending}")
    if ending == ".parquet":
        kept = pq.read_table(tmp_path / "out.parquet")
        codec = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression
        assert codec == {"zstd": "ZSTD", None: "UNCOMPRESSED"}[compression]
    else:
        open_ = pa.ipc.open_stream if ending == ".arrows" else pa.ipc.open_file
        kept = open_((tmp_path / f"out{ending}").read_bytes()).read_all()
    assert kept.schema.equals(table.schema, check_metadata=True)
    assert kept.take([0, 1]).to_pylist() == table.take([1, 3]).to_pylist()
    assert kept.num_rows == 2


def test_views_and_run_lengths_are_copied_too(run, tmp_path):
    """Types without a filter kernel."""
    table = pa.table(
        {
            "prompt_id": pa.array(["a", "a", "b", "b"], pa.string_view()),
            "reward": pa.array([1.0, 2.0, 4.0, 3.0]),
            "text": pa.array(["w", "x", "y", "z"], pa.string_view()),
        }
    )
    with pa.ipc.new_file("in.arrow", table.schema) as out:
        out.write_table(table)
    run("select", "in.arrow", "--strategy", "bkon", "-k", 1, "--out", "out.arrow")
    kept = pa.ipc.open_file((tmp_path / "out.arrow").read_bytes()).read_all()
    assert kept.schema == table.schema
    assert kept["text"].to_pylist() == ["x", "y"]


def test_old_times_are_kept_or_refused(run, tmp_path):
    rows = pa.table(
        {
            "prompt_id": ["a", "a"],
            "reward": [1.0, 2.0],
            "when": pa.array([1, 2], pa.timestamp("ns")),
        }
    )
    pq.write_table(rows, tmp_path / "in.parquet", use_deprecated_int96_timestamps=True)
    run("select", "in.parquet", "--strategy", "bkon", "-k", 1, "--out", "out.parquet")
    assert pq.ParquetFile(tmp_path / "out.parquet").schema.column(2).physical_type == "INT96"


@pytest.mark.parametrize("name", ["helpsteer.jsonl.gz", "gzip_inside.jsonl"])
def test_gzip_by_content(run, tmp_path, name):
    rows = [{"prompt": f"q{i // 2}", "response": "r", "helpfulness": i % 5} for i in range(12)]
    (tmp_path / name).write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    found = run("pilot", name, "--prompt-column", "prompt", "--loss-column", "helpfulness")
    assert (found["n_prompts"], found["n_responses"]) == (6, 12)
    run(
        *("select", name, "--strategy", "bkon", "-k", 1, "--prompt-column", "prompt"),
        *("--reward-column", "helpfulness", "--out", "kept.jsonl.gz"),
    )
    kept = gzip.decompress((tmp_path / "kept.jsonl.gz").read_bytes()).decode()
    assert [json.loads(line)["helpfulness"] for line in kept.splitlines()] == [1, 3, 4, 2, 4, 1]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_true_is_one(run, tmp_path, ending):
    rows = [{"task_id": f"HumanEval/{i // 3}", "passed": i % 5 == 0} for i in range(18)]
    write(tmp_path / f"h{ending}", rows)
    found = run("pilot", f"h{ending}", "--prompt-column", "task_id", "--loss-column", "passed")
    assert found["mean_loss"] == pytest.approx(4 / 18)


def ultrafeedback():
    return [
        {
            "source": "evol_instruct",
            "instruction": f"q{q}",
            "models": list("abcd"),
            "completions": [
                {
                    "model": m,
                    "response": "r",
                    "overall_score": float((q + 2 * i) % 7),
                    "annotations": {"helpfulness": {"Rating": str((q + i) % 4)}},
                }
                for i, m in enumerate("abcd")
            ],
            "correct_answers": ["None"],
        }
        for q in range(5)
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ".arrow"])
def test_nested_values(run, tmp_path, ending):
    rows = ultrafeedback()
    write(tmp_path / f"u{ending}", rows)
    column = "completions.overall_score"
    found = run("pilot", f"u{ending}", "--prompt-column", "instruction", "--loss-column", column)
    scores = np.array([[c["overall_score"] for c in row["completions"]] for row in rows])
    assert found["n_responses"] == 20
    assert found["mean_loss"] == pytest.approx(scores.mean())
    deep = "completions.annotations.helpfulness.Rating"
    found = run("pilot", f"u{ending}", "--prompt-column", "instruction", "--loss-column", deep)
    ratings = [float(c["annotations"]["helpfulness"]["Rating"]) for row in rows for c in row["completions"]]
    assert found["mean_loss"] == pytest.approx(np.mean(ratings))
    report = run(
        *("select", f"u{ending}", "--strategy", "bkon", "-k", 1, "--prompt-column", "instruction"),
        *("--reward-column", column, "--out", f"o{ending}"),
    )
    assert report[CUT] == ["completions", "models"]
    for row, before in zip(rows_of(tmp_path / f"o{ending}"), rows, strict=True):
        best = max(before["completions"], key=lambda c: c["overall_score"])
        assert row == {**before, "completions": [best], "models": [best["model"]]}
    message = run(
        "pilot", f"u{ending}", "--prompt-column", "instruction", "--loss-column", "completions.score", code=2
    )
    assert "completions has no field 'score'; it has model, response, overall_score, annotations" in message


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_choices_inside_objects(run, tmp_path, ending):
    choices = [{"index": i, "message": {"role": "assistant", "content": "a"}} for i in range(4)]
    rows = [
        {"custom_id": f"r{i}", "response": {"status": 200, "body": {"choices": choices}}, "error": None}
        for i in range(3)
    ]
    write(tmp_path / f"b{ending}", rows)
    arguments = (
        "select",
        f"b{ending}",
        "--strategy",
        "rkon",
        "-k",
        1,
        "--prompt-column",
        "custom_id",
        "--out",
        f"o{ending}",
    )
    report = run(*arguments, "--pool-columns", "response.body.choices")
    assert (report["prompts"], report["candidates"], report["kept"]) == (3, 12, 3)
    assert report[CUT] == ["response.body.choices"]
    for row, before in zip(rows_of(tmp_path / f"o{ending}"), rows, strict=True):
        (kept,) = row["response"]["body"]["choices"]
        assert kept in choices
        assert row == {**before, "response": {"status": 200, "body": {"choices": [kept]}}}
    message = run(*arguments, code=2)
    assert "--pool-columns response.body.choices" in message


def test_a_column_with_a_dot_in_its_name_wins(run, tmp_path):
    rows = [{"prompt_id": i // 2, "scores.loss": float(i), "scores": {"loss": 100.0 * i}} for i in range(6)]
    lines(tmp_path / "d.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    for name in ("d.jsonl", "d.parquet"):
        assert run("pilot", name, "--loss-column", "scores.loss")["mean_loss"] == 2.5


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_an_object_where_a_number_is_meant(run, tmp_path, ending):
    rows = [{"prompt_id": "ab"[i // 2], "scores": {"reward": float(i), "loss": 2.0 * i}} for i in range(4)]
    write(tmp_path / f"s{ending}", rows)
    message = run("pilot", f"s{ending}", "--loss-column", "scores", code=2)
    assert "an object with fields reward, loss: name one, --loss-column scores.loss" in message
    assert run("pilot", f"s{ending}", "--loss-column", "scores.loss")["n_responses"] == 4


@pytest.mark.parametrize("name", ["simpo.json", "array.jsonl"])
def test_an_array_of_objects(run, tmp_path, name):
    rows = [
        {"prompt": f"q{i}", "all_generated_responses": list("abc"), "all_rm_scores": [i / 10, 0.2, 0.3]}
        for i in range(4)
    ]
    (tmp_path / name).write_text(json.dumps(rows, indent=4))
    arguments = ("--prompt-column", "prompt", "--loss-column", "all_rm_scores")
    assert run("pilot", name, *arguments)["n_responses"] == 12
    out = f"kept.{name.split('.')[1]}"
    run(
        *("select", name, "--strategy", "bkon", "-k", 1, "--prompt-column", "prompt"),
        *("--reward-column", "all_rm_scores", "--out", out),
    )
    kept = json.loads((tmp_path / out).read_text())
    assert [row["all_generated_responses"] for row in kept] == [
        ["c"],
        ["c"],
        ["c"],
        ["a"],
    ]  # a tie goes to the first


def test_json_lines_that_are_named_json(run, tmp_path):
    lines(tmp_path / "in.json", pilot_rows())
    assert run("pilot", "in.json")["n_responses"] == 12
    run("select", "in.json", "--strategy", "bkon", "-k", 1, "--out", "out.json")
    assert len((tmp_path / "out.json").read_text().splitlines()) == 4


def test_folders_patterns_and_several_files(run, tmp_path):
    folder = tmp_path / "rollout"
    folder.mkdir()
    rows = [
        {"input": f"q{i // 3}", "output": "a", "score": float((i + i // 5) % 2), "step": 1} for i in range(12)
    ]
    for step in (1, 2, 10):
        lines(folder / f"{step}.jsonl", [{**row, "step": step} for row in rows])
    (folder / "_SUCCESS").write_text("")
    arguments = ("--prompt-column", "input", "--loss-column", "score")
    several = ["rollout/1.jsonl", "rollout/2.jsonl", "rollout/10.jsonl"]
    found = [run("pilot", *files, *arguments) for files in (["rollout"], ["rollout/*.jsonl"], several)]
    assert found[0]["n_responses"] == 36
    assert found[0] == found[1] == found[2]
    choose = ("--strategy", "bkon", "-k", 4, "--prompt-column", "input", "--reward-column", "score")
    report = run("select", "rollout", *choose, "--out", "kept.jsonl")
    assert (report["prompts"], report["kept"]) == (4, 16)
    steps = [json.loads(line)["step"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "in input order: 1, 2, 10"
    run("select", "rollout", *choose, "--out", "kept/")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["1.jsonl", "10.jsonl", "2.jsonl"]
    joined = "".join((tmp_path / "kept" / f"{s}.jsonl").read_text() for s in (1, 2, 10))
    assert joined == (tmp_path / "kept.jsonl").read_text()
    assert "named twice" in run("pilot", "rollout", "rollout/1.jsonl", *arguments, code=2)
    write(folder / "x.csv", rows)
    assert "several formats (.csv, .jsonl)" in run("pilot", "rollout", *arguments, code=2)
    (folder / "x.csv").unlink()
    (folder / "deeper").mkdir()
    lines(folder / "deeper" / "3.jsonl", rows)
    assert "rollout/**/*.jsonl" in run("pilot", "rollout", *arguments, code=2)
    assert run("pilot", "rollout/**/*.jsonl", *arguments)["n_responses"] == 48
    assert "none matches" in run("pilot", "rollout/*.parquet", *arguments, code=2)


def test_a_folder_that_datasets_saved(run, tmp_path):
    table = pa.Table.from_pylist(pilot_rows())
    folder = tmp_path / "saved"
    folder.mkdir()
    for shard in range(2):
        with pa.ipc.new_stream(str(folder / f"data-0000{shard}-of-00002.arrow"), table.schema) as out:
            out.write_table(table.slice(6 * shard, 6))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    assert run("pilot", "saved")["n_responses"] == 12
    run("select", "saved", "--strategy", "bkon", "-k", 1, "--out", "kept.arrow")
    assert pa.ipc.open_stream((tmp_path / "kept.arrow").read_bytes()).read_all().num_rows == 4


def test_shards_of_other_types(run, tmp_path):
    (tmp_path / "s").mkdir()
    for shard, kind in enumerate((pa.int64(), pa.float64())):
        table = pa.table(
            {
                "prompt_id": ["a", "a", "b", "b"],
                "reward": pa.array([1, 2, 3, 4], kind),
                "loss": [1.0 + shard, 2, 3, 5],
            }
        )
        pq.write_table(table, tmp_path / "s" / f"{shard}.parquet")
    assert run("pilot", "s", "--loss-column", "reward")["n_responses"] == 8
    choose = ("select", "s", "--strategy", "bkon", "-k", 1)
    message = run(*choose, "--out", "o.parquet", code=2)
    assert "column 'reward' holds int64 in one and double in the other" in message
    assert "--out o/" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
    run(*choose, "--out", "o/")
    kinds = [pq.read_schema(tmp_path / "o" / f"{i}.parquet").field("reward").type for i in range(2)]
    assert kinds == [pa.int64(), pa.float64()]


def test_feather(run, tmp_path):
    table = pa.table({"prompt": [f"q{i // 2}" for i in range(12)], "helpfulness": [i % 5 for i in range(12)]})
    pyarrow.feather.write_feather(table, "h.feather")
    arguments = ("--prompt-column", "prompt", "--loss-column", "helpfulness")
    assert run("pilot", "h.feather", *arguments)["n_responses"] == 12


def test_two_runs_in_one_file_are_one_pool(run, tmp_path):
    first = [
        {"prompt": f"q{i}", "all_generated_responses": list("abc"), "all_rm_scores": [i / 10, 0.2, 0.3]}
        for i in range(4)
    ]
    second = [
        {**row, "all_generated_responses": list("def"), "all_rm_scores": [0.5, 0.1, 0.0]} for row in first
    ]
    lines(tmp_path / "r.jsonl", [*first, *second])
    report = run(
        *("select", "r.jsonl", "--strategy", "bkon", "-k", 2, "--prompt-column", "prompt"),
        *("--reward-column", "all_rm_scores", "--out", "o.jsonl"),
    )
    assert (report["prompts"], report["candidates"], report["kept"]) == (4, 24, 8)
    kept = {}
    for row in rows_of(tmp_path / "o.jsonl"):
        kept.setdefault(row["prompt"], []).extend(row["all_generated_responses"])
    assert kept == {"q0": ["c", "d"], "q1": ["c", "d"], "q2": ["c", "d"], "q3": ["a", "d"]}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_embeddings_of_1_x_d(run, tmp_path, ending):
    rows = [{"prompt_id": i // 4, "reward": float(i), "embedding": [[i / 10, 1.0]]} for i in range(8)]
    write(tmp_path / f"e{ending}", rows)
    report = run("select", f"e{ending}", "--strategy", "dkon", "-k", 1, "--out", f"o{ending}")
    assert (report["prompts"], report["candidates"], report["kept"]) == (2, 8, 2)
    assert len(rows_of(tmp_path / f"o{ending}")) == 2


def test_long_ids_are_short_in_messages(run, tmp_path):
    rows = [
        {"input": "q " + "x" * 8000, "reward": 1.0},
        *({"input": "r", "reward": float(i)} for i in range(3)),
    ]
    lines(tmp_path / "l.jsonl", rows)
    message = run(
        "select",
        "l.jsonl",
        "--strategy",
        "bkon",
        "-k",
        2,
        "--prompt-column",
        "input",
        "--out",
        "o.jsonl",
        code=2,
    )
    assert len(message) < 350
    assert "line 1" in message
    assert "x" * 61 not in message


def test_numbers_as_text(run, tmp_path):
    rows = [
        {"instruction": f"q{i}", "generations": list("abc"), "ratings": ["5", "3", " 1 "]} for i in range(4)
    ]
    for ending in (".jsonl", ".parquet", ".csv"):
        write(tmp_path / f"t{ending}", rows)
        choose = ("select", f"t{ending}", "--strategy", "bkon", "-k", 1, "--prompt-column", "instruction")
        choose = (*choose, "--reward-column", "ratings", "--out", f"o{ending}")
        pilot = ("pilot", f"t{ending}", "--prompt-column", "instruction", "--loss-column", "ratings")
        assert run(*choose)["reward_kept"] == 5.0
        assert run(*pilot)["mean_loss"] == 3.0
        assert [row["generations"] for row in rows_of(tmp_path / f"o{ending}")] == [["a"]] * 4
        spoilt = [*rows[:2], {**rows[2], "ratings": ["5", "N/A", "1"]}, rows[3]]
        write(tmp_path / f"t{ending}", spoilt)
        place = {".jsonl": "line 3", ".parquet": "row 3", ".csv": "line 4"}[ending]
        for command in (choose, pilot):
            assert f"{place}, column 'ratings': 'N/A' is not a finite number" in run(*command, code=2)


def test_named_columns_must_be_there(run, tmp_path):
    rows = [
        {"prompt": f"q{i}", "all_generated_responses": list("abc"), "all_rm_scores": [0.1, 0.2, 0.3]}
        for i in range(4)
    ]
    lines(tmp_path / "l.jsonl", rows)
    base = ("select", "l.jsonl", "-k", 1, "--out", "o.jsonl", "--strategy")
    for arguments, name, near in (
        (
            ("bkon", "--prompt-column", "promt", "--reward-column", "all_rm_scores"),
            "promt",
            "--prompt-column prompt",
        ),
        (
            ("rkon", "--prompt-column", "prompt", "--reward-column", "all_rm_score"),
            "all_rm_score",
            "all_rm_scores?",
        ),
        (
            ("rkon", "--prompt-column", "prompt", "--embedding-column", "vectors"),
            "vectors",
            "--embedding-column",
        ),
        (("rkon", "--prompt-column", "prompt", "--loss-column", "nll"), "nll", "--loss-column"),
        (("rkon", "--prompt-column", "prompt", "--pool-columns", "generated"), "generated", "--pool-columns"),
    ):
        message = run(*base, *arguments, code=2)
        assert f"no column '{name}'" in message
        assert near in message
        assert "all_generated_responses" in message
    message = run(*base, "bkon", "--reward-column", "all_rm_scores", code=2)
    assert "no column 'prompt_id'" in message


def test_na_is_missing_in_csv_and_namibia_elsewhere(run, tmp_path):
    rows = [
        {"prompt_id": i // 3, "loss": float(i * i % 7), "group": ["NA", "g1", "g2", "g3"][i // 6]}
        for i in range(24)
    ]
    for ending in (".csv", ".jsonl", ".parquet"):
        write(tmp_path / f"g{ending}", rows)
    arguments = ("pilot", "g.csv", "--group-column", "group")
    message = run(*arguments, code=2)
    assert "line 2, column 'group'" in message
    assert "6 rows" in message
    assert "--missing-ids drop" in message
    found = run(*arguments, "--missing-ids", "drop")
    assert (found["n_prompts"], found["n_responses"], found["n_groups"]) == (6, 18, 3)
    assert "6 rows without an id were left out" in found["warnings"]
    for ending in (".jsonl", ".parquet"):
        assert run("pilot", f"g{ending}", "--group-column", "group")["n_groups"] == 4


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_missing_ids_are_dropped_from_selections_too(run, tmp_path, ending):
    rows = [{"prompt_id": p, "reward": float(r)} for p in ("a", None, "b") for r in range(3)]
    write(tmp_path / f"m{ending}", rows)
    choose = ("select", f"m{ending}", "--strategy", "bkon", "-k", 1, "--out", f"o{ending}")
    assert "3 rows have no prompt id" in run(*choose, code=2)
    report = run(*choose, "--missing-ids", "drop")
    assert (report["prompts"], report["candidates"], report["kept"]) == (2, 6, 2)
    assert report["notes"] == ["3 rows without an id were left out"]
    assert [row["prompt_id"] for row in rows_of(tmp_path / f"o{ending}")] == ["a", "b"]


def test_float_ids(run, tmp_path):
    rows = [{"prompt_id": float(i // 4), "reward": float(i), "loss": float(i % 3)} for i in range(12)]
    write(tmp_path / "f.parquet", rows)
    assert run("pilot", "f.parquet")["n_prompts"] == 3
    report = run("select", "f.parquet", "--strategy", "bkon", "-k", 1, "--out", "o.parquet")
    assert (report["prompts"], report["kept"]) == (3, 3)


def test_huge_embeddings(run, tmp_path):
    """Squares that float32 does not hold; cosines and picks are those of the same embeddings at length one."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=(8, 3))
    answers = []
    for scale in (1.0, 1e30, 1e-30):
        rows = [
            {"prompt_id": "ab"[i // 4], "reward": float(i), "embedding": (scale * e).tolist()}
            for i, e in enumerate(small)
        ]
        write(tmp_path / "h.parquet", rows)
        for strategy in ("bkon", "dkon", "filtered-max-min"):
            report = run("select", "h.parquet", "--strategy", strategy, "-k", 2, "--out", "o.parquet")
            kept = [row["reward"] for row in rows_of(tmp_path / "o.parquet")]
            answers.append((strategy, kept, report["similarity_pool"], report["similarity_kept"]))
    for a, b in zip(answers, answers[3:], strict=False):
        assert a[:2] == b[:2]
        assert a[2:] == pytest.approx(b[2:], rel=1e-5)


def test_rewards_whose_squares_overflow(run, tmp_path):
    """The report has their variance: as in `pilot` they are refused, unless nothing depends on them."""
    rows = [{"prompt_id": "ab"[i // 2], "reward": 1e308 if i == 2 else 1.0, "loss": 1.0} for i in range(4)]
    lines(tmp_path / "h.jsonl", rows)
    told = run("select", "h.jsonl", "--strategy", "bkon", "-k", 1, "--out", "o.jsonl", code=2)
    assert "line 3, column 'reward': a reward of 1e+308 is too large to square" in told
    report = run("select", "h.jsonl", "--strategy", "rkon", "-k", 1, "--out", "o.jsonl")
    assert report["kept"] == 2
    assert report["reward_pool"] is None


def test_ndjson(run, tmp_path):
    lines(tmp_path / "p.ndjson", pilot_rows())
    assert run("pilot", "p.ndjson")["n_responses"] == 12
    run("select", "p.ndjson", "--strategy", "bkon", "-k", 1, "--out", "o.ndjson")
    assert [json.loads(line)["reward"] for line in (tmp_path / "o.ndjson").read_text().splitlines()] == [
        3,
        3,
        4,
        4,
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("nothing", [None, []], ids=["null", "empty"])
def test_a_pool_that_is_missing_is_a_short_pool(run, tmp_path, ending, nothing):
    rows = [{"instruction": f"q{i}", "generations": ["a", "b"], "ratings": [1, 2]} for i in range(4)]
    rows[1]["ratings"] = nothing
    write(tmp_path / f"n{ending}", rows)
    choose = ("select", f"n{ending}", "--strategy", "bkon", "-k", 1, "--prompt-column", "instruction")
    choose = (*choose, "--reward-column", "ratings", "--out", f"o{ending}")
    assert "an empty pool" in run(*choose, code=2)
    report = run(*choose, "--short-pools", "drop")
    assert (report["prompts"], report["short_pools"], report["kept"]) == (4, 1, 3)
    assert [row["instruction"] for row in rows_of(tmp_path / f"o{ending}")] == ["q0", "q2", "q3"]
    report = run(*choose, "--short-pools", "keep")
    assert report["short_pools"] == 1
    assert [row["instruction"] for row in rows_of(tmp_path / f"o{ending}")] == ["q0", "q1", "q2", "q3"]


def test_filters_of_lm_eval_are_not_responses(run, tmp_path):
    rows = [
        {
            "doc_id": i,
            "resps": [["a", "b"]],
            "filtered_resps": ["18"],
            "filter": f,
            "exact_match": float((i + len(f)) % 2),
        }
        for f in ("strict-match", "flexible-extract")
        for i in range(6)
    ]
    lines(tmp_path / "samples_gsm8k.jsonl", rows)
    arguments = ("samples_gsm8k.jsonl", "--prompt-column", "doc_id")
    for command in (
        ("pilot", *arguments, "--loss-column", "exact_match"),
        (
            "select",
            *arguments,
            "--reward-column",
            "exact_match",
            "--strategy",
            "bkon",
            "-k",
            1,
            "--out",
            "o.jsonl",
        ),
    ):
        message = run(*command, code=2)
        assert "strict-match, flexible-extract" in message
        assert "--log lm-eval --filter strict-match" in message


def test_json_in_a_file_of_another_name_and_rows_inside_one_object_are_told(run, tmp_path):
    rows = [{"prompt_id": i // 2, "loss": i * i % 7, "reward": i} for i in range(8)]
    (tmp_path / "a.csv").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.csv").write_text(json.dumps(rows))
    (tmp_path / "c.json").write_text(json.dumps({"version": 1, "data": rows}))
    (tmp_path / "d.json").write_text(json.dumps({"my rows": rows}))
    select = ("--strategy", "bkon", "-k", "1", "--out", "out.csv")
    for file, told in {
        "a.csv": "this looks like JSON, not CSV; say --format jsonl",
        "b.csv": "this looks like JSON, not CSV; say --format json",
        "c.json": "its field 'data' holds the rows: jq -c '.data[]' c.json > rows.jsonl",
        "d.json": "its field 'my rows' holds the rows: jq -c '.\"my rows\"[]' d.json > rows.jsonl",
    }.items():
        for arguments in (("pilot", file), ("select", file, *select)):
            message = run(*arguments, code=2)
            assert message.endswith(told + "\n"), message
    assert run("pilot", "a.csv", "--format", "jsonl")["n_prompts"] == 4
    assert run("pilot", "b.csv", "--format", "json")["n_prompts"] == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n "prompt_id": 1,\n "loss": 2\n}\n', "jq -c . a.jsonl > lines.jsonl"),
        ('{"prompt_id": 1, "losses": [\n1, 2]}\n', "jq -c . a.jsonl > lines.jsonl"),
        (
            '{"prompt_id": 1, "loss": 2},\n{"prompt_id": 1, "loss": 3}\n',
            "sed 's/},$/}/' a.jsonl > lines.jsonl",
        ),
        ("{'prompt_id': 1, 'loss': 2}\n", "write json.dumps(row)"),
        ('{"prompt_id": 1, "loss": }\n', "(Expecting value at character 26)"),
    ],
)
def test_lines_that_are_not_json_are_told_what_makes_them_json(run, tmp_path, text, told):
    (tmp_path / "a.jsonl").write_text(text)
    message = run("pilot", "a.jsonl", code=2)
    assert "a.jsonl, line 1: not a JSON object on one line" in message
    assert message.endswith(told + "\n")


def test_semicolons_and_capitals(run, tmp_path):
    (tmp_path / "s.csv").write_text("prompt_id;reward\na;1,5\na;2,5\n")
    (tmp_path / "c.csv").write_text("Prompt_ID,Reward\na,1\na,2\n")
    for command in (("pilot",), ("select", "--strategy", "bkon", "-k", 1, "--out", "o.csv")):
        assert "';' instead: separate the columns by commas" in run(command[0], "s.csv", *command[1:], code=2)
        assert "did you mean --prompt-column Prompt_ID?" in run(command[0], "c.csv", *command[1:], code=2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is an HTML page"),
        (b"\n <html lang=en>", "is an HTML page"),
        (b"PK\x03\x04" + bytes(30), "unzip"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"\xfd7zXZ\0\0", "unxz"),
        ("prompt_id,loss\n".encode("utf-16"), "iconv -f utf-16 -t utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet", "x"])
def test_what_is_no_table_gets_the_command_that_helps(run, tmp_path, content, told, name):
    (tmp_path / name).write_bytes(content)
    assert told in run("pilot", name, code=2)
    assert told in run("select", name, "--strategy", "bkon", "-k", 1, "--out", "o.jsonl", code=2)


@pytest.mark.parametrize(
    ("name", "told"),
    [("x.xlsx", "save the sheet as CSV"), ("x.zip", "unzip x.zip")],
)
def test_archives_get_the_advice_of_their_kind(run, tmp_path, name, told):
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(100))
    assert told in run("pilot", name, code=2)


def test_names_that_are_no_files(run, tmp_path):
    write(tmp_path / "q.jsonl", pilot_rows())
    assert "variable of the shell" in run("pilot", "", code=2)  # not the folder that one happens to be in
    assert "is an address, not a file" in run("pilot", "https://example.org/q.jsonl", code=2)
    with pytest.raises(InputError, match=r"named twice"):
        read_pilot(["q.jsonl"] * 2)
    (tmp_path / "wide.csv").write_text("x" * 5000 + ",y\n1,2\n")
    assert len(run("pilot", "wide.csv", code=2)) < 250


def test_cut_short_or_wrongly_named_compression(run, tmp_path):
    (tmp_path / "more.csv.gz").write_bytes(gzip.compress(b"prompt_id,loss\na,1\n") + b"more")
    assert "does not end well" in run("pilot", "more.csv.gz", code=2)
    whole = gzip.compress(("".join(json.dumps(r) + "\n" for r in pilot_rows()) * 500).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut short or damaged" in run("pilot", "cut.jsonl.gz", code=2)
    lines(tmp_path / "plain.jsonl.gz", pilot_rows())
    assert "is not compressed, though its name says so" in run("pilot", "plain.jsonl.gz", code=2)


def test_ids_are_text_in_their_shortest_exact_form(run, tmp_path):
    digits = "12345678901234567890123"
    text = "".join(
        f'{{"prompt_id": {p}, "loss": {i}}}\n'
        for i, p in enumerate(
            [digits, f'"{digits}"', digits[:-1] + "4", "1", '"1"', "1.0", '"1.0"', "true", '"true"', "0.1"]
        )
    )
    (tmp_path / "i.jsonl").write_text(
        text + '{"prompt_id": 0.10, "loss": 1}\n{"prompt_id": ' + digits[:-1] + '4, "loss": 3}\n'
    )
    found = run("pilot", "i.jsonl")
    assert found["n_prompts"] == 6
    assert any("several kinds" in warning for warning in found["warnings"])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_ids_that_went_through_floats_are_noted(run, tmp_path, ending):
    """As pandas leaves a column of long whole numbers with a gap in it."""
    rows = [
        {"prompt_id": float(2**60 + p), "loss": float(p + r)}
        for p in (0, 1, 10**6, 2 * 10**6)
        for r in (0, 3)
    ]
    write(tmp_path / f"q{ending}", rows)
    found = run("pilot", f"q{ending}")
    assert found["n_prompts"] == 3
    assert "beyond 2^53" in found["warnings"][0]


def test_dates_with_and_without_a_time_differ(run, tmp_path):
    table = pa.table({"prompt_id": pa.array([0, 0, 1, 1], pa.date32()), "loss": [1.0, 2.0, 4.0, 3.0]})
    pq.write_table(table, tmp_path / "1.parquet")
    moments = table.set_column(0, "prompt_id", table["prompt_id"].cast(pa.timestamp("us")))
    pq.write_table(moments, tmp_path / "2.parquet")
    assert run("pilot", "1.parquet", "2.parquet")["n_prompts"] == 4
    assert run("pilot", "2.parquet")["n_prompts"] == 2


def test_json_text_in_a_cell(run, tmp_path):
    rows = [
        {"prompt_id": p, "loss": json.dumps([1.0, 2.5, 4.0]), "responses": json.dumps(["é", "b", "c"])}
        for p in "ab"
    ]
    for ending in (".csv", ".jsonl", ".parquet"):
        write(tmp_path / f"j{ending}", rows)
        assert run("pilot", f"j{ending}")["n_responses"] == 6
        report = run(
            *(
                "select",
                f"j{ending}",
                "--strategy",
                "bkon",
                "-k",
                1,
                "--reward-column",
                "loss",
                "--out",
                f"o{ending}",
            )
        )
        assert sorted(report[CUT]) == ["loss", "responses"]
        kept = rows_of(tmp_path / f"o{ending}")
        assert [r["responses"] if ending == ".csv" else json.loads(r["responses"]) for r in kept] == [
            ["c"],
            ["c"],
        ]


def test_lists_of_python_text_are_not_left_behind(run, tmp_path):
    """A data frame's text of a list beside rewards that are cut: refused, or the row would mix two pools."""
    (tmp_path / "p.csv").write_text(
        "prompt_id,reward,responses\na,\"[1, 2]\",\"['x', 'y']\"\nb,\"[3, 4]\",\"['x', 'y']\"\n"
    )
    arguments = ("select", "p.csv", "--strategy", "bkon", "-k", 1, "--out", "o.csv")
    message = run(*arguments, code=2)
    assert "column 'responses'" in message
    assert "JSON" in message
    assert run(*arguments, "--pool-columns", "reward")[CUT] == ["reward"]


def test_standard_input(tmp_path):
    rows = "".join(json.dumps(r) + "\n" for r in pilot_rows())
    command = [sys.executable, "-c", "import sys; from mrtsim.cli import main; sys.exit(main())"]
    for extra in ([], ["--format", "jsonl"]):
        done = subprocess.run(
            [*command, "pilot", "-", "--json", *extra],
            input=rows,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["n_responses"] == 12
    done = subprocess.run(
        [*command, "pilot", "-"], input="prompt_id,loss\na,1\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "standard input has no ending, which names no format; say --format" in done.stderr
    out = tmp_path / "kept.jsonl"
    select = ["select", "-", "--strategy", "bkon", "-k", "1", "--out", str(out)]
    done = subprocess.run([*command, *select], input=rows, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 4


def test_a_named_pipe_is_read_once(run, tmp_path):
    os.mkfifo(tmp_path / "p.jsonl")
    text = "".join(json.dumps(r) + "\n" for r in pilot_rows())

    def write_slowly():
        time.sleep(0.2)
        with (tmp_path / "p.jsonl").open("w") as pipe:
            pipe.write(text[:100])
            pipe.flush()
            time.sleep(0.2)
            pipe.write(text[100:])

    for command in (("pilot",), ("select", "--strategy", "bkon", "-k", 1, "--out", "o.jsonl")):
        writer = threading.Thread(target=write_slowly)
        writer.start()
        found = run(command[0], "p.jsonl", *command[1:])
        writer.join()
        assert found.get("n_responses", found.get("candidates")) == 12


def test_pipes_and_devices_that_give_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("mrtsim.tables.sources.PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "nobody.jsonl")
    assert "a pipe that nobody writes to" in run("pilot", "nobody.jsonl", code=2)
    assert "is a device" in run("pilot", "/dev/zero", code=2)
    assert "is a device" in run("pilot", "/dev/null", code=2)


def test_a_file_that_changes_while_it_is_read_is_refused(run, tmp_path, monkeypatch):
    """A run that is still writing, or a file that shrinks: the rows read so far are not the file."""
    path = lines(tmp_path / "g.jsonl", pilot_rows() * 2)
    whole = path.read_text()
    from mrtsim.tables.jsonl_format import JsonlFormat

    read = JsonlFormat._blocks

    for changed in (whole[: len(whole) // 2], whole + whole):

        def change(self, changed=changed):
            yield from read(self)
            path.write_text(changed)

        monkeypatch.setattr(JsonlFormat, "_blocks", change)
        path.write_text(whole)
        assert "changed while it was read" in run("pilot", "g.jsonl", code=2)
        path.write_text(whole)
        message = run("select", "g.jsonl", "--strategy", "bkon", "-k", 1, "--out", "o.jsonl", code=2)
        assert "changed while it was read" in message
        assert sorted(p.name for p in tmp_path.iterdir()) == ["g.jsonl"]


def test_messages_name_no_library(run, tmp_path):
    rng = np.random.default_rng(0)
    for ending in (".parquet", ".arrow", ".json", ".jsonl", ".csv"):
        data = write(tmp_path / f"b{ending}", pilot_rows() * 20).read_bytes()
        for _ in range(30):
            spoilt = bytearray(data)
            for at in rng.integers(0, len(data), 5):
                spoilt[at] = rng.integers(256)
            (tmp_path / f"b{ending}").write_bytes(spoilt)
            try:
                message = run("pilot", f"b{ending}", code=2)
            except AssertionError:
                continue  # still readable
            assert not re.search(r"pyarrow|numpy|msgspec|Traceback|ArrowInvalid", message, re.IGNORECASE), (
                message
            )


def test_one_column_per_response_gets_a_hint(run, tmp_path):
    (tmp_path / "wide.csv").write_text("prompt_id,sample_1,sample_2,sample_3\na,1,2,3\nb,2,3,5\n")
    message = run("pilot", "wide.csv", code=2)
    assert "sample_1, sample_2, sample_3 look like one column per response" in message
    assert "value_name='loss'" in message
    (tmp_path / "other.csv").write_text("prompt_id,score,layer_1\na,1,2\n")
    assert "one column per response" not in run("pilot", "other.csv", code=2)
    (tmp_path / "near.csv").write_text("prompt_id,loss_1,loss_2\na,1,2\nb,2,3\n")
    message = run("pilot", "near.csv", code=2)
    assert "loss_1, loss_2 look like one column per response" in message
    assert "did you mean" not in message


def test_a_name_with_a_space_is_hinted_as_the_shell_reads_it(run, tmp_path):
    (tmp_path / "space.csv").write_text("prompt_id, loss\na,1\na,2\nb,3\nb,5\n")
    assert "did you mean --loss-column ' loss'?" in run("pilot", "space.csv", code=2)
    assert run("pilot", "space.csv", "--loss-column", " loss")["n_prompts"] == 2


def test_columns_in_the_names_of_folders_are_not_missed_in_silence(run, tmp_path):
    """Partitioned data sets keep a column in the folder's name alone."""
    for model in "AB":
        (tmp_path / "data" / f"model={model}").mkdir(parents=True)
        write(tmp_path / "data" / f"model={model}" / "part-0.parquet", pilot_rows())
    assert "name those that are meant: 'data/**/*.parquet'" in run("pilot", "data", code=2)
    message = run("pilot", "data/**/*.parquet", "--group-column", "model", code=2)
    assert "it stands in a folder's name, model=..., which is not read: write it into the files" in message
