"""Settings for every test."""

from hypothesis import settings

# One machine's speed must not decide a verdict, and a test must not change from run to run.
settings.register_profile("mrtsim", deadline=None, derandomize=True)
settings.load_profile("mrtsim")
