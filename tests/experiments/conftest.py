"""Small results of experiments, one run of each for all of their tests."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math

import jax
import pytest

from experiments.harness.store import InMemory, to_json
from experiments.shared.training import Recipe

BRIEF = Recipe(steps=10)
# What is left of the quick preset, where that takes long; `make reproduce PRESET=quick` and `make stress` run it whole.
SMALL = {
    "adaptive": {"n_prompts": 40, "replicates": 64, "batch": 8, "recipe": BRIEF},
    "batch": {"responses": (1, 4), "recipe": Recipe(steps=10, validate_every=5), "points": 32},
    "bridge": {
        "replicates": 8,
        "trials": 100,
        "n_prompts": 8,
        "responses": (4,),
        "strategies": ("rkon", "dkon", "bkon"),
        "draws": 100,
    },
    "budget": {"recipe": BRIEF},
    "collapse": {
        "n_prompts": (10, 1000),
        "strategies": ("rkon", "bkon", "dkon"),
        "points": 64,
        "grid_candidates": (4, 16),
        "grid_responses": (1, 4),
    },
    "distributional": {"recipe": BRIEF},
    "emse": {"replicates": 60, "models": 2, "n_prompts": 8, "pipelines": 200},
    "lattice": {"n_clusters": 8, "replicates": 64, "pilots": 16, "batch": 8, "recipe": BRIEF, "points": 2**7},
    "lottery": {"recipe": BRIEF},
    "misalignment": {
        "n_prompts": 8,
        "responses": (4, 8),
        "agreements": (0.0, 1.0),
        "runs": 3,
        "training_prompts": 20,
        "checkpoints": (0, 5),
    },
    "resources": {"recipe": BRIEF},
    "selection_guarantee": {
        "replicates": 64,
        "pool_candidates": 6,
        "pool_responses": (2, 3),
        "n_prompts": 6,
        "n_candidates": 12,
        "responses": (4,),
        "alphas": (0.0, 1.0),
        "networks": 3,
        "trials": 40,
    },
    "temperature": {
        "replicates": 100,
        "n_prompts": 8,
        "temperatures": (0.0, 1.0, math.inf),
        "alphas": (0.2, 1.0),
    },
    "tokens": {
        "n_prompts": 20,
        "test_prompts": 10,
        "validation_prompts": 4,
        "batch": 8,
        "recipe": Recipe(4, 2e-3, 1.0, 0.01, validate_every=2),
    },
}


@pytest.fixture(scope="session")
def small_result():
    """The result of an experiment's small run, or of its whole quick preset, read back from JSON; not to be changed."""

    @functools.cache
    def of(name, whole=False):
        module = importlib.import_module(f"experiments.{name}")
        if hasattr(module, "unavailable") and (missing := module.unavailable()):
            pytest.skip(missing)
        config = dataclasses.replace(module.PRESETS["quick"], **({} if whole else SMALL.get(name, {})))
        result = to_json(module.run(config, jax.random.key(0), InMemory()))
        return json.loads(json.dumps(result, allow_nan=False))

    return of


@pytest.fixture(scope="session")
def outcome():
    """The outcome of the statement with this id, by a result of its experiment."""

    def of(identity, result):
        module = importlib.import_module(f"experiments.{identity.partition('.')[0]}")
        (found,) = [p for p in module.predictions(result) if p.id == identity]
        return found.outcome

    return of
