"""Results show themselves: the command line's text, a table in a notebook, its JSON, a picture."""

import json

import matplotlib
import numpy as np
import pytest

import mrtsim as mrt
from mrtsim.cli import main
from mrtsim.display import html_table, plain
from mrtsim.plan.power_search import allocate_for_power
from mrtsim.selection.select_file import Columns

TOY = mrt.VarianceComponents(prompt=0.187, response=1.329)
COST = mrt.Cost(prompt=4.0, response=1.0)
ALLOCATE = [
    "allocate",
    "--v-prompt",
    "0.187",
    "--v-response",
    "1.329",
    "--c-prompt",
    "4",
    "--c-response",
    "1",
]


@pytest.fixture
def pyplot(monkeypatch):
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    yield plt
    plt.close("all")


def printed(arguments, capsys):
    assert main(arguments) == 0
    return capsys.readouterr().out


def rows():
    rng = np.random.default_rng(0)
    prompts = np.repeat([f"q{i}" for i in range(30)], 4)
    losses = np.repeat(rng.normal(size=30), 4) + rng.normal(size=120)
    return prompts, losses


PLANS = [
    (["--budget", "400"], lambda: mrt.allocate(TOY, COST, budget=400.0)),
    (["--target-variance", "0.02"], lambda: mrt.allocate(TOY, COST, target_variance=0.02)),
    (
        ["--budget", "400", "--fix-prompts", "20"],
        lambda: mrt.allocate(TOY, COST, budget=400.0, n_prompts=20),
    ),
    (
        ["--budget", "400", "--fix-responses", "3"],
        lambda: mrt.allocate(TOY, COST, budget=400.0, responses_per_prompt=3),
    ),
    (["--detect", "0.3"], lambda: allocate_for_power(TOY, COST, 0.3)),
    (
        ["--detect", "0.3", "--correlation", "0.5"],
        lambda: allocate_for_power(TOY, COST, 0.3, correlation=0.5),
    ),
]


@pytest.mark.parametrize(("options", "made"), PLANS, ids=[" ".join(o) for o, _ in PLANS])
def test_a_plan_is_what_the_command_prints(options, made, capsys, pyplot):
    plan = made()
    assert printed([*ALLOCATE, *options], capsys).startswith(f"{plan}\n")
    record = json.loads(printed([*ALLOCATE, *options, "--json"], capsys))
    assert plan.to_dict().items() <= record.items()
    assert f'<td style="text-align: left">{plan.n_prompts}</td>' in plan._repr_html_()
    axes = plan.plot()
    assert axes.figure in [pyplot.figure(n) for n in pyplot.get_fignums()]  # a notebook shows it
    assert "_case" not in repr(plan)


def test_a_plan_made_by_hand_shows_what_it_knows():
    plan = mrt.Plan(2, 3, 0.5, 4.0, 2.5, 1.0, (2, 3), (1, 4), ("budget",), 0.0)
    assert str(plan).splitlines()[0].split() == ["prompts", "2", "N_p"]
    with pytest.raises(mrt.InputError, match="only a plan of allocate"):
        plan.plot()


def test_a_pilot_is_what_the_command_prints(tmp_path, capsys, pyplot):
    prompts, losses = rows()
    path = tmp_path / "pilot.csv"
    lines = [f"{p},{float(x)!r}" for p, x in zip(prompts, losses, strict=True)]
    path.write_text("\n".join(["prompt_id,loss", *lines]))
    pilot = mrt.estimate_components(losses, prompts)
    assert f"{path}: {pilot}\n" == printed(["pilot", str(path)], capsys)
    assert pilot.to_dict() == json.loads(printed(["pilot", str(path), "--json"], capsys))
    assert "<th" in pilot._repr_html_()
    assert [text.get_text() for text in pilot.plot().get_yticklabels()] == ["V_x", "V_y|x"]


def test_a_comparison_is_what_the_command_prints(tmp_path, capsys, pyplot):
    prompts, losses = rows()
    other = losses + 0.3 + np.random.default_rng(1).normal(size=120)
    comparison = mrt.compare_models(losses, other, prompts, prompts)
    path = tmp_path / "two.csv"
    lines = [
        f"{m},{p},{float(x)!r}"
        for m, values in (("A", losses), ("B", other))
        for p, x in zip(prompts, values, strict=True)
    ]
    path.write_text("\n".join(["model,prompt_id,loss", *lines]))
    command = ["compare", str(path), "--model-column", "model", "--models", "A", "B"]
    said = printed(command, capsys)
    assert said.startswith(f"{path}: {str(comparison).split(chr(10) + chr(10) + 'warning')[0]}\n")
    record = json.loads(printed([*command, "--json"], capsys))
    assert comparison.to_dict().items() <= record.items()
    assert "A - B" in comparison._repr_html_()
    assert comparison.plot().get_xlabel().startswith("mean loss of A")


def test_text_in_a_table_is_escaped():
    assert html_table([("<script>", 1.5)]) == (
        '<table><tr><td style="text-align: left">&lt;script&gt;</td>'
        '<td style="text-align: right">1.5</td></tr></table>'
    )


def test_json_is_strict():
    value = {
        "a": float("inf"),
        "b": np.array([1.0, np.nan]),
        "c": mrt.Estimate(1.0, 0.5, float("inf")),
        "d": True,
    }
    assert plain(value) == {
        "a": None,
        "b": [1.0, None],
        "c": {"estimate": 1.0, "low": 0.5, "high": None},
        "d": True,
    }


def test_a_selection_is_what_the_command_prints(tmp_path, capsys, pyplot):
    rng = np.random.default_rng(2)
    path, out = tmp_path / "pool.csv", tmp_path / "kept.csv"
    lines = [f"q{i},{rng.normal():.6f},{rng.normal():.6f}" for i in range(20) for _ in range(6)]
    path.write_text("\n".join(["prompt_id,reward,nll", *lines]))
    columns = Columns(loss="nll")
    report = mrt.select_file(path, out, "bkon", 2, columns=columns)
    command = [
        "select",
        str(path),
        "--strategy",
        "bkon",
        "-k",
        "2",
        "--out",
        str(out),
        "--loss-column",
        "nll",
    ]
    said = printed(command, capsys)
    first, _, rest = str(report).partition("\n\n")
    assert said.startswith(f"bkon, K = 2: {first}\n")
    assert said.endswith(f"{report.means('nll')}\n")
    assert rest.replace("loss", "nll ") == report.means("nll").strip()
    assert report.to_dict() == json.loads(printed([*command, "--json"], capsys))
    assert "similarity" not in said  # a row without numbers says nothing
    assert "<th" in report._repr_html_()
    assert [text.get_text() for text in report.plot().get_yticklabels()] == ["reward", "loss"]
