"""`mrtsim allocate --per-prompt` as a user meets it."""

import csv
import json

import numpy as np
import pytest

from mrtsim.cli import main
from mrtsim.pilot.squeeze import squeeze_variances
from mrtsim.plan.per_prompt import allocate_per_prompt
from tests.cli.shared import commands

SPREADS, COSTS, WEIGHTS = [0.465, 1.013, 0.2], [0.32, 1.9, 1.0], [0.5, 0.3, 0.2]


answer, refusal = commands("allocate")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prompts.csv"
    rows = zip(("007", "b", "c"), SPREADS, COSTS, WEIGHTS, strict=True)
    path.write_text("prompt_id,sd,cost,weight\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def pilot(tmp_path):
    losses = np.random.default_rng(0).normal(0, [[1.0]] * 8 + [[4.0]] * 8, (16, 4))
    path = tmp_path / "pilot.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": f"q{i}", "loss": row}) + "\n" for i, row in enumerate(losses.tolist())
        )
    )
    return path, losses


def test_columns(capsys, table, tmp_path):
    record = answer(
        capsys, "--per-prompt", table, "--sd-column", "sd", "--budget", 9, "--cost-column", "cost"
    )
    plan = allocate_per_prompt(SPREADS, 9, COSTS)
    assert record["prompts"] == ["007", "b", "c"]
    assert record["responses"] == plan.responses.tolist()
    assert (record["gap"], record["prior"]) == (0, None)
    assert record["variance"] == pytest.approx(plan.variance)
    assert record["efficiency"] == pytest.approx(plan.uniform_variance / plan.variance)
    assert len(record["warnings"]) == 2
    out, picture = tmp_path / "plan.csv", tmp_path / "plan.png"
    weighted = answer(
        capsys, "--per-prompt", table, "--sd-column", "sd", "--budget", 9, "--weight-column", "weight",
        "--min-responses", 2, "--max-responses", 4, "--out", out, "--plot", picture,
    )  # fmt: skip
    plan = allocate_per_prompt(SPREADS, 9, weights=WEIGHTS, min_responses=2, max_responses=4)
    assert weighted["responses"] == plan.responses.tolist()
    with out.open(newline="") as file:
        assert list(csv.reader(file))[1:] == [
            [name, str(k)] for name, k in zip(("007", "b", "c"), plan.responses, strict=True)
        ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    left = answer(capsys, "--per-prompt", table, "--sd-column", "sd", "--budget", 9, "--offset", 1)
    assert left["responses"] == allocate_per_prompt(SPREADS, 9, min_responses=2, offset=1).responses.tolist()


def test_from_a_pilot(capsys, pilot):
    path, losses = pilot
    record = answer(capsys, "--per-prompt", path, "--budget", 100)
    squeezed = squeeze_variances(losses.var(axis=1, ddof=1), 3)
    plan = allocate_per_prompt(np.sqrt(squeezed.variances), 100)
    assert record["responses"] == plan.responses.tolist()
    assert record["prior"] == {
        "freedom": pytest.approx(squeezed.prior_freedom),
        "variance": pytest.approx(squeezed.prior_variance),
    }
    assert np.mean(record["responses"][8:]) > 2 * np.mean(record["responses"][:8])


def test_text(capsys, table, pilot):
    assert main(["allocate", "--per-prompt", str(table), "--sd-column", "sd", "--budget", "9"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "3 prompts, 9 responses planned" in text
    assert "proven best" in text
    assert "must not be averaged with those losses" in text
    assert "weight each row by 1/K_i" in text
    assert main(["allocate", "--per-prompt", str(pilot[0]), "--budget", "100"]) == 0
    assert "squeezed towards" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sd-column", "sd"], "one of the arguments --budget"),
        (["--sd-column", "sd", "--budget", "2"], "the least is 3"),
        (["--sd-column", "sd", "--target-variance", "1"], "give --budget"),
        (["--sd-column", "none", "--budget", "9"], "no column 'none'"),
        (
            ["--sd-column", "sd", "--budget", "9", "--v-prompt", "1", "--max-prompts", "3"],
            "--per-prompt does not go with --v-prompt, --max-prompts",
        ),
        (["--sd-column", "sd", "--budget", "9", "--loss-column", "l"], "not both"),
        (["--loss-column", "sd", "--budget", "9"], "two prompts or more"),
        (["--sd-column", "sd", "--budget", "9", "--offset", "-1"], "offset must be a whole number"),
        (["--sd-column", "sd", "--budget", "9", "--out", "no/such/plan.csv"], "cannot write"),
    ],
)
def test_refusals(capsys, table, arguments, message):
    assert message in refusal(capsys, "--per-prompt", table, *arguments)


def test_other_refusals(capsys, tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt_id,sd\na,1\nb,-2\na,1\n")
    assert "prompt 'a' stands here again" in refusal(
        capsys, "--per-prompt", path, "--sd-column", "sd", "--budget", 9
    )
    path.write_text("prompt_id,sd\na,1\nb,-2\n")
    assert "spreads must be 0 or between" in refusal(
        capsys, "--per-prompt", path, "--sd-column", "sd", "--budget", 9
    )
    plain = ["--v-prompt", 1, "--v-response", 1, "--c-prompt", 1, "--c-response", 1, "--budget", 9]
    assert "--per-prompt FILE must be given with --sd-column" in refusal(capsys, *plain, "--sd-column", "sd")
