"""Where a training step of E7 spends its time, part by part, each compiled alone: processor time on one core.

Run as `taskset -c 0 python benchmarks/profile_tokens.py`. Parts include their backward pass. What they do not sum to is
what the loop around them costs.
"""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import optax

from experiments import tokens
from experiments.shared.transformer import Transformer, _keep_all, keep_masks, next_token_nll

SEQUENCES, LENGTH = 64, 11
ROWS = SEQUENCES * LENGTH
PRODUCTS = {
    (64, 192): 2,
    (64, 64): 2,
    (64, 128): 2,
    (128, 64): 2,
    (64, 199): 1,
}  # inputs and outputs: how many


def milliseconds(fn, *args, rounds=7, times=40):
    """Least processor time per call over some rounds."""
    compiled = jax.jit(fn)
    jax.block_until_ready(compiled(*args))
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(times):
            jax.block_until_ready(compiled(*args))
        best = min(best, (time.process_time() - begin) / times)
    return 1e3 * best


def backward(fn, *args):
    """The function's result and the gradients of its sum."""
    return jax.value_and_grad(lambda *a: jnp.sum(fn(*a)), tuple(range(len(args))))(*args)


def normal(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape)


def step(model, state, optimiser, sequences, key):
    gradients = jax.grad(lambda m: next_token_nll(m, sequences, key).mean())(model)
    updates, state = optimiser.update(gradients, state, model)
    return optax.apply_updates(model, updates), state


def main():
    kernel = milliseconds(jnp.matmul, normal(2048, 2048), normal(2048, 2048), times=2)
    rate = 2 * 2048**3 / kernel  # operations per millisecond
    model = Transformer(jax.random.key(0), dropout=0.1)
    layer, key = model.layers[0], jax.random.key(1)
    sequences = tokens.TOY.sequences(tokens.TOY.sample_prompts(key, SEQUENCES))[:, 0]
    optimiser = tokens.PAPER.optimiser()
    state = optimiser.init(model)
    shapes = [(SEQUENCES, 4, LENGTH, LENGTH), (ROWS, 64), (ROWS, 128), (ROWS, 64)] * 2
    attention = milliseconds(
        lambda x: backward(lambda x: layer._attend(x, LENGTH, _keep_all), x), normal(ROWS, 64)
    )
    projection = milliseconds(
        lambda x, w, g: (x @ w.T, g @ w), normal(ROWS, 64), normal(192, 64), normal(ROWS, 192)
    )
    found = {
        "products": sum(
            n
            * milliseconds(
                lambda x, w, g: (x @ w.T, g @ w, g.T @ x), normal(ROWS, i), normal(o, i), normal(ROWS, o)
            )
            for (i, o), n in PRODUCTS.items()
        ),
        "attention without its projection, two layers": 2 * (attention - projection),
        "dropout: random bits": milliseconds(lambda key: keep_masks(key, model.dropout, shapes), key),
        "GELU, two layers": 2
        * milliseconds(partial(backward, partial(jax.nn.gelu, approximate=False)), normal(ROWS, 128)),
        "norms": 4 * milliseconds(partial(backward, jax.vmap(layer.norms[0])), normal(ROWS, 64)),
        "optimiser": milliseconds(lambda g, s: optimiser.update(g, s, g), model, state),
    }
    whole = milliseconds(lambda m, s, q, k: step(m, s, optimiser, q, k), model, state, sequences, key)
    floor = sum(n * 6 * ROWS * i * o for (i, o), n in PRODUCTS.items()) / rate
    print(
        f"kernel {rate / 1e6:.0f} GFLOP/s, floor {floor:.2f} ms step {whole:.2f} ms: {floor / whole:.0%} of the floor"
    )
    for name, value in {**found, "the rest": whole - sum(found.values())}.items():
        print(f"{name:50} {value:5.2f} ms")


if __name__ == "__main__":
    main()
