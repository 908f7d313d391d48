"""`mrtsim pilot --judge-column`, and the warning of whoever has not said so."""

import csv
import json

import numpy as np
import pytest

import mrtsim as mrt
from tests.cli.test_pilot import answer, refusal
from tests.pilot.test_crossed import BRENNAN_MISSING, PENICILLIN

PLAN = ["--c-prompt", "4", "--c-cell", "1", "--budget", "400"]


def write(path, table, judge="judge", *, extra=()):
    """One row per response of a table (prompts, judges[, responses]); NaN is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt_id", judge, "loss", *extra])
        for index, loss in np.ndenumerate(np.asarray(table, float)):
            if np.isfinite(loss):
                rows.writerow([f"p{index[0]}", f"j{index[1]}", repr(float(loss)), *extra])
    return str(path)


def with_components(n, j, prompt, judge, rest, seed=1):
    """A table (n, j) whose analysis of variance gives exactly these components."""
    rng = np.random.default_rng(seed)
    rows, columns, noise = rng.normal(size=n), rng.normal(size=j), rng.normal(size=(n, j))
    rows, columns = rows - rows.mean(), columns - columns.mean()
    noise -= noise.mean(0) + noise.mean(1)[:, None] - noise.mean()
    rows *= ((prompt + rest / j) * (n - 1) / (rows**2).sum()) ** 0.5
    columns *= ((judge + rest / n) * (j - 1) / (columns**2).sum()) ** 0.5
    noise *= (rest * (n - 1) * (j - 1) / (noise**2).sum()) ** 0.5
    return rows[:, None] + columns + noise


@pytest.fixture
def worked(tmp_path):
    """60 questions x 8 judges: V_p = 1, V_j = .3, V_e = 2 (estimation.md, section 4)."""
    return write(tmp_path / "worked.csv", with_components(60, 8, 1.0, 0.3, 2.0))


def test_worked_case(capsys, worked):
    found = answer(capsys, worked, "--judge-column", "judge", *PLAN)
    components = {name: value["estimate"] for name, value in found["components"].items()}
    assert components == pytest.approx({"prompt": 1.0, "judge": 0.3, "response": 2.0})
    plan = found["plan"]
    assert (plan["n_prompts"], plan["n_judges"], plan["responses_per_cell"]) == (25, 12, 1)
    assert round(plan["variance"], 4) == 0.0717
    assert found["standard_error"] == pytest.approx((1 / 60 + 0.3 / 8 + 2 / 480) ** 0.5)
    assert round(found["standard_error"], 3) == 0.242  # .144 where judges are taken as each prompt's own
    assert (found["n_prompts"], found["n_judges"], found["responses_per_cell"]) == (60, 8, 1)
    assert found["icc"]["estimate"] == pytest.approx(1 / 3.3)
    # with the response's cost said as well, and alone
    for costs in (["--c-cell", "1", "--c-response", "1"], ["--c-response", "1"]):
        same = answer(capsys, worked, "--judge-column", "judge", "--c-prompt", "4", *costs, "--budget", "400")
        assert same["plan"] == plan


def test_what_a_person_reads(capsys, worked):
    from mrtsim.cli import main

    assert main(["pilot", worked, "--judge-column", "judge", *PLAN]) == 0
    out = capsys.readouterr().out
    assert "480 responses to 60 prompts by 8 judges" in out
    assert "standard error 0.2415 for judges that are a sample, 95 % from" in out
    assert "57 prompts x 3 at a claimed variance of 0.03099; with 3 common judges that is 0.1292" in " ".join(
        out.split()
    )
    for name in ("V_p", "V_j", "V_e"):
        assert sum(line.split()[:1] == [name] for line in out.splitlines()) == 1


def test_whoever_has_not_said_so_is_warned(capsys, worked, tmp_path):
    found = answer(capsys, worked)
    assert round(found["standard_error"], 3) == 0.144
    (warning,) = (text for text in found["warnings"] if "differ alike" in text)
    assert "responses with the same judge differ alike in all prompts (F = 10 on 7 and 413" in warning
    assert "the standard error 0.144 is wrong (0.242 if they are a sample)" in warning
    assert warning.endswith("say --judge-column judge")
    # a column of another name is no evidence, nor are judges that do not differ
    other = write(tmp_path / "other.csv", with_components(60, 8, 1.0, 0.3, 2.0), judge="batch")
    quiet = write(tmp_path / "quiet.csv", with_components(60, 8, 1.0, 0.0, 2.0))
    for path in (other, quiet):
        assert not any("differ alike" in text for text in answer(capsys, path)["warnings"])


def test_lists_of_losses_that_differ_alike(capsys, tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": i, "loss": row.tolist()}) + "\n"
            for i, row in enumerate(with_components(60, 8, 1.0, 0.3, 2.0))
        )
    )
    (warning,) = (text for text in answer(capsys, str(path))["warnings"] if "differ alike" in text)
    assert "same place in the list" in warning
    assert "unless the lists are sorted" in warning


def test_penicillin(capsys, tmp_path):
    path = write(tmp_path / "penicillin.csv", PENICILLIN, judge="sample")
    found = answer(capsys, path, "--judge-column", "sample")
    assert [round(found["components"][n]["estimate"], 6) for n in ("prompt", "judge", "response")] == [
        0.716908,
        3.730918,
        0.302415,
    ]
    assert round(found["standard_error"], 6) == 0.808573
    fixed = answer(capsys, path, "--judge-column", "sample", "--judges", "fixed")
    assert round(fixed["standard_error"], 6) == 0.178805
    assert fixed["judges"] == "fixed"
    assert fixed["components"] == found["components"]
    assert fixed["mean"]["low"] < fixed["mean_loss"] < fixed["mean"]["high"]


def test_fixed_judges_plan(capsys, worked):
    plan = answer(capsys, worked, "--judge-column", "judge", "--judges", "fixed", *PLAN)["plan"]
    assert plan["n_judges"] == 8
    assert plan["n_prompts"] == 33  # 33 x (4 + 8) <= 400
    assert plan["variance"] == pytest.approx((1 + 2 / 8) / 33)


def test_missing_cells(capsys, tmp_path):
    path = write(tmp_path / "missing.csv", BRENNAN_MISSING)
    found = answer(capsys, path, "--judge-column", "judge")
    assert [round(found["components"][n]["estimate"], 4) for n in ("prompt", "judge", "response")] == [
        0.0473,
        0.0117,
        0.1840,
    ]
    assert found["standard_error"] is None
    assert found["components"]["prompt"]["low"] is None
    assert found["responses_per_cell"] is None
    assert any("no intervals, no standard error" in text for text in found["warnings"])
    planned = answer(capsys, path, "--judge-column", "judge", *PLAN)["plan"]
    best = mrt.allocate_judges(
        mrt.estimate_components(*rows(BRENNAN_MISSING), judges=rows(BRENNAN_MISSING, judges=True)).planning,
        mrt.CrossedCost(4.0, 0.0, 1.0, 1.0),
        budget=400,
        max_responses=1,
    )
    assert (planned["n_prompts"], planned["n_judges"]) == (best.n_prompts, best.n_judges)
    from mrtsim.cli import main

    assert main(["pilot", path, "--judge-column", "judge"]) == 0
    assert "nan" not in capsys.readouterr().out


def rows(table, *, judges=False):
    prompt_of, judge_of = np.nonzero(np.isfinite(table))
    return judge_of if judges else (table[prompt_of, judge_of], prompt_of)


def test_several_responses_per_cell(capsys, tmp_path):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(20, 1, 1)) + rng.normal(size=(1, 4, 1)) + rng.normal(size=(20, 4, 1))
    table = table + 3 * rng.normal(size=(20, 4, 3))
    path = write(tmp_path / "cells.csv", table)
    costs = ["--c-prompt", "10", "--c-judge", "20", "--c-cell", "5", "--c-response", "1", "--budget", "2000"]
    found = answer(capsys, path, "--judge-column", "judge", *costs)
    assert found["responses_per_cell"] == 3
    assert set(found["components"]) == {"prompt", "judge", "interaction", "response"}
    for component in found["components"].values():
        assert 0 <= component["low"] <= component["estimate"] <= component["high"]
    plan = found["plan"]
    assert plan["responses_per_cell"] > 1
    n, j, k = (plan[name] for name in ("n_prompts", "n_judges", "responses_per_cell"))
    assert plan["cost"] == n * 10 + j * 20 + n * j * (5 + (k - 1))


def test_what_is_refused(capsys, worked, tmp_path):
    judges = ["--judge-column", "judge"]
    for arguments, message in (
        (["--judges", "fixed"], "--judges needs --judge-column"),
        (["--c-cell", "1"], "--c-cell needs --judge-column"),
        ([*judges, "--group-column", "judge"], "--group-column does not go with --judge-column"),
        ([*judges, "--method", "reml"], "--method does not go"),
        ([*judges, "--c-cell", "1"], "--c-cell belongs to a plan"),
        ([*judges, "--budget", "9"], "a plan with judges needs --c-prompt, and --c-cell or --c-response"),
        ([*judges, *PLAN, "--c-response", "2"], "includes that of its first response"),
        ([*judges, *PLAN, "--max-responses", "2"], "cannot be told apart"),
        (["--judge-column", "rater"], "rater"),
    ):
        assert message in refusal(capsys, worked, *arguments), arguments
    flat = write(tmp_path / "flat.csv", with_components(60, 8, -0.1, 0.3, 2.0))
    message = refusal(capsys, flat, *judges, *PLAN)
    assert "V_p is estimated at -0.1" in message
    assert "give --max-judges" in message
    capped = answer(capsys, flat, *judges, *PLAN, "--max-judges", "6")["plan"]
    assert capped["n_judges"] == 6
