"""Every experiment keeps the contract, runs, is judged and drawn; a new one is found by itself, at its quick preset."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import jax
import pytest

from experiments.__main__ import PRESETS, find
from experiments.harness import report
from experiments.harness.statements import check, known_claims
from experiments.harness.store import InMemory
from figures import style
from tests.experiments.conftest import SMALL
from tests.lowering import TPU_UNKNOWN, lowering
from tests.lowering import check as check_lowered

EXPERIMENTS = find()
NUMPY = ("comparisons", "coverage")  # they compile nothing


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_keeps_the_contract(name):
    module = EXPERIMENTS[name]
    assert tuple(module.PRESETS) == PRESETS
    assert module.PRESETS["paper"] == module.Config()
    assert module.Config.__dataclass_params__.frozen
    assert set(module.CLAIMS) <= set(known_claims())
    assert re.match(r"[A-Z][^\n]*[.?]", module.__doc__)
    assert report.has_figure(name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_is_judged_and_is_drawn(name, small_result, tmp_path):
    judge_and_draw(name, small_result(name), tmp_path)


@pytest.mark.stress
@pytest.mark.parametrize("name", SMALL)
def test_the_whole_quick_preset_is_judged_and_drawn(name, small_result, tmp_path):
    judge_and_draw(name, small_result(name, whole=True), tmp_path)


def judge_and_draw(name, stored, folder):
    module = EXPERIMENTS[name]
    found = module.predictions(stored)
    check(name, module.CLAIMS, found)
    for p in found:
        # JSON's null is NaN: an end that is not known is no contradiction
        assert not p.ours.low > p.ours.value
        assert not p.ours.high < p.ours.value
        assert len(p.quantity) <= 110
        assert not p.quantity.endswith(".")
    style.save(importlib.import_module(f"figures.{name}").draw(stored), folder / "figure")
    assert (folder / "figure.png").stat().st_size > 10_000


# One in every run of the tests, with the engine, training and exact laws; all in `make stress`.
LOWERED = [name if name == "emse" else pytest.param(name, marks=pytest.mark.stress) for name in EXPERIMENTS]


@pytest.mark.parametrize("name", LOWERED)
def test_compiles_what_lowers_for_accelerators(name):
    module = EXPERIMENTS[name]
    with lowering() as met:
        module.run(module.PRESETS["quick"], jax.random.key(0), InMemory())
    if met.float64 or name not in NUMPY:
        check_lowered(met, {unit for unit in TPU_UNKNOWN if unit.startswith(f"experiments.{name}.")})


def test_every_figure_belongs_to_an_experiment_and_every_claim_to_experiments():
    drawn = {path.stem for path in Path(style.__file__).parent.glob("*.py")} - {"__init__", "style"}
    assert drawn == set(EXPERIMENTS)
    for number, claim in known_claims().items():
        for name in claim["experiments"]:
            assert number in EXPERIMENTS[name].CLAIMS, (number, name)
