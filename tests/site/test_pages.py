"""The pages of the site: every command and example on them runs and prints what they show."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mrtsim.cli import main
from mrtsim.selection import registry

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs" / "start.md",
    ROOT / "docs" / "command_line.md",
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
PAGE_IDS = [path.stem for path in PAGES]


@pytest.fixture
def in_copy(tmp_path, monkeypatch):
    """A folder of one's own, with the examples in it; what a page registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry.strategies()))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_commands_and_sessions_print_what_the_page_shows(path, in_copy, capsys):
    """In the order of the page, in one folder and one session; three dots stand for any lines, or the rest of one."""
    session = {}
    for language, block in re.findall(
        r"^```(console|python)\n(.*?)^```", path.read_text("utf-8"), re.M | re.S
    ):
        if language == "python":
            assert ">>>" in block
            examples = doctest.DocTestParser().get_doctest(block, session, path.stem, str(path), 0)
            result = doctest.DocTestRunner().run(examples, clear_globs=False)
            assert result.failed == 0, capsys.readouterr().out
            session = examples.globs
            continue
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "mrtsim", command
            assert main(arguments) == 0, command
            pattern = re.sub(r"^\\\.\\\.\\\.\\?\n", r"(?:.*\\n)*?", re.escape(shown), flags=re.M)
            printed = capsys.readouterr().out
            assert not shown or re.fullmatch(pattern.replace(r"\.\.\.", ".*"), printed), (
                f"{command}\n{printed}"
            )


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_shell_lines_are_commands_of_the_checkout(path):
    for block in blocks(path, "sh"):
        for line in block.splitlines():
            if line.startswith("mrtsim "):
                assert main_stops(shlex.split(line, comments=True)[1:]) == 0, line
            else:
                assert re.match(
                    r"python (-m experiments (list|run|report)|examples/\w+\.py)|make \w+|pip install", line
                ), line


def main_stops(arguments):
    """The exit code of a command whose output goes to a file."""
    command = arguments[: arguments.index(">")]
    try:
        return main(command)
    except SystemExit as stop:
        return stop.code
