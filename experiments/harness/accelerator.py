"""What an accelerator needs to keep the promises of a run: the same bits again, and all digits of float32."""

from __future__ import annotations

import importlib.util
import os

import jax

from mrtsim.devices import on_cpu

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def ask_for_same_bits() -> None:
    """Have GPUs add in a fixed order; to be called before JAX looks for devices.

    Otherwise a GPU's scattered additions, and the kernels it picks by timing them, change low bits from run to run.
    What the environment variable XLA_FLAGS says already comes last, and wins.
    """
    if importlib.util.find_spec("jax_plugins") is not None:  # GPUs come as plugins of JAX
        os.environ["XLA_FLAGS"] = f"{DETERMINISTIC} {os.environ.get('XLA_FLAGS', '')}".strip()


def ask_for_all_digits() -> None:
    """Have an accelerator's float32 products in float32; it would round their inputs to TF32 or bfloat16."""
    if not on_cpu():
        jax.config.update("jax_default_matmul_precision", "highest")
