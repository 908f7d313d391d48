"""Do arrays have the shapes that the signatures say? The tests of the internals again, under jaxtyping's import hook.

Public functions take array-likes and have messages of their own, which the hook would come before; so it is not on for
the whole suite.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "subject",
    [
        "decomposition",
        "diagnostics",
        "distributions",
        "learners",
        "selection_theory",
        "tokens",
        "training",
        "transformer",
    ],
)
def test_signatures_hold_at_run_time(subject):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not stress"),
            *("--jaxtyping-packages=mrtsim,beartype.beartype", f"tests/test_{subject}.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
