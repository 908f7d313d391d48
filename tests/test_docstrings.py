"""Docstrings keep one form: arguments of public functions of three or more are described, by their names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "mrtsim").rglob("*.py"))


def functions(path):
    """(name, node, docstring that describes its arguments): public ones; of a constructor that is its class's."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    own = node if method.name == "__init__" else method
                    if own is node or not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method, ast.get_docstring(own)


def parameters(node):
    a = node.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [p.arg for p in every if p.arg not in ("self", "cls")]


def sections(docstring):
    """Name of each section and its lines."""
    for name, body in re.findall(r"^(\w+):\n((?:    .*\n?|\n)*)", docstring, re.M):
        yield name, body.splitlines()


def described(docstring):
    """The names that `Args:` describes, or None without it."""
    for name, lines in sections(docstring):
        if name == "Args":
            entries = [re.match(r" {4}(\S[^:(]*?)(?: \([^)]*\))?:", line) for line in lines]
            return [part.strip(" *") for entry in filter(None, entries) for part in entry[1].split(",")]
    return None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_arguments_are_described_by_their_names(path):
    for name, node, docstring in functions(path):
        names = parameters(node)
        if docstring is None:  # a method that implements a documented protocol repeats nothing
            continue
        found = described(docstring)
        if found is not None:
            assert found == names, f"{path}: {name}"
        elif not name.endswith("__init__"):
            assert len(names) < 3, f"{path}: {name}({', '.join(names)}) has no Args"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_descriptions_start_in_lower_case_and_first_lines_are_sentences(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            docstring = ast.get_docstring(node) or ""
            first = docstring.split("\n")[0]
            assert not re.match(r"(Of|From|The same) |.*\?$", first), f"{path}: {first}"
            for name, lines in sections(docstring):
                if name in ("Args", "Attributes", "Raises"):
                    for line in lines:
                        assert not re.match(r" {4}\w+: (The|An|Whether|Which|How|What|Where) ", line), (
                            path,
                            line,
                        )
