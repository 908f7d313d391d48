"""Results on disk: whole records or none, resume or refuse, strict JSON."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness import store
from experiments.harness.store import InMemory, OnDisk, to_json, write_json
from mrtsim.errors import InputError

KEY = jax.random.key(3)
IDENTITY = {"experiment": "toy", "config": {"replicates": 21, "scales": [1.0, 2.0]}, "seed": 0}
HERE = {"versions": {"jax": "1"}, "cores": 2}


def fn(key, scale):
    return {"x": jax.random.normal(key, (2,)) * scale, "bits": jax.random.bits(key)}


# Two settings of one program, and one of another.
SETTINGS = {"scale=1.0": (1.0,), "scale=2.0": (2.0,), "scales": (np.array([1.0, 3.0]),)}


def sweep_all(sweep) -> dict[str, dict[str, np.ndarray]]:
    return sweep.grid(fn, KEY, 21, SETTINGS, block=4)


def disk(folder: Path, resume: bool = True, identity=IDENTITY, environment=HERE) -> OnDisk:
    return OnDisk(folder, identity, environment, resume=resume)


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, np.ndarray]]:
    sweep = InMemory()
    return {label: sweep.replicates(label, fn, KEY, 21, *args, block=4) for label, args in SETTINGS.items()}


@pytest.fixture(scope="module")
def complete_file(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("complete")
    sweep_all(disk(folder))
    return (folder / "blocks-0.bin").read_bytes()


class TestResume:
    def test_storing_changes_no_bit(self, reference, tmp_path):
        np.testing.assert_equal(sweep_all(disk(tmp_path)), reference)

    @given(cut=st.floats(0, 1), rest=st.binary(max_size=40))
    def test_a_file_cut_anywhere_is_continued(self, reference, complete_file, tmp_path_factory, cut, rest):
        folder = tmp_path_factory.mktemp("cut")
        (folder / "blocks-0.bin").write_bytes(complete_file[: int(cut * len(complete_file))] + rest)
        sweep = disk(folder)
        np.testing.assert_equal(sweep_all(sweep), reference)
        # What was cut off was computed and appended again: nothing is left to do.
        again = disk(folder)
        np.testing.assert_equal(sweep_all(again), reference)
        assert again.resumed_blocks == 18

    @given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    def test_a_damaged_byte_is_noticed(self, reference, complete_file, tmp_path_factory, position, flip):
        damaged = bytearray(complete_file)
        damaged[int(position * len(damaged))] ^= flip
        folder = tmp_path_factory.mktemp("damaged")
        (folder / "blocks-0.bin").write_bytes(damaged)
        np.testing.assert_equal(sweep_all(disk(folder)), reference)

    def test_whole_blocks_are_not_computed_again(self, reference, complete_file, tmp_path, monkeypatch):
        (tmp_path / "blocks-0.bin").write_bytes(complete_file)
        monkeypatch.setattr("mrtsim.montecarlo._compile", None)  # compiling anything would fail
        np.testing.assert_equal(sweep_all(disk(tmp_path)), reference)

    def test_blocks_of_other_processes_count(self, reference, complete_file, tmp_path):
        (tmp_path / "blocks-1.bin").write_bytes(complete_file)
        sweep = disk(tmp_path)
        np.testing.assert_equal(sweep_all(sweep), reference)
        assert sweep.resumed_blocks == 18

    def test_without_resume_everything_is_discarded(self, complete_file, tmp_path):
        for process in (0, 1):
            (tmp_path / f"blocks-{process}.bin").write_bytes(complete_file)
        sweep = disk(tmp_path, resume=False)
        sweep_all(sweep)
        assert sweep.resumed_blocks == 0
        assert not (tmp_path / "blocks-1.bin").exists()


class TestRefusal:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 1}, "seed: 0 there, 1 now"),
            ({"config": {"replicates": 50, "scales": [1.0, 2.0]}}, "config.replicates: 21 there, 50 now"),
            ({"config": {"replicates": 21}}, r"config.scales: \[1.0, 2.0\] there, None now"),
        ],
    )
    def test_other_settings_are_refused(self, complete_file, tmp_path, change, message):
        (tmp_path / "blocks-0.bin").write_bytes(complete_file)
        with pytest.raises(InputError, match=message):
            disk(tmp_path, identity={**IDENTITY, **change})
        assert (tmp_path / "blocks-0.bin").read_bytes() == complete_file

    def test_other_calls_are_refused(self, complete_file, tmp_path):
        (tmp_path / "blocks-0.bin").write_bytes(complete_file)
        with pytest.raises(InputError, match="block: 4 there, 8 now"):
            disk(tmp_path).replicates("scale=1.0", fn, KEY, 21, 1.0, block=8)

    def test_another_environment_is_reported(self, reference, complete_file, tmp_path):
        (tmp_path / "blocks-0.bin").write_bytes(complete_file)
        sweep = disk(tmp_path, environment={"versions": {"jax": "2"}, "cores": 8})
        assert sweep.changes == ["versions.jax: 1 there, 2 now, cores: 2 there, 8 now"]
        np.testing.assert_equal(sweep_all(sweep), reference)

    def test_labels_are_unique(self):
        sweep = InMemory()
        sweep.replicates("a", jax.random.bits, KEY, 1)
        with pytest.raises(InputError, match="labels must be unique"):
            sweep.replicates("a", jax.random.bits, KEY, 1)


class TestJson:
    def test_arrays_numbers_and_what_json_cannot_hold(self):
        value = {
            1: np.arange(2),
            "a": (np.float32(0.5), np.inf, float("nan"), -np.inf),
            "b": [True, None, "x"],
        }
        assert to_json(value) == {"1": [0, 1], "a": [0.5, None, None, None], "b": [True, None, "x"]}
        assert to_json({"array": np.array([np.nan, 1.0])}) == {"array": [None, 1.0]}
        assert to_json(jax.numpy.float32(2)) == 2.0

    def test_anything_else_is_an_error(self):
        with pytest.raises(TypeError, match="a result holds numbers"):
            to_json({"a": object()})

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "result.json"
        write_json(path, {"a": 1})
        with pytest.raises(TypeError):
            write_json(path, {"a": object()})
        assert json.loads(path.read_text()) == {"a": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["result.json"]

    def test_numbers_come_back_as_they_were(self, tmp_path):
        values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-500, 500, 1.0).clip(
            -300, 300
        )
        write_json(tmp_path / "x.json", {"v": values})
        np.testing.assert_array_equal(json.loads((tmp_path / "x.json").read_text())["v"], values)


def test_environment_names_what_bits_depend_on():
    here = store.environment()
    assert here["versions"]["jax"] == jax.__version__
    assert here["cores"] >= 1
    assert here["instruction_set"]
