"""What the documentation says is true: the tests it names exist, its examples run and print what it shows."""

import ast
import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mrtsim.cli import main
from mrtsim.pilot import intervals
from mrtsim.selection import registry
from mrtsim.tables import formats

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
    for dotted in re.findall(r"`((?:mrtsim|experiments)(?:\.\w+)+)`", THEORY.read_text(encoding="utf-8")):
        path = ROOT.joinpath(*dotted.split("."))
        if path.is_dir() or path.with_suffix(".py").exists():
            continue
        module, attribute = path.parent, path.name
        if not module.with_suffix(".py").exists():  # a method: module.Class.method
            module, attribute = module.parent, path.name
        nodes = list(ast.walk(ast.parse(module.with_suffix(".py").read_text(encoding="utf-8"))))
        names = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        names |= {
            n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        assert attribute in names, dotted


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("number", range(len(blocks("CONTRIBUTING.md", "python"))))
def test_the_examples_for_contributors_run(number, monkeypatch):
    # What an example registers is gone after it.
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry.strategies()))
    monkeypatch.setattr(intervals, "_methods", intervals.interval_methods())
    monkeypatch.setattr(formats, "FORMATS", [*formats.FORMATS])
    exec(
        compile(blocks("CONTRIBUTING.md", "python")[number], "CONTRIBUTING.md", "exec"),
        {"__name__": "example"},
    )


def commands(page):
    """(command, what the page shows that it prints) for every `$` line of its console blocks."""
    found = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            found.append((command, shown))
    return found


@pytest.mark.parametrize(("command", "shown"), commands("README.md"))
def test_the_readme_shows_what_its_commands_print(command, shown, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    assert program == "mrtsim"
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    # a line of three dots stands for any lines
    assert doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS), printed


def test_the_readme_shows_no_more_output_than_a_reader_takes_in():
    assert sum(shown.count("\n") for _, shown in commands("README.md")) <= 45


def test_the_readme_session_runs(monkeypatch):
    # What it registers is gone after it.
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry.strategies()))
    failures, tests = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert tests > 5
    assert failures == 0
