"""What `select` promises of every strategy, and what it refuses."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.devices import on_cpu
from mrtsim.errors import InputError
from mrtsim.selection import select as selection
from mrtsim.selection.facility_location import (
    quality,
    similarity_matrix,
)
from mrtsim.selection.registry import Pool
from tests.selection.objective import marginal_gains
from tests.selection.random_pools import KEY, pools

NAMES = list(mrt.strategies())
DETERMINISTIC = [name for name, known in mrt.strategies().items() if not known.random]


@pytest.mark.parametrize("name", NAMES)
def test_all_of_the_pool_are_kept_where_k_is_its_size(name):
    kept = mrt.select(name, 6, **pools(50, 6), key=KEY)
    np.testing.assert_array_equal(np.sort(kept, axis=1), np.tile(np.arange(6), (50, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    data = pools(128, 8)
    mask = np.ones((128, 8), bool)
    mask[::3, 5:] = False
    ragged = mrt.select(name, 4, **data, mask=mask, key=KEY)
    for size, prompts in ((5, slice(0, None, 3)), (8, slice(1, None, 3))):
        alone = {field: array[:, :size] for field, array in data.items()}
        np.testing.assert_array_equal(mrt.select(name, 4, **alone, key=KEY)[prompts], ragged[prompts])
    padded = {
        field: np.pad(array, [(0, 0), (0, 4), (0, 0)][: array.ndim], constant_values=np.nan)
        for field, array in data.items()
    }
    mask = np.pad(mask, [(0, 0), (0, 4)])
    np.testing.assert_array_equal(mrt.select(name, 4, **padded, mask=mask, key=KEY), ragged)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_permuting_the_candidates_permutes_the_answer(name):
    data = pools(128, 8)
    permutation = np.random.default_rng(5).permutation(8)
    kept = mrt.select(name, 4, **data)
    permuted = permutation[mrt.select(name, 4, **{f: a[:, permutation] for f, a in data.items()})]
    if name not in ("dkon", "dbkon"):
        np.testing.assert_array_equal(kept, permuted)
        return
    # These tie by structure, candidates that add nothing included: each pick is still one of the tied best.
    similarity = similarity_matrix(data["embeddings"])
    qualities = quality(data["rewards"]) if name == "dbkon" else None
    for step in range(4):
        gains = marginal_gains(similarity, permuted[:, :step], qualities)
        chosen = np.take_along_axis(gains, permuted[:, step : step + 1], axis=1)[:, 0]
        assert (chosen >= gains.max(axis=1) * (1 - 1.01e-5) - 1e-12).all()
    assert (kept == permuted).mean() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_answered_alike_alone_in_a_block_and_in_any_block(name, monkeypatch):
    data = pools(700, 8)
    whole = mrt.select(name, 4, **data, key=KEY)
    monkeypatch.setattr(selection, "BLOCK_ELEMENTS", 128 * 64)
    np.testing.assert_array_equal(mrt.select(name, 4, **data, key=KEY), whole)
    first = {field: array[:5] for field, array in data.items()}
    np.testing.assert_array_equal(mrt.select(name, 4, **first, key=KEY), whole[:5])


@pytest.mark.parametrize("name", NAMES)
def test_strategies_work_inside_jit_and_over_leading_axes(name):
    data = pools(6, 8, dtype=np.float32)
    data["rewards"] = data["rewards"].astype(np.float32)
    known = mrt.strategies()[name]
    pool = Pool(
        **{field: jnp.asarray(array.reshape(2, 3, *array.shape[1:])) for field, array in data.items()}
    )
    kept = jax.jit(lambda key, pool: known(key, pool, 3))(KEY, pool)
    assert kept.shape == (2, 3, 3)
    np.testing.assert_array_equal(kept.reshape(6, 3), mrt.select(name, 3, **data, key=KEY))


@pytest.mark.parametrize("name", NAMES)
def test_jax_arrays_lists_and_low_precision_are_accepted(name):
    data = pools(10, 6)
    data = {field: np.round(array * 8) / 8 + 0.0625 for field, array in data.items()}
    kept = mrt.select(name, 3, **data, key=KEY)
    for convert in (jnp.asarray, np.ndarray.tolist, lambda a: a.astype(np.float16)):
        again = mrt.select(name, 3, **{field: convert(array) for field, array in data.items()}, key=KEY)
        assert again.shape == kept.shape
        if name != "dkon":  # its ties are decided within 1e-5, whatever the precision, but not its near-ties
            np.testing.assert_array_equal(again, kept)


def test_no_prompts_is_no_answer():
    assert mrt.select("bkon", 2, rewards=np.zeros((0, 4))).shape == (0, 2)


@pytest.mark.skipif(not on_cpu(), reason="an accelerator's blocks fill its memory, not the machine's")
def test_memory_does_not_grow_with_the_prompts():
    script = textwrap.dedent("""
        import resource
        import numpy as np
        import mrtsim as mrt

        def peak(prompts):
            # Stride 0: the prompts would take 49 kB each if they were ever copied as a whole.
            embeddings = np.broadcast_to(np.eye(32, 384, dtype=np.float32), (prompts, 32, 384))
            mrt.select("dkon", 2, embeddings=embeddings)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        few = peak(1024)
        print(peak(12288) - few)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150  # MB; a copy of all would be 600


@pytest.mark.skipif(not on_cpu(), reason="devices are made of a CPU's cores")
def test_several_devices_give_the_same_answer():
    script = textwrap.dedent("""
        import jax
        import numpy as np
        import mrtsim as mrt

        rng = np.random.default_rng(0)
        data = {"rewards": rng.normal(size=(3000, 16)), "embeddings": rng.normal(size=(3000, 16, 256))}
        kept = [mrt.select(name, 4, **data, key=jax.random.key(1)) for name in ("dbkon", "rkon")]
        print(jax.local_device_count(), *[hash(k.tobytes()) for k in kept])
    """)
    answers = []
    for devices in (1, 3):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        count, *answer = done.stdout.split()
        assert int(count) == devices
        answers.append(answer)
    assert answers[0] == answers[1]


R, E = np.arange(12.0).reshape(3, 4), np.ones((3, 4, 2))
S = np.ones((3, 4, 4))


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", 2, {"rewards": R}), "no strategy 'best'; there are rkon, bkon"),
        (("bkon", 0, {"rewards": R}), "k must be at least 1, got 0"),
        (("bkon", 1.5, {"rewards": R}), "k must be a whole number, got 1.5"),
        (("bkon", 5, {"rewards": R}), "prompt 0 has 4 candidates, fewer than k = 5"),
        (
            ("bkon", 3, {"rewards": R, "mask": changed(R >= 0, (1, slice(2)), False)}),
            r"prompt 1 has 2 candidates, fewer than k = 3 \(1 of 3",
        ),
        (("bkon", 2, {"embeddings": E}), "bkon needs rewards"),
        (("dkon", 2, {"rewards": R}), "dkon needs embeddings or a similarity matrix"),
        (("dbkon", 2, {"embeddings": E}), "dbkon needs rewards and embeddings or a similarity matrix"),
        (("rkon", 2, {"key": KEY}), r"needs an array or shape=\(prompts, candidates\)"),
        (("rkon", 2, {"rewards": R}), "rkon is random: give key"),
        (("rkon", 2, {"rewards": R, "key": 3}), r"jax.random.key\(seed\), got 3"),
        (("rkon", 2, {"rewards": R, "key": jax.random.split(KEY, 2)}), "key must be one JAX random key"),
        (
            ("dbkon", 2, {"rewards": R, "embeddings": E, "alpha": None}),
            "alpha of dbkon must be a number, got None",
        ),
        (("bkon", 2, {"rewards": R, "alpha": 1.0}), "bkon has no option 'alpha'; it has none"),
        (("dbkon", 2, {"rewards": R, "embeddings": E, "beta": 1}), "no option 'beta'; it has alpha, ties"),
        (("dkon", 2, {"embeddings": E, "ties": "first"}), "must be one of index, reward, diverse, random"),
        (("dkon", 2, {"embeddings": E, "ties": 3}), "ties of dkon must be a word, got 3"),
        (
            ("dbkon", 2, {"rewards": R, "embeddings": E, "alpha": np.inf}),
            "alpha must be a finite number >= 0",
        ),
        (("bkon", 2, {"rewards": R[0]}), r"rewards must be \(prompts, candidates\), got shape \(4,\)"),
        (("bkon", 2, {"rewards": [[1.0], [1.0, 2.0]]}), "pad them and give mask"),
        (("bkon", 2, {"rewards": np.full((3, 4), "a")}), "rewards must be numbers"),
        (("dkon", 2, {"embeddings": R}), r"embeddings must be \(prompts, candidates, features\)"),
        (("dbkon", 2, {"rewards": R[:2], "embeddings": E}), r"rewards \(2, 4\), embeddings \(3, 4, 2\)"),
        (("dkon", 2, {"similarity": np.ones((3, 4, 5))}), r"must agree.*similarity \(3, 4, 5\)"),
        (("dkon", 2, {"embeddings": E, "similarity": S}), "not both"),
        (("bkon", 2, {"rewards": R, "mask": R > 100, "k": 2}), "prompt 0 has 0 candidates"),
        (("bkon", 2, {"rewards": R, "mask": R}), "mask must be boolean"),
        (("bkon", 2, {"rewards": R, "mask": np.ones((3, 5), bool)}), r"mask \(3, 5\)"),
        (("bkon", 2, {"rewards": changed(R, (1, 2), np.nan)}), "reward of prompt 1, candidate 2 is nan"),
        (("bkon", 2, {"rewards": changed(R, (2, 0), np.inf)}), "reward of prompt 2, candidate 0 is inf"),
        (
            ("dkon", 2, {"embeddings": changed(E, (1, 3), 0)}),
            "embedding of prompt 1, candidate 3 is all zero",
        ),
        (
            ("dkon", 2, {"embeddings": changed(E, (1, 3, 0), np.nan)}),
            "embedding of prompt 1, candidate 3 has a NaN",
        ),
        (
            ("filtered-max-min", 2, {"rewards": R, "embeddings": changed(E, (0, 1, 0), np.inf)}),
            "embedding of prompt 0, candidate 1 has a NaN or infinite",
        ),
        (
            ("dkon", 2, {"similarity": changed(S, (1, 2, 3), -0.5)}),
            r"similarity of prompt 1, candidates 2 and 3 is -0.5.*\(1 \+ cos\) / 2",
        ),
        (("dbkon", 2, {"rewards": R, "embeddings": E, "alpha": -1.0}), "alpha must be a finite number >= 0"),
        (
            ("gumbel", 2, {"rewards": R, "key": KEY, "temperature": -1.0}),
            r"temperature must be a number >= 0, got -1.0",
        ),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    name, k, rest = arguments
    rest.pop("k", None)
    with pytest.raises(InputError, match=message):
        mrt.select(name, k, **rest)


def test_the_first_of_many_bad_prompts_is_named():
    embeddings = np.ones((5000, 32, 8), np.float32)
    embeddings[1234:, 3] = 0
    with pytest.raises(InputError, match="prompt 1234, candidate 3"):
        mrt.select("dkon", 2, embeddings=embeddings)


@pytest.mark.parametrize("name", ["dkon", "dbkon", "filtered-max-min"])
@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e30, 1e150])
def test_embeddings_of_any_length_give_the_same_picks(name, unit):
    data = pools(50, 8)
    expected = mrt.select(name, 4, **data)
    data["embeddings"] = data["embeddings"] * unit
    np.testing.assert_array_equal(mrt.select(name, 4, **data), expected)
