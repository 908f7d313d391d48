"""What the documentation says is true: the tests it names exist, its examples run and print what it shows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THEORY = ROOT / "docs" / "theory.md"


def defined_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def named_tests():
    found = set()
    for page in (ROOT / "docs").glob("*.md"):
        found |= set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")))
    return sorted(found)


def test_the_pages_name_tests():
    assert len(named_tests()) > 40


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_every_test_that_the_documentation_names_exists(path, name):
    assert name in defined_in(ROOT / path)


def test_every_formula_names_its_check():
    for section in re.split(r"\n(?=##+ )", THEORY.read_text(encoding="utf-8")):
        if re.search(r"^> ", section, re.M):
            assert "Checked by" in section, section.splitlines()[0]


def test_every_module_that_the_theory_names_exists():
    for module, attribute in re.findall(r"`mrtsim\.(\w+)(?:\.(\w+))?`", THEORY.read_text(encoding="utf-8")):
        path = ROOT / "mrtsim" / f"{module}.py"
        assert path.exists(), module
        if attribute:
            names = {
                n.name
                for n in ast.walk(ast.parse(path.read_text()))
                if isinstance(n, ast.FunctionDef | ast.ClassDef)
            }
            assert attribute in names, f"{module}.{attribute}"


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("number", range(len(blocks("CONTRIBUTING.md", "python"))))
def test_the_examples_for_contributors_run(number):
    exec(compile(blocks("CONTRIBUTING.md", "python")[number], "CONTRIBUTING.md", "exec"), {"__name__": "example"})
