"""The calibration kernel: a 2048 x 2048 product, by which every timing is scaled."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

SIZE = 2048


def gigaflops(repeats: int = 5, dtype: Any = jnp.float32) -> float:
    """The best rate of a few products, in GFLOP/s; float64 in `jax.enable_x64(True)`."""
    product = jax.jit(jnp.matmul)
    matrix = jnp.full((SIZE, SIZE), 0.5, dtype)
    product(matrix, matrix).block_until_ready()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * SIZE**3 / min(times) / 1e9


if __name__ == "__main__":
    print(f"{gigaflops():.0f} GFLOP/s")
