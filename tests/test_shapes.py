"""Arrays have the shapes that the signatures say: the tests of the internals again, under jaxtyping's import hook.

Public functions take array-likes and have messages of their own, which the hook would come before; so it is not on for
the whole suite.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# These tests reach no function that the others of the library do not: `make stress` has them.
SLOW = (
    "settings_compared_are_settings_measured",
    "panels_agree_with",
    "measured_equals_exact",
    "agrees_with_simulation",
    "every_distribution_agrees_with_itself",
    "losses_that_are_not_factored_agree",
    "memory_does_not_grow",
    "another_reward_selects_otherwise",
    "the_truth_is_the_expectation",
    "samples_follow_the_density",
    "gradients_agree_with_finite_differences",
    "any_reward_and_any_distribution",
)
PARTS = {
    "library": ("distributions", "diagnostics", "test_models.py", "selection/test_exact_laws.py"),
    "experiments": (
        "experiments/test_tokens.py",
        "experiments/shared/test_training.py",
        "experiments/shared/test_transformer.py",
    ),
}


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        pytest.param("library", f"not ({' or '.join(SLOW)})", id="library"),
        pytest.param("library", "", marks=pytest.mark.stress, id="whole library"),
        pytest.param("experiments", "", marks=pytest.mark.stress, id="experiments"),
    ],
)
def test_signatures_hold_at_run_time(part, wanted):
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-m",
                "not stress",
                "-k",
                wanted,
            ),
            "--jaxtyping-packages=mrtsim,experiments,beartype.beartype",
            *(f"tests/{subject}" for subject in PARTS[part]),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
