"""The files of pinned versions say what pyproject.toml says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pinned(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.replace("-", "_").lower(): version for name, version in pairs}


def lowest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["testing"]]
    return dict(requirement.split(">=") for requirement in named)


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_oldest_versions_are_those_that_pyproject_allows():
    oldest = pinned("constraints-oldest.txt")
    assert sorted(oldest) == sorted(lowest())
    for name, version in lowest().items():
        shown, wanted = numbers(oldest[name]), numbers(version)
        assert shown[: len(wanted)] == wanted, name
        assert not any(shown[len(wanted) :]), name


def test_the_tested_versions_are_allowed():
    tested = pinned("constraints.txt")
    for name, version in lowest().items():
        assert numbers(tested[name]) >= numbers(version), name
