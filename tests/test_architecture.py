"""Imports point one way: from experiments to the library, never back; figures stand alone, no experiment on another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mrtsim", "experiments", "figures", "benchmarks")


def imports(path: Path) -> set[str]:
    """The modules of this checkout that a file imports anywhere in it, by dotted name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.partition(".")[0] in PACKAGES}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def outwards(package: str, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), name)
        for path in files(package)
        for name in imports(path)
        if name.partition(".")[0] not in allowed
    ]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("mrtsim", ("mrtsim",)),
        ("figures", ("figures", "mrtsim")),
        ("experiments", ("experiments", "mrtsim", "figures")),
    ],
)
def test_no_package_imports_what_lies_further_out(package, allowed):
    assert len(files(package)) > 10
    assert outwards(package, allowed) == []


def test_figures_need_nothing_but_the_style():
    for path in files("figures"):
        others = {name for name in imports(path) if not name.startswith("figures")}
        assert others <= (
            {"mrtsim.estimates", "mrtsim.estimates.normal_quantile"} if path.stem == "style" else set()
        )
        assert {name for name in imports(path) if name.startswith("figures")} <= {"figures", "figures.style"}


def test_only_the_report_draws():
    drawing = {path.stem for path in files("experiments") if any("figures" in n for n in imports(path))}
    assert drawing == {"report"}


def test_no_experiment_imports_another_and_nothing_shared_imports_one():
    experiments = {path.stem for path in (ROOT / "experiments").glob("*.py") if not path.stem.startswith("_")}
    assert len(experiments) > 15
    for path in files("experiments"):
        assert not {
            n for n in imports(path) for e in experiments if f"{n}.".startswith(f"experiments.{e}.")
        }, path


def test_the_harness_does_not_need_what_experiments_share():
    for path in (ROOT / "experiments" / "harness").glob("*.py"):
        assert not {name for name in imports(path) if name.startswith("experiments.shared")}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_cycle_at_import(package):
    """Imports at the top of modules, without those inside functions or for types alone, form no cycle."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files(package)
    }
    graph = {}
    for name, path in modules.items():
        found = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = {n for n in found if n in modules and n != name and n != package}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert set(graph) - done == set()
