"""Is each way to break the code noticed? The table of mutants, applied one at a time to a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MUTANTS = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
PAGE = ROOT / "docs" / "testing.md"
NAMES = [f"{m['file']}: {m['breaks']}" for m in MUTANTS]
COPIED = (
    "mrtsim",
    "experiments",
    "figures",
    "tests",
    "benchmarks",
    "examples",
    "pyproject.toml",
    "README.md",
    "docs",
)


def test_there_are_at_least_forty_and_none_twice():
    assert len(MUTANTS) >= 40
    assert len(set(NAMES)) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_mutant_has_its_place_and_its_tests(mutant):
    source = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    assert source.count(mutant["old"]) == 1
    assert mutant["old"] != mutant["new"]
    for test in mutant["tests"]:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text


def test_the_page_lists_every_mutant():
    page = PAGE.read_text(encoding="utf-8")
    assert f"\n{len(MUTANTS)} ways below" in page
    for mutant in MUTANTS:
        assert f"| `{mutant['file']}` | {mutant['breaks']} |" in page


@pytest.mark.stress
@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_the_suite_notices(mutant, tmp_path):
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    target = tmp_path / mutant["file"]
    text = target.read_text(encoding="utf-8")
    target.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert str(tmp_path) in python("-c", "import mrtsim; print(mrtsim.__file__)").stdout
    done = python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not stress", *mutant["tests"])
    assert done.returncode == 1, f"survives, or breaks the run:\n{done.stdout[-2000:]}"


def test_every_property_test_has_a_mutant_of_its_own():
    """But those of files, which compare each container with the others."""
    alone = {test for mutant in MUTANTS for test in mutant["tests"] if "::" in test}
    for path in sorted((ROOT / "tests" / "properties").glob("test_*.py")):
        if path.name not in ("test_containers.py", "test_seeds.py"):
            for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M):
                assert f"tests/properties/{path.name}::{name}" in alone
