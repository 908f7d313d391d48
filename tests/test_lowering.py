"""Every compiled unit of the package lowers for CUDA and TPU, in the precision that it is given."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrtsim
from mrtsim import montecarlo
from mrtsim.diagnostics.exact import exact
from mrtsim.diagnostics.problem import Problem
from mrtsim.diagnostics.simulate import measure
from mrtsim.distributions.categorical import Categorical
from mrtsim.distributions.exact_components import decompose
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from mrtsim.selection.registry import Pool, strategies
from mrtsim.selection.select import _keep_block as keep_block
from tests import lowering
from tests.selection.random_pools import KEY, pools

ROOT = Path(__file__).parents[1]
TOY = GaussianModes()


@pytest.fixture(scope="module")
def met():
    """The units met on the way through everything in the package that compiles, at small shapes."""
    for info in pkgutil.walk_packages(mrtsim.__path__, "mrtsim."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    with lowering.lowering() as met:
        model = MDN(jax.random.key(1), width=8)
        prompts = np.asarray(TOY.sample_prompts(jax.random.key(0), 4), np.float64)
        problem = Problem.of(TOY, mdn_nll, model, prompts)
        Problem.of(TOY, mdn_nll, model, prompts[:2], factored=False)
        exact(problem, "bkon", n_candidates=4, k=2)
        measure(problem, "dbkon", n_candidates=4, k=2, trials=4, key=KEY, batches=2)
        decompose(mdn_nll, model, TOY, points=16, randomisations=2)
        decompose(lambda scale, x, y: scale * y, 2.0, Categorical())
        with jax.enable_x64(True):
            MDN(jax.random.key(1), width=8)
            pool, rows = Pool(**pools(3, 4)), np.arange(3, dtype=np.uint32)
            own = [s for s in strategies().values() if str(s.function.__module__).startswith("mrtsim.")]
            for strategy in own:  # other tests of the same process register more
                met.lower(keep_block, strategy, KEY, rows, pool, 2, {}, ())
        montecarlo.replicate(jax.random.normal, KEY, 3)
    return met


def test_every_unit_of_the_package_is_met_and_lowers(met):
    units = {name for name in lowering.named_units() if name.startswith("mrtsim.")}
    assert len(units) > 8
    assert units <= set(met.float64)
    lowering.check(met, units)


def test_a_float64_argument_that_would_degrade_is_found():
    with (
        lowering.lowering(),
        pytest.raises(AssertionError, match="is given float64 and takes"),
    ):
        montecarlo.replicate(lambda key, x: jax.random.normal(key) + x.sum(), KEY, 3, np.ones(2))
    with lowering.lowering() as met, jax.enable_x64(True):
        montecarlo.replicate(lambda key, x: jax.random.normal(key) + x.sum(), KEY, 3, np.ones(2))
    assert met.in_float64


def test_what_does_not_lower_is_found():
    def on_the_host(key):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(lambda x: x, shape, jax.random.normal(key), vmap_method="sequential")

    with lowering.lowering(), pytest.raises(NotImplementedError, match="multi-platform lowering"):
        montecarlo.replicate(on_the_host, KEY, 3)


def test_code_asks_a_device_for_its_platform_in_one_place():
    """A platform that a trace reads from the machine would be frozen into what is lowered for another."""
    asks = re.compile(r"default_backend\(|(?<!sys)\.platform\b(?!\.)|platform_dependent")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("mrtsim", "experiments")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if asks.search(line)
    ]
    assert found == ['mrtsim/devices.py: return (device or jax.local_devices()[0]).platform == "cpu"']
