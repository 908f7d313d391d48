"""The registry: plugins, entry points, options of a strategy's own."""

import importlib.metadata
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.errors import InputError
from mrtsim.losses import squared_loss
from mrtsim.models import MLP
from mrtsim.selection import registry as registered
from mrtsim.selection.registry import Picks, register_strategy
from mrtsim.selection.select import select_picks
from mrtsim.testing import check_selector
from tests.selection.random_pools import KEY

R = np.arange(12.0).reshape(3, 4)

PLUGIN = """
import jax
import jax.numpy as jnp
from mrtsim import register_strategy

@register_strategy("worst", needs=("rewards",))
def worst(key, pool, k):
    return jax.lax.top_k(jnp.where(pool.exists(), -pool.rewards, -jnp.inf), k)[1]
"""


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTRY", dict(registered.strategies()))


@pytest.fixture
def plugin(tmp_path, registry):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_plugin_is_one_function_in_a_file(plugin):
    assert mrt.load_plugin(plugin) == ("worst",)
    assert mrt.load_plugin(plugin) == ("worst",)
    assert list(mrt.strategies())[-1] == "worst"
    assert mrt.select("worst", 2, rewards=R).tolist() == [[0, 1]] * 3
    check_selector("worst", max_examples=5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "registers no strategy"),
        ("1 / 0", "failed: ZeroDivisionError"),
        (PLUGIN.replace("worst", "rkon"), "'rkon' is already registered"),
        (PLUGIN.replace("rewards", "reward"), r"needs \['reward'\]; a need is one of rewards"),
    ],
)
def test_bad_plugins_are_told_so(plugin, source, message):
    plugin.write_text(source)
    with pytest.raises(InputError, match=message):
        mrt.load_plugin(plugin)


def test_a_plugin_must_be_a_python_file(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        mrt.load_plugin(tmp_path / "absent.py")
    (tmp_path / "mine.txt").write_text(PLUGIN)
    with pytest.raises(InputError, match=r"must end in \.py"):
        mrt.load_plugin(tmp_path / "mine.txt")


def test_entry_points_are_strategies_too(plugin, monkeypatch):
    entry = importlib.metadata.EntryPoint("worst", "mine:worst", "mrtsim.strategies")
    monkeypatch.syspath_prepend(plugin.parent)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])
    registered._load_entry_points.cache_clear()
    assert mrt.select("worst", 2, rewards=R).tolist() == [[0, 1]] * 3
    registered._load_entry_points.cache_clear()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda k: jnp.zeros(k, jnp.int32), r"kept \[0, 0\] of prompt 0"),
        (lambda k: jnp.arange(k) + 3, r"kept \[3, 4\] of prompt 0"),
        (lambda k: jnp.arange(k) + 1, r"kept \[1, 2\] of prompt 1"),
        (lambda k: jnp.arange(k + 1), "must return k = 2 integers"),
        (lambda k: jnp.arange(k) * 1.0, "must return k = 2 integers"),
    ],
)
def test_a_strategy_that_keeps_what_it_must_not_is_told_so(registry, answer, message):
    @register_strategy("wrong")
    def wrong(key, pool, k):
        return answer(k)

    mask = np.ones((3, 4), bool)
    mask[1:, 2] = False
    with pytest.raises(InputError, match=message):
        mrt.select("wrong", 2, mask=mask)


# --- options


@pytest.fixture
def banded(registry):
    """A strategy with an option of every type: the k rewards nearest to a level, of the far end when `high`."""

    @register_strategy("banded", needs=("rewards",))
    def keep(key, pool, k, *, level=0.5, skip=0, high=False, unit="share", bonus=None):
        rewards = jnp.where(pool.exists(), pool.rewards, jnp.inf)
        target = level * (jnp.max(pool.rewards) if unit == "share" else 1.0) + (0 if bonus is None else bonus)
        order = jnp.argsort(-jnp.abs(rewards - target) if high else jnp.abs(rewards - target))
        return order[skip : skip + k]

    return keep


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2]),  # 0.5 of 3 is 1.5
        ({"level": 1}, [3, 2]),
        ({"level": 1, "skip": 1}, [2, 1]),
        ({"level": 0.0, "high": True}, [3, 2]),
        ({"level": 2.2, "unit": "absolute"}, [2, 3]),
        ({"level": 0.0, "bonus": 2.2}, [2, 3]),
    ],
)
def test_options_of_every_type_reach_a_strategy(banded, options, expected):
    assert mrt.select("banded", 2, rewards=R[:1], **options).tolist() == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "deep"}, "level of banded must be a number, got 'deep'"),
        ({"level": math.nan}, "level of banded must be a number, got nan"),
        ({"skip": 1.5}, "skip of banded must be a whole number, got 1.5"),
        ({"high": 1}, "high of banded must be True or False, got 1"),
        ({"unit": 3}, "unit of banded must be a word, got 3"),
        ({"lvl": 1}, "banded has no option 'lvl'; it has level, skip, high, unit, bonus"),
    ],
)
def test_wrong_options_are_told_so(banded, options, message):
    with pytest.raises(InputError, match=message):
        mrt.select("banded", 2, rewards=R[:1], **options)


def test_texts_of_the_command_line_are_read_by_the_type_of_the_default(banded):
    read = {
        n: banded.option(n).parse("banded", t) for n, t in {"level": "2", "skip": "3", "unit": "2"}.items()
    }
    assert read == {"level": 2.0, "skip": 3, "unit": "2"}
    assert isinstance(read["level"], float)
    assert [banded.option("high").parse("banded", text) for text in ("true", "False")] == [True, False]
    assert [banded.option("bonus").parse("banded", text) for text in ("2", "2.5", "two")] == [2, 2.5, "two"]
    for name, text in (("level", "x"), ("skip", "1.5"), ("high", "yes")):
        with pytest.raises(InputError, match=f"{name} of banded must be .*, got '{text}'"):
            banded.option(name).parse("banded", text)


def test_an_option_without_a_default_must_be_given(registry):
    @register_strategy("first")
    def first(key, pool, k, *, offset):
        return offset + jnp.arange(k)

    assert mrt.select("first", 2, shape=(1, 4), offset=1).tolist() == [[1, 2]]
    with pytest.raises(InputError, match="first needs the option offset"):
        mrt.select("first", 2, shape=(1, 4))


def test_an_option_may_not_have_the_name_of_an_argument(registry):
    with pytest.raises(InputError, match=r"\['mask'\] are arguments of select"):

        @register_strategy("masked")
        def masked(key, pool, k, *, mask=None):
            return jnp.arange(k)


def test_options_may_bring_needs_and_be_refused_before_anything_is_compiled(registry):
    def check(by):
        if by not in ("reward", "chance"):
            raise InputError(f"by must be reward or chance, not {by}")
        return ("rewards",) if by == "reward" else ("key",)

    @register_strategy("either", check=check)
    def either(key, pool, k, *, by="reward"):
        scores = pool.rewards if by == "reward" else jax.random.uniform(key, pool.shape)
        return jax.lax.top_k(scores, k)[1]

    assert mrt.select("either", 1, rewards=R).tolist() == [[3]] * 3
    assert mrt.select("either", 1, shape=(3, 4), by="chance", key=KEY).shape == (3, 1)
    with pytest.raises(InputError, match="either needs rewards"):
        mrt.select("either", 1, shape=(3, 4))
    with pytest.raises(InputError, match="either is random with these options: give key"):
        mrt.select("either", 1, shape=(3, 4), by="chance")
    with pytest.raises(InputError, match="by must be reward or chance, not size"):
        mrt.select("either", 1, rewards=R, by="size")


def test_a_strategy_says_which_picks_add_nothing(registry):
    @register_strategy("half")
    def half(key, pool, k):
        return Picks(jnp.arange(k), jnp.arange(k) > 0)

    assert select_picks("half", 2, shape=(2, 4)).saturated.tolist() == [[False, True]] * 2
    assert not select_picks("bkon", 2, rewards=R).saturated.any()

    @register_strategy("wrong")
    def wrong(key, pool, k):
        return Picks(jnp.arange(k), jnp.arange(k))

    with pytest.raises(InputError, match="must return k = 2 booleans of saturation per prompt"):
        mrt.select("wrong", 2, shape=(2, 4))


def test_settings_differ_by_options_of_any_type(banded):
    toy = mrt.GaussianModes()
    model = MLP(jax.random.key(0), width=4)
    problem = mrt.Problem.of(toy, squared_loss, model, toy.sample_prompts(jax.random.key(1), 3))
    options = [{}, {"high": True}, {"level": 2.0}, {"high": True, "level": 2.0}, {"level": 2}]
    settings = [mrt.Setting("banded", 2, given) for given in options]
    reports = mrt.compare_strategies(problem, settings, n_candidates=6, trials=20, key=KEY)
    values = [report.loss.emse.value for report in reports]
    assert values[2] == values[4]
    assert len(set(values)) == 4
    with pytest.raises(InputError, match="banded has no option 'lvl'"):
        mrt.compare_strategies(
            problem, [mrt.Setting("banded", 2, {"lvl": 1})], n_candidates=6, trials=20, key=KEY
        )
