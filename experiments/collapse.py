"""The error of the mean loss against N_p, K and N, exact and measured: more data does not remove a strategy's bias.

Untrained MDN, fresh prompts in every training set. The bias of BKoN is an integral over prompts and its kept density,
in which N_p does not occur; RKoN has none, and DBKoN is measured beside them. Errors are against the population loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from scipy.stats import qmc
from tqdm import tqdm

from experiments.harness.statements import Prediction, Role, above, below, equals, number
from mrtsim.diagnostics.simulate import response_similarity
from mrtsim.distributions.gaussian_modes import GaussianModes
from mrtsim.distributions.quadrature import hermite
from mrtsim.errors import InputError
from mrtsim.estimates import Estimate
from mrtsim.losses import mixture_nll
from mrtsim.models import MDN
from mrtsim.montecarlo import subkeys
from mrtsim.selection.exact_laws import bkon_law, rkon_law
from mrtsim.selection.registry import Pool, strategy

CLAIMS = (6, 7, 9)
_TOY = GaussianModes()


@dataclass(frozen=True)
class Config:
    """N and K for the exact grid, and those that are simulated.

    `replicates` are training sets of the smallest N_p; each larger N_p, a multiple of it, gets as many prompts in all,
    fresh ones. `points` are prompts of the exact expectation, in `randomisations` scrambled Sobol sets.
    """

    n_prompts: tuple[int, ...] = (10, 100, 1000, 10_000)
    n_candidates: int = 32
    k: int = 4
    grid_candidates: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    grid_responses: tuple[int, ...] = (1, 2, 4, 8, 16)
    strategies: tuple[str, ...] = ("rkon", "bkon", "dbkon", "dkon", "filtered-max-min")
    replicates: int = 3_000
    points: int = 64
    randomisations: int = 4

    def __post_init__(self):
        if self.replicates * self.n_prompts[0] < 3 * self.n_prompts[-1]:
            least = -(-3 * self.n_prompts[-1] // self.n_prompts[0])
            raise InputError(
                f"replicates = {self.replicates} make fewer than 3 training sets of {self.n_prompts[-1]} prompts: "
                f"use at least {least}"
            )
        if "rkon" not in self.strategies:
            raise InputError("strategies must contain rkon: the others are compared with it")


PRESETS = {
    "quick": Config(replicates=4000, n_prompts=(10, 100, 1000), points=32, grid_candidates=(8, 32, 128)),
    "paper": Config(),
    "precise": Config(replicates=20_000, points=512, randomisations=16),
}


def run(config: Config, key: PRNGKeyArray, sweep: Any) -> dict[str, Any]:
    """The exact grid, then training sets of every size under each strategy."""
    model_key, sobol_key, trial_key = subkeys(key, 3)
    with jax.enable_x64(True):
        model = MDN(model_key)
        sets = _prompts(config, sobol_key)
        losses = [_loss(model, prompts) for prompts in sets]
        truth = [values(rkon_law(_TOY, x, 1, 1))["mean"] for x, values in zip(sets, losses, strict=True)]
        exact = partial(_exact, sets, losses, truth)
        cells = [(n, k) for n in config.grid_candidates for k in config.grid_responses if k <= n]
        bar = tqdm(cells, desc="exact grid", disable=None if sweep.progress else True)
        grid = [{"n": n, "k": k, **exact(n, k)} for n, k in bar]
        known = {"rkon": exact(config.k, config.k), "bkon": exact(config.n_candidates, config.k)}
        fn = partial(_training_set, config.n_prompts[0], config.n_candidates, config.k)
        found = {
            name: _measure(sweep, name, partial(fn, name), trial_key, model, config)
            for name in config.strategies
        }
    measured = {
        name: [
            row | {"above_rkon_error": _mean_error(own - rkon)}
            for (row, own), (_, rkon) in zip(rows, found["rkon"], strict=True)
        ]
        for name, rows in found.items()
    }
    return {
        "n_candidates": config.n_candidates,
        "k": config.k,
        "exact": known,
        "grid": grid,
        "measured": measured,
    }


def _prompts(config: Config, key: PRNGKeyArray) -> list[np.ndarray]:
    rng = np.random.default_rng(jax.random.bits(key, (4,)).tolist())
    return [
        np.asarray(_TOY.prompts_at(jnp.asarray(qmc.Sobol(_TOY.prompt_dim, rng=rng).random(config.points))))
        for _ in range(config.randomisations)
    ]


def _loss(model: MDN, prompts: np.ndarray) -> Any:
    """A map from a law at these prompts to the exact mean and variance of the K-mean, and the modes' frequencies."""
    mixture = model(jnp.asarray(prompts))
    nll = jax.jit(mixture_nll)
    offsets, weights, scales = (np.asarray(a) for a in (_TOY.offsets, _TOY.weights, _TOY.scales))
    centre = np.asarray(_TOY.centre(jnp.asarray(prompts)))

    def moments(law: Any) -> dict[str, np.ndarray]:
        kept = law.moments(np.asarray(nll(mixture, jnp.asarray(law.responses))))
        # The law does not depend on the prompt but for its centre: one prompt tells the modes.
        z = law.responses[:1, :, None] - centre[0]
        logs = -0.5 * ((z - offsets) / scales) ** 2 - np.log(scales) + np.log(weights)
        modes = np.exp(logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True))
        return {
            "mean": kept.mean,
            "variance": kept.variance,
            "modes": np.einsum("q,qm->m", law.kept[0], modes[0]),
        }

    return moments


def _exact(
    sets: list[np.ndarray], losses: list[Any], truth: list[np.ndarray], n: int, k: int
) -> dict[str, Any]:
    found = [values(bkon_law(_TOY, x, n, k)) for x, values in zip(sets, losses, strict=True)]
    bias = np.array([(f["mean"] - t).mean() for f, t in zip(found, truth, strict=True)])
    modes = found[0]["modes"]
    weights = np.asarray(_TOY.weights)
    return _over_sets(found) | {
        "bias": float(bias.mean()),
        "bias_error": float(bias.std(ddof=1) / np.sqrt(len(bias))),
        # Of the mean over one prompt: V_x of the kept mean, and the variance given the prompt.
        "modes": modes.tolist(),
        "kl": float(np.sum(np.where(modes > 0, modes * np.log(np.maximum(modes, 1e-300) / weights), 0.0))),
    }


def _over_sets(found: list[dict[str, np.ndarray]]) -> dict[str, float]:
    means = np.array([f["mean"].mean() for f in found])
    every = np.concatenate([f["mean"] for f in found])
    within = np.concatenate([f["variance"] for f in found])
    return {
        "mean": float(means.mean()),
        "mean_error": float(means.std(ddof=1) / np.sqrt(len(means))),
        "variance": float(every.var() + within.mean()),
    }


def _training_set(
    n_prompts: int, n: int, k: int, name: str, key: PRNGKeyArray, model: MDN
) -> dict[str, Array]:
    """Mean loss over a training set, and its mean distance to the exact E[l | x] of the same prompts."""
    prompt_key, pool_key, strategy_key = jax.random.split(key, 3)
    chosen = strategy(name)
    prompts = _TOY.sample_prompts(prompt_key, n_prompts)
    pool, _ = _TOY.sample_responses(pool_key, prompts, n)
    geometry = {"similarity", "distance"} & set(chosen.needs)
    candidates = Pool(
        rewards=_TOY.reward(prompts, pool), similarity=response_similarity(pool) if geometry else None
    )
    kept = chosen(strategy_key if chosen.random else None, candidates, k)
    mixture = model(prompts)
    losses = mixture_nll(mixture, jnp.take_along_axis(pool, kept, axis=1)).mean(1)
    nodes, weights = _TOY.quadrature(prompts, hermite(12))
    return {"loss": losses.mean(), "error": (losses - (mixture_nll(mixture, nodes) * weights).sum(1)).mean()}


def _measure(
    sweep: Any, name: str, fn: Any, key: PRNGKeyArray, model: MDN, config: Config
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Bias, variance and EMSE of the mean loss over training sets of each size, each from prompts of its own.

    Beside each row what every set adds to the EMSE, (sets,): with the same key strategies have the same sets.
    """
    rows = []
    for size in config.n_prompts:
        merge = size // config.n_prompts[0]
        parts = config.replicates // merge * merge
        found = sweep.replicates(f"{name}/n_prompts={size}", fn, jax.random.fold_in(key, size), parts, model)
        loss, error = (found[part].reshape(-1, merge).mean(1) for part in ("loss", "error"))
        count = len(loss)
        # The bias prompt by prompt, which V_x does not enter: the interval is narrow.
        bias, bias_error = float(error.mean()), _mean_error(error)
        squares = (loss - loss.mean()) ** 2
        variance = float(squares.sum() / (count - 1))
        # By the jackknife; the constants cancel.
        influence = 2 * bias * error + count / (count - 2) * squares
        rows.append(
            (
                {
                    "n_prompts": size,
                    "sets": count,
                    "bias": bias,
                    "bias_error": bias_error,
                    "variance": variance,
                    "emse": bias**2 - bias_error**2 + variance,
                    "emse_error": _mean_error(influence),
                },
                influence,
            )
        )
    return rows


def _mean_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


_NAMES = {
    "rkon": "RKoN",
    "bkon": "BKoN",
    "dbkon": "DBKoN",
    "dkon": "DKoN",
    "filtered-max-min": "filtered max-min",
}


def predictions(result: dict[str, Any]) -> list[Prediction]:
    """Claims 6, 7 and 9: whose bias more data removes."""
    measured, exact = result["measured"], result["exact"]
    n, k = result["n_candidates"], result["k"]
    first, last = ({name: rows[i] for name, rows in measured.items()} for i in (0, -1))
    few, many = first["rkon"]["n_prompts"], last["rkon"]["n_prompts"]
    bkon = exact["bkon"]["bias"]
    bias = {name: Estimate.from_standard_error(row["bias"], row["bias_error"]) for name, row in last.items()}
    ratio = last["bkon"]["bias"] / first["bkon"]["bias"]
    relative = np.hypot(*(row["bias_error"] / row["bias"] for row in (first["bkon"], last["bkon"])))
    best = min((name for name in last if name != "rkon"), key=lambda name: last[name]["emse"])
    share = max(exact["bkon"]["modes"])
    found = [
        Prediction(
            "collapse.bkon-bias-left",
            7,
            f"BKoN's bias of the loss, N_p = {many} / N_p = {few}",
            Estimate.from_standard_error(ratio, float(abs(ratio) * relative)),
            equals(1.0, relative=0.05),
            Role.PRIMARY,
            note=f"N = {n}, K = {k}; "
            + ", ".join(f"{row['bias']:.4f} at N_p = {row['n_prompts']}" for row in measured["bkon"]),
        ),
        Prediction(
            "collapse.bkon-emse",
            7,
            f"EMSE of the mean loss, BKoN − RKoN, N_p = {many}",
            _over_rkon(last["bkon"], last["rkon"]),
            above(0.0),
            Role.PRIMARY,
            unit="nats^2",
            note=f"exact {bkon**2 + (exact['bkon']['variance'] - exact['rkon']['variance']) / many:.4f}; "
            f"BKoN {last['bkon']['emse']:.3g}, RKoN {last['rkon']['emse']:.3g}",
        ),
        Prediction(
            "collapse.bkon-bias",
            7,
            f"BKoN's bias of the mean loss, N_p = {many}",
            bias["bkon"],
            equals(bkon, relative=0.05),
            Role.LIMIT,
            unit="nats",
        ),
        Prediction(
            "collapse.bkon-mode-share",
            7,
            "share of BKoN's kept responses on one of the three modes, exact",
            number(share),
            above(0.9),
            Role.PRIMARY,
            note=f"KL(kept || truth) = {exact['bkon']['kl']:.3f} nats, at most log 3 = {np.log(3):.3f}",
        ),
        Prediction(
            "collapse.rkon-bias",
            6,
            f"RKoN's bias of the mean loss, N_p = {many}",
            bias["rkon"],
            equals(0.0, absolute=0.01 * abs(bkon)),
            Role.LIMIT,
            unit="nats",
            note=f"the margin is 1 % of BKoN's bias; N = {n}, K = {k}",
        ),
        Prediction(
            "collapse.best-over-rkon",
            6,
            f"EMSE of the mean loss, best other strategy ({_NAMES[best]}) − RKoN, N_p = {many}",
            _over_rkon(last[best], last["rkon"]),
            above(0.0),
            Role.LIMIT,
            unit="nats^2",
            note=f"{_NAMES[best]} has {last[best]['emse']:.3g} nats^2, RKoN {last['rkon']['emse']:.3g}",
        ),
    ]
    if "dkon" in first:
        found.append(
            Prediction(
                "collapse.dkon-over-rkon",
                9,
                f"EMSE of the mean loss, DKoN − RKoN, N_p = {few}",
                _over_rkon(first["dkon"], first["rkon"]),
                below(0.0),
                Role.LIMIT,
                unit="nats^2",
                note="where prompts are many its bias is what is left",
            )
        )
    if "dbkon" in last:
        row = last["dbkon"]
        found.append(
            Prediction(
                "collapse.dbkon-bias",
                9,
                "bias of the mean loss, DBKoN (alpha = 1) / BKoN",
                Estimate.from_standard_error(row["bias"] / bkon, row["bias_error"] / abs(bkon)),
                below(0.5),
                Role.LIMIT,
                note="a little bias would be less than half of BKoN's",
            )
        )
    return found


def _over_rkon(row: dict[str, Any], rkon: dict[str, Any]) -> Estimate:
    """By how much the EMSE is above RKoN's on the same training sets."""
    return Estimate.from_standard_error(row["emse"] - rkon["emse"], row["above_rkon_error"], row["sets"] - 1)
