"""The import graph: which rooms may use which, and that no module needs itself."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("mrtsim", "experiments", "figures", "benchmarks")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules():
    """Module name -> file."""
    return {name_of(path): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}


def statements(tree, *, loading):
    """Import statements; with `loading` those alone that run when the module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif loading and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            continue
        else:
            yield from statements(node, loading=loading)


@cache
def imports(module, *, loading=False):
    """The modules of this repository that a module imports, anywhere in its code or when it is loaded."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), loading=loading):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        parts = package.split(".")
        start = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*start, *filter(None, [node.module])])
        for alias in node.names:
            found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base)
    return {target for target in found if target.split(".")[0] in ROOMS} - {module}


def edges(source, target):
    """Imports from modules of one room (or package) into another."""
    inside = lambda module, room: module == room or module.startswith(f"{room}.")  # noqa: E731
    return sorted(
        f"{module} -> {used}"
        for module in modules()
        if inside(module, source)
        for used in imports(module)
        if inside(used, target)
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("mrtsim", room) for room in ROOMS[1:]),
        ("figures", "experiments"),
        ("figures", "benchmarks"),
        ("experiments", "benchmarks"),
    ],
)
def test_no_import_goes_outwards(source, target):
    assert edges(source, target) == []


def test_experiments_do_not_import_each_other():
    """An experiment uses the package, the harness, and what experiments share; and these use no experiment."""
    runs = {module for module in modules() if module.count(".") == 1 and module.startswith("experiments.")}
    runs -= {"experiments.__main__", "experiments.harness", "experiments.shared"}
    assert len(runs) > 10
    users = {module for module in modules() if module.split(".")[0] in ("experiments", "figures")}
    found = {f"{module} -> {used}" for module in users for used in imports(module) & runs}
    assert found == set()


def test_no_module_needs_itself():
    """No cycle among the imports of loading. (A registry loads its built-in entries on first use.)"""
    done, path = set(), []

    def visit(module):
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module) :], module]))
        if module in done:
            return
        path.append(module)
        for used in sorted(imports(module, loading=True) & set(modules())):
            visit(used)
        done.add(path.pop())

    for module in sorted(modules()):
        visit(module)


def test_packages_hold_a_docstring_alone():
    """So that importing one module of a room does not load the others."""
    for module, path in modules().items():
        if path.name == "__init__.py" and module not in ("mrtsim", "mrtsim.cli", "experiments", "figures"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) <= 1, module


def test_the_graph_is_seen():
    """The search finds imports of every form."""
    assert "mrtsim.estimates" in imports("mrtsim.diagnostics.reports")
    assert "mrtsim.montecarlo" in imports("mrtsim.diagnostics.simulate")  # from a package
    assert "mrtsim.selection.select_file" in imports("mrtsim.cli.select")  # inside a function
    assert "mrtsim.selection.select_file" not in imports("mrtsim.cli.select", loading=True)
    assert "mrtsim.selection.registry" not in imports(
        "mrtsim.cli.select", loading=True
    )  # for type checkers alone
