"""`mrtsim compare` as a user meets it: layouts, answers, messages, exit codes."""

import json
import math
import time

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.shared import commands

MODELS = ["--model-column", "model", "--models", "new", "old"]
COSTS = ["--c-prompt", "4", "--c-response", "1"]


answer, refusal = commands("compare")


@pytest.fixture
def losses():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(30, 1))
    new = base + 0.3 + 0.5 * rng.normal(size=(30, 1)) + rng.normal(size=(30, 4))
    return new, base + rng.normal(size=(30, 4))


@pytest.fixture
def table(tmp_path, losses):
    """One row per response of either model, with its seed and topic."""
    path = tmp_path / "results.csv"
    lines = ["prompt_id,topic,model,seed,loss"]
    for name, values in zip(("new", "old"), losses, strict=True):
        lines += [f"q{i},t{i // 3},{name},{j},{values[i, j]!r}" for i in range(30) for j in range(4)]
    path.write_text("\n".join(line.replace("np.float64(", "").replace(")", "") for line in lines) + "\n")
    return path


@pytest.fixture
def wide(tmp_path, losses):
    """One row per pair."""
    path = tmp_path / "wide.jsonl"
    with path.open("w") as file:
        for i in range(30):
            for j in range(4):
                row = {"prompt_id": f"q{i}", "scores": {"new": losses[0][i, j], "old": losses[1][i, j]}}
                file.write(json.dumps(row) + "\n")
    return path


def test_json_is_what_python_says(capsys, table, losses):
    found = answer(capsys, table, *MODELS)
    expected = mrt.compare_models(*losses)
    assert found["difference"] == pytest.approx(expected.difference.to_dict())
    assert set(found["difference"]) == {"estimate", "low", "high", "standard_error"}
    assert found["components"]["difference"] == pytest.approx(expected.prompt.to_dict())
    assert found["components"]["response_a"] == pytest.approx(expected.response_a.to_dict())
    assert set(found["components"]) == {"difference", "response_a", "response_b"}
    assert found["correlation"] == pytest.approx(expected.correlation)
    assert found["detectable"] == pytest.approx(expected.detectable.difference)
    assert (found["n_prompts"], found["n_dropped"], found["plan"]) == (30, 0, None)
    assert found["warnings"] == list(expected.warnings)


def test_pairs_in_either_layout(capsys, table, wide, losses):
    by_column = answer(capsys, table, *MODELS, "--pair-column", "seed")
    by_row = answer(capsys, wide, "--loss-columns", "scores.new", "scores.old")
    assert by_column["components"] == by_row["components"]
    pilot = mrt.estimate_components(losses[0] - losses[1])
    assert by_row["components"]["response"] == pytest.approx(pilot.response.to_dict())
    assert by_row["models"] == ["scores.new", "scores.old"]


def test_lists_per_prompt(capsys, tmp_path, losses):
    path = tmp_path / "lists.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt_id": i, "a": list(a), "b": list(b)}) + "\n"
            for i, (a, b) in enumerate(zip(*losses, strict=True))
        )
    )
    found = answer(capsys, path, "--loss-columns", "a", "b")
    pilot = mrt.estimate_components(losses[0] - losses[1])
    assert found["components"]["response"] == pytest.approx(pilot.response.to_dict())


def test_groups_and_the_plan(capsys, table):
    found = answer(capsys, table, *MODELS, "--group-column", "topic", *COSTS, "--budget", "600")
    assert (found["n_groups"], found["redundancy"], found["degrees_of_freedom"]) == (10, 3, 9)
    c = {name: value["estimate"] for name, value in found["components"].items()}
    between = 3 * c["group"] + c["difference"]
    plan = mrt.allocate(
        mrt.VarianceComponents(between, c["response_a"] + c["response_b"]), mrt.Cost(4, 2), budget=600
    )
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["responses_per_prompt"] == found["plan"]["responses_a"] == plan.responses_per_prompt
    assert found["plan"]["variance"] == pytest.approx(plan.variance)
    assert set(found["plan"]) >= {"k_star", "cost", "efficiency", "k_range_5pct", "k_range_10pct"}
    text = tabled(capsys, table, *MODELS, "--group-column", "topic", *COSTS, "--budget", "600")
    assert "for a corpus with 3 prompts per group" in text


def tabled(capsys, *arguments):
    assert main(["compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_plans(capsys, table, losses, tmp_path):
    components = mrt.compare_models(*losses).planning
    picture = tmp_path / "power.png"
    found = answer(capsys, table, *MODELS, *COSTS, "--detect", "0.4", "--plot", picture)
    plan = mrt.allocate_comparison(components, mrt.Cost(4, 1), detect=0.4)
    assert (found["plan"]["n_prompts"], found["plan"]["responses_a"]) == (plan.n_prompts, plan.responses_a)
    assert 0.8 <= found["plan"]["power"] < 0.82
    assert found["plan"]["detectable"] <= 0.4
    assert picture.read_bytes().startswith(b"\x89PNG")
    apart = answer(capsys, table, *MODELS, *COSTS, "--c-response-b", "9", "--detect", "0.4")["plan"]
    assert apart["responses_a"] > apart["responses_b"]
    assert apart["responses_per_prompt"] is None
    text = tabled(capsys, table, *MODELS, *COSTS, "--c-response-b", "9", "--detect", "0.4")
    assert "point values, without intervals" in text
    target = answer(capsys, table, *MODELS, *COSTS, "--target-variance", "0.01")["plan"]
    assert target["variance"] <= 0.01
    given = ["--c-prompt", 0, "--c-response", 1, "--population", 30, "--fix-prompts", 30, "--detect", 0.2]
    given = answer(capsys, table, *MODELS, *given)["plan"]
    assert given["n_prompts"] == 30
    assert given["power"] >= 0.8
    fixed = refusal(capsys, table, *MODELS, *COSTS, "--detect", "0.2", "--fix-prompts", "30")
    assert "unreachable: the least detectable difference is " in fixed


def test_not_inferior(capsys, table, losses):
    expected = mrt.compare_models(*losses)
    margin = 1.0
    found = answer(capsys, table, *MODELS, *COSTS, "--margin", margin)
    advantage = expected.advantage()
    assert found["margin"]["advantage"] == pytest.approx(-expected.difference.value)
    assert found["margin"]["lower_limit"] == pytest.approx(advantage.low)
    assert found["margin"]["not_inferior"] is (advantage.low > -margin)
    rule = mrt.allocate_for_power(
        mrt.VarianceComponents(expected.planning.difference, sum(expected.planning.samples)),
        mrt.Cost(4, 2),
        margin,
        one_sided=True,
    )
    assert found["plan"]["n_prompts"] == rule.n_prompts
    scores = answer(capsys, table, *MODELS, "--margin", margin, "--higher-is-better")
    assert scores["margin"]["advantage"] == pytest.approx(expected.difference.value)
    assert scores["plan"] is None
    better = answer(capsys, table, *MODELS, *COSTS, "--margin", margin, "--detect", "0.5")["plan"]
    assert better["cost"] < found["plan"]["cost"]
    worse = answer(capsys, table, *MODELS, *COSTS, "--margin", margin, "--detect", "-0.5")["plan"]
    assert worse["cost"] > found["plan"]["cost"]
    assert "leaves -0.5, not above 0" in refusal(
        capsys, table, *MODELS, *COSTS, "--margin", 1, "--detect", -1.5
    )
    assert "A is not inferior to B by 1" in tabled(
        capsys, table, *MODELS, "--margin", margin, "--higher-is-better"
    )


def test_what_a_person_reads(capsys, table):
    out = tabled(capsys, table, *MODELS)
    assert "A = new: 120 responses, B = old: 120 responses, to 30 prompts" in out
    assert "B is better (lower loss): the interval excludes 0" in out
    assert "A is better (higher score)" in tabled(capsys, table, *MODELS, "--higher-is-better")
    swapped = [*MODELS[:3], "old", "new"]
    assert "A is better (lower loss)" in tabled(capsys, table, *swapped)
    found = answer(capsys, table, *MODELS)
    (line,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["V_D"]]
    values = [found["components"]["difference"][key] for key in ("estimate", "low", "high")]
    assert [float(cell) for cell in line[1:4]] == pytest.approx(values, rel=1e-3)


def test_other_models_and_dropped_prompts_are_counted(capsys, table):
    with table.open("a") as file:
        file.write("q0,t0,third,0,1.5\nextra,t0,new,0,1.5\n")
    found = answer(capsys, table, *MODELS)
    assert found["n_dropped"] == 1
    assert "1 other model was left out" in found["warnings"]
    assert "1 prompt of one model only left out" in tabled(capsys, table, *MODELS)


def test_one_response_per_prompt(capsys, tmp_path):
    path = tmp_path / "single.csv"
    rng = np.random.default_rng(0)
    path.write_text(
        "prompt_id,a,b\n" + "".join(f"{i},{x},{y}\n" for i, (x, y) in enumerate(rng.random((40, 2))))
    )
    found = answer(capsys, path, "--loss-columns", "a", "b")
    assert found["detectable"] > 0
    assert found["components"] == {"difference": None, "response_a": None, "response_b": None}
    assert found["correlation"] is None
    assert "one response per prompt" in refusal(
        capsys, path, "--loss-columns", "a", "b", *COSTS, "--budget", 50
    )
    assert "unknown" in tabled(capsys, path, "--loss-columns", "a", "b")


def test_the_same_losses_twice(capsys, tmp_path):
    path = tmp_path / "same.csv"
    path.write_text("prompt_id,a,b\n" + "".join(f"{i % 5},{i / 7},{i / 7}\n" for i in range(20)))
    found = answer(capsys, path, "--loss-columns", "a", "b")
    assert found["difference"] == {"estimate": 0, "low": None, "high": None, "standard_error": 0}
    assert found["detectable"] is None
    assert "so there is no standard error" in tabled(capsys, path, "--loss-columns", "a", "b")


def test_no_plan_without_prompt_variance(capsys, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "flat.csv"
    a, b = rng.normal(size=(2, 60, 4))
    path.write_text(
        "prompt_id,model,loss\n"
        + "".join(f"{i},{m},{x}\n" for m, v in (("a", a), ("b", b)) for i, row in enumerate(v) for x in row)
    )
    arguments = [path, "--model-column", "model", "--models", "a", "b", *COSTS, "--budget", "200"]
    message = refusal(capsys, *arguments)
    assert "V_D is estimated at -" in message
    assert "--max-responses" in message
    assert answer(capsys, *arguments, "--max-responses", 6)["plan"]["responses_a"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say where the two models are"),
        (["--model-column", "model"], "say where the two models are"),
        (["--model-column", "model", "--models", "new", "new"], "names 'new' twice"),
        (["--model-column", "model", "--models", "new", "olt"], "did you mean old?"),
        (["--model-column", "modle", "--models", "new", "old"], "modle"),
        ([*MODELS, "--loss-columns", "a", "b"], "two layouts"),
        (["--loss-columns", "loss", "loss"], "twice"),
        (["--loss-columns", "loss", "losss"], "losss"),
        ([*MODELS, "--loss-column", "los"], "los"),
        ([*MODELS, "--pair-column", "topic"], "has two rows of model A"),
        ([*MODELS, "--detect", "0.1"], "--c-prompt and --c-response"),
        ([*MODELS, "--c-prompt", "4"], "both costs"),
        ([*MODELS, *COSTS, "--max-prompts", "4"], "--max-prompts belongs to a plan"),
        ([*MODELS, *COSTS, "--fix-prompts", "4"], "--fix-prompts belongs to a plan"),
        ([*MODELS, "--c-response-b", "4"], "--c-response-b belongs to a plan"),
        ([*MODELS, *COSTS, "--detect", "0.1", "--budget", "400"], "give one of"),
        ([*MODELS, *COSTS, "--detect", "-0.1"], "above 0"),
        ([*MODELS, *COSTS, "--detect", "much"], "finite number"),
        ([*MODELS, *COSTS, "--budget", "5"], "least budget is 6"),
        ([*MODELS, *COSTS, "--c-response-b", "2", "--budget", "5"], "least budget is 7"),
        ([*MODELS, "--plot", "a.png"], "--detect or --margin"),
        ([*MODELS, "--redundancy", "2"], "--group-column"),
        ([*MODELS, "--population", "20"], "less than the 30 prompts"),
        ([*MODELS, "--population", "40", "--group-column", "topic"], "no groups to draw"),
        ([*MODELS, "--confidence", "95"], "between 0 and 1"),
        ([*MODELS, *COSTS, "--margin", "-0.1"], "above 0"),
        ([*MODELS, *COSTS, "--detect", "0.5", "--power", "0.01"], "no difference at all"),
    ],
)
def test_wrong_arguments(capsys, table, arguments, message):
    assert message in refusal(capsys, table, *arguments)


def test_a_missing_pair_is_named(capsys, table):
    text = table.read_text().splitlines()
    table.write_text("\n".join(line for line in text if not line.startswith("q7,t2,old,2,")) + "\n")
    message = refusal(capsys, table, *MODELS, "--pair-column", "seed")
    assert "pair '2' of prompt 'q7' has no row of model B" in message
    assert str(table) in message
    assert answer(capsys, table, *MODELS)["n_prompts"] == 30


def test_a_hundred_thousand_rows_take_a_second(capsys, tmp_path):
    """Loose: the time of one thread on a busy machine."""
    rng = np.random.default_rng(0)
    path = tmp_path / "large.csv"
    losses, prompts = rng.normal(size=100_000), np.arange(100_000) % 5_000
    lines = (f"p{p},{'ab'[i % 2]},{x:.6f}" for i, (p, x) in enumerate(zip(prompts // 2, losses, strict=True)))
    path.write_text("prompt_id,model,loss\n" + "\n".join(lines) + "\n")
    arguments = [
        path,
        "--model-column",
        "model",
        "--models",
        "a",
        "b",
        *COSTS,
        "--max-responses",
        9,
        "--detect",
        0.05,
    ]
    answer(capsys, *arguments)
    start = time.thread_time()
    answer(capsys, *arguments)
    assert time.thread_time() - start < 1.5
    assert math.isfinite(start)


@pytest.mark.parametrize(
    ("columns", "flag", "told"),
    [
        (("exact_match", "exact_match"), (), True),
        (("scores.new", "scores.old"), (), True),
        (("scores.new", "scores.old"), ("--no-higher-is-better",), False),
        (("accuracy", "accuracy"), ("--higher-is-better",), False),
        (("loss", "loss"), (), False),
        (("reward_loss", "reward_loss"), (), False),
        (("value", "value"), (), False),
    ],
)
def test_scores_that_are_taken_as_losses_are_told(capsys, tmp_path, columns, flag, told):
    """Else the wrong model would be called the better one without a word."""
    new, old = columns
    rows = []
    for i in range(12):
        if new == old:
            rows += [{"prompt_id": f"q{i}", "model": m, new: i % 3 + (m == "a") * (i % 4)} for m in "ab"]
        else:
            rows.append({"prompt_id": f"q{i}", "scores": {"new": i % 3, "old": i % 5}})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = (
        ["--model-column", "model", "--models", "a", "b", "--loss-column", new]
        if new == old
        else ["--loss-columns", new, old]
    )
    warnings = " ".join(answer(capsys, path, *where, *flag)["warnings"])
    assert ("lower is taken as better: for scores say --higher-is-better" in warnings) == told
