"""Small runs of experiments, shared by their tests."""

from __future__ import annotations

import dataclasses
import importlib
import json

import jax
import pytest

from experiments.harness.store import InMemory, to_json


@pytest.fixture(scope="session")
def small_run():
    """Run an experiment's quick preset with changes, and read its result back from JSON."""

    def run(name, **changes):
        module = importlib.import_module(f"experiments.{name}")
        config = dataclasses.replace(module.PRESETS["quick"], **changes)
        result = to_json(module.run(config, jax.random.key(0), InMemory()))
        return json.loads(json.dumps(result, allow_nan=False))

    return run


@pytest.fixture(scope="session")
def outcome():
    """The outcome of the statement with this id, by a result of its experiment."""

    def of(identity, result):
        module = importlib.import_module(f"experiments.{identity.partition('.')[0]}")
        (found,) = [p for p in module.predictions(result) if p.id == identity]
        return found.outcome

    return of
