"""Settings for every test, and one compilation cache for all processes of a run."""

import os
import shutil
import tempfile

from hypothesis import settings

# One machine's speed must not decide a verdict, and a test must not change from run to run.
settings.register_profile("mrtsim", deadline=None, derandomize=True)
# `--hypothesis-profile=seeded --hypothesis-seed=N`: other examples for each N, the same for the same N.
settings.register_profile("seeded", deadline=None, derandomize=False, database=None)
settings.load_profile("mrtsim")

# What one worker has compiled no other worker, and no process that a test starts, compiles again. JAX reads these
# variables when it is imported, which is later; a folder that was given is used as it is.
OURS = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if OURS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mrtsim-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def pytest_unconfigure():
    if OURS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
