"""The package that users install: its public names, what importing it costs, and what the wheel holds."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mrtsim

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "scipy", "equinox", "pyarrow", "msgspec", "matplotlib")


def python(code, cwd=None, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_what_its_module_calls_so():
    assert len(mrtsim.__all__) > 40
    assert {name: getattr(mrtsim, name).__name__ for name in mrtsim.__all__} == {n: n for n in mrtsim.__all__}


def test_each_public_name_stands_in_the_table_of_contents_once():
    stub = (ROOT / "mrtsim" / "__init__.pyi").read_text(encoding="ascii")
    names = re.findall(r"^from \.[\w.]+ import (\w+) as (\w+)$", stub, re.M)
    assert sorted(there for there, _ in names) == mrtsim.__all__
    assert all(there == here for there, here in names)
    rest = [line for line in stub.splitlines() if line and not line.startswith(("#", "from ."))]
    assert rest == ["__version__: str"]


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        mrtsim.nothing_like_it  # noqa: B018


@pytest.mark.parametrize(
    ("code", "light"),
    [
        ("import mrtsim", HEAVY),
        (
            "import mrtsim as m; m.allocate(m.VarianceComponents(1, 2), m.Cost(1, 1), budget=9).k_star",
            HEAVY,
        ),
        ("import mrtsim.diagnostics.reports", ("jax", "equinox", "matplotlib")),
        ("import mrtsim.selection.select_file", ("equinox", "scipy", "matplotlib")),
    ],
)
def test_what_is_light_stays_light(code, light):
    loaded = python(f"{code}\nimport sys; print(*sys.modules)").split()
    assert not set(light) & set(loaded)


def test_the_wheel_has_the_library_alone_and_its_names_load_from_there(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in files} == {"mrtsim"}
    assert {"mrtsim/__init__.pyi", "mrtsim/py.typed"} <= set(files)
    assert {Path(name).suffix for name in files} <= {".py", ".pyi", ".typed"}
    shown = python(
        "import mrtsim; print(mrtsim.__file__); print(*[getattr(mrtsim, n).__name__ for n in mrtsim.__all__])",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    ).splitlines()
    assert shown[0].startswith(str(tmp_path))
    assert shown[1].split() == mrtsim.__all__
