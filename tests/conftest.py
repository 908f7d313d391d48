"""Settings for every test."""

from hypothesis import settings

# One machine's speed must not decide a verdict, and a test must not change from run to run.
settings.register_profile("mrtsim", deadline=None, derandomize=True)
# `--hypothesis-profile=seeded --hypothesis-seed=N`: other examples for each N, the same for the same N.
settings.register_profile("seeded", deadline=None, derandomize=False, database=None)
settings.load_profile("mrtsim")
