"""Build the documentation site into build/site: `python docs/build.py` with the extra `docs` installed.

The pages are copied to build/pages at their places in the repository, so that a link that works there works here.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "pages"
SOURCES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "benchmarks/README.md",
    "docs",
    "examples",
    "figures",
    "paper_repro.md",
)
# room of mrtsim/ -> title of its page; the names on it are those of mrtsim/__init__.pyi
API = {
    "plan": "Planning a budget",
    "pilot": "Estimating from a pilot",
    "tables": "Reading files",
    "selection": "Keeping K of N",
    "variance": "The variance law",
    "distributions": "Toy distributions",
    "diagnostics": "Measuring strategies",
    "more": "Everything else",
}
WHOLE = {
    "testing": "Checks for your own method",
    "losses": "Losses",
    "models": "Models",
    "montecarlo": "The replicate engine",
}  # modules without a name in the stub


def stage() -> None:
    """Copy the pages, README.md as the first of them, and write those of notebooks and of the API."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for name in SOURCES:
        source, target = ROOT / name, PAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "README.md", PAGES / "index.md")
    write_api(PAGES / "docs" / "api")
    write_notebooks(PAGES / "docs" / "notebooks")


def write_api(folder: Path) -> None:
    """One page per package, with every public name that lives in it."""
    stub = (ROOT / "mrtsim" / "__init__.pyi").read_text(encoding="utf-8")
    names: dict[str, list[str]] = {}
    for room, name in re.findall(r"^from \.(\w+)[\w.]* import (\w+) as", stub, re.M):
        names.setdefault(room if room in API else "more", []).append(name)
    folder.mkdir(parents=True)
    for room, title in (API | WHOLE).items():
        path = ROOT / "mrtsim" / room
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        about = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source.exists() else None
        entries = [f"mrtsim.{name}" for name in names[room]] if room in API else [f"mrtsim.{room}"]
        blocks = [f"# {title}", (about or "") if room in API else "", *(f"::: {entry}" for entry in entries)]
        (folder / f"{room}.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def write_notebooks(folder: Path) -> None:
    """Each notebook as a page, its pictures beside it."""
    import nbconvert
    import nbformat

    for notebook in sorted(folder.glob("*.ipynb")):
        text, resources = nbconvert.MarkdownExporter().from_notebook_node(
            nbformat.read(notebook, as_version=4)
        )
        for name, data in resources["outputs"].items():
            notebook.with_name(f"{notebook.stem}_{name}").write_bytes(data)
            text = text.replace(f"]({name})", f"]({notebook.stem}_{name})")
        notebook.with_suffix(".md").write_text(text, encoding="utf-8")


def main() -> int:
    """Stage and build strictly; the exit code is 0 where nothing was found wrong, in docstrings as well."""
    stage()
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        "mkdocs.yml",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "docs")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, end="")
    docstrings = re.search(r"^(griffe|mkdocstrings): ", done.stdout, re.M)  # printed, but not counted
    return done.returncode or int(docstrings is not None)


if __name__ == "__main__":
    raise SystemExit(main())
