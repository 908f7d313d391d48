"""The replicate engine: right, and the same to the last bit whoever computes it."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrtsim import montecarlo
from mrtsim.devices import device_memory, on_cpu
from mrtsim.errors import InputError
from mrtsim.montecarlo import moments, replicate

ROOT = Path(__file__).parents[1]
KEY = jax.random.key(7)
ON_CPU = pytest.mark.skipif(not on_cpu(), reason="devices and hosts are made of a CPU's cores")


def train(key, rate):
    """A chaotic little training run and a sum long enough to be split: any change of low bits shows."""
    draws = jax.random.normal(key, (20_000,))
    weights, inputs = draws[:256].reshape(16, 16), draws[256:1280].reshape(64, 16)

    def step(_, w):
        return w - rate * inputs.T @ jnp.sin(inputs @ w)

    trained = jax.lax.fori_loop(0, 40, step, weights)
    return {"norm": jnp.sum(trained**2), "sum": jnp.sum(draws)}


def digest(tree) -> str:
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(tree))).hexdigest()


@pytest.fixture(scope="module")
def reference() -> str:
    return digest(replicate(train, KEY, 50, 0.3, block=4, threads=1))


def run_python(code: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The last line of standard output (gloo prints before it)."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.splitlines()[-1]


class TestAnswer:
    def test_replicate_i_sees_the_key_folded_with_i(self):
        def fn(key, scale):
            return {"bits": jax.random.bits(key), "x": jax.random.normal(key, (3,)) * scale}

        out = replicate(fn, KEY, 11, 2.0, block=4)
        keys = [jax.random.fold_in(KEY, i) for i in range(11)]
        assert out["bits"].tolist() == [int(jax.random.bits(k)) for k in keys]
        np.testing.assert_allclose(
            out["x"], [2 * np.asarray(jax.random.normal(k, (3,))) for k in keys], rtol=1e-6
        )
        assert out["x"].dtype == np.float64
        assert out["bits"].dtype == np.uint32

    @given(n=st.integers(1, 40), block=st.integers(1, 9), threads=st.integers(1, 3))
    @settings(max_examples=25)
    def test_any_block_size_gives_every_replicate_once(self, n, block, threads):
        out = replicate(jax.random.bits, KEY, n, block=block, threads=threads)
        assert out.tolist() == [int(jax.random.bits(jax.random.fold_in(KEY, i))) for i in range(n)]

    def test_a_short_run_is_the_start_of_a_long_one(self):
        short, long = (replicate(train, KEY, n, 0.3, block=8) for n in (13, 50))
        assert digest(short) == digest(jax.tree.map(lambda a: a[:13], long))

    def test_moments_are_those_of_the_replicates(self):
        def fn(key):
            # A mean far from zero, where a sum of squares would cancel.
            return 1e4 + jax.random.normal(key, (3,))

        values, summary = replicate(fn, KEY, 1000, block=32), moments(fn, KEY, 1000, block=32)
        np.testing.assert_allclose(summary.mean, values.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(summary.variance, values.var(axis=0, ddof=1), rtol=1e-10)
        assert summary.n == 1000

    def test_one_replicate_has_no_variance(self):
        assert np.isnan(moments(jax.random.normal, KEY, 1).variance)

    def test_a_model_with_functions_in_it_is_an_argument(self):
        model = eqx.nn.MLP(2, "scalar", 8, 1, key=KEY)
        out = replicate(lambda key, m: m(jax.random.normal(key, (2,))), KEY, 3, model)
        assert out.shape == (3,)


class TestBits:
    @pytest.mark.parametrize("threads", [2, 5])
    def test_threads(self, reference, threads):
        assert digest(replicate(train, KEY, 50, 0.3, block=4, threads=threads)) == reference

    @pytest.mark.parametrize("blocks", [1.5, 3.5, 100.0])
    def test_memory_bounds(self, reference, blocks):
        plan = montecarlo.prepare(train, KEY, 50, 0.3, block=4)
        one = montecarlo.block_bytes(plan)
        assert digest(replicate(train, KEY, 50, 0.3, block=4, threads=8, memory=blocks * one)) == reference
        assert montecarlo.workers(plan, memory=blocks * one, threads=8) == min(int(blocks), 8)

    @ON_CPU
    @pytest.mark.parametrize("devices", [2, 8])
    def test_virtual_devices(self, reference, devices):
        code = (
            "import jax, test_montecarlo as t; from mrtsim.montecarlo import replicate;"
            f"assert jax.device_count() == {devices};"
            "print(t.digest(replicate(t.train, t.KEY, 50, 0.3, block=4)))"
        )
        assert finish(run_python(code, JAX_NUM_CPU_DEVICES=str(devices))) == reference

    @ON_CPU
    def test_two_hosts(self, reference):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        code = (
            "import sys, jax;"
            f"jax.distributed.initialize('localhost:{port}', 2, int(sys.argv[1]));"
            "import test_montecarlo as t; from mrtsim.montecarlo import moments, replicate;"
            "a = replicate(t.train, t.KEY, 50, 0.3, block=4);"
            "b = moments(t.train, t.KEY, 50, 0.3, block=4);"
            "print(t.digest(a), t.digest(b[1:]))"
        )
        processes = [run_python(code, str(i)) for i in range(2)]
        here = f"{reference} {digest(moments(train, KEY, 50, 0.3, block=4)[1:])}"
        assert [finish(p) for p in processes] == [here, here]


class TestPrecision:
    def test_the_callers_64_bit_mode_reaches_the_threads(self):
        def fn(key):
            return jax.random.normal(key, (2,), dtype=jnp.result_type(float)).sum() + 1e-12

        narrow = replicate(fn, KEY, 9, block=2, threads=3)
        with jax.enable_x64(True):
            wide = replicate(fn, KEY, 9, block=2, threads=3)
            again = [float(fn(jax.random.fold_in(KEY, i))) for i in range(9)]
        np.testing.assert_allclose(wide, again, rtol=1e-14)
        assert np.array_equal(narrow, narrow.astype(np.float32))
        assert not np.array_equal(wide, wide.astype(np.float32))

    def test_nothing_global_changes(self):
        before = dict(jax.config.values)
        with jax.enable_x64(True):
            replicate(jax.random.normal, KEY, 4)
        assert dict(jax.config.values) == before


class TestCompilation:
    def test_new_values_do_not_compile_again_and_new_shapes_do(self):
        traces = []

        def fn(key, scale, shift):
            traces.append(shift.shape)
            return jax.random.normal(key) * scale + shift.sum()

        replicate(fn, KEY, 8, 1.0, np.ones(3), block=4)
        once = len(traces)
        for scale in (2.0, 3.0):
            replicate(fn, KEY, 8, scale, np.full(3, scale), block=4)
        assert len(traces) == once
        replicate(fn, KEY, 8, 1.0, np.ones(4), block=4)
        assert len(traces) == 2 * once

    def test_a_block_fits_the_cache_of_a_cpu_and_fills_the_memory_of_an_accelerator(self):
        sizes, large = [2**12, 2**18, 2**12], 10**5
        assert montecarlo.block_size(sizes, large, None) == 2**21 // 2**18
        assert montecarlo.block_size([1], large, None) == 4096
        assert montecarlo.block_size(sizes, 40, None) == 4  # at least 8 blocks, so that all cores have work
        # All arrays count there: 2^18 + 2^13 bytes per replicate.
        memory = 80 * 2**30
        filled = montecarlo.block_size(sizes, large, memory)
        assert filled == 2**15  # the largest power of two
        assert filled * sum(sizes) <= 2**36 // 4 < 2 * filled * sum(sizes)
        assert montecarlo.block_size(sizes, 1000, memory) == 1000  # all of them
        # What a driver keeps for itself changes nothing, and one replicate is always a block.
        assert montecarlo.block_size(sizes, large, memory - 10**9) == filled
        assert montecarlo.block_size([2**40], 5, memory) == 1

    def test_the_kind_of_the_device_is_asked_for(self):
        class Accelerator:
            platform = "gpu"

            def __init__(self, stats):
                self.memory_stats = lambda: stats

        assert device_memory(jax.devices("cpu")[0]) is None
        assert device_memory(Accelerator({"bytes_limit": 2**35})) == 2**35
        assert device_memory(Accelerator(None)) == 2**33
        plan = montecarlo.prepare(jax.random.bits, KEY, 50, devices=[Accelerator({"bytes_limit": 2**35})])
        assert plan.block == 50
        assert montecarlo.prepare(jax.random.bits, KEY, 50, devices=jax.devices("cpu")).block == 4

    def test_the_default_block_follows_the_shapes(self):
        def fn(size):
            def loop(key):
                step = lambda c, _: (c + jax.random.normal(key, (size,)).sum(), None)  # noqa: E731
                return jax.lax.scan(step, 0.0, length=2)[0]

            return loop

        def block(size, n):
            return montecarlo.prepare(fn(size), KEY, n, devices=jax.devices("cpu")).block

        assert block(64, 10**5) == 4096
        assert block(2**16, 10**5) == 2**21 // (4 * 2**16)
        assert block(64, 40) == 4  # at least 8 blocks, so that all cores have work
        assert block(64, 3) == 1


class TestErrors:
    def test_an_error_in_a_thread_reaches_the_caller_and_leaves_no_thread(self):
        def fail(x):
            if x == 5:
                raise RuntimeError("replicate five is wrong")
            return np.float32(x)

        def fn(key, values):
            i = jax.random.bits(key)
            spec = jax.ShapeDtypeStruct((), jnp.float32)
            return jax.pure_callback(fail, spec, values, vmap_method="sequential") + 0 * i

        with pytest.raises(Exception, match="replicate five is wrong"):
            replicate(fn, KEY, 40, jnp.float32(5), block=2, threads=2)
        assert not [t for t in threading.enumerate() if t.name.startswith("replicate")]
        assert replicate(fn, KEY, 4, jnp.float32(1), block=2).tolist() == [1.0] * 4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n": 0}, "n .the number of replicates. must be between 1 and"),
            ({"n": 5, "block": 0}, "block .* must be at least 1, got 0"),
            (
                {"n": 5, "block": 4, "memory": 10.0},
                "one block of 4 replicates needs .* lower block, or raise memory",
            ),
            ({"n": 5, "threads": 0}, "threads .* must be at least 1, got 0"),
        ],
    )
    def test_wrong_arguments_say_what_is_wrong(self, options, message):
        with pytest.raises(InputError, match=message):
            replicate(train, KEY, options.pop("n"), 0.1, **options)

    def test_arrays_inside_the_function_are_refused(self):
        model = eqx.nn.Linear(2, 2, key=KEY)
        with pytest.raises(InputError, match="pass arrays as args"):
            replicate(eqx.Partial(lambda m, key: m(jnp.ones(2)), model), KEY, 3)

    def test_subkeys_are_those_of_a_split(self):
        data = [
            jax.random.key_data(keys)
            for keys in (jnp.stack(montecarlo.subkeys(KEY, 5)), jax.random.split(KEY, 5))
        ]
        np.testing.assert_array_equal(*data)

    def test_stopping_early_stops_the_threads(self):
        plan = montecarlo.prepare(train, KEY, 1000, 0.3, block=4)
        blocks = montecarlo.run(plan)
        next(blocks)
        blocks.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("replicate")]


def test_the_documented_example_does_what_its_comments_say():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["values"]["mean"].shape == (10_000,)
    # 2^2 / 10 = 0.4; 10,000 replicates know a variance to 1.4 %
    assert names["summary"].variance["mean"] == pytest.approx(0.4, rel=0.06)
