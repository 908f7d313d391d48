"""An accelerator is asked for the same bits and all digits; a CPU needs neither."""

import importlib.util
import os

import jax
import pytest

from experiments.harness import accelerator


@pytest.mark.parametrize("flags", [None, "--xla_dump_to=there"])
@pytest.mark.parametrize("plugins", [False, True])
def test_gpus_are_asked_for_the_same_bits(monkeypatch, flags, plugins):
    if flags is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if plugins else None)
    accelerator.ask_for_same_bits()
    wanted = " ".join(part for part in (accelerator.DETERMINISTIC if plugins else None, flags) if part)
    assert os.environ.get("XLA_FLAGS", "") == wanted


@pytest.mark.parametrize("cpu", [True, False])
def test_accelerators_are_asked_for_all_digits(monkeypatch, cpu):
    monkeypatch.setattr(accelerator, "on_cpu", lambda: cpu)
    before = jax.config.values["jax_default_matmul_precision"]
    try:
        accelerator.ask_for_all_digits()
        assert jax.config.values["jax_default_matmul_precision"] == (before if cpu else "highest")
    finally:
        jax.config.update("jax_default_matmul_precision", before)
