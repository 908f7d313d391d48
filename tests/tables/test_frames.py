"""Tables in memory: pandas, polars, pyarrow and `datasets` are read like files."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mrtsim as mrt
from mrtsim.errors import InputError
from mrtsim.selection.select_file import Columns, select_file, select_table
from tests.tables.writers import write

RNG = np.random.default_rng(0)
ROWS = [
    {
        "prompt_id": f"p{i % 7}",
        "reward": float(RNG.normal()),
        "loss": float(RNG.gamma(2)),
        "embedding": RNG.normal(size=3).tolist(),
    }
    for i in range(42)
]


def frames():
    """By name, functions of an Arrow table."""
    yield pytest.param(lambda table: table, id="pyarrow")
    yield pytest.param(lambda table: table.to_reader(max_chunksize=5), id="reader")
    for name, make in (
        ("pandas", lambda module, table: table.to_pandas()),
        ("polars", lambda module, table: module.from_arrow(table)),
        ("datasets", lambda module, table: module.Dataset(table)),
        ("pandas of Arrow types", lambda module, table: table.to_pandas(types_mapper=module.ArrowDtype)),
        ("datasets with an index", lambda module, table: module.Dataset(table).select(range(len(table)))),
        ("datasets in NumPy's format", lambda module, table: module.Dataset(table).with_format("numpy")),
        ("datasets that stream", lambda module, table: module.Dataset(table).to_iterable_dataset()),
    ):

        def build(table, name=name, make=make):
            return make(pytest.importorskip(name.split()[0]), table)

        yield pytest.param(build, id=name)


@pytest.mark.parametrize("frame", list(frames()))
def test_the_same_pilot_and_picks_from_a_file_and_a_frame(tmp_path, frame):
    path = write(tmp_path / "in.parquet", ROWS)
    table = pq.read_table(path)
    a, b = mrt.read_pilot(path), mrt.read_pilot(frame(table))
    np.testing.assert_array_equal(a.losses, b.losses)
    np.testing.assert_array_equal(a.prompts, b.prompts)
    for strategy in ("rkon", "dbkon"):
        report = select_file(path, tmp_path / "a.parquet", strategy, 2, columns=Columns(loss="loss"))
        assert (
            select_file(frame(table), tmp_path / "b.parquet", strategy, 2, columns=Columns(loss="loss"))
            == report
        )
        kept = pq.read_table(tmp_path / "a.parquet")
        assert pq.read_table(tmp_path / "b.parquet").to_pylist() == kept.to_pylist()
        assert select_table(frame(table), strategy, 2).to_pylist() == kept.to_pylist()
    with pytest.raises(InputError, match=r"the \w+: no column 'nll'.*did you mean|name it with"):
        mrt.read_pilot(frame(table), loss_column="nll")


def test_parts_pick_what_the_whole_picks():
    """A prompt's key comes from the seed and its id, so that a worker with some prompts picks what one process does."""
    table = pa.Table.from_pylist(sorted(ROWS, key=lambda row: row["prompt_id"]))
    for strategy in ("rkon", "gumbel", "dkon"):
        whole = select_table(table, strategy, 3, seed=5)
        parts = [
            select_table(
                table.filter(pa.compute.is_in(table["prompt_id"], pa.array(ids))), strategy, 3, seed=5
            )
            for ids in (["p3", "p0"], ["p6"], ["p1", "p2", "p4", "p5"])
        ]
        together = [row for part in parts for row in part.to_pylist()]
        assert sorted(together, key=str) == sorted(whole.to_pylist(), key=str)
    assert select_table(table, "rkon", 3, seed=5) != select_table(table, "rkon", 3, seed=6)


def test_the_schema_of_a_table_stays():
    fields = [pa.field("prompt_id", pa.string(), metadata={"a": "b"}), pa.field("reward", pa.float16())]
    schema = pa.schema(fields, metadata={"huggingface": "{}"})
    table = pa.table([pa.array(["a", "a", "b", "b"]), pa.array(np.arange(4, dtype=np.float16))], schema)
    kept = select_table(table, "bkon", 1)
    assert kept.schema.equals(schema, check_metadata=True)
    assert kept["reward"].to_pylist() == [1.0, 3.0]


def test_what_is_no_table(tmp_path):
    with pytest.raises(InputError, match=r"end the name in .parquet or .arrow"):
        select_file(pa.Table.from_pylist(ROWS), tmp_path / "o.jsonl", "rkon", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot read the dict as a table"):
        select_table({"prompt_id": 3}, "rkon", 1)
    table = pa.Table.from_pylist(ROWS)
    with pytest.raises(InputError, match="several tables in memory: put them together, and give one Table"):
        mrt.read_pilot([table, table])
    with pytest.raises(InputError, match=r"expected a file's name, or a table of pandas.*, got NoneType"):
        mrt.read_pilot(None)
    with pytest.raises(InputError, match=r"of a table name the columns, or take read_pilot\(table\)"):
        mrt.estimate_components(table)


def test_a_frame_that_is_not_there_yet():
    lazy = pytest.importorskip("polars").from_arrow(pa.Table.from_pylist(ROWS)).lazy()
    with pytest.raises(InputError, match=r"got LazyFrame; collect\(\) it first"):
        mrt.read_pilot(lazy)
    with pytest.raises(InputError, match=r"the LazyFrame as a table \(collect\(\) it first\)"):
        select_table(lazy, "rkon", 1)


def test_a_data_set_of_several_splits():
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict({"train": datasets.Dataset(pa.Table.from_pylist(ROWS))})
    with pytest.raises(InputError, match=r"got DatasetDict: name it, dataset\['train'\]"):
        mrt.read_pilot(splits)


@pytest.mark.parametrize("frame", [f for f in frames() if f.id not in ("reader", "datasets that stream")])
def test_columns_of_frames_are_arrays(frame):
    table = pa.Table.from_pylist(ROWS)
    found = mrt.estimate_components(table["loss"], table["prompt_id"])
    data = frame(table)
    again = mrt.estimate_components(data["loss"], data["prompt_id"])
    assert found.components == again.components
    pilot = mrt.read_pilot(table)
    assert found.components == mrt.estimate_components(pilot.losses, pilot.prompts).components


def test_pandas_is_not_needed(tmp_path):
    """Where it is absent: pyarrow 24 asks it for the types of NumPy."""
    path = write(tmp_path / "in.parquet", ROWS)
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
sys.meta_path.insert(0, Absent())
import numpy as np
import mrtsim as mrt
from mrtsim.selection.select_file import select_file
pilot = mrt.read_pilot(sys.argv[1])
text = np.array([f"p{i}" for i in pilot.prompts])
halves = [mrt.PromptSums.of(pilot.losses[half], text[half]) for half in (slice(0, 21), slice(21, 42))]
print(mrt.estimate_components(halves[0].merge(halves[1])).components.prompt)
select_file(sys.argv[1], sys.argv[1] + ".out.parquet", "rkon", 2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pilot = mrt.read_pilot(path)
    whole = mrt.estimate_components(pilot.losses, pilot.prompts).components.prompt
    assert float(done.stdout) == pytest.approx(whole, rel=1e-12)
