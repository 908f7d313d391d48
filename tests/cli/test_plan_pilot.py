"""`mrtsim plan-pilot` as a user meets it."""

import json
from pathlib import Path

import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.shared import commands

PILOT = str(Path(__file__).parents[2] / "examples" / "pilot_smollm2.jsonl")
COSTS = ["--c-prompt", "4", "--c-response", "1"]


answer, refusal = commands("plan-pilot")


def test_designs(capsys):
    found = answer(capsys, "--ratio", "2.5", "--prompts", "10", "200", "--responses", "4", "12", *COSTS)
    assert [(d["n_prompts"], d["responses_per_prompt"], d["cost"]) for d in found["designs"]] == [
        (10, 4, 80),
        (10, 12, 160),
        (200, 4, 1600),
        (200, 12, 3200),
    ]
    design = mrt.plan_pilot(2.5, 10, 12, cost=mrt.Cost(4, 1))
    for key in ("no_upper_limit", "median_ratio_of_limits", "expected_regret", "refused"):
        assert found["designs"][1][key] == pytest.approx(getattr(design, key))
    assert found["designs"][0]["median_ratio_of_limits"] is None  # more than half have no upper limit
    assert "cheapest" not in found


def test_without_costs_and_with_another_confidence(capsys):
    found = answer(capsys, "--ratio", "2.5", "--prompts", "20", "--responses", "8", "--confidence", "0.8")
    (design,) = found["designs"]
    assert design["cost"] is None
    assert design["expected_regret"] is None
    (usual,) = answer(capsys, "--ratio", "2.5", "--prompts", "20", "--responses", "8")["designs"]
    assert design["no_upper_limit"] < usual["no_upper_limit"]


def test_cheapest(capsys):
    arguments = ["--ratio", "2.5", *COSTS, "--prompts", "20", "50", "--responses", "4", "8"]
    found = answer(capsys, *arguments, "--tolerance", "0.03")
    good = [d for d in found["designs"] if max(d["expected_regret"], d["refused"]) <= 0.03]
    assert found["cheapest"] == min(good, key=lambda d: d["cost"])
    assert answer(capsys, *arguments, "--tolerance", "0.0001")["cheapest"] is None
    assert main(["plan-pilot", *arguments, "--tolerance", "0.0001"]) == 0
    assert "no design here" in capsys.readouterr().out


def test_resume(capsys):
    found = answer(capsys, "--resume", PILOT, "--prompts", "20", "--responses", "12", *COSTS)
    pilot = mrt.estimate_components(*_losses(PILOT))
    assert found["resumed"]["n_prompts"] == 96
    assert found["ratio"] == pytest.approx(pilot.ratio.value)
    assert found["designs"][0]["cost"] == 20 * 16
    alone = answer(capsys, "--ratio", str(found["ratio"]), "--prompts", "20", "--responses", "12", *COSTS)
    assert found["designs"][0]["expected_regret"] < alone["designs"][0]["expected_regret"]


def test_a_pilot_to_go_on_with_is_read_as_any_pilot(capsys, tmp_path):
    rows = Path(PILOT).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "1.jsonl").write_text("".join(rows[:600]), encoding="utf-8")
    (tmp_path / "2.rows").write_text(
        "".join([*rows[600:], '{"prompt_id": null, "loss": 1.0}\n']), encoding="utf-8"
    )
    shards = [str(tmp_path / "1.jsonl"), str(tmp_path / "2.rows")]
    arguments = ["--prompts", "20", "--responses", "4", "--format", "jsonl", "--missing-ids", "drop"]
    found = answer(capsys, "--resume", *shards, *arguments)
    whole = answer(capsys, "--resume", PILOT, "--prompts", "20", "--responses", "4")
    assert found["designs"] == whole["designs"]
    assert any("left out" in warning for warning in found["warnings"])
    assert main(["plan-pilot", "--resume", *shards, *arguments]) == 0
    assert "left out" in " ".join(capsys.readouterr().out.split())


def _losses(path):
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows], [row["prompt_id"] for row in rows]


def test_what_a_person_reads(capsys):
    assert main(["plan-pilot", "--ratio", "2.5", *COSTS, "--prompts", "10", "50", "--tolerance", "0.05"]) == 0
    out = capsys.readouterr().out
    (found,) = [line.split() for line in out.splitlines() if line.split()[:2] == ["50", "8"]]
    design = mrt.plan_pilot(2.5, 50, 8, cost=mrt.Cost(4, 1))
    assert found[2] == "600"
    assert f"{100 * design.no_upper_limit:.1f}" in found
    assert "cheapest with regret" in out
    assert "normal effects" in out
    assert (
        main(["plan-pilot", "--resume", PILOT, "--prompts", "20", "--responses", "4", "--skewness-x", "2"])
        == 0
    )
    out = capsys.readouterr().out
    assert "so far 96 prompts and 1152 responses" in out
    assert "skewness 2 (prompts)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --ratio, a guess"),
        (["--ratio", "2", "--loss-column", "l"], "--resume PILOT must be given with --loss-column"),
        (["--ratio", "0"], "must be above 0"),
        (["--ratio", "2", "--c-prompt", "4"], "give --c-prompt and --c-response, or neither"),
        (["--ratio", "2", "--tolerance", "0.1"], "--tolerance is about the plan's loss"),
        (["--ratio", "2", "--prompts", "1"], "at least 2"),
        (["--ratio", "2", "--prompts", "2.5"], "whole number"),
        (["--ratio", "2", "--confidence", "95"], "between 0 and 1"),
        (["--resume", "nowhere.csv"], "nowhere.csv"),
        (
            ["--resume", PILOT, "--loss-column", "prompt_tokens"],
            "the responses of every prompt have the same loss",
        ),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


def test_a_pilot_whose_prompts_do_not_differ_has_no_ratio(capsys, tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text("prompt_id,loss\na,1\na,3\nb,3\nb,1\nc,2\nc,1.5\n", encoding="utf-8")
    assert "give a guess of it with --ratio" in refusal(capsys, "--resume", str(path))
    found = answer(capsys, "--resume", str(path), "--ratio", "3", "--prompts", "20", "--responses", "4")
    assert found["ratio"] == 3
