"""`mrtsim pilot --pass-at` as a user meets it."""

import json

import numpy as np
import pytest

from mrtsim.cli import main
from mrtsim.pilot.pass_at_k import allocate_pass_at_k, estimate_pass_at_k
from mrtsim.plan.allocate import Cost
from tests.cli.shared import commands


@pytest.fixture
def pilot(tmp_path):
    rng = np.random.default_rng(0)
    correct = rng.random((60, 8)) < rng.beta(0.6, 1.8, (60, 1))
    path = tmp_path / "pilot.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": f"q{i}", "correct": bool(v), "score": 2.0 * v}) + "\n"
            for i, row in enumerate(correct)
            for v in row
        )
    )
    return path, correct.sum(axis=1)


PLAN = ["--c-prompt", "4", "--c-response", "1", "--budget", "3200"]


answer, refusal = commands("pilot")


def test_estimate_and_plan(capsys, pilot, tmp_path):
    path, successes = pilot
    record = answer(capsys, path, "--pass-at", 4, "--reward-column", "correct", *PLAN)
    found = estimate_pass_at_k(successes, 8, 4)
    assert record["pass_at_k"] == found.value.to_dict()
    assert (record["source"], record["n_prompts"], record["n_dropped"]) == ("counts", 60, 0)
    assert record["components"]["prompt"] == pytest.approx(found.components.prompt)
    plan = allocate_pass_at_k(found.components, Cost(4, 1), budget=3200)
    assert (record["plan"]["n_prompts"], record["plan"]["responses_per_prompt"]) == (
        plan.n_prompts,
        plan.responses_per_prompt,
    )
    scored = answer(capsys, path, "--pass-at", 4, "--reward-column", "score", "--success-above", 1, *PLAN)
    assert scored == record
    target = answer(
        capsys, path, "--pass-at", 4, "--reward-column", "correct", *PLAN[:4], "--target-variance", 1e-3
    )["plan"]
    assert target["variance"] <= 1e-3
    picture = tmp_path / "pass.png"
    assert (
        main(
            [
                "pilot",
                str(path),
                "--pass-at",
                "4",
                "--reward-column",
                "correct",
                *PLAN,
                "--plot",
                str(picture),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "from counts" in text
    assert "+0.0 %" in text


def test_the_beta_fit_is_labelled(capsys, pilot):
    path, _ = pilot
    record = answer(capsys, path, "--pass-at", 5, "--reward-column", "correct")
    assert (record["source"], record["standard_error_given_prompts"], record["plan"]) == ("beta", None, None)
    assert "rest on a Beta distribution" in record["warnings"][0]
    assert main(["pilot", str(path), "--pass-at", "5", "--reward-column", "correct"]) == 0
    assert "by a fitted Beta distribution" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pass-at", "4"], "a loss is never taken for one"),
        (["--reward-column", "correct"], "--pass-at k must be given with --reward-column"),
        (["--pass-at", "9", "--reward-column", "correct"], "0 of 60 have as many, and the most is 8"),
        (["--pass-at", "4", "--reward-column", "score"], "neither 0 nor 1; give --success-above"),
        (["--pass-at", "4", "--reward-column", "none"], "no column 'none'"),
        (
            ["--pass-at", "4", "--reward-column", "correct", "--method", "ml"],
            "--pass-at does not go with --method",
        ),
        (
            ["--pass-at", "4", "--reward-column", "correct", "--budget", "9"],
            "a plan needs --c-prompt and --c-response",
        ),
        (["--pass-at", "4", "--reward-column", "correct", "--c-prompt", "9"], "belong to a plan"),
        (
            ["--pass-at", "4", "--reward-column", "correct", *PLAN[:4], "--budget", "7"],
            "the least budget is 8",
        ),
        (["--pass-at", "0", "--reward-column", "correct"], "whole number of at least 1"),
    ],
)
def test_refusals(capsys, pilot, arguments, message):
    assert message in refusal(capsys, pilot[0], *arguments)


def test_a_given_benchmark(capsys, pilot):
    path, _ = pilot
    common = [path, "--pass-at", 4, "--reward-column", "correct", *PLAN]
    plan = answer(capsys, *common, "--population", 60, "--fix-prompts", 60)["plan"]
    assert (plan["n_prompts"], plan["responses_per_prompt"], plan["cost"]) == (60, 49, 3180)
    assert "--population P --fix-prompts P" in refusal(capsys, *common, "--population", 60)


def test_equal_rates_need_a_cap(capsys, tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("prompt_id,r\n" + "".join(f"p{i},{j % 2}\n" for i in range(30) for j in range(4)))
    common = [path, "--pass-at", 2, "--reward-column", "r", *PLAN]
    assert "V_x is not above 0: set --max-responses" in refusal(capsys, *common)
    record = answer(capsys, *common, "--max-responses", 6)
    assert record["plan"]["responses_per_prompt"] <= 6
    assert any("V_x is estimated at" in warning for warning in record["warnings"])


def test_a_file_written_twice(capsys, pilot):
    path, _ = pilot
    once = answer(capsys, path, "--pass-at", 4, "--reward-column", "correct")
    path.write_text(2 * path.read_text())
    twice = answer(capsys, path, "--pass-at", 4, "--reward-column", "correct")
    assert "every reward stands 2 times" in " ".join(twice["warnings"])
    assert "stands" not in " ".join(once["warnings"])
