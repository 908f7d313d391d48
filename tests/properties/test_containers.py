"""Any table, in any container: the same pilot, the same selection, and kept records as they stood in the input."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrtsim.selection.select_file import Columns, select_file
from mrtsim.tables import chunks, csv_format
from mrtsim.tables.formats import open_tables
from mrtsim.tables.pilots import read_pilot
from mrtsim.tables.values import MISSING_TEXT
from tests.tables.writers import CONTAINERS, TYPED, table_of, unpacked, write

# Parquet and Arrow refuse lone surrogates, and text files a NUL or a line end without its line feed.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)
ids = texts.filter(lambda text: text not in MISSING_TEXT)
numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
extras = {
    "note": texts,
    "words": st.lists(texts, max_size=3),
    "meta": st.fixed_dictionaries({"a": texts, "b": st.lists(numbers, max_size=2)}),
    "chat": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}), max_size=3
    ),
    "flag": st.booleans(),
}


@st.composite
def tables(draw, layout):
    """Prompts with two to four responses each, possibly scattered, beside columns that are nobody's business."""
    names = draw(st.lists(ids, min_size=2, max_size=4, unique=True))
    rows = []
    for name in names:
        size = draw(st.integers(2, 4))
        pool = {
            "loss": draw(st.lists(numbers, min_size=size, max_size=size)),
            "reward": draw(st.lists(numbers, min_size=size, max_size=size)),
        }
        if layout == "prompts":
            rows.append({"id": name, **pool, "texts": draw(st.lists(texts, min_size=size, max_size=size))})
        else:
            rows += [{"id": name, "loss": a, "reward": b} for a, b in zip(*pool.values(), strict=True)]
    if layout == "rows":
        rows = draw(st.permutations(rows))
    for row in rows:
        row.update({column: draw(values) for column, values in extras.items()})
    return rows


def records_of(path):
    """The texts of a text file's records."""
    text = unpacked(path).decode()
    if ".json" in path.suffixes and ".jsonl" not in path.suffixes:
        return {json.dumps(row, ensure_ascii=False, indent=1) for row in json.loads(text)}
    (table,) = open_tables(path)
    pieces = set()
    for records in table.records([], copies=True):
        for i in range(len(records)):
            piece = records.kept(np.arange(len(records)) == i)
            pieces.add(piece if isinstance(piece, str) else piece.decode())
    return pieces


def check(rows, folder, layout):
    answers = []
    columns = Columns(prompt="id", reward="reward", loss="loss")
    for number, container in enumerate(CONTAINERS):
        path, out = write(folder / f"in{number}{container}", rows), folder / f"out{number}{container}"
        found = read_pilot(path, prompt_column="id", layout=layout)
        kept = {}
        for strategy in ("bkon", "rkon"):
            report = select_file(
                path,
                out,
                strategy,
                1,
                columns=columns,
                layout=layout,
                pool_columns=["texts"] * (layout == "prompts"),
            )
            kept[strategy] = [report.reward_kept, report.loss_kept]
            if layout == "rows":
                if container in TYPED:
                    same_rows(path, out, container)
                else:
                    assert records_of(out) <= records_of(path)
        names = found.data.ids["prompt"].names
        answers.append(((found.losses.tolist(), [names[p] for p in found.prompts]), kept))
    for data, kept in answers[1:]:
        assert data == answers[0][0]
        for strategy, means in kept.items():  # the pieces of a container are summed in their own order
            assert means == pytest.approx(answers[0][1][strategy], rel=1e-12, abs=1e-8)


def same_rows(path, out, container):
    if container != ".parquet":
        return  # as Parquet; test_cases has their schema
    before, after = pq.read_table(path), pq.read_table(out)
    assert after.schema.equals(before.schema, check_metadata=True)
    rows = before.to_pylist()
    assert all(row in rows for row in after.to_pylist())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(rows=tables("rows"))
def test_every_container_gives_the_same_rows(rows, tmp_path_factory):
    check(rows, tmp_path_factory.mktemp("rows"), "rows")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(rows=tables("prompts"))
def test_every_container_gives_the_same_lists(rows, tmp_path_factory):
    check(rows, tmp_path_factory.mktemp("prompts"), "prompts")


cells = st.one_of(
    st.sampled_from(
        [
            "a",
            "NA",
            "",
            "1",
            " 1",
            "+2",
            "1e3",
            "true",
            "nan",
            "1_0",
            "é",
            'x"y',
            '"q"',
            '"a ""b"""',
            '"l\nm"',
            "٣",
        ]
    ),
    texts.filter(lambda t: not set(t) & set('",\n')),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8),
    quoted=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_both_ways_to_read_csv_agree(rows, quoted, end, tmp_path_factory):
    """Whole columns by pyarrow, and row by row: the same values, or the same message."""
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    head = '"id","loss"' if quoted else "id,loss"
    path.write_bytes((head + end + "".join(f"{a},{b}{end}" for a, b in rows)).encode())
    answers = []
    with np.errstate(all="raise"):
        for large in (0, 1 << 60):
            csv_format.LARGE, before = large, csv_format.LARGE
            try:
                found = read_pilot(path, prompt_column="id", missing_ids="drop", layout="rows")
                answers.append(
                    (found.losses.tolist(), found.prompts.tolist(), found.data.ids["prompt"].names)
                )
            except ValueError as error:
                answers.append(str(error))
            finally:
                csv_format.LARGE = before
    assert answers[0] == answers[1]


def test_small_pieces_change_nothing(tmp_path, monkeypatch):
    """Every container again, read in pieces of a few rows."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"p{i % 5}",
            "loss": float(rng.normal()),
            "reward": float(rng.normal()),
            "note": 'say "x",\n' * (i % 3),
        }
        for i in range(60)
    ]
    whole = {}
    for size in (1 << 22, 300):
        monkeypatch.setattr(chunks, "BYTES", size)
        monkeypatch.setattr(chunks, "ROWS", size)
        monkeypatch.setattr(csv_format, "LARGE", 0)
        for container in CONTAINERS:
            path, out = write(tmp_path / f"in{container}", rows), tmp_path / f"out{container}"
            found = read_pilot(path, prompt_column="id")
            select_file(path, out, "rkon", 3, columns=Columns(prompt="id"))
            answer = (
                found.losses.tolist(),
                found.prompts.tolist(),
                unpacked(out) if container not in TYPED else table_of(rows).num_rows,
            )
            assert whole.setdefault(container, answer) == answer
    assert len({str(answer[:2]) for answer in whole.values()}) == 1
    assert Path(tmp_path / "out.csv").read_text().count('say ""x""') > 0
