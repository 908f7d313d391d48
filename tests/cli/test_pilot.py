"""`mrtsim pilot` as a user meets it, on a real pilot and on faulty ones."""

import json
from pathlib import Path

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.shared import commands

PILOT = str(Path(__file__).parents[2] / "examples" / "pilot_smollm2.jsonl")
COSTS = ["--c-prompt", "4", "--c-response", "1"]


answer, refusal = commands("pilot")


def rows():
    return [json.loads(line) for line in Path(PILOT).read_text(encoding="utf-8").splitlines()]


def test_real_pilot(capsys):
    """Against the definitions, balanced: 96 prompts x 12 responses."""
    losses = np.array([row["loss"] for row in rows()]).reshape(96, 12)
    response = losses.var(axis=1, ddof=1).mean()
    prompt = losses.mean(axis=1).var(ddof=1) - response / 12
    found = answer(capsys, PILOT, *COSTS, "--budget", "400")
    assert found["components"]["prompt"]["estimate"] == pytest.approx(prompt)
    assert found["components"]["response"]["estimate"] == pytest.approx(response)
    for component in found["components"].values():
        assert 0 < component["low"] < component["estimate"] < component["high"]
    assert found["icc"]["estimate"] == pytest.approx(prompt / (prompt + response))
    assert 0 < found["icc"]["low"] < found["icc"]["estimate"] < found["icc"]["high"] < 1
    assert found["planning"] == pytest.approx({"prompt": prompt, "response": response})
    assert found["k_star"]["estimate"] == pytest.approx(2 * np.sqrt(response / prompt))
    assert found["k_star"]["low"] < found["k_star"]["estimate"] < found["k_star"]["high"]
    assert (found["n_prompts"], found["n_responses"]) == (96, 1152)
    plan = mrt.allocate(mrt.VarianceComponents(prompt, response), mrt.Cost(4.0, 1.0), budget=400.0)
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["responses_per_prompt"] == plan.responses_per_prompt
    assert found["plan"]["variance"] == pytest.approx(plan.variance)
    assert 0 < found["largest_regret"] < 0.1


def test_real_pilot_in_groups(capsys):
    """Expected mean squares of 24 topics x 4 prompts x 12 responses."""
    losses = np.array([row["loss"] for row in rows()]).reshape(24, 4, 12)
    ms_response = losses.var(axis=2, ddof=1).mean()
    ms_prompt = 12 * losses.mean(axis=2).var(axis=1, ddof=1).mean()
    ms_group = 48 * losses.mean(axis=(1, 2)).var(ddof=1)
    found = answer(capsys, PILOT, "--group-column", "group", *COSTS, "--target-variance", "0.01")
    components = {name: value["estimate"] for name, value in found["components"].items()}
    assert components["response"] == pytest.approx(ms_response)
    assert components["prompt"] == pytest.approx((ms_prompt - ms_response) / 12)
    assert components["group"] == pytest.approx((ms_group - ms_prompt) / 48)
    assert found["redundancy"] == 4
    assert found["n_groups"] == 24
    # The groups' F ratio is that of r V_g + V_{x|g}.
    assert found["ratio"]["estimate"] == pytest.approx(12 / (ms_group / ms_response - 1))
    assert found["plan"]["variance"] <= 0.01
    single = answer(capsys, PILOT, "--group-column", "group", "--redundancy", "1", *COSTS)
    assert single["k_star"]["estimate"] > found["k_star"]["estimate"]
    assert "plan" not in single


def test_without_costs(capsys):
    found = answer(capsys, PILOT, "--method", "reml", "--confidence", "0.8")
    assert set(found) >= {"components", "icc", "n_prompts", "n_responses", "warnings"}
    assert not {"k_star", "plan"} & set(found)
    wider = answer(capsys, PILOT, "--confidence", "0.99")
    assert wider["ratio"]["high"] > found["ratio"]["high"]


def test_what_a_person_reads(capsys, tmp_path):
    picture = tmp_path / "plan.png"
    code = main(
        ["pilot", PILOT, "--group-column", "group", *COSTS, "--budget", "400", "--plot", str(picture)]
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "1152 responses to 96 prompts in 24 groups, 12 per prompt" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = answer(capsys, PILOT, "--group-column", "group", *COSTS, "--budget", "400")
    for name, value in (
        ("V_g", found["components"]["group"]),
        ("V_x|g", found["components"]["prompt"]),
        ("V_y|x", found["components"]["response"]),
        ("K*", found["k_star"]),
    ):
        (line,) = [line.split() for line in out.splitlines() if line.split()[:1] == [name]][:1]
        assert [float(cell) for cell in line[1:4]] == pytest.approx(
            [value["estimate"], value["low"], value["high"]], rel=1e-3
        )
    assert f"gives at most {100 * found['largest_regret']:.2g} % more variance" in out


def negative(tmp_path):
    """A pilot whose V_x is estimated below 0, as happens by chance where it is small."""
    path = tmp_path / "flat.csv"
    losses = np.random.default_rng(2).standard_normal((12, 4))
    path.write_text(
        "prompt_id,loss\n" + "".join(f"{p},{loss}\n" for p, row in enumerate(losses) for loss in row)
    )
    return str(path)


def test_no_plan_without_prompt_variance(capsys, tmp_path):
    path = negative(tmp_path)
    found = answer(capsys, path, *COSTS)
    assert found["components"]["prompt"]["estimate"] < 0
    assert found["components"]["prompt"]["low"] == 0
    assert found["k_star"]["estimate"] is None
    assert found["k_star"]["high"] is None
    message = refusal(capsys, path, *COSTS, "--budget", "100")
    assert "V_x is estimated at -" in message
    assert "--max-responses" in message
    offered = answer(capsys, path, *COSTS, "--budget", "100", "--plan-at", "low")["plan"]
    assert (
        f"--plan-at low: {offered['n_prompts']} prompts x {offered['responses_per_prompt']} responses"
        in message
    )
    assert offered["k_star"] == pytest.approx(found["k_star"]["low"])
    capped = answer(capsys, path, *COSTS, "--budget", "100", "--max-responses", "8")["plan"]
    assert capped["responses_per_prompt"] == 8
    assert refusal(capsys, path, *COSTS, "--budget", "100", "--method", "ml")
    assert "no upper limit" in refusal(capsys, path, *COSTS, "--budget", "100", "--plan-at", "high")
    assert main(["pilot", path, *COSTS, "--budget", "100", "--max-responses", "8"]) == 0
    assert "inf" in capsys.readouterr().out


def test_plan_at_a_lower_limit_of_zero(capsys, tmp_path):
    """The limit is 0, so K = 1, not the K of the estimate."""
    path = tmp_path / "q.csv"
    path.write_text(
        "prompt_id,loss\n"
        + "".join(f"{p},{x}\n" for p, row in (("a", (1, 3, 2, 4)), ("b", (4, 6, 3, 7))) for x in row)
    )
    arguments = [str(path), *COSTS, "--budget", "400", "--plan-at", "low"]
    found = answer(capsys, *arguments)
    assert found["ratio"]["low"] == 0
    assert (found["plan"]["n_prompts"], found["plan"]["responses_per_prompt"]) == (80, 1)
    assert main(["pilot", *arguments]) == 0
    assert (
        "The lower limit of the ratio is 0: the plan takes V_x = 5, all of the variance"
        in capsys.readouterr().out
    )


def test_plan_at_a_limit_says_what_it_moves(capsys):
    """V_x follows the ratio to its limit, outside the interval of V_x, and the standard error is of that V_x."""
    for end in ("low", "high"):
        arguments = [PILOT, *COSTS, "--budget", "400", "--plan-at", end]
        found = answer(capsys, *arguments)
        moved = found["components"]["response"]["estimate"] / found["ratio"][end]
        plan = mrt.allocate(
            mrt.VarianceComponents(moved, found["components"]["response"]["estimate"]),
            mrt.Cost(4.0, 1.0),
            budget=400.0,
        )
        assert found["plan"]["variance"] == pytest.approx(plan.variance)
        assert main(["pilot", *arguments]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert f"it takes V_x = {moved:.4g} (estimate {found['planning']['prompt']:.4g})" in out
        outside = not found["components"]["prompt"]["low"] <= moved <= found["components"]["prompt"]["high"]
        assert ("outside the interval of V_x itself" in out) == outside


def test_a_score_is_called_by_its_column(capsys, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("prompt_id,passed\na,1\na,0\nb,1\nb,1\nc,0\nc,0\n")
    assert main(["pilot", str(path), "--loss-column", "passed"]) == 0
    out = capsys.readouterr().out
    assert "mean passed 0.5" in out
    assert "mean loss" not in out


def test_warnings_follow_the_confidence(capsys, tmp_path):
    path = negative(tmp_path)
    found = answer(capsys, path, "--confidence", "0.5")
    assert not [w for w in found["warnings"] if "95 % limit" in w]
    skewed = tmp_path / "skewed.csv"
    rng = np.random.default_rng(1)
    rows = [(p, x) for p in range(60) for x in np.exp(1.5 * rng.standard_normal()) + rng.standard_normal(3)]
    skewed.write_text("prompt_id,loss\n" + "".join(f"{p},{x}\n" for p, x in rows))
    (warning,) = [
        w for w in answer(capsys, str(skewed), "--confidence", "0.8")["warnings"] if "too short" in w
    ]
    assert warning.startswith("the 80 % intervals of V_x and K* may be too short")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--c-prompt", "4"], "give --c-prompt and --c-response, or neither"),
        (["--budget", "400"], "a plan needs --c-prompt and --c-response"),
        ([*COSTS, "--budget", "4"], "least"),
        ([*COSTS, "--max-responses", "4"], "--max-responses belongs to a plan"),
        ([*COSTS, "--plot", "a.png"], "--plot belongs to a plan"),
        ([*COSTS, "--plan-at", "low"], "--plan-at belongs to a plan"),
        (["--redundancy", "2"], "--redundancy needs --group-column"),
        (["--group-column", "group", "--redundancy", "0.5"], "at least 1"),
        (["--group-column", "prompt_id"], "every group has one prompt"),
        (["--group-column", "topic"], "no column 'topic'"),
        (["--loss-column", "los"], "did you mean --loss-column loss?"),
        (["--method", "mle"], "invalid choice: 'mle'"),
        (["--confidence", "95"], "between 0 and 1"),
        (["--loss-column", "prompt_tokens"], "the responses of every prompt have the same loss"),
        ([*COSTS, "--budget", "400", "--plot", "nowhere/a.png"], "cannot write the figure"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert message in refusal(capsys, PILOT, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt_id,loss\na,1\na,2\n", "the pilot has one prompt"),
        ("prompt_id,loss\na,1\nb,2\n", "every prompt has one response"),
        ("prompt_id,loss\na,1\na,1\nb,1\nb,1\n", "all losses are equal"),
        ("prompt_id,loss\na,1\na,nan\nb,1\nb,1\n", "line 3, column 'loss'"),
        ("", "is empty"),
    ],
)
def test_pilots_that_say_nothing(capsys, tmp_path, content, message):
    path = tmp_path / "pilot.csv"
    path.write_text(content)
    error = refusal(capsys, str(path))
    assert message in error
    assert str(path) in error
