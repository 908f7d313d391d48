"""JSON objects in which a field stands twice are refused where it is used; ids keep every digit."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest

from mrtsim import InputError, read_pilot
from mrtsim.selection.select_file import select_file
from mrtsim.tables import chunks
from mrtsim.tables.cut import cut_record
from mrtsim.tables.jsonl_format import JsonlFormat
from mrtsim.tables.values import Wrong

LINES, ARRAY, LAX, ZIPPED = "lines", "array", "lax", "zipped"
KINDS = (LINES, ARRAY, LAX, ZIPPED)


def write(folder, kind, rows):
    """Rows as JSON lines, in an array, as lines with a NaN that no strict decoder takes, or compressed."""
    if kind == ARRAY:
        path = folder / "a.json"
        path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    elif kind == ZIPPED:
        path = folder / "a.jsonl.gz"
        path.write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode()))
    else:
        path = folder / "a.jsonl"
        lax = rows[0][:-1] + ', "unused": NaN}'
        path.write_text("".join(f"{row}\n" for row in ([lax, *rows[1:]] if kind == LAX else rows)))
    return path


def flat(n=150):
    return [f'{{"prompt_id": "p{i // 2}", "loss": {i}, "text": "the \\"loss\\" of loss"}}' for i in range(n)]


def in_objects(n=150):
    return [f'{{"prompt_id": {i // 2}, "scores": {{"loss": {i}, "of": "loss"}}}}' for i in range(n)]


def in_lists(n=150):
    return [
        f'{{"prompt_id": {i}, "answers": [{{"loss": {i}, "loss2": 1}}, {{"loss": {i + 1}}}]}}'
        for i in range(n)
    ]


def slashes(n=150):
    return [f'{{"prompt_id": "p{i // 2}", "pass/1": {i}, "é": {i}, "text": "a\\nb"}}' for i in range(n)]


def chats(n=150):
    return [f'{{"prompt_id": [{{"role": "user", "content": "q{i // 2}"}}], "loss": {i}}}' for i in range(n)]


TWICE = {
    "a number": (flat, '{"prompt_id": "p1", "loss": 1, "loss": 2}', "loss", "'loss' stands twice"),
    "an id": (flat, '{"prompt_id": "p1", "prompt_id": "p2", "loss": 2}', "loss", "'prompt_id' stands twice"),
    "a null": (flat, '{"prompt_id": "p1", "loss": 1, "loss": null}', "loss", "'loss' stands twice"),
    "by its number": (flat, '{"prompt_id": "p1", "loss": 1, "l\\u006fss": 2}', "loss", "'loss' stands twice"),
    "with another slash": (
        slashes,
        '{"prompt_id": "p1", "pass/1": 1, "pass\\/1": 2}',
        "pass/1",
        "'pass/1' stands twice",
    ),
    "by the number of an accent": (
        slashes,
        '{"prompt_id": "p1", "é": 1, "\\u00e9": 2}',
        "é",
        "'é' stands twice",
    ),
    "in an object": (
        in_objects,
        '{"prompt_id": 1, "scores": {"loss": 1, "loss": 2}}',
        "scores.loss",
        "'loss' stands twice",
    ),
    "an object": (
        in_objects,
        '{"prompt_id": 1, "scores": {"loss": 1}, "scores": {"loss": 2}}',
        "scores.loss",
        "'scores' stands twice",
    ),
    "in a list": (
        in_lists,
        '{"prompt_id": 1, "answers": [{"loss": 1}, {"loss": 1, "loss": 2}]}',
        "answers.loss",
        "'loss' stands twice",
    ),
    "in a list by place": (
        in_lists,
        '{"prompt_id": 1, "answers": [{"loss": 1, "loss": 2}, {"loss": 2}]}',
        "answers.0.loss",
        "'loss' stands twice",
    ),
    "in a chat": (
        chats,
        '{"prompt_id": [{"role": "user", "content": "a", "content": "b"}], "loss": 1}',
        "loss",
        "'content' stands twice",
    ),
    "in a chat after texts": (
        flat,
        '{"prompt_id": [{"role": "user", "content": "a", "content": "b"}], "loss": 1}',
        "loss",
        "'content' stands twice",
    ),
    "deep in a chat": (
        chats,
        '{"prompt_id": [{"role": "user", "content": "a", "more": [{"x": 1, "x": 2}]}], "loss": 1}',
        "loss",
        "'x' stands twice",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", TWICE)
@pytest.mark.parametrize("after", [True, False])
def test_a_field_that_is_used_and_stands_twice_is_refused(tmp_path, kind, case, after):
    rows, row, column, message = TWICE[case]
    # A record without the field must not hide it from a count.
    rows = [*rows(), row, '{"prompt_id": null}'] if after else [*rows(120), row, *rows(60)]
    with pytest.raises(
        InputError, match=f"line {rows.index(row) + (2 if kind == ARRAY else 1)}: .*{message}"
    ):
        read_pilot(write(tmp_path, kind, rows), loss_column=column)


@pytest.mark.parametrize("small", [False, True])
def test_chats_beside_other_chats_are_not_in_doubt(tmp_path, monkeypatch, small):
    """What the lines are read for a second time is seen by `decode`."""
    rows = [
        f'{{"prompt_id": [{{"role": "user", "content": "q{i // 2} role"}}], "loss": {i}, "messages": '
        f'[{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b"}}]}}'
        for i in range(150)
    ]
    path, decoded, decode = write(tmp_path, LINES, rows), [], JsonlFormat.decode

    def counted(self, line, number, **options):
        decoded.append(number)
        return decode(self, line, number, **options)

    monkeypatch.setattr(JsonlFormat, "decode", counted)
    if small:
        monkeypatch.setattr(chunks, "BYTES", 1000)
    np.testing.assert_array_equal(read_pilot(path).losses, np.arange(150))
    assert decoded
    assert max(decoded) <= 100  # for the names of the columns


def test_lines_that_hold_two_objects_or_none_are_not_taken_for_one_each(tmp_path):
    rows = [f'{{"prompt_id": {i // 2}, "reward": {i}}}' for i in range(120)]
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join([*rows, " ".join(rows[:2]), "", *rows]) + "\n")
    with pytest.raises(InputError, match="line 121: not a JSON object on one line"):
        select_file(path, out, "bkon", 1)
    assert not out.exists()


def test_an_id_that_is_no_utf_8_is_a_message_in_any_line(tmp_path):
    rows = [row.encode() for row in flat()]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*rows, b'{"prompt_id": "p\xe9", "loss": 1}', b""]))
    with pytest.raises(InputError, match="line 151: not UTF-8 text"):
        read_pilot(path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_used_may_stand_twice_and_names_may_stand_in_text(tmp_path, kind):
    rows = [*flat(), '{"prompt_id": "p1", "loss": 7, "a": 1, "a": 2, "b": {"loss": 1, "loss": 2}}']
    found = read_pilot(write(tmp_path, kind, rows))
    np.testing.assert_array_equal(found.losses, [*range(150), 7])
    assert found.data.ids["prompt"].count == 75


def test_json_text_in_a_cell_is_an_object_like_any_other(tmp_path):
    path = tmp_path / "a.csv"
    rows = ['a,"{""s"": 1}"', 'a,"{""s"": 2, ""s"": 3}"', 'b,"{""s"": 1}"', 'b,"{""s"": 4}"']
    path.write_text("prompt_id,loss\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"line 3, column 'loss\.s'"):
        read_pilot(path, loss_column="loss.s")


def test_a_pool_that_stands_twice_is_not_cut(tmp_path):
    with pytest.raises(Wrong, match="'pool' stands twice") as caught:
        cut_record('{"pool": [1, 2], "x": 1, "pool": [3, 4]}', [["pool"]], np.array([True, False]), 5)
    assert caught.value.index == 5
    rows = [f'{{"prompt_id": {i}, "reward": [1, 2], "text": ["a", "b"]}}' for i in range(120)]
    twice = '{"prompt_id": 200, "reward": [1, 2], "text": ["a", "b"], "text": ["c", "d"]}'
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=r"line 121.*'text' stands twice"):
        select_file(write(tmp_path, LINES, [*rows, twice]), out, "bkon", 1)
    assert not out.exists()


DIGITS = [
    "0.1234567890123456789",
    "0.1234567890123456788",
    "123456789.12345678901",
    "123456789.12345678902",
    "9007199254740992",
    "9007199254740993",
    "18446744073709551616",
    "18446744073709551617",
    "12345678901234567890123",
    "12345678901234567890124",
    "12345678901234567890123.5",
    "12345678901234567890123.25",
    "1e400",
    "1e401",
    "1e-400",
    "1e-401",
    "1e999999999999999999999",
    "1e999999999999999999998",
    "-1e400",
    "0.5",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_ids_that_differ_in_any_digit_are_two(tmp_path, kind, nested):
    ids = [digits for digits in DIGITS for _ in range(2)]
    column = '"id": {{"n": {0}}}' if nested else '"id": {0}'
    rows = [f'{{{column.format(n)}, "loss": {i}}}' for i, n in enumerate(ids)]
    found = read_pilot(write(tmp_path, kind, rows), prompt_column="id.n" if nested else "id")
    np.testing.assert_array_equal(found.prompts, np.repeat(np.arange(len(DIGITS)), 2))
    names = found.data.ids["prompt"].names
    assert names[0] == DIGITS[0]
    assert names[12] == "1" + "0" * 400
    assert names[-1] == "0.5"


@pytest.mark.parametrize("kind", KINDS)
def test_decimals_alone_keep_their_digits(tmp_path, kind):
    """Numbers that any decoder takes."""
    rows = [f'{{"id": {n}, "loss": {i}}}' for i, n in enumerate(np.repeat(DIGITS[:4], 2))]
    assert read_pilot(write(tmp_path, kind, rows), prompt_column="id").data.ids["prompt"].names == DIGITS[:4]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_number_written_otherwise_is_one_id(tmp_path, kind):
    rows = [
        f'{{"id": {n}, "loss": {i}}}' for i, n in enumerate(["0.5", "0.50", "5e-1", "2.5", "2.500", "25E-1"])
    ]
    found = read_pilot(write(tmp_path, kind, rows), prompt_column="id")
    assert found.data.ids["prompt"].names == ["0.5", "2.5"]


def test_json_text_keeps_the_digits_of_ids_too(tmp_path):
    path = tmp_path / "a.csv"
    cells = [json.dumps(f'{{"n": {n}}}').replace('\\"', '""') for n in DIGITS[:2] for _ in range(2)]
    path.write_text("id,loss\n" + "".join(f"{cell},{i}\n" for i, cell in enumerate(cells)))
    assert read_pilot(path, prompt_column="id.n").data.ids["prompt"].names == DIGITS[:2]


@pytest.mark.parametrize("in_list", [False, True])
def test_fields_of_one_name_in_an_arrow_struct_are_refused(tmp_path, in_list):
    scores = pa.StructArray.from_arrays(
        [pa.array([1.0, 2, 3, 5]), pa.array([9.0, 9, 9, 1])], names=["v", "v"]
    )
    if in_list:
        scores = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), scores)
    table = pa.table({"prompt_id": ["a", "a", "b", "b"], "loss": [1.0, 2, 3, 5], "scores": scores})
    assert read_pilot(table).losses.tolist() == [1, 2, 3, 5]
    with pytest.raises(InputError, match=r"^the Table, column 'scores': field 'v' stands twice"):
        read_pilot(table, loss_column="scores.v")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    with pytest.raises(InputError, match=r"a\.arrow, column 'scores': field 'v' stands twice"):
        read_pilot(tmp_path / "a.arrow", loss_column="scores.v")
