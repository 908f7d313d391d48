"""Arrays have the shapes that the signatures say: the tests of the internals again, under jaxtyping's import hook.

Public functions take array-likes and have messages of their own, which the hook would come before; so it is not on for
the whole suite.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# The second takes two minutes of a core: it is a stress test.
PARTS = {
    "library": ("distributions", "diagnostics", "test_models.py", "selection/test_exact_laws.py"),
    "experiments": (
        "experiments/test_tokens.py",
        "experiments/shared/test_training.py",
        "experiments/shared/test_transformer.py",
    ),
}


@pytest.mark.parametrize("part", ["library", pytest.param("experiments", marks=pytest.mark.stress)])
def test_signatures_hold_at_run_time(part):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not stress"),
            "--jaxtyping-packages=mrtsim,experiments,beartype.beartype",
            *(f"tests/{subject}" for subject in PARTS[part]),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
