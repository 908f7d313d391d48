"""Random pools for the tests of selection."""

import jax
import numpy as np

KEY = jax.random.key(7)


def pools(prompts, candidates, features=3, seed=0, dtype=np.float64):
    """Rewards and embeddings without ties."""
    rng = np.random.default_rng(seed)
    return {
        "rewards": rng.normal(size=(prompts, candidates)),
        # Numbers that float32 holds, as `select` takes them.
        "embeddings": rng.normal(size=(prompts, candidates, features)).astype(np.float32).astype(dtype),
    }


def tied_pools(prompts, candidates, rng):
    """Few distinct rewards and directions, so that most pools hold ties and duplicates."""
    embeddings = rng.integers(-1, 2, size=(prompts, candidates, 3)).astype(float)
    embeddings[~embeddings.any(axis=-1)] = (1, 0, 0)
    return rng.integers(0, 4, size=(prompts, candidates)).astype(float), embeddings
