"""Pilot files: every format and layout gives the same numbers; every fault gives its one message."""

import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrtsim.errors import InputError
from mrtsim.success_counts import read_success_counts
from mrtsim.tables.pilots import POSITION, read_pilot
from mrtsim.tables.read import read_columns
from tests.tables.writers import CONTAINERS, write

ROWS = [
    {"prompt_id": "007", "loss": 0.5, "group": "g", "note": "a"},
    {"prompt_id": "7", "loss": 1.25, "group": "g", "note": 'b, "c"\nd'},
    {"prompt_id": "x", "loss": -3e-05, "group": "h", "note": "é"},
    {"prompt_id": "007", "loss": 2.0, "group": "g", "note": ""},
]


def nested(rows):
    lists = {}
    for row in rows:
        lists.setdefault(row["prompt_id"], {**row, "loss": []})["loss"].append(row["loss"])
    return list(lists.values())


@pytest.mark.parametrize("ending", [*CONTAINERS, ".CSV"])
def test_one_row_per_response(tmp_path, ending):
    pilot = read_pilot(write(tmp_path / f"pilot{ending}", ROWS), group_column="group")
    np.testing.assert_array_equal(pilot.losses, [0.5, 1.25, -3e-05, 2.0])
    np.testing.assert_array_equal(pilot.prompts, [0, 1, 2, 0])
    np.testing.assert_array_equal(pilot.groups, [0, 0, 1, 0])
    assert pilot.data.layout == "rows"
    assert pilot.data.ids["prompt"].names == ["007", "7", "x"]
    assert read_pilot(tmp_path / f"pilot{ending}").groups is None


@pytest.mark.parametrize("ending", CONTAINERS)
def test_one_row_per_prompt(tmp_path, ending):
    pilot = read_pilot(write(tmp_path / f"pilot{ending}", nested(ROWS)), group_column="group")
    np.testing.assert_array_equal(pilot.losses, [0.5, 2.0, 1.25, -3e-05])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 1, 2])
    np.testing.assert_array_equal(pilot.groups, [0, 0, 0, 1])
    assert pilot.data.layout == "prompts"


@pytest.mark.parametrize("ending", CONTAINERS)
@pytest.mark.parametrize("layout", ["rows", "prompts"])
def test_numbers_vectors_and_ids_that_are_asked_for(tmp_path, ending, layout):
    """What designs and comparisons need: several numbers, a judge per response, a vector per response."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "q": p,
            "a": float(rng.normal()),
            "b": int(rng.integers(9)),
            "judge": f"j{r}",
            "sketch": [float(v) for v in rng.normal(size=3)],
        }
        for p in range(4)
        for r in range(3)
    ]
    given = rows
    if layout == "prompts":
        given = [
            {"q": p, **{n: [r[n] for r in rows if r["q"] == p] for n in ("a", "b", "judge", "sketch")}}
            for p in range(4)
        ]
    data = read_columns(
        write(tmp_path / f"in{ending}", given),
        ids={"prompt": "q", "judge": "judge"},
        numbers={"first": "a", "second": "b"},
        vectors={"vector": "sketch"},
    )
    assert data.layout == layout
    assert data.ids["prompt"].names == ["0", "1", "2", "3"]
    assert [data.ids["judge"].names[c] for c in data.ids["judge"].codes] == [r["judge"] for r in rows]
    np.testing.assert_array_equal(data.numbers["first"], [r["a"] for r in rows])
    np.testing.assert_array_equal(data.numbers["second"], [r["b"] for r in rows])
    np.testing.assert_array_equal(data.vectors["vector"], [r["sketch"] for r in rows])


@pytest.mark.parametrize("ending", CONTAINERS)
@pytest.mark.parametrize("layout", ["rows", "prompts"])
def test_ids_that_may_be_common_to_all_prompts(tmp_path, ending, layout):
    """Candidate columns are read where they are there and whole, and are no reason to refuse a file."""
    rows = [
        {
            "prompt_id": p,
            "loss": float(p * r),
            "judge": f"j{r}",
            "seed": None if p + r == 0 else r,
            "run": "one",
        }
        for p in range(3)
        for r in range(2)
    ]
    given = rows
    if layout == "prompts":
        names = ("loss", "judge", "seed")
        given = [
            {"prompt_id": p, "run": "one", **{n: [r[n] for r in rows if r["prompt_id"] == p] for n in names}}
            for p in range(3)
        ]
    path = write(tmp_path / f"in{ending}", given)
    pilot = read_pilot(path)
    found = pilot.maybe_common
    assert set(found) - {POSITION} == {"judge", "run"}
    assert found["judge"].tolist() == [0, 1, 0, 1, 0, 1]
    assert (POSITION in found) == (layout == "prompts")
    assert pilot.judges is None
    assert pilot.notes == []
    said = read_pilot(path, judge_column="judge")
    assert said.judges is not None
    assert said.judges.tolist() == [0, 1, 0, 1, 0, 1]
    assert said.maybe_common == {}


@pytest.mark.parametrize("column", ["model", "generator", "step"])
def test_responses_of_several_models_are_told(tmp_path, column):
    rows = [
        {"prompt_id": p, "loss": float(r % 2), column: f"m{m}"}
        for p in range(3)
        for m in range(2)
        for r in range(p + 2)
    ]
    path = write(tmp_path / "in.jsonl", rows)
    for found in (read_pilot(path), read_success_counts(path, reward_column="loss")):
        assert sum(f"differ in '{column}', which has 2 values" in note for note in found.notes) == 1
    assert read_pilot(path, judge_column=column).notes == []
    # a model per prompt is no mixture
    for row in rows:
        row[column] = f"m{row['prompt_id'] % 2}"
    assert read_pilot(write(tmp_path / "each.jsonl", rows)).notes == []


def test_several_rows_of_one_response_are_told(tmp_path):
    rows = [
        {"prompt_id": f"p{p}", "response_id": f"r{r}", "rater": j, "loss": float(p + r * j)}
        for p in range(3)
        for r in range(2)
        for j in range(3)
    ]
    path = write(tmp_path / "in.jsonl", rows)
    (note,) = read_pilot(path).notes
    assert note.startswith("prompt 'p0' has several rows of response 'r0' (column 'response_id')")
    assert read_pilot(path, judge_column="rater").notes == []
    one = [row for row in rows if row["rater"] == 0]
    assert read_pilot(write(tmp_path / "one.jsonl", one)).notes == []


def test_a_vector_per_response_in_place_of_the_loss(tmp_path):
    rows = [{"prompt_id": p, "g": [p + r, 1.5, -r]} for p in range(3) for r in range(2)]
    pilot = read_pilot(write(tmp_path / "in.jsonl", rows), vector_column="g")
    np.testing.assert_array_equal(pilot.losses, [row["g"] for row in rows])
    with pytest.raises(InputError, match="vectors or losses"):
        read_pilot(tmp_path / "in.jsonl", vector_column="g", loss_column="nll")


def test_column_names(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("Prompt,NLL\r\na, 1\r\na,+2.5 \r\n\r\nb,3e0\r\n")
    pilot = read_pilot(path, prompt_column="Prompt", loss_column="NLL")
    np.testing.assert_array_equal(pilot.losses, [1, 2.5, 3])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 1])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json"])
def test_byte_order_mark(tmp_path, ending):
    path = write(tmp_path / f"pilot{ending}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    np.testing.assert_array_equal(read_pilot(path).losses, [0.5, 1.25, -3e-05, 2.0])


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_names_are_not_patterns_where_such_a_file_exists(tmp_path, ending):
    write(tmp_path / f"pilot1{ending}", ROWS[:1])
    path = write(tmp_path / f"pilot[1]*?{ending}", ROWS)
    assert read_pilot(path).losses.size == 4


def test_long_fields(tmp_path):
    """The csv module's limit of 131,072 characters per field is not ours."""
    path = tmp_path / "a.csv"
    path.write_text(f"prompt_id,text,loss\na,{'x' * 200_000},1\nb,y,oops\n")
    with pytest.raises(InputError, match="line 3, column 'loss': 'oops' is not a finite number"):
        read_pilot(path)


def test_parquet_kinds(tmp_path):
    """Numbers as ids, fixed-size lists, categories, and losses that were stored as text."""
    table = pa.table(
        {
            "id": pa.array([2**60 + 1, 2**60 + 2]),
            "loss": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            "group": pa.array(["a", "b"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pilot = read_pilot(tmp_path / "a.parquet", prompt_column="id", group_column="group")
    np.testing.assert_array_equal(pilot.losses, [1, 2, 3, 4])
    np.testing.assert_array_equal(pilot.prompts, [0, 0, 1, 1])
    assert pilot.data.ids["prompt"].names == [str(2**60 + 1), str(2**60 + 2)]
    pq.write_table(pa.table({"prompt_id": ["a", "a"], "loss": ["1", " 2.5"]}), tmp_path / "b.parquet")
    np.testing.assert_array_equal(read_pilot(tmp_path / "b.parquet").losses, [1, 2.5])


HEAD = "prompt_id,loss\n"
JSON = '{"prompt_id": "a", "loss": 1}\n'
LIST = '{"prompt_id": "a", "loss": [1, 2]}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "\n", "a.csv, line 1: blank; expected a header"),
        ("a.csv", HEAD, "a.csv: has columns but no rows"),
        (
            "a.csv",
            "id,loss\n1,2\n",
            "no column 'prompt_id' (there are: id, loss); name it with --prompt-column",
        ),
        (
            "a.csv",
            "prompt_id,LOSS\n1,2\n",
            "no column 'loss' (there are: prompt_id, LOSS); did you mean --loss-column LOSS?",
        ),
        ("a.csv", "prompt_id;loss\n1;2\n", "separate the columns by commas"),
        ("a.csv", "prompt_id\tloss\n1\t2\n", "say --format tsv"),
        ("a.csv", "prompt_id|loss\n1|2\n", "separate the columns by commas"),
        ("a.tsv", HEAD + "a,1\n", "say --format csv"),
        ("a.csv", "prompt_id,loss,loss\n1,2,3\n", "column 'loss' appears 2 times; rename all but one"),
        ("a.csv", HEAD + "a,1\nb,abc\n", "a.csv, line 3, column 'loss': 'abc' is not a finite number"),
        ("a.csv", HEAD + '"a\nb",1\n"a\nb",\n', "a.csv, line 4, column 'loss': no loss"),
        ("a.csv", HEAD + "a,1\na\n", "a.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", HEAD + "a,NaN\n", "a.csv, line 2, column 'loss': 'NaN' is not a finite number"),
        ("a.csv", HEAD + "a,-inf\n", "'-inf' is not a finite number"),
        ("a.csv", HEAD + "a,1e999\n", "'1e999' is not a finite number"),
        ("a.csv", HEAD + "a,1_000\n", "'1_000' is not a finite number"),
        ("a.csv", HEAD + "a,٣\n", "'٣' is not a finite number"),
        ("a.csv", HEAD + 'a,"1,5"\n', "'1,5' is not a number; write the decimals after a point"),
        ("a.csv", HEAD + ",1\n", "a.csv, line 2, column 'prompt_id': no value: 1 row has no prompt id"),
        (
            "a.csv",
            HEAD + "a,1\nNA,1\n\nnan,2\n",
            "line 3, column 'prompt_id': no value: 2 rows have no prompt id",
        ),
        ("a.csv", HEAD + "a,1,2\n", "a.csv, line 2: 3 fields where the header has 2"),
        ("a.csv", HEAD + 'a,1\n"b,2\n', "a.csv, line 3: not CSV (a quoted field is never closed)"),
        ("a.csv", HEAD + 'a,1\n"b"c,2\n', "a.csv, line 3: not CSV (text after a closing quote"),
        ("a.csv", HEAD + 'a,1\n"b \\"c\\" d",2\n', "a.csv, line 3: not CSV (text after a closing quote"),
        ("a.csv", HEAD + "a\\,b,1\n", "a.csv, line 2: 3 fields where the header has 2"),
        ("a.csv", HEAD + "a,1\rb,2\r", "a.csv, line 2: not CSV (a line end without its line feed"),
        ("a.csv", HEAD.encode() + b"\xe9,1\n", "a.csv, line 2: not UTF-8 text"),
        ("a.csv", (HEAD + "a,1\n").encode("utf-16"), "a.csv, line 1: not UTF-8 text but UTF-16: iconv"),
        ("a.jsonl", "\n\n", "a.jsonl: is empty; expected one JSON object per line"),
        ("a.jsonl", JSON + '{"prompt_id": "a", "lo', "a.jsonl, line 2: not a JSON object on one line"),
        ("a.jsonl", "{\n", "a.jsonl, line 1: not a JSON object on one line"),
        ("a.jsonl", JSON + "\n[1, 2]\n", "a.jsonl, line 3: expected a JSON object, found [1, 2]"),
        ("a.jsonl", JSON + '{"prompt_id": "a"}\n', "a.jsonl, line 2, column 'loss': no loss"),
        (
            "a.jsonl",
            '{"a": 1}\n' + JSON,
            "a.jsonl, line 1, column 'prompt_id': no value: 1 row has no prompt id",
        ),
        ("a.jsonl", '{"a": 1}\n', "no column 'prompt_id' (there are: a)"),
        (
            "a.jsonl",
            JSON + '{"prompt_id": null, "loss": 1}\n',
            "a.jsonl, line 2, column 'prompt_id': no value",
        ),
        (
            "a.jsonl",
            JSON + '{"prompt_id": NaN, "loss": 1}\n',
            "a.jsonl, line 2, column 'prompt_id': no value",
        ),
        (
            "a.jsonl",
            JSON + "\n" + JSON.replace("1", '"x"'),
            "a.jsonl, line 3, column 'loss': 'x' is not a finite",
        ),
        ("a.jsonl", JSON + JSON.replace("1", "NaN"), "line 2, column 'loss': nan is not a finite number"),
        ("a.jsonl", JSON + JSON.replace("1", "1e999"), "line 2, column 'loss': inf is not a finite number"),
        ("a.jsonl", JSON + LIST, "line 2, column 'loss': a list, [1, 2], where one loss is expected"),
        ("a.jsonl", LIST + JSON, "line 2, column 'loss': 1 where other rows have a list"),
        ("a.jsonl", LIST + LIST.replace("2", "null"), "line 2, column 'loss': no loss"),
        ("a.jsonl", LIST + LIST.replace("2", '"x"'), "line 2, column 'loss': 'x' is not a finite number"),
        ("a.jsonl", LIST + LIST.replace("2", "[2]"), "line 2, column 'loss': a list, [2], where one loss"),
        ("a.jsonl", LIST + LIST.replace("1, 2", ""), "line 2, column 'loss': no list, or an empty one"),
        ("a.jsonl", LIST + LIST.replace("[1, 2]", "null"), "line 2, column 'loss': no list, or an empty one"),
        ("a.jsonl", LIST.replace('"a"', '["a", "b"]'), "column 'prompt_id': ['a', 'b'] is not an id"),
        (
            "a.jsonl",
            JSON.replace("1", '{"x": "a", "nll": 2}'),
            "column 'loss': an object with fields x, nll: name one, --loss-column loss.nll",
        ),
        ("a.jsonl", '{"prompt_id": 1, "loss": 1, "loss": 2}', "column 'loss' appears 2 times"),
        ("a.jsonl", JSON.encode() + b'{"prompt_id": "\xff", "loss": 1}', "a.jsonl, line 2: not UTF-8 text"),
        ("a.json", "[]", "a.json: is empty; expected an array of objects"),
        ("a.json", f"[{JSON},\n 3]", "a.json, line 3: expected a JSON object, found 3"),
        ("a.json", f"[{JSON}", "a.json, line 2: the array is not closed"),
        ("a.json", f"[{JSON}{JSON}]", "a comma is missing between two objects"),
        ("a.json", f"[{JSON},]", "a comma without an object after it"),
        ("a.json", f"[{JSON}] x", "text after the end of the array: 'x'"),
        ("a.json", '[\n{"prompt_id": oops}]' + " " * 100, "a.json, line 2: not JSON (Expecting value)"),
        ("a.json", '"text"', "a.json: expected an array of objects, found '\"text\"'"),
        ("a.parquet", HEAD + "a,1\n", "a.parquet: not a Parquet file"),
        ("a.parquet", "PAR1 PAR1", "a.parquet: not a Parquet file"),
        ("a.arrow", "ARROW1\0\0 and then nothing", "a.arrow: not an Arrow file, or a damaged one"),
        ("a.txt", HEAD, "has the ending '.txt', which names no format; say --format csv, tsv, jsonl"),
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
        (
            {"prompt_id": ["a", "b"], "loss": [1.0, np.nan]},
            "row 2, column 'loss': nan is not a finite number",
        ),
        ({"prompt_id": ["a", None], "loss": [1.0, 2.0]}, "row 2, column 'prompt_id': no value"),
        ({"prompt_id": [1.0, np.nan], "loss": [1.0, 2.0]}, "row 2, column 'prompt_id': no value"),
        (
            {"prompt_id": ["a", "b"], "loss": [[[1.0]], [[2.0]]]},
            "row 1, column 'loss': a list, [1.0], where one loss",
        ),
        ({"prompt_id": [["a"], ["b"]], "loss": [1.0, 2.0]}, "column 'prompt_id': ['a'] is not an id"),
        (
            {"prompt_id": [b"a", b"b"], "loss": [1.0, 2.0]},
            "column 'prompt_id': holds binary; expected one id per row",
        ),
        ({"prompt_id": ["a", "b"], "loss": [[1.0], None]}, "row 2, column 'loss': no list"),
        ({"prompt_id": ["a", "b"], "loss": ["1", "x"]}, "row 2, column 'loss': 'x' is not a finite number"),
        ({"prompt_id": ["a", "b"], "loss": [None, None]}, "row 1, column 'loss': no loss"),
        ({"prompt_id": [], "loss": []}, "has columns but no rows"),
        ({"prompt_id": ["a"], "loses": [1.0]}, "did you mean --loss-column loses?"),
    ],
)
@pytest.mark.parametrize("frame", [False, True], ids=["file", "table"])
def test_malformed_parquet(tmp_path, columns, message, frame):
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=re.escape(message)):
        read_pilot(table if frame else tmp_path / "a.parquet")


def test_damaged_parquet(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.parquet: a damaged Parquet file \("):
        read_pilot(path)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_groups(tmp_path, ending):
    stray = [*ROWS, {"prompt_id": "7", "loss": 1.0, "group": "B", "note": ""}]
    path = write(tmp_path / f"a{ending}", stray)
    line = {".csv": "line 7", ".jsonl": "line 5", ".parquet": "row 5"}[ending]
    with pytest.raises(
        InputError,
        match=f"{line}, column 'group': prompt '7' is in group 'B' here but in 'g'.*join them: 'B:7'",
    ):
        read_pilot(path, group_column="group")
    path = write(tmp_path / f"b{ending}", [*ROWS, {**ROWS[0], "group": None}])
    with pytest.raises(InputError, match=f"{line}, column 'group': no value"):
        read_pilot(path, group_column="group")
    with pytest.raises(InputError, match=r"no column 'topic' .* --group-column"):
        read_pilot(path, group_column="topic")


def test_what_is_not_a_file(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cannot read .*nowhere.csv: No such file"):
        read_pilot(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder.csv is a folder without a file that ends in .csv"):
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


def test_every_prompt_with_one_response(tmp_path):
    with pytest.raises(
        InputError, match=r"every prompt has one response.*list of losses nested.*unique per row"
    ):
        read_pilot(write(tmp_path / "a.jsonl", ROWS[:3]))


def test_dropped_rows_leave_no_gaps(tmp_path):
    rows = [
        {"prompt_id": p, "loss": 1.0, "group": g}
        for p, g in [("a", None), ("b", "x"), ("b", "x"), (None, "x")]
    ]
    for ending in (".csv", ".jsonl", ".parquet"):
        pilot = read_pilot(write(tmp_path / f"a{ending}", rows), group_column="group", missing_ids="drop")
        np.testing.assert_array_equal(pilot.prompts, [0, 0])
        assert pilot.data.ids["prompt"].names == ["b"]
        assert pilot.notes == ["2 rows without an id were left out"]
