"""`mrtsim pilot --growth` and its given sets of prompts, pools and groups, on the README's pilot."""

import math

import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from tests.cli.test_pilot import COSTS, PILOT, answer, refusal, rows

GROUPS = ["--group-column", "group"]


def readme_components():
    found = rows()
    return mrt.estimate_components(
        [r["loss"] for r in found], [r["prompt_id"] for r in found], groups=[r["group"] for r in found]
    ).components


def test_each_way_to_grow_and_the_other_k_star(capsys):
    v = readme_components()
    by_way = {}
    for way in ("new", "same", "choose"):
        found = answer(capsys, PILOT, *GROUPS, *COSTS, "--growth", way)
        assert found["growth"]["kind"] == way
        by_way[way] = found["growth"]["k_star"]
        assert found["k_star"] == by_way[way][way]
    assert by_way["new"] == by_way["same"] == by_way["choose"]
    stars = {way: k["estimate"] for way, k in by_way["new"].items()}
    assert round(stars["choose"], 2) == 3.16  # not 3.85
    assert round(stars["same"], 2) == 3.85
    assert stars["new"] == pytest.approx(math.sqrt(4 * v.response / (4 * v.group + v.prompt)))
    assert answer(capsys, PILOT, *GROUPS, *COSTS)["growth"]["kind"] == "new"
    assert "growth" not in answer(capsys, PILOT, *COSTS)


def test_new_groups_share_their_cost(capsys):
    v = readme_components()
    found = answer(
        capsys, PILOT, *GROUPS, "--c-prompt", "2", "--c-response", "1", "--c-group", "4", "--budget", "400"
    )
    plan = mrt.allocate(
        mrt.VarianceComponents(4 * v.group + v.prompt, v.response), mrt.Cost(3.0, 1.0), budget=400
    )
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["responses_per_prompt"] == plan.responses_per_prompt
    assert found["plan"]["variance"] == pytest.approx(plan.variance)
    assert found["k_star"]["estimate"] == pytest.approx(found["plan"]["k_star"])


def test_more_prompts_in_the_same_groups(capsys):
    v = readme_components()
    found = answer(capsys, PILOT, *GROUPS, *COSTS, "--growth", "same", "--budget", "400")
    plan = mrt.allocate(mrt.VarianceComponents(v.prompt, v.response), mrt.Cost(4.0, 1.0), budget=400)
    assert found["plan"]["n_prompts"] == plan.n_prompts
    assert found["plan"]["variance"] == pytest.approx(plan.variance)
    assert found["redundancy"] == 0
    new = answer(capsys, PILOT, *GROUPS, *COSTS, "--budget", "400")
    assert found["standard_error"] < new["standard_error"]
    assert found["plan"]["variance"] < new["plan"]["variance"]


def test_the_plan_chooses_the_group_size(capsys):
    costs = ["--c-group", "4", "--c-prompt", "2", "--c-response", "1", "--budget", "400"]
    plan = answer(capsys, PILOT, *GROUPS, *costs, "--growth", "choose")["plan"]
    assert (plan["n_groups"], plan["prompts_per_group"], plan["responses_per_prompt"]) == (28, 2, 3)
    assert plan["variance"] == pytest.approx(0.0075886, abs=1e-6)
    capped = answer(capsys, PILOT, *GROUPS, *costs, "--growth", "choose", "--max-group-size", "1")["plan"]
    assert capped["prompts_per_group"] == 1
    # groups that cost nothing hold one prompt each
    free = answer(capsys, PILOT, *GROUPS, *COSTS, "--growth", "choose", "--budget", "400")["plan"]
    assert free["prompts_per_group"] == 1
    assert round(free["k_star"], 2) == 3.16


def grouped_file(tmp_path, v_group, seed=1):
    """24 groups of 4 x 3 whose V_g is estimated near `v_group`."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, max(v_group, 0) ** 0.5, (24, 1, 1))
    losses = effects + rng.normal(size=(24, 4, 1)) + rng.normal(size=(24, 4, 3))
    if v_group < 0:
        losses -= losses.mean((1, 2), keepdims=True)
    path = tmp_path / "grouped.csv"
    path.write_text(
        "prompt_id,group,loss\n"
        + "".join(f"{g}:{p},{g},{loss}\n" for (g, p, _), loss in np.ndenumerate(losses))
    )
    return str(path)


@pytest.mark.parametrize(("v_group", "why"), [(-1.0, "V_g is estimated at -"), (0.08, "reaches 0")])
def test_no_plan_on_a_group_component_that_may_be_zero(capsys, tmp_path, v_group, why):
    path = grouped_file(tmp_path, v_group)
    message = refusal(
        capsys, path, *GROUPS, *COSTS, "--growth", "choose", "--c-group", "3", "--budget", "400"
    )
    assert why in message
    assert "give --max-group-size" in message
    found = answer(
        capsys, path, *GROUPS, *COSTS, "--growth", "choose", "--c-group", "3", "--budget", "400",
        "--max-group-size", "5",
    )  # fmt: skip
    assert found["plan"]["prompts_per_group"] <= 5
    if v_group < 0:
        shown = answer(capsys, path, *GROUPS, *COSTS, "--growth", "new")["growth"]
        assert shown["best_group_size"] is None
        assert "choose" not in shown["k_star"]
        assert main(["pilot", path, *GROUPS, *COSTS]) == 0
        assert "The best group size has no bound" in capsys.readouterr().out


def test_a_given_set_of_groups(capsys):
    v = readme_components()
    options = [*GROUPS, *COSTS, "--budget", "400"]
    found = answer(capsys, PILOT, *options, "--group-population", "30")
    free = answer(capsys, PILOT, *options)
    n, k = found["plan"]["n_prompts"], found["plan"]["responses_per_prompt"]
    law = (4 * v.group + v.prompt + v.response / k) / n - v.group / 30
    assert found["plan"]["variance"] == pytest.approx(law)
    assert (n, k) == (free["plan"]["n_prompts"], free["plan"]["responses_per_prompt"])
    same = answer(capsys, PILOT, *GROUPS, "--growth", "same")["standard_error"]
    mixed = (6 * free["standard_error"] ** 2 + 24 * same**2) / 30
    assert found["standard_error"] == pytest.approx(mixed**0.5)
    few = refusal(capsys, PILOT, *options, "--group-population", "20")
    assert "24 groups, more than the 20" in few
    chosen = answer(
        capsys, PILOT, *options, "--growth", "choose", "--c-group", "1", "--group-population", "30"
    )
    assert chosen["plan"]["n_groups"] <= 30


def test_a_given_benchmark(capsys):
    """Only responses count: W/(P K), and the standard error is theirs."""
    found = answer(capsys, PILOT, *COSTS, "--population", "96", "--fix-prompts", "96", "--budget", "1400")
    losses = np.array([row["loss"] for row in rows()]).reshape(96, 12)
    spread = losses.var(axis=1, ddof=1)
    assert found["standard_error"] == pytest.approx((spread / 12).sum() ** 0.5 / 96)
    plan = found["plan"]
    assert (plan["n_prompts"], plan["responses_per_prompt"]) == (96, 10)
    assert plan["variance"] == pytest.approx(spread.mean() / (96 * 10))
    pools = answer(capsys, PILOT, *COSTS, "--population", "200", "--candidates", "20", "--budget", "400")
    v = mrt.estimate_components(losses).components
    direct = mrt.allocate(v, mrt.Cost(4.0, 1.0), budget=400, population=200, candidates=20)
    assert pools["plan"]["variance"] == pytest.approx(direct.variance)
    assert pools["standard_error"] < found["standard_error"] * 5


def test_what_a_person_reads(capsys):
    assert main(["pilot", PILOT, *GROUPS, *COSTS, "--growth", "same"]) == 0
    out = capsys.readouterr().out
    assert (
        "The corpus grows by more prompts in the same groups; else say --growth new or --growth choose."
        in out
    )
    assert "V_y|x / V_x|g" in out
    names = [line.split("  ")[1].strip() for line in out.splitlines() if line.startswith("  K*")]
    assert [name for name in names if not name.startswith("K* is")] == ["K*", "K* new", "K* choose"]
    assert "K* is for an evaluation" in out
    assert main(["pilot", PILOT, *GROUPS]) == 0
    assert "The corpus grows by new groups of the pilot's sizes" in capsys.readouterr().out


def test_what_is_refused(capsys):
    for arguments, message in (
        (["--growth", "same"], "--growth needs --group-column"),
        (["--c-group", "1", *COSTS], "--c-group needs --group-column"),
        ([*GROUPS, "--c-group", "1"], "--c-group needs --c-prompt and --c-response"),
        ([*GROUPS, "--population", "99"], "say --group-population"),
        ([*GROUPS, "--growth", "same", "--redundancy", "2"], "--redundancy is for new groups"),
        ([*GROUPS, *COSTS, "--growth", "same", "--c-group", "2"], "--c-group is for new groups"),
        ([*GROUPS, "--growth", "choose"], "needs --c-prompt and --c-response"),
        ([*GROUPS, *COSTS, "--growth", "choose", "--redundancy", "2"], "finds the prompts per group"),
        ([*GROUPS, *COSTS, "--max-group-size", "2"], "needs --growth choose"),
        ([*COSTS, "--fix-prompts", "9"], "--fix-prompts belongs to a plan"),
        (["--population", "50"], "less than the 96 prompts"),
        (
            [*GROUPS, *COSTS, "--growth", "choose", "--plan-at", "low", "--budget", "9"],
            "--plan-at is for a group size",
        ),
    ):
        assert message in refusal(capsys, PILOT, *arguments), arguments
