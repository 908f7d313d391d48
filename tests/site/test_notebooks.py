"""The notebooks run, and what they print is what is stored in them.

`python tests/site/test_notebooks.py` runs them all and stores what they print.
"""

import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path):
    """The notebook as it is after a run from its own folder, in a fresh kernel."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's machinery; the kernel has filters of its own
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    return notebook


def printed(notebook):
    """What each cell shows as text; of a picture, that it is there."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kinds = sorted(kind for kind in data if kind.startswith("image/"))
            text = "" if kinds else output.get("text", data.get("text/plain", ""))
            shown.append((cell["id"], output["output_type"], output.get("name"), kinds, text))
    return shown


@pytest.mark.stress
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_prints_what_is_stored(path):
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[notebooks]'")
    pytest.importorskip("nbclient", reason="pip install '.[notebooks]'")
    stored = nbformat.read(path, as_version=4)
    assert printed(executed(path)) == printed(stored)
    assert not [entry for entry in printed(stored) if entry[1] == "error" or entry[2] == "stderr"]


def test_there_are_notebooks_and_each_was_run():
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[notebooks]'")
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1)), path


if __name__ == "__main__":
    import nbformat as writer

    for each in NOTEBOOKS:
        writer.write(executed(each), each)
        print(each.name)
