"""`mrtsim rollouts` as a user meets it."""

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrtsim.cli import main
from mrtsim.plan.rollouts import dead_share, fit_success_rates
from tests.cli.shared import commands, strictly

BETA = ["--alpha", "0.6", "--beta", "1.8"]
BEST = ["--signal", "0.05", "--c-prompt", "0", "--c-response", "1", "--budget", "4096"]


answer, refusal = commands("rollouts")


@pytest.fixture
def pilot(tmp_path):
    """60 prompts x 8 responses with rewards 0/1 in `correct` and a score in `score`."""
    rng = np.random.default_rng(0)
    correct = rng.random((60, 8)) < rng.beta(0.6, 1.8, (60, 1))
    path = tmp_path / "pilot.jsonl"
    rows = [
        {"prompt_id": f"q{i}", "correct": int(value), "score": 3.0 * value - 1}
        for i, row in enumerate(correct)
        for value in row
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, correct.sum(axis=1)


def test_given_rates(capsys):
    record = answer(capsys, *BETA)
    assert (record["alpha"], record["beta"], record["best_group"]) == (0.6, 1.8, None)
    assert [group["group_size"] for group in record["groups"]] == [2, 4, 8, 16]
    for group in record["groups"]:
        assert group["dead"] == pytest.approx(dead_share(0.6, 1.8, group["group_size"]))
        assert group["mixed"] == pytest.approx(1 - group["dead"])
        assert group["dynamic_sampling_factor"] == pytest.approx(1 / group["mixed"])


def test_best_group_and_batches(capsys):
    record = answer(capsys, *BETA, *BEST)
    best = record["best_group"]
    assert (best["group_size"], best["n_prompts"], best["cost"]) == (6, 682, 4092)
    rows = {group["group_size"]: group for group in record["groups"]}
    assert set(rows) == {2, 4, 6, 8, 16}
    assert rows[6]["regret"] == 0
    assert all(row["regret"] >= 0 for row in rows.values())
    assert rows[16]["n_prompts"] == 256
    assert best["effective_prompts"] == pytest.approx(682 * rows[6]["mixed"])
    drawn = answer(capsys, *BETA, "--group-sizes", 8, "--prompts", 512, "--generated", 1536)["groups"][0]
    assert drawn["effective_prompts"] == pytest.approx(512 * drawn["mixed"])
    assert 1 <= drawn["generation_batches"] < 1.01


def test_tenths_are_exact(capsys):
    costs = ["--signal", "0.05", "--c-prompt", "0.1", "--c-response", "0.1", "--budget", "0.9"]
    record = answer(capsys, *BETA, "--group-sizes", 2, *costs)
    assert record["groups"][0]["n_prompts"] == 3


def test_from_a_file(capsys, pilot):
    path, successes = pilot
    record = answer(capsys, path, "--reward-column", "correct")
    fit = fit_success_rates(successes, 8)
    limits = {"estimate": fit.alpha.value, "low": fit.alpha.low, "high": fit.alpha.high}
    assert (record["alpha"], record["alpha_interval"]) == (fit.alpha.value, limits)
    assert (record["n_prompts"], record["n_responses"]) == (60, 480)
    for group in record["groups"]:
        size = group["group_size"]
        assert group["dead"] == group["dead_interval"]["estimate"] == fit.dead_share(size).value
        assert group["dead_interval"]["low"] < group["dead"] < group["dead_interval"]["high"]
        assert group["mixed"] == pytest.approx(1 - group["dead"])
        assert (group["dead_observed"] is None) == (size > 8)
    scored = answer(capsys, path, "--reward-column", "score", "--success-above", "0")
    assert scored["groups"] == record["groups"]
    best = answer(capsys, path, "--reward-column", "correct", *BEST)["best_group"]
    assert 2 <= best["group_size"] <= 16


def test_text_and_pictures(capsys, pilot, tmp_path):
    path, _ = pilot
    for arguments in ([*BETA, *BEST], [path, "--reward-column", "correct"], [*BETA]):
        picture = tmp_path / "plan.png"
        assert main(["rollouts", *map(str, arguments), "--plot", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()
        text = capsys.readouterr().out
        assert "nothing" not in text
        assert ("best: 682 prompts x 6 responses" in text) == ("--signal" in arguments)
        assert ("by counts" in text) == (path in arguments)


@pytest.mark.parametrize(
    ("trainer", "version", "keys"),
    [
        (
            "trl",
            "1.10",
            {"num_generations": 6, "generation_batch_size": 4092, "scale_rewards": "none"},
        ),
        (
            "verl",
            "0.10",
            {
                "data.train_batch_size": 682,
                "actor_rollout_ref.rollout.n": 6,
                "actor_rollout_ref.actor.ppo_mini_batch_size": 682,
                "algorithm.norm_adv_by_std_in_grpo": False,
                "algorithm.filter_groups.enable": False,
            },
        ),
        (
            "openrlhf",
            "0.11",
            {
                "--rollout.batch_size": 682,
                "--rollout.n_samples_per_prompt": 6,
                "--train.batch_size": 4092,
                "--algo.advantage.estimator": "dr_grpo",
                "--algo.dynamic_filtering_enable": None,
            },
        ),
    ],
)
def test_trainers(capsys, trainer, version, keys):
    record = answer(capsys, *BETA, *BEST, "--trainer", trainer)["trainer"]
    assert (record["version"], record["version_known"], record["keys"]) == (version, True, keys)
    assert answer(capsys, *BETA, "--trainer", f"{trainer}=={version}.7")["trainer"]["version_known"]
    assert not answer(capsys, *BETA, "--trainer", f"{trainer}==0.1")["trainer"]["version_known"]
    assert main(["rollouts", *BETA, "--trainer", f"{trainer}==0.1"]) == 0
    text = capsys.readouterr().out
    assert f"keys of {trainer} 0.1 are unknown here" in text
    assert version in text
    assert "N" in text  # without a best group the number of prompts keeps its letter


def test_warnings(capsys, tmp_path):
    def warned(text):
        path = tmp_path / "pilot.csv"
        path.write_text("prompt_id,r\n" + text)
        assert main(["rollouts", str(path), "--reward-column", "r"]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "all right or all wrong: every group is dead" in warned("a,1\na,1\nb,0\nb,0\n")
    assert "success rates are taken as equal" in warned("a,1\na,0\nb,0\nb,1\n")
    assert "all rewards are equal" in warned("a,1\na,1\nb,1\nb,1\n")
    # half of the prompts at 1/8, half at 1 - 1/8 of a third: not a Beta distribution
    mixed = "".join(f"p{i},{int(j < (1 if i % 2 else 8))}\n" for i in range(60) for j in range(16))
    assert "trust the counts" in warned(mixed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give FILE with --reward-column, or --alpha and --beta"),
        (["--alpha", "1"], "--alpha and --beta"),
        ([*BETA, "--reward-column", "r"], "belong to FILE"),
        (["none.csv", *BETA], "not from both"),
        (["none.csv"], "--reward-column must name"),
        (["none.csv", "--reward-column", "r"], "none.csv"),
        (["--alpha", "0", "--beta", "1"], "argument --alpha: must be above 0"),
        ([*BETA, "--group-sizes", "1"], "must be at least 2, not '1'"),
        ([*BETA, "--group-sizes", "20000"], "from 2 to 10,000"),
        ([*BETA, "--signal", "0.1"], "needs --c-prompt, --c-response, --budget as well"),
        ([*BETA, "--signal", "1.1", *BEST[2:]], "between 0 and 1"),
        ([*BETA, "--signal", "0", *BEST[2:]], "no gradient"),
        ([*BETA, *BEST[2:]], "depends on the signal"),
        ([*BETA, *BEST, "--coherence", "1"], "--coherence 1"),
        (
            [*BETA, "--signal", "0.1", "--c-prompt", "9", "--c-response", "1", "--budget", "4"],
            "least budget is 11",
        ),
        ([*BETA, "--generated", "10"], "--generated needs --prompts"),
        ([*BETA, "--trainer", "other"], "choose one of trl, verl, openrlhf"),
    ],
)
def test_refusals(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


number_text = st.one_of(
    st.floats().map(repr),
    st.floats(1e-3, 1e3).map(repr),
    st.integers(-2, 30).map(str),
    st.sampled_from(["0", "-0.0", "1e999", "1e308", "5e-324", "", "x", "9" * 5000, "%s"]),
)
names = ["--group-sizes", "--prompts", "--generated", "--signal", "--coherence", "--c-prompt", "--c-response"]
options = st.dictionaries(st.sampled_from([*names, "--budget", "--max-group-size"]), number_text)


@given(st.tuples(number_text, number_text), options)
def test_any_input_is_answered_or_refused(shape, extra):
    arguments = dict(zip(("--alpha", "--beta"), shape, strict=True)) | extra
    for reader in ([], ["--json"]):
        with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as complained:
            try:
                code = main(["rollouts", *(f"{name}={text}" for name, text in arguments.items()), *reader])
            except SystemExit as leaving:
                code = leaving.code
        out, err = printed.getvalue(), complained.getvalue()
        assert code in (0, 2)
        assert (out == "") == (code == 2)
        assert (err == "") == (code == 0)
    if code == 0:
        for group in strictly(out)["groups"]:
            assert 0 <= group["dead"] <= 1


def test_other_rewards_need_a_threshold(capsys, pilot):
    path, _ = pilot
    assert "-1 is neither 0 nor 1; give --success-above" in refusal(capsys, path, "--reward-column", "score")


def test_the_calculator_stays_light():
    command = (
        "import sys; from mrtsim.cli import main; main(['rollouts', '--alpha', '1', '--beta', '2']); "
        "print(*{'jax', 'scipy', 'matplotlib', 'polars', 'pyarrow'} & sys.modules.keys(), file=sys.stderr, end='')"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
