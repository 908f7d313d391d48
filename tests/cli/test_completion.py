"""Shell completion: the printed script completes commands, options and file names in a real bash."""

import shutil
import subprocess
import sys

import pytest

from mrtsim.cli import main

ASK = """
complete=$(complete -p mrtsim | grep -o '_shtab_[a-z_]*')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$complete mrtsim "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["mrtsim", "al"], ["allocate"]),
        (["mrtsim", "allocate", "--targ"], ["--target-variance"]),
        (["mrtsim", "pilot", "--method", "re"], ["reml"]),
        (["mrtsim", "pilot", "pil"], ["pilot.csv"]),
        (["mrtsim", "select", "pool.csv", "--out", "pil"], ["pilot.csv"]),
    ],
)
def test_bash_completes(typed, completed, tmp_path, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 0
    (tmp_path / "completion.sh").write_text(capsys.readouterr().out + ASK)
    (tmp_path / "pilot.csv").touch()
    done = subprocess.run(
        ["bash", "completion.sh", *typed], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == completed


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "zsh"])
    assert stop.value.code == 2
    assert "pip install 'mrtsim[completion]'" in capsys.readouterr().err
