"""Ids of every type as text in their shortest exact form, so that one id is one prompt whatever the container."""

import datetime
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from mrtsim.tables.arrow_columns import ArrowColumn
from mrtsim.tables.late_labels import LateLabels
from mrtsim.tables.values import Labels, Wrong

CASES = {
    "whole numbers": (pa.array([7, -1, 2**64 - 1][:2], pa.int8()), ["7", "-1"]),
    "large whole numbers": (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
    "floats, and -0.0 is 0.0": (pa.array([0.0, -0.0, 1.0, 0.1, 1e22]), ["0.0", "0.0", "1.0", "0.1", "1e+22"]),
    "narrow floats": (pa.array([0.1, -0.0], pa.float32()), ["0.1", "0.0"]),
    "decimals of any scale": (pa.array([Decimal("1.00"), Decimal("2.50")], pa.decimal128(9, 2)), ["1.0", "2.5"]),
    "decimals without decimals": (pa.array([Decimal(10**22)], pa.decimal128(38, 0)), ["1" + 22 * "0"]),
    "dates": (pa.array([datetime.date(2020, 1, 2)]), ["2020-01-02"]),
    "moments": (pa.array([0, 1_500_000_000], pa.timestamp("ns")), ["1970-01-01T00:00:00", "1970-01-01T00:00:01.5"]),
    "moments by another clock": (pa.array([1500], pa.timestamp("ms")), ["1970-01-01T00:00:01.5"]),
    "moments of nanoseconds": (pa.array([21], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000021"]),
    "moments of a zone": (pa.array([100_000], pa.timestamp("us", "UTC")), ["1970-01-01T00:00:00.1Z"]),
    "times of a day": (pa.array([1, 10**9], pa.time64("ns")), ["00:00:00.000000001", "00:00:01"]),
    "truth": (pa.array([True, False]), ["true", "false"]),
    "uuid": (pa.array([uuid.UUID(int=5).bytes], pa.uuid()), [str(uuid.UUID(int=5))]),
    "categories": (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    "views": (pa.array(["b", "a"], pa.string_view()), ["b", "a"]),
    "missing": (pa.array(["a", None, ""]), ["a", None, None]),
    "missing numbers": (pa.array([1.5, None, float("nan")]), ["1.5", None, None]),
}  # fmt: skip


@pytest.mark.parametrize("labels", [Labels, LateLabels])
@pytest.mark.parametrize("case", CASES)
def test_ids_of_every_type(case, labels):
    array, expected = CASES[case]
    known = labels()
    codes = known.settled(ArrowColumn(array).labels(known))
    assert [None if code < 0 else known.names[code] for code in codes.tolist()] == expected


@pytest.mark.parametrize(
    "kind", [pa.duration("ns"), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)]
)
def test_what_is_no_id_is_refused(kind):
    array = pa.array([1], kind) if pa.types.is_duration(kind) else pa.array([b"a"], kind)
    with pytest.raises(Wrong, match=r"expected one id per row") as refusal:
        ArrowColumn(array).labels(Labels())
    assert "Timedelta" not in str(refusal.value)


def test_numbers_of_a_column_do_not_depend_on_its_slices():
    array = pa.array(np.arange(10))
    known = Labels()
    np.testing.assert_array_equal(ArrowColumn(array.slice(3, 4)).labels(known), np.arange(4))
    assert known.names == ["3", "4", "5", "6"]
