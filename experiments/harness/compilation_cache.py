"""Compiled programs kept for the next run: JAX's persistent compilation cache, in the user's cache folder.

Nothing here happens on import: a program asks for it with `enable_compilation_cache()`, as `python -m experiments`
does. The folder can be deleted at any time. The environment variable MRTSIM_CACHE names another folder, or switches the
cache off with `off`; a folder that JAX was already given (JAX_COMPILATION_CACHE_DIR) is left as it is.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import jax

from mrtsim.devices import usable_cores


def enable_compilation_cache() -> Path | None:
    """Turn the persistent compilation cache on for this process; returns its folder, or None where it is off.

    Programs that were compiled for another processor or core count are kept apart. Entries that a killed run left half
    written are removed; one that is damaged otherwise costs a warning and a compilation.
    """
    wanted = os.environ.get("MRTSIM_CACHE", "")
    if wanted.lower() in ("off", "0", "no", "false"):
        return None
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None:
        folder = (Path(wanted).expanduser() if wanted else user_cache_folder() / "mrtsim") / _machine()
        try:
            _remove_torn_entries(folder)
        except OSError:  # a home that cannot be written to
            return None
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX's defaults skip what compiles within a second, which is most of what we compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return Path(folder)


def _remove_torn_entries(folder: Path) -> None:
    """JAX writes entries in place and never replaces one: look at those that are newer than the last look."""
    folder.mkdir(parents=True, exist_ok=True)
    looked = folder / ".looked"
    since = looked.stat().st_mtime if looked.exists() else 0.0
    looked.touch()
    for entry in folder.glob("*-cache"):
        with suppress(FileNotFoundError):  # another process may have removed it
            if entry.stat().st_mtime >= since and not _is_whole(entry.read_bytes()):
                entry.unlink()


def _is_whole(content: bytes) -> bool:
    if content[:1] != b"x":  # not zlib: JAX uses Zstandard where it finds it
        return bool(content)
    stream = zlib.decompressobj()
    try:
        stream.decompress(content)
    except zlib.error:
        return False
    return stream.eof


def user_cache_folder() -> Path:
    """The platform's folder for a user's caches."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def instruction_set() -> str:
    """The processor's vector instructions, such as "x86_64 avx avx2 avx512f fma"; the architecture where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next(
        (line.split(":")[1].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    vector = sorted(f for f in flags if f.startswith(("avx", "amx", "fma", "asimd", "sve", "bf16")))
    return " ".join([platform.machine(), *vector])


def _machine() -> str:
    identity = f"{instruction_set()}, {usable_cores()} cores"
    return f"{platform.machine()}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
