"""Pilot files: every format and layout gives the same numbers; every fault gives its one message."""

import json
import os
import re

import numpy as np
import polars as pl
import pytest

from mrtsim.errors import InputError
from mrtsim.tables.pilots import read_pilot

ROWS = [
    {"prompt_id": "007", "loss": 0.5, "group": "g", "note": "a"},
    {"prompt_id": "7", "loss": 1.25, "group": "g", "note": 'b, "c"\nd'},
    {"prompt_id": "x", "loss": -3e-05, "group": "h", "note": "é"},
    {"prompt_id": "007", "loss": 2.0, "group": "g", "note": ""},
]


def write(path, rows=ROWS):
    if path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    elif path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def nested(rows):
    lists = {}
    for row in rows:
        lists.setdefault(row["prompt_id"], {**row, "loss": []})["loss"].append(row["loss"])
    return list(lists.values())


@pytest.mark.parametrize("ending", [".csv", ".CSV", ".jsonl", ".ndjson", ".parquet"])
def test_one_row_a_response(tmp_path, ending):
    path = write(tmp_path / "pilot.csv") if ending == ".CSV" else write(tmp_path / f"pilot{ending}")
    pilot = read_pilot(path.rename(tmp_path / f"pilot{ending}"), group_column="group")
    np.testing.assert_array_equal(pilot.losses, [0.5, 1.25, -3e-05, 2.0])
    np.testing.assert_array_equal(pilot.prompts, [0, 1, 2, 0])
    np.testing.assert_array_equal(pilot.groups, [0, 0, 2, 0])
    assert read_pilot(path.with_name(f"pilot{ending}")).groups is None


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_one_row_a_prompt(tmp_path, ending):
    pilot = read_pilot(write(tmp_path / f"pilot{ending}", nested(ROWS)), group_column="group")
    np.testing.assert_array_equal(pilot.losses, [0.5, 2.0, 1.25, -3e-05])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 2, 3])
    np.testing.assert_array_equal(pilot.groups, [0, 0, 0, 3])


def test_column_names(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("Prompt,NLL\r\na, 1\r\na,+2.5 \r\n\r\nb,3e0\r\n")
    pilot = read_pilot(path, prompt_column="Prompt", loss_column="NLL")
    np.testing.assert_array_equal(pilot.losses, [1, 2.5, 3])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 2])


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_byte_order_mark(tmp_path, ending):
    path = write(tmp_path / f"pilot{ending}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    np.testing.assert_array_equal(read_pilot(path).losses, [0.5, 1.25, -3e-05, 2.0])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_names_are_not_patterns(tmp_path, ending):
    write(tmp_path / f"pilot1{ending}", ROWS[:1])
    path = write(tmp_path / f"pilot[1]*?{ending}")
    assert read_pilot(path).losses.size == 4


def test_long_fields(tmp_path):
    """The csv module's limit of 131,072 characters a field is not ours."""
    path = tmp_path / "a.csv"
    path.write_text(f"prompt_id,text,loss\na,{'x' * 200_000},1\nb,y,oops\n")
    with pytest.raises(InputError, match="line 3, column 'loss': 'oops' is not a finite number"):
        read_pilot(path)


def test_parquet_kinds(tmp_path):
    """Numbers as ids, fixed-size lists, categories, and losses that were stored as text."""
    frame = pl.DataFrame(
        {
            "id": pl.Series([2**60 + 1, 2**60 + 2], dtype=pl.Int64),
            "loss": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
            "group": pl.Series(["a", "b"], dtype=pl.Categorical),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    pilot = read_pilot(tmp_path / "a.parquet", prompt_column="id", group_column="group")
    np.testing.assert_array_equal(pilot.losses, [1, 2, 3, 4])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 2, 2])
    pl.DataFrame({"prompt_id": ["a", "b"], "loss": ["1", " 2.5"]}).write_parquet(tmp_path / "b.parquet")
    np.testing.assert_array_equal(read_pilot(tmp_path / "b.parquet").losses, [1, 2.5])


HEAD = "prompt_id,loss\n"
JSON = '{"prompt_id": "a", "loss": 1}\n'
LIST = '{"prompt_id": "a", "loss": [1, 2]}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "\n", "a.csv, line 1: blank; expected a header"),
        ("a.csv", HEAD, "a.csv has columns but no rows"),
        (
            "a.csv",
            "id,loss\n1,2\n",
            "no column 'prompt_id' (there are: id, loss); name it with --prompt-column",
        ),
        (
            "a.csv",
            "prompt_id,Loss\n1,2\n",
            "no column 'loss' (there are: prompt_id, Loss); did you mean --loss-column Loss?",
        ),
        ("a.csv", "prompt_id;loss\n1;2\n", "separate the columns by commas"),
        ("a.csv", "prompt_id,loss,loss\n1,2,3\n", "column 'loss' appears 2 times; rename all but one"),
        ("a.csv", HEAD + "a,1\nb,abc\n", "a.csv, line 3, column 'loss': 'abc' is not a finite number"),
        ("a.csv", HEAD + '"a\nb",1\n"a\nb",\n', "a.csv, line 4, column 'loss': no loss"),
        ("a.csv", HEAD + "a,1\na\n", "a.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", HEAD + "a,NaN\n", "a.csv, line 2, column 'loss': 'NaN' is not a loss that has a variance"),
        ("a.csv", HEAD + "a,-inf\n", "'-inf' is not a loss that has a variance"),
        ("a.csv", HEAD + "a,1e999\n", "'1e999' is not a finite number"),
        ("a.csv", HEAD + 'a,"1,5"\n', "'1,5' is not a number; write the decimals after a point"),
        ("a.csv", HEAD + ",1\n", "a.csv, line 2, column 'prompt_id': no value"),
        ("a.csv", HEAD + "a,1,2\n", "a.csv, line 2: 3 fields where the header has 2"),
        ("a.csv", HEAD + 'a,1\n"b,2\n', "a.csv, line 3: not CSV"),
        ("a.csv", HEAD + 'a",1\nb,2\n', "is there a quote inside a field that is not quoted?"),
        ("a.csv", HEAD.encode() + b"\xe9,1\n", "a.csv, line 2: not UTF-8 text"),
        ("a.csv", (HEAD + "a,1\n").encode("utf-16"), "a.csv, line 1: not UTF-8 text"),
        ("a.jsonl", "\n\n", "a.jsonl is empty; expected a JSON object a line"),
        ("a.jsonl", JSON + '{"prompt_id": "a", "lo', "a.jsonl, line 2: not a JSON object on one line"),
        ("a.jsonl", "{\n", "a.jsonl, line 1: not a JSON object on one line"),
        ("a.jsonl", JSON + "\n[1, 2]\n", "a.jsonl, line 3: expected a JSON object, found [1, 2]"),
        ("a.jsonl", '[{"prompt_id": "a"}]', "a.jsonl, line 1: expected a JSON object"),
        ("a.jsonl", JSON + '{"prompt_id": "a"}\n', "a.jsonl, line 2, column 'loss': no loss"),
        ("a.jsonl", '{"a": 1}\n' + JSON, "no column 'prompt_id' (there are: a)"),
        (
            "a.jsonl",
            JSON + '{"prompt_id": null, "loss": 1}\n',
            "a.jsonl, line 2, column 'prompt_id': no value",
        ),
        (
            "a.jsonl",
            JSON + "\n" + JSON.replace("1", '"x"'),
            "a.jsonl, line 3, column 'loss': 'x' is not a finite",
        ),
        ("a.jsonl", JSON + JSON.replace("1", "true"), "line 2, column 'loss': 'true' is not a finite number"),
        (
            "a.jsonl",
            JSON + JSON.replace("1", "NaN"),
            "line 2, column 'loss': nan is not a loss that has a variance",
        ),
        (
            "a.jsonl",
            JSON + JSON.replace("1", "1e999"),
            "line 2, column 'loss': inf is not a loss that has a variance",
        ),
        ("a.jsonl", JSON + LIST, "line 2, column 'loss': '[1, 2]' is not a finite number"),
        ("a.jsonl", LIST + JSON, "line 2, column 'loss': 1 where the first row has a list of losses"),
        ("a.jsonl", LIST + LIST.replace("2", "null"), "line 2, column 'loss': no loss"),
        ("a.jsonl", LIST + LIST.replace("2", '"x"'), "line 2, column 'loss': 'x' is not a finite number"),
        ("a.jsonl", LIST + LIST.replace("2", "[2]"), "line 2, column 'loss': '[2]' is not a finite number"),
        ("a.jsonl", LIST + LIST.replace("1, 2", ""), "line 2, column 'loss': an empty list"),
        ("a.jsonl", LIST.replace('"a"', '["a", "b"]'), "column 'prompt_id': holds List(String)"),
        ("a.jsonl", '{"prompt_id": 1, "loss": 1, "loss": 2}', "column 'loss' appears 2 times"),
        ("a.jsonl", JSON.encode() + b'{"prompt_id": "\xff", "loss": 1}', "a.jsonl, line 2: not UTF-8 text"),
        ("a.parquet", HEAD + "a,1\n", "a.parquet: not a Parquet file"),
        ("a.parquet", "PAR1 PAR1", "a.parquet: not a Parquet file"),
        (
            "a.txt",
            HEAD,
            "has the ending '.txt', which names no format; rename it to end in .csv, .jsonl, .ndjson",
        ),
        ("pilot", HEAD, "has no ending"),
    ],
)
def test_malformed_text(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_pilot(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt_id": ["a", "b"], "loss": [1.0, None]}, "row 2, column 'loss': no loss"),
        ({"prompt_id": ["a", "b"], "loss": [1.0, np.nan]}, "row 2, column 'loss': nan is not a loss"),
        ({"prompt_id": ["a", None], "loss": [1.0, 2.0]}, "row 2, column 'prompt_id': no value"),
        ({"prompt_id": [1.0, np.nan], "loss": [1.0, 2.0]}, "row 2, column 'prompt_id': no value"),
        ({"prompt_id": ["a", "b"], "loss": [True, False]}, "column 'loss': holds Boolean"),
        ({"prompt_id": ["a", "b"], "loss": [[[1.0]], [[2.0]]]}, "column 'loss': holds List(List(Float64))"),
        ({"prompt_id": [["a"], ["b"]], "loss": [1.0, 2.0]}, "column 'prompt_id': holds List(String)"),
        ({"prompt_id": ["a", "b"], "loss": [[1.0], None]}, "row 2, column 'loss': no loss"),
        ({"prompt_id": ["a", "b"], "loss": ["1", "x"]}, "row 2, column 'loss': 'x' is not a finite number"),
        ({"prompt_id": ["a", "b"], "loss": [None, None]}, "row 1, column 'loss': no loss"),
        ({"prompt_id": [], "loss": []}, "has columns but no rows"),
        ({"prompt_id": ["a"], "loses": [1.0]}, "did you mean --loss-column loses?"),
    ],
)
def test_malformed_parquet(tmp_path, columns, message):
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=re.escape(message)):
        read_pilot(tmp_path / "a.parquet")


def test_damaged_parquet(tmp_path):
    path = write(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.parquet: a damaged Parquet file \("):
        read_pilot(path)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_groups(tmp_path, ending):
    stray = [*ROWS, {"prompt_id": "7", "loss": 1.0, "group": "h", "note": ""}]
    path = write(tmp_path / f"a{ending}", stray)
    line = {".csv": "line 7", ".jsonl": "line 5", ".parquet": "row 5"}[ending]
    with pytest.raises(
        InputError, match=f"{line}, column 'group': prompt '7' is in group 'h' here but in 'g'"
    ):
        read_pilot(path, group_column="group")
    path = write(tmp_path / f"b{ending}", [*ROWS, {**ROWS[0], "group": None}])
    line = {".csv": "line 7", ".jsonl": "line 5", ".parquet": "row 5"}[ending]
    with pytest.raises(InputError, match=f"{line}, column 'group': no value"):
        read_pilot(path, group_column="group")
    with pytest.raises(InputError, match=r"no column 'topic' .* --group-column"):
        read_pilot(path, group_column="topic")


def test_what_is_not_a_file(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cannot read .*nowhere.csv: No such file"):
        read_pilot(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*folder.csv: Is a directory"):
        read_pilot(tmp_path / "folder.csv")
    locked = tmp_path / "locked.csv"
    locked.write_text(HEAD)
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root reads everything

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(locked), "open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*locked.csv: Permission denied"):
        read_pilot(locked)
