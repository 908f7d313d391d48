"""Numbers that are settled after reading are those of the plain dictionary."""

import numpy as np
import pyarrow as pa
import pytest

from mrtsim.tables import late_labels
from mrtsim.tables.arrow_columns import ArrowColumn
from mrtsim.tables.columns import PythonColumn
from mrtsim.tables.late_labels import LateLabels
from mrtsim.tables.values import Labels

KINDS = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))


def pieces(rng, plain_text):
    """Columns of ids as formats give them, some ids missing."""
    names = np.array(
        ["a", "b", "é", "\U0001f600", "long" * 20, "NA", "nan", "007", "7", "", *map(str, range(40))], object
    )
    for _ in range(30):
        size = int(rng.integers(0, 60))
        values = rng.choice(names, size).tolist()
        kind = rng.integers(0, 5)
        if kind == 0:
            yield PythonColumn(values, plain_text)
        elif kind == 1:
            yield PythonColumn([int(v) if v.isdecimal() else v for v in values], plain_text)
        elif kind == 2 and not plain_text:
            yield ArrowColumn(pa.array(rng.integers(-3, 10, size), pa.int16()))
        elif kind == 3 and not plain_text:
            yield PythonColumn([f"\ud800{v}" for v in values])  # JSON's escapes can write half a character
        else:
            values = [None if rng.random() < 0.1 else v for v in values]
            yield ArrowColumn(pa.array(values, rng.choice(KINDS)).slice(size // 3), plain_text)


@pytest.mark.parametrize("plain_text", [False, True])
@pytest.mark.parametrize(
    ("large", "waiting", "shared"), [(1, 100, 50), (20, 100, 10**9), (10, 10**9, 0), (10**9, 1, 1)]
)
def test_the_numbers_are_those_of_a_dictionary(monkeypatch, plain_text, large, waiting, shared):
    monkeypatch.setattr(late_labels, "LARGE", large)
    monkeypatch.setattr(late_labels, "WAITING_BYTES", waiting)
    monkeypatch.setattr(late_labels, "SHARED_BYTES", shared)
    for seed in range(8):
        columns = list(pieces(np.random.default_rng(seed), plain_text))
        plain, late = Labels(), LateLabels()
        expected = np.concatenate([column.labels(plain) for column in columns])
        found = late.settled(np.concatenate([column.labels(late) for column in columns]))
        named = [None if code < 0 else late.names[code] for code in found.tolist()]
        assert named == [None if code < 0 else plain.names[code] for code in expected.tolist()]
        assert late.kinds == plain.kinds
        assert len(late.names) == len(late) == len(set(late.names))
        present = found[found >= 0]
        _, first = np.unique(present, return_index=True)
        assert (np.diff(first) > 0).all()  # in the order in which they first appear


def test_settling_twice_changes_no_number():
    late = LateLabels()
    texts = pa.array([f"prompt-{i % 7000}" for i in range(20_000)])
    first = late.of_arrow(texts)
    before = late.settled(first).copy()
    late.of_arrow(pa.array([f"prompt-{i}" for i in range(5000, 15_000)]))
    np.testing.assert_array_equal(late.settled(first), before)
    assert len(late) == 15_000
    assert late.names[before[6999]] == "prompt-6999"
