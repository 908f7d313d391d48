"""A small experiment for the tests of the runner, which put this folder on the path of the package `experiments`."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

CLAIMS = (2,)


@dataclass(frozen=True)
class Config:
    """Two settings of one shape."""

    replicates: int = 400
    scales: tuple[float, ...] = (1.0, 3.0)
    steps: int = 2_000


PRESETS = {"quick": Config(replicates=40), "paper": Config(), "precise": Config(replicates=4_000)}


def _replicate(key, scale, steps):
    draws = jax.random.normal(key, (64,)) * scale
    chaos = jax.lax.fori_loop(0, steps, lambda _, c: jnp.sin(3 * c + draws), draws)
    return {"mean": draws.mean(), "chaos": chaos.sum()}


def run(config, key, sweep):
    settings = {f"scale={scale:g}": (scale, config.steps) for scale in config.scales}
    found = sweep.grid(_replicate, key, config.replicates, settings, block=4)
    return {
        label: {"variance": out["mean"].var(ddof=1), "chaos": out["chaos"].mean()}
        for label, out in found.items()
    }


def predictions(result):
    return []
