"""JSON lines in one block, by msgspec and `json`, and in many, by pyarrow: the same values or the same message."""

import pytest

from mrtsim import InputError, read_pilot
from mrtsim.tables import chunks, lines_format
from mrtsim.tables.arrow_records import ArrowRecords
from mrtsim.tables.formats import open_tables

TEXTS = [r'"a"', r'"p0"', '"é"', r'"\u0070\u0030"', r'"\ud800"', r'"\ud83d\ude00"', r'"a\u0000b"', '"a\tb"']
NUMBERS = [
    *(
        "1",
        "-0",
        "0.1",
        "1e3",
        "1E5",
        "1e400",
        "1e-400",
        "123456789012345678901234567890",
        "9007199254740993",
    ),
    *("0.1000000000000000055511151231257827", "01", "1.", ".5", "+1", "0x10"),
    *("NaN", "Infinity", "-Infinity"),
]
OTHERS = [
    '""',
    '"1.5"',
    '"x"',
    '" 2"',
    '"1_0"',
    "true",
    "null",
    "None",
    "[1]",
    '{"loss": 1}',
    '"}{"',
    '{"x": 1, "x": 2}',
]
VALUES = [*TEXTS, *NUMBERS, *OTHERS]
LINES = [
    *(f'{{"id": {value}, "loss": 1.5}}' for value in VALUES),
    *(f'{{"id": "p0", "loss": {value}}}' for value in VALUES),
    *(f'{{"id": 3, "loss": {value}}}' for value in VALUES),
    *(f'{{"id": "p0", "loss": 1.5, "unused": {value}}}' for value in VALUES),
    *(f'{{"id": "p0", "loss": 1.5, {name}: 1}}' for name in TEXTS),
    # fields that stand twice
    '{"id": "p0", "loss": 1, "loss": 2}',
    '{"id": "p0", "loss": 1, "loss": null}',
    '{"id": "p0", "loss": null, "loss": 1}',
    r'{"id": "p0", "loss": 1, "l\u006fss": 1}',
    '{"id": "p0", "id": "p1", "loss": 1}',
    '{"id": 1, "id": 1, "loss": 1}',
    '{"id": "p0", "loss": 1, "unused": 1, "unused": 2}',
    '{"id": "p0", "loss": 1, "unused": {"id": "q", "loss": 2}}',
    # not one object per line, though there may be as many objects as lines
    '{"id": "p0", "loss": 1}{"id": "p0", "loss": 2}',
    '{"id": "p0", "loss": 1} {"id": "p0", "loss": 2}',
    '{"id": "p0", "loss": 1}{"id": "p0", "loss": 2}\n',
    '{"id": "p0", "loss": 1} {"id": "p0", "loss": 2}\n',
    '{"id": "p0", "loss": 1}\n{"id": "p0", "loss": 2} {"id": "p0", "loss": 2}\n',
    '{"id": "p0",\n"loss": 1}',
    '{"id": "p0",\n"loss": 1}{"id": "p0", "loss": 2}',
    '{"id": "p0", "unused":\n{"a": 1}, "loss": 1}{"id": "p0", "loss": 2}',
    '{"id": "p0", "loss": 1}\n\n',
    ' {"id": "p0", "loss": 1} ',
    '{"id": "p0", "loss": 1}\r',
    # no object, or half of one
    '{"id": "p0", "loss": 1, }',
    '{"id": "p0", "loss": 1} x',
    '{"id": "p0", "loss": 1, // a comment\n "x": 1}',
    '{"id": "p0"}',
    '{"loss": 1}',
    *("{}", "[]", "", " ", "null", '{"id": "p0", "loss": 1'),
    '{"id": "p0", "loss": 1, "unused": ' + "[" * 900 + "]" * 900 + "}",
    b'{"id": "p\xff", "loss": 1}',
    b'{"id": "p0", "loss": "\xff"}',
]
PLAIN = {
    "text": '{{"id": "p{0}", "loss": {1}}}',
    "whole numbers": '{{"id": {0}, "loss": {2}}}',
    "text as numbers": '{{"id": "{0}", "loss": "{1}", "unused": [{{"id": "}}{{"}}]}}',
}


def answer(path):
    try:
        found = read_pilot(path, prompt_column="id", missing_ids="drop", layout="rows")
    except InputError as error:
        return str(error)
    return found.losses.tolist(), found.prompts.tolist(), found.data.ids["prompt"].names, found.notes


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("size", [1, 150])
def test_an_odd_line_is_read_alike_in_one_block_and_in_many(tmp_path, monkeypatch, kind, size):
    plain = [PLAIN[kind].format(i // 2, i + 0.5, i).encode() for i in range(12)]
    monkeypatch.setattr(lines_format, "FIRST_RECORDS", 1)  # what is looked at beforehand
    whole, path = chunks.BYTES, tmp_path / "a.jsonl"
    for index, line in enumerate(LINES):
        line = line.encode() if isinstance(line, str) else line
        path.write_bytes(b"\n".join([*plain[:7], line, *plain[7:]]) + b"\n" * (index % 2))
        monkeypatch.setattr(chunks, "BYTES", whole)
        one = answer(path)
        monkeypatch.setattr(chunks, "BYTES", size)
        assert answer(path) == one, line


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_depth_is_a_message_or_no_matter(tmp_path, monkeypatch, size):
    monkeypatch.setattr(chunks, "BYTES", size)
    path, deep = tmp_path / "a.jsonl", 200_000
    rows = [PLAIN["text"].format(i // 2, i, i) for i in range(120)]
    path.write_text("\n".join([*rows, f'{{"id": "p0", "loss": 3, "unused": {"[" * deep}{"]" * deep}}}', ""]))
    if size == 1:  # by pyarrow
        assert read_pilot(path, prompt_column="id").losses[-1] == 3
    else:
        with pytest.raises(InputError, match="line 121: nested too deep"):
            read_pilot(path, prompt_column="id")


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_blocks_are_read_by_pyarrow(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(PLAIN[kind].format(i // 2, i + 0.5, i) + "\n" for i in range(40)))
    monkeypatch.setattr(chunks, "BYTES", 300)
    (table,) = open_tables(path)
    kinds = [isinstance(records, ArrowRecords) for records in table.records(["id", "loss"])]
    assert len(kinds) > 2
    assert kinds == [False] + [True] * (len(kinds) - 1)
    assert not any(isinstance(r, ArrowRecords) for r in table.records(["id", "loss"], copies=True))
