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
    "group_size": {"compute": 768, "replicates": 2, "problems": 2, "draws": 16},
    "lattice": {
        "n_clusters": 16,
        "replicates": 1_000,
        "pilot_clusters": 50,
        "pilots": 60,
        "points": 2**10,
        "batch": 8,
        "recipe": BRIEF,
    },
    "lottery": {"recipe": BRIEF},
    "misalignment": {
        "n_prompts": 8,
        "responses": (4, 8),
        "agreements": (0.0, 1.0),
        "runs": 3,
        "training_prompts": 20,
        "checkpoints": (0, 5),
    },
    "redundancy": {
        "n_prompts": 32,
        "group_sizes": (1, 4, 16),
        "similarities": (0.6, 1.0),
        "mode_scales": (0.4, 1.0),
        "replicates": 2000,
        "pilots": 400,
        "learner_prompts": 32,
        "learner_group_sizes": (1, 16),
        "learner_similarities": (0.5,),
        "learner_responses": 4,
        "learner_replicates": 4,
        "points": 2**11,
    },
    "resources": {"recipe": BRIEF},
    "saturation": {
        "replicates": 60,
        "candidates": (8,),
        "responses": (2, 4),
        "n_prompts": 5,
        "networks": 2,
        "trials": 20,
    },
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
        "replicates": 3,
        "generation_prompts": 4,
        "generations": 6,
    },
}


@pytest.fixture(scope="session")
def small_result(tmp_path_factory, worker_id):
    """The result of an experiment's small run, or of its whole quick preset, read back from JSON; not to be changed.

    What one worker has run no other runs again.
    """
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent  # of all workers of this run

    @functools.cache
    def of(name, whole=False):
        module = importlib.import_module(f"experiments.{name}")
        if hasattr(module, "unavailable") and (missing := module.unavailable()):
            pytest.skip(missing)
        stored = folder / f"{name}{'-whole' * whole}.json"
        if not stored.exists():
            config = dataclasses.replace(module.PRESETS["quick"], **({} if whole else SMALL.get(name, {})))
            result = to_json(module.run(config, jax.random.key(0), InMemory()))
            ours = folder / f"{name}-{worker_id}.json"
            ours.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
            ours.replace(stored)
        return json.loads(stored.read_text(encoding="utf-8"))

    return of


@pytest.fixture(scope="session")
def outcome():
    """The outcome of the statement with this id, by a result of its experiment."""

    def of(identity, result):
        module = importlib.import_module(f"experiments.{identity.partition('.')[0]}")
        (found,) = [p for p in module.predictions(result) if p.id == identity]
        return found.outcome

    return of
