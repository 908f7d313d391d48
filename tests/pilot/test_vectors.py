"""Vectors in place of losses: traces, sketches, norms alone, and the recipes of docs/gradients.md."""

import functools
import importlib.util
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

import mrtsim as mrt

ROOT = Path(__file__).parents[2]


def gradients(rng, prompts=30, responses=4, features=16, *, spectrum=None, shape=None):
    """Rows (prompts x responses, features) and their prompts; unequal numbers of responses with `shape` "unequal"."""
    scale = np.ones(features) if spectrum is None else np.sqrt(spectrum)
    counts = rng.integers(1, 7, prompts) if shape == "unequal" else np.full(prompts, responses)
    prompt_of = np.repeat(np.arange(prompts), counts)
    means = 3 + scale * rng.normal(size=(prompts, features))
    return means[prompt_of] + 2 * scale * rng.normal(size=(prompt_of.size, features)), prompt_of


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shape", [None, "unequal"])
def test_components_are_traces(shape, grouped):
    """The sum of the components of the features, for any numbers of responses."""
    rows, prompts = gradients(np.random.default_rng(1), shape=shape)
    groups = prompts // 3 if grouped else None
    whole = mrt.estimate_components(rows, prompts, groups=groups)
    parts = [mrt.estimate_components(column, prompts, groups=groups).components for column in rows.T]
    for name in ("group", "prompt", "response"):
        assert getattr(whole.components, name) == pytest.approx(
            sum(getattr(c, name) for c in parts), rel=1e-10
        )
    assert whole.vectors
    centre = np.array([rows[prompts == p].mean(0) for p in range(30)]).mean(0)
    assert whole.mean == pytest.approx(np.linalg.norm(centre))
    errors = [mrt.estimate_components(column, prompts, groups=groups).standard_error for column in rows.T]
    assert whole.standard_error == pytest.approx(np.sqrt(np.square(errors).sum()))


@pytest.mark.parametrize("shape", [None, "unequal"])
def test_rotations_change_nothing(shape):
    rng = np.random.default_rng(2)
    rows, prompts = gradients(rng, features=8, spectrum=1 / np.arange(1, 9), shape=shape)
    turned = rows @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    one, other = (mrt.estimate_components(r, prompts) for r in (rows, turned))
    for name in ("prompt", "response", "ratio"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-8)


def test_parts_merge():
    rows, prompts = gradients(np.random.default_rng(3), shape="unequal")
    whole = mrt.PromptSums.of(rows, prompts)
    cut = [0, 17, 55, len(rows)]
    first, *rest = (mrt.PromptSums.of(rows[a:b], prompts[a:b]) for a, b in itertools.pairwise(cut))
    for part in rest:
        first = first.merge(part)
    assert mrt.estimate_components(first).ratio.high == pytest.approx(
        mrt.estimate_components(whole).ratio.high, rel=1e-9
    )
    with pytest.raises(mrt.InputError, match="different kinds or lengths"):
        whole.merge(mrt.PromptSums.of(rows[:, :3], prompts))
    with pytest.raises(mrt.InputError, match="different kinds or lengths"):
        whole.merge(mrt.PromptSums.of(rows[:, 0], prompts))


def test_norms_alone():
    rows, prompts = gradients(np.random.default_rng(4))
    cube = rows.reshape(30, 4, 16)
    means = cube.mean(1)
    sums = mrt.PromptSums.of_norms(
        np.full(30, 4), (cube**2).sum((1, 2)), (means**2).sum(1), means @ means.mean(0)
    )
    found, direct = mrt.estimate_components(sums), mrt.estimate_components(rows, prompts)
    for name in ("prompt", "response", "ratio"):
        a, b = getattr(found, name), getattr(direct, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-8)
    assert found.mean == pytest.approx(direct.mean)
    assert found.standard_error == pytest.approx(direct.standard_error)
    # the formula of the documentation
    s = 30 / 29 * ((means**2).sum(1).mean() - (means.mean(0) ** 2).sum())
    assert found.components.prompt == pytest.approx(s - found.components.response / 4)
    for arguments, message in (
        (([4, 3], [1.0, 1.0], [0.1, 0.1], [0.0, 0.0]), "as many responses"),
        (([4, 4], [0.1, 0.1], [1.0, 1.0], [0.0, 0.0]), "no vectors have these norms"),
        (([4, 4], [9.0, 9.0], [0.1, 0.1], [5.0, 0.0]), "no vectors have these norms"),
        (([4, 4], [9.0], [0.1, 0.1], [0.0, 0.0]), "per prompt"),
    ):
        with pytest.raises(mrt.InputError, match=message):
            mrt.PromptSums.of_norms(*arguments)


def test_intervals_cover_with_normal_vectors():
    """Nominal 95 % of the ratio and of both traces, flat and falling spectra: 400 pilots a cell, error 1.1 points."""
    for number, spectrum in enumerate((np.ones(16), 1 / np.arange(1, 17), np.ones(1))):
        rng, held = np.random.default_rng([11, number]), np.zeros(3)
        truth = {"prompt": spectrum.sum(), "response": 4 * spectrum.sum(), "ratio": 4.0}
        for _ in range(400):
            rows, prompts = gradients(rng, features=spectrum.size, spectrum=spectrum)
            pilot = mrt.estimate_components(rows, prompts)
            held += [
                getattr(pilot, name).low <= true <= getattr(pilot, name).high for name, true in truth.items()
            ]
        assert np.all(held / 400 >= 0.915), (spectrum, held / 400)


def test_more_directions_are_known_better():
    rng = np.random.default_rng(5)
    widths = []
    for features in (1, 16, 256):
        found = [mrt.estimate_components(*gradients(rng, features=features)).response for _ in range(20)]
        widths.append(np.mean([e.high / e.low for e in found]))
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_sketches():
    """Unbiased traces with a relative standard deviation of sqrt(2 / (m r_eff)), and 2/m more variance on the logs."""
    rng = np.random.default_rng(31)
    rows, prompts = gradients(rng, prompts=20, features=40, spectrum=1 / np.arange(1, 41) ** 2)
    exact, m = mrt.estimate_components(rows, prompts), 50
    residuals = rows - np.array([rows[prompts == p].mean(0) for p in range(20)])[prompts]
    covariance = residuals.T @ residuals / (80 - 20)
    r_eff = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    found = []
    for _ in range(600):
        sketch = rows @ rng.normal(0, m**-0.5, (40, m))
        found.append(mrt.estimate_components(sketch, prompts, sketched=True).components.response)
    relative = np.array(found) / exact.components.response
    spread = math.sqrt(2 / (m * r_eff))
    assert relative.mean() == pytest.approx(1, abs=4 * spread / 600**0.5)
    assert relative.std() == pytest.approx(spread, rel=4 / 1200**0.5)

    plain = mrt.estimate_components(sketch, prompts)
    wide = mrt.estimate_components(sketch, prompts, sketched=True)
    t = mrt.estimates.t_quantile(19)
    down = [math.log(p.response.value / p.response.low) / t for p in (plain, wide)]
    assert down[1] ** 2 - down[0] ** 2 == pytest.approx(2 / m)
    assert wide.ratio.low < plain.ratio.low
    assert wide.ratio.high >= plain.ratio.high


def test_what_is_refused():
    rows, prompts = gradients(np.random.default_rng(6))
    for options in ({"method": "reml"}, {"interval": "F"}, {"population": 99}):
        with pytest.raises(mrt.InputError, match="vectors go with"):
            mrt.estimate_components(rows, prompts, **options)
    with pytest.raises(mrt.InputError, match="one number per response"):
        mrt.estimate_components(rows, prompts, judges=prompts)
    with pytest.raises(mrt.InputError, match="sketched is for vectors"):
        mrt.estimate_components(rows[:, 0], prompts, sketched=True)
    with pytest.raises(mrt.InputError, match="for vectors"):
        mrt.estimate_components(rows.reshape(30, 4, 16), prompts)
    with pytest.raises(mrt.InputError, match="finite"):
        mrt.estimate_components(np.where(rows > 4, np.nan, rows), prompts)
    with pytest.raises(mrt.InputError, match="120 losses"):
        mrt.estimate_components(rows, prompts[:7])


# The recipes


def recipe(language, contains):
    page = (ROOT / "docs" / "gradients.md").read_text(encoding="utf-8")
    (code,) = (b for b in re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S) if contains in b)
    return compile(code, "docs/gradients.md", "exec")


def test_the_jax_recipe_on_the_toy():
    """Against the traces that experiment `batch` computes by quadrature, at the same prompts."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from experiments.batch import gradient_components
    from experiments.shared.mdn_training import TOY
    from mrtsim.losses import mdn_nll
    from mrtsim.models import MDN

    names = {}
    exec(recipe("python", "import jax"), names)
    key = jax.random.key(7)
    model = MDN(jax.random.fold_in(key, 0))
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    n, k = 32, 64
    prompts = TOY.sample_prompts(jax.random.fold_in(key, 1), n)
    responses, _ = TOY.sample_responses(jax.random.fold_in(key, 2), prompts, k)
    exact = {
        name: float(value) for name, value in eqx.filter_jit(gradient_components)(model, prompts).items()
    }

    def loss(parameters, prompt, response):
        return mdn_nll(eqx.combine(parameters, static), prompt[None], response[None, None])[0, 0]

    recipe_rows = jax.jit(functools.partial(names["per_response_gradients"], loss, parameters))
    rows = recipe_rows(jnp.repeat(prompts, k, axis=0), responses.ravel())
    assert rows.shape == (n * k, sum(a.size for a in jax.tree.leaves(parameters)))
    whole = jax.grad(lambda p: jnp.mean(mdn_nll(eqx.combine(p, static), prompts, responses)))(parameters)
    direct = np.concatenate([np.ravel(a) for a in jax.tree.leaves(whole)])
    np.testing.assert_allclose(np.mean(rows, axis=0), direct, atol=1e-5 * np.abs(direct).max())

    # The prompts are given, so only the responses make errors: 5 % in V_{y|x}, 10 % in V_x.
    prompt_of = np.repeat(np.arange(n), k)
    pilot = mrt.estimate_components(rows, prompt_of)
    assert pilot.components.response == pytest.approx(exact["response"], rel=0.15)
    assert pilot.components.prompt == pytest.approx(exact["prompt"], rel=0.3)
    ratio = exact["response"] / exact["prompt"]
    assert pilot.ratio.low <= ratio <= pilot.ratio.high

    sketch = names["sketch"](rows, jax.random.fold_in(key, 3), dimensions=400)
    assert sketch.shape == (n * k, 400)
    found = mrt.estimate_components(sketch, prompt_of, sketched=True)
    assert found.components.response == pytest.approx(pilot.components.response, rel=4 * (2 / 400) ** 0.5)


def test_the_torch_recipe():
    """Its syntax always; run where torch is installed, which this project does not ask for."""
    code = recipe("python", "import torch")
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: the recipe's syntax is checked, its numbers are not")
    import torch

    names = {}
    exec(code, names)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    prompts, responses = torch.randn(12, 5), torch.randn(12)
    rows = names["per_response_gradients"](
        model, lambda output, response: (output[0] - response) ** 2, prompts, responses
    )
    for row, prompt, response in zip(rows, prompts, responses, strict=True):
        model.zero_grad()
        ((model(prompt)[0] - response) ** 2).backward()
        direct = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(row, direct)
    assert names["sketch"](rows, 1, dimensions=9).shape == (12, 9)
