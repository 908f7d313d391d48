"""A small problem: an untrained network on six prompts of the toy distribution."""

import jax
import numpy as np
import pytest

from mrtsim.diagnostics.problem import Problem
from mrtsim.losses import mdn_nll
from mrtsim.models import MDN
from tests.diagnostics.shared import TOY


@pytest.fixture(scope="module")
def prompts():
    return np.asarray(TOY.sample_prompts(jax.random.key(0), 6), np.float64)


@pytest.fixture(scope="module")
def problem(prompts):
    return Problem.of(TOY, mdn_nll, MDN(jax.random.key(1), width=16), prompts)
