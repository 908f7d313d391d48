"""`--detect`, `--power` and `--correlation` on `mrtsim allocate` and `mrtsim pilot`; given prompts on `pilot`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.shared import commands

EXAMPLES = Path(__file__).parents[2] / "examples"
PILOT = str(EXAMPLES / "pilot_smollm2.jsonl")
TOY = ["--v-prompt", "0.187", "--v-response", "1.329"]
COSTS = ["--c-prompt", "4", "--c-response", "1"]


answer, refusal = commands()


def test_allocate_detects(capsys, tmp_path):
    components, cost = mrt.VarianceComponents(0.187, 1.329), mrt.Cost(4, 1)
    picture = tmp_path / "power.png"
    found = answer(capsys, "allocate", *TOY, *COSTS, "--detect", 0.1, "--plot", picture)
    plan = mrt.allocate_for_power(components, cost, 0.1)
    assert (found["n_prompts"], found["responses_per_prompt"]) == (plan.n_prompts, plan.responses_per_prompt)
    assert (found["power"], found["detectable"]) == (plan.power, plan.detectable)
    assert found["bound_by"] == ["power"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    two = answer(
        capsys,
        "allocate",
        *TOY,
        *COSTS,
        "--detect",
        0.1,
        "--correlation",
        0.7,
        "--power",
        0.9,
        "--confidence",
        0.9,
    )
    plan = mrt.allocate_for_power(components, cost, 0.1, correlation=0.7, power=0.9, confidence=0.9)
    assert (two["n_prompts"], two["responses_per_prompt"]) == (plan.n_prompts, plan.responses_per_prompt)
    assert two["cost"] == plan.n_prompts * (4 + 2 * plan.responses_per_prompt)  # a response of each model
    assert main(["allocate", *TOY, *COSTS, "--detect", "0.1", "--correlation", "0.7"]) == 0
    out = capsys.readouterr().out
    assert "to show a difference of 0.1 between two models with rho = 0.7" in out
    assert "+0.0 %" in out


def test_pilot_detects(capsys):
    pilot = mrt.estimate_components(*read())
    found = answer(capsys, "pilot", PILOT, *COSTS, "--detect", 0.2, "--correlation", 0.5)
    plan = mrt.allocate_for_power(pilot.planning, mrt.Cost(4, 1), 0.2, correlation=0.5)
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["power"] == pytest.approx(plan.power)
    grouped = answer(capsys, "pilot", PILOT, "--group-column", "group", *COSTS, "--detect", 0.2)
    r, components = grouped["redundancy"], grouped["components"]
    between = r * components["group"]["estimate"] + components["prompt"]["estimate"]
    plan = mrt.allocate_for_power(
        mrt.VarianceComponents(between, components["response"]["estimate"]), mrt.Cost(4, 1), 0.2, redundancy=r
    )
    assert grouped["plan"]["n_prompts"] == plan.n_prompts
    assert main(["pilot", PILOT, *COSTS, "--detect", "0.2", "--correlation", "0.5"]) == 0
    assert "rho = 0.5" in capsys.readouterr().out


def read():
    rows = [json.loads(line) for line in (EXAMPLES / "pilot_smollm2.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows], [row["prompt_id"] for row in rows]


def test_a_pilot_of_given_prompts(capsys):
    """SE^2 = sum s_i^2 / K_i / P^2 on all P prompts, and a plan that buys responses only."""
    losses = np.array(read()[0]).reshape(96, 12)
    found = answer(capsys, "pilot", PILOT, "--population", 96, "--fix-prompts", 96)
    noise = losses.var(axis=1, ddof=1) / 12
    assert found["standard_error"] ** 2 == pytest.approx(noise.sum() / 96**2)
    part = answer(capsys, "pilot", PILOT, "--population", 200)
    square = losses.mean(axis=1).var(ddof=1)
    expected = (1 - 96 / 200) * square / 96 + 96 / 200 * noise.mean() / 96
    assert part["standard_error"] ** 2 == pytest.approx(expected)
    plan = answer(
        capsys, "pilot", PILOT, *COSTS, "--population", 96, "--fix-prompts", 96, "--target-variance", 1e-3
    )
    k = plan["plan"]["responses_per_prompt"]
    assert plan["plan"]["variance"] == pytest.approx(plan["components"]["response"]["estimate"] / (96 * k))
    assert plan["largest_regret"] is None
    assert main(["pilot", PILOT, *COSTS, "--fix-prompts", "100", "--detect", "0.2"]) == 0
    assert "100  N_p" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["allocate", *TOY, *COSTS, "--budget", 9, "--power", 0.8],
            "--power belongs to a difference to detect",
        ),
        (["allocate", *TOY, *COSTS, "--budget", 9, "--correlation", 0.8], "--correlation belongs"),
        (["allocate", *TOY, *COSTS, "--budget", 9, "--confidence", 0.8], "--confidence belongs"),
        (["allocate", *TOY, *COSTS, "--budget", 9, "--detect", 0.8], "not allowed with"),
        (["allocate", *TOY, *COSTS, "--detect", 0], "above 0"),
        (["allocate", *TOY, *COSTS, "--detect", 0.1, "--correlation", 1.1], "between -1 and 1"),
        (["allocate", *TOY, *COSTS, "--detect", 0.1, "--power", 80], "between 0 and 1"),
        (["allocate", *TOY, *COSTS, "--detect", 0.1, "--candidates", 8], "does not go with --candidates"),
        (["allocate", *TOY, *COSTS, "--detect", 0.1, "--c-group", 8], "does not go with --c-group"),
        (
            ["allocate", *TOY, *COSTS, "--detect", 0.1, "--fix-prompts", 50],
            "unreachable: the least detectable",
        ),
        (
            ["allocate", *TOY, *COSTS, "--detect", 0.1, "--max-responses", 1, "--max-prompts", 9],
            "unreachable",
        ),
        (["pilot", PILOT, "--detect", 0.1], "a plan needs --c-prompt"),
        (["pilot", PILOT, *COSTS, "--power", 0.1], "--power belongs"),
        (["pilot", PILOT, *COSTS, "--fix-prompts", 9], "--fix-prompts belongs to a plan"),
        (["pilot", PILOT, "--population", 95], "less than the 96 prompts"),
        (["pilot", PILOT, "--population", 96, "--group-column", "group"], "--group-population"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


def test_the_calculator_stays_light():
    """A plan without --detect loads no SciPy."""
    code = (
        "import sys; from mrtsim.cli import main; "
        f"main({['allocate', *TOY, *COSTS, '--budget', '400', '--json']!r}); "
        "print([m for m in ('scipy', 'jax', 'pyarrow', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
