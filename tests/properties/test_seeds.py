"""Do the properties hold for other examples too? Every search again under 20 seeds (`make stress`)."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(20))
def test_properties_hold_under_another_seed(seed):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not stress"),
            *("--hypothesis-profile=seeded", f"--hypothesis-seed={seed}", str(HERE)),
        ],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
