"""What a machine has: cores that a process may use, kinds of devices, and their memory."""

from __future__ import annotations

import os
from typing import Any

import jax

_UNKNOWN_MEMORY = 2**33  # of an accelerator that does not tell


def on_cpu(device: Any = None) -> bool:
    """Whether a device, or the default one, is a CPU."""
    return (device or jax.local_devices()[0]).platform == "cpu"


def device_memory(device: Any) -> int | None:
    """Bytes of an accelerator's own memory that JAX may use; None for a CPU."""
    if on_cpu(device):
        return None
    return (device.memory_stats() or {}).get("bytes_limit", _UNKNOWN_MEMORY)


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
